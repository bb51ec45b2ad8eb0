"""Locks: one process at a time writes in a folder, or a file; a second one waits, says so, and goes on by itself.

The system releases a lock when its process ends, even by a kill. Lock files are hidden and stay: one that is left over
holds nobody up. A folder that cannot be written is not locked, since there is nothing to protect: whoever has to write
there fails, and whoever finds everything there goes on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .processes import refuse_when_stopping
from .progress import say

_LOOK = 0.5  # seconds between two looks whether this process was told to stop


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold `folder`, which is created where it is missing, against other processes and threads."""
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder / ".lock", folder):
        yield


@contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Hold the file `path`, which may not be there yet, in the same way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path.with_name(f".{path.name}.lock"), path):
        yield


@contextmanager
def _held(file: Path, what: Path) -> Iterator[None]:
    if not os.access(file.parent, os.W_OK):
        yield
        return
    lock = FileLock(file)
    if not _acquired(lock, 0):
        say(f"{what} is in use by another process; waiting until it ends (Ctrl-C: stop waiting)")
        while not _acquired(lock, _LOOK):
            refuse_when_stopping()
        say(f"{what} is free; going on")
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True
