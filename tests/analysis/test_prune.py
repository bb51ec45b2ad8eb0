"""`wff prune`: what is pruned, by which scores, what is left alone, and curves that are killed and go on."""

import contextlib
import csv
import json
import logging
import math
import re
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import recipe_runs
import torch
from fairseq_runs import USER_DIR, Fairseq, assert_same
from torch import nn

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.core.pruning import METHODS, ONCE
from weighted_freezing_fairseq.core.scope import catalogue
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.scoring.scores import read_lines, score

# fairseq's own attention, which the reference below uses as it is; `plugin/mends` hides this outside pytest.
pytestmark = pytest.mark.filterwarnings("ignore:.*mismatched key_padding_mask")

TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
MATRICES = ("k_proj.weight", "v_proj.weight", "q_proj.weight", "out_proj.weight", "fc1.weight", "fc2.weight")


@pytest.fixture
def wff(trained, toy_data, tmp_path, capsys):
    """The command on the toy model; `ok=False` gives the one line of its mistake, `alone` a process of its own."""

    def call(*words, checkpoint=trained, out="pruned.pt", data=toy_data, ok=True, alone=False):
        given = [] if data is None else ["--data", data]
        checkpoints = checkpoint if isinstance(checkpoint, list) else [checkpoint]
        words = [str(word) for word in ("prune", *checkpoints, "--out", tmp_path / out, *given, *words)]
        if alone:
            done = recipe_runs.wff(*words)
            status, said = done.returncode, SimpleNamespace(out=done.stdout, err=done.stderr)
        else:
            status, said = main(words), capsys.readouterr()
        assert status == (0 if ok else 2), said.err
        if ok:
            return said
        *progress, line = said.err.splitlines()
        assert said.out == "" and line.startswith("wff prune: ") and all(word.startswith("[") for word in progress)
        return line

    call.out = tmp_path
    yield call
    logging.disable(logging.NOTSET)


@pytest.fixture
def state(trained):
    return torch.load(trained, weights_only=False)


def load(path):
    return torch.load(path, weights_only=False)


def in_scope(model: dict) -> list[str]:
    """By the names alone: the six matrices of attention and feed-forward layers."""
    return [name for name in model if ".layers." in name and name.endswith(MATRICES)]


def zeros(model: dict) -> dict[str, int]:
    return {name: int((model[name] == 0).sum()) for name in in_scope(model)}


# Once ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.3, 0.65])
@pytest.mark.parametrize("method", ONCE)
def test_exactly_k_weights_of_the_scope_are_zero_and_nothing_else_changed(wff, toy_data, state, method, fraction):
    needs_data = bool(METHODS[method].needs)
    said = wff("--method", method, "--fraction", fraction, data=toy_data if needs_data else None).out
    found, names = load(wff.out / "pruned.pt"), in_scope(state["model"])
    sizes = {name: state["model"][name].numel() for name in names}
    pruned = zeros(found["model"])
    assert len(names) == 16 and not any(zeros(state["model"]).values())
    if METHODS[method].compared == "network":
        assert sum(pruned.values()) == round(fraction * sum(sizes.values()))
    elif METHODS[method].compared == "row":
        for name in names:
            weight = found["model"][name]
            assert ((weight == 0).sum(1) == round(fraction * weight.shape[1])).all(), name
    else:
        assert pruned == {name: round(fraction * size) for name, size in sizes.items()}
    total, count = sum(sizes.values()), sum(pruned.values())
    everything = sum(
        w.numel() for name, w in state["model"].items() if name != TIED[1] and name.endswith(("weight", "bias"))
    )
    assert f"{method}: pruned {count:,} of {total:,} weights in scope ({count / total:.2%}), " in said
    assert f"{count / everything:.2%} of all {everything:,} parameters\n" in said
    assert "the optimizer's state is left out" in said
    assert state.pop("last_optimizer_state") and list(found) == list(state)
    for name in names:
        kept = found["model"][name] != 0
        assert torch.equal(found["model"][name][kept], state["model"][name][kept])
        state["model"][name] = found["model"][name]
    assert_same(found, state)
    assert list(found["model"]) == list(state["model"]) and vars(found["model"]) == vars(state["model"])
    assert found["model"][TIED[0]].data_ptr() == found["model"][TIED[1]].data_ptr()
    assert [path.name for path in wff.out.iterdir()] == ["pruned.pt"]


