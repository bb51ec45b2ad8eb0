"""Commands as processes that end with the process that started them, however that ends.

Where the system can, it kills a child when its parent is gone. A parent that is told to stop (Ctrl-C, or SIGTERM as
from SLURM) kills its children first, so that whoever waits for one waits no longer. Left out on purpose: what is done
with their output, which the recipes say, but for the reason of a failure.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
# For fairseq's --user-dir. Not PACKAGE itself: fairseq skips that where the package is imported already.
USER_DIR = PACKAGE / "plugin" / "user_dir" / "register_weighted_freezing"


# A training whose recipe was killed must die with it, or the next call would train in the same folder beside it.
_UNTIL_PARENT_DIES = """
import ctypes, os, runpy, signal, sys
parent, package, command = int(sys.argv.pop(1)), sys.argv.pop(1), sys.argv[1]
if sys.platform == "linux":
    die_with_parent = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    die_with_parent()
    if command == "fairseq_cli.preprocess":  # its processes, too; training forks from threads that end earlier
        os.register_at_fork(after_in_child=die_with_parent)
if os.getppid() != parent:
    sys.exit("killed before it began")
sys.path.append(package)  # last: where it is installed, that copy is found
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
_children: "weakref.WeakSet[subprocess.Popen[Any]]" = weakref.WeakSet()
_told: list[int] = []  # the signals that told this process to stop


class Stopped(KeyboardInterrupt):
    """This process was told to stop, by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def refuse_when_stopping() -> None:
    """For threads, which no signal interrupts: a child that failed may have been killed because of one."""
    if _told:
        raise Stopped(_told[0])


def started(module: str, words: Iterable[Any], **options: Any) -> "subprocess.Popen[Any]":
    """`python -m MODULE WORDS`, with `options` of Popen, killed by the system when this process ends.

    In a session of its own: a terminal's Ctrl-C reaches this process alone, which ends the child and the child's own.
    """
    words = [sys.executable, "-c", _UNTIL_PARENT_DIES, *map(str, (os.getpid(), PACKAGE.parent, module, *words))]
    process = subprocess.Popen(words, start_new_session=True, **options)
    _children.add(process)
    if _told:  # since the others were killed
        _kill_children()
    return process


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Processes of `multiprocessing` that are started inside never see Ctrl-C: this one sees it, and ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """For a process of `multiprocessing`: end when the process that started it is gone.

    By looking, since the system's own signal comes when the *thread* that started it ends.
    """
    parent = multiprocessing.parent_process()
    if parent is None:  # it is the process that a user started
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose work is waited for, unless this process is told to stop."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=not _told, cancel_futures=bool(_told))


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM end the children of this process and raise `Stopped` in its main thread.

    A second one ends the process at once. A signal that was ignored before stays so (nohup, `&` in a script).
    """

    def stop(number: int, frame: Any) -> None:
        _told.append(number)
        _kill_children()
        if len(_told) > 1:
            os._exit(128 + number)
        raise Stopped(number)

    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        if not _told:  # else the next signal still finds `stop`
            for number, handler in before.items():
                signal.signal(number, handler)


def leave(status: int) -> None:
    """End this process when its children are gone, without waiting for its threads."""
    _kill_children()
    deadline = time.monotonic() + 5
    for child in list(_children):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
    for worker in multiprocessing.active_children():
        worker.join(max(0.0, deadline - time.monotonic()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _kill_children() -> None:
    for child in list(_children):
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()  # in case it has not come so far as to lead a group
    for worker in multiprocessing.active_children():
        worker.kill()


class Reason:
    """Why a command failed, from the lines that it prints: its last exception, else its last line."""

    def __init__(self) -> None:
        self._exception = self._source = self._last = ""
        self._inside = self._unfinished = False

    def hear(self, line: str) -> None:
        """Take one more line."""
        text = line.strip()
        if not text:
            return
        if text == "Traceback (most recent call last):":
            # Python says this of what fails while it ends.
            self._inside, self._unfinished, self._source = not self._last.startswith("Exception ignored in"), False, ""
        elif self._inside and not line[0].isspace():
            name, colon, message = text.partition(": ")
            name = name.rpartition(".")[2]
            self._exception = message if name == "UserError" else name + (colon + message or f": {self._source}")
            self._inside, self._unfinished = False, text.endswith(":")
        elif self._inside and re.search(r"\w", text) and not text.startswith('File "'):
            self._source = text
        elif self._unfinished:
            self._exception, self._unfinished = f"{self._exception} {text}", False
        self._last = text

    def of(self, status: int) -> str:
        """The reason of a command that ended with this status, as Popen has it."""
        if self._exception:
            return self._exception
        if status < 0:
            memory = " (out of memory?)" if -status == signal.SIGKILL else ""
            return f"killed by {signal.Signals(-status).name}{memory}"
        return self._last or f"exit status {status}"


def reason(said: str, status: int) -> str:
    """The reason of a command that has printed `said` and ended with this status."""
    found = Reason()
    for line in said.splitlines():
        found.hear(line)
    return found.of(status)
