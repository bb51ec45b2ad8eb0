"""fairseq-preprocess, and proof that what it wrote is what it was given: every sentence, at its length.

Left out on purpose: the words themselves, which go through fairseq's dictionary.
"""

import struct
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import whole_folder
from ..recipes.runs import fairseq
from . import lines

_HEADER = struct.Struct("<9sQBQ")  # magic, version, type of number, sentences
_MAGIC = b"MMIDIDX\x00\x00"


def binarise(folder: Path, languages: Sequence[str], splits: Sequence[str], words: Sequence[Any], jobs: int) -> None:
    """`folder`/pieces as `folder`/bin, which appears when it is whole: fairseq refuses to go on in a half-made one."""
    if (folder / "bin").is_dir():
        return
    source, target = languages
    with whole_folder(folder / "bin") as half:
        words = ["--source-lang", source, "--target-lang", target, "--destdir", half, *words]
        for kind in ("train", "valid", "test"):  # fairseq calls several test sets test, test1 ..., in their order
            names = [folder / "pieces" / split for split in splits if split.rstrip("0123456789") == kind]
            if names:
                words += [f"--{kind}pref", ",".join(map(str, names))]
        fairseq("preprocess", [*words, "--workers", jobs], folder / "preprocess.log")
        (half / "preprocess.log").unlink()  # the same lines again
        for split in splits:
            for language in languages:
                index = half / f"{split}.{source}-{target}.{language}.idx"
                refuse_different(folder / "pieces" / f"{split}.{language}", index)


def refuse_different(text: Path, index: Path) -> None:
    """Each line of `text` must be a sentence of its number of words, and its end, in fairseq's index."""
    found = sizes(index)
    given = (len(line.split()) + 1 for line in lines.texts(text))
    for number, (words, size) in enumerate(zip_longest(given, found), 1):
        if words != size:
            raise UserError(
                f"fairseq-preprocess made {size if size is not None else 'nothing'} of line {number:,} of {text}, "
                f"which has {words if words is not None else 'no'} words with its end ({lines.count(text):,} lines, "
                f"{len(found):,} sentences); type: wff doctor"
            )


def sizes(index: Path) -> Any:
    """The words of every sentence in an index of fairseq's `mmap` data, ends included."""
    with index.open("rb") as file:
        magic, version, _, sentences = _HEADER.unpack(file.read(_HEADER.size))
        if magic != _MAGIC or version != 1:
            raise UserError(f"{index} is not an index of fairseq's mmap data; type: wff doctor")
    return np.memmap(index, dtype="<i4", mode="r", offset=_HEADER.size, shape=(sentences,))


def summary(folder: Path, languages: Sequence[str], splits: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sentences, and words without ends, of each split."""
    pair = "-".join(languages)
    found = {}
    for split in splits:
        both = [sizes(folder / "bin" / f"{split}.{pair}.{language}.idx") for language in languages]
        words = {
            language: int(size.sum(dtype=np.int64)) - len(size) for language, size in zip(languages, both, strict=True)
        }
        found[split] = {"pairs": len(both[0]), "words": words}
    return found
