"""Commands that read a checkpoint take a run folder and a save-dir of fairseq too, and find the data themselves."""

import json
import re
import shutil

import pytest

from weighted_freezing_fairseq.__main__ import main

# MODEL is replaced by what the user names. --data is given with checkpoints only.
CALLS = {
    "fisher": "fisher MODEL --samples 4 --max-tokens 100 --device cpu --out OUT/fisher.pt",
    "sensitivity": "sensitivity MODEL --names a --batches 1 --max-tokens 100 --device cpu --out OUT/s",
    "prune": "prune MODEL --method fisher --fraction 0.5 --batches 1 --max-tokens 100 --device cpu --out OUT/pruned.pt",
    "average": "average MODEL MODEL --out OUT/mean.pt",
    "pack": "pack MODEL MODEL --out OUT/packed.wff",
    "plot": "plot norms MODEL --names a --out OUT/figures --format png",
}
WITH_DATA = ("fisher", "sensitivity", "prune")


@pytest.fixture
def named(trained, toy_data, tmp_path):
    """The same model as a checkpoint, as a save-dir of fairseq, and in a run folder whose data was moved."""
    save_dir, run = tmp_path / "save-dir", tmp_path / "run"
    save_dir.mkdir()
    shutil.copy(trained, save_dir / "checkpoint_last.pt")
    shutil.copytree(save_dir, run / "checkpoints")
    shutil.copytree(toy_data, tmp_path / "moved/bin")
    about = {"dataset": "own", "recipe": "own", "pair": "x-y", "method": "standard", "seed": 1, "config": "c.yaml"}
    about |= {"data": str(tmp_path / "moved"), "command": "wff train own"}
    (run / "provenance.json").write_text(json.dumps(about))
    return {"checkpoint": trained, "save-dir": save_dir, "run": run}


@pytest.mark.parametrize("command", CALLS)
def test_a_run_folder_and_a_save_dir_say_what_the_checkpoint_says(command, named, toy_data, tmp_path, capsys):
    said = {}
    for kind, model in named.items():
        out = tmp_path / f"out of {kind}"
        out.mkdir()
        words = [word.replace("MODEL", str(model)).replace("OUT", str(out)) for word in CALLS[command].split()]
        with_data = ["--data", str(toy_data)] if kind == "checkpoint" and command in WITH_DATA else []
        assert main([*words, *with_data]) == 0, capsys.readouterr().err
        checkpoint = model if model.is_file() else next(model.rglob("checkpoint_last.pt"))
        printed = capsys.readouterr().out
        printed = re.sub(r"\.wff: \d+ bytes, [\d.]+%", ".wff", printed)  # a packed file holds the path of its base
        said[kind] = printed.replace(str(checkpoint), "CHECKPOINT").replace(str(out), "OUT")
    assert said["save-dir"] == said["run"] == said["checkpoint"]


def test_the_choice_is_a_checkpoint_of_the_folder(named, tmp_path, capsys):
    words = ["average", str(named["run"]), str(named["checkpoint"]), "--out", str(tmp_path / "mean.pt"), "--choice"]
    assert main([*words, "best"]) == 2
    folder = named["run"] / "checkpoints"
    said = f"there is no {folder}/checkpoint_best.pt (checkpoints there: checkpoint_last.pt); give another choice"
    assert said in capsys.readouterr().err
    assert main([*words, "average"]) == 2
    assert f"make it: wff average {named['run']} --last 5" in capsys.readouterr().err
    assert main([*words, "last"]) == 0


def test_data_that_is_gone_is_named(named, tmp_path, capsys):
    shutil.rmtree(tmp_path / "moved")
    assert main(["fisher", str(named["run"]), "--out", str(tmp_path / "f.pt"), "--device", "cpu"]) == 2
    said = f"there are no dictionaries of {named['run']}/checkpoints/checkpoint_last.pt in {tmp_path}/moved; add --data"
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("warm_children")
def test_a_save_dir_is_scored_on_what_it_was_trained_on(named, toy_data, tmp_path, capsys):
    reference = toy_data.parent / "test.y"
    words = ["evaluate", str(named["save-dir"]), "--reference", str(reference), "--device", "cpu", "--beam", "1"]
    assert main([*words, "--max-len-b", "5", "--json"]) == 0, capsys.readouterr().err
    [(name, scores)] = json.loads(capsys.readouterr().out).items()
    assert name == str(named["save-dir"] / "checkpoint_last.pt") and scores["sentences"] == 21
