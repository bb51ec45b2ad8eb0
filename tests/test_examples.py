"""The examples run as they are, and the one that saves goes on to the same weights after kill -9."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from fairseq_runs import Fairseq

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def start(name, *words):
    return Fairseq(EXAMPLES, EXAMPLES).python(EXAMPLES / f"{name}.py", *words)


def accuracy(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return float(re.search(r"accuracy (\S+) on \d+ new sentences", output)[1])


@pytest.mark.slow
def test_a_loop_of_ones_own_learns():
    assert accuracy(start("own_loop", "--method", "weighted_freeze", "--steps", 120)) > 0.9


@pytest.mark.slow
def test_the_trainer_learns_and_goes_on_after_a_kill(tmp_path):
    words = ["--method", "sage", "--steps", 120, "--save-steps", 60]
    assert accuracy(start("huggingface_trainer", *words, "--out", tmp_path / "whole")) > 0.9
    killed = start("huggingface_trainer", *words, "--out", tmp_path / "killed")
    saved = tmp_path / "killed/checkpoint-60/trainer_state.json"  # the last file of a checkpoint
    deadline = time.monotonic() + 300
    while not saved.is_file() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed/checkpoint-120").exists()
    assert accuracy(start("huggingface_trainer", *words, "--out", tmp_path / "killed")) > 0.9
    one, other = (tmp_path / name / "model.safetensors" for name in ("whole", "killed"))
    assert one.read_bytes() == other.read_bytes()
