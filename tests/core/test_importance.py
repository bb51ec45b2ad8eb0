"""The three metrics, by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weighted_freezing_fairseq.core.importance import METRICS

# theta = -2, grad = 0.5: |theta| = 2, |theta grad| = 1, grad^2 = 0.25
BY_HAND = {"magnitude": 2.0, "loss-preserving": 1.0, "fisher": 0.25}


@pytest.mark.parametrize("name", METRICS)
def test_metric_by_hand(name):
    assert METRICS[name](torch.tensor([-2.0]), torch.tensor([0.5])).tolist() == [BY_HAND[name]]


@pytest.mark.parametrize("name", METRICS)
@given(theta=st.floats(-1e9, 1e9), grad=st.floats(-1e9, 1e9))
def test_importance_is_never_negative_and_blind_to_signs(name, theta, grad):
    pairs = [(theta, grad), (-theta, grad), (theta, -grad)]
    scores = {METRICS[name](torch.tensor(t), torch.tensor(g)).item() for t, g in pairs}
    assert len(scores) == 1 and scores.pop() >= 0


@pytest.mark.parametrize("name", METRICS)
def test_gradient_and_weight_are_left_untouched(name):
    theta, grad = torch.randn(5), torch.randn(5)
    before = theta.clone(), grad.clone()
    METRICS[name](theta, grad)
    assert torch.equal(theta, before[0]) and torch.equal(grad, before[1])
