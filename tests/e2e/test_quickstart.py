"""The main job in small: the same path with twenty updates a run."""

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / "configs/toy"
TWINS = ("standard", "sage", "weighted_freeze")  # every method of configs/toy
METHODS = ("standard", "weighted_freeze")  # what the quickstart trains


def quickstart(*words):
    return subprocess.run(
        [sys.executable, "-m", "weighted_freezing_fairseq", "quickstart", *map(str, words)],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip


def kill_when_there(goal, *words):
    """kill -9 a quickstart as soon as `goal` exists; what it started dies with it."""
    command = [sys.executable, "-m", "weighted_freezing_fairseq", "quickstart", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.time() + 300
    while not goal.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -9 and goal.exists()
    time.sleep(1)
    size = (goal.parents[1] / "train.log").stat().st_size
    time.sleep(2)
    assert (goal.parents[1] / "train.log").stat().st_size == size


def test_twins_differ_in_the_optimizer_only():
    from omegaconf import OmegaConf

    found = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in sorted(CONFIGS.rglob("*.yaml"))}
    assert set(found) == set(TWINS)
    optimizers = {name: cfg.pop("optimizer") for name, cfg in found.items()}
    assert all(cfg == found["standard"] for cfg in found.values())
    for name, optimizer in optimizers.items():
        assert optimizer["_name"] == ("adam" if name == "standard" else name)
        assert optimizer["adam_betas"] == optimizers["standard"]["adam_betas"]


@pytest.mark.slow
def test_from_nothing_to_a_table_and_again(tmp_path):
    configs, out = tmp_path / "configs", tmp_path / "a run"
    configs.mkdir()
    for method in METHODS:
        text = (CONFIGS / f"{method}.yaml").read_text()
        text = re.sub(r"max_update: \d+", "max_update: 20", text).replace("log_interval: 50", "log_interval: 5")
        text = re.sub(r"(validate|save)_interval_updates: \d+", r"\1_interval_updates: 10", text)
        (configs / f"{method}.yaml").write_text(text)
    words = ["--configs", configs, "--out", out, "--pair", "nl-en", "--device", "cpu"]
    folder = out / "nl-en"
    kill_when_there(folder / "standard-1/checkpoints/checkpoint_last.pt", *words)
    done = quickstart(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (folder / "standard-1/train.log").read_text()
    assert "Loaded checkpoint" in log and log.index("Loaded checkpoint") > log.index("10 updates")
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert row["sentences"] == "400" and "tok:13a" in row["bleu_signature"]
        assert 0.3 < float(row["update_time_ratio"]) < 3 and float(row["peak_memory_ratio"]) > 0.9
    assert (folder / "table.md").read_text().strip() in done.stdout
    assert "loss" in done.stderr  # progress

    # the picture, from its CSV, with both runs; TensorBoard with the method's own statistics
    with (folder / "curves.csv").open() as file:
        assert {(r["run"], r["split"]) for r in csv.DictReader(file)} == {
            (f"{m}-1", split) for m in METHODS for split in ("train", "valid")
        }
    assert (folder / "curves.png").stat().st_size > 10_000
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "weighted_freeze-1/tensorboard/train_inner")).Reload()
    assert {"frozen_fraction", "importance_mean", "importance_std"} <= set(events.Tags()["scalars"])

    # again: everything is reused, nothing is trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    again = quickstart(*words)
    assert again.returncode == 0 and again.stderr.count("training is done already") == 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before
    assert again.stdout == done.stdout

    # other settings: refused, and nothing is touched
    (configs / "standard.yaml").write_text((configs / "standard.yaml").read_text().replace("0.004", "0.003"))
    other = quickstart(*words)
    assert other.returncode == 2 and "give another --out" in other.stderr
    assert json.loads((folder / "standard-1/score.json").read_text())["sentences"] == 400


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pair", "fr-en"], "type --pair with one of: ar-en, de-en"),
        (["--methods", "sgae"], "type --methods with some of: standard,sage,weighted_freeze"),
        (["--seeds", "0"], "type --seeds 1"),
    ],
)
def test_wrong_calls_say_what_to_type(words, expected):
    done = quickstart(*words)
    assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1
