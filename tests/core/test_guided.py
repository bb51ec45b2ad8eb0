"""The guided optimizer around real torch optimizers."""

import copy

import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.core.guided import GuidedOptimizer
from weighted_freezing_fairseq.core.masks import keep_mask, stream_key, uniform
from weighted_freezing_fairseq.core.scope import Slot, scope_of

BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}
METHODS = ["weighted_freeze"]


def a_model(dtype=torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.LayerNorm(20), nn.Linear(20, 3)).to(dtype)


def train(model, optimizer, steps, first=0):
    for step in range(first, first + steps):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def guided(model, base="adam", **settings):
    return GuidedOptimizer(BASES[base](model.parameters()), scope_of(model), **settings)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("base", BASES)
def test_before_start_training_is_bit_identical_to_the_base(base, method):
    plain_model, model = a_model(), a_model()
    plain = train(plain_model, BASES[base](plain_model.parameters()), 5)
    optimizer = guided(model, base, method=method, start=6)
    assert same(train(model, optimizer, 5), plain)
    assert not same(train(model, optimizer, 1, 5), train(plain_model, BASES[base](plain_model.parameters()), 1, 5))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("stage", ["gradient", "update"])
def test_equal_scores_keep_everything_bit_for_bit(base, stage):
    def constant():
        model = a_model()
        for slot in scope_of(model):
            slot.weight.fill_(0.25)  # |w| is the same everywhere: keep = 1
        return model

    plain_model, model = constant(), constant()
    assert same(
        train(model, guided(model, base, stage=stage), 1),
        train(plain_model, BASES[base](plain_model.parameters()), 1),
    )


@pytest.mark.parametrize("base", ["momentum", "adamw"])
def test_update_stage_stops_momentum_and_weight_decay_and_gradient_stage_does_not(base):
    for stage, stands_still in (("update", True), ("gradient", False)):
        model = a_model()
        optimizer = guided(model, base, stage=stage)
        train(model, optimizer, 3)
        slot = optimizer.slots[0]
        before = slot.weight.clone()
        scores = before.abs()
        u = uniform(len(slot), stream_key(1, 4, slot.name)).view(slot.shape)
        frozen = ~keep_mask(scores, scores.min(), scores.max(), u)
        train(model, optimizer, 1, first=3)
        assert frozen.any() and not frozen.all()
        assert torch.equal(slot.weight[frozen], before[frozen]) == stands_still
        assert (slot.weight[~frozen] != before[~frozen]).all()


@pytest.mark.parametrize("stage", ["gradient", "update"])
def test_frozen_weights_under_sgd_are_those_of_the_mask(stage):
    model = a_model()
    optimizer = guided(model, "sgd", stage=stage, seed=7)
    for update in range(1, 4):
        before = [slot.weight.clone() for slot in optimizer.slots]
        train(model, optimizer, 1, first=update)
        for slot, old in zip(optimizer.slots, before, strict=True):
            scores = old.abs()
            u = uniform(len(slot), stream_key(7, update, slot.name)).view(slot.shape)
            keep = keep_mask(scores, scores.min(), scores.max(), u)
            assert torch.equal(slot.weight != old, keep)


def test_global_norm_freezes_by_the_range_of_all_weights():
    model = a_model()
    optimizer = guided(model, "sgd", norm="global")
    with torch.no_grad():
        optimizer.slots[1].weight.mul_(100)  # next to these, the first matrix is unimportant
    before = [slot.weight.clone() for slot in optimizer.slots]
    optimizer.record = True
    train(model, optimizer, 1)
    moved = [(slot.weight != old).float().mean() for slot, old in zip(optimizer.slots, before, strict=True)]
    assert moved[0] > 0.9 and moved[1] < 0.8
    total = torch.cat([w.flatten() for w in before]).abs().double()
    assert optimizer.recorded["importance_mean"] == pytest.approx(total.mean().item())
    assert optimizer.recorded["importance_std"] == pytest.approx(total.std(correction=0).item())
    frozen = sum((slot.weight == old).sum() for slot, old in zip(optimizer.slots, before, strict=True))
    assert optimizer.recorded["frozen_fraction"] == pytest.approx(frozen.item() / len(total))


def test_recording_changes_nothing():
    plain, recorded = a_model(), a_model()
    optimizer = guided(recorded)
    optimizer.record = True
    assert same(train(plain, guided(plain), 3), train(recorded, optimizer, 3))


@pytest.mark.parametrize("method", METHODS)
def test_masks_leave_dropout_alone(method):
    model = a_model()
    optimizer = guided(model, method=method)
    train(model, optimizer, 1)
    torch.manual_seed(9)
    optimizer.step()
    after = torch.rand(3)
    torch.manual_seed(9)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("base", BASES)
def test_a_resumed_run_is_an_uninterrupted_one(base, method):
    whole = a_model()
    expected = train(whole, guided(whole, base, method=method), 6)
    first = a_model()
    optimizer = guided(first, base, method=method)
    train(first, optimizer, 3)
    second = a_model()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed = guided(second, base, method=method)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.updates == 3
    assert same(train(second, resumed, 3, first=3), expected)


