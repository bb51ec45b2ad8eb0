"""Python processes that start with torch and fairseq imported, since importing them takes a fresh one seconds.

A server, one for every process that runs tests and every Python that it starts, imports them once and forks a child for
every command. The child is a process of its own that does what `python -m MODULE`, `python -c CODE` or `python SCRIPT`
does: the command's module, and the plugin if the command loads it, are imported there. A child that runs commands
itself, a recipe or a script, becomes a server for them first. Left out on purpose: variables that imports may have
read, but for the number of threads, options of the interpreter, a hash seed of its own for every child of one server,
and the destruction of what is alive when the interpreter ends.
"""

import atexit
import functools
import gc
import importlib
import json
import logging
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path

# With what these import, all that a run of stock fairseq imports but the command. The last two are for torch's
# optimizers and for pictures.
IMPORTED = """fairseq fairseq.binarizer fairseq.model_parallel.megatron_trainer fairseq.quantization_utils
  fairseq.trainer hydra torch._dynamo matplotlib.backends.backend_pdf""".split()
# As the tests found it: what they import into their own process leaves variables that are not for others.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

RECIPES = "weighted_freezing_fairseq"  # the module whose commands run others
_asking = threading.Lock()  # a question and its answer
_own: list[socket.socket] = []  # the connection of a recipe, which has a server of its own


def popen(python: str = sys.executable) -> type[subprocess.Popen]:
    """What starts a command of that Python warm, or cold where nothing can be forked."""
    return subprocess.Popen if server(python) is None else Popen


@functools.cache
def server(python: str) -> socket.socket | None:
    """The connection to this process's server of that Python; None where it cannot fork."""
    if _own or sys.platform != "linux":
        return _own[0] if _own else None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:  # nobody but the two keeps an end open, so that the server ends with this process
        process = subprocess.Popen(
            [python, __file__, str(theirs.fileno()), *IMPORTED], pass_fds=[theirs.fileno()], cwd="/",
            env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    atexit.register(process.wait)
    atexit.register(ours.close)  # comes first
    return ours if ours.recv(1) else None


def ask(python: str, question: object, files: tuple[int, ...] = ()):
    with _asking:
        socket.send_fds(server(python), [json.dumps(question).encode()], files)
        return json.loads(server(python).recv(100))


class Popen(subprocess.Popen):
    """`subprocess.Popen([PYTHON, "-m", "-c" or a script, ...], cwd=...)`, forked from that Python's server."""

    def _execute_child(self, args, *rest) -> None:
        cwd, env, pipes = rest[4], rest[5], rest[9:15]
        ours = (pipes[0], pipes[3], pipes[5])  # the ends that the child gets; -1: what this process has itself
        files = tuple(own if given == -1 else given for own, given in enumerate(ours))
        env = dict(os.environ if env is None else env)
        question = {"words": args[1:], "cwd": str(cwd or Path.cwd()), "env": env, "parent": os.getpid()}
        self.pid = ask(args[0], question, files)
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = ask(self.args[0], self.pid)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return self.returncode


def serve(connection: socket.socket, imported: Sequence[str]) -> dict | None:
    """Fork a child for every command asked for: the request in the child, None in the server when nobody asks more."""
    sys.modules["pyarrow"] = None  # an optional import of scikit-learn's, which starts a thread
    for module in imported:
        importlib.import_module(module)
    del sys.modules["pyarrow"]
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        return None  # a child would lack the other threads
    gc.freeze()  # children need not look through what the imports left
    connection.send(b"!")
    while True:
        message, files, *_ = socket.recv_fds(connection, 1 << 18, 3)
        if not message:
            return None
        request = json.loads(message)
        if isinstance(request, int):  # only this buries a child, so that until then its number is nobody else's
            connection.send(json.dumps(os.waitpid(request, os.WNOHANG)).encode())
            continue
        child = os.fork()
        if child == 0:
            connection.close()
            for own, given in enumerate(files):
                os.dup2(given, own)
            for library in (sys.modules["numpy"].random, sys.modules["torch"].default_generator):
                library.seed()  # as in a fresh interpreter; Python's own `random` sees to itself
        for file in files:
            os.close(file)
        if child == 0:
            return request
        connection.send(str(child).encode())


def serve_its_commands() -> bool:
    """Fork a server for the commands of this process, from what it is before it begins; False when one of them ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        with Path(os.devnull).open("r+b") as nothing:  # so that a recipe's output ends when the recipe does
            for own in range(3):
                os.dup2(nothing.fileno(), own)
        if request := serve(theirs, ()):
            run(**request)
        return False
    theirs.close()
    ours.recv(1)
    _own.append(ours)
    subprocess.Popen = where_python(subprocess.Popen)
    return True


def where_python(cold: type[subprocess.Popen]) -> type[subprocess.Popen]:
    """`cold`, but for commands of this Python, which start warm."""

    class WarmWherePython(cold):
        def __new__(cls, args, **options):
            return (popen() if args[0] == sys.executable else cold)(args, **options)

    return WarmWherePython


def run(words: list[str], cwd: str, env: dict[str, str], parent: int) -> None:
    """What the interpreter does with its command line."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.modules["torch"].set_num_threads(int(env.get("OMP_NUM_THREADS", os.cpu_count())))
    # Who asked, to this process alone: its workers end when it does. A recipe's command dies with it all the same,
    # since its server does.
    process, getppid = os.getpid(), os.getppid
    os.getppid = lambda: parent if os.getpid() == process else getppid()
    if not words[0].startswith("-"):
        sys.argv[:], sys.path[0] = words, str(Path(words[0]).parent)
        if serve_its_commands():
            runpy.run_path(words[0], run_name="__main__")
        return
    option, code, *sys.argv[1:] = words
    if option == "-m":
        sys.path[0] = str(Path.cwd())
        if code == "fairseq_cli.train":  # sets up logging before it imports fairseq, whose import does it otherwise
            logging.root.handlers.clear()
        if code != RECIPES or serve_its_commands():
            runpy.run_module(code, run_name="__main__", alter_sys=True)
    else:
        sys.argv[0], sys.path[0], sys.modules["__main__"] = option, "", types.ModuleType("__main__")
        exec(code, vars(sys.modules["__main__"]))


def leave(status: int) -> None:
    """End as Python does, but for its last step: freeing, one by one, the objects that a child shares with its server.

    That copies all their memory: half a second of processor time, as much as the rest of a short training.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    request = serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
    if request:  # a child: at top level, where the exceptions and exits that are left end as they do in every Python
        try:
            run(**request)
        except SystemExit as end:
            if not isinstance(end.code, int | None):
                raise
            leave(end.code or 0)
        except Exception:
            sys.excepthook(*sys.exc_info())
            leave(1)
        leave(0)
