"""`wff sensitivity`: what is measured, what is said of it, what is drawn, and calls that are killed and go on."""

import csv
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.analysis import sensitivity
from weighted_freezing_fairseq.analysis.gradients import Sample, draw_batches
from weighted_freezing_fairseq.core.importance import loss_preserving

# fairseq's own attention, which the reference below uses as it is; `plugin/mends` hides this outside pytest.
pytestmark = pytest.mark.filterwarnings("ignore:.*mismatched key_padding_mask")

FEW = ("--batches", 2, "--max-tokens", 200, "--device", "cpu")


@pytest.fixture
def wff(trained, toy_data, tmp_path, capsys):
    """The command on the toy model; `ok=False` gives the one line of its mistake."""

    def call(*words, checkpoints=(trained,), out="out", data=toy_data, ok=True):
        given = ("sensitivity", *checkpoints, "--data", data, "--out", tmp_path / out, *FEW, *words)
        status = main([str(word) for word in given])
        said = capsys.readouterr()
        assert status == (0 if ok else 2), said.err
        return said if ok else said.err.splitlines()[-1]

    call.out = tmp_path / "out"
    yield call
    logging.disable(logging.NOTSET)


@pytest.fixture
def no_picture(monkeypatch):
    """Pictures take longer than what is measured of the toy model."""
    monkeypatch.setattr(sensitivity, "picture", lambda folder: None)


@pytest.fixture
def sample(toy_data):
    return Sample(toy_data, "train", 3, 200, 1, "cpu")


@pytest.fixture
def state(trained):
    return torch.load(trained, weights_only=False)


def rows(folder, **wanted):
    with (folder / "sensitivity.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[name] == value for name, value in wanted.items())]


def by_hand(trained, data, sample):
    """The mean over batches of |theta * grad|, one batch after another, in float64."""
    from weighted_freezing_fairseq.plugin.trained import Trained

    model = Trained.load(trained, data, "train", "cpu")
    batches = draw_batches(model, sample)
    assert len(batches) == sample.batches
    model.model.double().eval()
    sums: dict[str, torch.Tensor] = {}
    for ids in batches:
        model.model.zero_grad()
        batch = model.dataset.collater(model.gold(ids))
        logits, _ = model.model(**batch["net_input"])
        # summed over the tokens of the batch, padding left out
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["target"].flatten(), ignore_index=model.dataset.tgt_dict.pad(), reduction="sum"
        )
        (loss / batch["ntokens"]).backward()
        for name, weight in model.model.named_parameters():
            sums[name] = sums.get(name, 0) + (weight.detach() * weight.grad).abs()
    return {name: total / len(batches) for name, total in sums.items()}


def assert_same_sensitivities(found, wanted):
    assert [entry.name for entry in found.entries] == list(wanted)
    for entry, total in zip(found.entries, found.means, strict=True):
        exact = wanted[entry.name]
        # The bias of keys moves no attention: its gradient is 0 but for rounding.
        assert float((total.double() - exact).norm()) <= 1e-4 * float(exact.norm()) + 1e-9, entry.name


# What is measured ---------------------------------------------------------------------------------------------------


def test_sensitivities_equal_a_loop_in_float64_and_a_thousandth_is_found(trained, toy_data, sample, monkeypatch):
    wanted = by_hand(trained, toy_data, sample)
    assert_same_sensitivities(sensitivity.measure(trained, "all", sample), wanted)
    matrices = {name: total for name, total in wanted.items() if ".layers." in name and name.endswith("weight")}
    matrices = {name: total for name, total in matrices.items() if "norm" not in name}
    assert_same_sensitivities(sensitivity.measure(trained, "linear", sample), matrices)
    monkeypatch.setattr(sensitivity, "loss_preserving", lambda theta, grad: 1.001 * loss_preserving(theta, grad))
    with pytest.raises(AssertionError):
        assert_same_sensitivities(sensitivity.measure(trained, "linear", sample), matrices)


def test_half_precision_is_measured_in_single(trained, state, toy_data, sample, tmp_path):
    state["model"] = {name: tensor.half() for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "half.pt")
    found = sensitivity.measure(tmp_path / "half.pt", "all", sample)
    assert {total.dtype for total in found.means} == {torch.float32}
    assert_same_sensitivities(found, by_hand(tmp_path / "half.pt", toy_data, sample))


