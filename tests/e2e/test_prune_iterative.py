"""Iterative pruning in small: a parent of a few updates, pruned by two methods with and without alignment."""

import csv
import json

import pytest
from omegaconf import OmegaConf
from recipe_runs import kill_when_there, shortened, wff

from weighted_freezing_fairseq.core.pruning import METHODS
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.scoring.scores import Score
from weighted_freezing_fairseq.studies.prune_iterative import alignment, table
from weighted_freezing_fairseq.workspace.runs import Run


@pytest.mark.slow
def test_from_nothing_to_a_table_and_again(tmp_path):
    configs, out = tmp_path / "configs", tmp_path / "a run"
    parent = shortened("toy/standard.yaml", tmp_path / "parent", updates=6, every=6, log_interval=2)
    yaml = shortened("prune/alignreg.yaml", configs, updates=10, every=5, log_interval=2)
    yaml.write_text(yaml.read_text().replace("prune_interval: 30", "prune_interval: 2"))
    words = ["prune-iterative", "--configs", configs, "--parent-config", parent, "--out", out, "--pair", "nl-en"]
    words += ["--corpus-fraction", 0.1]
    words += ["--device", "cpu", "--methods", "magnitude", "--alignreg", "none,cosine@0.5", "--sparsity", 0.4]
    folder = out / "nl-en"
    kill_when_there(folder / "none+none-1/checkpoints/checkpoint_last.pt", *words)
    done = wff(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "parent-1: training is done already" in done.stderr
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = [("parent", "none"), ("none", "none"), ("magnitude", "none"), ("magnitude", "cosine@0.5")]
    assert [(row["prune"], row["alignreg"]) for row in rows] == cells
    for row in rows:
        assert row["sentences"] == "40" and "tok:13a" in row["bleu_signature"]
        pruned = row["prune"] not in ("parent", "none")
        assert float(row["sparsity"]) == pytest.approx(0.4 if pruned else 0, abs=1e-3)
    made = OmegaConf.load(folder / "magnitude+cosine@0.5-1/run.yaml")
    assert (made.criterion.prune, made.criterion.alignreg, made.criterion.prune_target) == ("magnitude", "cosine", 0.4)
    assert made.criterion.alignreg_lambda == 0.5
    assert made.checkpoint.finetune_from_model == str(folder / "parent-1/checkpoints/checkpoint_last.pt")
    assert (folder / "table.md").read_text().strip() in done.stdout

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    again = wff(*words)
    assert again.returncode == 0 and again.stdout == done.stdout
    other = wff(*words[:-1], 0.2)
    assert other.returncode == 2 and "holds the step training of other settings; give another --out" in other.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before


def test_an_alignment_may_have_a_lambda_of_its_own():
    assert alignment("cosine") == {"alignreg": "cosine"}
    assert alignment("cosine@5e-2") == {"alignreg": "cosine", "alignreg_lambda": 0.05}
    for wrong in ("cosine@", "cosine@-1", "none@1", "sine@1"):
        with pytest.raises(UserError, match="type --alignreg with some of: none,cosine,frobenius, or with a lambda"):
            alignment(wrong)


def test_the_table_has_a_row_a_method_and_a_column_an_alignment(tmp_path):
    bleu = {"parent": (30.0, 32.0), "lamp+none": (20.0, 24.0), "lamp+cosine": (21.0, 23.0)}
    runs = {Run(name, seed, tmp_path): value for name, values in bleu.items() for seed, value in enumerate(values, 1)}
    children = {run: tuple(run.method.split("+")) for run in runs if run.method != "parent"}
    scores = {run: Score(value, "B", 2 * value, "C", 400) for run, value in runs.items()}
    text, rows = table(scores, dict.fromkeys(children, 0.7), children, "de-en")
    assert text.splitlines()[:4] == [
        "| pruning (de-en) | zeros | BLEU, alignreg none | BLEU, alignreg cosine | seeds |",
        "|---|---|---|---|---|",
        "| `parent` | 0.00 % | 31.00 ± 1.41 | - | 1 2 |",
        "| `lamp` | 70.00 % | 22.00 ± 2.83 | 22.00 ± 1.41 | 1 2 |",
    ]
    assert json.loads(json.dumps(rows))[2] == {
        "pair": "de-en", "prune": "lamp", "alignreg": "none", "seed": 1, "sparsity": "0.700000",
        "bleu": "20.00", "chrf": "40.00", "sentences": 400, "bleu_signature": "B", "chrf_signature": "C",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--methods", "magnitude,mbp"],
            f"unknown 'mbp' in --methods; type --methods with some of: {','.join(METHODS)}",
        ),
        (["--alignreg", "l2"], "type --alignreg with some of: none,cosine,frobenius"),
        (["--alignreg", "cosine@much"], "or with a lambda, as in cosine@0.5"),
        (["--sparsity", "1"], "type --sparsity 0.7"),
        (["--configs", "/nowhere"], "give --configs a folder with alignreg.yaml"),
        (["--seeds", "0"], "invalid seeds '0': type positive numbers, as 1,2,3 or 1-3"),
        (["--seeds", "3"], "3 is ambiguous: type 1-3 for 3 seeds, or 3-3 for one"),
    ],
)
def test_wrong_calls_say_what_to_type(words, expected):
    done = wff("prune-iterative", *words)
    assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1
