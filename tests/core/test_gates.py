"""Hard-concrete gates: golden values, slopes, and that the optimizer's step is made on what lies behind them."""

import math

import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.core.gates import Gates, open_probability, sampled, typical
from weighted_freezing_fairseq.core.masks import stream_key, uniform
from weighted_freezing_fairseq.core.scope import Slot

LOG_ALPHA = torch.tensor([-4.0, -1.0, 0.0, 0.5, 3.0], dtype=torch.float64)


def test_golden_values_of_the_three_formulas():
    # Louizos et al. eq. 10 to 13 with beta 2/3, gamma -0.1, zeta 1.1, in plain numbers.
    for a in LOG_ALPHA.tolist():
        for u in (0.1, 0.5, 0.9):
            s = 1 / (1 + math.exp(-(math.log(u / (1 - u)) + a) * 1.5))
            z = sampled(torch.tensor([a], dtype=torch.float64), torch.tensor([u], dtype=torch.float64))[0]
            assert z.item() == pytest.approx(min(1, max(0, 1.2 * s - 0.1)), abs=1e-12)
        tensor = torch.tensor([a], dtype=torch.float64)
        assert typical(tensor).item() == pytest.approx(min(1, max(0, 1.2 / (1 + math.exp(-a)) - 0.1)), abs=1e-12)
        assert open_probability(tensor).item() == pytest.approx(1 / (1 + math.exp(-(a - 2 / 3 * math.log(1 / 11)))))
    # sigmoid(0) = 1/2: half of the stretched interval, in its middle.
    assert sampled(torch.zeros(1), torch.full((1,), 0.5))[0].item() == pytest.approx(0.5)


def test_slope_is_the_derivative_and_zero_where_a_gate_is_cut():
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    for a in LOG_ALPHA:
        a = a.expand(99).clone().requires_grad_()
        z, slope = sampled(a, u)
        (expected,) = torch.autograd.grad(z.sum(), a)
        torch.testing.assert_close(slope.detach(), expected, rtol=1e-10, atol=1e-12)
    z, slope = sampled(torch.tensor([-9.0, 9.0]), torch.tensor([0.5, 0.5]))
    assert z.tolist() == [0, 1] and slope.tolist() == [0, 0]


def test_open_probability_is_how_often_a_gate_is_open():
    u = torch.rand(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for a in LOG_ALPHA:
        assert (sampled(a.expand(len(u)), u)[0] > 0).double().mean().item() == pytest.approx(
            open_probability(a).item(), abs=5e-3
        )


def test_one_step_is_made_on_theta_and_on_log_alpha():
    """By autograd on theta * z in float64, the production path in steps of plain SGD."""
    torch.manual_seed(1)
    weight = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    slot = Slot("w", weight, weight.shape)
    gates = Gates([slot], [slot], strength=0.7, lr=0.05, seed=3)
    theta, log_alpha = weight.detach().clone().requires_grad_(), gates.log_alpha["w"].clone().requires_grad_()
    x = torch.randn(5, 4, dtype=torch.float64)

    gates.open({}, 1)
    (x @ weight.T).square().mean().backward()
    gates.before_step(1, 1.0)
    weight.data -= 0.1 * weight.grad
    gates.after_step({})

    u = uniform(12, stream_key(3, 1, "gates of w")).view(3, 4)
    loss = (x @ (theta * sampled(log_alpha, u)[0]).T).square().mean() + 0.7 * open_probability(log_alpha).mean()
    of_theta, of_log_alpha = torch.autograd.grad(loss, [theta, log_alpha])
    torch.testing.assert_close(gates.theta["w"], theta.detach() - 0.1 * of_theta, rtol=1e-5, atol=1e-7)
    adam = log_alpha.detach() - 0.05 * of_log_alpha.sign()  # the first step of Adam
    torch.testing.assert_close(gates.log_alpha["w"], adam, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(weight.detach(), gates.theta["w"] * typical(gates.log_alpha["w"]), rtol=1e-6, atol=1e-7)


def test_the_passes_of_one_update_have_the_same_gates_and_an_update_that_is_never_made_leaves_none():
    weight = nn.Parameter(torch.randn(20, 20))
    slot = Slot("w", weight, weight.shape)
    gates = Gates([slot], [slot], 1.0, 0.01, 1)
    before = weight.detach().clone()
    gates.open({}, 1)
    first = weight.detach().clone()
    gates.open({}, 1)
    assert torch.equal(weight, first) and not torch.equal(first, before)
    gates.close({})
    assert torch.equal(weight, before)  # at the start the typical gate is 1
    gates.open({}, 2)
    assert not torch.equal(weight, first)


def test_a_strong_penalty_closes_gates_and_a_mask_keeps_weights_at_zero():
    weight = nn.Parameter(torch.randn(8, 8))
    slot = Slot("w", weight, weight.shape)
    gates = Gates([slot], [slot], strength=100.0, lr=0.1, seed=1)
    start = gates.penalty.item()
    mask = torch.rand(8, 8) < 0.5
    for update in range(1, 60):
        gates.open({"w": mask}, update)
        assert not weight[~mask].any()
        weight.square().sum().backward()
        gates.before_step(update, 1.0)
        weight.grad = None
        gates.after_step({"w": mask})
        assert not weight[~mask].any() and not gates.theta["w"][~mask].any()
    assert gates.penalty.item() < 0.5 * start and typical(gates.log_alpha["w"]).max() < 0.5


def test_a_scaled_gradient_is_unscaled_for_log_alpha():
    ends = []
    for scale in (1.0, 1 / 1024):
        torch.manual_seed(1)
        weight = nn.Parameter(torch.randn(4, 4))
        slot = Slot("w", weight, weight.shape)
        gates = Gates([slot], [slot], strength=1.0, lr=0.1, seed=1)
        for update in range(1, 4):
            gates.open({}, update)
            weight.grad = weight.detach() * scale
            gates.before_step(update, scale)
            gates.after_step({})
        ends.append(gates.log_alpha["w"])
    torch.testing.assert_close(*ends)
