"""Progress of long commands on standard error: lines with the seconds since the start, and bars on a terminal.

With --quiet there is none; with --verbose also what child processes are told and say.
"""

import sys
import time
from typing import Any

from tqdm import tqdm

from .verbosity import is_quiet, is_verbose

_start = time.monotonic()


def say(text: str) -> None:
    """Print one line with the seconds since the start, above the bars of a terminal."""
    if not is_quiet():
        tqdm.write(f"[{time.monotonic() - _start:5.0f} s] {text}", file=sys.stderr)


def trace(text: str) -> None:
    """Print what only --verbose shows."""
    if is_verbose() and text:
        tqdm.write(text.rstrip("\n"), file=sys.stderr)


class Progress(tqdm):
    """A progress bar of tqdm on a terminal; in a log or pipe nothing, or lines.

    Args:
        items: an iterable to count (default: count by `update`).
        desc: what is in progress.
        unit: what is counted, in the singular.
        lines: print a line for every tenth of `total` where there is no terminal; for bars that `update` moves.
        options: further arguments of tqdm.
    """

    def __init__(self, *items: Any, desc: str = "", unit: str = "it", lines: bool = False, **options: Any) -> None:
        disable = is_quiet() or None  # None: where there is no terminal
        super().__init__(*items, desc=desc, unit=f" {unit}", leave=False, disable=disable, file=sys.stderr, **options)
        self.line = f"{desc}: {unit}" if self.disable and lines else ""

    def update(self, n: float = 1) -> bool | None:
        """Count `n` more items."""
        if not self.line:
            return super().update(n)
        tenths = 10 * self.n // max(1, self.total)
        self.n += n
        if 10 * self.n // max(1, self.total) > tenths:
            say(f"{self.line} {self.n:,} of {self.total:,}")
        return None