def test_magnitude_equals_a_choice_by_hand(wff, state):
    wff("--method", "magnitude", "--fraction", 0.4, data=None)
    found = load(wff.out / "pruned.pt")["model"]
    for name in in_scope(state["model"]):
        weight = state["model"][name].numpy().ravel().copy()
        weight[np.argsort(np.abs(weight))[: round(0.4 * weight.size)]] = 0
        assert np.array_equal(found[name].numpy().ravel(), weight), name


@pytest.mark.parametrize(
    ("method", "score"),
    [
        ("sensitivity", lambda theta, grad: (theta * grad).abs()),
        ("gradient", lambda theta, grad: grad.abs()),
        ("fisher", lambda theta, grad: grad**2),
    ],
)
def test_scores_by_gradients_equal_a_loop_over_batches(trained, toy_data, method, score):
    from weighted_freezing_fairseq.analysis import prune
    from weighted_freezing_fairseq.plugin.trained import Trained
    from weighted_freezing_fairseq.workspace.checkpoints import read_checkpoint

    sample = prune.Sample(toy_data, "train", 5, 200, 1, "cpu")
    found = prune.importance(prune.Dense.of(trained, *read_checkpoint(trained), None), [METHODS[method]], sample)
    model = Trained.load(trained, toy_data, "train", "cpu")
    batches = prune.draw_batches(model, sample)
    assert len(batches) == 5 and all(sum(len(model.dataset[i]["target"]) for i in ids) <= 200 for ids in batches)
    sums: dict[str, torch.Tensor] = {}
    for ids in batches:
        model.model.eval().zero_grad()
        # fairseq's own cross entropy: summed over the tokens of the batch, padding left out
        batch = model.dataset.collater(model.gold(ids))
        logits, _ = model.model(**batch["net_input"])
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["target"].flatten(), ignore_index=model.dataset.tgt_dict.pad(), reduction="sum"
        )
        (loss / batch["ntokens"]).backward()
        for name, weight in model.model.named_parameters():
            if name in found[method]:
                sums[name] = sums.get(name, 0) + score(weight.detach(), weight.grad)
    assert found[method].keys() == sums.keys() == set(in_scope(dict(model.model.named_parameters())))
    for name, total in sums.items():
        torch.testing.assert_close(found[method][name], total / 5, rtol=1e-4, atol=1e-5 * float(total.max()), msg=name)


def test_wanda_takes_the_inputs_that_attention_and_feed_forward_layers_get(trained, toy_data):
    from fairseq.modules import MultiheadAttention

    from weighted_freezing_fairseq.analysis import prune
    from weighted_freezing_fairseq.plugin.trained import Trained
    from weighted_freezing_fairseq.workspace.checkpoints import read_checkpoint

    sample = prune.Sample(toy_data, "train", 3, 200, 1, "cpu")
    dense = prune.Dense.of(trained, *read_checkpoint(trained), None)
    found = prune.importance(dense, [METHODS["wanda"]], sample)["wanda"]
    model = Trained.load(trained, toy_data, "train", "cpu")
    sums: dict[str, torch.Tensor] = {}

    def add(name, x):
        sums[name] = sums.get(name, 0) + x.flatten(0, -2).double().square().sum(0)

    def attention(name):
        def hook(module, args, kwargs, output):
            assert not args and not module.skip_embed_dim_check  # one function gets all four weights
            for key, projection in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
                add(f"{name}.{projection}.weight", kwargs[key])
            out = module.out_proj  # its input is inside the function: y = W x + b is solved for x
            x = torch.linalg.solve(out.weight.double(), (output[0] - out.bias).double().flatten(0, 1).T).T
            add(f"{name}.out_proj.weight", x)

        return hook

    for name, module in model.model.named_modules():
        if isinstance(module, MultiheadAttention):
            module.register_forward_hook(attention(name), with_kwargs=True)
        elif name.endswith(("fc1", "fc2")):
            module.register_forward_pre_hook(lambda module, args, name=name: add(f"{name}.weight", args[0]))
    with torch.no_grad():
        model.model.eval()
        for ids in prune.draw_batches(model, sample):
            model.log_likelihoods(model.gold(ids))
    assert found.keys() == sums.keys() == set(in_scope(dict(model.model.named_parameters())))
    for name, weight in model.model.named_parameters():
        if name in found:
            wanted = (weight.detach().abs() * sums[name].sqrt()).float()
            torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()), msg=name)


