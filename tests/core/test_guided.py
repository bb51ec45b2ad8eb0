"""Rows that measure I in every update: what Weighted Freezing and SAGE do, number by number."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from guided_rows import BASES, a_model, same, train
from torch import nn

from weighted_freezing_fairseq.core.guided import LAYER_PATTERN, GuidedOptimizer
from weighted_freezing_fairseq.core.masks import keep_mask, stream_key, uniform
from weighted_freezing_fairseq.core.rules import RULES, Term, alignment, soft_mask
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


# The share with the largest momentum --------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["momentum", "adam", "adamw", "adamax"])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.999])
def test_mofo_moves_exactly_the_numbers_with_the_largest_momentum_and_updates_it_everywhere(base, fraction):
    plain_model, model = a_model(), a_model()
    plain = BASES[base](plain_model.parameters())
    optimizer = guided(model, base, method="mofo", fraction=fraction)
    train(plain_model, plain, 1)
    train(model, optimizer, 1)
    for ours, other in zip(model.parameters(), plain_model.parameters(), strict=True):
        assert all(torch.equal(ours_, plain.state[other][key]) for key, ours_ in optimizer.state[ours].items())
    for update in range(1, 5):
        before = [slot.weight.clone() for slot in optimizer.slots]
        train(model, optimizer, 1, first=update)
        for slot, old in zip(optimizer.slots, before, strict=True):
            state = optimizer.state[slot.parameter]
            momentum = state["momentum_buffer" if base == "momentum" else "exp_avg"].abs()
            moved = slot.weight != old  # weight decay of the others is undone too
            assert moved.sum() == max(1, round(fraction * len(slot)))
            assert moved.all() or momentum[moved].min() >= momentum[~moved].max()


def test_mofo_scores_by_another_metric_if_asked_to():
    model = a_model()
    optimizer = guided(model, method="mofo", fraction=0.25, importance="magnitude")
    before = [slot.weight.abs() for slot in optimizer.slots]
    train(model, optimizer, 1)
    for slot, old in zip(optimizer.slots, before, strict=True):
        moved = slot.weight.abs() != old
        assert old[moved].min() >= old[~moved].max()


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


@pytest.mark.parametrize("base", ["sgd", "adagrad", "adadelta", "rmsprop"])
def test_a_base_that_keeps_no_momentum_is_refused(base):
    name = type(BASES[base](a_model().parameters())).__name__
    with pytest.raises(ValueError, match=f"{name} keeps none .*; choose Adam as the base, or SGD with momentum 0.9"):
        train(model := a_model(), guided(model, base, method="mofo", fraction=0.5), 1)


# Weight decay where it agrees with the step ---------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
def test_cautious_decay_is_the_base_without_decay_and_a_decay_where_the_step_is_not_away_from_zero(base):
    plain_model, model = a_model(), a_model()
    plain = BASES[base](plain_model.parameters())
    plain.param_groups[0]["weight_decay"] = 0.0
    optimizer = guided(model, base, method="cautious_decay", base_fused=False)
    optimizer.param_groups[0]["weight_decay"] = 0.5
    optimizer.record = True
    eta = optimizer.param_groups[0]["lr"]
    before = [slot.weight.clone() for slot in optimizer.slots]
    train(plain_model, plain, 1)
    after = train(model, optimizer, 1)
    stepped = [slot.weight for slot in scope_of(plain_model)]
    agree = [(old.sign() * (new - old).sign()) <= 0 for old, new in zip(before, stepped, strict=True)]
    for slot, old, new, here in zip(optimizer.slots, before, stepped, agree, strict=True):
        assert here.any() and not here.all()
        torch.testing.assert_close(slot.weight[here], (new - 0.5 * eta * old)[here])
        assert torch.equal(slot.weight[~here], new[~here])
    share = torch.cat([here.flatten() for here in agree]).double().mean()
    assert float(optimizer.recorded["scale_mean"]) == pytest.approx(1 - 0.5 * eta * float(share), abs=1e-7)
    inside = {slot.name for slot in optimizer.slots}
    outside = [number for number, (name, _) in enumerate(model.named_parameters()) if name not in inside]
    others = list(plain_model.parameters())
    assert outside and all(torch.equal(after[number], others[number]) for number in outside)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


@pytest.mark.parametrize("base", BASES)
def test_cautious_decay_without_weight_decay_is_the_base_bit_for_bit(base):
    plain_model, model = a_model(), a_model()
    plain = BASES[base](plain_model.parameters())
    optimizer = guided(model, base, method="cautious_decay", base_fused=False)
    for each in (plain, optimizer):
        each.param_groups[0]["weight_decay"] = 0.0
    assert same(train(model, optimizer, 5), train(plain_model, plain, 5))


def test_cautious_decay_takes_the_decay_of_each_parameter_group():
    first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [{"params": [first], "weight_decay": 0.5}, {"params": [second], "lr": 0.2, "weight_decay": 0.25}]
    slots = [Slot(name, p, p.shape) for name, p in (("first", first), ("second", second))]
    optimizer = GuidedOptimizer(torch.optim.SGD(groups, lr=0.1), slots, "cautious_decay")
    first.grad, second.grad = torch.ones(3), -torch.ones(3)
    optimizer.step()
    assert first.tolist() == pytest.approx([1 - 0.05 - 0.1] * 3) and second.tolist() == pytest.approx([1.2] * 3)
    second.grad = torch.zeros(3)
    optimizer.step()
    assert second.tolist() == pytest.approx([1.2 - 0.2 * 0.25 * 1.2] * 3)


def test_a_base_that_has_no_weight_decay_is_refused():
    model = a_model()
    with pytest.raises(ValueError, match="weight_decay .* Rprop has none .*; choose AdamW as the base"):
        GuidedOptimizer(torch.optim.Rprop(model.parameters()), scope_of(model), "cautious_decay")


# Fisher information of an old task ------------------------------------------------------------------------------------


def spg_of(theta, fisher, stage="gradient", base=torch.optim.SGD):
    slots = [Slot("w", theta, theta.shape)]
    return GuidedOptimizer(base([theta], lr=0.1), slots, "spg", fisher={"w": fisher}, stage=stage)


@pytest.mark.parametrize("stage", ["gradient", "update"])
def test_spg_scales_by_the_root_of_the_fisher_information_beside_its_mean(stage):
    """Fisher information (0, 2, 4) has the mean 2: gamma = (0, tanh 1, tanh sqrt 2), 1 - gamma = (1, 0.23840584,
    0.11161444)."""
    theta = nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    optimizer = spg_of(theta, torch.tensor([0.0, 2.0, 4.0]), stage)
    optimizer.record = True
    theta.grad = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    optimizer.step()
    expected = [0.95, 2 + 0.1 * 0.23840584, 3 - 0.2 * 0.11161444]
    torch.testing.assert_close(theta.detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)
    assert float(optimizer.recorded["scale_mean"]) == pytest.approx((1 + 0.23840584 + 0.11161444) / 3)
    assert optimizer.extra_bytes == 24


@pytest.mark.parametrize("stage", ["gradient", "update"])
def test_spg_gives_each_block_of_a_tensor_its_own_part_of_gamma(stage):
    theta = nn.Parameter(torch.zeros(300, 300))  # more than a block of a CPU
    assert len(Slot("w", theta, theta.shape)) > CPU_BLOCK
    fisher = torch.rand(300, 300, generator=torch.Generator().manual_seed(3))
    optimizer = spg_of(theta, fisher, stage)
    theta.grad = torch.ones_like(theta)
    optimizer.step()
    torch.testing.assert_close(theta.detach(), -0.1 * (1 - soft_mask(fisher).float()))


@pytest.mark.parametrize("fisher", [[], [0.0], [0.0, 0.0]])
def test_a_tensor_that_did_not_matter_is_not_masked(fisher):
    assert soft_mask(torch.tensor(fisher)).tolist() == fisher


def test_gamma_grows_with_the_fisher_information_and_not_with_its_unit():
    fisher = torch.rand(50, generator=torch.Generator().manual_seed(1)).sort().values
    gamma = soft_mask(fisher)
    assert bool((gamma.diff() > 0).all()) and gamma.min() >= 0 and gamma.max() < 1
    torch.testing.assert_close(soft_mask(1e-20 * fisher), gamma)


def test_a_constant_factor_of_the_gradient_cancels_in_adam_and_one_of_the_update_does_not():
    steps = {}
    for stage in ("gradient", "update"):
        theta = nn.Parameter(torch.zeros(4))
        optimizer = spg_of(theta, torch.tensor([1.0, 2.0, 3.0, 40.0]), stage, torch.optim.Adam)
        for _ in range(3):
            theta.grad = torch.ones(4)
            optimizer.step()
        steps[stage] = -theta.detach() / 0.3
    torch.testing.assert_close(steps["gradient"], torch.ones(4), rtol=1e-5, atol=0)
    torch.testing.assert_close(steps["update"], 1 - optimizer.gammas["w"], rtol=1e-5, atol=0)
    assert steps["update"].max() < 0.8


def test_a_state_of_spg_remembers_its_fisher_information_and_refuses_another():
    first, same, other = ([1.0, 4.0, 9.0], [1.0, 4.0, 9.0], [1.0, 4.0, 9.5])
    states = [spg_of(nn.Parameter(torch.zeros(3)), torch.tensor(numbers)) for numbers in (first, same, other)]
    saved = states[0].state_dict()
    assert len(saved["guided"]["fisher"]) == 64  # and not a number for each weight
    states[1].load_state_dict(saved)
    with pytest.raises(ValueError, match="saved with another Fisher information than this run's"):
        states[2].load_state_dict(saved)


# One draw for a tensor, and the alignment of momentum and gradient ---------------------------------------------------


def test_magma_updates_a_tensor_by_its_draw_and_scales_by_the_average_alignment():
    """SGD with momentum 0.9 and rate 0.1; theta = (1, -2), gradients (1, 0) and then (-1, 1).

    Update 1: m = (1, 0), cos 1, s = sigmoid(1 / 2) = 0.62245933.
    Update 2: m = 0.9 * (1, 0) + (-1, 1) = (-0.1, 1), cos = 1.1 / (sqrt(1.01) * sqrt(2)) = 0.77395730,
    sigmoid(0.38697865) = 0.59555516, s = 0.9 * 0.62245933 + 0.1 * 0.59555516 = 0.61976891.
    """
    theta = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    base = torch.optim.SGD([theta], lr=0.1, momentum=0.9)
    optimizer = GuidedOptimizer(base, [Slot("w", theta, theta.shape)], "magma", fraction=0.5)
    expected = torch.tensor([1 - 0.1 * 0.62245933, -2.0], dtype=torch.float64)
    assert uniform(1, stream_key(1, 1, "w")) < 0.5 < uniform(1, stream_key(1, 2, "w"))
    theta.grad = torch.tensor([1.0, 0.0], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(theta.detach(), expected, rtol=0, atol=1e-8)
    theta.grad = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(theta.detach(), expected, rtol=0, atol=1e-8)  # skipped
    assert float(optimizer.alignments["w"]) == pytest.approx(0.61976891, abs=1e-8)  # and yet averaged
    assert base.state[theta]["momentum_buffer"].tolist() == pytest.approx([-0.1, 1.0])
    assert optimizer.state_dict()["guided"]["alignments"].keys() == {"w"} and optimizer.extra_bytes == 8


def test_a_tensor_is_updated_as_often_as_the_fraction_says_and_as_a_whole():
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(50)]
    slots = [Slot(str(index), p, p.shape) for index, p in enumerate(parameters)]
    base = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    optimizer = GuidedOptimizer(base, slots, "magma", variant="skip_update", fraction=0.3)
    moved = []
    for _ in range(40):
        before = [p.detach().clone() for p in parameters]
        for p in parameters:
            p.grad = torch.ones(3)
        optimizer.step()
        changed = torch.stack([p.detach() != old for p, old in zip(parameters, before, strict=True)])
        assert torch.equal(changed.all(1), changed.any(1))
        moved.append(changed.all(1).double())
    assert torch.stack(moved).mean().item() == pytest.approx(0.3, abs=0.03)  # 3 sigma of 2,000 draws


def test_the_alignment_does_not_depend_on_the_scale_of_the_gradient_and_is_a_half_without_one():
    generator = torch.Generator().manual_seed(2)
    momentum, grad = torch.randn(7, 5, generator=generator), torch.randn(7, 5, generator=generator)
    torch.testing.assert_close(alignment(momentum, grad), alignment(1e-9 * momentum, 1e-9 * grad))
    assert alignment(momentum, torch.zeros(7, 5)) == 0.5
    assert alignment(momentum, -momentum).item() == pytest.approx(1 - alignment(momentum, momentum).item())


# Layers that are drawn ------------------------------------------------------------------------------------------------


class Stack(nn.Module):
    """An embedding, four layers of the same size, and an output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Linear(6, 8)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(8, 8) for _ in range(2))})
        self.decoder = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(8, 8) for _ in range(2))})
        self.output = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embedding(x)
        for layer in (*self.encoder["layers"], *self.decoder["layers"]):
            x = layer(x).tanh()
        return self.output(x)


