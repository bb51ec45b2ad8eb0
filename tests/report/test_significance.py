"""The test over seeds and the correction for several comparisons, worked out by hand."""

import math

import pytest

from weighted_freezing_fairseq.report.cells import Cell, corrected
from weighted_freezing_fairseq.scoring.significance import Bleu, cached_p_values, holm, seed_p_value


def test_two_seeds_have_the_p_value_of_the_cauchy_distribution():
    """Differences 1 and 3: mean 2, sd sqrt(2), t = 2; with one degree of freedom p = 1 - 2 atan(t) / pi."""
    assert seed_p_value([30.0, 31.0], [31.0, 34.0]) == pytest.approx(1 - 2 * math.atan(2) / math.pi)


def test_three_seeds_have_the_p_value_of_two_degrees_of_freedom():
    """Differences 1, 2, 3: mean 2, sd 1, t = 2 sqrt(3); with two degrees of freedom p = 1 - t / sqrt(2 + t^2)."""
    t = 2 * math.sqrt(3)
    for sign in (1, -1):
        assert seed_p_value([10, 10, 10], [10 + sign, 10 + 2 * sign, 10 + 3 * sign]) == pytest.approx(
            1 - t / math.sqrt(2 + t * t)
        )


@pytest.mark.parametrize("scores", [[([30.0], [31.0])], [([30.0, 31.0], [31.0, 32.0])], [([], [])]])
def test_without_a_deviation_there_is_no_p_value(scores):
    for baseline, system in scores:
        assert seed_p_value(baseline, system) is None


def test_rounding_is_not_a_deviation():
    """31.1 - 30.1 and 32.2 - 31.2 differ by 4e-16."""
    assert seed_p_value([30.1, 31.2], [31.1, 32.2]) is None and seed_p_value([30.1, 31.2], [31.1, 32.3]) is not None


def test_equal_outputs_do_not_differ_whatever_was_stored(tmp_path):
    lines, stored = ["a b c d e", "f g h i j"], tmp_path / "stored.json"
    stored.write_text("{")  # by an earlier version, or damaged
    for p in (Bleu().p_values(lines, lines, lines), cached_p_values(lines, list(lines), lines, stored)):
        assert (p.bootstrap, p.randomisation) == (1.0, 1.0)


def test_holm_multiplies_the_smallest_by_their_number_and_never_goes_down():
    """Holm 1979: 3 * 0.01, 2 * 0.02, then max(0.04, 1 * 0.03); 4 * 0.4 is cut to 1."""
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.4, 0.9, 0.5, 0.6]) == [1.0, 1.0, 1.0, 1.0]
    assert holm([0.3]) == [0.3] and holm([]) == []


def test_each_test_set_is_corrected_on_its_own_and_missing_p_values_do_not_count():
    def cell(method, test, **p_values):
        return Cell("multi30k", "clean", "configs/multi30k", "de-en", method, test=test, **p_values)

    cells = corrected(
        [
            cell("standard", "test"),
            cell("sage", "test", p_bootstrap=0.04, p_seeds=0.5),
            cell("ewc", "test", p_bootstrap=0.01),
            cell("sage", "test1", p_bootstrap=0.04),
        ]
    )
    assert [c.p_bootstrap_holm for c in cells] == [None, 0.04, 0.02, 0.04]
    assert [c.p_seeds_holm for c in cells] == [None, 0.5, None, None]
    assert [c.p_bootstrap for c in cells] == [None, 0.04, 0.01, 0.04]