def test_wanda_refuses_a_layer_whose_inputs_it_does_not_see(wff, monkeypatch):
    monkeypatch.setattr("weighted_freezing_fairseq.plugin.trained.attention_by_layers", contextlib.nullcontext)
    said = wff("--method", "wanda", "--fraction", 0.5, ok=False)
    assert re.search(r"inputs of \S+proj.weight, but its layer was not called: .*; prune by another method", said)
    assert not list(wff.out.iterdir())


def test_dropout_is_off_while_importance_is_measured(trained, toy_data):
    from weighted_freezing_fairseq.analysis import prune
    from weighted_freezing_fairseq.workspace.checkpoints import read_checkpoint

    dense = prune.Dense.of(trained, *read_checkpoint(trained), None)
    sample = prune.Sample(toy_data, "train", 2, 200, 1, "cpu")
    one, other = (prune.importance(dense, [METHODS["gradient"]], sample)["gradient"] for _ in range(2))
    assert all(torch.equal(score, other[name]) for name, score in one.items())


def test_the_model_is_built_without_its_data_as_with_it(trained, toy_data):
    from weighted_freezing_fairseq.plugin.trained import Trained, shape_of

    def described(model):
        return [entry for entry, _ in catalogue(model)]

    shape = shape_of(trained)
    assert described(shape) == described(Trained.load(trained, toy_data, "train", "cpu").model)
    assert {weight.device.type for weight in shape.parameters()} == {"meta"}


def test_a_copy_of_a_tied_weight_is_pruned_with_it(wff, state, tmp_path):
    from weighted_freezing_fairseq.analysis import prune
    from weighted_freezing_fairseq.core.scope import Entry

    # Runs on a GPU save every name of a tied weight as a tensor of its own.
    name, alias = "encoder.layers.0.fc1.weight", "encoder.again.weight"
    tensors = {name: state["model"][name], alias: state["model"][name].clone()}
    entry = Entry(name, (name, alias), (nn.Linear, nn.Linear), tensors[name].shape)
    dense = prune.Dense(tmp_path, {"model": {}}, tensors, [entry])
    mask = torch.ones_like(tensors[name], dtype=torch.bool)
    mask[0] = False
    dense.save({name: mask}, tmp_path / "tied.pt")
    found = load(tmp_path / "tied.pt")["model"]
    assert torch.equal(found[name], tensors[name] * mask) and torch.equal(found[alias], found[name])


def test_nothing_pruned_is_the_same_model_and_json_says_so(wff, state):
    report = json.loads(wff("--method", "lamp", "--fraction", 0, "--json").out)
    assert (
        report["pruned"] == 0
        and report["emptied"] == []
        and report["in_scope"] == sum(state["model"][name].numel() for name in in_scope(state["model"]))
    )
    assert_same(load(wff.out / "pruned.pt")["model"], state["model"])


