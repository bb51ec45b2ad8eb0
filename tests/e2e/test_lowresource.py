"""The low-resource study: its tuning in small, and the commands of its script."""

import csv
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import miniature
import pytest
from fairseq_runs import environment
from recipe_runs import finished, wff

from weighted_freezing_fairseq.__main__ import build_parser

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts/lowresource"
SHORT = ("optimization.max_update=4", "dataset.validate_interval_updates=2", "checkpoint.save_interval_updates=2")


def test_each_value_is_scored_on_the_validation_set_and_once(tmp_path):
    archives = miniature.multi30k(tmp_path / "archives", train=80, others=5)
    words = ["--pairs", "de-en", "--archive", archives, "--out", tmp_path / "data", "--pieces", 150, "--any-counts"]
    assert wff("prepare", "multi30k", *words).returncode == 0

    def tune(*words):
        call = [sys.executable, SCRIPTS / "tune.py", "--data", "data", "--out", "tune", "--csv", "tune.csv", *words]
        return finished(call, cwd=tmp_path, env=environment())

    words = ["--methods", "standard", *(word for setting in SHORT for word in ("--set", setting))]
    done = tune(*words)
    assert done.returncode == 0, done.stderr + "".join(path.read_text() for path in tmp_path.rglob("tune.log"))
    with (tmp_path / "tune.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["setting"], row["value"]) for row in rows] == [
        ("standard", "model.dropout", value) for value in ("0.1", "0.2", "0.3")
    ]
    for row in rows:
        run = tmp_path / f"tune/standard/{row['value']}/clean/de-en/standard-1"
        assert f"dropout: {row['value']}" in (run / "run.yaml").read_text() and row["best_update"] == "4"
        translations = next((run / "valid").glob("*.hyp.txt")).read_bytes()
        assert len(translations.splitlines()) == 5
        assert row["output_sha256"] == hashlib.sha256(translations).hexdigest()
        assert not (run / "scores").exists()  # of test sets
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    assert tune(*words).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    unknown = tune("--methods", "nonsense")
    assert unknown.returncode == 2 and "no grid for nonsense; choose from standard," in unknown.stderr


@pytest.fixture
def script(tmp_path):
    """The script in a repository whose `wff` prints its words."""
    for name, content in {"scripts/setup.sh": "", ".venv/bin/wff": 'echo "$*"\n'}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{content}")
        path.chmod(0o755)
    path = shutil.copytree(SCRIPTS, tmp_path / "scripts/lowresource") / "reproduce.sh"

    def run(*words):
        return subprocess.run(["bash", path, *words], cwd=tmp_path, capture_output=True, text=True)

    return run


def commands(done):
    assert done.returncode == 0, done.stderr
    prepared, *others = done.stdout.splitlines()
    assert prepared.startswith("prepare multi30k ") and "--archive my files" in prepared
    assert prepared.endswith(" --dry-run") == any(line.endswith(" --dry-run") for line in others)
    for line in others:
        name, *words = line.split()
        build_parser(name).parse_args([name, *words])
    return others


@pytest.mark.parametrize(("limit", "updates"), [("3000", None), ("10000", "2500")])
def test_every_method_is_run(script, limit, updates):
    five, three = commands(script("--limit", limit, "--archive", "my files", "--jobs", "2"))
    for line, seeds in ((five, "1-5"), (three, "1-3")):
        assert line.startswith("reproduce multi30k ") and f"--seeds {seeds} " in line and line.endswith("--jobs 2")
        assert f"--data data/lowresource-{limit} " in line and f"--out runs/lowresource-{limit} " in line
        assert re.findall(r"max_update=(\d+)", line) == [updates] * (updates is not None)
    of_figures = commands(script("figures", "--limit", limit, "--archive", "my files"))
    of_freezing = commands(script("freezing", "--limit", limit, "--archive", "my files"))
    named = {
        method
        for line in (five, three, *of_figures, *of_freezing)
        for method in re.findall(r"--methods (\S+)", line)[:1]
        for method in method.split(",")
    }
    assert named == {path.stem for path in (SCRIPTS.parents[1] / "configs/lowresource").glob("*.yaml")}
    assert [line.split()[0] for line in of_figures] == ["reproduce"] * 2 + ["plot"] * 4 + ["sensitivity", "prune"]
    *arms, report = of_freezing
    assert len(arms) == 4 and all("max_update" in line for line in arms)
    assert report == f"report runs/lowresource-{limit}-freezing --table runs"  # one table of all arms
    for part in ("figures", "freezing"):
        dry = commands(script(part, "--dry-run", "--limit", limit, "--archive", "my files"))
        assert all(line.startswith("reproduce ") and line.endswith(" --dry-run") for line in dry)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "7"], "there is no study of 7 pairs, but of 3000 and 10000"),
        (["--limit"], "--limit needs a value"),
        (["tables"], "there is no part tables"),
    ],
)
def test_a_wrong_call_says_what_to_type(script, words, said):
    done = script(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"reproduce.sh: {said}; type: bash scripts/lowresource/reproduce.sh --help\n"