LAYERS = ["encoder.layers.0", "encoder.layers.1", "decoder.layers.0", "decoder.layers.1"]


def lisa(model, base="adamw", **settings):
    return GuidedOptimizer(BASES[base](model.parameters()), scope_of(model, "all"), "lisa", **settings)


def layer_of(name):
    return next((layer for layer in LAYERS if name.startswith(layer + ".")), "")


def test_lisa_takes_a_step_by_hand():
    """SGD with rate 0.1, momentum 0.5 and decay 0; gradients of 1; one of two layers is drawn, for two updates.

    The layer that is drawn first: 1 - 0.1 * 1 = 0.9, then its momentum is 0.5 * 1 + 1 = 1.5, and 0.9 - 0.15 = 0.75. The
    head is always trained: 0.9, 0.75, and with the momentum 0.5 * 1.5 + 1 = 1.75 then 0.75 - 0.175 = 0.575. The layer
    that is drawn next has 1 until then, and starts without momentum: 1 - 0.1 = 0.9.
    """
    seed = next(s for s in range(99) if [drawn_first(s, period) for period in (0, 1)] == ["layers.0", "layers.1"])
    weights = {name: nn.Parameter(torch.ones(1)) for name in ("layers.0.weight", "layers.1.weight", "head")}
    slots = [Slot(name, p, p.shape) for name, p in weights.items()]
    base = torch.optim.SGD(weights.values(), lr=0.1, momentum=0.5)
    optimizer = GuidedOptimizer(base, slots, "lisa", layers=1, period=2, seed=seed)
    seen = []
    for _ in range(3):
        for p in weights.values():
            p.grad = torch.ones(1)
        optimizer.step()
        seen.append([p.item() for p in weights.values()])
    assert seen == [
        pytest.approx([0.9, 1.0, 0.9]),
        pytest.approx([0.75, 1.0, 0.75]),
        pytest.approx([0.75, 0.9, 0.575]),
    ]
    assert optimizer.drawn_layers == {"layers.1"}


