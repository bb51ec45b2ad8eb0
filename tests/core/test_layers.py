"""Layers that are drawn: what LISA does, update by update."""

import copy
import re

import pytest
import torch
from guided_rows import BASES, same, train
from torch import nn

from weighted_freezing_fairseq.core.layers import LAYER_PATTERN, DrawnLayersOptimizer
from weighted_freezing_fairseq.core.masks import stream_key
from weighted_freezing_fairseq.core.scope import Slot, scope_of


class Stack(nn.Module):
    """An embedding, four layers of the same size, and an output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Linear(6, 8)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(8, 8) for _ in range(2))})
        self.decoder = nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(8, 8) for _ in range(2))})
        self.output = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embedding(x)
        for layer in (*self.encoder["layers"], *self.decoder["layers"]):
            x = layer(x).tanh()
        return self.output(x)


LAYERS = ["encoder.layers.0", "encoder.layers.1", "decoder.layers.0", "decoder.layers.1"]


def lisa(model, base="adamw", **settings):
    return DrawnLayersOptimizer(BASES[base](model.parameters()), scope_of(model, "all"), **settings)


def layer_of(name):
    return next((layer for layer in LAYERS if name.startswith(layer + ".")), "")


def test_lisa_takes_a_step_by_hand():
    """SGD with rate 0.1, momentum 0.5 and decay 0; gradients of 1; one of two layers is drawn, for two updates.

    The layer that is drawn first: 1 - 0.1 * 1 = 0.9, then its momentum is 0.5 * 1 + 1 = 1.5, and 0.9 - 0.15 = 0.75. The
    head is always trained: 0.9, 0.75, and with the momentum 0.5 * 1.5 + 1 = 1.75 then 0.75 - 0.175 = 0.575. The layer
    that is drawn next has 1 until then, and starts without momentum: 1 - 0.1 = 0.9.
    """
    seed = next(s for s in range(99) if [drawn_first(s, period) for period in (0, 1)] == ["layers.0", "layers.1"])
    weights = {name: nn.Parameter(torch.ones(1)) for name in ("layers.0.weight", "layers.1.weight", "head")}
    slots = [Slot(name, p, p.shape) for name, p in weights.items()]
    base = torch.optim.SGD(weights.values(), lr=0.1, momentum=0.5)
    optimizer = DrawnLayersOptimizer(base, slots, layers=1, period=2, seed=seed)
    seen = []
    for _ in range(3):
        for p in weights.values():
            p.grad = torch.ones(1)
        optimizer.step()
        seen.append([p.item() for p in weights.values()])
    assert seen == [
        pytest.approx([0.9, 1.0, 0.9]),
        pytest.approx([0.75, 1.0, 0.75]),
        pytest.approx([0.75, 0.9, 0.575]),
    ]
    assert optimizer.drawn_layers == {"layers.1"}


def drawn_first(seed, period):
    return min(("layers.0", "layers.1"), key=lambda layer: stream_key(seed, period, layer))


@pytest.mark.parametrize("base", [base for base in BASES if base != "adagrad"])
def test_layers_that_are_not_drawn_stay_as_they_are_and_have_no_state(base):
    model = Stack()
    optimizer = lisa(model, base, layers=2, period=3)
    drawn = []
    for update in range(9):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train(model, optimizer, 1, first=update)
        drawn.append(optimizer.drawn_layers)
        assert len(drawn[-1]) == 2 and drawn[-1] <= set(LAYERS)
        for name, p in model.named_parameters():
            trained = layer_of(name) in drawn[-1] | {""}
            assert torch.equal(p, before[name]) != trained
            assert trained or p not in optimizer.base.state
    assert drawn[0] == drawn[1] == drawn[2] and drawn[3] == drawn[4] == drawn[5] and len(set(drawn)) > 1


@pytest.mark.parametrize("fused", [True, False])
def test_a_layer_that_is_drawn_again_starts_afresh_and_the_rest_does_not(fused):
    model = Stack()
    optimizer = lisa(model, "adam", layers=1, period=2, base_fused=fused)
    entered, returned = {}, set()
    for update in range(1, 25):
        previous = optimizer.drawn_layers
        train(model, optimizer, 1, first=update)
        returned |= (optimizer.drawn_layers - previous) & entered.keys()
        entered |= dict.fromkeys(optimizer.drawn_layers - previous, update)
        for name, p in model.named_parameters():
            layer = layer_of(name)
            if layer in optimizer.drawn_layers or not layer:
                steps = update - entered[layer] + 1 if layer else update
                assert float(optimizer.base.state[p]["step"]) == steps
    assert returned


def test_the_state_of_the_base_is_as_large_as_what_moves():
    sizes = {}
    for layers in (1, 2, 4):
        model = Stack()
        optimizer = lisa(model, layers=layers, period=2)
        held = []
        for update in range(8):
            train(model, optimizer, 1, first=update)
            moments = [state[key] for state in optimizer.base.state.values() for key in ("exp_avg", "exp_avg_sq")]
            held.append(sum(moment.numel() * moment.element_size() for moment in moments))
        assert len(set(held)) == 1 and optimizer.extra_bytes == 0
        sizes[layers] = held[0]
    outside, layer = (6 * 8 + 8) + (8 * 3 + 3), 8 * 8 + 8  # numbers; a moment of a number has 4 bytes
    assert sizes == {layers: 2 * 4 * (outside + layers * layer) for layers in (1, 2, 4)}


@pytest.mark.parametrize("start", [1, 4])
def test_all_layers_are_the_base_to_the_bit_and_before_start_all_are_drawn(start):
    plain, model = Stack(), Stack()
    optimizer = lisa(model, layers=4 if start == 1 else 1, start=start, base_fused=False)
    assert same(train(model, optimizer, 3), train(plain, BASES["adamw"](plain.parameters()), 3))
    train(model, optimizer, 1, first=3)
    assert len(optimizer.drawn_layers) == (4 if start == 1 else 1)


@pytest.mark.parametrize("updates", [1, 3, 4, 6])  # in the middle of a period, and at its end
def test_layers_are_those_of_seed_and_period_after_a_resume_too(updates):
    model = Stack()
    optimizer = lisa(model, layers=2, period=3, seed=5)
    train(model, optimizer, updates)
    resumed_model = Stack()
    resumed_model.load_state_dict(model.state_dict())
    resumed = lisa(resumed_model, layers=2, period=3, seed=5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for update in range(updates, 9):
        assert same(train(model, optimizer, 1, first=update), train(resumed_model, resumed, 1, first=update))
        assert resumed.drawn_layers == optimizer.drawn_layers
    others = lisa(Stack(), layers=2, period=3, seed=6)
    others.updates = 8
    others.step()
    assert others.drawn_layers != optimizer.drawn_layers


def test_every_layer_is_drawn_equally_often():
    model = Stack()
    optimizer = lisa(model, "sgd", layers=2, period=1)
    counts = dict.fromkeys(LAYERS, 0)
    for _ in range(1000):
        optimizer.step()
        for layer in optimizer.drawn_layers:
            counts[layer] += 1
    assert all(count == pytest.approx(500, abs=48) for count in counts.values())  # 3 sigma


def test_lisa_refuses_what_it_cannot_leave_out():
    flat = nn.Parameter(torch.ones(5))
    slots = [Slot("layers.0.weight", flat, torch.Size([3]), 0), Slot("layers.1.weight", flat, torch.Size([2]), 3)]
    with pytest.raises(ValueError, match="each weight as a parameter of its own, and layers.0.weight is a part of one"):
        DrawnLayersOptimizer(torch.optim.SGD([flat], lr=0.1), slots, layers=1)
    with pytest.raises(ValueError, match="Adagrad makes its state only once; choose another base, such as Adam"):
        lisa(Stack(), "adagrad", layers=1)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.layers.11.fc1.weight", "encoder.layers.11"),
        ("w2v_encoder.w2v_model.encoder.layers.0.fc1.bias", "w2v_encoder.w2v_model.encoder.layers.0"),
        ("transformer.h.3.attn.c_attn.weight", "transformer.h.3"),
        ("bert.encoder.layer.2.output.dense.weight", "bert.encoder.layer.2"),
        ("encoder.block.1.layer.0.SelfAttention.q.weight", "encoder.block.1"),
        ("encoder.embed_tokens.embeddings.0.0.weight", None),
        ("decoder.adaptive_softmax.tail.1.0.weight", None),
        ("feature_extractor.conv_layers.0.0.weight", None),
        ("encoder.layer_norm.weight", None),
    ],
)
def test_layers_of_common_models_are_recognised_by_name(name, layer):
    found = re.match(LAYER_PATTERN, name)
    assert (found and found[0]) == layer
