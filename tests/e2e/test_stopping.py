"""Ctrl-C and SIGTERM: one line that says how to go on, a status that says what happened, and no process left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import miniature
import pytest
from fairseq_runs import environment
from recipe_runs import command, shortened, wff

from weighted_freezing_fairseq.hydra_train import FIRST_UPDATE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def running(mark):
    """The processes that have this in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it is gone, or somebody else's; and one that ended has no environment
            if mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def stop_when(ready, number, whom, folder, *words):
    """What a command says when it is sent a signal as soon as `ready(its stderr so far)`, and its status."""
    errors, mark = folder / "stderr.txt", f"WFF_TEST_{time.time_ns()}"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            command(*words), cwd=folder, env={**environment(), mark: "1"}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=file,
            # As a terminal starts it: the tests themselves may run in the background, where SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    deadline = time.monotonic() + 200
    while not ready(errors.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, errors.read_text()
        time.sleep(0.05)
    (os.killpg if whom == "group" else os.kill)(process.pid, number)
    try:
        status = process.wait(20)
        deadline = time.monotonic() + 3
        while (left := running(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []
        return status, errors.read_text()
    finally:
        for left in running(mark):
            os.kill(left, signal.SIGKILL)


def says_how_to_go_on(status, said, number, words):
    assert status == 128 + number, said
    assert "Traceback" not in said and "Error" not in said, said
    *_, last = said.splitlines()
    name = signal.Signals(number).name
    assert last.startswith(f"wff: stopped by {name}; to continue, type the same again: wff {words[0]} "), said
    assert said.count("stopped by") == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Archives, data, and a YAML of a training that takes long."""
    folder = tmp_path_factory.mktemp("stopping")
    archives = miniature.multi30k(folder / "archives", train=80, others=5)
    done = wff("prepare", "multi30k", "--pairs", "de-en", "--archive", archives, "--out", folder / "data",
               "--pieces", 150, "--any-counts", "--jobs", 1)  # fmt: skip
    assert done.returncode == 0, done.stderr
    shortened("multi30k/standard.yaml", folder / "long", updates=100_000, every=20, log_interval=5)
    shortened("toy/standard.yaml", folder / "toy", updates=100_000, every=20, log_interval=5)
    shortened("multi30k/standard.yaml", folder / "configs", updates=20, every=10, log_interval=5)
    done = wff("train", *train_words(folder, "configs"))
    assert done.returncode == 0, done.stderr
    return folder


def train_words(folder, configs):
    words = ["multi30k", "--data", folder / "data", "--configs", folder / configs]
    return [*words, "--out", folder / f"runs-{configs}", "--device", "cpu"]


def log_has(path, text):
    return lambda said: path.is_file() and text in path.read_text()


def test_a_training_and_how_it_goes_on(folder):
    words = ["train", *train_words(folder, "long")]
    run = folder / "runs-long/clean/de-en/standard-1"
    saved = (run / "checkpoints/checkpoint_last.pt").exists
    says_how_to_go_on(*stop_when(lambda said: saved(), signal.SIGTERM, "parent", folder, *words), signal.SIGTERM, words)
    loaded = log_has(run / "train.log", "Loaded checkpoint")
    says_how_to_go_on(*stop_when(loaded, signal.SIGTERM, "group", folder, *words), signal.SIGTERM, words)


@pytest.mark.parametrize(
    ("name", "whom"),
    [
        ("prepare", "group"),
        ("evaluate", "parent"),
        ("quickstart", "group"),
        ("fisher", "group"),
        ("sensitivity", "parent"),
        ("bench", "group"),
    ],
)
def test_every_long_command(name, whom, folder, tmp_path):
    run = folder / "runs-configs/clean/de-en/standard-1"
    measured = [run / "checkpoints/checkpoint_last.pt", "--data", folder / "data/clean/de-en/bin"]
    prepared = tmp_path / "data/clean/de-en"
    archives = folder / "archives"
    words, ready = {
        "prepare": (
            ["multi30k", "--archive", archives, "--out", tmp_path / "data", "--pairs", "de-en", "--any-counts",
             "--jobs", 2],
            lambda said: prepared.exists(),
        ),
        "evaluate": ([run, "--device", "cpu", "--beam", 3], lambda said: "translating" in said),
        "quickstart": (
            ["--configs", folder / "toy", "--methods", "standard", "--seeds", "1-2", "--out", tmp_path / "q",
             "--device", "cpu", "--corpus-fraction", 0.1, "--jobs", 2],
            log_has(tmp_path / "q/de-en/standard-2/train.log", FIRST_UPDATE),
        ),
        "fisher": (
            [*measured, "--out", tmp_path / "f.pt", "--processes", 2, "--estimator", "sampled", "--draws", 100_000],
            lambda said: (tmp_path / ".f.pt.lock").exists(),
        ),
        "sensitivity": (
            [*measured, "--out", tmp_path / "s", "--batches", 1_000_000, "--device", "cpu"],
            lambda said: "checkpoint 1 of 1" in said,
        ),
        "bench": (
            ["--methods", "standard", "--size", "toy", "--rounds", 1_000_000, "--device", "cpu",
             "--vary", "processes=2"],
            lambda said: bool(said),
        ),
    }[name]  # fmt: skip
    number = signal.SIGINT
    says_how_to_go_on(*stop_when(ready, number, whom, tmp_path, name, *words), number, [name])
