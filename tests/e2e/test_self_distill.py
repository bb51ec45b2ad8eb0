"""Self-distillation in small: two rounds of eight updates, each taught by all rounds before it."""

import csv
import json

import pytest
from omegaconf import OmegaConf
from recipe_runs import kill_when_there, shortened, wff

from weighted_freezing_fairseq.scoring.scores import Score
from weighted_freezing_fairseq.studies.self_distill import generations, table, teachers_of


def test_from_nothing_to_a_table_of_rounds_and_again(tmp_path):
    configs, out = tmp_path / "configs", tmp_path / "a run"
    for method in ("standard", "self_distillation"):
        shortened(f"toy/{method}.yaml", configs, updates=16, every=4, log_interval=2)
    words = ["self-distill", "--configs", configs, "--out", out, "--pair", "nl-en", "--device", "cpu", "--rounds", 2]
    words += ["--corpus-fraction", 0.1]
    folder = out / "nl-en"
    last = [folder / f"round-{n}-1/checkpoints/checkpoint_last.pt" for n in range(3)]
    kill_when_there(last[1], *words, "--ensemble")
    assert not last[2].exists()
    done = wff(*words, "--ensemble")
    assert done.returncode == 0, done.stdout + done.stderr
    # what was done is reused, what was begun goes on
    assert done.stderr.count("training is done already") == 1 and "round-0-1: training is done" in done.stderr
    log = (folder / "round-1-1/train.log").read_text()
    assert log.index("4 updates") < log.index("Loaded checkpoint") < log.index('"teacher_kl"', log.index("Loaded"))
    assert "round-2, seed 2001: update 16 of 16" in done.stderr  # progress

    made = [OmegaConf.load(folder / f"round-{n}-1/run.yaml") for n in range(3)]
    assert [cfg.common.seed for cfg in made] == [1, 1001, 2001]
    assert made[0].criterion._name == "label_smoothed_cross_entropy"
    assert made[1].criterion.teacher == str(last[0])
    assert made[2].criterion.teacher == f"{last[0]}:{last[1]}"

    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["round"], row["seed"]) for row in rows] == [("0", "1"), ("1", "1001"), ("2", "2001")]
    assert [row["taught_by"] for row in rows] == ["", "round 0", "round 0 and round 1"]
    for n, row in enumerate(rows):
        score = json.loads((folder / f"round-{n}-1/scores/test.last.json").read_text())
        assert row["sentences"] == "40" and row["bleu"] == f"{score['bleu']:.2f}"
    assert (folder / "table.md").read_text().strip() in done.stdout

    # again: everything is reused, nothing is trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}
    again = wff(*words, "--ensemble")
    assert again.returncode == 0 and again.stdout == done.stdout
    assert again.stderr.count("training is done already") == 3
    # other teachers: refused, and nothing is touched
    other = wff(*words)
    assert other.returncode == 2 and "round-2-1 holds the step training of other settings; give another" in other.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before


def test_who_teaches_whom(tmp_path):
    runs = generations(seed=7, rounds=3, folder=tmp_path)
    assert [run.seed for run in runs] == [7, 1007, 2007, 3007]
    assert [teachers_of(n, runs, ensemble=False) for n in range(4)] == [[], [runs[0]], [runs[1]], [runs[2]]]
    assert [teachers_of(n, runs, ensemble=True) for n in range(4)] == [[], runs[:1], runs[:2], runs[:3]]


def test_the_table_has_mean_and_deviation_of_each_round(tmp_path):
    bleu = {1: 30.0, 1001: 32.0, 2: 31.0, 1002: 35.0}
    scores = [
        {run: Score(bleu[run.seed], "B", 2 * bleu[run.seed], "C", 400) for run in generations(seed, 1, tmp_path)}
        for seed in (1, 2)
    ]
    text, rows = table(scores, ensemble=False, pair="de-en")
    # 30, 31: mean 30.5, deviation 1 / sqrt(2); 32, 35: mean 33.5, deviation 3 / sqrt(2)
    assert text.splitlines()[2:4] == [
        "| 0 | - | 30.50 ± 0.71 | 61.00 ± 1.41 | 1 2 |",
        "| 1 | round 0 | 33.50 ± 2.12 | 67.00 ± 4.24 | 1001 1002 |",
    ]
    assert [(row["round"], row["seed"], row["bleu"]) for row in rows] == [
        (0, 1, "30.00"), (0, 2, "31.00"), (1, 1001, "32.00"), (1, 1002, "35.00"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--pair", "fr-en"], "type --pair with one of: ar-en, de-en"),
        (["--rounds", "0"], "type --rounds 1"),
        (["--seeds", "0"], "invalid seeds '0': type positive numbers, as 1,2,3 or 1-3"),
        (["--seeds", "3"], "3 is ambiguous: type 1-3 for 3 seeds, or 3-3 for one"),
        (["--configs", "/nowhere"], "give --configs a folder with standard.yaml and self_distillation.yaml"),
        (["--teacher", "x.pt"], "type: wff self-distill --help"),
    ],
)
def test_wrong_calls_say_what_to_type(words, expected):
    done = wff("self-distill", *words)
    assert done.returncode == 2 and expected in done.stderr and len(done.stderr.splitlines()) == 1
