"""Reading and writing text files line by line, with one definition of a line.

A line ends at a line feed only. Characters that other tools take for a line end (a lone carriage return, U+2028), NUL
and byte order marks are replaced or removed, and counted, so that source and target stay aligned.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TypeVar

from ..workspace.progress import Progress

# What str.splitlines() takes for a line end.
_LINE_ENDS = re.compile("[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of a character, which no UTF-8 has
_BOM = "\ufeff"
_BLOCK = 1 << 20
_T = TypeVar("_T")


def read(stream: IO[bytes], counts: Counter[str]) -> Iterator[str]:
    """Yields the cleaned lines of a UTF-8 stream; `counts` gets the number of each repair."""
    for number, raw in enumerate(stream):
        raw = raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            line = raw.decode("utf-8", errors="replace")
            counts["invalid UTF-8"] += 1
        if number == 0 and line.startswith(_BOM):
            line = line[1:]
            counts["byte order mark"] += 1
        yield clean(line, counts)


def clean(line: str, counts: Counter[str]) -> str:
    """Removes NUL from a line, and replaces line ends inside it by spaces, and lone surrogates by U+FFFD."""
    if "\0" in line:
        line = line.replace("\0", "")
        counts["NUL"] += 1
    if _LINE_ENDS.search(line):
        line = _LINE_ENDS.sub(" ", line)
        counts["line end inside a line"] += 1
    if not line.isascii() and _SURROGATES.search(line):
        line = _SURROGATES.sub("\ufffd", line)
        counts["invalid UTF-8"] += 1
    return line


def texts(path: Path) -> Iterator[str]:
    """Yields the lines of a file that this package wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


@contextmanager
def writer(paths: Iterable[Path]) -> Iterator[Callable[[Sequence[str]], None]]:
    """Opens text files side by side; the function that it yields writes one line to each of them."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("w", encoding="utf-8", newline="\n")) for path in paths]

        def write(texts: Sequence[str]) -> None:
            for file, text in zip(files, texts, strict=True):
                file.write(f"{text}\n")

        yield write


def hash_of(text: str) -> bytes:
    """8 bytes in place of a sentence, for large sets."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def count(path: Path) -> int:
    """Number of lines; the last one may lack its line feed."""
    number, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            number += block.count(b"\n")
            last = block[-1:]
    return number + (last != b"\n")


def with_bar(items: Iterable[_T], name: str, total: int) -> Iterable[_T]:
    """Shows a progress bar on a terminal while `items` are consumed."""
    return Progress(items, desc=name, total=total, unit="line", unit_scale=True)
