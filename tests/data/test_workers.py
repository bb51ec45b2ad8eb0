"""Chunks through processes: order, few at a time, and no process that outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weighted_freezing_fairseq.data.workers import Workers, chunks
from weighted_freezing_fairseq.errors import UserError


def test_chunks():
    assert [len(chunk) for chunk in chunks(range(2500))] == [1000, 1000, 500] and list(chunks([])) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_and_chunks_are_asked_for_a_few_at_a_time(jobs):
    asked = []

    def source():
        for number in range(40):
            asked.append(number)
            yield number

    with Workers(jobs) as workers:
        for number, result in enumerate(workers.map(str, source())):
            assert result == str(number) and len(asked) <= number + 2 * jobs + 1
        assert workers.call(max, 3, 4) == 4
    assert number == 39


def test_a_process_that_dies_is_told_in_one_line():
    with (
        Workers(2) as workers,
        pytest.raises(UserError, match="a worker process was killed.* with --jobs 1"),
    ):
        workers.call(os._exit, 1)


def alive(process: int) -> bool:
    """Not gone, and not another one of the same number."""
    try:
        return "spawn" in Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_processes_end_when_their_parent_is_killed():
    code = (
        "import os, time; from weighted_freezing_fairseq.data.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    with Workers(2) as workers:\n"
        "        print(*{workers.call(os.getpid) for _ in range(20)}, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        children = [int(number) for number in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert children
    deadline = time.time() + 20
    while any(alive(child) for child in children):
        assert time.time() < deadline
        time.sleep(0.1)
