"""One process at a time in a folder: the second waits and says so, and no kill leaves a lock that holds."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import miniature
import pytest
from recipe_runs import command

from weighted_freezing_fairseq.workspace.locks import lock_file, lock_folder

HELD = """if True:
    import sys, time
    from pathlib import Path
    from weighted_freezing_fairseq.workspace.locks import lock_folder
    with lock_folder(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(100)
"""

AS_NOBODY = """if True:
    import os, sys
    from pathlib import Path
    from weighted_freezing_fairseq.workspace.locks import lock_folder
    os.setuid(65534)
    with lock_folder(Path(sys.argv[1])):
        print("went on")
"""


def said(capfd, text):
    """Wait until this is on standard error."""
    errors, deadline = "", time.monotonic() + 20
    while text not in errors:
        assert time.monotonic() < deadline, errors
        time.sleep(0.01)
        errors += capfd.readouterr().err
    return errors


def test_the_second_waits_says_so_and_goes_on(tmp_path, capfd):
    folder, order = tmp_path / "deep/folder", []

    def second():
        with lock_folder(folder):
            order.append("second")

    thread = threading.Thread(target=second)
    with lock_folder(folder), lock_folder(tmp_path / "other"), lock_file(folder / "file"):
        thread.start()
        said(capfd, f"{folder} is in use by another process; waiting until it ends (Ctrl-C: stop waiting)")
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"] and f"{folder} is free; continuing" in capfd.readouterr().err
    with lock_folder(folder), lock_file(folder / "file"):  # lock files stay, and hold nobody up
        assert {path.name for path in folder.iterdir()} == {".lock", ".file.lock"}
    assert capfd.readouterr().err == ""


def test_a_kill_releases_the_lock(tmp_path, capfd):
    with subprocess.Popen([sys.executable, "-c", HELD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        threading.Timer(0.3, other.kill).start()
        with lock_folder(tmp_path):
            assert other.wait() == -signal.SIGKILL
    assert "is in use" in capfd.readouterr().err


def test_an_error_inside_releases_the_lock(tmp_path, capfd):
    with pytest.raises(KeyError), lock_folder(tmp_path):
        raise KeyError
    with lock_folder(tmp_path):
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("lock", ["pair", "archives"])
def test_ctrl_c_ends_the_waiting(lock, tmp_path):
    """In a thread of a pool, and in the main thread."""
    archives = miniature.multi30k(tmp_path / "archives", 20, 3) if lock == "pair" else tmp_path
    folder = tmp_path / ("data/clean/de-en" if lock == "pair" else "data/archives")
    words = ["prepare", "multi30k", "--pairs", "de-en", "--out", tmp_path / "data", "--archive", archives]
    with (
        lock_folder(folder),
        subprocess.Popen(
            command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As a terminal starts it: the tests themselves may run in the background, where SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process,
    ):
        first = process.stderr.readline()
        assert f"{folder} is in use by another process" in first
        process.send_signal(signal.SIGINT)
        (last,) = process.stderr.read().splitlines()
        assert process.wait(20) == 128 + signal.SIGINT
    assert last.startswith("wff: stopped by SIGINT; to continue, type the same again: wff prepare multi30k")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_cannot_be_written_is_not_locked():
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    try:
        done = subprocess.run([sys.executable, "-c", AS_NOBODY, folder], capture_output=True, text=True)
        assert (done.returncode, done.stdout, list(folder.iterdir())) == (0, "went on\n", []), done.stderr
    finally:
        shutil.rmtree(folder)
