"""`wff average`: the mean of real checkpoints, what plain fairseq makes of it, and what is refused."""

import argparse
import os
import warnings
from fractions import Fraction

import pytest
import torch
from fairseq_runs import Fairseq

from weighted_freezing_fairseq import __version__
from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.core.snapshot import fingerprint
from weighted_freezing_fairseq.workspace.average import average, latest

with warnings.catch_warnings():  # reading a checkpoint imports fairseq, whose own warnings are not ours to mend
    warnings.simplefilter("ignore")
    import weighted_freezing_fairseq.plugin  # noqa: F401

TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")


def small(path, model, **rest):
    """A checkpoint as far as average looks at it."""
    path.parent.mkdir(exist_ok=True, parents=True)
    torch.save({"args": argparse.Namespace(lr=0.1), "model": model, "extra_state": {"epoch": 1}, **rest}, path)
    return path


def model_of(path):
    return torch.load(path, weights_only=False)["model"]


def by_hand(tensors):
    """The mean number by number, in fractions."""
    numbers = zip(*(tensor.flatten().tolist() for tensor in tensors), strict=True)
    means = [float(sum(map(Fraction, column)) / len(tensors)) for column in numbers]
    return torch.tensor(means, dtype=torch.float64).view(tensors[0].shape).to(tensors[0].dtype)


def refusal(capsys, *words):
    """The one line of a call that is refused."""
    assert main(["average", *map(str, words)]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    return output.err


def test_the_latest_of_a_run_become_one_that_plain_fairseq_translates_with(fairseq: Fairseq, capsys):
    fairseq.train("run", "--optimizer", "adam", "--save-interval-updates", 2, "--max-update", 8)
    run, out = fairseq.folder / "run", fairseq.folder / "run/checkpoint_average.pt"
    assert main(["average", str(run), "--last", "3"]) == 0
    paths = [run / f"checkpoint_1_{updates}.pt" for updates in (4, 6, 8)]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        *(f"{path} ({updates} updates)" for path, updates in zip(paths, (4, 6, 8), strict=True)),
        f"{out}: the mean of 3, without an optimizer's state",
    ]
    last, mean = fairseq.checkpoint("run", "checkpoint_1_8.pt"), fairseq.checkpoint("run", out.name)
    models = [model_of(path) for path in paths]
    for name, found in mean["model"].items():
        assert torch.equal(found, by_hand([model[name] for model in models])), name
        assert not torch.equal(found, by_hand([model[name] for model in models]) * 1.001) or not found.any(), name
    assert list(mean["model"]) == list(last["model"]) and vars(mean["model"]) == vars(last["model"])
    assert mean["model"][TIED[0]].data_ptr() == mean["model"][TIED[1]].data_ptr()
    assert last.pop("last_optimizer_state") and mean.keys() == last.keys() | {"averaged"}
    assert mean["cfg"] == last["cfg"] and mean["optimizer_history"] == last["optimizer_history"]
    assert mean["averaged"] == {
        "by": f"weighted_freezing_fairseq {__version__}",
        "checkpoints": [
            {"path": str(path), "updates": updates, "fingerprint": fingerprint(model)}
            for path, updates, model in zip(paths, (4, 6, 8), models, strict=True)
        ],
    }
    assert len(fairseq.stock_translations(out)) == 21


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_mean_is_exact_whatever_the_order_and_stays_in_its_precision(tmp_path, dtype):
    generator = torch.Generator().manual_seed(1)
    models = [{"w": torch.randn(50, 7, generator=generator).to(dtype)} for _ in range(3)]
    paths = [small(tmp_path / f"{index}.pt", model) for index, model in enumerate(models)]
    average(paths, tmp_path / "mean.pt")
    mean = model_of(tmp_path / "mean.pt")["w"]
    assert mean.dtype == dtype
    torch.testing.assert_close(mean, by_hand([model["w"] for model in models]), rtol=0, atol=1e-15)
    if dtype != torch.float64:  # where sums are wider than what is summed
        average(paths[::-1], tmp_path / "mean.pt")
        assert torch.equal(model_of(tmp_path / "mean.pt")["w"], mean)
        average([paths[0]] * 3, tmp_path / "mean.pt")
        assert torch.equal(model_of(tmp_path / "mean.pt")["w"], models[0]["w"])


def test_zeros_ties_and_counters(tmp_path):
    """A zero stays where all have it; a tie, where all have it; and a counter is the last one's."""
    a = {"w": torch.tensor([0.0, 0.0, 2.0]), "steps": torch.tensor(3), "other": torch.ones(2), "empty": torch.empty(0)}
    b = {"w": torch.tensor([0.0, 1.0, 4.0]), "steps": torch.tensor(9), "other": torch.ones(2), "empty": torch.empty(0)}
    for model, same in ((a, "once"), (b, "once"), (b, "twice")):
        model["tied"], model["sometimes"] = model["w"], model["w"] if same == "once" else model["w"].clone()
        small(tmp_path / f"{'a' if model is a else 'b'}-{same}.pt", model)
    average([tmp_path / "a-once.pt", tmp_path / "b-twice.pt"], tmp_path / "mean.pt")
    mean = model_of(tmp_path / "mean.pt")
    for name in ("w", "tied", "sometimes"):
        assert mean[name].tolist() == [0, 0.5, 3]
    assert mean["w"].data_ptr() == mean["tied"].data_ptr() != mean["sometimes"].data_ptr()
    assert mean["steps"].item() == 9 and mean["empty"].shape == (0,)
    average([tmp_path / "a-once.pt", tmp_path / "b-once.pt"], tmp_path / "mean.pt")
    mean = model_of(tmp_path / "mean.pt")
    assert mean["w"].data_ptr() == mean["tied"].data_ptr() == mean["sometimes"].data_ptr()


