"""kill -9 at any moment, then the same command: the result of a call that was left alone, and nothing beside it.

KILLS=10 pytest tests/e2e/test_kills.py: ten moments for each command instead of one.
"""

import csv
import os
import random
import re
import shutil
import signal
import subprocess
import time
from functools import partial

import miniature
import numpy as np
import pytest
import torch
from fairseq_runs import assert_same
from forked import Killer, forked
from recipe_runs import shortened, start, wff

from weighted_freezing_fairseq.__main__ import main

KILLS = int(os.environ.get("KILLS", 1))


def killed(longest, start, clear):
    """The moments, in seconds, at which processes were killed. One that ended before its moment starts anew."""
    moments = []
    while len(moments) < KILLS:
        moment = random.SystemRandom().uniform(0, longest)
        process = start()
        try:
            process.communicate(timeout=moment)
            clear()
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            moments.append(moment)
    return moments


def killed_and_called_again(longest, *words, folder):
    """The moments at which the command, which writes to `folder`, was killed; then it was let run to its end."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    moments = killed(longest, lambda: start(*words, **quiet), partial(shutil.rmtree, folder))
    done = wff(*words)
    assert done.returncode == 0, (moments, done.stderr)
    return moments


def timed(*words):
    """How long the command takes when it is left alone."""
    begin = time.monotonic()
    done = wff(*words)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - begin


def names(folder):
    """Every file, but for lock files, and those of TensorBoard, which writes one more at each start."""
    found = [path for path in folder.rglob("*") if "tensorboard" not in path.parts]
    return {str(path.relative_to(folder)) for path in found if path.suffix != ".lock" and path.name != ".lock"}


def assert_same_names(whole, killed, moments):
    """But for one checkpoint: fairseq deletes the one before when it has written the last. A kill may fall between."""
    assert names(whole) <= names(killed), moments
    left = names(killed) - names(whole)
    assert len(left) <= 1 and all(re.search(r"checkpoint_\d+_\d+\.pt$", name) for name in left), (left, moments)


@pytest.fixture(scope="module")
def measured(fairseq_module):
    fairseq_module.train("run", "--optimizer", "adam", "--max-update", "8")
    return [fairseq_module.folder / "run/checkpoint_last.pt", "--data", fairseq_module.data]


@pytest.fixture(scope="module")
def fairseq_module(toy_data, tmp_path_factory):
    from fairseq_runs import Fairseq

    return Fairseq(toy_data, tmp_path_factory.mktemp("trained"))


def test_prepare(tmp_path):
    """By two processes, which may outlive their parent for a moment."""
    archives = miniature.iwslt14(tmp_path / "archives", ("de",), 100)
    words = ["prepare", "iwslt14", "--langs", "de", "--recipe", "fairseq", "--archive", archives, "--pieces", 200]
    words += ["--jobs", 2, "--out"]
    longest = timed(*words, tmp_path / "whole")
    moments = killed_and_called_again(longest, *words, tmp_path / "killed", folder=tmp_path / "killed")
    assert names(tmp_path / "whole") == names(tmp_path / "killed"), moments
    for name in names(tmp_path / "whole"):
        whole, killed = (tmp_path / folder / name for folder in ("whole", "killed"))
        assert whole.is_dir() or whole.read_bytes() == killed.read_bytes(), (name, moments)


def test_average(measured, tmp_path):
    words = ["average", measured[0], measured[0], "--out"]
    longest = timed(*words, tmp_path / "whole/a.pt")
    moments = killed_and_called_again(longest, *words, tmp_path / "killed/a.pt", folder=tmp_path / "killed")
    assert names(tmp_path / "whole") == names(tmp_path / "killed") == {"a.pt"}, moments
    assert (tmp_path / "whole/a.pt").read_bytes() == (tmp_path / "killed/a.pt").read_bytes()


def test_pack(measured, tmp_path):
    words = ["pack", measured[0], measured[0], "--optimizer-state", "--out"]
    assert wff(*words, tmp_path / "whole/p.wff").returncode == 0
    out = tmp_path / "killed/p.wff"
    for moment in (2, 3):  # before it writes into its part, and before that gets its name
        call = partial(main, [*map(str, words), str(out)])
        assert forked(tmp_path, call, Killer(out.parent, moment))[0] == -signal.SIGKILL
        assert not out.exists()
    assert wff(*words, out).returncode == 0
    assert names(tmp_path / "whole") == names(tmp_path / "killed") == {"p.wff"}
    assert (tmp_path / "whole/p.wff").read_bytes() == out.read_bytes()


def test_fisher(measured, tmp_path):
    words = ["fisher", *measured, "--estimator", "sampled", "--draws", 2, "--samples", 60, "--max-tokens", 60]
    longest = timed(*words, "--out", tmp_path / "whole/f.pt")
    moments = killed_and_called_again(longest, *words, "--out", tmp_path / "killed/f.pt", folder=tmp_path / "killed")
    assert names(tmp_path / "whole") == names(tmp_path / "killed") == {"f.pt"}, moments
    whole, killed = (torch.load(tmp_path / name / "f.pt", weights_only=True) for name in ("whole", "killed"))
    assert_same(whole, killed)


def test_sensitivity(measured, tmp_path):
    words = ["sensitivity", *measured, "--batches", 20, "--max-tokens", 100, "--device", "cpu"]
    longest = timed(*words, "--out", tmp_path / "whole")
    moments = killed_and_called_again(longest, *words, "--out", tmp_path / "killed", folder=tmp_path / "killed")
    assert names(tmp_path / "whole") == names(tmp_path / "killed"), moments
    table, again = ((tmp_path / name / "sensitivity.csv").read_text() for name in ("whole", "killed"))
    assert table == again
    samples, again = (np.load(next((tmp_path / name / "samples").iterdir())) for name in ("whole", "killed"))
    assert np.array_equal(samples, again)


def test_evaluate(measured, toy_data, tmp_path):
    words = ["evaluate", *measured, "--reference", toy_data.parent / "test.y", "--device", "cpu", "--out"]
    longest = timed(*words, tmp_path / "whole")
    moments = killed_and_called_again(longest, *words, tmp_path / "killed", folder=tmp_path / "killed")
    assert names(tmp_path / "whole") == names(tmp_path / "killed"), moments
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), (path.name, moments)


def test_bench(tmp_path):
    """Whose times differ from run to run."""
    words = ["bench", "--methods", "standard,sage", "--size", "toy", "--rounds", 1, "--out"]
    longest = timed(*words, tmp_path / "whole")
    moments = killed_and_called_again(longest, *words, tmp_path / "killed", folder=tmp_path / "killed")
    assert names(tmp_path / "whole") == names(tmp_path / "killed"), moments
    texts = [(tmp_path / name / "bench.csv").read_text().splitlines() for name in ("whole", "killed")]
    columns = ("method", "size", "state_bytes", "flops")
    whole, killed = ([[row[column] for column in columns] for row in csv.DictReader(text)] for text in texts)
    assert whole == killed and [row[0] for row in whole] == ["standard", "sage"], moments


TRAININGS = {
    "alignreg": ["--prune", "magnitude", "--prune-interval", 4, "--alignreg-lambda", 0.1],
    "ewc": ["--ewc-lambda", 10],
    "intra_distillation": ["--alpha", 1, "--num-passes", 2],
}


@pytest.mark.parametrize("criterion", TRAININGS)
def test_training(fairseq, criterion):
    flags = ["--optimizer", "adam", "--criterion", criterion, *TRAININGS[criterion], "--max-update", 30]
    flags += ["--save-interval-updates", 3, "--keep-interval-updates", 1]
    begin = time.monotonic()
    fairseq.train("whole", *flags)
    longest = time.monotonic() - begin
    start = partial(fairseq.start, "train", *fairseq.train_words("killed", *flags))
    moments = killed(longest, start, partial(shutil.rmtree, fairseq.folder / "killed"))
    fairseq.train("killed", *flags)
    assert_same_names(fairseq.folder / "whole", fairseq.folder / "killed", moments)
    whole, again = (fairseq.checkpoint(name) for name in ("whole", "killed"))
    for key in ("model", "last_optimizer_state"):
        assert_same(whole[key], again[key], f"{moments} {key}")
    assert_same(*(state["extra_state"].get("guided_criterion") for state in (whole, again)), str(moments))


def test_quickstart(tmp_path):
    shortened("toy/standard.yaml", tmp_path / "configs", updates=20, every=5, log_interval=5)
    words = [
        "quickstart",
        "--configs",
        tmp_path / "configs",
        "--methods",
        "standard",
        "--pair",
        "nl-en",
        "--device",
        "cpu",
    ]
    words += ["--device", "cpu", "--corpus-fraction", 0.1, "--out"]
    longest = timed(*words, tmp_path / "whole")
    moments = killed_and_called_again(longest, *words, tmp_path / "killed", folder=tmp_path / "killed")
    assert_same_names(tmp_path / "whole", tmp_path / "killed", moments)
    whole, killed = (tmp_path / name / "nl-en" for name in ("whole", "killed"))
    checkpoint = "standard-1/checkpoints/checkpoint_last.pt"
    models = [torch.load(folder / checkpoint, weights_only=False)["model"] for folder in (whole, killed)]
    assert_same(*models)
    rows, again = (list(csv.DictReader((folder / "table.csv").read_text().splitlines())) for folder in (whole, killed))
    for row in (*rows, *again):
        del row["time_ratio"], row["memory_ratio"]
    assert rows == again and len(rows) == 1, moments
