"""Locks of folders and files: one process writes at a time; others print that they wait, and then continue.

The system releases a lock when its process ends, even if it is killed. Lock files are hidden and remain. A folder that
is not writable is not locked: who writes there fails, who only reads may continue.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .processes import refuse_when_stopping
from .progress import say

_POLL_SECONDS = 0.5  # between two checks whether this process received a stop signal


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock `folder`, which is created if it is missing, against other processes and threads."""
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / ".lock", folder):
        yield


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Lock the file `path`, which need not exist, against other processes and threads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path.with_name(f".{path.name}.lock"), path):
        yield


@contextmanager
def _lock(file: Path, target: Path) -> Iterator[None]:
    if not os.access(file.parent, os.W_OK):
        yield
        return
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{target} is in use by another process; waiting until it ends (Ctrl-C: stop waiting)")
        while not lock.is_locked:
            refuse_when_stopping()
            with suppress(Timeout):
                lock.acquire(timeout=_POLL_SECONDS)
        say(f"{target} is free; continuing")
    try:
        yield
    finally:
        lock.release()
