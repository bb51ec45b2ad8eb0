"""A matrix from archives to tables in small: trained, killed, gone on with, translated, scored, reported."""

import csv
import json
import subprocess

import miniature
import pytest
import torch
from fairseq_runs import USER_DIR, Fairseq, assert_same, environment
from recipe_runs import CONFIGS, kill_when_there, shortened, wff

from weighted_freezing_fairseq.scoring.scores import read_lines, score
from weighted_freezing_fairseq.workspace.machine import threads_per_job

METHODS = ("standard", "weighted_freeze", "self_distillation")  # the last is taught by the first
SET = "criterion.teacher_weight=2"  # and has this setting alone


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multi30k")
    archives = miniature.multi30k(folder / "archives", train=80, others=5)
    done = wff("prepare", "multi30k", "--pairs", "de-en", "--archive", archives, "--out", folder / "data",
               "--pieces", 150, "--any-counts", "--jobs", 1)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "data"


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    for method in METHODS:
        shortened(f"multi30k/{method}.yaml", folder, updates=20, every=10, log_interval=5)
    return folder


def words_of(data, configs, runs):
    return ["multi30k", "--data", data, "--configs", configs, "--out", runs, "--device", "cpu"]


def test_a_matrix_from_archives_to_tables(data, configs, tmp_path, monkeypatch):
    """One test, since the processes that share out tests would each train it."""
    monkeypatch.setenv("SLURM_JWT", "hunter2")
    runs = tmp_path / "runs"
    words = ["reproduce", *words_of(data, configs, runs), "--methods", ",".join(METHODS), "--seeds", "1"]
    words += ["--choices", "best", "--jobs", 2, "--set", SET]
    kill_when_there(runs / "clean/de-en/standard-1/checkpoints/checkpoint_last.pt", *words)
    assert "to train  " in wff(*words, "--dry-run").stdout
    done = wff(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    is_trained_scored_and_reported_through_a_kill(data, runs, runs / "clean/de-en")
    assert not [path for path in runs.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]  # logs, too
    a_second_call_changes_nothing_and_other_settings_are_refused(words, done.stdout, runs / "clean/de-en")
    flags_give_the_same_training(data, runs / "clean/de-en/weighted_freeze-1", tmp_path)


def is_trained_scored_and_reported_through_a_kill(data, runs, cells):
    provenance = json.loads((cells / "standard-1/provenance.json").read_text())
    assert len(provenance["sittings"]) == 2 and provenance["data"] == str(data / "clean/de-en")
    assert (provenance["method"], provenance["seed"], provenance["recipe"]) == ("standard", 1, "clean")
    assert "\nsacrebleu==" in (cells / "standard-1/environment.txt").read_text()
    assert "Loaded checkpoint" in (cells / "standard-1/train.log").read_text()
    teacher = "standard-1/checkpoints/checkpoint_best.pt"
    settings = (cells / "self_distillation-1/run.yaml").read_text()
    assert f"teacher: {cells / teacher}" in settings and "teacher_weight: 2\n" in settings
    about = {method: json.loads((cells / f"{method}-1/provenance.json").read_text()) for method in METHODS}
    assert {method: each["changed"] for method, each in about.items()} == dict.fromkeys(METHODS, []) | {
        METHODS[2]: [SET]
    }

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(cells / "weighted_freeze-1/tensorboard/train_inner")).Reload()
    assert {"frozen_fraction", "importance_mean", "importance_std"} <= set(events.Tags()["scalars"])

    reference = read_lines(data / "clean/de-en/raw/test.en")
    for method in METHODS:
        found = json.loads((cells / f"{method}-1/scores/test.best.json").read_text())
        hypotheses = read_lines(cells / f"{method}-1/scores/test.best.hyp.txt")
        assert found["bleu"] == score(hypotheses, reference).bleu and found["sentences"] == 5
        assert found["decode"]["beam"] == 5 and set(found["legacy"]) == {"multi_bleu_lowercased", "compound_split"}
        assert (cells / f"{method}-1/scores/test1.best.json").is_file()
    with (runs / "report/runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == set(METHODS)
    assert all(bool(row["p_bootstrap"]) == (row["method"] != "standard") for row in rows)


def a_second_call_changes_nothing_and_other_settings_are_refused(words, printed, cells):
    before = {path: path.stat().st_mtime_ns for path in cells.rglob("*") if path.name != ".lock"}
    again = wff(*words)
    assert again.returncode == 0 and again.stdout == printed
    changed = wff(*words, "--set", "optimization.max_update=30")
    assert changed.returncode == 1 and "step training of other settings; give another --out" in changed.stderr
    assert wff(*words, "--dry-run").stdout.count("done  ") == 3
    assert {path: path.stat().st_mtime_ns for path in cells.rglob("*") if path.name != ".lock"} == before


def flags_give_the_same_training(data, run, folder):
    flags = """--source-lang de --target-lang en --arch transformer_iwslt_de_en --share-all-embeddings --dropout 0.1
      --encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2
      --decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2
      --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --optimizer weighted_freeze --base-optimizer adam
      --weight-decay 1e-4 --lr 0.004 --lr-scheduler polynomial_decay --warmup-updates 500 --total-num-update 20
      --max-tokens 1024 --num-workers 1 --required-batch-size-multiple 1 --validate-interval 1000
      --validate-interval-updates 10 --max-update 20 --save-interval-updates 10 --no-epoch-checkpoints
      --seed 1 --cpu""".split()
    fairseq = Fairseq(data / "clean/de-en/bin", folder)
    words = ["--user-dir", USER_DIR, "--adam-betas", "(0.9, 0.98)", "--save-dir", folder / "argparse"]
    # As many threads: they share out sums, and with them the last bits.
    threads = {"OMP_NUM_THREADS": str(threads_per_job(2))}
    fairseq("train", fairseq.data, *flags, *words, env={**environment(), **threads})
    other = Fairseq(data, run).checkpoint("checkpoints")["model"]
    assert_same(fairseq.checkpoint("argparse")["model"], other)


def test_a_list_of_cells_is_for_a_scheduler(data, configs, tmp_path):
    words = [
        "reproduce",
        *words_of(data, configs, tmp_path / "a b"),
        "--methods",
        "self_distillation",
        "--seeds",
        "1,2",
    ]
    listed = wff(*words, "--list", "--gpus", 2).stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == ["0", "0", "1", "1"]
    assert all(
        "--device cpu --gpus 2" in line and " && wff evaluate" in line and f"'{tmp_path}/a b" in line for line in listed
    )
    cells = tmp_path / "cells.txt"
    cells.write_text("echo one\necho two\n")
    script = CONFIGS.parent / "scripts/slurm_cell.sh"
    done = subprocess.run(["bash", script, cells], env={"PATH": "/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "2"},
                          capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith("\ntwo\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--recipe", "dirty"], "multi30k has no recipe 'dirty'; type --recipe clean"),
        (["--pair", "fr-en"], "multi30k has no pair 'fr-en'; type --pair de-en or en-de"),
        (["--method", "sag"], "no method 'sag'"),
        (["--data", "/nowhere"], "type: wff prepare "),
        (["--set", "max_update=3"], "type --set optimization.max_update=1000"),
        (["--precision", "bf16"], "--precision bf16 is for GPUs; type --precision fp32"),
        (["--method", "self_distillation"], "is not trained; type: wff train multi30k"),
        (
            ["--device", "cuda", "--gpus", "99"],
            "type --device cpu" if not torch.cuda.is_available() else "got --gpus 99; type --gpus",
        ),
    ],
)
def test_a_wrong_call_is_told_what_to_type(words, said, data, configs, tmp_path):
    given = words_of(data, configs, tmp_path / "runs")
    done = wff("train", *given, *words)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
