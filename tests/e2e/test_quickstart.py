"""The main job in small: the same path with twenty updates a run."""

import csv
import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from recipe_runs import differences, kill_when_there, shortened, wff

from weighted_freezing_fairseq.__main__ import build_parser
from weighted_freezing_fairseq.core.rules import RULES
from weighted_freezing_fairseq.data.embedded import FULL, SMALL
from weighted_freezing_fairseq.studies.embedded import EmbeddedStudy
from weighted_freezing_fairseq.studies.quickstart import PURPOSES, reading, updates
from weighted_freezing_fairseq.workspace.configs import CONFIGS, methods_in

# Every YAML of configs/toy and the method that it trains with.
TWINS = {
    "standard": None,
    "alignreg": "alignreg",
    "cautious": "cautious",
    "cautious_decay": "cautious_decay",
    "ewc": "ewc",
    "gmt": "gmt",
    "intra_distillation": "intra_distillation",
    "intra_distillation_js": "intra_distillation",
    "magma": "magma",
    "mofo": "mofo",
    "r_drop": "intra_distillation",
    "sage": "sage",
    "self_distillation": "self_distillation",
    "switch_transformer": None,  # no method but a model
    "weighted_freeze": "weighted_freeze",
}
METHODS = ("standard", "fish_mask")  # the second starts from the first


def test_a_twin_differs_in_its_optimizer_its_criterion_or_its_model_only():
    found = differences("toy")
    assert set(found) == set(TWINS)
    standard, nothing = found.pop("standard")
    assert nothing == set()
    for name, (cfg, changed) in found.items():
        method = TWINS[name]
        part = "model" if method is None else RULES[method].kind
        assert changed == {part} and (method is None or cfg[part]["_name"] == method)
        kept = {key: value for key, value in standard[part].items() if key != "_name"}
        assert kept and kept.items() <= cfg[part].items(), name


def test_weighted_freezing_starts_when_the_warm_up_ends():
    settings = differences("toy")["weighted_freeze"][0]
    assert settings["optimizer"]["importance_start"] == settings["lr_scheduler"]["warmup_updates"] + 1


def test_three_methods_are_trained_on_the_small_corpus_unless_told_otherwise():
    args = build_parser("quickstart").parse_args(["quickstart"])
    assert args.methods == ["standard", "weighted_freeze", "intra_distillation"] and args.corpus == "small"


def test_standard_training_overfits_by_the_figures_of_the_docs():
    """The criterion by which the small corpus was chosen, for every seed: past the minimum, and a gap of 0.5 bits."""
    text = (CONFIGS.parent / "docs/getting-started.md").read_text(encoding="utf-8")
    chosen = rf"^\| {SMALL.train} \| (\d) \| ([\d.]+) at (\d+) \| ([\d.]+) at (\d+) \| ([\d.]+) \|"
    rows = [tuple(map(float, row)) for row in re.findall(chosen, text, re.MULTILINE)]
    assert [row[0] for row in rows] == [1, 2, 3] and f"{SMALL.pieces} subwords" in text
    for _, lowest, at, last, end, train in rows:
        assert at < end == SMALL.max_update and lowest < last and last - train >= 0.5


@pytest.mark.parametrize(("size", "expected"), [(SMALL, "overfits"), (FULL, "has not converged")])
def test_the_line_under_the_table_is_of_its_methods_and_its_corpus(size, expected):
    study = EmbeddedStudy("de-en", [1], Path("/out"), CONFIGS / "toy", size=size)
    text = reading(["standard", "weighted_freeze", "mine"], study)
    assert "`standard` is the baseline; `weighted_freeze` freezes important weights" in text and "`mine`" not in text
    assert f"On {size.train:,} training pairs" in text and expected in text and "\n" not in text
    assert "One seed decides nothing: type --seeds 1-3" in text


def test_a_training_on_the_small_corpus_is_no_longer_than_it_takes_to_overfit():
    assert [updates(CONFIGS / name, SMALL) for name in ("toy/standard.yaml", "adapt/fish_mask.yaml")] == [400, 300]
    assert updates(CONFIGS / "toy/standard.yaml", FULL) == 800


def test_pruning_is_done_when_a_training_on_the_small_corpus_ends():
    criterion = differences("toy")["alignreg"][0]["criterion"]
    steps = round(criterion["prune_target"] / criterion["prune_step"])
    assert steps * criterion["prune_interval"] < SMALL.max_update


