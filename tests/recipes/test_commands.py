"""A command ends with the process that started it, killed or not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CODE = """if True:
    import time
    from weighted_freezing_fairseq.recipes.commands import started
    print(started("http.server", ["0", "--bind", "127.0.0.1"]).pid, flush=True)
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
