"""A mask that stays: exactly k numbers move, the others never, and the base keeps no state for them."""

import copy

import pytest
import torch
from guided_rows import BASES, a_model, same, some_fisher, train
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from weighted_freezing_fairseq.core import compressed_state
from weighted_freezing_fairseq.core.fixed import SOURCES, FixedMaskOptimizer, low_rank
from weighted_freezing_fairseq.core.masks import block_masks, shares, stream_key, uniform
from weighted_freezing_fairseq.core.scope import Slot, scope_of

TOTAL = sum(p.numel() for p in a_model().parameters())


def masked(model, base="adamw", method="fish_mask", **settings):
    return FixedMaskOptimizer(BASES[base](model.parameters()), scope_of(model, "all"), method, **settings)


def moved(model):
    start = dict(a_model().named_parameters())
    return {name: p.detach() != start[name] for name, p in model.named_parameters()}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("density", [0.005, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("source", ["fisher", "random", "magnitude", "sift", "lift"])
def test_exactly_k_numbers_move_and_the_others_not_by_a_bit(base, density, source):
    model = a_model()
    optimizer = masked(model, base, density=density, source=source, observe=2, rank=2)
    train(model, optimizer, 7)
    allowed = sum(int(mask.sum()) for mask in optimizer.masks.values())
    assert allowed == round(density * TOTAL)
    for name, change in moved(model).items():
        assert not (change & ~optimizer.masks[name]).any()
    assert sum(int(change.sum()) for change in moved(model).values()) >= allowed - 1  # a gradient may be exactly zero


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.001, 1), st.lists(st.integers(1, 30), min_size=1, max_size=4), st.sampled_from(["magnitude", "lift"])
)
def test_exactly_k_under_ties(density, sizes, source):
    parameters = [nn.Parameter(torch.ones(size)) for size in sizes]  # every score is the same
    slots = [Slot(str(index), p, p.shape) for index, p in enumerate(parameters)]
    base = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer = FixedMaskOptimizer(base, slots, density=density, source=source)
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


# The other sources of a mask -----------------------------------------------------------------------------------------


def mask_by(source, weights, gradients, density, **ways):
    """The masks, by name, of weights whose gradients in the first updates are `gradients`."""
    parameters = {name: nn.Parameter(torch.tensor(weight)) for name, weight in weights.items()}
    base = torch.optim.SGD(parameters.values(), lr=0.1)
    slots = [Slot(name, p, p.shape) for name, p in parameters.items()]
    optimizer = FixedMaskOptimizer(base, slots, density=density, source=source, **ways)
    for update in gradients:
        for name, p in parameters.items():
            p.grad = torch.tensor(update[name])
        optimizer.step()
    return {name: mask.int().tolist() for name, mask in optimizer.masks.items()}


def test_every_source_has_a_test_by_hand():
    assert set(SOURCES) == {"fisher", "random", "magnitude", "bias"} | {"sift", "smt", "lift"}
    assert {name: source.updates for name, source in SOURCES.items() if source.observe} == {
        "fisher": 32, "sift": 1, "smt": 100,
    }  # fmt: skip


# Mean gradients over two updates: a (2, -3, 0, 1), b (10, 20). k = round(0.5 * 6) = 3: 2 of a, 1 of b.
# The third number of a has the largest squares, 64 + 64, but its two gradients cancel.
def test_sift_takes_the_largest_mean_gradients_of_each_tensor():
    weights = {"a": [0.0] * 4, "b": [0.0] * 2}
    updates = [{"a": [3.0, -4, 8, 1], "b": [10.0, 20]}, {"a": [1.0, -2, -8, 1], "b": [10.0, 20]}]
    assert mask_by("sift", weights, updates, 0.5, observe=2) == {"a": [1, 1, 0, 0], "b": [0, 1]}
    assert mask_by("sift", weights, updates[:1], 0.5) == {"a": [0, 1, 1, 0], "b": [0, 1]}  # by default, one update
    assert mask_by("fisher", weights, updates, 0.5, observe=2) == {"a": [0, 0, 1, 0], "b": [1, 1]}


# Blocks of 2 x 2 in 3 x 3: means of abs(grad) over two updates 2, 3 (2 numbers), 5 (2 numbers), 1 (1 number); b is one
# block of 1 x 2 with mean 4; the vector has none. In the order 5, 4, 3, 2, 1 the blocks have 2, 2, 2, 4 and 1 numbers.
SMT_WEIGHTS = {"a": [[0.0] * 3] * 3, "b": [[0.0] * 2], "vector": [0.0] * 9}
SMT_UPDATES = [
    {"a": [[2.0, 4, 3], [-2, 0, 3], [-4, 6, 1]], "b": [[4.0, 4]], "vector": [99.0] * 9},
    {"a": [[-2.0, 4, -3], [2, 0, -3], [4, 6, 1]], "b": [[-4.0, 4]], "vector": [99.0] * 9},
]


@pytest.mark.parametrize(
    ("k", "a", "b"),
    [
        (4, [[0, 0, 0], [0, 0, 0], [1, 1, 0]], [[1, 1]]),
        (6, [[0, 0, 1], [0, 0, 1], [1, 1, 0]], [[1, 1]]),
        (9, [[0, 0, 1], [0, 0, 1], [1, 1, 0]], [[1, 1]]),  # the block of 4 does not fit, and no later one is taken
        (10, [[1, 1, 1], [1, 1, 1], [1, 1, 0]], [[1, 1]]),
        (20, [[1, 1, 1], [1, 1, 1], [1, 1, 1]], [[1, 1]]),
    ],
)
def test_smt_takes_whole_blocks_in_the_order_of_their_means(k, a, b):
    found = mask_by("smt", SMT_WEIGHTS, SMT_UPDATES, k / 20, observe=2, block=2)
    assert found == {"a": a, "b": b, "vector": [0] * 9}


