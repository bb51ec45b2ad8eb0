"""Domain adaptation in small: the same path with a few updates a run."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
METHODS = ("standard", "fish_mask", "lfr_cm")


def adapt(*words):
    return subprocess.run(
        [sys.executable, "-m", "weighted_freezing_fairseq", "adapt", *map(str, words)],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip


def test_twins_differ_in_the_optimizer_and_the_learning_rate_only():
    from omegaconf import OmegaConf

    found = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in (CONFIGS / "adapt").glob("*.yaml")}
    assert set(found) == set(METHODS)
    for name, cfg in found.items():
        optimizer = cfg.pop("optimizer")
        assert optimizer["_name"] == ("adam" if name == "standard" else name)
        assert optimizer["adam_betas"] == "(0.9, 0.98)"
        cfg["optimization"].pop("lr")
    assert all(cfg == found["standard"] for cfg in found.values())


def shortened(text, updates):
    text = re.sub(r"max_update: \d+", f"max_update: {updates}", text)
    return re.sub(r"(validate|save)_interval_updates: \d+", rf"\1_interval_updates: {updates}", text)


@pytest.mark.slow
def test_from_nothing_to_a_table_of_two_domains_and_again(tmp_path):
    configs, out = tmp_path / "configs", tmp_path / "a run"
    configs.mkdir()
    for method in METHODS:
        (configs / f"{method}.yaml").write_text(shortened((CONFIGS / f"adapt/{method}.yaml").read_text(), 6))
    (tmp_path / "parent.yaml").write_text(shortened((CONFIGS / "toy/standard.yaml").read_text(), 12))
    words = ["--configs", configs, "--parent-config", tmp_path / "parent.yaml", "--out", out, "--pair", "nl-en"]
    words += ["--samples", 60, "--density", 0.01, "--device", "cpu", "--methods", "fish_mask,lfr_cm"]
    done = adapt(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = out / "nl-en"
    assert (folder / "table.md").read_text().strip() in done.stdout
    with (folder / "table.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"parent", "fish_mask", "lfr_cm"}
    for row in rows.values():
        assert row["sentences_old"] == row["sentences_new"] == "400" and "tok:13a" in row["bleu_signature"]
    changed = {method: float(row["changed_fraction"]) for method, row in rows.items()}
    assert 0.2 < changed["lfr_cm"] <= 0.2501 and 0.009 < changed["fish_mask"] <= 0.01001
    assert float(rows["fish_mask"]["packed_fraction"]) < 0.03 < float(rows["lfr_cm"]["packed_fraction"])

    # one vocabulary: the new domain is spoken in the parent's pieces
    dictionaries = [(folder / f"{domain}/bin/dict.en.txt").read_text() for domain in ("old", "new")]
    assert dictionaries[0] == dictionaries[1]
    # the children began where the parent ended, and most of lfr_cm's numbers are still there
    parent, child = (
        torch.load(folder / f"{name}-1/checkpoints/checkpoint_last.pt", weights_only=False)["model"]
        for name in ("parent", "lfr_cm")
    )
    once = {parent[n].data_ptr(): n for n in parent}.values()  # tied weights have several names
    kept = sum(int((parent[n] == child[n]).sum()) for n in once) / sum(parent[n].numel() for n in once)
    assert 0.7 < kept < 0.8

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    again = adapt(*words)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pair", "fr-en"], "type --pair with one of: ar-en, de-en"),
        (["--methods", "ewq"], "type --methods with some of: standard,fish_mask,lfr_cm"),
        (["--seeds", "0"], "type --seeds 1"),
        (["--density", "5"], "type --density 0.05"),
    ],
)
def test_wrong_calls_say_what_to_type(words, expected):
    done = adapt(*words)
    assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1
