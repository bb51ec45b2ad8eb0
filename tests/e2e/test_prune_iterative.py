"""Iterative pruning in small: a parent of a few updates, pruned by two methods with and without alignment."""

import csv
import json

import pytest
from omegaconf import OmegaConf
from recipe_runs import kill_when_there, shortened, wff

from weighted_freezing_fairseq.core.pruning import METHODS
from weighted_freezing_fairseq.data.embedded import PAIRS
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.scoring.scores import Score, score
from weighted_freezing_fairseq.studies.prune_iterative import Child, alignment, table
from weighted_freezing_fairseq.workspace.runs import Run


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
    made = OmegaConf.load(folder / "magnitude+cosine@0.5+0.4-1/run.yaml")
    assert (made.criterion.prune, made.criterion.alignreg, made.criterion.prune_target) == ("magnitude", "cosine", 0.4)
    assert made.criterion.alignreg_lambda == 0.5
    assert made.checkpoint.finetune_from_model == str(folder / "parent-1/checkpoints/checkpoint_last.pt")
    assert (folder / "table.md").read_text().strip() in done.stdout

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    again = wff(*words)
    assert again.returncode == 0 and again.stdout == done.stdout
    other = wff(*words, "--corpus-fraction", 0.2)
    assert other.returncode == 2 and "type another folder: --out DIR" in other.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before


def test_a_model_of_all_languages_is_pruned_on_one_and_scored_on_all(tmp_path):
    parent = shortened("prune/many_to_one.yaml", tmp_path / "parent", updates=4, every=4, log_interval=2)
    shortened("prune/alignreg.yaml", tmp_path / "configs", updates=4, every=4, log_interval=2)
    yaml = tmp_path / "configs/alignreg.yaml"
    yaml.write_text(yaml.read_text().replace("prune_interval: 30", "prune_interval: 1"))
    words = ["prune-iterative", "--zero-shot", "--configs", tmp_path / "configs", "--parent-config", parent]
    words += ["--out", tmp_path / "run", "--corpus-fraction", 0.05, "--device", "cpu", "--seeds", "3-3"]
    words += ["--methods", "magnitude", "--alignreg", "none,frobenius", "--sparsity", "0.1,0.3"]
    done = wff(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "run/de-en"
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    runs = [("parent", "none", 0), ("none", "none", 0), ("none", "frobenius", 0)]
    runs += [("magnitude", kind, share) for share in (0.1, 0.3) for kind in ("none", "frobenius")]
    assert [(row["prune"], row["alignreg"], round(float(row["sparsity"]), 2)) for row in rows[::8]] == runs
    assert [row["pair"] for row in rows] == [*PAIRS] * len(runs) and {row["sentences"] for row in rows} == {"20"}
    reference = folder / "all/raw/test.en"
    translated = folder / "magnitude+frobenius+0.3-3/scores/test.last.hyp.txt"
    for n, row in enumerate(rows[-8:]):
        parts = [path.read_text().splitlines()[20 * n : 20 * n + 20] for path in (translated, reference)]
        assert float(row["bleu"]) == round(score(*parts).bleu, 2)
        other = "".join(f"{line}\n" for line in parts[1])
        assert PAIRS[n] != "de-en" or (folder / "tuned/raw/test.en").read_text() == other
    others = ", ".join(pair for pair in PAIRS if pair != "de-en")
    assert f"| mean of {others}, not tuned on | zeros |" in done.stdout
    dictionaries = [(folder / name).read_text() for name in ("all/bin/dict.mul.txt", "tuned/bin/dict.de.txt")]
    assert dictionaries[0] == dictionaries[1]


def test_an_alignment_may_have_a_lambda_of_its_own():
    assert alignment("cosine") == {"alignreg": "cosine"}
    assert alignment("cosine@5e-2") == {"alignreg": "cosine", "alignreg_lambda": 0.05}
    for wrong in ("cosine@", "cosine@-1", "none@1", "sine@1"):
        with pytest.raises(UserError, match="type --alignreg with some of: none,cosine,frobenius, or with a lambda"):
            alignment(wrong)


def test_the_tables_have_a_row_a_method_and_a_column_an_alignment(tmp_path):
    made = {
        "parent": None,
        "lamp+none+0.7": Child("lamp", "none", 0.7),
        "lamp+cosine+0.7": Child("lamp", "cosine", 0.7),
    }
    bleu = {"parent": (30.0, 32.0), "lamp+none+0.7": (20.0, 24.0), "lamp+cosine+0.7": (21.0, 23.0)}
    runs = {Run(name, seed, tmp_path): value for name, values in bleu.items() for seed, value in enumerate(values, 1)}
    children = {run: made[run.method] for run in runs if made[run.method]}
    assert all(child.name == run.method for run, child in children.items())
    scores = {run: {"de-en": Score(value, "B", 2 * value, "C", 400)} for run, value in runs.items()}
    text, rows = table(scores, dict.fromkeys(children, 0.7), children, "de-en")
    expected = [
        "| pruning (de-en) | zeros | BLEU, alignreg none | BLEU, alignreg cosine | seeds |",
        "|---|---|---|---|---|",
        "| `parent` | 0.00 % | 31.00 ± 1.41 | - | 1 2 |",
        "| `lamp` | 70.00 % | 22.00 ± 2.83 | 22.00 ± 1.41 | 1 2 |",
    ]
    assert text.splitlines()[:4] == expected and "not tuned on" not in text
    assert json.loads(json.dumps(rows))[2] == {
        "tuned": "de-en", "pair": "de-en", "prune": "lamp", "alignreg": "none", "seed": 1, "sparsity": "0.700000",
        "bleu": "20.00", "chrf": "40.00", "sentences": 400, "bleu_signature": "B", "chrf_signature": "C",
    }  # fmt: skip
    for run, by_pair in scores.items():
        for other, plus in (("es-en", 1.0), ("pl-en", 3.0)):
            by_pair[other] = Score(runs[run] + plus, "B", 1.0, "C", 400)
    text, rows = table(scores, dict.fromkeys(children, 0.7), children, "de-en")
    assert text.splitlines()[:4] == expected and len(rows) == 3 * len(runs)
    assert text.splitlines()[5] == "| mean of es-en, pl-en, not tuned on" + expected[0].removeprefix(
        "| pruning (de-en)"
    )
    assert text.splitlines()[7] == "| `parent` | 0.00 % | 33.00 ± 1.41 | - | 1 2 |"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--methods", "magnitude,mbp"],
            f"unknown 'mbp' in --methods; type --methods with some of: {','.join(METHODS)}",
        ),
        (["--alignreg", "l2"], "type --alignreg with some of: none,cosine,frobenius"),
        (["--alignreg", "cosine@much"], "or with a lambda, as in cosine@0.5"),
        (["--sparsity", "0.5,1"], "type --sparsity 0.7"),
        (["--sparsity", "half"], "--sparsity has 'half'; type fractions, as in --sparsity 0.3,0.5,0.7"),
        (["--configs", "/nowhere"], "give --configs a folder with alignreg.yaml"),
        (["--seeds", "0"], "invalid seeds '0': type positive numbers, as 1,2,3 or 1-3"),
        (["--seeds", "3"], "3 is ambiguous: type 1-3 for 3 seeds, or 3-3 for one"),
    ],
)
def test_wrong_calls_say_what_to_type(words, expected):
    done = wff("prune-iterative", *words)
    assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1
