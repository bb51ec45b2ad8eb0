"""What a long command says on standard error: one line at a time, with the seconds since it started."""

import sys
import threading
import time
from collections.abc import Callable

_say_lock = threading.Lock()
_started = time.monotonic()


def say(text: str) -> None:
    """One line of progress with the time since the start."""
    with _say_lock:
        print(f"[{time.monotonic() - _started:5.0f} s] {text}", file=sys.stderr, flush=True)


def progress(name: str, total: int) -> Callable[[int], None]:
    """Says now and then how far a translation is."""
    shown = [0]

    def watch(done: int) -> None:
        if done * 10 // total > shown[0]:
            shown[0] = done * 10 // total
            say(f"{name}: {done:,} of {total:,} sentences")

    return watch
