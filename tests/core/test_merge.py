"""Merging what several workers changed: against a slow oracle, and what must stay bit for bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weighted_freezing_fairseq.core.masks import dealt, density_masks
from weighted_freezing_fairseq.core.merge import merged

SHAPES = {"a": (7, 5), "b": (11,), "empty": (0, 3), "scalar": ()}


def model(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def scores(seed: int) -> dict[str, torch.Tensor]:
    return {name: tensor.square() for name, tensor in model(seed).items()}


def inside(base, other, masks):
    return {name: torch.where(masks[name], other[name], base[name]) for name in base}


@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_merge_is_the_sum_or_mean_of_differences_number_by_number(seed, workers, mean, dtype):
    base = model(seed, dtype)
    tuned = [model(seed + worker, dtype) for worker in range(1, workers + 1)]
    found = merged(base, iter(tuned), mean)
    for name, start in base.items():
        for position in range(start.numel()):
            first = float(start.view(-1)[position])
            change = sum(float(other[name].view(-1)[position]) - first for other in tuned)
            expected = torch.tensor(first + change / (workers if mean else 1), dtype=torch.float64).to(dtype)
            assert found[name].view(-1)[position] == expected


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.05, 1))
def test_complementary_masks_are_disjoint_and_cover_k_and_each_worker_keeps_its_numbers(seed, workers, density):
    base, importance = model(seed), scores(seed + 9)
    whole = density_masks(importance, density, None)
    parts = dealt(importance, whole, workers)
    sizes = [sum(int(mask.sum()) for mask in part.values()) for part in parts]
    assert sum(sizes) == round(density * 47) and max(sizes) - min(sizes) <= 1
    for name, mask in whole.items():
        assert torch.equal(torch.stack([part[name] for part in parts]).sum(0), mask.long())
    tuned = [inside(base, model(seed + worker), part) for worker, part in enumerate(parts, 1)]
    found = merged(base, tuned, mean=False)
    for part, own in zip(parts, tuned, strict=True):
        assert all(torch.equal(found[name][part[name]], own[name][part[name]]) for name in base)
    assert all(torch.equal(found[name][~whole[name]], base[name][~whole[name]]) for name in base)


def test_numbers_are_dealt_out_by_importance():
    """Of the scores 9 8 7 6 5 the first part has 9, 7 and 5."""
    mask = {"w": torch.tensor([True, False, True, True, True, True])}
    first, second = dealt({"w": torch.tensor([6.0, 99, 9, 5, 8, 7])}, mask, 2)
    assert first["w"].nonzero().view(-1).tolist() == [2, 3, 5] and second["w"].nonzero().view(-1).tolist() == [0, 4]


def test_what_no_worker_changed_keeps_its_bits_and_tied_tensors_stay_tied():
    base = {"w": torch.tensor([-0.0, torch.inf, 1e-45, 1.0]), "steps": torch.tensor([3])}
    base["tied"] = base["w"]
    tuned = {"w": torch.tensor([-0.0, torch.inf, 1e-45, 2.0]), "steps": torch.tensor([3])}
    tuned["tied"] = tuned["w"]
    found = merged(base, [tuned, {**base}], mean=True)
    assert found["w"].tolist()[3] == 1.5 and found["w"] is found["tied"] and list(found) == list(base)
    assert found["w"].view(torch.int32)[:3].equal(base["w"].view(torch.int32)[:3])
    assert found["steps"] is base["steps"]


@pytest.mark.parametrize(
    ("tuned", "told"),
    [
        ({"w": torch.ones(3)}, "worker 2 is not that of the base: w is"),
        ({}, "w is missing"),
        ({"w": torch.ones(2), "v": torch.ones(1)}, "v is new"),
        ({"w": torch.ones(2, dtype=torch.int64)}, "worker 2 changed w, which is torch.int64"),
    ],
)
def test_another_model_is_refused(tuned, told):
    base = {"w": torch.zeros(2)}
    with pytest.raises(ValueError, match=told):
        merged(base, [base, tuned], mean=False)
