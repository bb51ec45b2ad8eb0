"""Text in subwords as fairseq's `mmap` data: what fairseq-preprocess writes, byte for byte.

fairseq-preprocess looks up one word at a time and keeps the size and place of every sentence in lists: 4.5 million
pairs take it most of an hour on a core, and memory that grows with them. A test runs both and compares the bytes. Left
out on purpose: thresholds, alignments, other formats.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice, zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import UserError
from . import lines
from .workers import chunks

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # as fairseq numbers them
_END, _UNKNOWN = "</s>", SPECIAL.index("<unk>")
_HEADER = struct.Struct("<9sQBQ")  # magic, version, type of number, sentences
_MAGIC = b"MMIDIDX\x00\x00"
_TYPES = {np.dtype(np.uint16): 8, np.dtype(np.uint32): 9}
_SMALL = 65_500  # words that fit into 16 bits, as fairseq sees it
_BLOCK = 1 << 14  # sentences at a time

Entries = Sequence[tuple[str, int]]


def counted(text: Path) -> Counter[str]:
    """How often each word occurs in a file."""
    found: Counter[str] = Counter()
    for line in lines.texts(text):
        found.update(line.split())
    return found


def dictionary(counts: Iterable[Counter[str]], multiple: int = 8) -> Entries:
    """fairseq's: by frequency, then by the word; filled up to a size that suits some hardware."""
    total: Counter[str] = Counter()
    for found in counts:
        total.update(found)
    entries = [
        (word, total[word]) for word in sorted(total, key=lambda word: (-total[word], word)) if word not in SPECIAL
    ]
    fill = (f"madeupword{number:04d}" for number in count())
    missing = -(len(SPECIAL) + len(entries)) % multiple
    return [*entries, *((word, 0) for word in islice((word for word in fill if word not in total), missing))]


def save_dictionary(entries: Entries, path: Path) -> None:
    """One `word count` a line, as fairseq reads it."""
    path.write_text("".join(f"{word} {times}\n" for word, times in entries), encoding="utf-8")


class _Numbers(dict[str, int]):
    """Numbers of words; that of <unk> for any other."""

    def __missing__(self, word: str) -> int:
        return _UNKNOWN


def _numbers(path: Path) -> _Numbers:
    words = chain(SPECIAL, (line.rpartition(" ")[0] for line in lines.texts(path)))
    return _Numbers((word, number) for number, word in enumerate(words))


def write(text: Path, names: Path, goal: Path) -> dict[str, int]:
    """`goal`.bin and `goal`.idx of the lines of `text`; sentences, words without ends, and those not in `names`."""
    numbers = _numbers(names)
    kind = np.dtype(np.uint16 if len(numbers) < _SMALL else np.uint32)
    found = {"sentences": 0, "words": 0, "unknown": 0}
    with goal.with_name(f"{goal.name}.bin").open("wb") as data, goal.with_name(f"{goal.name}.idx").open("w+b") as index:
        index.write(_header(kind, 0))
        for chunk in chunks(lines.texts(text)):
            rows = [[*line.split(), _END] for line in chunk]
            ids = np.fromiter(map(numbers.__getitem__, chain.from_iterable(rows)), kind)
            data.write(ids.tobytes())
            index.write(np.fromiter(map(len, rows), "<i4").tobytes())
            found["sentences"] += len(rows)
            found["words"] += len(ids) - len(rows)
            found["unknown"] += int((ids == _UNKNOWN).sum())
        _add_places(index, found["sentences"], kind)
    return found


def _header(kind: np.dtype, sentences: int) -> bytes:
    return _HEADER.pack(_MAGIC, 1, _TYPES[kind], sentences)


def _add_places(index: BinaryIO, sentences: int, kind: np.dtype) -> None:
    """Where each sentence begins, behind the sizes; and how many there are, in front."""
    index.seek(0)
    index.write(_header(kind, sentences))
    begin = 0
    for first in range(0, sentences, _BLOCK):
        index.seek(_HEADER.size + 4 * first)
        sizes = np.frombuffer(index.read(4 * min(_BLOCK, sentences - first)), "<i4").astype("<i8") * kind.itemsize
        ends = begin + np.cumsum(sizes)
        index.seek(0, 2)
        index.write((ends - sizes).tobytes())
        begin = int(ends[-1])


def sentences_in(index: Path) -> int | None:
    """How many sentences an index has; None where it is not of mmap data."""
    with index.open("rb") as file:
        head = file.read(_HEADER.size)
    if len(head) < _HEADER.size:
        return None
    magic, version, _, sentences = _HEADER.unpack(head)
    return sentences if (magic, version) == (_MAGIC, 1) else None


def sizes(index: Path) -> Iterator[int]:
    """The words of every sentence in an index, ends included."""
    sentences = sentences_in(index)
    if sentences is None:
        raise UserError(f"{index} is not an index of fairseq's mmap data; move its folder away and prepare it anew")
    with index.open("rb") as file:
        file.seek(_HEADER.size)
        for first in range(0, sentences, _BLOCK):
            yield from np.frombuffer(file.read(4 * min(_BLOCK, sentences - first)), "<i4").tolist()


def refuse_different(text: Path, index: Path) -> None:
    """Each line of `text` must be a sentence of its number of words, and its end, in fairseq's index."""
    given = (len(line.split()) + 1 for line in lines.texts(text))
    for number, (words, size) in enumerate(zip_longest(given, sizes(index)), 1):
        if words != size:
            raise UserError(
                f"line {number:,} of {text} has {'no' if words is None else words} words with its end, and in {index} "
                f"{'none' if size is None else size}; move that folder away and prepare it anew"
            )


def write_and_check(task: tuple[Path, Path, Path]) -> dict[str, Any]:
    """`write`, then read again what was written."""
    text, _, goal = task
    found = write(*task)
    refuse_different(text, goal.with_name(f"{goal.name}.idx"))
    return found
