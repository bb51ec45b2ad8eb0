"""Writes text in subwords as fairseq's `mmap` data, with the same bytes as fairseq-preprocess.

fairseq-preprocess looks up one word at a time and keeps the size and place of every sentence in lists: 4.5 million
pairs take it most of an hour on one core, and memory that grows with them. A test compares the bytes of both.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count, islice, zip_longest
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UserError
from . import lines
from .workers import chunks

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # numbered as in fairseq
_END, _UNKNOWN = "</s>", SPECIAL.index("<unk>")
_HEADER = struct.Struct("<9sQBQ")  # magic, version, code of the dtype, number of sentences
_MAGIC = b"MMIDIDX\x00\x00"
_DTYPE_CODES = {np.dtype(np.uint16): 8, np.dtype(np.uint32): 9}
_MOST_16_BIT = 65_500  # fairseq uses 16 bits for smaller dictionaries
_BLOCK = 1 << 14  # sentences at a time

Entries = Sequence[tuple[str, int]]


def word_counts(text: Path) -> Counter[str]:
    """The frequency of each word in a file."""
    counts: Counter[str] = Counter()
    for line in lines.texts(text):
        counts.update(line.split())
    return counts


def dictionary(counts: Iterable[Counter[str]], multiple: int = 8) -> Entries:
    """fairseq's dictionary: sorted by frequency, then by word, padded to a multiple of `multiple` symbols."""
    total: Counter[str] = Counter()
    for frequencies in counts:
        total.update(frequencies)
    entries = [
        (word, total[word]) for word in sorted(total, key=lambda word: (-total[word], word)) if word not in SPECIAL
    ]
    fillers = (word for number in count() if (word := f"madeupword{number:04d}") not in total)
    missing = -(len(SPECIAL) + len(entries)) % multiple
    return [*entries, *((word, 0) for word in islice(fillers, missing))]


def save_dictionary(entries: Entries, path: Path) -> None:
    """Writes `word count` lines, as fairseq reads them."""
    path.write_text("".join(f"{word} {times}\n" for word, times in entries), encoding="utf-8")


class _Numbers(dict[str, int]):
    """Numbers of words; that of <unk> for unknown ones."""

    def __missing__(self, word: str) -> int:
        return _UNKNOWN


def write(
    text: Path, dictionary_file: Path, prefix: Path, split: Callable[[str], Sequence[str]] = str.split
) -> dict[str, int]:
    """Writes the lines of `text` to `prefix`.bin and `prefix`.idx.

    Args:
        split: the words of a line.

    Returns:
        Numbers of sentences, of words without ends of sentences, and of words that the dictionary lacks.
    """
    words = chain(SPECIAL, (line.rpartition(" ")[0] for line in lines.texts(dictionary_file)))
    numbers = _Numbers((word, number) for number, word in enumerate(words))
    dtype = np.dtype(np.uint16 if len(numbers) < _MOST_16_BIT else np.uint32)
    size = {"sentences": 0, "words": 0, "unknown": 0}
    data_file, index_file = (prefix.with_name(f"{prefix.name}.{end}") for end in ("bin", "idx"))
    with data_file.open("wb") as data, index_file.open("w+b") as index:
        index.write(_header(dtype, 0))
        for chunk in chunks(lines.texts(text)):
            rows = [[*split(line), _END] for line in chunk]
            ids = np.fromiter(map(numbers.__getitem__, chain.from_iterable(rows)), dtype)
            data.write(ids.tobytes())
            index.write(np.fromiter(map(len, rows), "<i4").tobytes())
            size["sentences"] += len(rows)
            size["words"] += len(ids) - len(rows)
            size["unknown"] += int((ids == _UNKNOWN).sum())
        _complete_index(index, size["sentences"], dtype)
    return size


def _header(dtype: np.dtype, sentences: int) -> bytes:
    return _HEADER.pack(_MAGIC, 1, _DTYPE_CODES[dtype], sentences)


def _complete_index(index: BinaryIO, sentences: int, dtype: np.dtype) -> None:
    """Writes the number of sentences into the header, and the offset of each sentence after the sizes."""
    index.seek(0)
    index.write(_header(dtype, sentences))
    offset = 0
    for first in range(0, sentences, _BLOCK):
        index.seek(_HEADER.size + 4 * first)
        sizes = np.frombuffer(index.read(4 * min(_BLOCK, sentences - first)), "<i4").astype("<i8") * dtype.itemsize
        ends = offset + np.cumsum(sizes)
        index.seek(0, 2)
        index.write((ends - sizes).tobytes())
        offset = int(ends[-1])


def sentences_in(index: Path) -> int | None:
    """The number of sentences of an index; None if it is not one of mmap data."""
    with index.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, version, _, sentences = _HEADER.unpack(header)
    return sentences if (magic, version) == (_MAGIC, 1) else None


def sizes(index: Path) -> Iterator[int]:
    """Yields the number of words of every sentence of an index, its end included."""
    sentences = sentences_in(index)
    if sentences is None:
        raise UserError(f"{index} is not an index of fairseq's mmap data; move its folder away and prepare it again")
    with index.open("rb") as file:
        file.seek(_HEADER.size)
        for first in range(0, sentences, _BLOCK):
            yield from np.frombuffer(file.read(4 * min(_BLOCK, sentences - first)), "<i4").tolist()


def write_part(prefix: Path, part: int, parts: int, out: Path) -> None:
    """Writes the sentences part, part + parts and so on of the data `prefix`.bin and `prefix`.idx to those of `out`."""
    lengths = np.fromiter(sizes(prefix.with_name(f"{prefix.name}.idx")), np.int64)
    with prefix.with_name(f"{prefix.name}.idx").open("rb") as index:
        code = _HEADER.unpack(index.read(_HEADER.size))[2]
    dtype = next(dtype for dtype, number in _DTYPE_CODES.items() if number == code)
    words, ends = np.memmap(prefix.with_name(f"{prefix.name}.bin"), dtype, "r"), np.cumsum(lengths)
    chosen = range(part, len(lengths), parts)
    with out.with_name(f"{out.name}.bin").open("wb") as data, out.with_name(f"{out.name}.idx").open("w+b") as index:
        index.write(_header(dtype, len(chosen)))
        index.write(lengths[part::parts].astype("<i4").tobytes())
        for number in chosen:
            data.write(words[ends[number] - lengths[number] : ends[number]].tobytes())
        _complete_index(index, len(chosen), dtype)


def refuse_different(text: Path, index: Path) -> None:
    """Raises a UserError unless each line of `text` has as many words as its sentence in fairseq's index."""
    lengths = (len(line.split()) + 1 for line in lines.texts(text))
    for number, (words, size) in enumerate(zip_longest(lengths, sizes(index)), 1):
        if words != size:
            raise UserError(
                f"line {number:,} of {text} has {words or 'no'} words with its end, and in {index} {size or 'none'}; "
                "move that folder away and prepare it again"
            )


def write_and_check(files: tuple[Path, Path, Path]) -> dict[str, int]:
    """Calls `write` with `files`, then reads what was written and compares it with the text."""
    text, _, prefix = files
    size = write(*files)
    refuse_different(text, prefix.with_name(f"{prefix.name}.idx"))
    return size
