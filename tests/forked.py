"""Calls in a forked process, which may do less than this one, or kills itself at a chosen moment."""

import mmap
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")


def forked(folder: Path, call: Callable[[], int], prepare: Callable[[], None]) -> tuple[int, list[str]]:
    """Status and standard error, kept in `folder`, of a call in a process that is changed by `prepare`."""
    said = folder / "said"
    if (child := os.fork()) == 0:
        sys.stderr = said.open("w", buffering=1)
        prepare()
        try:
            os._exit(call())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, [line for line in said.read_text().splitlines() if not line.startswith("[")]


def become_nobody() -> None:
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def allow_little(size: int = 1000) -> None:
    """Files up to that size: a write beyond it fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class Killer:
    """Kills the process in which it is called before its change number `at` of a file in `folder`; counts them."""

    def __init__(self, folder: Path, at: int = 0) -> None:
        self.folder, self.at, self._count = f"{folder}{os.sep}", at, mmap.mmap(-1, 8)  # memory that a fork shares

    @property
    def count(self) -> int:
        return int.from_bytes(self._count[:], "little")

    def __call__(self) -> None:
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple) -> None:
        changes = event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & os.O_ACCMODE)
        if changes and not isinstance(args[0], int) and os.fsdecode(args[0]).startswith(self.folder):
            self._count[:] = (self.count + 1).to_bytes(8, "little")
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
