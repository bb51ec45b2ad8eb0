"""Lines of text as every tool must count them, whatever is inside them.

A line ends at a line feed and nowhere else. What other tools take for a line end, or stumble over (a lone carriage
return, U+2028, NUL, a byte order mark), is replaced or taken out, and counted: source and target must not drift apart,
and nothing happens in silence.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# What str.splitlines() takes for a line end: the usual ones, those of Unicode, and the separators of ASCII.
_LINE_ENDS = re.compile("[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
_BOM = "\ufeff"
_BLOCK = 1 << 20


def read(stream: IO[bytes], counts: Counter[str]) -> Iterator[str]:
    """The lines of a stream of UTF-8, cleaned; `counts` says what was found. The end of a last line may be missing."""
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
        yield mended(line, counts)


def mended(line: str, counts: Counter[str]) -> str:
    """One line without NUL, and with spaces for the line ends that are inside it."""
    if "\0" in line:
        line = line.replace("\0", "")
        counts["NUL"] += 1
    if _LINE_ENDS.search(line):
        line = _LINE_ENDS.sub(" ", line)
        counts["line end inside a line"] += 1
    return line


def texts(path: Path) -> Iterator[str]:
    """The lines of a file that this package wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def count(path: Path) -> int:
    """Line feeds, and a last line without one."""
    found, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found += block.count(b"\n")
            last = block[-1:]
    return found + (last != b"\n")
