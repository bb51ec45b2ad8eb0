"""Rows that measure I in every update: what Weighted Freezing, SAGE and GMT do, number by number."""

from dataclasses import replace

import pytest
import torch
from guided_rows import BASES, a_model, same, train
from torch import nn

from weighted_freezing_fairseq.core.guided import GuidedOptimizer
from weighted_freezing_fairseq.core.masks import keep_mask, stream_key, uniform
from weighted_freezing_fairseq.core.rules import RULES, Term
from weighted_freezing_fairseq.core.scope import CPU_BLOCK, Slot, scope_of


def guided(model, base="adam", **settings):
    return GuidedOptimizer(BASES[base](model.parameters()), scope_of(model), **settings)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("stage", ["gradient", "update"])
def test_equal_scores_keep_everything_bit_for_bit(base, stage):
    def constant():
        model = a_model()
        for slot in scope_of(model):
            slot.weight.fill_(0.25)  # |w| is the same everywhere: keep = 1
        return model

    plain_model, model = constant(), constant()
    assert same(
        train(model, guided(model, base, stage=stage), 1),
        train(plain_model, BASES[base](plain_model.parameters()), 1),
    )


@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_update_stage_stops_momentum_and_weight_decay_and_gradient_stage_does_not(base):
    for stage, stands_still in (("update", True), ("gradient", False)):
        model = a_model()
        optimizer = guided(model, base, stage=stage)
        train(model, optimizer, 3)
        slot = optimizer.slots[0]
        before = slot.weight.clone()
        scores = before.abs()
        u = uniform(len(slot), stream_key(1, 4, slot.name)).view(slot.shape)
        frozen = ~keep_mask(scores, scores.min(), scores.max(), u)
        train(model, optimizer, 1, first=3)
        assert frozen.any() and not frozen.all()
        assert torch.equal(slot.weight[frozen], before[frozen]) == stands_still
        assert (slot.weight[~frozen] != before[~frozen]).all()


@pytest.mark.parametrize("stage", ["gradient", "update"])
def test_frozen_weights_under_sgd_are_those_of_the_mask(stage):
    model = a_model()
    optimizer = guided(model, "sgd", stage=stage, seed=7)
    for update in range(1, 4):
        before = [slot.weight.clone() for slot in optimizer.slots]
        train(model, optimizer, 1, first=update)
        for slot, old in zip(optimizer.slots, before, strict=True):
            scores = old.abs()
            u = uniform(len(slot), stream_key(7, update, slot.name)).view(slot.shape)
            keep = keep_mask(scores, scores.min(), scores.max(), u)
            assert torch.equal(slot.weight != old, keep)


def test_global_norm_freezes_by_the_range_of_all_weights():
    model = a_model()
    optimizer = guided(model, "sgd", norm="global")
    with torch.no_grad():
        optimizer.slots[1].weight.mul_(100)  # next to these, the first matrix is unimportant
    before = [slot.weight.clone() for slot in optimizer.slots]
    optimizer.record = True
    train(model, optimizer, 1)
    moved = [(slot.weight != old).float().mean() for slot, old in zip(optimizer.slots, before, strict=True)]
    assert moved[0] > 0.9 and moved[1] < 0.8
    total = torch.cat([w.flatten() for w in before]).abs().double()
    assert optimizer.recorded["importance_mean"] == pytest.approx(total.mean().item())
    assert optimizer.recorded["importance_std"] == pytest.approx(total.std(correction=0).item())
    frozen = sum((slot.weight == old).sum() for slot, old in zip(optimizer.slots, before, strict=True))
    assert optimizer.recorded["frozen_fraction"] == pytest.approx(frozen.item() / len(total))


