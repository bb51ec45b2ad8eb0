"""Pruning: every score against numbers made by hand, what is chosen by it, and when."""

import logging
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from weighted_freezing_fairseq.core.pruning import BETAS, METHODS, Averages, Layer, scores_of, select
from weighted_freezing_fairseq.core.schedules import PRUNE_SCHEDULES, pruning_steps, sparsity

WEIGHT = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
GRAD = torch.tensor([[-0.5, 0.25], [4.0, 0.0]])
INPUT_NORMS = torch.tensor([5.0, 2.0])


def only(method: str, layer: Layer, **names) -> torch.Tensor:
    return scores_of(METHODS[method], [layer], **names)[layer.name]


# Scores by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("magnitude", [[1, 2], [0, 3]]),
        ("magnitude_global", [[1, 2], [0, 3]]),
        ("l2", [[1, 2], [0, 3]]),  # its penalty is in the training; what it prunes by is the magnitude
        ("gradient", [[0.5, 0.25], [4, 0]]),
        # |1 * -0.5|, |-2 * 0.25|, |0 * 4|, |3 * 0|
        ("sensitivity", [[0.5, 0.5], [0, 0]]),
        # 0.5^2, 0.25^2, 4^2, 0
        ("fisher", [[0.25, 0.0625], [16, 0]]),
        # Squares 1, 4, 0, 9; those at least as large as each sum up to: 9 + 4 + 1, 9 + 4, all, 9.
        ("lamp", [[1 / 14, 4 / 13], [0, 1]]),
        ("lookahead", [[1, 2], [0, 3]]),  # no neighbour: factor 1
        # The first column comes from an input of norm 5, the second of norm 2.
        ("wanda", [[5, 4], [0, 6]]),
    ],
)
def test_scores_by_hand(method, wanted):
    found = only(method, Layer("x.weight", WEIGHT, GRAD, input_norms=INPUT_NORMS))
    torch.testing.assert_close(found.double(), torch.tensor(wanted, dtype=torch.float64))


def test_the_openness_of_a_gate_by_hand():
    # logistic(0) = 1/2, logistic(log 3) = 3 / (3 + 1), logistic(-log 4) = 1 / (1 + 4), logistic(log 9) = 9 / 10
    gate = torch.tensor([[0.0, math.log(3)], [-math.log(4), math.log(9)]])
    found = only("l0", Layer("x.weight", WEIGHT, gate=gate))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.75], [0.2, 0.9]]))


# Importance 4 in the first update and 8 in the second, with betas 0.85 and 0.95.
# I_bar = 0.15 * 4 = 0.6, U = 4 - 0.6 = 3.4, U_bar = 0.05 * 3.4 = 0.17.
# I_bar = 0.85 * 0.6 + 0.15 * 8 = 1.71, U = 8 - 1.71 = 6.29, U_bar = 0.95 * 0.17 + 0.05 * 6.29 = 0.476.
def platon_after_two_updates() -> float:
    averages = Averages(torch.zeros(1, 1), torch.zeros(1, 1))
    theta, grad = torch.tensor([[-2.0]]), torch.tensor([[2.0]])
    averages.update_(Layer("x", theta, grad))
    torch.testing.assert_close(averages.importance * averages.uncertainty, torch.tensor([[0.6 * 0.17]]))
    averages.update_(Layer("x", theta, 16 * grad), scale=8)
    return only("platon", Layer("x", theta, averages=averages)).item()


def test_the_averages_of_platon_by_hand():
    assert platon_after_two_updates() == pytest.approx(1.71 * 0.476, rel=1e-6)


@pytest.mark.parametrize("index", [0, 1])
def test_an_error_of_a_thousandth_in_a_beta_of_platon_shows(monkeypatch, index):
    wrong = [beta * (1.001 if place == index else 1) for place, beta in enumerate(BETAS)]
    monkeypatch.setattr("weighted_freezing_fairseq.core.pruning.BETAS", wrong)
    averages = Averages(torch.zeros(1), torch.zeros(1))
    for importance in (4.0, 8.0):
        averages.update_(Layer("x", torch.ones(1), torch.tensor([importance])))
    assert float(averages.importance * averages.uncertainty) != pytest.approx(1.71 * 0.476, rel=1e-4)


def test_an_error_of_a_thousandth_in_an_input_norm_changes_the_score_of_wanda():
    found = only("wanda", Layer("x", WEIGHT, input_norms=INPUT_NORMS * torch.tensor([1.001, 1.0])))
    with pytest.raises(AssertionError, match="Mismatched elements: 1 / 4"):
        torch.testing.assert_close(found, torch.tensor([[5.0, 4.0], [0.0, 6.0]]))


