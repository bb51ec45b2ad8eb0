"""Snapshots, packed differences and JSON that were written wrong on purpose: one line each, before any work."""

import argparse
from collections import Counter
from pathlib import Path

import pytest
import torch
from damaged import BAD_NUMBERS, UNUSUAL, flip, refused

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.core import snapshot
from weighted_freezing_fairseq.data import fetch, folder, read_manifest, sentences
from weighted_freezing_fairseq.data.glue import GLUE
from weighted_freezing_fairseq.data.iwslt14 import IWSLT14
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.scoring.significance import cached_p_values
from weighted_freezing_fairseq.workspace.contents import content_hash
from weighted_freezing_fairseq.workspace.labels import reuse
from weighted_freezing_fairseq.workspace.steps import once, state_of

LONG = torch.zeros(3, dtype=torch.uint8)


def changed(content: dict, place: str, value: object) -> dict:
    """`content` with another value at a.b.c; DELETE takes it away."""
    *outer, last = place.split(".")
    at = content
    for key in outer:
        at = at[int(key) if isinstance(at, list) else key]
    if value is DELETE:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return content


DELETE = object()

# What is wrong with a mask of w, of shape (3, 5): where, what stands there, and what is said of it.
MASKS = {
    "no shape": ("shapes.w", DELETE, "shapes has no 'w'"),
    "no shapes": ("shapes", DELETE, "it has no 'shapes'"),
    "shape of text": ("shapes.w", "15", "shapes.w must be list, but is str"),
    "shape of fractions": ("shapes.w", [3.0, 5], "shapes.w[0] must be int, but is float"),
    "huge shape": (
        "shapes.w",
        [2**40, 5],
        "a mask of w with shape (1099511627776, 5) has 687194767360 bytes, not (2,)",
    ),
    "shape beyond counting": ("shapes.w", [2**70, 0], "w cannot have the shape"),
    "negative shape": ("shapes.w", [-3, -5], "w cannot have the shape (-3, -5)"),
    "short bits": ("tensors.w", LONG[:1], "has 2 bytes, not (1,) torch.uint8"),
    "long bits": ("tensors.w", LONG, "has 2 bytes, not (3,) torch.uint8"),
    "square bits": ("tensors.w", LONG[None, :2], "has 2 bytes, not (1, 2) torch.uint8"),
    "float bits": ("tensors.w", torch.ones(2), "has 2 bytes, not (2,) torch.float32"),
    "no bits": ("tensors.w", None, "tensors.w must be Tensor, but is NoneType"),
    "no tensors": ("tensors", DELETE, "it has no 'tensors'"),
    "a list of tensors": ("tensors", [LONG], "tensors must be dict, but is list"),
    "a number for a name": ("tensors", {1: LONG}, "a name in tensors must be str, but is int"),
    "no account": ("about", None, "about must be dict, but is NoneType"),
    "kind of number": ("kind", 7, "kind must be str, but is int"),
    "weights of text": ("weights", {"w": "x"}, "weights.w must be Tensor, but is str"),
}
FISHER = {
    "negative": (
        "tensors.w",
        torch.tensor([1.0, -2.0]),
        "the Fisher information of w holds -2, and must be at least 0",
    ),
    "whole numbers": ("tensors.w", torch.ones(2, dtype=torch.int64), "w is torch.int64, and must be floating point"),
    **{name: ("tensors.w", bad, "the Fisher information of w is ") for name, bad in BAD_NUMBERS.items()},
    **{name: ("tensors.w", bad, "the tensor w is ") for name, bad in UNUSUAL.items()},
    "unusual weights": ("weights.w", UNUSUAL["expanded"], "the tensor weights of w is an expanded view"),
    "no tensors": ("tensors", DELETE, "it has no 'tensors'"),
}


@pytest.fixture
def fisher(tmp_path):
    path = tmp_path / "fisher.pt"
    snapshot.save(path, "fisher", {"w": torch.tensor([1.0, 2.0])}, weights={"w": torch.tensor([3.0, 4.0])})
    return path


def mask_from(capsys, path) -> str:
    return refused(capsys, "fisher", "--from", path, "--mask-density", 0.5, "--out", path.with_name("out"))