# |theta| = 1, 2, 3 and 4, 6, 5, 9. rate = (hi - mean) / (hi - lo), with the mean of the tensor whatever the norm.
@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("tensor", [(1, 3, 2, 1 / 2), (4, 9, 6, 3 / 5)]),
        ("global", [(1, 9, 30 / 7, 7 / 8), (1, 9, 30 / 7, 3 / 8)]),
    ],
)
def test_a_row_gets_every_statistic_that_it_needs(norm, expected):
    statistics = []

    def g(importance, quantities):
        statistics.append([float(getattr(quantities, name)) for name in ("lo", "hi", "mean", "rate")])
        return -torch.ones_like(importance)

    rule = replace(RULES["weighted_freeze"], g=Term("-1", g), needs=("lo", "hi", "mean", "rate"))
    parameters = [nn.Parameter(torch.tensor(values)) for values in ([1.0, -2.0, 3.0], [-4.0, 6.0, 5.0, 9.0])]
    for p in parameters:
        p.grad = torch.ones_like(p)
    slots = [Slot(str(index), p, p.shape) for index, p in enumerate(parameters)]
    GuidedOptimizer(torch.optim.SGD(parameters, lr=0.1), slots, rule, norm=norm).step()
    assert statistics == [pytest.approx(row) for row in expected]


def test_state_is_the_base_state_and_a_few_words():
    model = a_model()
    optimizer = guided(model)
    train(model, optimizer, 2)
    state = optimizer.state_dict()
    assert state.pop("guided") == {"method": "weighted_freeze (important)", "base": "Adam", "updates": 2}
    assert state.keys() == optimizer.base.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("importance", ["magnitude", "loss-preserving", "fisher"])
def test_other_precisions_stay_finite_and_freeze_the_most_important(dtype, importance):
    model = a_model(dtype)
    optimizer = guided(model, "sgd", importance=importance)
    optimizer.record = True
    before = optimizer.slots[0].weight.clone()
    train(model, optimizer, 1)
    after = optimizer.slots[0].weight
    assert torch.isfinite(after).all() and after.dtype == dtype
    assert 0 < optimizer.recorded["frozen_fraction"] < 1
    if importance == "magnitude":
        top = before.abs().argmax()
        assert after.view(-1)[top] == before.view(-1)[top]


# SAGE, two steps deep. theta = (1, -2), gradients (0.5, 0.25) and then (0.1, 0.25), SGD with rate 0.1, beta 0.75.
# I_1 = |1 * 0.5|, |-2 * 0.25| = 0.5, 0.5; the average, corrected for its short life, is I_1 itself.
# Both:    factor (0 + eps) / (0.5 + eps), eps = 0.5: 0.5, 0.5  ->  theta_1 = 1 - 0.1 * 0.5 * 0.5, -2 - 0.1 * 0.5 * 0.25
GOLDEN_FIRST = (0.975, -2.0125)
# I_2 = 0.975 * 0.1 = 0.0975, 2.0125 * 0.25 = 0.503125
# average before correction: 0.75 * (0.25 * 0.5) + 0.25 * I_2 = 0.118125, 0.21953125; divided by 1 - 0.75 ** 2 = 0.4375:
# 0.27, 0.501785714...
# full:    (|0.0975 - 0.27| + 0.5) / (0.27 + 0.5) = 0.6725 / 0.77;      (0.00133928571 + 0.5) / 1.001785714
# li:      0.6725 / (0.0975 + 0.5);                                     0.50133928571 / 1.003125
# light, first update: mean I = 0.5: (0.5 + 0.5) / (0.5 + 0.5) = 1, so theta_1 = 0.95, -2.025;
# second: I = 0.095, 0.50625, mean 0.300625: 0.800625 / 0.595 and 0.800625 / 1.00625
GOLDEN = {
    "full": (GOLDEN_FIRST, (0.975 - 0.01 * 0.6725 / 0.77, -2.0125 - 0.025 * 0.50133928571 / 1.001785714)),
    "li": (GOLDEN_FIRST, (0.975 - 0.01 * 0.6725 / 0.5975, -2.0125 - 0.025 * 0.50133928571 / 1.003125)),
    "light": ((0.95, -2.025), (0.95 - 0.01 * 0.800625 / 0.595, -2.025 - 0.025 * 0.800625 / 1.00625)),
}


