"""bash whose `wff`, `python` and fairseq commands start warm (warm_python.py).

They are found in the PATH as programs that hand their words, folder, environment and open files to the process of the
tests, which starts the real command. A script of scripts/ stands for the `wff` command that it calls after setup.sh.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import warm_python

BASH = shutil.which("bash")
MODULES = {
    "wff": "weighted_freezing_fairseq",
    "fairseq-train": "fairseq_cli.train",
    "fairseq-hydra-train": "fairseq_cli.hydra_train",
}
# The interpreter starts without site-packages, since this program needs none of them.
PROGRAM = f"""#!{sys.executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect(os.environ["WARM_SHELL"])
    request = [[os.path.basename(sys.argv[0]), *sys.argv[1:]], os.getcwd(), dict(os.environ)]
    socket.send_fds(asked, [b"!"], [0, 1, 2])
    asked.sendall(json.dumps(request).encode())
    asked.shutdown(socket.SHUT_WR)
    status = int(asked.makefile().read())
    sys.exit(status if status >= 0 else 128 - status)
"""


def without_script(words: list[str]) -> list[str]:
    """`bash scripts/train.sh ...` as `wff train ...`."""
    script = re.fullmatch(r"scripts/(?:(\w+)/)?(\w+)\.sh", words[1])
    assert words[0] == "bash" and script, words
    return ["wff", script[2].replace("_", "-"), *filter(None, [script[1]]), *words[2:]]


class Shell:
    """bash in `folder`, which is its HOME too; `changed` has the last word on what a command gets."""

    def __init__(self, folder: Path, changed: Callable[[list[str]], list[str]]) -> None:
        self.folder, self.changed = folder, changed
        self.commands: list[list[str]] = []  # what was started
        self._running: set[subprocess.Popen] = set()

    def __call__(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        with self._programs() as (programs, address):
            path = f"{programs}{os.pathsep}{os.environ['PATH']}"
            env = {**warm_python.ENVIRONMENT, "HOME": str(self.folder), "PATH": path, "WARM_SHELL": address}
            env.setdefault("XDG_CACHE_HOME", str(Path.home() / ".cache"))  # where the kernels are compiled already
            try:
                return subprocess.run(
                    [BASH, "-euo", "pipefail", "-c", script], cwd=self.folder, env={**env, **variables}, timeout=900,
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                )  # fmt: skip
            finally:  # after a timeout only bash has been killed
                for process in list(self._running):
                    os.kill(process.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _programs(self) -> Iterator[tuple[Path, str]]:
        with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as server:
            for program in (*MODULES, "python", "bash"):
                (Path(name) / program).write_text(PROGRAM)
                (Path(name) / program).chmod(0o755)
            address = str(Path(name) / "socket")
            server.bind(address)
            server.listen()
            threading.Thread(target=self._serve, args=(server,), daemon=True).start()
            yield Path(name), address
            server.shutdown(socket.SHUT_RDWR)

    def _serve(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the shell has ended
            while True:
                threading.Thread(target=self._run, args=(server.accept()[0],), daemon=True).start()

    def _run(self, asked: socket.socket) -> None:
        """Commands of a pipeline, and those in the words of another one, run at the same time."""
        with asked:
            _, files, *_ = socket.recv_fds(asked, 1, 3)
            words, cwd, env = json.loads(asked.makefile().read())
            words = self.changed(without_script(words) if words[0] == "bash" else words)
            self.commands.append(words)
            start = ["-m", MODULES[words[0]]] if words[0] in MODULES else []
            streams = dict(zip(("stdin", "stdout", "stderr"), files, strict=True))
            process = warm_python.popen()([sys.executable, *start, *words[1:]], cwd=cwd, env=env, **streams)
            for file in files:
                os.close(file)
            self._running.add(process)
            status = process.wait()
            self._running.discard(process)
            asked.sendall(str(status).encode())
