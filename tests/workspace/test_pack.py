"""`wff pack` and `wff unpack`: real checkpoints there and back, their size, and what is refused."""

import argparse
import json
import os
import warnings
from pathlib import Path

import pytest
import recipe_runs
import torch
from fairseq_runs import Fairseq, assert_same

from weighted_freezing_fairseq import __version__
from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.core.snapshot import fingerprint
from weighted_freezing_fairseq.workspace import pack

with warnings.catch_warnings():  # reading a checkpoint imports fairseq, whose own warnings are not ours to mend
    warnings.simplefilter("ignore")
    import weighted_freezing_fairseq.plugin  # noqa: F401

TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")


def sparsely(base: dict, other: dict, density: float, seed: int = 1) -> dict:
    """`base` with a random share of its numbers taken from `other`, as a run under a fixed mask leaves it."""
    generator, done = torch.Generator().manual_seed(seed), {}
    for name, start in base.items():
        mask = torch.rand(start.shape, generator=generator) < density
        done[name] = torch.where(mask, other[name], start)
    if TIED[0] in base:
        done[TIED[1]] = done[TIED[0]]
    return done


def small(path: Path, model: dict, **rest: object) -> Path:
    """A checkpoint as far as pack looks at it."""
    torch.save({"args": argparse.Namespace(lr=0.1), "model": model, "extra_state": {"epoch": 1}, **rest}, path)
    return path


@pytest.fixture
def pair(tmp_path):
    """A small base and tuned checkpoint."""
    generator = torch.Generator().manual_seed(1)
    base = {f"w{i}": torch.randn(40, 50, generator=generator) for i in range(3)}
    tuned = sparsely(base, {name: w + 1 for name, w in base.items()}, 0.01)
    state = {"state": {0: torch.ones(3)}}
    return small(tmp_path / "base.pt", base), small(tmp_path / "tuned.pt", tuned, last_optimizer_state=state)


@pytest.fixture
def packed(pair, tmp_path, capsys):
    out = tmp_path / "tuned.wff"
    assert wff("pack", *pair, "--out", out) == 0
    capsys.readouterr()
    return out


def wff(*words: object) -> int:
    return main([str(word) for word in words])


def refusal(capsys, *words: object) -> str:
    """The one line of a call that is refused."""
    assert wff(*words) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    return output.err


def a_run(fairseq: Fairseq, *flags: object) -> tuple[Path, Path, dict]:
    """A real checkpoint, one that differs from it in half a percent of the numbers, and what the latter holds."""
    fairseq.train("run", "--optimizer", "adam", "--save-interval-updates", 2, "--max-update", 4, *flags)
    base, tuned = fairseq.folder / "run/checkpoint_1_2.pt", fairseq.folder / "tuned.pt"
    start, state = fairseq.checkpoint("run", base.name), fairseq.checkpoint("run", "checkpoint_1_4.pt")
    state["model"].update(sparsely(start["model"], state["model"], 0.005))
    torch.save(state, tuned)
    return base, tuned, state