@pytest.mark.parametrize("variant", GOLDEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sage_two_steps_deep(variant, dtype):
    theta = nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
    slot = Slot("w", theta, theta.shape)
    base = torch.optim.SGD([theta], lr=0.1)
    optimizer = GuidedOptimizer(base, [slot], "sage", variant=variant, beta=0.75, eps=0.5, max_scale=10)
    for grad, expected in zip(((0.5, 0.25), (0.1, 0.25)), GOLDEN[variant], strict=True):
        theta.grad = torch.tensor(grad, dtype=dtype)
        optimizer.step()
        torch.testing.assert_close(theta.detach(), torch.tensor(expected, dtype=dtype))


def test_sage_scales_momentum_and_decay_and_bounds_the_factor():
    plain_model, model = a_model(), a_model()
    train(plain_model, BASES["adamw"](plain_model.parameters()), 1)
    start = [slot.weight.clone() for slot in scope_of(a_model())]
    optimizer = guided(model, "adamw", method="sage", variant="light", max_scale=2.0)
    train(model, optimizer, 1)
    for slot, plain, old in zip(optimizer.slots, scope_of(plain_model), start, strict=True):
        ratio = (slot.weight - old) / (plain.weight - old)
        assert ratio.max() <= 2.001 and ratio.min() >= 0 and (ratio - 2).abs().lt(1e-2).any() and ratio.min() < 0.9


def test_sage_keeps_one_average_a_weight_in_the_precision_asked_for():
    count = sum(map(len, scope_of(a_model())))
    for settings, size in (
        ({}, 4), ({"state_dtype": torch.bfloat16}, 2), ({"state_dtype": torch.float64}, 8),
        ({"variant": "li"}, 4), ({"variant": "light"}, 0),
    ):  # fmt: skip
        model = a_model()
        optimizer = guided(model, method="sage", **settings)
        train(model, optimizer, 2)
        assert optimizer.extra_bytes == size * count
        assert ("averages" in optimizer.state_dict()["guided"]) == (size > 0)
    half = a_model(torch.float16)
    optimizer = guided(half, "sgd", method="sage")
    train(half, optimizer, 2)
    averages = optimizer.averages.values()
    assert all(average.dtype == torch.bfloat16 and (average > 0).float().mean() > 0.9 for average in averages)


def test_sage_of_a_global_mean_compares_with_all_weights():
    model = a_model()
    optimizer = guided(model, "sgd", method="sage", variant="light", norm="global", max_scale=1e9)
    with torch.no_grad():
        optimizer.slots[1].weight.mul_(100)  # next to these, the first matrix is unimportant
    optimizer.record = True
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, 1)
    grads = [slot.parameter.grad for slot in optimizer.slots]
    scores = [(old * g).abs() for old, g in zip((before[0], before[4]), grads, strict=True)]
    mean = torch.cat([s.flatten() for s in scores]).mean()
    for slot, old, grad, score in zip(optimizer.slots, (before[0], before[4]), grads, scores, strict=True):
        torch.testing.assert_close(slot.weight, old - 0.1 * mean / score * grad, rtol=1e-3, atol=1e-5)


def test_a_state_of_another_variant_is_refused():
    model = a_model()
    optimizer = guided(model, method="sage", variant="light")
    train(model, optimizer, 1)
    with pytest.raises(ValueError, match=r"saved with method 'sage \(light\)', but this run has 'sage \(full\)'"):
        guided(a_model(), method="sage").load_state_dict(optimizer.state_dict())


# What the variants of weighted_freeze keep -------------------------------------------------------------------------


