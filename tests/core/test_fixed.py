"""A mask that stays: exactly k numbers move, the others never, and the base keeps no state for them."""

import copy

import pytest
import torch
from guided_rows import BASES, a_model, same, some_fisher, train
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from weighted_freezing_fairseq.core import compressed_state
from weighted_freezing_fairseq.core.fixed import FixedMaskOptimizer
from weighted_freezing_fairseq.core.masks import stream_key, uniform
from weighted_freezing_fairseq.core.scope import Slot, scope_of

TOTAL = sum(p.numel() for p in a_model().parameters())


def masked(model, base="adamw", method="fish_mask", **settings):
    return FixedMaskOptimizer(BASES[base](model.parameters()), scope_of(model, "all"), method, **settings)


def moved(model):
    start = dict(a_model().named_parameters())
    return {name: p.detach() != start[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("density", [0.005, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("source", ["fisher", "random", "magnitude"])
def test_exactly_k_numbers_move_and_the_others_not_by_a_bit(base, density, source):
    model = a_model()
    optimizer = masked(model, base, density=density, source=source, observe=2)
    train(model, optimizer, 7)
    allowed = sum(int(mask.sum()) for mask in optimizer.masks.values())
    assert allowed == round(density * TOTAL)
    for name, change in moved(model).items():
        assert not (change & ~optimizer.masks[name]).any()
    assert sum(int(change.sum()) for change in moved(model).values()) >= allowed - 1  # a gradient may be exactly zero


@settings(max_examples=30, deadline=None)
@given(st.floats(0.001, 1), st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_exactly_k_under_ties(density, sizes):
    parameters = [nn.Parameter(torch.ones(size)) for size in sizes]  # every score is the same
    slots = [Slot(str(index), p, p.shape) for index, p in enumerate(parameters)]
    base = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer = FixedMaskOptimizer(base, slots, density=density, source="magnitude")
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert sum(int((p != 1).sum()) for p in parameters) == round(density * sum(sizes))


def test_no_weight_moves_while_the_mask_is_estimated_and_the_mask_is_the_largest_mean_square():
    model = a_model()
    optimizer = masked(model, density=0.1, observe=3)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for update in range(3):
        train(model, optimizer, 1, first=update)
        for name, p in model.named_parameters():
            expected[name] += p.grad**2
        assert not any(change.any() for change in moved(model).values())
    scores = torch.cat([expected[name].flatten() for name in optimizer.masks])
    kept = torch.cat([mask.flatten() for mask in optimizer.masks.values()])
    assert kept.sum() == round(0.1 * TOTAL) and scores[kept].min() >= scores[~kept].max()
    assert not optimizer.observed and len(optimizer.state_dict()["state"]) == 0
    train(model, optimizer, 1, first=3)
    assert any(change.any() for change in moved(model).values())


# Two steps deep, by hand: theta = (1, 2, 3), gradients (3, 1, 2), SGD rate 0.1 momentum 0.5; k = 1 of 3: the first.
# velocity 3 then 0.5 * 3 + 3 = 4.5: theta_0 = 1 - 0.3 = 0.7, then 0.7 - 0.45 = 0.25.
def test_two_steps_deep():
    theta = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    base = torch.optim.SGD([theta], lr=0.1, momentum=0.5)
    fisher = {"w": torch.tensor([9.0, 1.0, 4.0])}
    optimizer = FixedMaskOptimizer(base, [Slot("w", theta, theta.shape)], density=1 / 3, source=fisher)
    for expected in (0.7, 0.25):
        theta.grad = torch.tensor([3.0, 1.0, 2.0])
        optimizer.step()
        torch.testing.assert_close(theta.detach(), torch.tensor([expected, 2.0, 3.0]))


# LFR-CM on the same numbers with tau = 4: the second and third move, 2 - 0.1 - 0.15 and 3 - 0.2 - 0.3.
@pytest.mark.parametrize("limit", [{"tau": 4.0}, {"quantile": 2 / 3}, {"quantile": 0.5}])
def test_low_fisher_two_steps_deep(limit):
    theta = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    base = torch.optim.SGD([theta], lr=0.1, momentum=0.5)
    fisher = {"w": torch.tensor([9.0, 1.0, 4.0])}
    optimizer = FixedMaskOptimizer(base, [Slot("w", theta, theta.shape)], "lfr_cm", source=fisher, **limit)
    for expected in ([1.0, 1.9, 2.8], [1.0, 1.75, 2.5]):
        theta.grad = torch.tensor([3.0, 1.0, 2.0])
        optimizer.step()
        torch.testing.assert_close(theta.detach(), torch.tensor(expected))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("density", [0.02, 0.2])
@pytest.mark.parametrize("base_fused", [False, True])
def test_the_short_vectors_train_the_same_numbers_as_whole_parameters(base, density, base_fused, monkeypatch):
    narrow, whole = a_model(), a_model()
    ways = {"density": density, "source": "random", "base_fused": base_fused}
    short = masked(narrow, base, **ways)
    by_short = train(narrow, short, 6)
    assert short._compressed is not None
    monkeypatch.setattr(compressed_state, "ELEMENTWISE", frozenset())
    long = masked(whole, base, **ways)
    by_long = train(whole, long, 6)
    assert long._compressed is None
    if base_fused:  # torch rounds the last numbers of a vector in another way
        torch.testing.assert_close(by_short, by_long)
    else:
        assert same(by_short, by_long)
    assert state_numbers(short) < 0.6 * state_numbers(long) or base == "sgd"


def state_numbers(optimizer):
    return sum(v.numel() for entry in optimizer.state.values() for v in entry.values() if isinstance(v, torch.Tensor))


def test_adam_keeps_state_for_what_moves_only():
    torch.manual_seed(0)
    model = nn.Linear(400, 500)
    for density, bytes_a_number in ((0.005, 8 * 0.005), (0.2, 8 * 0.2)):
        optimizer = masked(model, "adam", density=density, source="random")
        train_once(model, optimizer)
        assert state_numbers(optimizer) * 4 == pytest.approx(bytes_a_number * 200_500, rel=0.05)
        # beside it: the mask, a byte a number, and for what moves a position and a copy
        assert optimizer.extra_bytes == pytest.approx((1 + 12 * density) * 200_500, rel=0.05)
        packed = sum(len(bits) for bits in optimizer.state_dict()["guided"]["masks"].values())
        assert packed == 400 * 500 // 8 + -(-500 // 8)


def train_once(model, optimizer):
    model(torch.randn(4, 400)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("density", [0.1, 0.9])
def test_a_run_goes_on_from_a_state_with_the_whole_state_of_a_plain_base(density):
    model = a_model()
    plain = BASES["adam"](model.parameters())
    train(model, plain, 3)
    start = copy.deepcopy(model)
    optimizer = masked(model, "adam", density=density, source="magnitude", base_fused=False)
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    train(model, optimizer, 1, first=3)
    train(start, plain_on(start, plain), 1, first=3)
    for (name, p), q in zip(model.named_parameters(), start.parameters(), strict=True):
        assert torch.equal(p[optimizer.masks[name]], q[optimizer.masks[name]])  # with Adam's moments of the first run


def plain_on(model, plain):
    optimizer = BASES["adam"](model.parameters())
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    return optimizer


def test_a_schedule_reaches_the_base_and_comes_back_from_a_state():
    model = a_model()
    optimizer = masked(model, "adam", density=0.1, source="random")
    train(model, optimizer, 1)
    optimizer.param_groups[0]["lr"] = 0.25
    train(model, optimizer, 1)
    assert optimizer.base.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0]["params"] == list(model.parameters())
    other = masked(a_model(), "adam", density=0.1, source="random")
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.param_groups[0]["lr"] == 0.25
    with pytest.raises(ValueError, match="before the first step"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


def test_bias_is_bitfit():
    model = a_model()
    train(model, masked(model, "adam", source="bias"), 2)
    assert {name for name, change in moved(model).items() if change.any()} == {"0.bias", "2.bias", "3.bias"}


def test_what_is_always_in_the_mask_counts_in_k():
    model = a_model()
    optimizer = masked(model, density=0.4, source="random", always=r"^3\.")
    assert optimizer.masks["3.weight"].all() and optimizer.masks["3.bias"].all()
    assert sum(int(mask.sum()) for mask in optimizer.masks.values()) == round(0.4 * TOTAL)
    with pytest.raises(ValueError, match=r"63 numbers are always .* give a density of at least 0\.\d{6}"):
        masked(model, density=0.01, always=r"^3\.")  # at once, not when the updates that estimate the mask are over
    given_masks = {name: torch.zeros_like(mask) for name, mask in optimizer.masks.items()}
    forced = masked(a_model(), masks=given_masks, always=r"^3\.")
    assert forced.masks["3.weight"].all() and not forced.masks["0.weight"].any()


def test_random_masks_follow_the_seed_and_nothing_else():
    first, again, other = (masked(a_model(), density=0.3, source="random", seed=s).masks for s in (4, 4, 5))
    assert all(torch.equal(first[n], again[n]) for n in first) and any(
        not torch.equal(first[n], other[n]) for n in first
    )
    u = torch.cat([uniform(p.numel(), stream_key(4, 0, name)) for name, p in a_model().named_parameters()])
    kept = torch.cat([mask.flatten() for mask in first.values()])
    assert u[kept].min() > u[~kept].max()


def test_weights_out_of_scope_train_as_ever():
    plain_model, model = a_model(), a_model()
    train(plain_model, BASES["adamw"](plain_model.parameters()), 1)
    slots = scope_of(model)
    train(model, FixedMaskOptimizer(BASES["adamw"](model.parameters()), slots, density=0.1, source="random"), 1)
    assert torch.equal(model[0].bias, plain_model[0].bias) and torch.equal(model[2].weight, plain_model[2].weight)
    assert (model[0].weight != plain_model[0].weight).float().mean() > 0.5


def test_another_mask_or_other_weights_in_a_state_are_refused():
    model = a_model()
    optimizer = masked(model, density=0.1, source="random", seed=1)
    train(model, optimizer, 1)
    with pytest.raises(ValueError, match="another mask than this run's"):
        masked(a_model(), density=0.1, source="random", seed=2).load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="over other weights than this run's scope"):
        base = BASES["adamw"](model.parameters())
        FixedMaskOptimizer(base, scope_of(model), density=0.1).load_state_dict(optimizer.state_dict())


def test_low_fisher_masks_are_the_quantile_of_each_tensor():
    fisher = some_fisher(scope_of(a_model(), "all"))
    fisher = {name: scores * 10.0**index for index, (name, scores) in enumerate(fisher.items())}
    optimizer = masked(a_model(), method="lfr_cm", quantile=0.25, source=fisher)
    for name, mask in optimizer.masks.items():
        assert mask.sum() == -(-mask.numel() // 4)
        assert fisher[name][mask].max() < fisher[name][~mask].min()


@pytest.mark.parametrize("norm", ["tensor", "global"])
def test_what_never_moves_under_low_fisher_does_not_count(norm):
    fisher = some_fisher(scope_of(a_model(), "all"))
    fisher = {name: scores * (1e-6 if name.startswith("2") else 1) for name, scores in fisher.items()}  # the norm
    optimizer = masked(a_model(), method="lfr_cm", quantile=0.25, source=fisher, norm=norm, never=r"^2\.")
    free = {name: mask for name, mask in optimizer.masks.items() if not name.startswith("2")}
    assert not any(optimizer.masks[name].any() for name in optimizer.masks.keys() - free.keys())
    count = sum(mask.numel() for mask in free.values())
    assert count // 4 <= sum(int(mask.sum()) for mask in free.values()) <= count // 4 + len(free)
    everything = masked(a_model(), method="lfr_cm", tau=1e9, source=fisher, never=r"^2\.").masks
    assert all(mask.all() == (not name.startswith("2")) for name, mask in everything.items())


def test_low_fisher_masks_of_a_global_norm_are_the_quantile_of_all_weights():
    fisher = some_fisher(scope_of(a_model(), "all"))
    optimizer = masked(a_model(), method="lfr_cm", quantile=0.25, source=fisher, norm="global")
    kept = torch.cat([mask.flatten() for mask in optimizer.masks.values()])
    scores = torch.cat([fisher[name].flatten() for name in optimizer.masks])
    assert kept.sum() == -(-TOTAL // 4) and scores[kept].max() < scores[~kept].min()