def test_every_method_has_a_score_by_hand_here_or_is_random():
    cases = next(m for m in test_scores_by_hand.pytestmark if m.name == "parametrize").args[1]
    assert {method for method, _ in cases} | {"l0", "platon", "random", "random_global"} == METHODS.keys()


def test_of_equal_weights_lamp_counts_the_first_as_larger():
    # The first 2 has only itself at or above it, the second both, 1 all: 4/4, 4/8, 1/9.
    found = only("lamp", Layer("x", torch.tensor([[2.0, -2.0, 1.0]])))
    torch.testing.assert_close(found, torch.tensor([[1, 1 / 2, 1 / 9]], dtype=torch.float64))
    assert only("lamp", Layer("x", torch.zeros(2, 2))).eq(0).all()


@pytest.mark.parametrize("scale", [2.0**-30, 0.5, 2.0**20])
def test_lamp_does_not_depend_on_the_scale_of_a_layer(scale):
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(only("lamp", Layer("x", weight)), only("lamp", Layer("x", weight * scale)))


def test_lamp_leaves_every_layer_its_largest_weight_until_the_last():
    generator = torch.Generator().manual_seed(1)
    layers = [Layer(f"x{i}", torch.randn(5, 6, generator=generator) * 10.0**-i) for i in range(4)]
    scores = scores_of(METHODS["lamp"], layers)
    masks = select(METHODS["lamp"], scores, 1 - 4 / 120)
    assert [int(mask.sum()) for mask in masks.values()] == [1] * 4


PAIRS = {
    # name of the layer -> its neighbour, and their product as a function of the two
    "layers.0.fc1": ("layers.0.fc2", lambda own, other: other @ own),
    "layers.0.fc2": ("layers.0.fc1", lambda own, other: own @ other),
    "layers.0.self_attn.v_proj": ("layers.0.self_attn.out_proj", lambda own, other: other @ own),
    "layers.0.self_attn.out_proj": ("layers.0.self_attn.v_proj", lambda own, other: own @ other),
    "layers.0.self_attn.q_proj": ("layers.0.self_attn.k_proj", lambda own, other: own.T @ other),
    "layers.0.self_attn.k_proj": ("layers.0.self_attn.q_proj", lambda own, other: own.T @ other),
}


@pytest.mark.parametrize("name", PAIRS)
def test_lookahead_is_how_much_the_product_changes_when_a_weight_is_zeroed(name):
    generator = torch.Generator().manual_seed(1)
    hidden, below, above = 4, 3, 5
    shapes = {"fc1": (hidden, below), "fc2": (above, hidden), "out_proj": (above, hidden)}
    layers = {
        full: Layer(f"{full}.weight", torch.randn(shapes.get(last, (hidden, below)), generator=generator).double())
        for full in PAIRS
        for last in [full.rsplit(".", 1)[1]]
    }
    other, product = PAIRS[name]
    own, beside = layers[name].weight, layers[other].weight
    found = scores_of(METHODS["lookahead"], list(layers.values()))[f"{name}.weight"]
    for row in range(own.shape[0]):
        for column in range(own.shape[1]):
            zeroed = own.clone()
            zeroed[row, column] = 0
            change = (product(own, beside) - product(zeroed, beside)).norm()
            torch.testing.assert_close(found[row, column], change)


def test_lookahead_by_hand():
    # fc1 has units 0 and 1 above; fc2 takes 3, 4 out of unit 0 (norm 5) and 0, 2 out of unit 1 (norm 2).
    # Unit 0 gets 1, -2 from below (norm sqrt 5), unit 1 gets 0, 3 (norm 3).
    layers = [Layer("a.fc1.weight", WEIGHT), Layer("a.fc2.weight", torch.tensor([[3.0, 0.0], [4.0, 2.0]]))]
    found = scores_of(METHODS["lookahead"], layers)
    torch.testing.assert_close(found["a.fc1.weight"], torch.tensor([[5.0, 10.0], [0.0, 6.0]]))
    torch.testing.assert_close(
        found["a.fc2.weight"], torch.tensor([[3 * math.sqrt(5), 0.0], [4 * math.sqrt(5), 2 * 3.0]])
    )
    # The neighbour is that of the same block.
    other = [layers[0], Layer("b.fc2.weight", layers[1].weight)]
    assert torch.equal(scores_of(METHODS["lookahead"], other)["a.fc1.weight"], WEIGHT.abs())


@pytest.mark.parametrize("method", ["gradient", "sensitivity", "fisher"])
def test_a_weight_without_a_gradient_has_none_of_zero(method):
    assert only(method, Layer("x", WEIGHT)).eq(0).all()