def test_state_is_the_base_state_and_a_few_words():
    model = a_model()
    optimizer = guided(model)
    train(model, optimizer, 2)
    state = optimizer.state_dict()
    assert state.pop("guided") == {"method": "weighted_freeze", "base": "Adam", "updates": 2}
    assert state.keys() == optimizer.base.state_dict().keys()


def test_a_plain_state_starts_afresh_and_another_base_is_refused(caplog):
    model = a_model()
    plain = BASES["adam"](model.parameters())
    train(model, plain, 2)
    optimizer = guided(model)
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.updates == 0 and "starts afresh" in caplog.text
    with pytest.raises(ValueError, match="saved with base 'Adam', but this run has 'SGD'"):
        guided(model, "sgd").load_state_dict(optimizer.state_dict())


def test_flat_parameter_gets_the_very_same_masks():
    model = a_model()
    reference = guided(model, "sgd")
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in model.parameters()]))
    slots, start = [], 0
    for name, p in model.named_parameters():
        slots.append(Slot(name, flat, p.shape, start))
        start += p.numel()
    in_scope = {slot.name for slot in reference.slots}
    optimizer = GuidedOptimizer(torch.optim.SGD([flat], lr=0.1), [s for s in slots if s.name in in_scope])
    for step in range(3):
        train(model, reference, 1, first=step)
        flat.grad = torch.cat([p.grad.flatten() for p in model.parameters()])  # masked already: masking is idempotent
        optimizer.step()
        assert torch.equal(flat, torch.cat([p.detach().flatten() for p in model.parameters()]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("importance", ["magnitude", "loss-preserving", "fisher"])
def test_other_precisions_stay_finite_and_freeze_the_most_important(dtype, importance):
    model = a_model(dtype)
    optimizer = guided(model, "sgd", importance=importance)
    optimizer.record = True
    before = optimizer.slots[0].weight.clone()
    train(model, optimizer, 1)
    after = optimizer.slots[0].weight
    assert torch.isfinite(after).all() and after.dtype == dtype
    assert 0 < optimizer.recorded["frozen_fraction"] < 1
    if importance == "magnitude":
        top = before.abs().argmax()
        assert after.view(-1)[top] == before.view(-1)[top]


def test_a_transposed_parameter_is_masked_in_logical_order():
    torch.manual_seed(1)
    straight = nn.Parameter(torch.randn(5, 9))
    turned = nn.Parameter(straight.detach().t().contiguous().t())
    grad = torch.randn(5, 9)
    for p in (straight, turned):
        p.grad = grad.clone()
        GuidedOptimizer(torch.optim.SGD([p], lr=0.1), [Slot("w", p, p.shape)]).step()
    assert not turned.is_contiguous() and torch.equal(straight, turned)


def test_missing_gradients_empty_tensors_and_nan():
    model = a_model()
    empty = nn.Parameter(torch.zeros(0, 3))
    empty.grad = torch.zeros(0, 3)
    base = torch.optim.SGD([*model.parameters(), empty], lr=0.1)
    optimizer = GuidedOptimizer(base, [*scope_of(model), Slot("empty", empty, empty.shape)])
    before = [p.clone() for p in model.parameters()]
    optimizer.step()  # no gradient anywhere
    assert same([p.detach() for p in model.parameters()], before)
    optimizer.slots[0].parameter.grad = torch.full_like(optimizer.slots[0].weight, torch.nan)
    optimizer.step()
    assert optimizer.slots[0].weight.isnan().all()  # a NaN is shown, frozen or not


def test_closure_scheduler_scaler_and_hooks_work_as_in_torch():
    model = a_model()
    optimizer = guided(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6)).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad
    schedule.step()
    assert optimizer.base.param_groups[0]["lr"] == 0.005
    scaler.scale(model(torch.ones(2, 6)).sum()).backward()
    scaler.step(optimizer)
    assert optimizer.updates == 2 and called == [1, 1]
    scaler.update()
    optimizer.zero_grad()
    scaler.scale(model(torch.full((2, 6), torch.inf)).sum()).backward()
    scaler.step(optimizer)  # overflow: skipped, and not counted
    assert optimizer.updates == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "sgae"}, "choose one of: weighted_freeze"),
        ({"method": "ewc"}, "choose one of: weighted_freeze"),
        ({"importance": "size"}, "choose one of: magnitude, loss-preserving, fisher"),
        ({"norm": "row"}, "choose one of: tensor, global"),
        ({"stage": "loss"}, "choose one of: gradient, update"),
    ],
)
def test_wrong_settings_say_what_is_right(settings, words):
    with pytest.raises(ValueError, match=words):
        guided(a_model(), **settings)


def test_foreign_and_doubled_slots_are_refused():
    model, other = a_model(), a_model()
    with pytest.raises(ValueError, match="build both from one model"):
        GuidedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), scope_of(other))
    with pytest.raises(ValueError, match="a name of its own"):
        GuidedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), scope_of(model) * 2)
    with pytest.raises(ValueError, match="scope='all'"):
        GuidedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), [])