def kept_share(weights, importance="magnitude", grads=None, updates=40, **settings):
    """The share of weights that move in an update of SGD, and the weights that never move."""
    parameter = nn.Parameter(weights.clone())
    slot = Slot("w", parameter, parameter.shape)
    optimizer = GuidedOptimizer(torch.optim.SGD([parameter], lr=1e-6), [slot], importance=importance, **settings)
    moved = torch.zeros_like(weights)
    for _ in range(updates):
        parameter.data.copy_(weights)
        parameter.grad = torch.ones_like(weights) if grads is None else grads.clone()
        optimizer.step()
        moved += (parameter.grad != 0).double()
    return (moved / updates).mean().item(), moved == 0


def test_printed_never_trains_the_smallest_weight_and_always_the_largest():
    weights = torch.linspace(-1, 1, 200, dtype=torch.float64)[:150]
    _, never = kept_share(weights, variant="printed", updates=1)
    assert never[weights.abs().argmin()] and not never[weights.abs().argmax()]


# Shares of an update that are held, from the density of |w| scaled to [0, 1]: uniform: important and printed hold 1/2;
# smooth keeps E sqrt(I / 2) = sqrt(1/2) * 2/3 = 0.4714 and so holds 0.5286.
@pytest.mark.parametrize(
    ("variant", "held"), [("important", 0.5), ("printed", 0.5), ("smooth", 0.5286), ("random", 0.5)]
)
def test_shares_of_uniform_scores_are_those_of_the_integrals(variant, held):
    weights = torch.linspace(0, 1, 50_001, dtype=torch.float64)
    kept, _ = kept_share(weights, variant=variant, updates=4)
    assert 1 - kept == pytest.approx(held, abs=5e-3)


def test_the_random_control_keeps_as_many_as_important_whatever_the_scores():
    generator = torch.Generator().manual_seed(4)
    for weights in (
        torch.randn(20_000, generator=generator, dtype=torch.float64),
        torch.randn(20_000, generator=generator, dtype=torch.float64).pow(3),  # heavy tails
    ):
        (kept, _), (control, _) = (
            kept_share(weights, variant=variant, updates=10) for variant in ("important", "random")
        )
        assert control == pytest.approx(kept, abs=3e-3)
        largest = weights.abs() > weights.abs().quantile(0.9)
        parameter = nn.Parameter(weights.clone())
        parameter.grad = torch.ones_like(weights)
        GuidedOptimizer(
            torch.optim.SGD([parameter], lr=0.1), [Slot("w", parameter, parameter.shape)], variant="random"
        ).step()
        assert (parameter.grad[largest] != 0).double().mean() == pytest.approx(control, abs=0.03)  # no regard to I