@pytest.mark.parametrize("method", ["sensitivity", "fisher", "lookahead"])
def test_products_of_small_numbers_are_not_lost_in_half_precision(method):
    small = torch.full((2, 2), 2.0**-14, dtype=torch.float16)
    layers = [Layer("a.fc1.weight", small, small), Layer("a.fc2.weight", small, small)]
    assert all(
        score.dtype == torch.float32 and (score > 0).all() for score in scores_of(METHODS[method], layers).values()
    )


def test_random_is_a_function_of_seed_step_and_name():
    layer, other = Layer("x", torch.ones(30, 40)), Layer("y", torch.ones(30, 40))
    first = only("random", layer, seed=1, step=3)
    assert torch.equal(first, only("random", Layer("x", torch.zeros(30, 40)), seed=1, step=3))
    for different in ({"seed": 2, "step": 3}, {"seed": 1, "step": 4}):
        assert not torch.equal(first, only("random", layer, **different))
    assert not torch.equal(first, only("random", other, seed=1, step=3))
    assert first.min() > 0 and abs(float(first.mean()) - 0.5) < 5 / math.sqrt(12 * 1200)


# What is chosen -----------------------------------------------------------------------------------------------------

VALUES = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=10), min_size=1, max_size=4)


def of(values) -> dict[str, torch.Tensor]:
    return {f"x{i}": torch.tensor(v, dtype=torch.float32) for i, v in enumerate(values)}


@given(VALUES, st.floats(0, 1))
@pytest.mark.parametrize("method", ["magnitude", "lamp"])
def test_exactly_k_are_pruned_under_ties_and_none_is_larger_than_one_that_is_kept(method, values, share):
    scores = of(values)
    masks = select(METHODS[method], scores, share)
    pools = [list(scores)] if METHODS[method].compared == "network" else [[name] for name in scores]
    assert list(masks) == list(scores)
    for pool in pools:
        together, kept = (torch.cat([tensors[name] for name in pool]) for tensors in (scores, masks))
        assert int((~kept).sum()) == round(share * len(together))
        if 0 < int(kept.sum()) < len(together):
            assert together[~kept].max() <= together[kept].min()
            ties = kept[together == together[kept].min()].int()
            assert ties.diff().le(0).all()  # of equal scores the first are kept


@pytest.mark.slow
@given(VALUES, st.lists(st.floats(0, 1), min_size=2, max_size=4), st.randoms(use_true_random=False))
@pytest.mark.parametrize("method", ["magnitude", "lamp"])
def test_what_is_pruned_stays_so_whatever_its_score_becomes(method, values, shares, rng):
    scores, masks = of(values), None
    total = sum(len(v) for v in values)
    for share in sorted(shares):
        before = masks
        masks = select(METHODS[method], scores, share, before)
        if before is not None:
            assert all(bool((masks[name] <= before[name]).all()) for name in masks)
        if METHODS[method].compared == "network":
            assert sum(int((~mask).sum()) for mask in masks.values()) == round(share * total)
        else:
            assert all(int((~mask).sum()) == round(share * len(mask)) for mask in masks.values())
        scores = {name: torch.tensor([float(rng.randint(0, 4)) for _ in score]) for name, score in scores.items()}


ROWS = st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=1))


@given(ROWS, st.floats(0, 1), st.floats(0, 1))
def test_exactly_k_of_each_row_are_pruned_and_stay_so(rows, share, other):
    less, more = sorted((share, other))
    scores = torch.tensor(rows, dtype=torch.float32)
    before = select(METHODS["wanda"], {"x": scores}, less)
    after = select(METHODS["wanda"], {"x": scores.flip(1)}, more, before)
    for mask, goal in ((before["x"], less), (after["x"], more)):
        assert mask.dtype == torch.bool and ((~mask).sum(1) == round(goal * scores.shape[1])).all()
    assert (after["x"] <= before["x"]).all()
    for row, kept in zip(scores, before["x"], strict=True):
        if kept.any() and not kept.all():
            assert row[~kept].max() <= row[kept].min()
            assert kept[row == row[kept].min()].int().diff().le(0).all()  # of equal scores the first are kept


def test_wanda_compares_within_a_row_and_not_over_the_layer():
    scores = {"x": torch.tensor([[1.0, 2.0], [30.0, 40.0]])}
    assert select(METHODS["wanda"], scores, 0.5)["x"].tolist() == [[False, True], [False, True]]
    assert select(METHODS["magnitude"], scores, 0.5)["x"].tolist() == [[False, False], [True, True]]


