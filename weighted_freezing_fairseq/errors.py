"""The error that a user can correct."""

from __future__ import annotations  # an older Python must get as far as `wff doctor`

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType


class UserError(Exception):
    """A wrong call, missing file or invalid setting; printed as one line that says what to type."""


def hide_traceback_of_user_errors() -> None:
    """Have a UserError end this process with one line; its traceback is shown with WFF_TRACEBACK=1."""
    previous_hook = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, UserError) and os.environ.get("WFF_TRACEBACK") != "1":
            print(f"UserError: {error}", file=sys.stderr)
        else:
            previous_hook(kind, error, traceback)

    sys.excepthook = hook


@contextlib.contextmanager
def one_line_user_errors() -> Iterator[None]:
    """Have a UserError end this process with one line under Hydra, which prints tracebacks before the hook above."""
    try:
        yield
    except UserError as error:
        if os.environ.get("WFF_TRACEBACK") == "1":
            raise
        raise SystemExit(f"UserError: {error}") from None


def did_you_mean(word: str, known: Iterable[str], most: int = 1) -> str:
    """A question with the known words nearest to `word`; empty if none is near."""
    near = difflib.get_close_matches(word, list(known), n=most)
    return f"did you mean {' or '.join(near)}?" if near else ""


def check_fraction(flag: str, value: float, example: float, *, zero: bool = False, one: bool = False) -> None:
    """Raise UserError unless `value` is between 0 and 1; `zero` and `one` say whether the bounds are allowed."""
    if 0 < value < 1 or (zero and value == 0) or (one and value == 1):
        return
    allowed = f"{'at least' if zero else 'above'} 0 and {'at most' if one else 'below'} 1"
    raise UserError(f"{flag} must be {allowed}, got {value:g}; type {flag} {example:g}")