def drawn_first(seed, period):
    return min(("layers.0", "layers.1"), key=lambda layer: stream_key(seed, period, layer))


@pytest.mark.parametrize("base", [base for base in BASES if base != "adagrad"])
def test_layers_that_are_not_drawn_stay_as_they_are_and_have_no_state(base):
    model = Stack()
    optimizer = lisa(model, base, layers=2, period=3)
    drawn = []
    for update in range(9):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train(model, optimizer, 1, first=update)
        drawn.append(optimizer.drawn_layers)
        assert len(drawn[-1]) == 2 and drawn[-1] <= set(LAYERS)
        for name, p in model.named_parameters():
            trained = layer_of(name) in drawn[-1] | {""}
            assert torch.equal(p, before[name]) != trained
            assert trained or p not in optimizer.base.state
    assert drawn[0] == drawn[1] == drawn[2] and drawn[3] == drawn[4] == drawn[5] and len(set(drawn)) > 1


@pytest.mark.parametrize("fused", [True, False])
def test_a_layer_that_is_drawn_again_starts_afresh_and_the_rest_does_not(fused):
    model = Stack()
    optimizer = lisa(model, "adam", layers=1, period=2, base_fused=fused)
    entered, returned = {}, set()
    for update in range(1, 25):
        previous = optimizer.drawn_layers
        train(model, optimizer, 1, first=update)
        returned |= (optimizer.drawn_layers - previous) & entered.keys()
        entered |= dict.fromkeys(optimizer.drawn_layers - previous, update)
        for name, p in model.named_parameters():
            layer = layer_of(name)
            if layer in optimizer.drawn_layers or not layer:
                steps = update - entered[layer] + 1 if layer else update
                assert float(optimizer.base.state[p]["step"]) == steps
    assert returned


