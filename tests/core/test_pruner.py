"""Iterative pruning in a plain loop: exact zeros at the scheduled sparsity, whatever the optimizer does to them."""

import copy

import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.core.guided import GuidedOptimizer
from weighted_freezing_fairseq.core.pruner import IterativePruning
from weighted_freezing_fairseq.core.pruning import METHODS
from weighted_freezing_fairseq.core.schedules import PRUNE_SCHEDULES, pruning_steps, sparsity
from weighted_freezing_fairseq.core.scope import Slot, scope_of

OPTIMIZERS = {
    "sgd with momentum and decay": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adam, coupled decay": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adafactor-like": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 24), nn.Linear(24, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x + self.fc2(self.fc1(x).relu()))


def a_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(Block(), Block(), nn.Linear(8, 3))


def train(model, optimizer, pruning, updates, first=0):
    generator = torch.Generator().manual_seed(7)
    batches = torch.randn(first + updates, 16, 8, generator=generator)
    for x in batches[first:]:
        optimizer.zero_grad()
        pruning.begin_update()
        loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)) + pruning.penalty()
        loss.backward()
        pruning.mask_gradients()
        optimizer.step()
    return loss.item()


def made(method="magnitude", optimizer="adamw", **settings):
    model = a_model()
    base = OPTIMIZERS[optimizer](model.parameters())
    settings = {"interval": 5, "amount": 0.2, "target": 0.7, **settings}
    pruning = IterativePruning(scope_of(model), method, model=model, **settings)
    pruning.attach(base)
    return model, base, pruning


def target_of(method: str, sparsity: float, slots) -> int:
    """How many weights are pruned at this sparsity: a share of all, of each layer or of each row."""
    if METHODS[method].compared == "network":
        return round(sparsity * sum(map(len, slots)))
    if METHODS[method].compared == "layer":
        return sum(round(sparsity * len(slot)) for slot in slots)
    return sum(slot.shape[0] * round(sparsity * slot.shape[1]) for slot in slots)


