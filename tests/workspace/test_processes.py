"""A command ends with the process that started it, killed or not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weighted_freezing_fairseq.workspace.processes import failure_reason

CODE = """if True:
    import time
    from weighted_freezing_fairseq.workspace.processes import start_module
    print(start_module("http.server", ["0", "--bind", "127.0.0.1"]).pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
def test_it_dies_with_a_parent_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as parent:
        status = Path(f"/proc/{int(parent.stdout.readline())}/status")
        assert b"Serving HTTP" in parent.stdout.readline()
        assert status.exists()
        os.kill(parent.pid, signal.SIGKILL)
        parent.stdout.read()  # to its end: nobody holds the pipe any more
    deadline = time.monotonic() + 20
    while status.exists() and "State:\tZ" not in status.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert time.monotonic() < deadline


OWN_COMMAND = """if True:
    import threading, time
    from pathlib import Path
    from weighted_freezing_fairseq.workspace.commands import wff
    words = ["bench", "--quick", "--out", "out"]
    threading.Thread(target=wff, args=(words, 1), daemon=True).start()
    children = []
    while not children:
        children = "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    print(*children, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
def test_a_command_of_this_package_dies_with_its_recipe(tmp_path):
    words = [sys.executable, "-c", OWN_COMMAND]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path) as parent:
        (child,) = map(int, parent.stdout.readline().split())
        while "libtorch" not in Path(f"/proc/{child}/maps").read_text():
            time.sleep(0.01)
        os.kill(child, signal.SIGSTOP)  # so that it does not end by itself
        os.kill(parent.pid, signal.SIGKILL)
    status = Path(f"/proc/{child}/status")
    deadline = time.monotonic() + 20
    try:
        while status.exists() and "State:\tZ" not in status.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert time.monotonic() < deadline
    finally:
        if status.exists():
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise ValueError('no such base')", "ValueError: no such base"),
        ("import json; json.loads('[')", "JSONDecodeError: Expecting value: line 1 column 2 (char 1)"),
        ("assert 1 > 2", "AssertionError: assert 1 > 2"),
        ("raise RuntimeError('errors in loading:\\n\\tsize mismatch\\n\\tanother')",
         "RuntimeError: errors in loading: size mismatch"),
        ("try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise OSError('cannot load')", "OSError: cannot load"),
        ("from weighted_freezing_fairseq.errors import UserError\nraise UserError('there is none; type --x')",
         "there is none; type --x"),
        ("import sys\nfrom weighted_freezing_fairseq.errors import *\nhide_traceback_of_user_errors()\n"
         "try:\n    1 / 0\nexcept ZeroDivisionError:\n    sys.excepthook(*sys.exc_info())\nraise UserError('type --x')",
         "type --x"),
        ("import atexit\natexit.register(lambda: print('bye'))\nraise ValueError('why')", "ValueError: why"),
        ("class C:\n    def __del__(self):\n        raise KeyError('late')\nc = C()\nraise ValueError('first')",
         "ValueError: first"),
        ("import sys\nprint('usage: x')\nsys.exit('x: error: unknown option')", "x: error: unknown option"),
        ("import sys\nsys.exit(3)", "exit status 3"),
        ("import os\nprint('working')\nos.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory?)"),
    ],
)  # fmt: skip
def test_the_reason_of_a_failure_is_its_exception(code, expected, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert failure_reason(done.stdout, done.returncode) == expected, done.stdout


def test_hydras_last_words_are_not_the_reason():
    said = """Error executing job with overrides: []
Traceback (most recent call last):
  File "a.py", line 3, in main
    fail()
omegaconf.errors.ConfigAttributeError: Key 'x' is not in struct
    full_key: x
    object_type=dict

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""
    assert failure_reason(said, 1) == "ConfigAttributeError: Key 'x' is not in struct"