def test_a_real_checkpoint_comes_back_and_plain_fairseq_uses_it(fairseq: Fairseq):
    base, tuned, state = a_run(fairseq)
    file, back = fairseq.folder / "tuned.wff", fairseq.folder / "back.pt"
    done = recipe_runs.wff("pack", base, tuned, "--out", file, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert 0.002 < report["density"] < 0.009 and report["optimizer_state"] == "left out"
    assert wff("unpack", base, file, "--out", back) == 0
    found = fairseq.checkpoint(".", "back.pt")
    assert state.pop("last_optimizer_state") and list(found) == list(state)
    assert_same(found, state)
    assert list(found["model"]) == list(state["model"]) and fingerprint(found["model"]) == fingerprint(state["model"])
    assert vars(found["model"]) == vars(state["model"])  # the versions of the modules, which torch reads on loading
    assert found["model"][TIED[0]].data_ptr() == found["model"][TIED[1]].data_ptr()
    hypotheses = fairseq.stock_translations(tuned)
    assert len(hypotheses) == 21 and fairseq.stock_translations(back) == hypotheses


def test_training_goes_on_from_an_unpacked_checkpoint(fairseq: Fairseq):
    base, tuned, state = a_run(fairseq)
    for name, words in (("whole", ["--optimizer-state"]), ("light", [])):
        assert wff("pack", base, tuned, "--out", fairseq.folder / f"{name}.wff", *words) == 0
        assert wff("unpack", base, fairseq.folder / f"{name}.wff", "--out", fairseq.folder / f"{name}.pt") == 0
    whole = fairseq.checkpoint(".", "whole.pt")
    assert list(whole) == list(state)
    assert_same(whole, state)

    def on(name: str, *words: object) -> dict:
        restore = ["--restore-file", fairseq.folder / f"{name}.pt", "--optimizer", "adam"]
        fairseq.train(f"on-{name}", *restore, *words)
        return fairseq.checkpoint(f"on-{name}")

    a, b = (on(name, "--max-update", 6) for name in ("tuned", "whole"))
    assert_same(a["model"], b["model"])
    assert_same(a["last_optimizer_state"], b["last_optimizer_state"])
    # Without that state it is like fairseq's own checkpoints of --no-save-optimizer-state: the optimizer starts anew.
    anew = on("light", "--max-update", 1, "--no-save-optimizer-state")
    assert list(anew) == list(fairseq.checkpoint(".", "light.pt"))
    assert anew["optimizer_history"][-1]["num_updates"] == 1


def transformer(dtype: torch.dtype, width: int = 256, vocabulary: int = 8000, layers: int = 4) -> dict:
    """Tensors by name and shape as fairseq's transformer has them: large matrices beside many short vectors."""
    generator, found = torch.Generator().manual_seed(1), {}

    def add(name: str, *shape: int) -> None:
        found[name] = torch.randn(shape, generator=generator).to(dtype)

    for side in ("encoder", "decoder"):
        add(f"{side}.embed_tokens.weight", vocabulary, width)
        for name in (f"{side}.layers.{layer}" for layer in range(layers)):
            for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
                add(f"{name}.self_attn.{projection}.weight", width, width)
                add(f"{name}.self_attn.{projection}.bias", width)
            for step, shape in (("fc1", (2 * width, width)), ("fc2", (width, 2 * width))):
                add(f"{name}.{step}.weight", *shape)
                add(f"{name}.{step}.bias", shape[0])
            for part in ("weight", "bias"):
                add(f"{name}.final_layer_norm.{part}", width)
    return {**found, TIED[1]: found[TIED[0]]}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
def test_at_a_density_of_half_a_percent_a_file_is_below_one_and_a_half_percent(tmp_path, capsys, dtype):
    base = transformer(dtype)
    tuned = sparsely(base, {name: w * 2 + 1 for name, w in base.items()}, 0.005)
    old, new = small(tmp_path / "base.pt", base), small(tmp_path / "tuned.pt", tuned)
    assert wff("pack", old, new, "--out", tmp_path / "f", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    weights = [w for name, w in base.items() if name != TIED[1]]  # tied weights count once
    assert report["base_model_bytes"] == sum(w.numel() * w.element_size() for w in weights) > 10_000_000
    assert report["numbers"] == sum(w.numel() for w in weights) and report["tensors"] == len(weights)
    assert report["numbers_changed"] == sum(int((w != tuned[n]).sum()) for n, w in base.items() if n != TIED[1])
    assert report["density"] == report["numbers_changed"] / report["numbers"] == pytest.approx(0.005, rel=0.05)
    assert report["file_bytes"] == (tmp_path / "f").stat().st_size
    assert report["tuned_file_bytes"] == new.stat().st_size
    assert report["file_over_base_model"] == report["file_bytes"] / report["base_model_bytes"] <= 0.015
    assert wff("unpack", old, tmp_path / "f", "--out", tmp_path / "back.pt") == 0
    back = torch.load(tmp_path / "back.pt", weights_only=False)["model"]
    assert fingerprint(back) == fingerprint(tuned) and back[TIED[0]].data_ptr() == back[TIED[1]].data_ptr()


def test_the_report_says_what_changed_what_it_weighs_and_what_is_left_out(pair, tmp_path, capsys):
    file = tmp_path / "f.wff"
    assert wff("pack", *pair, "--out", file) == 0
    text = capsys.readouterr().out
    changed = sum(int((a != b).sum()) for a, b in zip(*map(weights, pair), strict=True))
    assert f"changed: {changed} of 6000 numbers ({changed / 6000:.4%}), in 3 of 3 tensors\n" in text
    assert f"{file}: {file.stat().st_size} bytes, {file.stat().st_size / 24000:.4%} of the base's" in text
    assert f"(24000 bytes); {pair[1]} has {pair[1].stat().st_size}\n" in text
    assert "optimizer's state is left out" in text and "add --optimizer-state" in text
    command = text.splitlines()[-1].removeprefix("to get the checkpoint back: wff ")
    assert main(command.replace("CHECKPOINT", str(tmp_path / "back.pt")).split()) == 0
    assert "without an optimizer's state" in capsys.readouterr().out
    assert "last_optimizer_state" not in torch.load(tmp_path / "back.pt", weights_only=False)

    assert wff("pack", *pair, "--out", tmp_path / "g.wff", "--optimizer-state") == 0
    assert "left out" not in capsys.readouterr().out
    assert wff("unpack", pair[0], tmp_path / "g.wff", "--out", tmp_path / "whole.pt") == 0
    assert "without" not in capsys.readouterr().out
    assert_same(*(torch.load(path, weights_only=False) for path in (tmp_path / "whole.pt", pair[1])))


def weights(path: Path) -> list[torch.Tensor]:
    return list(torch.load(path, weights_only=False)["model"].values())


def test_a_file_says_what_it_is_and_what_it_belongs_to(pair, packed):
    content = torch.load(packed, weights_only=True)
    base, tuned = (torch.load(path, weights_only=False)["model"] for path in pair)
    assert content["format"] == "weighted_freezing_fairseq difference 1" and content["version"] == __version__
    shapes = {name: list(tensor.shape) for name, tensor in base.items()}
    assert content["base"] == {"path": str(pair[0]), "fingerprint": fingerprint(base), "shapes": shapes}
    assert content["tuned"] == {"fingerprint": fingerprint(tuned)}
    assert sorted(path.name for path in packed.parent.iterdir()) == ["base.pt", "tuned.pt", "tuned.wff"]


def test_nothing_is_overwritten(pair, packed, capsys):
    before = {path: path.read_bytes() for path in (*pair, packed)}
    for out in (packed, pair[0]):
        for words in (["pack", *pair], ["unpack", pair[0], packed]):
            assert f"{out} exists and is not overwritten; give another --out, or type: rm {out}" in refusal(
                capsys, *words, "--out", out
            )
    assert {path: path.read_bytes() for path in before} == before


def test_files_that_are_missing_or_something_else_are_refused(pair, packed, tmp_path, capsys):
    (base, tuned), out, missing = pair, ["--out", tmp_path / "out"], tmp_path / "missing"
    other = tmp_path / "other.pt"
    for words in (["pack", missing, tuned], ["pack", base, missing], ["unpack", missing, packed]):
        assert f"there is no checkpoint {missing}; give a run folder, a save-dir" in refusal(capsys, *words, *out)
    assert f"there is no file {missing}; make one with: wff pack" in refusal(capsys, "unpack", base, missing, *out)
    for content in ({"weights": {}}, {"model": [1]}, {"model": {"w": 1}}, [1, 2], torch.ones(2)):
        torch.save(content, other)
        line = refusal(capsys, "pack", base, other, *out)
        assert f"{other} is not a fairseq checkpoint: " in line and "; give one that fairseq-train saved" in line
        line = refusal(capsys, "unpack", base, other, *out)
        assert f"{other} is not a file of this version of wff pack; make one with: wff pack" in line
    assert "is not a fairseq checkpoint" in refusal(capsys, "pack", base, packed, *out)
    assert not (tmp_path / "out").exists()


def test_files_that_are_cut_or_altered_are_refused(pair, packed, tmp_path, capsys):
    base, out, bad = pair[0], ["--out", tmp_path / "out"], tmp_path / "bad"
    for path, words in (
        (base, ["pack", base, bad]),
        (base, ["pack", bad, base]),
        (packed, ["unpack", base, bad]),
        (base, ["unpack", bad, packed]),
    ):
        for size in (0, 10, path.stat().st_size // 2, path.stat().st_size - 1):
            bad.write_bytes(path.read_bytes()[:size])
            assert f"{bad} is not a whole " in refusal(capsys, *words, *out)
    data = packed.read_bytes()
    value = weights(pair[1])[0][weights(pair[1])[0] != weights(base)[0]][0]  # the first that is stored
    for words in (b"extra_state", value.numpy().tobytes()):  # no model's fingerprint covers the former
        assert data.count(words) == 1
        at = data.index(words)
        bad.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        line = refusal(capsys, "unpack", base, bad, *out)
        assert "is not a whole file of wff pack: its record " in line and "; copy it again, or make one with" in line
    content = torch.load(packed, weights_only=True)
    content["difference"]["values"][0] ^= 1
    torch.save(content, bad)
    assert "is damaged: it does not restore the packed model; fetch or pack" in refusal(
        capsys, "unpack", base, bad, *out
    )
    assert not (tmp_path / "out").exists()


def test_another_base_is_refused_with_the_one_that_is_wanted(pair, packed, tmp_path, capsys):
    base, tuned = pair
    line = refusal(capsys, "unpack", tuned, packed, "--out", tmp_path / "out")
    wanted, given = (fingerprint(torch.load(path, weights_only=False)["model"])[:12] for path in pair)
    assert f"{tuned} (fingerprint {given}) is not the base of {packed}" in line
    assert f"give the checkpoint with fingerprint {wanted}, which was {base} when it was packed" in line
    assert not (tmp_path / "out").exists()


def test_a_base_of_another_architecture_is_refused_with_names_and_shapes(pair, packed, tmp_path, capsys):
    other = small(tmp_path / "other.pt", {"w0": torch.ones(40, 50), "w1": torch.ones(2, 50)})
    line = refusal(capsys, "unpack", other, packed, "--out", tmp_path / "out")
    assert "it is another model, w1 is (2, 50) there and (40, 50) here; w2 is missing; give the checkpoint with" in line
    content = torch.load(packed, weights_only=True)
    del content["base"]["shapes"]  # of an earlier version
    torch.save(content, packed)
    assert f"is not the base of {packed}: give the checkpoint" in refusal(
        capsys, "unpack", other, packed, "--out", tmp_path / "out"
    )
    assert wff("unpack", pair[0], packed, "--out", tmp_path / "out") == 0


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-checkpoint",)


def test_code_in_a_file_is_not_run(pair, packed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = small(tmp_path / "bad.pt", {}, task_state=Hostile())
    for words in (["pack", bad, pair[1]], ["pack", pair[0], bad], ["unpack", bad, packed], ["unpack", pair[0], bad]):
        line = refusal(capsys, *words, "--out", tmp_path / "out")
        assert f"{bad} holds something other than tensors and settings" in line and "save it again" in line
    assert not (tmp_path / "made-by-a-checkpoint").exists()


def test_a_file_that_does_not_give_the_checkpoint_back_is_not_kept(pair, tmp_path, capsys, monkeypatch):
    difference = pack.difference

    def wrong(base, tuned):
        found = difference(base, tuned)
        found["values"][0] ^= 1
        return found

    monkeypatch.setattr(pack, "difference", wrong)
    line = refusal(capsys, "pack", *pair, "--out", tmp_path / "f")
    assert "does not restore ['w0'] and is deleted; give --out on another disk" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.pt", "tuned.pt"]


def test_checkpoints_of_another_model_and_of_the_same_one(pair, tmp_path, capsys):
    """Nothing in common is stored whole, and nothing changed is next to nothing."""
    base = pair[0]
    for index, model in enumerate(
        ({"v": torch.ones(5), "w1": torch.ones(3)}, dict(torch.load(base, weights_only=True)["model"]))
    ):
        other, file, back = (tmp_path / f"{index}.{kind}" for kind in ("pt", "wff", "back"))
        small(other, model)
        assert wff("pack", base, other, "--out", file, "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert report["numbers_changed"] == (8, 0)[index] and report["optimizer_state"] == "none"
        assert wff("unpack", base, file, "--out", back) == 0
        capsys.readouterr()
        assert_same(*(torch.load(path, weights_only=False) for path in (back, other)))