@pytest.mark.parametrize("case", FISHER)
def test_crafted_fisher_information_is_refused(fisher, capsys, case):
    place, value, said = FISHER[case]
    torch.save(changed(torch.load(fisher, weights_only=True), place, value), fisher)
    line = mask_from(capsys, fisher)
    assert str(fisher) in line and said in line
    assert not fisher.with_name("out").exists()


def test_a_flipped_bit_of_fisher_information_is_noticed(fisher, capsys):
    flip(fisher, torch.tensor([1.0, 2.0]).numpy().tobytes())
    assert "is not a whole snapshot of this package: its record " in mask_from(capsys, fisher)


def test_an_anchor_needs_finite_weights(fisher):
    torch.save(changed(torch.load(fisher, weights_only=True), "weights.w", torch.tensor([1.0, torch.nan])), fisher)
    found = snapshot.load(fisher, "fisher")  # whoever needs the Fisher information alone may have it
    with pytest.raises(snapshot.UserError, match="the weight w is not finite: it holds nan; make one from the"):
        snapshot.fisher_and_weights(found, fisher, [("w", (2,))])


@pytest.mark.parametrize("case", MASKS)
def test_crafted_masks_are_refused(tmp_path, case):
    place, value, said = MASKS[case]
    path = tmp_path / "mask.pt"
    snapshot.save(path, "mask", {"w": torch.ones(3, 5) > 0})
    torch.save(changed(torch.load(path, weights_only=True), place, value), path)
    with pytest.raises(snapshot.UserError) as error:
        snapshot.load(path, "mask")
    assert (
        str(path) in str(error.value) and said in str(error.value) and "make one with: wff fisher" in str(error.value)
    )


# Checkpoints and differences ----------------------------------------------------------------------------------------

BASE = torch.arange(1000, dtype=torch.float32)


def checkpoint(path, model, **more):
    torch.save({"args": argparse.Namespace(), "model": model, **more}, path)
    return path


@pytest.fixture
def packed(tmp_path, capsys):
    """What pack made of a checkpoint of which three numbers of w changed, and v is new."""
    tuned = BASE.clone()
    tuned[[3, 500, 999]] = -1
    base = checkpoint(tmp_path / "base.pt", {"w": BASE})
    other = checkpoint(tmp_path / "tuned.pt", {"w": tuned, "v": torch.ones(2)})
    assert main(["pack", str(base), str(other), "--out", str(tmp_path / "f.wff")]) == 0
    capsys.readouterr()
    return tmp_path / "f.wff"


