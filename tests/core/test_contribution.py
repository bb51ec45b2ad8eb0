"""Contributions by group against a loop over every number, in every way that a weight may be held."""

import math

import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.core.contribution import measure, rows
from weighted_freezing_fairseq.core.parameter_groups import groups_of
from weighted_freezing_fairseq.core.scope import Slot, catalogue

GRADIENT_SCALE = 0.25


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.final_layer_norm = nn.Linear(6, 9), nn.Linear(9, 6), nn.LayerNorm(6)

    def forward(self, x):
        return self.final_layer_norm(x + self.fc2(self.fc1(x).relu()))


class Model(nn.Module):
    """Two layers, an embedding that is the output projection too, and a weight that the loss does not depend on."""

    def __init__(self):
        super().__init__()
        self.embed_tokens, self.unused = nn.Embedding(5, 6), nn.Linear(4, 4)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.output_projection = nn.Linear(6, 5, bias=False)
        self.output_projection.weight = self.embed_tokens.weight

    def forward(self, tokens):
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.output_projection(x)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(2)
    made = Model()
    tokens = torch.randint(5, (4, 7))
    nn.functional.cross_entropy(made(tokens).flatten(0, 1), tokens.flatten()).backward()
    return made


def by_hand(model, frozen):
    """Every figure that needs no order, number by number in float64."""
    found = {}
    for entry, parameter in catalogue(model):
        if parameter.grad is None:
            continue
        numbers = zip(parameter.double().flatten().tolist(), parameter.grad.double().flatten().tolist(), strict=True)
        numbers = [(theta, grad * GRADIENT_SCALE) for theta, grad in numbers]
        for group in groups_of(entry):
            found.setdefault(group, []).append((numbers, frozen.get(entry.name, 0)))
    table = {}
    for group, parts in found.items():
        numbers = [pair for part, _ in parts for pair in part]
        scores = [abs(theta * grad) for theta, grad in numbers]
        mean = math.fsum(scores) / len(scores)
        table[group] = {
            "parameters": len(scores),
            "mean": mean,
            "std": math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores)),
            "weight_norm": math.sqrt(math.fsum(theta**2 for theta, _ in numbers)),
            "gradient_norm": math.sqrt(math.fsum(grad**2 for _, grad in numbers)),
            "frozen": sum(count for _, count in parts) / len(scores),
        }
    return table


def as_it_is(model):
    return [(entry, Slot(entry.name, p, p.shape)) for entry, p in catalogue(model)]


def flat(model):
    """As slices of one float32 tensor, which fairseq's --fp16 makes of them."""
    entries = catalogue(model)
    whole = torch.cat([p.detach().flatten() for _, p in entries])
    whole.grad = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for _, p in entries])
    slots, start = [], 0
    for entry, parameter in entries:
        if parameter.grad is not None:
            slots.append((entry, Slot(entry.name, whole, entry.shape, start)))
        start += parameter.numel()
    return slots


def transposed(model):
    """A matrix that is not contiguous cannot be cut into blocks."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            gradient = module.weight.grad
            module.weight = nn.Parameter(module.weight.detach().t().contiguous().t())
            module.weight.grad = gradient
    model.embed_tokens.weight = model.output_projection.weight
    return as_it_is(model)


def assert_equal(found, wanted, tolerance=1e-6):
    assert {(row["by"], row["group"]) for row in found} == wanted.keys()
    for row in found:
        for name, value in wanted[row["by"], row["group"]].items():
            assert row[name] == pytest.approx(value, rel=tolerance), (row["group"], name)


@pytest.mark.parametrize("held", [as_it_is, flat, transposed])
def test_figures_of_every_group_are_those_of_a_loop(model, held):
    frozen = {"layers.0.fc1.weight": 7.0, "layers.1.fc1.weight": 54.0, "embed_tokens.weight": 1.0}
    wanted = by_hand(model, frozen)
    found = rows(measure(held(model), GRADIENT_SCALE), frozen)
    assert_equal(found, wanted)
    assert [row["group"] for row in found] == [
        "all", "embedding", "fc1", "bias", "fc2", "norm", "layers.0", "layers.1"
    ]  # fmt: skip
    assert found[0]["parameters"] == 5 * 6 + 2 * (6 * 9 + 9 + 9 * 6 + 6 + 2 * 6)  # tied once, unused not at all


@pytest.mark.parametrize("column", ["mean", "std", "weight_norm", "gradient_norm", "frozen"])
def test_an_error_of_a_tenth_of_a_percent_is_found(model, column):
    wanted = by_hand(model, {"layers.0.fc1.weight": 7.0})
    found = rows(measure(as_it_is(model), GRADIENT_SCALE), {"layers.0.fc1.weight": 7.0})
    found[2][column] *= 1.001
    with pytest.raises(AssertionError, match=column):
        assert_equal(found, wanted)


def test_half_precision_is_measured_in_float32(model):
    wanted = rows(measure(as_it_is(model)))
    for parameter in model.parameters():
        gradient = parameter.grad
        parameter.grad, parameter.data = None, parameter.data.half()
        parameter.grad = None if gradient is None else (gradient * 2**-10).half()
    # |theta * grad| would be below the smallest float16 for many of them.
    found = rows(measure(as_it_is(model), 2.0**10))
    for row, other in zip(found, wanted, strict=True):
        assert row["mean"] == pytest.approx(other["mean"], rel=2e-2) and row["gini"] == pytest.approx(
            other["gini"], abs=1e-2
        )


def test_neither_gradients_nor_weights_nor_random_numbers_are_touched(model):
    before = [(p.detach().clone(), p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    state = torch.get_rng_state()
    rows(measure(as_it_is(model)))
    assert torch.equal(state, torch.get_rng_state())
    for parameter, (weight, grad, value) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, weight) and parameter.grad is grad
        assert grad is None or torch.equal(grad, value)


def test_where_nothing_flows_ratios_have_no_value(model):
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    row = rows(measure(as_it_is(model)))[0]
    assert row["mean"] == row["std"] == row["gradient_norm"] == 0
    assert (
        row["std_over_mean"] is row["gini"] is row["share_top20"] is row["top20_over_bottom80"] is row["frozen"] is None
    )


def test_a_gradient_that_overflowed_is_refused(model):
    model.layers[0].fc1.weight.grad[0, 0] = math.inf
    with pytest.raises(ValueError, match="finite and not negative"):
        rows(measure(as_it_is(model)))
