"""Weight decay where it agrees with the step: what cautious_decay does, number by number."""

import pytest
import torch
from guided_rows import BASES, a_model, same, train
from torch import nn

from weighted_freezing_fairseq.core.decay import DecayOptimizer
from weighted_freezing_fairseq.core.scope import Slot, scope_of


def cautious_decay(model, base):
    return DecayOptimizer(BASES[base](model.parameters()), scope_of(model), base_fused=False)


@pytest.mark.parametrize("base", BASES)
def test_cautious_decay_is_the_base_without_decay_and_a_decay_where_the_step_is_not_away_from_zero(base):
    plain_model, model = a_model(), a_model()
    plain = BASES[base](plain_model.parameters())
    plain.param_groups[0]["weight_decay"] = 0.0
    optimizer = cautious_decay(model, base)
    optimizer.param_groups[0]["weight_decay"] = 0.5
    optimizer.record = True
    eta = optimizer.param_groups[0]["lr"]
    before = [slot.weight.clone() for slot in optimizer.slots]
    train(plain_model, plain, 1)
    after = train(model, optimizer, 1)
    stepped = [slot.weight for slot in scope_of(plain_model)]
    agree = [(old.sign() * (new - old).sign()) <= 0 for old, new in zip(before, stepped, strict=True)]
    for slot, old, new, here in zip(optimizer.slots, before, stepped, agree, strict=True):
        assert here.any() and not here.all()
        torch.testing.assert_close(slot.weight[here], (new - 0.5 * eta * old)[here])
        assert torch.equal(slot.weight[~here], new[~here])
    share = torch.cat([here.flatten() for here in agree]).double().mean()
    assert float(optimizer.recorded["scale_mean"]) == pytest.approx(1 - 0.5 * eta * float(share), abs=1e-7)
    inside = {slot.name for slot in optimizer.slots}
    outside = [number for number, (name, _) in enumerate(model.named_parameters()) if name not in inside]
    others = list(plain_model.parameters())
    assert outside and all(torch.equal(after[number], others[number]) for number in outside)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


@pytest.mark.parametrize("base", BASES)
def test_cautious_decay_without_weight_decay_is_the_base_bit_for_bit(base):
    plain_model, model = a_model(), a_model()
    plain = BASES[base](plain_model.parameters())
    optimizer = cautious_decay(model, base)
    for each in (plain, optimizer):
        each.param_groups[0]["weight_decay"] = 0.0
    assert same(train(model, optimizer, 5), train(plain_model, plain, 5))


def test_cautious_decay_takes_the_decay_of_each_parameter_group():
    first, second = (nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [{"params": [first], "weight_decay": 0.5}, {"params": [second], "lr": 0.2, "weight_decay": 0.25}]
    slots = [Slot(name, p, p.shape) for name, p in (("first", first), ("second", second))]
    optimizer = DecayOptimizer(torch.optim.SGD(groups, lr=0.1), slots)
    first.grad, second.grad = torch.ones(3), -torch.ones(3)
    optimizer.step()
    assert first.tolist() == pytest.approx([1 - 0.05 - 0.1] * 3) and second.tolist() == pytest.approx([1.2] * 3)
    second.grad = torch.zeros(3)
    optimizer.step()
    assert second.tolist() == pytest.approx([1.2 - 0.2 * 0.25 * 1.2] * 3)


def test_a_base_that_has_no_weight_decay_is_refused():
    model = a_model()
    with pytest.raises(ValueError, match="weight_decay .* Rprop has none .*; choose AdamW as the base"):
        DecayOptimizer(torch.optim.Rprop(model.parameters()), scope_of(model))