def test_what_belongs_to_the_weights_of_one_checkpoint_is_left_out(tmp_path):
    state = {"epoch": 4, "ema": {"w": torch.ones(3)}, "guided_criterion": {"anchor": torch.ones(3)}}
    for index in (1, 2):
        history = [{"num_updates": 10}, {"num_updates": 20 * index}]
        rest = {"extra_state": state, "last_optimizer_state": {"step": torch.ones(3)}, "optimizer_history": history}
        small(tmp_path / f"{index}.pt", {"w": torch.ones(3)}, **rest)
    header = average([tmp_path / "1.pt", tmp_path / "2.pt"], tmp_path / "new/mean.pt")
    mean = torch.load(tmp_path / "new/mean.pt", weights_only=True)
    assert mean["extra_state"] == {"epoch": 4} and "last_optimizer_state" not in mean and mean["averaged"] == header
    assert [source["updates"] for source in header["checkpoints"]] == [20, 40]


def test_the_latest_checkpoints_are_told_by_number_not_by_time(tmp_path):
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)
    names = ["checkpoint2.pt", "checkpoint10.pt", "checkpoint9.pt", "checkpoint_1_500.pt", "checkpoint_12_1000.pt"]
    for age, name in enumerate([*names, "checkpoint_last.pt", "checkpoint_best.pt", "checkpoint9.pt.part"]):
        (folder / name).touch()
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    assert [p.name for p in latest(tmp_path / "run", 2)] == ["checkpoint9.pt", "checkpoint10.pt"]
    assert latest(folder, 3)[0] == folder / "checkpoint2.pt"  # the folder of --save-dir does as well
    assert len(latest(folder, 9, or_fewer=True)) == 3
    (folder / "checkpoint2.pt").unlink()
    (folder / "checkpoint_7_700.pt").touch()
    found = [p.name for p in latest(folder, 3)]  # never an epoch's beside an update's
    assert found == ["checkpoint_1_500.pt", "checkpoint_7_700.pt", "checkpoint_12_1000.pt"]


def test_too_few_checkpoints_say_how_to_keep_them(tmp_path, capsys):
    small(tmp_path / "run/checkpoints/checkpoint3.pt", {})
    line = refusal(capsys, tmp_path / "run", "--last", 4)
    assert "has 1 checkpoints by epoch and 0 by update, not 4; average fewer, or train with" in line
    assert "--keep-last-epochs 4 or --save-interval-updates 1000 --keep-interval-updates 4" in line


def test_a_wrong_call_says_what_to_type(tmp_path, capsys):
    path = small(tmp_path / "a.pt", {"w": torch.ones(3)})
    assert "the file to write is missing; add --out FILE" in refusal(capsys, path)
    assert "is a folder; add --last 5" in refusal(capsys, tmp_path, "--out", tmp_path / "out")
    assert "--last takes one run folder; type: wff average RUN --last 5" in refusal(capsys, path, path, "--last", 2)
    assert "type --last 5" in refusal(capsys, tmp_path, "--last", 0)
    assert "leave one of them out" in refusal(capsys, tmp_path, "--last", 2, "--choice", "best")
    assert "there is no run folder" in refusal(capsys, tmp_path / "none", "--last", 2)
    assert "give a run folder, a save-dir" in refusal(capsys, path, tmp_path / "none", "--out", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt"]


def test_checkpoints_of_another_model_are_refused_by_name(tmp_path, capsys):
    a = small(tmp_path / "a.pt", {"w": torch.ones(3), "x": torch.ones(2), "y": torch.ones(2)})
    b = small(tmp_path / "b.pt", {"w": torch.ones(4), "y": torch.ones(2).half(), "z": torch.ones(2)})
    line = refusal(capsys, a, b, "--out", tmp_path / "out")
    assert f"{b} is of another model than {a}: x is only in {a}; z is only in {b}; w is [4] float32 there" in line
    assert f"and [3] float32 in {a} and 1 more; name checkpoints of one run" in line
    assert not (tmp_path / "out").exists()


def test_only_an_earlier_average_is_overwritten(tmp_path, capsys):
    a, b = (small(tmp_path / f"{name}.pt", {"w": torch.ones(3)}) for name in "ab")
    text = tmp_path / "notes.txt"
    text.write_text("mine")
    for path in (small(tmp_path / "c.pt", {"w": torch.ones(3)}), text):
        before = path.read_bytes()
        assert f"{path} exists and is not overwritten; give another --out" in refusal(capsys, a, b, "--out", path)
        assert path.read_bytes() == before
    out = tmp_path / "mean.pt"
    assert main(["average", str(a), "--out", str(out)]) == main(["average", str(a), str(b), "--out", str(out)]) == 0
    assert len(torch.load(out, weights_only=False)["averaged"]["checkpoints"]) == 2
    capsys.readouterr()
    assert "is one of the checkpoints to average; give another --out" in refusal(capsys, a, out, "--out", out)
