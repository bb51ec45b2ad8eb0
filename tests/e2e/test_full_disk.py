"""A disk that is really full: one line that names it, nothing half-written, and the same command once there is room."""

import shutil
import subprocess
import sys

import pytest
from recipe_runs import command, finished

# In a mount namespace of its own, so that nothing stays mounted: a disk of 64 kB, and a call before and after it grows.
SCRIPT = """
set -eu
disk=$1 out=$2
shift 2
mount -t tmpfs -o size=64k none "$disk"
"$@" && exit 9 || echo "status $?"
find "$disk" -type f -size +0 -exec echo left {} +
mount -o remount,size=64m none "$disk"
"$@" >/dev/null
cp "$disk/packed" "$out"
"""


def _can_mount():
    script = "mount -t tmpfs none /mnt"
    return shutil.which("unshare") and subprocess.run(["unshare", "-m", "sh", "-c", script]).returncode == 0


@pytest.mark.skipif(sys.platform != "linux" or not _can_mount(), reason="a disk can be mounted by root on Linux only")
def test_a_full_disk_is_named_and_the_same_command_completes_when_there_is_room(fairseq, tmp_path):
    checkpoints = []
    for name in ("base", "tuned"):
        fairseq.train(name, "--optimizer", "adam", "--max-update", "4", "--lr", "0.1" if name == "base" else "0.2")
        checkpoints.append(fairseq.folder / name / "checkpoint_last.pt")
    disk, whole, after = tmp_path / "disk", tmp_path / "whole", tmp_path / "after"
    disk.mkdir()
    words = command("pack", *checkpoints, "--optimizer-state", "--out")
    done = finished([*words, whole])
    assert done.returncode == 0, done.stderr
    call = ["unshare", "-m", "sh", "-c", SCRIPT, "sh", disk, after, *words, disk / "packed"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "status 2\n"
    assert f"No space left on device: {disk}/packed; make room in {disk}" in done.stderr
    assert "Traceback" not in done.stderr and after.read_bytes() == whole.read_bytes()
