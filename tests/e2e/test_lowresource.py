"""The low-resource study: its tuning in small, and the commands of its script."""

import csv
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import miniature
import pytest
from fairseq_runs import environment
from recipe_runs import wff

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts/lowresource"
SHORT = ("optimization.max_update=4", "dataset.validate_interval_updates=2", "checkpoint.save_interval_updates=2")


@pytest.mark.slow
def test_each_value_is_scored_on_the_validation_set_and_once(tmp_path):
    archives = miniature.multi30k(tmp_path / "archives", train=80, others=5)
    words = ["--pairs", "de-en", "--archive", archives, "--out", tmp_path / "data", "--pieces", 150, "--any-counts"]
    assert wff("prepare", "multi30k", *words).returncode == 0

    def tune(*words):
        call = [sys.executable, SCRIPTS / "tune.py", "--data", "data", "--out", "tune", "--csv", "tune.csv", *words]
        return subprocess.run(
            list(map(str, call)), cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600
        )

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


@pytest.mark.parametrize(("limit", "updates"), [([], None), (["--limit", "10000"], 2500), (["--limit", "7"], None)])
def test_the_script_prepares_and_runs_both_groups_of_methods(limit, updates, tmp_path):
    parts = {"scripts/setup.sh": "", ".venv/bin/wff": 'echo "$*"\n'}
    for name, content in parts.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{content}")
        path.chmod(0o755)
    script = shutil.copytree(SCRIPTS, tmp_path / "scripts/lowresource") / "reproduce.sh"
    done = subprocess.run(
        ["bash", script, *limit, "--archive", "my files", "--jobs", "2"], cwd=tmp_path, capture_output=True, text=True
    )
    if limit == ["--limit", "7"]:
        assert done.returncode == 2 and "type --limit 3000 or --limit 10000" in done.stderr
        return
    prepare, five, three = done.stdout.splitlines()
    pairs = limit[1] if limit else "3000"
    assert prepare.startswith("prepare multi30k ") and f"--limit {pairs} " in prepare and "my files" in prepare
    for line, seeds in ((five, "1-5"), (three, "1-3")):
        assert line.startswith("reproduce multi30k ") and f"--seeds {seeds} --jobs 2" in line
        assert f"--data data/lowresource-{pairs} --out runs/lowresource-{pairs}" in line
        assert (f"optimization.max_update={updates}" in line) == (updates is not None)
    methods = {path.stem for path in (SCRIPTS.parents[1] / "configs/lowresource").glob("*.yaml")}
    named = {method for line in (five, three) for method in line.split("--methods ")[1].split()[0].split(",")}
    assert named == methods