def test_the_state_of_the_base_is_as_large_as_what_moves():
    sizes = {}
    for layers in (1, 2, 4):
        model = Stack()
        optimizer = lisa(model, layers=layers, period=2)
        held = []
        for update in range(8):
            train(model, optimizer, 1, first=update)
            moments = [state[key] for state in optimizer.base.state.values() for key in ("exp_avg", "exp_avg_sq")]
            held.append(sum(moment.numel() * moment.element_size() for moment in moments))
        assert len(set(held)) == 1 and optimizer.extra_bytes == 0
        sizes[layers] = held[0]
    outside, layer = (6 * 8 + 8) + (8 * 3 + 3), 8 * 8 + 8  # numbers; a moment of a number has 4 bytes
    assert sizes == {layers: 2 * 4 * (outside + layers * layer) for layers in (1, 2, 4)}


@pytest.mark.parametrize("start", [1, 4])
def test_all_layers_are_the_base_to_the_bit_and_before_start_all_are_drawn(start):
    plain, model = Stack(), Stack()
    optimizer = lisa(model, layers=4 if start == 1 else 1, start=start, base_fused=False)
    assert same(train(model, optimizer, 3), train(plain, BASES["adamw"](plain.parameters()), 3))
    train(model, optimizer, 1, first=3)
    assert len(optimizer.drawn_layers) == (4 if start == 1 else 1)


