"""Statistics in one pass against the same ones of sorted numbers, and what they are of vectors made by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weighted_freezing_fairseq.core import balance
from weighted_freezing_fairseq.core.balance import QUANTILES, Distribution

RELATIVE_WIDTH = 2.0**-8  # of the bins, as `Distribution` states

scores = st.lists(st.just(0.0) | st.floats(2.0**-60, 2.0**60, width=32), min_size=1, max_size=60)
shapes = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.sampled_from([0.01, 0.3, 1.0, 4.0]))


def exact(values):
    """The same statistics of all numbers, sorted, in float64."""
    x = np.sort(np.asarray(values, dtype=np.float32).astype(np.float64))
    n, total = len(x), math.fsum(x)
    lorenz = np.concatenate([[0.0], np.cumsum(x)])
    below = np.interp(0.8 * n, np.arange(n + 1), lorenz)
    found = {
        "parameters": n,
        "zeros": int((x == 0).sum()),
        "mean": total / n,
        "std": x.std(),
        "gini": (2 * np.arange(1, n + 1) - n - 1) @ x / (n * total) if total else math.nan,
        "share_top20": 1 - below / total if total else math.nan,
        "mean_top20": (total - below) / (0.2 * n),
        "mean_bottom80": below / (0.8 * n),
        "max": x[-1],
    }
    return found | {f"q{100 * q:g}": x[max(1, math.ceil(q * n)) - 1] for q in QUANTILES}


def assert_equal(found, wanted):
    """Within the error that `Distribution` states."""
    for name in ("parameters", "zeros", "max"):
        assert found[name] == wanted[name], name
    assert found["mean"] == pytest.approx(wanted["mean"], rel=1e-12)
    assert found["std"] == pytest.approx(wanted["std"], rel=1e-9, abs=1e-15 * wanted["mean"])
    if wanted["mean"] == 0:
        assert all(math.isnan(found[name]) for name in ("gini", "share_top20", "std_over_mean", "top20_over_bottom80"))
        return
    assert found["std_over_mean"] == found["std"] / found["mean"]
    assert -1e-12 <= wanted["gini"] - found["gini"] <= RELATIVE_WIDTH / 4
    for name in ("share_top20", "mean_top20", *(name for name in wanted if name.startswith("q"))):
        assert found[name] == pytest.approx(wanted[name], rel=RELATIVE_WIDTH), name
    # What is left when the top is taken away: its error is the top's.
    assert found["mean_bottom80"] == pytest.approx(
        wanted["mean_bottom80"], rel=RELATIVE_WIDTH, abs=1e-12 * wanted["mean"]
    )


@given(scores)
def test_statistics_are_those_of_all_numbers(values):
    assert_equal(Distribution.from_scores(torch.tensor(values)).statistics(), exact(values))


@given(shapes)
def test_statistics_of_long_tails_too(shape):
    seed, count, sigma = shape
    values = np.random.default_rng(seed).lognormal(-12, sigma, count).astype(np.float32)
    assert_equal(Distribution.from_scores(torch.from_numpy(values)).statistics(), exact(values))


def test_an_error_of_half_a_percent_is_found():
    values = np.random.default_rng(1).lognormal(-12, 1, 1000).astype(np.float32)
    found = Distribution.from_scores(torch.from_numpy(values)).statistics()
    for name in ("gini", "share_top20", "mean_top20", "q50", "std", "mean"):
        with pytest.raises(AssertionError):
            assert_equal({**found, name: 1.005 * found[name]}, exact(values))


@given(scores, st.integers(1, 9))
@settings(max_examples=25)
def test_blocks_and_parts_are_the_whole(values, size):
    whole = Distribution.from_scores(torch.tensor(values))
    merged = Distribution()
    merged.add_(Distribution.from_scores(torch.tensor(values[:size])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(balance, "counting_block_size", lambda scores: size)
        blocks = Distribution.from_scores(torch.tensor(values))
        merged.add_(Distribution.from_scores(torch.tensor(values[size:])))
    for found in (blocks, merged):
        assert torch.equal(found.counts, whole.counts)
        torch.testing.assert_close(found.sums, whole.sums)
        wanted = pytest.approx((whole.mean, whole.std), rel=1e-9, abs=1e-15 * whole.mean)
        assert (found.mean, found.std) == wanted and (found.zeros, found.largest) == (whole.zeros, whole.largest)


@pytest.mark.parametrize(
    ("values", "gini", "top"),
    [
        ([3.0] * 5, 0, 0.2),  # all equal
        ([0, 0, 0, 1], 3 / 4, 0.8),  # one has everything: (n - 1) / n; 20 % of four is 0.8 of it
        ([1, 2, 3, 4], 1 / 4, 0.8 * 4 / 10),  # sum (2 i - n - 1) x_i / (n sum x) = (-3 - 2 + 3 + 12) / 40
        ([1, 3], 1 / 4, 0.4 * 3 / 4),
        ([0, 1, 0, 1, 0, 1, 0, 1, 0, 1], 1 / 2, 0.4),
        ([7.0], 0, 0.2),
    ],
)
def test_of_vectors_made_by_hand(values, gini, top):
    found = Distribution.from_scores(torch.tensor(values, dtype=torch.float32)).balance()
    assert found["gini"] == pytest.approx(gini, abs=1e-12) and found["share_top20"] == pytest.approx(top)


def test_top_against_rest():
    found = Distribution.from_scores(torch.tensor([2.0] * 8 + [16.0] * 2)).statistics()
    assert found["mean_top20"] == pytest.approx(16) and found["mean_bottom80"] == pytest.approx(2)
    assert found["top20_over_bottom80"] == pytest.approx(8) and found["share_top20"] == pytest.approx(32 / 48)
    assert Distribution.from_scores(torch.tensor([0.0] * 9 + [1.0])).statistics()["top20_over_bottom80"] == math.inf


def test_equal_numbers_have_no_spread_whatever_their_size():
    # The mean of squares less the square of the mean would leave 1e-8 of it.
    assert Distribution.from_scores(torch.full((1000,), 0.1)).std < 1e-15


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_what_is_no_score_is_refused(bad):
    with pytest.raises(ValueError, match=f"finite and not negative, got .* {bad:g}.*; check the weights"):
        Distribution.from_scores(torch.tensor([1.0, bad]))


def test_an_empty_tensor_adds_nothing():
    found = Distribution.from_scores(torch.ones(3))
    found.add_(Distribution.from_scores(torch.ones(0)))
    assert found.count == 3 and found.mean == 1
