"""The difference of two sets of tensors: bit for bit back, small where few numbers differ, no tensor twice."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weighted_freezing_fairseq.core.difference import difference, equal_bits, patched, patches, tied

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex128]
SHAPES = [(), (0,), (1,), (7,), (3, 0, 2), (4, 5), (2, 3, 4), (400,)]
NAMES = [f"layer.{i}.weight" for i in range(5)]


def raw(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    flat = tensor.clone(memory_format=torch.contiguous_format).view(-1)
    return tensor.dtype, tensor.shape, flat.view(torch.uint8).numpy().tobytes()


def any_bits(shape, dtype, seed: int) -> torch.Tensor:
    """Random bytes: quiet and signalling NaN with any payload, infinities, both zeros, subnormal numbers."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    data = torch.randint(256, (*shape, dtype.itemsize), dtype=torch.uint8, generator=generator)
    return data.view(-1).view(dtype).view(shape)


@st.composite
def tensors(draw) -> torch.Tensor:
    tensor = any_bits(draw(st.sampled_from(SHAPES)), draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**32)))
    if draw(st.booleans()) and tensor.dim():
        tensor = tensor.transpose(0, -1)[::2]  # not contiguous, and a part of its storage
    return tensor


@st.composite
def successors(draw, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Some tensors kept, some changed in places, some gone, replaced or new, some tied to others."""
    tuned: dict[str, torch.Tensor] = {}
    for name in draw(st.permutations(NAMES)):
        start = base.get(name)
        how = draw(st.sampled_from(["same", "changed", "changed", "gone", "replaced", "reshaped", "tied"]))
        if how == "tied" and tuned:
            tuned[name] = tuned[draw(st.sampled_from(sorted(tuned)))]
        elif how == "replaced" or (start is None and how != "gone"):
            tuned[name] = draw(tensors())
        elif how == "reshaped":
            tuned[name] = start.reshape(-1)
        elif how in ("same", "changed"):
            tuned[name] = start.clone()
            if how == "changed" and start.numel():
                flat = tuned[name].reshape(-1)
                positions = draw(st.lists(st.integers(0, start.numel() - 1), max_size=8))
                flat[positions] = any_bits((len(positions),), start.dtype, draw(st.integers(0, 2**32)))
                tuned[name] = flat.view(start.shape)
    return tuned


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_patched_is_what_was_tuned_bit_for_bit(data):
    base = data.draw(st.dictionaries(st.sampled_from(NAMES), tensors()))
    tuned = data.draw(successors(base))
    before = {name: raw(tensor) for name, tensor in base.items()}
    stream = io.BytesIO()
    torch.save(difference(base, tuned), stream)
    stream.seek(0)
    found = patched(base, torch.load(stream, weights_only=True))
    assert list(found) == list(tuned)
    assert {name: raw(t) for name, t in found.items()} == {name: raw(t) for name, t in tuned.items()}
    assert all(equal_bits(found[name], tuned[name]) for name in tuned)
    assert {name: raw(tensor) for name, tensor in base.items()} == before
    shared = [names for names in tied(tuned) if tuned[names[0]].numel()]
    assert all(found[name] is found[names[0]] for names in shared for name in names)


@given(tensors())
def test_a_tensor_differs_from_itself_in_nothing(tensor):
    found = difference({"w": tensor}, {"w": tensor.clone()})
    assert found["tensors"] == [{"names": ["w"], "starts": "w", "changed": 0, "gap_bytes": 0}]
    assert len(found["gaps"]) == len(found["values"]) == 0


def test_gaps_and_values_by_hand():
    base = {"w": torch.zeros(2, 300, dtype=torch.int16)}
    w = base["w"].clone()
    w[0, 0], w[0, 255], w[1, 0] = 1, -1, 0x0102  # positions 0, 255, 300: gaps 0, 255, 45
    found = difference(base, {"w": w})
    assert found["tensors"] == [{"names": ["w"], "starts": "w", "changed": 3, "gap_bytes": 1}]
    assert found["gaps"].tolist() == [0, 255, 45]
    assert found["values"].tolist() == [1, 0, 255, 255, 2, 1]
    w[0, 255] = 0  # gaps 0, 300: two bytes each, the lower first
    assert difference(base, {"w": w})["gaps"].tolist() == [0, 0, 44, 1]


@pytest.mark.parametrize(("gap", "width"), [(1, 1), (255, 1), (256, 2), (65535, 2), (65536, 3), (2**24, 4)])
def test_a_gap_takes_as_few_bytes_as_it_needs(gap, width):
    base = torch.zeros(gap + 10, dtype=torch.bool)
    tuned = base.clone()
    tuned[[0, gap]] = True
    found = difference({"w": base}, {"w": tuned})
    assert found["tensors"][0]["gap_bytes"] == width and len(found["gaps"]) == 2 * width
    assert torch.equal(patched({"w": base}, found)["w"], tuned)


def test_zeros_of_either_sign_and_nan_payloads_differ():
    bits = [0, -(2**31), 0x7FC00000, 0x7FC00001, 0x7F800001]  # 0.0, -0.0, three NaN
    numbers = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    for number in numbers:
        for other in numbers:
            assert equal_bits(number, other) == (raw(number) == raw(other))
    base = {"w": torch.zeros(100)}
    found = difference(base, {"w": -base["w"]})
    assert found["tensors"][0]["changed"] == 100


@pytest.mark.parametrize(("changed", "whole"), [(79, False), (80, True), (100, True)])
def test_a_tensor_is_stored_whole_where_that_is_smaller(changed, whole):
    base = {"w": torch.zeros(100)}
    tuned = {"w": torch.zeros(100)}
    tuned["w"][:changed] = 1  # one byte of gap and four of value each: 80 weigh as much as all
    (entry,) = difference(base, tuned)["tensors"]
    assert ("whole" in entry) == whole and entry["changed"] == changed


def test_tied_tensors_are_stored_once_and_come_back_tied():
    weight = torch.randn(100, 100)
    new = {"a": weight, "b": torch.ones(3), "c": weight, "d": weight[:10], "e": weight.T}
    assert tied(new) == [["a", "c"], ["b"], ["d"], ["e"]]
    stream = io.BytesIO()
    torch.save(difference({}, {"a": weight, "c": weight}), stream)
    assert stream.tell() < 1.2 * weight.nbytes
    # Tied in one of the two only: the start is found under any of the names.
    base = {"c": weight.clone()}
    found = difference(base, {"a": weight, "c": weight})
    assert found["tensors"][0]["starts"] == "c" and found["tensors"][0]["changed"] == 0
    untied = patched({"a": weight, "c": weight}, difference({"a": weight, "c": weight}, {"a": weight + 1, "c": weight}))
    assert torch.equal(untied["a"], weight + 1) and torch.equal(untied["c"], weight)


def test_what_else_a_storage_holds_is_not_stored():
    big = torch.zeros(100_000)
    found = difference({}, {"w": big[:10]})
    assert found["tensors"][0]["whole"].untyped_storage().nbytes() == 40
    kept = patched({"w": big[:10]}, difference({"w": big[:10]}, {"w": torch.zeros(10)}))
    assert kept["w"].untyped_storage().nbytes() == 40


def test_what_did_not_change_is_not_copied():
    base = {"w": torch.zeros(10), "v": torch.zeros(10)}
    tuned = {"w": torch.zeros(10), "v": torch.ones(10)}
    found = {names[0]: tensor for names, tensor in patches(base, difference(base, tuned))}
    assert found["w"].data_ptr() == base["w"].data_ptr()
    assert found["v"].data_ptr() == tuned["v"].data_ptr()  # whole: the tuned one itself


def test_names_that_are_gone_are_recorded():
    base = {"w": torch.zeros(2), "old": torch.zeros(2), "older": torch.zeros(2)}
    found = difference(base, {"w": base["w"]})
    assert found["gone"] == ["old", "older"] and list(patched(base, found)) == ["w"]
