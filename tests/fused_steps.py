"""Adam with every way to guide it, a few updates long: what the tests of the fast steps share."""

import torch
from fairseq.optim.adam import Adam as FairseqAdam
from guided_rows import ROWS, some_fisher
from torch import nn

import weighted_freezing_fairseq.plugin  # noqa: F401  (registers the formula of fairseq's Adam)
from weighted_freezing_fairseq.core.scope import Slot

BASES = {"fairseq": FairseqAdam, "adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
# Row, its settings: each way in which a kernel guides, and each way in which it is told about scores.
GUIDES = {
    "weighted_freeze (important)": [
        {},
        {"stage": "update"},
        {"importance": "fisher", "norm": "global"},
        {"importance": "loss-preserving", "stage": "update", "start": 3},
    ],
    "weighted_freeze (printed)": [{}, {"importance": "loss-preserving", "stage": "update"}],
    "weighted_freeze (smooth)": [{}, {"norm": "global", "stage": "update"}],
    "weighted_freeze (random)": [{}, {"norm": "global", "stage": "update"}, {"keep": 0.3}],
    "sage (full)": [{}, {"state_dtype": torch.bfloat16}, {"eps": 1e-4, "start": 3}],
    "sage (li)": [{}],
    "sage (light)": [{}, {"norm": "global"}],
    "fish_mask": [{"density": 0.1, "observe": 1}, {"density": 0.7, "source": "random"}],
    "lfr_cm": [{"quantile": 0.25}, {"quantile": 0.75}],
}
CASES = [(row, settings) for row, several in GUIDES.items() for settings in several]
SIZES = [(1,), (7,), (33, 31), (1024,), (1025,), (40, 50), (3,)]
UPDATES = 4


def trained(base, row, settings, decay=0.1, special=True, device="cpu"):
    """Weights, gradients, averages and the base's state after a few updates; an odd length is cut, as long ones are."""
    generator = torch.Generator().manual_seed(1)
    parameters = [nn.Parameter((torch.randn(size, generator=generator) * 0.1).to(device)) for size in SIZES]
    # Two slots lie in it, with gaps around.
    flat = nn.Parameter((torch.randn(5000, generator=generator) * 0.1).to(device))
    first = {"params": parameters[:3], "lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": 0.0}
    second = {"params": [*parameters[3:], flat], "lr": 0.001, "betas": (0.9, 0.98)}
    slots = [Slot(str(index), p, p.shape) for index, p in enumerate(parameters[:-1])]
    slots += [Slot("late", flat, torch.Size((30, 20)), 4200), Slot("early", flat, torch.Size((2000,)), 100)]
    cls, _, _ = ROWS[row]
    method, _, variant = row.partition(" ")
    settings = {**settings, **({"variant": variant.strip("()")} if variant else {})}
    if method == "lfr_cm":
        settings["source"] = some_fisher(slots)
    optimizer = cls(BASES[base]([first, second], weight_decay=decay), slots, method, **settings)
    for update in range(UPDATES):
        for p in (*parameters, flat):
            scale = torch.randn(p.shape, generator=generator).exp() * 1e-3
            p.grad = (torch.randn(p.shape, generator=generator) * scale).to(device)
        parameters[4].grad = None if update == 2 else parameters[4].grad
        parameters[3].grad[100:300] = 0
        if special and update == 3:
            parameters[2].grad[3, 1:3] = torch.tensor([torch.nan, torch.inf])
        optimizer.step()
    return optimizer, [*parameters, flat]


def assert_same_bits(one, other, gradients=True):
    """Of two results of `trained`; gradients differ where one of them was masked in place."""
    (mine, weights), (its, others) = one, other
    for a, b in zip(weights, others, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=0, equal_nan=True)
        assert (a.grad is None) == (b.grad is None)
        if gradients and a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0, equal_nan=True)
    left, right = mine.state_dict(), its.state_dict()
    assert left["state"].keys() == right["state"].keys()
    for index, entry in right["state"].items():
        assert {k: type(v) for k, v in left["state"][index].items()} == {k: type(v) for k, v in entry.items()}
    own, its_own = left.pop("guided"), right.pop("guided")
    assert own.keys() == its_own.keys() and own["updates"] == its_own["updates"]
    for key in {"averages", "masks"} & own.keys():
        torch.testing.assert_close(own[key], its_own[key], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(left["state"], right["state"], rtol=0, atol=0, equal_nan=True)
