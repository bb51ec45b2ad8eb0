"""Domain adaptation in small: the same path with a few updates a run."""

import csv
import json

import pytest
import torch
from omegaconf import OmegaConf
from recipe_runs import differences, shortened, wff

from weighted_freezing_fairseq.core.rules import RULES

METHODS = ("standard", "ewc", "fish_mask", "gmt", "lfr_cm", "lisa", "mofo", "spg")


def test_a_twin_differs_in_its_method_and_its_learning_rate_only():
    found = differences("adapt")
    assert set(found) == set(METHODS)
    standard, nothing = found.pop("standard")
    assert nothing == set()
    for name, (cfg, changed) in found.items():
        part = RULES[name].kind
        assert changed - {"optimization"} == {part} and cfg[part]["_name"] == name
        kept = {key: value for key, value in standard[part].items() if key != "_name"}
        assert kept and kept.items() <= cfg[part].items(), name
        assert {**cfg["optimization"], "lr": 0} == {**standard["optimization"], "lr": 0}


def test_from_nothing_to_a_table_of_two_domains_and_again(tmp_path):
    configs, out = tmp_path / "configs", tmp_path / "a run"
    for method in METHODS:
        shortened(f"adapt/{method}.yaml", configs, updates=6, every=6, log_interval=2)
    parent_yaml = shortened("toy/standard.yaml", tmp_path / "parent", updates=12, every=12, log_interval=5)
    words = ["adapt", "--configs", configs, "--parent-config", parent_yaml, "--out", out, "--pair", "nl-en"]
    words += ["--corpus-fraction", 0.1]
    words += ["--samples", 60, "--density", 0.01, "--device", "cpu", "--methods", "ewc,fish_mask,lfr_cm,spg"]
    done = wff(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = out / "nl-en"
    assert (folder / "table.md").read_text().strip() in done.stdout
    with (folder / "table.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"parent", "ewc", "fish_mask", "lfr_cm", "spg"}
    for row in rows.values():
        assert row["sentences_old"] == row["sentences_new"] == "40" and "tok:13a" in row["bleu_signature"]
    changed = {method: float(row["changed_fraction"]) for method, row in rows.items()}
    assert 0.2 < changed["lfr_cm"] <= 0.2501 and 0.009 < changed["fish_mask"] <= 0.0101 and changed["ewc"] > 0.9
    assert changed["spg"] > 0.9
    assert float(rows["fish_mask"]["packed_fraction"]) < float(rows["lfr_cm"]["packed_fraction"])

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
    # ewc is held by where the parent was measured: by nothing at the start, which is there
    assert OmegaConf.load(folder / "ewc-1/run.yaml").criterion.ewc_anchor == f"{folder}/parent-1/fisher.pt"
    log = (folder / "ewc-1/train.log").read_text().splitlines()
    pulls = [float(json.loads(line[line.index("{") :])["ewc"]) for line in log if "[train_inner]" in line]
    assert len(pulls) == 3 and pulls[0] < 1e-3 < pulls[2]

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    again = wff(*words)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pair", "fr-en"], "type --pair with one of: ar-en, de-en"),
        (["--methods", "ewq"], "did you mean ewc?\n"),
        (["--seeds", "0"], "invalid seeds '0': type positive numbers, as 1,2,3 or 1-3"),
        (["--seeds", "3"], "3 is ambiguous: type 1-3 for 3 seeds, or 3-3 for one"),
        (["--density", "5"], "type --density 0.05"),
    ],
)
def test_wrong_calls_say_what_to_type(words, expected):
    done = wff("adapt", *words)
    assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1