def test_what_the_loss_does_not_depend_on_is_left_out_and_named(trained, sample, monkeypatch, capsys):
    from weighted_freezing_fairseq.plugin.trained import Trained

    load = Trained.load

    def with_one_more(*words):
        found = load(*words)
        found.model.unread = nn.Parameter(torch.zeros(3))
        return found

    monkeypatch.setattr(Trained, "load", with_one_more)
    found = sensitivity.measure(trained, "all", sample)
    assert "unread" not in [entry.name for entry in found.entries] and len(found.entries) == len(found.means)
    assert "left out, since the loss does not depend on them: unread\n" in capsys.readouterr().err


def test_every_group_has_the_statistics_of_its_parameters(trained, sample):
    found = sensitivity.measure(trained, "all", sample)
    table, _ = sensitivity.summarise(found, seed=1)
    named = {(row["by"], row["group"]): row for row in table}
    everything = np.concatenate([total.double().numpy().ravel() for total in found.means])
    whole = named["model", "all"]
    assert table[0] is whole and whole["parameters"] == everything.size and whole["batches"] == 3
    assert whole["std"] == pytest.approx(everything.std(), rel=1e-9)
    assert whole["q99"] == pytest.approx(np.quantile(everything, 0.99, method="inverted_cdf"), rel=2.0**-8)
    assert sum(row["parameters"] for row in table if row["by"] == "type") == everything.size
    layers = [row["group"] for row in table if row["by"] == "layer"]
    assert layers == ["encoder.layers.0", "decoder.layers.0"]
    totals = dict(zip([entry.name for entry in found.entries], found.means, strict=True))
    fc1 = torch.cat([totals[f"{side}.layers.0.fc1.weight"].flatten() for side in ("encoder", "decoder")]).double()
    assert named["type", "fc1"]["parameters"] == 2 * 16 * 32
    assert named["type", "fc1"]["mean"] == pytest.approx(float(fc1.mean()), rel=1e-9)
    kinds = {f"{side}-attention {own}" for side in ("self", "cross") for own in "q k v out".split()}
    assert {row["group"] for row in table if row["by"] == "type"} == {*kinds, "fc1", "fc2", "embedding", "norm", "bias"}


def test_the_sample_is_a_tenth_without_the_largest_and_has_an_upper_bound(trained, sample, monkeypatch):
    found = sensitivity.measure(trained, "all", sample)
    table, drawn = sensitivity.summarise(found, seed=1)
    everything = torch.cat([total.flatten() for total in found.means]).numpy()
    assert drawn.dtype == np.float32 and np.isin(drawn, everything).all() and drawn.max() <= table[0]["q99"]
    assert len(drawn) == pytest.approx(0.099 * everything.size, rel=0.1)
    monkeypatch.setattr(sensitivity, "_BLOCK", 100)
    assert np.array_equal(sensitivity.summarise(found, seed=1)[1], drawn)  # a position is drawn, not a place in a block
    assert not np.array_equal(sensitivity.summarise(found, seed=2)[1], drawn)
    monkeypatch.setattr(sensitivity, "_PLOTTED_AT_MOST", 100)
    assert 50 < len(sensitivity.summarise(found, seed=1)[1]) < 150


