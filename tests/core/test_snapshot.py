"""Snapshots: what was saved comes back, and nothing else is taken for it."""

import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weighted_freezing_fairseq.core import snapshot
from weighted_freezing_fairseq.errors import UserError


@given(st.lists(st.booleans(), max_size=70))
def test_bits_come_back(values):
    mask = torch.tensor(values, dtype=torch.bool)
    packed = snapshot.pack_bits(mask)
    assert packed.dtype == torch.uint8 and len(packed) == -(-len(values) // 8)
    assert torch.equal(snapshot.unpack_bits(packed, mask.shape), mask)


def test_a_snapshot_comes_back_with_its_header(tmp_path):
    fisher = {"a.weight": torch.rand(3, 5), "a.bias": torch.rand(3).double()}
    snapshot.save(tmp_path / "deep/f.pt", "fisher", fisher, estimator="per-sample", samples=7)
    found = snapshot.load(tmp_path / "deep/f.pt", "fisher")
    assert found.about == {"estimator": "per-sample", "samples": 7}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in fisher.items())
    assert found.tensors["a.bias"].dtype == torch.float64 and found.weights is None
    masks = {"a.weight": torch.rand(3, 5) < 0.5, "empty": torch.zeros(0, 2, dtype=torch.bool)}
    snapshot.save(tmp_path / "m.pt", "mask", masks)
    found = snapshot.load(tmp_path / "m.pt", "mask")
    assert all(torch.equal(found.tensors[name], mask) for name, mask in masks.items()) and found.weights is None
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["f.pt"]


def test_what_is_no_snapshot_is_refused_with_what_to_type(tmp_path):
    path = tmp_path / "f.pt"
    with pytest.raises(UserError, match="there is no file .* wff fisher CHECKPOINT"):
        snapshot.load(path, "fisher")
    for content in (b"", b"PK\x03\x04 half", b"hello"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a whole snapshot .* wff fisher"):
            snapshot.load(path, "fisher")
    for other in ({"model": {}}, [1, 2], {"format": "other"}):
        torch.save(other, path)
        with pytest.raises(UserError, match="not a whole snapshot"):
            snapshot.load(path, "fisher")
    snapshot.save(path, "fisher", {"w": torch.ones(2)})
    with pytest.raises(UserError, match="kind 'fisher', not 'mask'; .*--mask-density"):
        snapshot.load(path, "mask")


def test_another_model_is_refused_with_names_and_shapes(tmp_path):
    made = snapshot.Snapshot("fisher", {}, {"w": torch.ones(2, 3), "b": torch.ones(2)})
    assert snapshot.of_this_model(made, tmp_path, [("b", (2,))]).keys() == {"b"}
    with pytest.raises(UserError, match=r"w is \(2, 3\) there and \(3, 2\) here; c is missing; .* wff fisher"):
        snapshot.of_this_model(made, tmp_path, [("w", (3, 2)), ("b", (2,)), ("c", (1,))])
    with pytest.raises(UserError, match="and 2 more"):
        snapshot.of_this_model(made, tmp_path, [(f"x{i}", (1,)) for i in range(5)])


def test_fisher_information_comes_with_its_weights(tmp_path):
    path, shapes = tmp_path / "f.pt", [("w", (2, 3)), ("b", (2,))]
    fisher = {"w": torch.rand(2, 3), "b": torch.rand(2)}
    weights = {"w": torch.randn(2, 3).half(), "b": torch.randn(4)[::2]}
    snapshot.save(path, "fisher", fisher, weights=weights, samples=7)
    made = snapshot.load(path, "fisher")
    assert made.about == {"samples": 7}
    found = snapshot.fisher_and_weights(made, path, iter(shapes))
    assert [snapshot.fingerprint(tensors) for tensors in found] == list(map(snapshot.fingerprint, (fisher, weights)))
    assert [part.keys() for part in snapshot.fisher_and_weights(made, path, shapes[1:])] == [{"b"}, {"b"}]
    with pytest.raises(UserError, match="another model: c is missing; .* wff fisher"):
        snapshot.fisher_and_weights(made, path, [*shapes, ("c", (1,))])
    made.weights["w"] = torch.ones(3, 2)
    with pytest.raises(UserError, match=r"another model: w is \(3, 2\) there and \(2, 3\) here"):
        snapshot.fisher_and_weights(made, path, shapes)


def test_fisher_information_without_weights_serves_whoever_needs_no_more(tmp_path):
    """A file as it was before weights were kept, and one that was saved without any."""
    path, shapes = tmp_path / "f.pt", [("w", (2,))]
    of_before = {"format": "weighted_freezing_fairseq snapshot 1", "kind": "fisher", "about": {}}
    torch.save({**of_before, "shapes": {"w": [2]}, "tensors": {"w": torch.ones(2)}}, path)
    snapshot.save(tmp_path / "g.pt", "fisher", {"w": torch.ones(2)})
    for file in (path, tmp_path / "g.pt"):
        made = snapshot.load(file, "fisher")
        assert torch.equal(snapshot.of_this_model(made, file, shapes)["w"], torch.ones(2))
        with pytest.raises(UserError, match="make one with: wff fisher CHECKPOINT --data BIN --out FILE$"):
            snapshot.fisher_and_weights(made, file, shapes)


def test_what_was_taken_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "f.pt"
    snapshot.save(path, "fisher", {"w": torch.ones(2)}, weights={"w": torch.ones(2)})
    taken = snapshot.fisher_and_weights(snapshot.load(path, "fisher"), path, [("w", (2,))])
    with path.open("r+b") as stream:
        stream.write(bytes(path.stat().st_size))
    assert all(torch.equal(tensors["w"], torch.ones(2)) for tensors in taken)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what is in memory")
def test_weights_that_nobody_asks_for_take_no_memory(tmp_path):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    path = tmp_path / "f.pt"
    snapshot.save(path, "fisher", {"w": torch.ones(2)}, weights={"w": torch.ones(64 << 18)})  # 64 MB
    before = resident()
    made = snapshot.load(path, "fisher")
    snapshot.of_this_model(made, path, [("w", (2,))])
    assert resident() - before < 16 << 20 and float(made.weights["w"][-1]) == 1


def test_fingerprint_sees_names_shapes_dtypes_and_bits():
    base = {"a": torch.zeros(4), "b": torch.ones(2, 2)}
    same = {"b": torch.ones(2, 2), "a": torch.zeros(8)[::2]}
    assert snapshot.fingerprint(base) == snapshot.fingerprint(same)
    assert snapshot.fingerprint({"x": torch.zeros(2)[::2]}) == snapshot.fingerprint({"x": torch.zeros(1)})
    for change in (
        {"a": -torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4).double()}, {"b": torch.ones(2, 2) * 2},
    ):  # fmt: skip
        assert snapshot.fingerprint({**base, **change}) != snapshot.fingerprint(base)
    assert snapshot.fingerprint({"x": base["a"], "b": base["b"]}) != snapshot.fingerprint(base)
