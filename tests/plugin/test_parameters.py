"""Names for the tensors that fairseq hands to an optimizer, in every form it hands them."""

import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.plugin.parameters import match, published


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.fc = nn.Linear(4, 6)
        self.unused = nn.Linear(2, 2).requires_grad_(False)
        self.output_projection = nn.Linear(4, 5, bias=False)
        self.output_projection.weight = self.embed.weight


class Criterion(nn.Module):
    def __init__(self, shared: nn.Parameter) -> None:
        super().__init__()
        self.shared = shared
        self.head = nn.Linear(3, 2)


def trained(*modules):
    return [p for p in dict.fromkeys(p for m in modules for p in m.parameters()) if p.requires_grad]


def test_the_models_own_parameters_are_known_by_identity_in_any_order():
    model = Model()
    with published(model):
        slots = match(trained(model)[::-1], "all")
    assert [slot.name for slot in slots] == ["fc.bias", "fc.weight", "embed.weight"]
    assert slots[1].parameter is model.fc.weight


def test_copies_are_matched_by_order_and_shape():
    model = Model()
    copies = [nn.Parameter(p.detach().double()) for p in trained(model)]
    with published(model):
        (slot,) = match(copies, "linear")
    assert slot.name == "fc.weight" and slot.parameter is copies[1]


def test_a_flat_copy_is_matched_by_offset():
    model = Model()
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in trained(model)]))
    with published(model):
        (slot,) = match([flat], "linear")
    assert slot.name == "fc.weight" and slot.start == 20
    assert torch.equal(slot.weight, model.fc.weight)
    flat.grad = torch.arange(flat.numel()).float()
    slot.grad.zero_()
    assert flat.grad[20:44].eq(0).all() and flat.grad[19] == 19 and flat.grad[44] == 44


def test_a_criterions_parameters_follow_under_their_own_name():
    model = Model()
    criterion = Criterion(model.fc.weight)
    with published(model, criterion):
        slots = match(trained(model, criterion), "all")
    assert [slot.name for slot in slots][-2:] == ["criterion.head.weight", "criterion.head.bias"]
    assert len({slot.name for slot in slots}) == len(slots) == 5


def test_shards_are_refused_with_what_to_add():
    model = Model()
    with published(model), pytest.raises(RuntimeError, match="--fp16-no-flatten-grads"):
        match([nn.Parameter(torch.zeros(7))], "linear")


def test_without_a_trainer_the_error_says_how():
    with pytest.raises(RuntimeError, match="published\\(model\\)"):
        match(trained(Model()), "linear")