def test_a_row_that_has_lost_more_than_its_share_gets_nothing_back():
    previous = {"x": torch.tensor([[False, False, True, False], [True, True, True, True]])}
    found = select(METHODS["wanda"], {"x": torch.tensor([[4.0, 3.0, 2.0, 1.0]] * 2)}, 0.5, previous)
    assert found["x"].tolist() == [[False, False, True, False], [True, True, False, False]]


def test_a_lower_share_than_is_pruned_gives_nothing_back():
    scores = {"x": torch.arange(10.0)}
    masks = select(METHODS["magnitude"], scores, 0.6)
    assert torch.equal(select(METHODS["magnitude"], scores, 0.2, masks)["x"], masks["x"])


def test_a_kept_weight_of_score_zero_outranks_a_pruned_one():
    scores, masks = {"x": torch.tensor([5.0, 0.0, 0.0, 7.0])}, {"x": torch.tensor([False, True, True, True])}
    found = select(METHODS["magnitude"], scores, 0.25, masks)
    assert found["x"].tolist() == [False, True, True, True]
    assert select(METHODS["magnitude"], scores, 0.5, masks)["x"].tolist() == [False, True, False, True]


def test_the_network_is_one_pool_and_layers_lose_the_same_share_each():
    scores = {"small": torch.tensor([1.0, 2.0, 3.0, 4.0]), "large": torch.tensor([10.0, 20.0, 30.0, 40.0])}
    pooled, layerwise = (select(METHODS[name], scores, 0.25) for name in ("magnitude_global", "magnitude"))
    assert [mask.tolist() for mask in pooled.values()] == [[False, False, True, True], [True] * 4]
    assert [mask.tolist() for mask in layerwise.values()] == [[False, True, True, True]] * 2


def test_a_layer_that_loses_its_last_weight_is_named_once(caplog):
    scores = {"thin": torch.tensor([1.0, 2.0]), "thick": torch.tensor([10.0, 20.0])}
    method = METHODS["magnitude_global"]
    with caplog.at_level(logging.WARNING):
        masks = select(method, scores, 0.25)
        assert caplog.text == ""
        masks = select(method, scores, 0.5, masks)
        assert "pruning by magnitude_global has emptied thin: all of its weights are zero" in caplog.text
        caplog.clear()
        select(method, scores, 0.75, masks)
        assert caplog.text == ""


# When ---------------------------------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.5), st.floats(0.001, 0.99), st.sampled_from(PRUNE_SCHEDULES))
def test_sparsity_rises_from_nothing_to_exactly_its_target(amount, target, schedule):
    steps = pruning_steps(amount, target, schedule)
    assert steps >= 1
    found = [sparsity(step, amount, target, schedule) for step in range(steps + 3)]
    assert found[0] == 0 and found[steps:] == [target] * 3
    assert all(a < b for a, b in zip(found[: steps + 1], found[1 : steps + 1], strict=False))
    assert all(share < target for share in found[:steps])


@pytest.mark.parametrize(
    ("schedule", "amount", "target", "wanted"),
    [
        ("uniform", 0.1, 0.3, [0, 0.1, 0.2, 0.3]),
        ("uniform", 0.2, 0.5, [0, 0.2, 0.4, 0.5]),
        # 1 - 0.9^k; 0.9^3 = 0.729 is below 0.75, and 0.75 is not
        ("geometric", 0.1, 0.25, [0, 0.1, 0.19, 0.25]),
        # 0.8 (1 - (1 - k/4)^3): 1 - 27/64, 1 - 1/8, 1 - 1/64
        ("cubic", 0.2, 0.8, [0, 0.8 * 37 / 64, 0.8 * 7 / 8, 0.8 * 63 / 64, 0.8]),
    ],
)
def test_sparsity_by_hand(schedule, amount, target, wanted):
    assert pruning_steps(amount, target, schedule) == len(wanted) - 1
    assert [sparsity(k, amount, target, schedule) for k in range(len(wanted))] == pytest.approx(wanted)


@given(st.integers(1, 200), st.floats(0.001, 0.99))
def test_a_whole_number_of_uniform_steps_takes_that_many(steps, target):
    assert pruning_steps(target / steps, target, "uniform") == steps


@given(st.floats(0.01, 0.5), st.integers(1, 60))
def test_a_power_takes_as_many_geometric_steps(amount, steps):
    target = 1 - (1 - amount) ** steps
    assume(target < 0.999)
    assert pruning_steps(amount, target, "geometric") == steps


def test_one_step_is_enough_where_the_target_is_no_more_than_the_amount():
    assert [sparsity(k, 0.5, 0.3, schedule) for schedule in PRUNE_SCHEDULES for k in (0, 1)] == [0, 0.3] * 3
