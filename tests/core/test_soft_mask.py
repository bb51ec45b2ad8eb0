"""Factors from the Fisher information of an old task: what SPG does, number by number."""

import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.core.rules import soft_mask
from weighted_freezing_fairseq.core.scope import CPU_BLOCK, Slot
from weighted_freezing_fairseq.core.soft_mask import SoftMaskOptimizer


def spg_of(theta, fisher, stage="gradient", base=torch.optim.SGD):
    slots = [Slot("w", theta, theta.shape)]
    return SoftMaskOptimizer(base([theta], lr=0.1), slots, fisher={"w": fisher}, stage=stage)


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