def test_half_precision_stays_half(wff, state, tmp_path):
    state["model"] = {name: tensor.half() for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "half.pt")
    for method in ("lamp", "sensitivity"):
        wff("--method", method, "--fraction", 0.5, checkpoint=tmp_path / "half.pt", out=f"{method}.pt")
        found = load(wff.out / f"{method}.pt")["model"]
        assert {tensor.dtype for tensor in found.values()} == {torch.float16}
        assert sum(zeros(found).values()) == round(0.5 * sum(found[name].numel() for name in in_scope(found)))


def test_random_is_a_function_of_the_seed(wff):
    for out, seed in (("a.pt", 1), ("b.pt", 1), ("c.pt", 2)):
        wff("--method", "random", "--fraction", 0.5, "--seed", seed, out=out, data=None)
    a, b, c = (load(wff.out / f"{name}.pt")["model"] for name in "abc")
    assert_same(a, b)
    assert not torch.equal(a["encoder.layers.0.fc1.weight"], c["encoder.layers.0.fc1.weight"])


def test_emptied_layers_are_named(wff, state, tmp_path):
    name = "decoder.layers.0.fc1.weight"
    state["model"][name] *= 1e-6
    torch.save(state, tmp_path / "thin.pt")
    words = ("--method", "magnitude_global", "--fraction", 0.5)
    said = wff(*words, checkpoint=tmp_path / "thin.pt").out
    assert f"matrices without any weight left: {name}\n" in said
    assert "emptied, " not in wff("--method", "magnitude", "--fraction", 0.5, out="whole.pt").out


def test_stock_fairseq_translates_with_it_and_trains_on(wff, fairseq: Fairseq):
    wff("--method", "magnitude", "--fraction", 0.5)
    assert len(fairseq.stock_translations(wff.out / "pruned.pt")) == 21
    fairseq.train("on", "--optimizer", "adam", "--max-update", 1, "--restore-file", wff.out / "pruned.pt")
    assert fairseq.checkpoint("on")["optimizer_history"][-1]["num_updates"] == 1


# What is refused ----------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten(wff):
    wff("--method", "magnitude", "--fraction", 0.5)
    before = (wff.out / "pruned.pt").read_bytes()
    said = wff("--method", "magnitude", "--fraction", 0.6, ok=False)
    assert "pruned.pt exists and is not overwritten; give another --out, or type: rm " in said
    assert (wff.out / "pruned.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "l2", "--fraction", 0.5], "l2 is a way to train; type --method magnitude to prune once, "),
        (["--method", "l0", "--fraction", 0.5], "or train with --criterion alignreg --prune l0"),
        (["--method", "platon", "--fraction", 0.5], "or train with --criterion alignreg --prune platon"),
        (["--method", "snip", "--fraction", 0.5], f"type --method with one of: {', '.join(ONCE)}"),
        (
            ["--method", "lamp", "--fraction", 1],
            "at least 0 and below 1, got 1; type --fraction 0.5",
        ),
        (["--method", "lamp", "--fraction", -0.1], "type --fraction 0.5"),
        (["--method", "lamp", "--fraction", "nan"], "type --fraction 0.5"),
        (["--method", "lamp,random", "--fraction", 0.5], "for several type --fractions 0:0.9:0.1"),
        (["--method", "lamp", "--fractions", "0:1:0.1"], "--fractions must be at least 0 and below 1, got 0:1:0.1"),
        (["--method", "lamp", "--fractions", "0:0.9"], "type --fractions 0:0.9:0.1"),
        (["--method", "lamp", "--fractions", "0:0.9:0"], "type --fractions 0:0.9:0.1"),
        (["--method", "lamp", "--fractions", "0.9:0:0.1"], "type --fractions 0:0.9:0.1"),
        (["--method", "lamp", "--fractions", "half"], "type --fractions 0:0.9:0.1"),
        (["--method", "lamp", "--fractions", "0,0.5"], "give --reference its target side, one sentence a line"),
        (
            ["--method", "lamp", "--fraction", 0.5, "--batches", 0],
            "--batches must be at least 1, got 0; type",
        ),
        (["--method", "lamp", "--fraction", 0.5, "--max-tokens", 0], "--max-tokens must be at least 1"),
        (["--method", "lamp", "--fraction", 0.5, "--jobs", 0], "--jobs must be at least 1"),
        (["--method", "fisher", "--fraction", 0.5, "--split", "dev"], "type --split test or train or valid"),
    ],
    ids=str,
)
def test_mistakes_say_what_to_type(wff, words, said):
    assert said in wff(*words, ok=False)
    assert not list(wff.out.iterdir())


