"""A matrix without its trainings: what a scheduler is told, what is left to do, and runs that were moved."""

import argparse
import json
import shlex

import pytest
from scored_runs import prepared

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.cli import arguments, evaluate, reproduce, train
from weighted_freezing_fairseq.scoring.scores import all_scores
from weighted_freezing_fairseq.workspace.configs import CONFIGS as ALL_CONFIGS
from weighted_freezing_fairseq.workspace.steps import once

CONFIGS = ALL_CONFIGS / "multi30k"
DECODE = {"beam": 5, "lenpen": 1.0, "max_len_a": 1.2, "max_len_b": 10}


def parser_of(module):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser


def options_of(module):
    return [action for action in parser_of(module)._actions if action.option_strings and action.dest != "help"]


# Options that choose the cells or --configs, prepare the data or run them, and are spent when a cell is listed.
OF_THE_MATRIX = {"pairs", "methods", "seeds", "size", "jobs", "archive", "list", "dry_run"}
VALUES = {
    "recipe": "xlmr", "encoder": "/enc", "data": "/d d", "configs": str(CONFIGS.with_name("glue")), "out": "/runs",
    "set": "a.b=c d", "device": "cpu", "gpus": "7", "precision": "fp32", "tokens_per_gpu": "99", "choices": "last",
}  # fmt: skip


@pytest.mark.parametrize(
    "action", [o for o in options_of(reproduce) if o.dest not in OF_THE_MATRIX], ids=lambda action: action.dest
)
def test_every_option_reaches_the_cells(action, capsys):
    """A new option fails here until it has a value in VALUES and reaches `wff train` or `wff evaluate`."""
    words = ["glue", "--encoder", "/enc", "--recipe", "roberta", "--methods", "standard", "--seeds", "3-3", "--list"]
    assert main(["reproduce", *words, action.option_strings[0], VALUES[action.dest]]) == 0
    level, _, command = capsys.readouterr().out.rstrip("\n").partition("\t")
    typed, scored = (shlex.split(part)[2:] for part in command.split(" && "))
    trained, evaluated = parser_of(train).parse_args(typed), parser_of(evaluate).parse_args(scored)
    assert (level, trained.seed, trained.method, trained.pair) == ("0", 3, "standard", "rte")
    cells = [getattr(args, action.dest) for args in (trained, evaluated) if action.dest in vars(args)]
    expected = [VALUES[action.dest]] if action.dest == "set" else VALUES[action.dest]
    assert str(expected) in map(str, cells)
    if action.dest == "device":
        assert cells == ["cpu", "cpu"]
    assert evaluated.run_or_checkpoint[0].name == "standard-3" and evaluated.data is None and evaluated.out is None


@pytest.fixture
def place(tmp_path):
    prepared(tmp_path / "data/clean/de-en", 3, test=3)
    return tmp_path


def words_of(place, *more):
    return ["multi30k", "--data", place / "data", "--out", place / "runs", "--device", "cpu", *more]


def study_of(place, *more):
    return arguments.study_of(parser_of(train).parse_args(list(map(str, words_of(place, *more)))))


def trained(place, method, *more):
    """A run that is trained to its end, if nothing was trained."""
    study = study_of(place, *more)
    run = study.run("de-en", method, 1)
    (run.folder / "checkpoints").mkdir(parents=True)
    for name in ("best", "last"):
        (run.folder / f"checkpoints/checkpoint_{name}.pt").write_text(f"{method} {name}")
    about = study.provenance("de-en", run)
    (run.folder / "provenance.json").write_text(json.dumps({**about, "method": method, "seed": 1, "sittings": []}))
    once(run.folder, "training", study.stamp("de-en", run), lambda: None)
    return run.folder


def scored(folder, beam=5):
    (folder / "scores").mkdir()
    about = {"choice": "best", "decode": {**DECODE, "beam": beam}}
    (folder / ".scoring-test.best.json").write_text(json.dumps(about))
    found = {"subset": "test", **about, **all_scores(["a"], ["a"], "en")}
    (folder / "scores/test.best.json").write_text(json.dumps(found))
    return folder


