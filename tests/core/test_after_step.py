"""Rows that act after the base's step: what cautious, MoFO and Magma do, number by number."""

import pytest
import torch
from guided_rows import BASES, a_model, train
from torch import nn

from weighted_freezing_fairseq.core.after_step import AfterStepOptimizer
from weighted_freezing_fairseq.core.masks import stream_key, uniform
from weighted_freezing_fairseq.core.rules import alignment
from weighted_freezing_fairseq.core.scope import Slot, scope_of


def mofo(model, base="adam", **settings):
    return AfterStepOptimizer(BASES[base](model.parameters()), scope_of(model), "mofo", **settings)


@pytest.mark.parametrize("base", ["momentum", "adam", "adamw", "adamax"])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.999])
def test_mofo_moves_exactly_the_numbers_with_the_largest_momentum_and_updates_it_everywhere(base, fraction):
    plain_model, model = a_model(), a_model()
    plain = BASES[base](plain_model.parameters())
    optimizer = mofo(model, base, fraction=fraction)
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
    optimizer = mofo(model, fraction=0.25, importance="magnitude")
    before = [slot.weight.abs() for slot in optimizer.slots]
    train(model, optimizer, 1)
    for slot, old in zip(optimizer.slots, before, strict=True):
        moved = slot.weight.abs() != old
        assert old[moved].min() >= old[~moved].max()


@pytest.mark.parametrize("base", ["sgd", "adagrad", "adadelta", "rmsprop"])
def test_a_base_that_keeps_no_momentum_is_refused(base):
    name = type(BASES[base](a_model().parameters())).__name__
    with pytest.raises(ValueError, match=f"{name} keeps none .*; choose Adam as the base, or SGD with momentum 0.9"):
        train(model := a_model(), mofo(model, base, fraction=0.5), 1)


def test_magma_updates_a_tensor_by_its_draw_and_scales_by_the_average_alignment():
    """SGD with momentum 0.9 and rate 0.1; theta = (1, -2), gradients (1, 0) and then (-1, 1).

    Update 1: m = (1, 0), cos 1, s = sigmoid(1 / 2) = 0.62245933.
    Update 2: m = 0.9 * (1, 0) + (-1, 1) = (-0.1, 1), cos = 1.1 / (sqrt(1.01) * sqrt(2)) = 0.77395730,
    sigmoid(0.38697865) = 0.59555516, s = 0.9 * 0.62245933 + 0.1 * 0.59555516 = 0.61976891.
    """
    theta = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    base = torch.optim.SGD([theta], lr=0.1, momentum=0.9)
    optimizer = AfterStepOptimizer(base, [Slot("w", theta, theta.shape)], "magma", fraction=0.5)
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
    optimizer = AfterStepOptimizer(base, slots, "magma", variant="skip_update", fraction=0.3)
    moved = []
    for _ in range(40):
        before = [p.detach().clone() for p in parameters]
        for p in parameters:
            p.grad = torch.ones(3)
        optimizer.record = True
        optimizer.step()
        changed = torch.stack([p.detach() != old for p, old in zip(parameters, before, strict=True)])
        assert float(optimizer.recorded["scale_mean"]) == pytest.approx(float(changed.double().mean()) / 0.3)
        assert torch.equal(changed.all(1), changed.any(1))
        moved.append(changed.all(1).double())
    assert torch.stack(moved).mean().item() == pytest.approx(0.3, abs=0.03)  # 3 sigma of 2,000 draws


def test_the_alignment_does_not_depend_on_the_scale_of_the_gradient_and_is_a_half_without_one():
    generator = torch.Generator().manual_seed(2)
    momentum, grad = torch.randn(7, 5, generator=generator), torch.randn(7, 5, generator=generator)
    torch.testing.assert_close(alignment(momentum, grad), alignment(1e-9 * momentum, 1e-9 * grad))
    assert alignment(momentum, torch.zeros(7, 5)) == 0.5
    assert alignment(momentum, -momentum).item() == pytest.approx(1 - alignment(momentum, momentum).item())
