"""Child processes that end with the process that started them, and the reason why one failed.

On Linux the system kills a child whose parent is gone. A parent that receives SIGINT (Ctrl-C) or SIGTERM (as from
SLURM) kills its children first, so that threads that wait for a child continue.
"""

import contextlib
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from .verbosity import is_verbose

PACKAGE = Path(__file__).resolve().parents[1]
# For fairseq's --user-dir. Not PACKAGE itself: fairseq skips a package that is already imported.
USER_DIR = PACKAGE / "plugin" / "user_dir" / "register_weighted_freezing"

# Runs a module in a process that the system kills with its parent: after a kill, no training may continue in a folder
# in which the next call trains.
_RUN_MODULE = """
import ctypes, os, runpy, signal, sys
parent, package, command = int(sys.argv.pop(1)), sys.argv.pop(1), sys.argv[1]
if sys.platform == "linux":
    die_with_parent = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    die_with_parent()
    if command == "fairseq_cli.preprocess":  # its workers too; training forks workers from threads that end earlier
        os.register_at_fork(after_in_child=die_with_parent)
if os.getppid() != parent:
    sys.exit("killed before it began")
sys.path.append(package)  # last: an installed copy comes first
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
# The frames of a traceback, its exception, and the line after it.
_TRACEBACK = re.compile(
    r"^[ \t]*Traceback \(most recent call last\):\n((?:[ \t].*\n|\n)*)(?!Traceback \()(\S.*)(?=\s*(.*))", re.MULTILINE
)
# Errors of destructors, while Python exits.
_IGNORED = re.compile(r"^Exception ignored in.*\s*Traceback \(most recent call last\):$", re.MULTILINE)
_children: "weakref.WeakSet[subprocess.Popen[Any]]" = weakref.WeakSet()
_stop_signals: list[int] = []  # received by this process


class Stopped(KeyboardInterrupt):
    """This process received the stop signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def refuse_when_stopping() -> None:
    """Raise `Stopped` in a thread, which signals do not interrupt, if this process received a stop signal."""
    if _stop_signals:
        raise Stopped(_stop_signals[0])


def start_module(module: str, words: Iterable[Any], **options: Any) -> "subprocess.Popen[Any]":
    """Start `python -m MODULE WORDS` as a child that the system kills when this process ends.

    The child has a session of its own: Ctrl-C in a terminal reaches this process only, which kills the child and the
    processes that the child started.

    Args:
        options: arguments of Popen.
    """
    words = list(map(str, words))
    if is_verbose():
        from .progress import trace  # tqdm, without which wff doctor must run

        trace(f"$ {shlex.join(['python', '-m', module, *words])}")
    arguments = map(str, (os.getpid(), PACKAGE.parent, module, *words))
    process = subprocess.Popen([sys.executable, "-c", _RUN_MODULE, *arguments], start_new_session=True, **options)
    _children.add(process)
    if _stop_signals:  # the other children are already killed
        _kill_children()
    return process


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Processes of `multiprocessing` that are started inside ignore Ctrl-C: this process receives it and kills them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process of `multiprocessing` when its parent is gone; does nothing in the main process.

    It polls, because the system's signal already comes when the *thread* that started the process ends.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_for_parent() -> None:
        while os.getppid() == parent.pid:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


@contextlib.contextmanager
def thread_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool; the end of the block waits for its work, unless this process received a stop signal."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=not _stop_signals, cancel_futures=bool(_stop_signals))


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM kill the children of this process and raise `Stopped` in its main thread.

    A second signal ends the process at once. A signal that is ignored stays ignored (nohup, `&` in a script).
    """

    def stop(number: int, frame: Any) -> None:
        _stop_signals.append(number)
        _kill_children()
        if len(_stop_signals) > 1:
            os._exit(128 + number)
        raise Stopped(number)

    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        if not _stop_signals:  # otherwise `stop` also handles a second signal
            for number, handler in before.items():
                signal.signal(number, handler)


def exit_without_threads(status: int) -> NoReturn:
    """Kill the children and exit with `status`, without waiting for threads."""
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
            child.kill()  # it may not lead a process group yet
    for worker in multiprocessing.active_children():
        worker.kill()


def failure_reason(output: str, status: int) -> str:
    """Why a command failed that printed `output` and ended with `status`: its last exception, else its last line."""
    text = "\n".join(map(str.rstrip, output.splitlines())).strip()
    if (last := text.rpartition("\n")[2]).startswith("UserError: "):
        return last.removeprefix("UserError: ")
    tracebacks = _TRACEBACK.findall(_IGNORED.sub("", text))
    if tracebacks:
        frames, error, next_line = tracebacks[-1]
        name, colon, message = error.partition(": ")
        name = name.rpartition(".")[2]
        if not colon:  # an assertion without a message: its source line
            code = [line.strip() for line in frames.splitlines() if re.search(r"\w", line)]
            message = next((line for line in reversed(code) if not line.startswith('File "')), "")
        reason = message if name == "UserError" else f"{name}: {message}"
        return f"{reason} {next_line}".strip() if error.endswith(":") else reason
    if status < 0:
        memory = " (out of memory?)" if -status == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{memory}"
    return text.rpartition("\n")[2].strip() or f"exit status {status}"