def dry_run(place, capsys, *more):
    methods = "standard,weighted_freeze,sage,ewc,self_distillation"
    words = words_of(place, "--methods", methods, "--seeds", 1, "--choices", "best", "--dry-run", *more)
    assert main(["reproduce", *map(str, words)]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_a_dry_run_tells_what_is_left_to_do(place, capsys):
    done, to_score = scored(trained(place, "standard")), trained(place, "weighted_freeze")
    other = trained(place, "sage", "--set", "optimization.max_update=7")
    searched = scored(trained(place, "ewc"), beam=4)
    student = place / "runs/clean/de-en/self_distillation-1"
    assert dry_run(place, capsys) == [
        f"done            {done}",
        f"to score        {to_score}",
        f"other settings  {other}; give another --out, or move that folder away",
        f"other scoring   {searched}; to score it again, type: rm {searched}/.scoring-*",
        f"to train        {student}",
    ]
    assert f"done            {scored(trained(place, 'self_distillation'))}" in dry_run(place, capsys)
    (done / "checkpoints/checkpoint_best.pt").write_text("another teacher")
    assert f"other settings  {student}; give another --out, or move that folder away" in dry_run(place, capsys)
    (place / "data").rename(place / "gone")
    assert dry_run(place, capsys)[0] == f"to prepare      {done}; its data will be {place}/data/clean/de-en"


def test_moved_runs_and_data_are_done_and_say_where_they_are(place, capsys):
    for method in ("standard", "self_distillation"):
        scored(trained(place, method))
    moved = place / "elsewhere"
    moved.mkdir()
    for name in ("data", "runs"):
        (place / name).rename(moved / name)
    for method in ("standard", "self_distillation"):
        folder = moved / f"runs/clean/de-en/{method}-1"
        assert main(["train", *map(str, words_of(moved, "--method", method))]) == 0
        assert f"{folder.name}: training is done already" in capsys.readouterr().err
        about = json.loads((folder / "provenance.json").read_text())
        assert about["data"] == str(moved / "data/clean/de-en") and f"--out {moved}/runs" in about["command"]
        assert main(["evaluate", str(folder), "--choices", "best", "--device", "cpu"]) == 0
    capsys.readouterr()
    path = moved / "data/clean/de-en/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": {"bin/x": "other"}}))
    assert main(["train", *map(str, words_of(moved))]) == 2
    assert "holds the step training of other settings; give another --out" in capsys.readouterr().err


def test_a_teacher_of_the_users_own_needs_no_standard_run(place):
    """A run whose parent is named by --set is on the first level; without it, standard training comes before."""
    for assignments, parent in (([], "standard-1"), (["--set", "criterion.teacher=/a.pt"], None)):
        study = study_of(place, *assignments)
        found = study.parent("de-en", study.run("de-en", "self_distillation", 1))
        assert (found and found.folder.name) == parent


def test_a_setting_that_some_methods_have_is_theirs_alone(place, capsys):
    words = ["--methods", "intra_distillation,r_drop", "--seeds", "1-1", "--set", "criterion.alpha=1"]
    words = ["reproduce", *map(str, words_of(place, *words, "--set", "optimization.max_update=5"))]
    assert main([*words, "--list"]) == 0
    typed = [
        shlex.split(line.partition("\t")[2].partition(" && ")[0])[2:] for line in capsys.readouterr().out.splitlines()
    ]
    cells = [parser_of(train).parse_args(cell) for cell in typed]
    alone, all_have = "criterion.alpha=1", "optimization.max_update=5"
    assert {cell.method: cell.set for cell in cells} == {
        "standard": [all_have], "intra_distillation": [alone, all_have], "r_drop": [alone, all_have],
    }  # fmt: skip
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "--set criterion.alpha=1 is for intra_distillation, r_drop: the others have no such setting" in said
    assert said.count("is for") == 1


@pytest.mark.parametrize("name", ["criterion.alhpa", "optimizer.max_update", "model.encoder.layer"])
def test_a_setting_that_no_method_has_is_refused(name, place, capsys):
    words = words_of(place, "--methods", "intra_distillation", "--seeds", "1-1", "--set", f"{name}=1")
    assert main(["reproduce", *map(str, words)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"unknown setting {name}" in said and ("did you mean alpha" in said) == (name == "criterion.alhpa")
    assert not (place / "runs").exists()


def test_the_command_of_a_parent_has_the_settings_that_it_has(place):
    study = study_of(
        place, "--method", "self_distillation", "--set", "criterion.teacher_weight=2", "--set", "common.fp16=true"
    )
    run = study.run("de-en", "self_distillation", 1)
    assert "--set criterion.teacher_weight=2 --set common.fp16=true" in study.command("de-en", run)
    command = study.command("de-en", study.parent("de-en", run))
    assert "--set common.fp16=true" in command and "teacher_weight" not in command