# The command --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_call_leaves_table_samples_and_pictures_and_the_same_seed_gives_the_same_bits(wff, request, tmp_path):
    said = wff()
    assert "checkpoint_last  std " in said.out and said.out.endswith(f"wrote {wff.out}/\n")
    files = "sensitivity.csv measured/checkpoint_last.json samples/checkpoint_last.npy".split()
    pictures = ["sensitivity.pdf", "sensitivity.png"]
    written = sorted(str(path.relative_to(wff.out)) for path in wff.out.rglob("*") if path.is_file())
    assert written == sorted([".lock", *files, *pictures])
    assert (wff.out / "sensitivity.pdf").read_bytes().startswith(b"%PDF")
    request.getfixturevalue("no_picture")
    again = json.loads(wff("--json", out="again").out)
    for name in files[::2] + files[:1]:
        assert (wff.out / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    (whole,) = rows(wff.out, by="model")
    assert whole == {name: str(value) for name, value in again[0].items()} and whole["batches"] == "2"
    (other,) = [row for row in json.loads(wff("--json", "--seed", 2, out="other").out) if row["by"] == "model"]
    assert other["std"] != again[0]["std"]


def test_a_pruned_checkpoint_has_zeros_and_works(wff, state, tmp_path, no_picture):
    weight = state["model"]["encoder.layers.0.fc1.weight"]
    weight[:, :8] = 0
    for side in ("encoder", "decoder"):
        state["model"][f"{side}.layers.0.self_attn.q_proj.weight"].zero_()
    torch.save(state, tmp_path / "pruned.pt")
    said = json.loads(wff("--scope", "linear", "--json", checkpoints=[tmp_path / "pruned.pt"]).out)
    (queries,) = [row for row in said if row["group"] == "self-attention q"]
    assert queries["zeros"] == queries["parameters"] and queries["gini"] is None
    assert rows(wff.out, group="self-attention q")[0]["gini"] == ""
    (whole,), (fc1,) = rows(wff.out, by="model"), rows(wff.out, group="fc1")
    assert int(fc1["zeros"]) >= weight.numel() // 2 and int(whole["zeros"]) >= int(fc1["zeros"])
    assert float(fc1["q25"]) == 0 < float(fc1["mean"])


def test_what_is_done_stays_when_a_call_is_killed_and_is_not_measured_again(wff, trained, state, tmp_path, monkeypatch):
    second = tmp_path / "second.pt"
    state["model"]["encoder.layers.0.fc1.weight"][0, 0] += 1
    torch.save(state, second)
    both, measure, measured = {"checkpoints": [trained, second]}, sensitivity.measure, []

    def killed_at_the_second(path, *rest):
        measured.append(path)
        if path == second and len(measured) == 2:
            raise KeyboardInterrupt
        return measure(path, *rest)

    drawing = sensitivity.picture
    monkeypatch.setattr(sensitivity, "picture", lambda folder: None)
    monkeypatch.setattr(sensitivity, "measure", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        wff("--names", "one,a/b", **both)
    assert [row["checkpoint"] for row in rows(wff.out, by="model")] == ["one"]
    said = wff("--names", "one,a/b", **both)
    assert measured == [trained, second, second] and "one is measured already" in said.err
    assert [row["checkpoint"] for row in rows(wff.out, by="model")] == ["one", "a/b"]
    sensitivity.sample_path(wff.out, "one").unlink()
    wff("--names", "one,a/b", **both)
    assert measured.pop() == trained and sensitivity.sample_path(wff.out, "one").is_file()
    with monkeypatch.context() as without:
        without.setattr(sensitivity, "picture", drawing)
        without.setitem(sys.modules, "matplotlib", None)
        said = wff("--names", "one,a/b", **both)
    assert len(measured) == 3 and not (wff.out / "sensitivity.png").exists()
    assert "matplotlib is missing; type: pip install 'weighted-freezing-fairseq[plot]'" in said.err
    for words, named in ((["--seed", 2], "seed"), (["--batches", 3], "batches"), (["--scope", "linear"], "scope")):
        said = wff("--names", "one,a/b", *words, ok=False, **both)
        assert f"was made with another {named}; give another --out, or move {wff.out} away" in said
    assert "was made with another checkpoint; " in wff("--names", "a/b,one", ok=False, **both)
    assert len(measured) == 3


def test_the_picture_shows_table_and_samples(tmp_path, monkeypatch):
    from matplotlib import pyplot

    table = [
        {"checkpoint": "a", "by": "model", "group": "all", "mean": 2.0, "std": 5.0, "std_over_mean": 2.5},
        {"checkpoint": "a", "by": "type", "group": "fc1", "mean": 9.0, "std": 9.0, "std_over_mean": 1.0},
        {"checkpoint": "b/c", "by": "model", "group": "all", "mean": 4.0, "std": 3.0, "std_over_mean": 0.75},
        {"checkpoint": "same", "by": "model", "group": "all", "mean": 1.0, "std": 0.0, "std_over_mean": 0.0},
    ]
    (tmp_path / "sensitivity.csv").write_text(sensitivity.as_csv(table))
    samples = {"a": np.float32([0, 2, 4, 10]), "b/c": np.float32([0, 2, 8]), "same": np.ones(5, np.float32)}
    (tmp_path / "samples").mkdir()
    for name, values in samples.items():
        np.save(sensitivity.sample_path(tmp_path, name), values)
    shown = []
    monkeypatch.setattr(pyplot, "close", shown.append)
    sensitivity.picture(tmp_path)
    raw, scaled = shown[0].axes
    # of the logarithms, without the zeros
    for axis, highest, medians in ((raw, [10, 8, 1], [4, 4, 1]), (scaled, [5, 2, 1], [2, 1, 1])):
        *violins, lines = axis.collections
        tops = [violin.get_paths()[0].vertices[:, 1].max() for violin in violins]
        assert tops == pytest.approx(np.log10(highest), abs=1e-6)
        assert [segment[0, 1] for segment in lines.get_segments()] == pytest.approx(np.log10(medians), abs=1e-6)
    assert raw.lines[0].get_ydata() == pytest.approx(np.log10([5, 3]))  # 0 has no place on the axis
    assert scaled.lines[0].get_ydata() == pytest.approx(np.log10([2.5, 0.75]))
    assert [label.get_text() for label in scaled.get_xticklabels()] == ["a", "b/c", "same"]
    assert "nats/token" in raw.get_ylabel() and "std of all" in raw.get_title()
    monkeypatch.undo()
    pyplot.close("all")


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batches", 0], "--batches must be at least 1, got 0; type --batches 1"),
        (["--max-tokens", 0], "--max-tokens must be at least 1, got 0; type --max-tokens 1"),
        (["--names", "a,b"], "1 checkpoint needs one name; type --names with one, or leave it out"),
        (["--split", "dev"], "type --split test or train or valid"),
    ],
    ids=str,
)
def test_mistakes_say_what_to_type(wff, words, said):
    line = wff(*words, ok=False)
    assert line.startswith("wff sensitivity: ") and said in line