def test_every_method_has_a_purpose():
    assert set(PURPOSES) == set(methods_in(CONFIGS / "toy", CONFIGS / "adapt"))


def test_from_nothing_to_a_table_and_again(tmp_path):
    configs, out = tmp_path / "configs", tmp_path / "a run"
    for path in ("toy/standard.yaml", "adapt/fish_mask.yaml"):
        shortened(path, configs, updates=20, every=10, log_interval=5)
    words = ["quickstart", "--configs", configs, "--out", out, "--pair", "nl-en", "--device", "cpu", "--jobs", 2]
    words += ["--corpus-fraction", 0.1]
    words += ["--methods", ",".join(METHODS)]
    folder = out / "nl-en"
    kill_when_there(folder / "standard-1/checkpoints/checkpoint_best.pt", *words)  # the last is saved each epoch
    done = wff(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith(("DEBUG", "INFO"))]
    log = (folder / "standard-1/train.log").read_text()
    assert "Loaded checkpoint" in log and log.index("Loaded checkpoint") > log.index("10 updates")
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert row["sentences"] == "40" and "tok:13a" in row["bleu_signature"]
        assert 0.3 < float(row["time_ratio"]) < 3 and float(row["memory_ratio"]) > 0.5
    assert (folder / "table.md").read_text().strip() in done.stdout
    assert "loss" in done.stderr  # progress
    assert json.loads((folder / "raw/corpus.json").read_text())["sizes"] == {
        "train": SMALL.train // 10, "valid": 40, "test": 40
    }  # fmt: skip
    assert "best checkpoint on validation" in done.stdout and "`fish_mask` trains few important" in done.stdout

    # what starts from the standard run, which was trained to its end before, and where its Fisher information is large
    child = OmegaConf.load(folder / "fish_mask-1/run.yaml")
    assert child.checkpoint.finetune_from_model == f"{folder}/standard-1/checkpoints/checkpoint_best.pt"
    assert child.optimizer.fish_mask == f"{folder}/standard-1/fish_mask.pt"
    assert done.stderr.index("standard, seed 1: trained in") < done.stderr.index("fish_mask, seed 1: update")

    # the picture, from its CSV, with all runs; TensorBoard with the method's own statistics
    with (folder / "curves.csv").open() as file:
        assert {(r["run"], r["split"]) for r in csv.DictReader(file)} == {
            (f"{m}-1", split) for m in METHODS for split in ("train", "valid")
        }
    assert (folder / "curves.png").stat().st_size > 10_000
    # the page, which knows of both runs all that they left, compares them, and is named at the end
    page = (folder / "report.html").read_text()
    assert done.stdout.endswith(f"for any browser: {folder / 'report.html'}\n")
    assert "<title>standard-1 and fish_mask-1: report" in page
    assert page.count("<img ") == 3 and "Cost of an update (size toy" in page and "Where each run was trained" in page
    assert "wff quickstart --configs" in page and "wff evaluate" not in page
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "fish_mask-1/tensorboard/train_inner")).Reload()
    assert "frozen_fraction" in events.Tags()["scalars"]

    # again: everything is reused, nothing is trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    again = wff(*words)
    assert again.returncode == 0 and again.stderr.count("training is done already") == 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before
    assert again.stdout == done.stdout

    # other settings: refused, and nothing is touched
    (configs / "standard.yaml").write_text((configs / "standard.yaml").read_text().replace("0.004", "0.003"))
    other = wff(*words)
    assert other.returncode == 2 and "give another --out" in other.stderr
    assert json.loads((folder / "standard-1/scores/test.best.json").read_text())["sentences"] == 40


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pair", "fr-en"], "type --pair with one of: ar-en, de-en"),
        (["--methods", "sgae"], "did you mean sage?\n"),
        (["--seeds", "0"], "invalid seeds '0': type positive numbers, as 1,2,3 or 1-3"),
        (["--seeds", "3"], "3 is ambiguous: type 1-3 for 3 seeds, or 3-3 for one"),
        (["--jobs", "0"], "type --jobs 1"),
    ],
)
def test_wrong_calls_say_what_to_type(words, expected):
    done = wff("quickstart", *words)
    assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1