@pytest.mark.parametrize("words", [[], ["--fraction", "0.5", "--fractions", "0,0.5"]], ids=["none", "both"])
def test_one_of_fraction_and_fractions_is_given(wff, capsys, words):
    with pytest.raises(SystemExit) as stop:
        wff("--method", "lamp", *words)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and len(said.splitlines()) == 1
    assert "--fraction" in said and said.endswith("; type: wff prune --help\n")


def test_what_is_missing_or_no_checkpoint_is_named(wff, tmp_path, toy_data):
    words = ("--method", "lamp", "--fraction", 0.5)
    missing, bad, folder = tmp_path / "missing.pt", tmp_path / "bad.pt", tmp_path / "folder"
    assert f"there is no checkpoint {missing}; give a run folder" in wff(*words, checkpoint=missing, ok=False)
    bad.write_bytes(b"no checkpoint")
    assert f"{bad} is not a whole checkpoint" in wff(*words, checkpoint=bad, ok=False)
    curve = ("--method", "lamp", "--fractions", "0")
    assert "there is no file" in wff(*curve, "--reference", missing, out="folder", ok=False)
    curve += ("--reference", toy_data.parent / "test.y")
    said = wff(*curve, data=missing, out="folder", ok=False)
    assert f"there is no binarised folder {missing}; make it with fairseq-preprocess" in said
    said = wff(*curve, out="bad.pt", ok=False)
    assert f"{bad} is a file, and a curve needs a folder; give another --out" in said
    assert not folder.exists()


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64], ids=str)
def test_weights_that_are_not_floating_point_are_refused(wff, state, tmp_path, dtype):
    name = "encoder.layers.0.fc1.weight"
    state["model"][name] = state["model"][name].to(dtype)
    torch.save(state, tmp_path / "bad.pt")
    said = wff("--method", "magnitude", "--fraction", 0.5, checkpoint=tmp_path / "bad.pt", data=None, ok=False)
    assert f"bad.pt: {name} is {dtype}, and must be floating point; give another checkpoint" in said


def test_a_diverged_checkpoint_is_refused(wff, state, tmp_path):
    for value in (torch.inf, torch.nan):
        state["model"]["encoder.layers.0.fc1.weight"][0, 0] = value
        torch.save(state, tmp_path / "bad.pt")
        said = wff("--method", "lamp", "--fraction", 0.5, checkpoint=tmp_path / "bad.pt", ok=False)
        assert f"fc1.weight is not finite: it holds {value}; give another checkpoint" in said
    # Every weight is finite, but the loss is not.
    state["model"]["encoder.layers.0.fc1.weight"].zero_()
    state["model"]["decoder.layers.0.fc2.weight"].fill_(3e38)
    torch.save(state, tmp_path / "bad.pt")
    said = wff("--method", "fisher", "--fraction", 0.5, checkpoint=tmp_path / "bad.pt", ok=False)
    assert "the importance, by fisher, of" in said and "give another checkpoint" in said