def test_what_is_missing_is_named_before_anything_is_measured(wff, trained, tmp_path):
    missing, file = tmp_path / "missing.pt", tmp_path / "file"
    said = wff(checkpoints=[trained, missing], ok=False)
    assert f"there is no checkpoint {missing}; give a run folder, a save-dir of fairseq or a checkpoint" in said
    file.write_bytes(b"no checkpoint")
    assert f"{file} is a file, and the results need a folder; give another --out" in wff(out="file", ok=False)
    assert not wff.out.exists()
    said = wff(data=missing, ok=False)
    assert f"there is no binarised folder {missing}; make it with fairseq-preprocess" in said
    assert f"{file} is not a whole checkpoint" in wff(checkpoints=[file], ok=False)
    if not torch.cuda.is_available():
        assert "torch sees no GPU; type --device cpu" in wff("--device", "cuda", ok=False)


def test_a_checkpoint_that_diverged_is_refused(wff, state, tmp_path):
    state["model"]["decoder.layers.0.fc2.weight"].fill_(3e38)  # finite, and its loss is not
    torch.save(state, tmp_path / "bad.pt")
    said = wff(checkpoints=[tmp_path / "bad.pt"], ok=False)
    assert f"{tmp_path / 'bad.pt'}: the sensitivity of " in said
    assert "is not finite: it holds " in said and "; give another checkpoint" in said
    for weight in state["model"].values():
        weight.zero_()
    torch.save(state, tmp_path / "bad.pt")
    said = wff(checkpoints=[tmp_path / "bad.pt"], ok=False)
    assert "every sensitivity is 0; give a checkpoint of a model that was trained" in said
    assert not list(wff.out.rglob("*.json"))


def test_a_model_without_matrices_in_scope_asks_for_all(trained, sample, monkeypatch):
    monkeypatch.setattr(sensitivity, "catalogue", lambda model: [])
    with pytest.raises(sensitivity.UserError, match="has no attention or feed-forward matrix; type --scope all"):
        sensitivity.measure(Path(trained), "linear", sample)
