"""Every optimizer row around every base, on a tiny model: what the tests of the core share."""

import inspect

import torch
from torch import nn

from weighted_freezing_fairseq.core.fixed import FixedMaskOptimizer
from weighted_freezing_fairseq.core.optimizers import class_of
from weighted_freezing_fairseq.core.rules import rows
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


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def some_fisher(slots: list[Slot]) -> dict[str, torch.Tensor]:
    """Fisher information as a file would give it: the same numbers in every process."""
    generator = torch.Generator().manual_seed(11)
    return {slot.name: torch.rand(slot.shape, generator=generator) for slot in slots}


def no_fisher(slots: list[Slot]) -> dict[str, torch.Tensor]:
    """Fisher information by which no number mattered."""
    return {slot.name: torch.zeros(slot.shape) for slot in slots}


# What must be given. A function is called with the slots.
_USUAL: dict[str, dict] = {"spg": {"fisher": some_fisher}, "lfr_cm": {"quantile": 0.6, "source": some_fisher}}
_USUAL |= {"fish_mask": {"density": 0.2, "observe": 2}}
_USUAL |= dict.fromkeys(("mofo", "gmt"), {"fraction": 0.3})
_USUAL |= {"lisa": {"layers": 1, "period": 3, "layer_pattern": r"\w+"}}  # a state after 3 updates is at the border
_USUAL |= {f"magma ({variant})": {"fraction": 0.8} for variant in ("aligned", "skip_update")}
# Settings that leave training as it is, where another start is not asked for.
_NEUTRAL = {"weighted_freeze (random)": {"keep": 1.0}, **dict.fromkeys(("mofo", "gmt"), {"fraction": 1.0})}
_NEUTRAL |= {"spg": {"fisher": no_fisher}, "lisa": {"layers": 2, "period": 3, "layer_pattern": r"\w+"}}
_NEUTRAL |= {"magma (skip_update)": {"fraction": 1.0}, "magma (aligned)": {"fraction": 1.0, "start": 10**9}}
_NEUTRAL |= {f"sage ({variant})": {"eps": 1e30} for variant in ("full", "li", "light")}
_NEUTRAL |= {"fish_mask": {"density": 1.0, "source": "magnitude"}, "lfr_cm": {"quantile": 1.0, "source": some_fisher}}
# Row -> class, ordinary settings, settings that leave training as it is.
ROWS = {
    row.label: (class_of(row), _USUAL.get(row.label, {}), _NEUTRAL.get(row.label, {"start": 10**9}))
    for row in rows()
    if row.kind == "optimizer"
}
TABLE = {row.label: row for row in rows()}
WITHOUT_MOMENTUM = ("sgd", "adagrad", "adadelta", "rmsprop")
PAIRS = [
    (row, base)
    for row in ROWS
    for base in BASES
    if not ("momentum" in TABLE[row].needs and base in WITHOUT_MOMENTUM)
    if not (row == "lisa" and base == "adagrad")
]
STAGED = [(row, stage) for row in ROWS for stage in ROWS[row][0].stages]


def taken(row: str, **settings) -> dict:
    """Those of the settings that the class of the row has."""
    return {name: value for name, value in settings.items() if name in inspect.signature(ROWS[row][0]).parameters}


def guided(row: str, params, slots: list[Slot], base="adam", neutral=False, **settings):
    """The optimizer of one row around one base."""
    cls, usual, without_effect = ROWS[row]
    method, _, variant = row.partition(" ")
    if neutral:
        usual = {**without_effect, "base_fused": False}
    settings = {name: value(slots) if callable(value) else value for name, value in {**usual, **settings}.items()}
    if variant:
        settings["variant"] = variant.strip("()")
    optimizer = BASES[base](params)
    if row == "cautious_decay" and not neutral:
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.1
    return cls(optimizer, slots, method, **settings)


def guided_model(row: str, model: nn.Module, base="adam", neutral=False, **settings):
    """The same for a whole model: linear matrices, or every parameter where the mask is to cover all."""
    scope = "all" if ROWS[row][0] is FixedMaskOptimizer else "linear"
    return guided(row, model.parameters(), scope_of(model, scope), base, neutral, **settings)