@pytest.mark.parametrize("updates", [1, 3, 4, 6])  # in the middle of a period, and at its end
def test_layers_are_those_of_seed_and_period_after_a_resume_too(updates):
    model = Stack()
    optimizer = lisa(model, layers=2, period=3, seed=5)
    train(model, optimizer, updates)
    resumed_model = Stack()
    resumed_model.load_state_dict(model.state_dict())
    resumed = lisa(resumed_model, layers=2, period=3, seed=5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for update in range(updates, 9):
        assert same(train(model, optimizer, 1, first=update), train(resumed_model, resumed, 1, first=update))
        assert resumed.drawn_layers == optimizer.drawn_layers
    others = lisa(Stack(), layers=2, period=3, seed=6)
    others.updates = 8
    others.step()
    assert others.drawn_layers != optimizer.drawn_layers


def test_every_layer_is_drawn_equally_often():
    model = Stack()
    optimizer = lisa(model, "sgd", layers=2, period=1)
    counts = dict.fromkeys(LAYERS, 0)
    for _ in range(1000):
        optimizer.step()
        for layer in optimizer.drawn_layers:
            counts[layer] += 1
    assert all(count == pytest.approx(500, abs=48) for count in counts.values())  # 3 sigma


def test_lisa_refuses_what_it_cannot_leave_out():
    flat = nn.Parameter(torch.ones(5))
    slots = [Slot("layers.0.weight", flat, torch.Size([3]), 0), Slot("layers.1.weight", flat, torch.Size([2]), 3)]
    with pytest.raises(ValueError, match="each weight as a parameter of its own, and layers.0.weight is a part of one"):
        GuidedOptimizer(torch.optim.SGD([flat], lr=0.1), slots, "lisa", layers=1)
    with pytest.raises(ValueError, match="Adagrad makes its state only once; choose another base, such as Adam"):
        lisa(Stack(), "adagrad", layers=1)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.layers.11.fc1.weight", "encoder.layers.11"),
        ("w2v_encoder.w2v_model.encoder.layers.0.fc1.bias", "w2v_encoder.w2v_model.encoder.layers.0"),
        ("transformer.h.3.attn.c_attn.weight", "transformer.h.3"),
        ("bert.encoder.layer.2.output.dense.weight", "bert.encoder.layer.2"),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", "encoder.block.1"),
        ("encoder.embed_tokens.embeddings.0.0.weight", None),
        ("decoder.adaptive_softmax.tail.1.0.weight", None),
        ("feature_extractor.conv_layers.0.0.weight", None),
        ("encoder.layer_norm.weight", None),
    ],
)
def test_layers_of_common_models_are_recognised_by_name(name, layer):
    found = re.match(LAYER_PATTERN, name)
    assert (found and found[0]) == layer