def test_a_fixed_rate_is_kept_and_reads_no_scores():
    weights = torch.randn(20_000, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert kept_share(weights, variant="random", keep=0.3, updates=5)[0] == pytest.approx(0.3, abs=5e-3)
    assert kept_share(weights, variant="random", keep=0.0, updates=2)[0] == 0


def test_important_holds_next_to_nothing_with_scores_of_heavy_tails():
    generator = torch.Generator().manual_seed(6)
    weights, grads = (torch.randn(100_000, generator=generator, dtype=torch.float64) for _ in range(2))
    grads *= torch.randn(100_000, generator=generator, dtype=torch.float64).mul(1.5).exp()  # as gradients are
    for importance in ("loss-preserving", "fisher"):
        kept, _ = kept_share(weights, importance, grads, variant="important", updates=2)
        assert 1 - kept < 0.01
        kept, _ = kept_share(weights, importance, grads, variant="printed", updates=2)
        assert kept < 0.01


# What the averages of sage see --------------------------------------------------------------------------------------


def test_a_tensor_without_a_gradient_at_first_starts_with_an_unbiased_average():
    # eps is next to nothing: in a tensor's first update average = I, so that the factor is 0 and the weight stays
    early, late = (nn.Parameter(torch.tensor([2.0, 3.0], dtype=torch.float64)) for _ in range(2))
    slots = [Slot("early", early, early.shape), Slot("late", late, late.shape)]
    optimizer = GuidedOptimizer(torch.optim.SGD([early, late], lr=0.1), slots, "sage", beta=0.75)
    for grad in (1.0, 4.0, 1.0):
        early.grad = torch.full_like(early, grad)
        optimizer.step()
    late.grad = torch.ones_like(late)
    early.grad = None
    optimizer.step()
    assert optimizer.averaged == {"early": 3, "late": 1}
    assert late.tolist() == pytest.approx([2.0, 3.0]) and early[0] != 2


def test_states_of_earlier_versions_load_under_their_names_and_counts():
    model, other = a_model(), a_model()
    optimizer = guided(model, method="sage", variant="li", start=2)
    train(model, optimizer, 4)
    state = optimizer.state_dict()
    counts = state["guided"].pop("averaged")
    state["guided"]["method"] = "sage"
    resumed = guided(other, method="sage", variant="li", start=2)
    resumed.load_state_dict(state)
    assert resumed.averaged == counts == dict.fromkeys(optimizer.averages, 3)
    with pytest.raises(ValueError, match=r"saved with method 'sage \(li\)', but this run has 'sage \(full\)'"):
        guided(a_model(), method="sage").load_state_dict(state)


@pytest.mark.parametrize(("beta", "bound"), [(0.0, 1.0), (0.25, 1.0), (0.75, 3.0), (0.85, 5.6666666), (0.9, 9.0)])
def test_the_factor_of_sage_is_bounded_by_nature(beta, bound):
    parameter = nn.Parameter(torch.ones(200, dtype=torch.float64))
    slot = Slot("w", parameter, parameter.shape)
    optimizer = GuidedOptimizer(torch.optim.SGD([parameter], lr=0.0), [slot], "sage", beta=beta)
    assert optimizer.max_scale == pytest.approx(bound)
    free = GuidedOptimizer(torch.optim.SGD([parameter], lr=0.0), [slot], "sage", beta=beta, max_scale=1e9)
    generator = torch.Generator().manual_seed(7)
    for _ in range(60):
        parameter.grad = torch.randn(200, generator=generator, dtype=torch.float64).mul(3).exp()
        for guide in (optimizer, free):
            guide.record = True
            guide.step()
        average = free.averages["w"] * free._correction(slot)
        importance = parameter.grad.abs()
        assert ((importance - average).abs() / average).max() <= bound + 1e-9
        assert optimizer.recorded == free.recorded


# The share with the largest gradients -------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["gradient", "update"])
def test_gmt_lets_through_the_largest_gradients_of_a_whole_tensor(stage):
    generator = torch.Generator().manual_seed(3)
    parameter = nn.Parameter(torch.randn(300, 300, generator=generator))  # more than a block of a CPU
    assert len(Slot("w", parameter, parameter.shape)) > CPU_BLOCK
    grad = torch.randn(300, 300, generator=generator) * torch.linspace(1e-3, 1, 300)[:, None]  # blocks that differ
    base = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.1)
    optimizer = GuidedOptimizer(
        base, [Slot("w", parameter, parameter.shape)], "gmt", fraction=0.2, stage=stage, base_fused=False
    )
    optimizer.record = True
    before, parameter.grad = parameter.detach().clone(), grad.clone()
    optimizer.step()
    kept = torch.zeros(90_000, dtype=torch.bool)
    kept[grad.abs().flatten().topk(18_000).indices] = True
    assert float(optimizer.recorded["frozen_fraction"]) == pytest.approx(0.8)
    moments = base.state[parameter]["exp_avg"].flatten() != 0
    moved = (parameter != before).flatten()
    if stage == "gradient":
        assert torch.equal(moments, kept) and moved.all()  # by weight decay
    else:
        assert moments.all() and torch.equal(moved, kept)
