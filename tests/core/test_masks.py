"""The counter-based generator, the Bernoulli masks made from it, and selection by score."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weighted_freezing_fairseq.core import masks
from weighted_freezing_fairseq.core.masks import (
    keep_mask,
    keep_probability,
    largest,
    largest_in_tensor,
    quantile,
    stream_key,
    uniform,
)

KEY = (0x9E3779B9, 0x7F4A7C15)


def lowbias32(position: int, key: tuple[int, int]) -> float:
    """`uniform` in plain integers, from its docstring."""
    x = (position ^ key[0]) & 0xFFFFFFFF
    x ^= x >> 16
    x = (x * 0x7FEB352D + key[1]) & 0xFFFFFFFF
    x ^= x >> 15
    x = (x * 0x846CA68B) & 0xFFFFFFFF
    x ^= x >> 16
    return ((x >> 8) + 1) / 2**24


@given(start=st.integers(0, 2**33), words=st.tuples(*[st.integers(0, 2**32 - 1)] * 2))
def test_uniform_equals_plain_integers(start, words):
    expected = [lowbias32(start + i, words) for i in range(5)]
    assert uniform(5, words, start).tolist() == expected


def test_uniform_is_cut_anywhere_without_a_seam():
    whole = uniform(1000, KEY)
    assert torch.equal(whole, torch.cat([uniform(333, KEY), uniform(667, KEY, start=333)]))


def test_uniform_has_the_moments_of_a_uniform_and_excludes_zero():
    u = uniform(1 << 20, KEY).double()
    sigma = 1 / math.sqrt(12 * u.numel())
    assert u.min() > 0 and u.max() <= 1
    assert abs(u.mean() - 0.5) < 5 * sigma
    assert abs(u.var() - 1 / 12) < 1e-3
    # neighbours, and the same position in the next update, are not correlated
    other = uniform(1 << 20, stream_key(1, 2, "w")).double()
    for a, b in ((u[1:], u[:-1]), (u, other)):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 5 / math.sqrt(len(a))


def test_every_byte_value_is_equally_frequent():
    counts = torch.bincount((uniform(1 << 20, KEY) * 255.9999).long(), minlength=256).double()
    expected = counts.sum() / 256
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 255 + 5 * math.sqrt(2 * 255)


@pytest.mark.slow
def test_keys_differ_by_seed_update_and_name_but_not_by_process():
    keys = {stream_key(s, u, n) for s in (1, 2) for u in (1, 2, 12) for n in ("a", "b", "2\na")}
    assert len(keys) == 18
    code = "from weighted_freezing_fairseq.core.masks import stream_key; print(*stream_key(3, 4, 'encoder.w'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert tuple(map(int, printed.split())) == stream_key(3, 4, "encoder.w")


def test_keep_probability_by_hand():
    # I = 1, 2, 4 with min 1 and max 4: keep = (4 - I) / 3 = 1, 2/3, 0
    scores = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    p = keep_probability(scores, scores.min(), scores.max())
    assert p.tolist() == pytest.approx([1.0, 2 / 3, 0.0])


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=40))
def test_the_least_important_always_moves_and_the_most_important_never(values):
    scores = torch.tensor(values)
    lo, hi = scores.min(), scores.max()
    for update in range(20):
        keep = keep_mask(scores, lo, hi, uniform(len(values), stream_key(1, update, "w")))
        assert keep[scores == lo].all()
        if hi - lo > 0 and (hi - lo) * 2.0**-24 > 0:
            assert not keep[scores == hi].any()


def test_equal_scores_keep_everything():
    scores = torch.full((1000,), 0.3)
    assert keep_mask(scores, scores.min(), scores.max(), uniform(1000, KEY)).all()
    assert keep_probability(scores, scores.min(), scores.max()).eq(1).all()


@given(st.sampled_from([2.0**-20, 0.25, 8.0, 2.0**30]))
def test_masks_do_not_depend_on_the_scale_of_the_weights(scale):
    scores = torch.rand(500, generator=torch.Generator().manual_seed(1))
    u = uniform(500, KEY)
    masks = [keep_mask(s, s.min(), s.max(), u) for s in (scores, scores * scale)]
    assert torch.equal(*masks)


def test_empirical_frequency_lies_within_binomial_bounds():
    # 40 groups of equal score; each group's share of kept weights against its probability, 5 sigma
    levels, count = torch.linspace(0, 1, 41, dtype=torch.float64), 20_000
    scores = levels.repeat_interleave(count)
    lo, hi = scores.min(), scores.max()
    kept = keep_mask(scores, lo, hi, uniform(len(scores), KEY)).view(41, count).double().mean(1)
    p = keep_probability(levels, lo, hi)
    sigma = (p * (1 - p) / count).sqrt()
    assert ((kept - p).abs() <= 5 * sigma + 1e-12).all()


SCORES = st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=1, max_size=4)


@given(SCORES, st.data())
def test_exactly_k_are_selected_under_ties_and_they_are_the_largest(values, data):
    scores = [torch.tensor(v, dtype=torch.float32) * 1e-9 for v in values]
    together = torch.cat(scores)
    k = data.draw(st.integers(0, len(together)))
    kept = torch.cat(largest(scores, k))
    assert kept.sum() == k
    if 0 < k < len(together):
        assert together[kept].min() >= together[~kept].max()
        ties = together == together[kept].min()
        assert kept[ties].int().diff().le(0).all()  # of equal scores the first ones


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.floats(0.001, 1))
def test_the_largest_in_a_tensor_are_those_of_a_choice_over_tensors_and_at_least_one(values, fraction):
    scores = torch.tensor(values, dtype=torch.float32) * 1e-9
    mask = largest_in_tensor(scores.expand(2, -1).t(), fraction)  # not contiguous
    (same,) = largest([scores.expand(2, -1).t()], max(1, round(fraction * 2 * len(values))))
    assert torch.equal(mask, same)


@given(SCORES.filter(lambda v: any(v)), st.floats(0.001, 1))
def test_quantile_is_the_smallest_score_that_covers_the_fraction(values, fraction):
    scores = [torch.tensor(v, dtype=torch.float32) for v in values]
    together = torch.cat(scores)
    tau = quantile(scores, fraction)
    assert (together <= tau).sum() >= fraction * len(together) > (together < tau).sum()


def test_selection_over_tensors_of_any_precision_and_shape_and_many_blocks(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    scores = [torch.rand(50, 7, generator=generator), torch.rand(9, 9, generator=generator).t().half()]
    whole = [m.clone() for m in largest(scores, 100)]
    monkeypatch.setattr(masks, "_SELECT_BLOCK", 16)
    assert all(torch.equal(a, b) for a, b in zip(largest(scores, 100), whole, strict=True))
    together = torch.cat([s.float().flatten() for s in scores])
    kept = torch.cat([m.flatten() for m in whole])
    assert together[kept].min() == together.sort(descending=True).values[99]


@pytest.mark.parametrize("bad", [-1.0, torch.nan, torch.inf])
def test_scores_that_have_no_order_are_refused(bad):
    with pytest.raises(ValueError, match="finite and not negative"):
        largest([torch.tensor([1.0, bad])], 1)
    with pytest.raises(ValueError, match="no 3-th largest of 2"):
        largest([torch.ones(2)], 3)
