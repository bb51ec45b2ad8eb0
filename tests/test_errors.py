"""A setting that is no fraction is refused in three parts: its value, what is allowed, what to type."""

import math

import pytest

from weighted_freezing_fairseq.errors import UserError, check_fraction


@pytest.mark.parametrize(
    ("value", "more", "allowed"),
    [
        (0, {}, "above 0 and below 1"),
        (1, {}, "above 0 and below 1"),
        (-0.1, {"zero": True}, "at least 0 and below 1"),
        (5, {"one": True}, "above 0 and at most 1"),
        (math.nan, {"zero": True, "one": True}, "at least 0 and at most 1"),
    ],
)
def test_what_is_no_fraction_is_refused(value, more, allowed):
    with pytest.raises(UserError) as caught:
        check_fraction("--density", value, 0.05, **more)
    assert str(caught.value) == f"--density must be {allowed}, got {value:g}; type --density 0.05"


@pytest.mark.parametrize(("value", "more"), [(0.5, {}), (0, {"zero": True}), (1, {"one": True}), (1e-9, {})])
def test_what_is_one_is_not(value, more):
    check_fraction("--density", value, 0.05, **more)
