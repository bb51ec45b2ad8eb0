"""A corpus of the user's own, as a data set: files of sentence pairs, for training, validation and tests.

A pair of text files has one sentence per line. A table has a column for each language: tab-separated or CSV with a
header, JSON lines, Parquet or Arrow. Every file of text may be compressed by gzip, xz or bzip2.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from ..errors import UserError
from . import columnar, lines
from .archives import Extracted
from .recipe import OWN, Dataset, Decode, Part, Place

HELD_OUT = 1000  # rows for each of validation and test, unless that is more than ...
_SHARE = 20  # ... one of so many training rows
_BLOCK = 1 << 20
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open, b"BZh": bz2.open}
_COLUMNS = "type --columns SOURCE,TARGET with two of them"
TABLE_NAMES = ".tsv, .csv, .jsonl, .parquet or .arrow"  # for messages
_COLUMNAR = "columnar"
_TABLES = {
    **dict.fromkeys((".tsv", ".tab"), "tsv"),
    ".csv": "csv",
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".parquet", ".arrow"), _COLUMNAR),
}


@dataclass(frozen=True)
class PairFiles:
    """Sentence pairs of one split.

    Args:
        split: train, valid, test, test1 ...
        name: for messages and counts.
        pair: of their languages.
        files: a text file for each language, or one table.
        columns: of a table, for source and target (None: the languages).
    """

    split: str
    name: str
    pair: str
    files: tuple[Path, ...]
    columns: tuple[str, str] | None = None

    @property
    def part(self) -> Part:
        """The part of the corpus that these files are."""
        remedy = f"correct {' and '.join(map(str, self.files))}, and type the same command again"
        places = [Place(str(path)) for path in self.files]
        if len(places) == 1:
            places = [Place(str(self.files[0]), column) for column in self.columns or self.pair.split("-")]
        return Part(self.name, self.split, places[0], places[1], remedy=remedy, pair=self.pair)


def is_table(path: Path) -> bool:
    """Whether the name of a file is that of a table."""
    return _kind(path) != ""


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes.pop() if suffixes and suffixes[-1] in (".gz", ".xz", ".bz2") else ""
    kind = _TABLES.get(suffixes[-1], "") if suffixes else ""
    if compressed and kind == _COLUMNAR:
        raise UserError(f"{path} cannot be read: tables of this form are not compressed as a whole; decompress it")
    return kind


def own_dataset(files: Sequence[PairFiles], test_names: Mapping[str, str]) -> Dataset:
    """The data set of these files; `test_names`: what the user calls each test split."""
    parts = tuple(pair_files.part for pair_files in files)
    return Dataset(
        name=OWN,
        what="your own files",
        pairs=(),
        table=MappingProxyType({}),
        decode=Decode(beam=5, lenpen=1.0, max_len_a=1.2, max_len_b=10),
        archives=lambda pairs: {},
        parts=lambda pair, recipe: parts,
        test_names=test_names,
        disjoint=True,
        copy_out=copy_out,
    )


def copy_out(path: Path, targets: Mapping[str, Path], nested: Sequence[str] = ()) -> Extracted:
    """Copies a text file, or columns of a table, to UTF-8 files with one sentence per line.

    Args:
        targets: the file for each column; "" is all of a text file.
    """
    extracted = Extracted()
    if "" in targets:
        with _opened(path) as stream, targets[""].open("wb") as file:
            shutil.copyfileobj(stream, file, _BLOCK)
    else:
        repairs: Counter[str] = Counter()
        with lines.writer(targets.values()) as write:
            for place, row in read_table(path, list(targets), repairs):
                write([text_in(place, row, column, repairs, _COLUMNS) for column in targets])
        extracted.skipped.update(repairs)
    extracted.members.update(targets)
    return extracted


def default_held_out(rows: int) -> int:
    """How many of the training rows to set apart for a split."""
    return max(1, min(HELD_OUT, rows // _SHARE))


def count_lines(path: Path) -> int:
    """Number of lines of a file, decompressed, or of rows of a table that is stored by columns."""
    if _kind(path) == _COLUMNAR:
        return columnar.count_rows(path)
    with _opened(path) as stream:
        return sum(1 for _ in stream)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The decompressed bytes of a file; UserError where it is damaged."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), open)
    try:
        with opener(path, "rb") as stream:
            yield stream
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path} is damaged or incomplete ({error}); copy or compress it again") from None


def read_table(path: Path, columns: Sequence[str], repairs: Counter[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a table with these columns and maybe others, each with its place for messages.

    `repairs` gets the number of repaired lines of tab-separated tables; `text_in` repairs the text of other tables.
    """
    if _kind(path) == _COLUMNAR:
        for number, row in enumerate(columnar.rows(path, columns), 1):
            yield f"row {number} of {path}", row
        return
    with _opened(path) as stream:
        for number, row in _rows_of_text(path, stream, repairs):
            yield f"line {number} of {path}", row


def _rows_of_text(path: Path, stream: IO[bytes], repairs: Counter[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if _kind(path) == "jsonl":
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"line {number} of {path} is not valid JSON ({error}); correct it") from None
            if not isinstance(row, dict):
                raise UserError(f'line {number} of {path} is not a JSON object; write one per line: {{"fr": ..., ...}}')
            yield number, columnar.with_translation(row)
        return
    numbered: Iterator[tuple[int, list[str]]]
    if _kind(path) == "csv":
        numbered = _csv_rows(path, stream)
    else:  # quotes are letters like others
        numbered = ((number, line.split("\t")) for number, line in enumerate(lines.read(stream, repairs), 1) if line)
    _, header = next(numbered, (1, []))
    for number, row in numbered:
        if len(row) != len(header):
            raise UserError(f"line {number} of {path} has {len(row)} columns, and its header {len(header)}; correct it")
        yield number, dict(zip(header, row, strict=True))


def _csv_rows(path: Path, stream: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty; bytes that are not UTF-8 become lone surrogates, which `lines.clean` replaces."""
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text)
        last = 0  # line of the row before
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
                last = reader.line_num
        except csv.Error as error:
            raise UserError(
                f"the row from line {last + 1} of {path} on is not valid CSV ({error}); is a quote never closed? "
                "Correct it"
            ) from None


def text_in(place: str, row: Mapping[str, Any], column: str, repairs: Counter[str], remedy: str) -> str:
    """The text in a column of a row; `remedy` is for the error where the row has no such column."""
    if column not in row:
        raise UserError(f"{place} has no column {column!r} (it has: {', '.join(map(str, row)) or 'none'}); {remedy}")
    if not isinstance(row[column], str):
        raise UserError(f"{place} has {row[column]!r} in column {column!r}; it must be text")
    return lines.clean(row[column], repairs)


ANY_OWN = own_dataset((), {"test": "test"})  # for what does not depend on the files