def test_a_model_that_stand_ins_do_not_suit_asks_for_its_data(wff, state, tmp_path):
    words, other = ("--method", "lamp", "--fraction", 0.5), tmp_path / "other.pt"
    task = state["cfg"]["task"]["_name"]
    state["cfg"]["task"]["_name"] = "language_modeling"
    torch.save(state, other)
    said = wff(*words, checkpoint=other, data=None, ok=False)
    assert "cannot be built without its dictionaries (its task is language_modeling); add --data BIN" in said
    state["cfg"]["task"]["_name"] = task
    state["model"]["encoder.layers.0.first.weight"] = state["model"].pop("encoder.layers.0.fc1.weight")
    torch.save(state, other)
    said = wff(*words, checkpoint=other, data=None, ok=False)
    assert "has no encoder.layers.0.fc1.weight of shape (32, 16), which its architecture has" in said
    assert "save it again, with fairseq-train --restore-file" in said


# The curve ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def curve(wff, toy_data):
    """A curve over three fractions and two methods, translated greedily."""
    reference = toy_data.parent / "test.y"

    def call(*words, fractions="0:0.8:0.4", method="magnitude,sensitivity", **kwargs):
        given = ["--reference", reference, "--beam", 1, "--max-len-b", 5, "--device", "cpu", "--max-tokens", 500]
        return wff("--method", method, "--fractions", fractions, *given, *words, out="curve", **kwargs)

    call.folder = wff.out / "curve"
    return call