def test_smt_with_parameters_that_are_always_in_the_mask():
    found = mask_by("smt", SMT_WEIGHTS, SMT_UPDATES, 13 / 20, observe=2, block=2, always="vector")
    assert found == {"a": [[0, 0, 0], [0, 0, 0], [1, 1, 0]], "b": [[1, 1]], "vector": [1] * 9}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3), st.floats(0.5, 1))
def test_blocks_are_whole_and_no_more_than_k_numbers_are_in_them(rows, columns, size, levels, density):
    scores = {"w": torch.randint(0, levels + 1, (rows, columns), generator=torch.Generator().manual_seed(rows)).float()}
    if min(size, rows) * min(size, columns) > round(density * rows * columns):
        with pytest.raises(ValueError, match="a block has up to"):
            block_masks(scores, density, None, size)
        return
    mask = block_masks(scores, density, None, size)["w"]
    parts = [part for row in mask.split(size) for part in row.split(size, dim=1)]
    assert all(part.all() or not part.any() for part in parts)
    assert round(density * rows * columns) - size**2 < int(mask.sum()) <= round(density * rows * columns)
    means = [part.mean().item() for row in scores["w"].split(size) for part in row.split(size, dim=1)]
    inside, outside = ([m for m, part in zip(means, parts, strict=True) if part.any() == chosen] for chosen in (1, 0))
    assert not outside or min(inside) >= max(outside) - 1e-6


def test_a_block_that_does_not_fit_is_refused_at_once():
    with pytest.raises(
        ValueError, match=r"up to 4 numbers, but density 0.1 leaves 2 of 20 .* density of at least 0.2000"
    ):
        mask_by("smt", SMT_WEIGHTS, [], 0.1, block=2)
    assert mask_by("smt", SMT_WEIGHTS, SMT_UPDATES, 0.2, observe=2, block=2)["b"] == [[1, 1]]
    with pytest.raises(ValueError, match=r"leaves 3 of 20 .* density of at least 0.6500"):  # 9 + 4 of 20
        mask_by("smt", SMT_WEIGHTS, [], 0.6, block=2, always="vector")
    for name in ("observe", "block", "rank"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            masked(a_model(), density=0.5, source="smt", **{name: 0})


# 3 (0.6, 0.8) (1, 0)^T + 2.9 (0.8, -0.6) (0, 1)^T: the approximation of rank 1 is the first column alone.
LIFT = [[1.8, 2.32], [2.4, -1.74]]


def test_lift_takes_the_largest_numbers_of_the_low_rank_approximation():
    torch.testing.assert_close(low_rank(torch.tensor(LIFT), 1), torch.tensor([[1.8, 0], [2.4, 0]]))
    weights, updates = {"w": LIFT, "vector": [1.0, -3.0]}, [{"w": [[1.0] * 2] * 2, "vector": [1.0] * 2}]
    assert mask_by("lift", weights, updates, 0.5, rank=1) == {"w": [[1, 0], [1, 0]], "vector": [0, 1]}
    # With full rank it is the magnitude, in each tensor.
    assert mask_by("lift", weights, updates, 0.5, rank=2) == {"w": [[0, 1], [1, 0]], "vector": [0, 1]}


@pytest.mark.parametrize("source", ["sift", "smt", "lift"])
def test_an_error_of_a_thousandth_changes_the_mask(source):
    """The first score is 0.05 % below the second, so that it is in the mask only if it is 0.1 % too large."""
    for error, first in ((1.0, 0), (1.001, 1)):
        contenders = [[error * 0.9995, 1.0]]
        found = mask_by(source, {"w": contenders}, [{"w": contenders}], 0.5, observe=1, block=1, rank=1)
        assert found == {"w": [[first, 1 - first]]}


@pytest.mark.parametrize("source", ["fisher", "sift", "smt"])
@pytest.mark.parametrize("updates", [2, 5])
def test_a_run_resumed_while_the_mask_is_measured_or_later_is_an_uninterrupted_one(source, updates):
    ways = {"density": 0.5, "source": source, "observe": 4, "block": 3}
    whole, first, second = a_model(), a_model(), a_model()
    train(whole, masked(whole, **ways), 8)
    optimizer = masked(first, **ways)
    train(first, optimizer, updates)
    second.load_state_dict(first.state_dict())
    resumed = masked(second, **ways)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, resumed, 8 - updates, first=updates)
    assert any(change.any() for change in moved(whole).values())
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), second.parameters(), strict=True))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.floats(0, 1))
def test_shares_add_up_and_are_less_than_one_away(sizes, density):
    total = sum(sizes)
    k = round(density * total)
    parts = shares(k, sizes)
    assert sum(parts) == k and all(0 <= part <= size for part, size in zip(parts, sizes, strict=True))
    assert all(abs(part - k * size / total) < 1 for part, size in zip(parts, sizes, strict=True))


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


def test_what_another_source_has_measured_is_refused():
    model = a_model()
    optimizer = masked(model, density=0.1, source="sift", observe=3)
    train(model, optimizer, 1)
    with pytest.raises(ValueError, match="while source sift measured, which is not that of this run"):
        masked(a_model(), density=0.1, source="fisher", observe=3).load_state_dict(optimizer.state_dict())


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