def zeros(model) -> dict[str, int]:
    return {slot.name: int((slot.weight == 0).sum()) for slot in scope_of(model)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_layer_has_exactly_the_scheduled_zeros_and_keeps_them(optimizer):
    model, base, pruning = made(optimizer=optimizer)
    sizes = {slot.name: len(slot) for slot in pruning.slots}
    for update in range(1, 31):
        train(model, base, pruning, 1)
        goal = sparsity(update // 5, 0.2, 0.7, "uniform")
        assert zeros(model) == {name: round(goal * size) for name, size in sizes.items()}, update
    pruned = {name: mask.clone() for name, mask in pruning.masks.items()}
    train(model, base, pruning, 200)
    assert all(torch.equal(slot.weight == 0, ~pruned[slot.name]) for slot in pruning.slots)
    others = [p for name, p in model.named_parameters() if name not in pruned]
    assert len(others) == 9 and all((p != 0).any() for p in others)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", PRUNE_SCHEDULES)
def test_every_method_reaches_the_target_and_goes_on_learning(method, schedule):
    model, base, pruning = made(method, schedule=schedule)
    first = train(model, base, pruning, 5)
    train(model, base, pruning, 95)
    count = sum(len(slot) for slot in pruning.slots)
    exact = target_of(method, 0.7, pruning.slots)
    # A closed gate makes a zero of its own: l0 has at least as many.
    assert sum(zeros(model).values()) >= exact if method == "l0" else sum(zeros(model).values()) == exact
    assert sum(mask.numel() - int(mask.sum()) for mask in pruning.masks.values()) == exact
    assert pruning.sparsity == exact / count and pruning.steps == pruning_steps(0.2, 0.7, schedule)
    last = train(model, base, pruning, 60)
    assert last < first


def test_the_gradient_is_that_of_the_pruned_network():
    model, base, pruning = made()
    train(model, base, pruning, 5)
    x = torch.randn(4, 8)
    base.zero_grad()
    model(x).square().sum().backward()
    whole = {slot.name: slot.grad.clone() for slot in pruning.slots}
    pruning.mask_gradients()
    for slot in pruning.slots:
        mask = pruning.masks[slot.name]
        assert torch.equal(slot.grad[mask], whole[slot.name][mask]) and not slot.grad[~mask].any()
        assert whole[slot.name][~mask].any()


def test_nothing_is_touched_before_the_first_pruning_step():
    plain = a_model()
    optimizer = OPTIMIZERS["adamw"](plain.parameters())
    generator = torch.Generator().manual_seed(7)
    for x in torch.randn(4, 16, 8, generator=generator):
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(x), x[:, :3].argmax(1)).backward()
        optimizer.step()
    model, base, pruning = made()
    train(model, base, pruning, 4)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert not pruning.kept_tensors


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("updates", [3, 5, 12])
def test_a_resumed_run_is_an_uninterrupted_one(method, updates, tmp_path):
    whole, base, pruning = made(method)
    train(whole, base, pruning, 25)
    first, base, pruning = made(method)
    train(first, base, pruning, updates)
    torch.save({"model": first.state_dict(), "optimizer": base.state_dict(), "own": pruning.state()}, tmp_path / "c.pt")
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    second = a_model()
    second.load_state_dict(saved["model"])
    base = OPTIMIZERS["adamw"](second.parameters())
    base.load_state_dict(saved["optimizer"])
    pruning = IterativePruning(scope_of(second), method, interval=5, amount=0.2, target=0.7, model=second)
    pruning.attach(base)
    pruning.load_state(copy.deepcopy(saved["own"]))
    train(second, base, pruning, 25 - updates, first=updates)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_scores_are_measured_before_an_optimizer_masks_the_gradient():
    """weighted_freeze zeroes the gradients of important weights, which are not the least sensitive for that."""
    masks = []
    for guided in (False, True):
        model = a_model()
        base = torch.optim.SGD(model.parameters(), lr=0.0)
        optimizer = GuidedOptimizer(base, scope_of(model), "weighted_freeze") if guided else base
        pruning = IterativePruning(scope_of(model), "sensitivity", interval=1, amount=0.5, target=0.5)
        pruning.attach(optimizer)
        train(model, optimizer, pruning, 1)
        masks.append(pruning.masks)
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_copies_that_the_passes_see_take_their_masks_too():
    """As under half precision: the optimizer has float32 copies."""
    model = a_model().bfloat16()
    slots = scope_of(model)
    copies = [Slot(s.name, nn.Parameter(s.weight.float()), s.shape) for s in slots]
    pruning = IterativePruning(copies, interval=1, amount=0.5, target=0.5, model_slots=slots)
    base = torch.optim.Adam([s.parameter for s in copies], lr=0.01)
    pruning.attach(base)
    for _ in range(3):
        model.zero_grad()
        model(torch.randn(4, 8, dtype=torch.bfloat16)).float().square().sum().backward()
        pruning.mask_gradients()
        for seen, own in zip(slots, copies, strict=True):
            if pruning.masks:
                assert not seen.grad[~pruning.masks[seen.name]].any()
            own.parameter.grad = seen.grad.float()
        base.step()
        for seen, own in zip(slots, copies, strict=True):
            seen.weight.copy_(own.weight)
            assert int((own.weight == 0).sum()) == len(own) // 2


def test_l2_adds_the_sum_of_squares_and_its_gradient():
    model, _, pruning = made("l2", strength=0.3)
    pruning.penalty().backward()
    for slot in pruning.slots:
        torch.testing.assert_close(slot.grad, 0.6 * slot.weight)
    expected = 0.3 * sum(slot.weight.square().sum() for slot in pruning.slots)
    torch.testing.assert_close(pruning.penalty(), expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "magnitud"}, "choose one of: random, random_global, magnitude"),
        ({"schedule": "linear"}, "choose one of: uniform, geometric, cubic"),
        ({"interval": 0}, "at least 1, .* got interval=0"),
        ({"amount": 1.0}, "between 0 and 1, .* amount=1.0, .*; give interval=100"),
        ({"target": 0.0}, "between 0 and 1, .* target=0.0"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        IterativePruning(scope_of(a_model()), **{"interval": 5, **settings})


def test_a_state_of_another_method_is_refused():
    _, _, pruning = made()
    _, _, other = made("lamp")
    with pytest.raises(ValueError, match="pruning by 'magnitude', but this run prunes by 'lamp'"):
        other.load_state(pruning.state())


# Inputs of layers, for wanda ----------------------------------------------------------------------------------------


def test_the_inputs_are_those_of_all_passes_of_the_update_of_the_step():
    """Two linear layers, by hand: inputs (3, 1) and (4, 2) have norms 5 and sqrt 5 over both passes."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
        model[1].weight.copy_(torch.tensor([[1.0, 0.1]]))
    base = torch.optim.SGD(model.parameters(), lr=0.0)
    pruning = IterativePruning(scope_of(model), "wanda", interval=2, amount=0.5, target=0.5, model=model)
    pruning.attach(base)
    for x in ([[100.0, 100.0]], [[7.0, 7.0]]):  # the first update is not that of the step; a skipped one is forgotten
        pruning.begin_update()
        model(torch.tensor(x)).sum().backward()
        if pruning.updates == 0:
            base.step()
    pruning.begin_update()
    for x in ([[3.0, 1.0]], [[4.0, 2.0]]):
        model(torch.tensor(x)).sum().backward()
    norms = pruning._inputs.norms()
    torch.testing.assert_close(norms["0.weight"], torch.tensor([5.0, 5.0**0.5]))
    # The second layer gets (3 - 2, 1.5 + 3) and (4 - 4, 2 + 6).
    torch.testing.assert_close(norms["1.weight"], torch.tensor([1.0, (4.5**2 + 8**2) ** 0.5]))
    # 1 * 5 > 2 * sqrt 5 and 0.5 * 5 < 3 * sqrt 5; 1 * 1 > 0.1 * 9.18
    base.step()
    assert [mask.tolist() for mask in pruning.masks.values()] == [[[True, False], [False, True]], [[True, False]]]


def test_wanda_refuses_what_it_cannot_measure():
    with pytest.raises(ValueError, match="needs the inputs of the layers; give model=model"):
        IterativePruning(scope_of(a_model()), "wanda", interval=5)
    attention = nn.MultiheadAttention(8, 2)
    with pytest.raises(ValueError, match=r"needs the inputs of in_proj_weight, which is not the weight of a torch.nn"):
        IterativePruning(scope_of(attention), "wanda", interval=5, model=attention)
    # The output projection is a layer, whose weight nn.MultiheadAttention passes to a function.
    slots = [slot for slot in scope_of(attention) if slot.name == "out_proj.weight"]
    base = torch.optim.SGD(attention.parameters(), lr=0.1)
    pruning = IterativePruning(slots, "wanda", interval=1, model=attention)
    pruning.attach(base)
    with pytest.raises(ValueError, match="call it before the passes of every update"):
        base.step()
    pruning.begin_update()
    x = torch.randn(3, 1, 8)
    attention(x, x, x)[0].sum().backward()
    with pytest.raises(ValueError, match=r"inputs of out_proj.weight, but its layer was not called: "):
        base.step()
    assert not pruning.masks


@pytest.mark.parametrize("scale", [1.0, 128.0])
def test_platon_takes_a_gradient_without_the_scale_of_half_precision(scale):
    """A fused half-precision optimizer gets the scale of its gradients in `step`."""
    theta = nn.Parameter(torch.tensor([[2.0]]))
    pruning = IterativePruning([Slot("x", theta, theta.shape)], "platon", interval=9)
    theta.grad = torch.tensor([[3.0]]) * scale
    pruning._before_step(torch.optim.SGD([theta]), (), {"scale": scale})
    [averages] = pruning._averages.values()
    torch.testing.assert_close(averages.importance, torch.tensor([[0.15 * 6]]))
    assert len(pruning.kept_tensors) == 2


def test_masks_of_rows_begin_the_schedule_after_their_steps():
    """Rows of 8 lose round(0.2 * 8) = 2 weights in the first step, a quarter, and layers of other shapes a fifth."""
    model, base, pruning = made("wanda")
    train(model, base, pruning, 5)
    _, _, later = made("magnitude")
    later.keep_masks(pruning.state())
    assert later.sparsity == pruning.sparsity and later.steps == 1