def rows(folder):
    with (folder / "curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def written(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "points").iterdir()}


def test_a_curve_is_a_table_and_a_picture_and_goes_on_where_it_was(curve, fairseq, trained, toy_data, wff, monkeypatch):
    said = curve(alone=True)  # what it runs itself starts warm there
    found = rows(curve.folder)
    assert list(found[0]) == "checkpoint method fraction remaining bleu chrf sentences signature".split()
    order = [(row["checkpoint"], row["method"], row["fraction"], row["remaining"]) for row in found]
    fractions = [("0", "1"), ("0.4", "0.6"), ("0.8", "0.2")]
    wanted = [("checkpoint_last", m, *pair) for m in ("magnitude", "sensitivity") for pair in fractions]
    assert [row[:3] for row in order] == [row[:3] for row in wanted]
    assert [float(row[3]) for row in order] == pytest.approx([float(row[3]) for row in wanted], abs=1e-3)
    assert {row["sentences"] for row in found} == {"21"} and "tok:13a" in found[0]["signature"]
    assert (curve.folder / "curve.png").stat().st_size > 1000
    assert sorted(path.name for path in curve.folder.iterdir()) == [".lock", "curve.csv", "curve.png", "points"]
    points = [
        "checkpoint_last-0.json",
        *(f"checkpoint_last-{m}-{f}.json" for m in ("magnitude", "sensitivity") for f in (0.4, 0.8)),
    ]
    assert sorted(written(curve.folder)) == sorted(points)  # nothing pruned is translated once
    numbered = [line.split("point ")[1].split(":")[0] for line in said.err.splitlines() if "point " in line]
    assert sorted(numbered) == [f"{i} of 5" for i in range(1, 6)]
    assert "checkpoint_last  magnitude  100.0% remain  BLEU" in said.out

    # A point is the score of the checkpoint that the one-shot call writes, translated by plain calls.
    wff("--method", "sensitivity", "--fraction", 0.4, "--max-tokens", 500, "--device", "cpu")
    words = [toy_data, "--path", wff.out / "pruned.pt", "--cpu", "--beam", 1, "--max-len-b", 5]
    output = fairseq("generate", *words, "--max-len-a", 0, "--required-batch-size-multiple", 1, "--user-dir", USER_DIR)
    hypotheses = {int(number): text for number, text in re.findall(r"^D-(\d+)\t.*?\t(.*)$", output, re.MULTILINE)}
    alone = score([hypotheses[number] for number in range(21)], read_lines(toy_data.parent / "test.y"))
    assert json.loads((curve.folder / "points" / points[3]).read_text())["score"] == asdict(alone)
    assert len({row["chrf"] for row in found}) > 2  # equal scores would tell nothing

    before, table = written(curve.folder), (curve.folder / "curve.csv").read_bytes()
    (curve.folder / "curve.png").unlink()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib", None)
        said = curve()
    assert "all points are there already" in said.err and "measuring" not in said.err
    assert "matplotlib is missing; type: pip install 'weighted-freezing-fairseq[plot]'" in said.err
    assert not (curve.folder / "curve.png").exists()
    assert written(curve.folder) == before and (curve.folder / "curve.csv").read_bytes() == table

    # As a killed call leaves it: a point and the picture are missing, and a checkpoint lies about.
    (curve.folder / "points" / points[1]).unlink()
    (curve.folder / ".pruned").mkdir()
    (curve.folder / ".pruned/left.pt").write_bytes(b"half")
    said = curve("--json", alone=True)
    assert said.err.count("] point ") == 1 and "point 2 of 5: checkpoint_last, magnitude, 60.1% of the " in said.err
    assert "measuring" not in said.err  # magnitude needs no data
    after = written(curve.folder)
    assert {name for name in after if after[name] != before[name]} == {points[1]}
    assert (curve.folder / "curve.csv").read_bytes() == table and json.loads(said.out) == [
        {**row, "sentences": 21} for row in found
    ]
    assert (curve.folder / "curve.png").is_file() and not (curve.folder / ".pruned").exists()

    # Points of several models, all of them there already.
    for path in (curve.folder / "points").iterdir():
        for name in ("one", "two"):
            path.with_name(path.name.replace("checkpoint_last", name)).write_bytes(path.read_bytes())
    said = curve("--names", "one,two", checkpoint=[trained, trained])
    assert [row["checkpoint"] for row in rows(curve.folder)] == ["one"] * 6 + ["two"] * 6
    assert said.err.count("all points are there already") == 2

    after = written(curve.folder)
    for words, named in ((["--beam", 2], "decode"), (["--seed", 2], "seed"), (["--subset", "valid"], "subset")):
        said = curve(*words, ok=False)
        assert f"was made with another {named}; give another --out, or move {curve.folder} away" in said
    state = load(trained)
    state["model"]["encoder.layers.0.fc1.weight"][0, 0] += 1
    torch.save(state, wff.out / "checkpoint_last.pt")
    assert "was made with another checkpoint; " in curve(checkpoint=wff.out / "checkpoint_last.pt", ok=False)
    assert written(curve.folder) == after


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("0:0.9:0.3", [0, 0.3, 0.6, 0.9]), ("0.5", [0.5]), ("0.5,0,0.25", [0, 0.25, 0.5]), ("0:0.5:0.2", [0, 0.2, 0.4])],
)
def test_fractions_include_where_they_stop(text, wanted):
    from weighted_freezing_fairseq.cli.prune import _fractions

    assert _fractions(text) == wanted
    assert len(_fractions("0:0.9:0.1")) == 10 and math.isclose(_fractions("0:0.9:0.1")[-1], 0.9)


def test_checkpoints_are_told_apart_by_their_paths_or_by_names():
    from weighted_freezing_fairseq.workspace.labels import labels

    paths = [Path("a/best.pt"), Path("b/best.pt")]
    assert list(labels(paths[:1], None)) == ["best"]
    assert list(labels([paths[0], Path("b/last.pt")], None)) == ["best", "last"]
    assert list(labels(paths, None)) == ["a/best", "b/best"]
    assert labels(paths, ["small", "large"]) == {"small": paths[0], "large": paths[1]}
    deep = [Path("x/clean/a.pt"), Path("y/clean/a.pt"), Path("y/clean/b.pt")]
    assert list(labels(deep, None)) == ["x/clean/a", "y/clean/a", "y/clean/b"]
    for names in (["one"], ["same", "same"], ["a/b", "a-b"]):
        with pytest.raises(UserError, match="with one for each: A,B, in this order: a/best.pt b/best.pt"):
            labels(paths, names)
    with pytest.raises(UserError, match="2 checkpoints need as many different names"):
        labels([paths[0], paths[0]], None)