FIRST = "difference.tensors.0"  # of w
PACKED = {
    "no base": ("base", DELETE, "it has no 'base'"),
    "no fingerprint": ("base.fingerprint", DELETE, "base has no 'fingerprint'"),
    "shapes of text": ("base.shapes", {"w": "x"}, "shapes.w must be list, but is str"),
    "fingerprint of bytes": ("tuned.fingerprint", b"x", "tuned.fingerprint must be str, but is bytes"),
    "no difference": ("difference", None, "difference must be dict, but is NoneType"),
    "no names": ("difference.names", DELETE, "difference has no 'names'"),
    "other names": ("difference.names", ["w", "x"], "its list of names differs from the names of its tensors"),
    "a name too often": (
        "difference.names",
        ["w", "v", "v"],
        "its list of names differs from the names of its tensors",
    ),
    "nameless": (f"{FIRST}.names", [], "two tensors have the same name, or one has none"),
    "two of a name": (f"{FIRST}.names", ["v"], "two tensors have the same name, or one has none"),
    "tensor of text": (FIRST, "w", "difference.tensors[0] must be dict, but is str"),
    "unknown start": (f"{FIRST}.starts", "u", "w starts from u, which the base does not have"),
    "no start": (f"{FIRST}.starts", None, "w has no 'whole'"),
    "whole of text": ("difference.tensors.1.whole", "x", "v.whole must be Tensor, but is str"),
    **{name: ("difference.tensors.1.whole", bad, "the tensor v is ") for name, bad in UNUSUAL.items()},
    "negative count": (f"{FIRST}.changed", -1, "w has -1 changes"),
    "huge count": (f"{FIRST}.changed", 2**62, "the numbers of gaps and of changes differ"),
    "count of fractions": (f"{FIRST}.changed", 3.0, "changed must be int, but is float"),
    "gaps of no bytes": (f"{FIRST}.gap_bytes", 0, "w has 3 changes with 0 bytes each"),
    "gaps of nine bytes": (f"{FIRST}.gap_bytes", 9, "w has 3 changes with 9 bytes each"),
    "short gaps": ("difference.gaps", LONG[:2], "the numbers of gaps and of changes differ"),
    "gaps beyond the end": ("difference.gaps", torch.full((6,), 255, dtype=torch.uint8), "positions of w are outside"),
    "gaps of numbers": ("difference.gaps", torch.ones(6), "its gaps are not a flat tensor of bytes"),
    "expanded gaps": ("difference.gaps", LONG[:1].expand(6), "the tensor gaps is an expanded view"),
    "short values": ("difference.values", LONG, "the values of w are cut off"),
    "other values": ("difference.values", LONG[:1].repeat(12), "it does not restore the packed model"),
    "values of squares": (
        "difference.values",
        torch.ones(3, 4, dtype=torch.uint8),
        "values are not a flat tensor of bytes",
    ),
    "no rest": ("rest", DELETE, "it has no 'rest'"),
    "rest without a model": ("rest.model", DELETE, "rest has no 'model'"),
    "a second model": ("rest.model.u", torch.ones(2), "it holds a second model"),
}


@pytest.mark.parametrize("case", PACKED)
def test_crafted_differences_are_refused(packed, capsys, case):
    place, value, said = PACKED[case]
    torch.save(changed(torch.load(packed, weights_only=False), place, value), packed)
    line = refused(capsys, "unpack", packed.with_name("base.pt"), packed, "--out", packed.with_name("out"))
    assert str(packed) in line and said in line
    assert not packed.with_name("out").exists()


def test_gaps_that_go_back_before_the_first_number_are_refused(packed, capsys):
    content = torch.load(packed, weights_only=False)
    content["difference"]["tensors"][0]["gap_bytes"] = 8
    content["difference"]["gaps"] = torch.tensor([5, -9, 2], dtype=torch.int64).view(torch.uint8)
    torch.save(content, packed)
    line = refused(capsys, "unpack", packed.with_name("base.pt"), packed, "--out", packed.with_name("out"))
    assert "positions of w are outside its 1000 numbers; fetch or pack it again" in line


@pytest.mark.parametrize(
    "words", [["average", "{}", "--out"], ["pack", "{}", "{}", "--out"]], ids=lambda words: words[0]
)
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_tensors_of_checkpoints_are_refused(tmp_path, capsys, words, kind):
    path = checkpoint(tmp_path / "a.pt", {"v": BASE, "w": UNUSUAL[kind]})
    line = refused(capsys, *(word.format(path) for word in words), tmp_path / "out")
    assert f"{path}: the tensor w is " in line and "must be dense; save " in line


@pytest.mark.parametrize("kind", BAD_NUMBERS)
def test_no_average_of_bad_numbers(tmp_path, capsys, kind):
    path = checkpoint(tmp_path / "a.pt", {"steps": torch.tensor(3), "w": BAD_NUMBERS[kind]})
    line = refused(capsys, "average", path, "--out", tmp_path / "out")
    assert f"{path}: w is " in line and line.endswith("; leave this checkpoint out\n")


def test_a_difference_keeps_bad_numbers(tmp_path, capsys):
    """It gives back what was there, whatever it was."""
    path = checkpoint(tmp_path / "a.pt", dict(BAD_NUMBERS))
    assert main(["pack", str(path), str(path), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    "more", [{"extra_state": [1]}, {"optimizer_history": [1]}, {"optimizer_history": {"a": 1}}], ids=str
)
def test_a_checkpoint_whose_state_is_something_else_is_refused(tmp_path, capsys, more):
    path = checkpoint(tmp_path / "a.pt", {"w": BASE}, **more)
    line = refused(capsys, "average", path, "--out", tmp_path / "out")
    assert f"{path} is not a fairseq checkpoint: {next(iter(more))}" in line


def test_a_flipped_bit_of_a_checkpoint_is_noticed(tmp_path, capsys):
    path = checkpoint(tmp_path / "a.pt", {"w": BASE})
    flip(path, BASE.numpy().tobytes())
    line = refused(capsys, "average", path, "--out", tmp_path / "out")
    assert f"{path} is not a whole checkpoint: its record " in line and "; copy it again, or give one that" in line


# JSON that one command leaves for another -----------------------------------------------------------------------------


def counts_of_a_step(path: Path) -> None:
    once(path.parent, "text", {}, lambda: None)
    folder.PairJob(IWSLT14, "clean", IWSLT14.table["clean"], "de-en", path.parent).run_step("text", list, {})


def archive_beside(path: Path) -> None:
    (path.parent / "a.tgz").touch()
    fetch.identity(path.parent / "a.tgz")


def hash_of_prepared_data(path: Path) -> None:
    (path.parent / "bin").mkdir()
    content_hash(path.parent / "bin")


# By the name of the file: who reads it, and what the error says to type.
LEFT = {
    "manifest.json": (lambda path: read_manifest(path.parent), "prepare it again"),
    "sub/manifest.json": (hash_of_prepared_data, "prepare it again"),
    ".text.json": (lambda path: state_of(path.parent, "text", {}), "to do this step again, type: rm "),
    ".text.begun.json": (lambda path: state_of(path.parent, "text", {}), "to do this step again, type: rm "),
    ".text.rows.json": (counts_of_a_step, "to count it again, type: rm "),
    "fetched.json": (archive_beside, "to ignore what it records, type: rm "),
    "significance.json": (lambda path: cached_p_values(["a"], ["b"], ["a"], path), "to test again, type: rm "),
    "point.json": (lambda path: reuse(path, {"a": 1}, path.parent, {}), "to measure it again, type: rm "),
}
JSON_CASES = {
    "empty": (b"", "Expecting value"),
    "cut": (b'{"a": ', "Expecting value"),
    "text": (b'"a"', "but is str"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "can't decode byte"),
    "too deep to read": (b"[" * 100_000, "recursion"),
    "too deep to compare": (b'{"a": ' * 900 + b"1" + b"}" * 900, "more than 100 levels"),
    "too many digits": (b"9" * 5000, "digits"),
}


@pytest.mark.parametrize("case", JSON_CASES)
@pytest.mark.parametrize("name", LEFT)
def test_damaged_json_is_refused(tmp_path, name, case):
    (data, said), (read, remedy) = JSON_CASES[case], LEFT[name]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read(path)
    assert f"{path} is not a valid JSON file: " in str(error.value)
    assert said in str(error.value) and remedy in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"sha256": []}', "sha256 must be dict, but is list"),
        ('{"tests": {"test": 1}}', "tests.test must be str, but is int"),
        ('{"generate": {"remove_bpe": null}}', "generate has no 'tokenizer'"),
        ('{"rows": {"train": "a"}}', "rows.train must be int, but is str"),
    ],
)
def test_a_manifest_of_another_form_is_refused(tmp_path, content, said):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"prepare it again") as error:
        read_manifest(tmp_path)
    assert said in str(error.value)


def test_a_done_step_without_its_counts_says_what_to_type(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*rows\.json; to count it again, type: rm .*\.text\.json"):
        counts_of_a_step(tmp_path / ".text.rows.json")


def test_a_table_of_mrpc_without_the_numbers_of_its_pairs_is_refused(tmp_path):
    (tmp_path / "t.txt").write_text("Quality\t#2 ID\t#1 String\t#2 String\n1\t2\ta\tb\n")
    (tmp_path / "ids").write_text("1\t2\n")
    task = GLUE.tasks["mrpc"]
    source = next(table for split in task.splits for table in split.files if table.ids)
    with pytest.raises(UserError, match=r"has no column '#1 ID' .*Give another with --archive"):
        list(sentences.rows(tmp_path / "t.txt", source, task, Counter(), tmp_path / "ids"))
