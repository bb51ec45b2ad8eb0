"""How much each part of a model contributes to an update: |theta * grad|, norms, and the share that is frozen.

Weights and gradients are read a block at a time, and summed up by module type and by layer (`parameter_groups.py`) with
the statistics of `balance.py`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .balance import Distribution, counting_block_size
from .importance import loss_preserving
from .parameter_groups import Group, groups_of, in_order
from .scope import Entry, Slot, blocks
from .wrapped import gradient


class Contribution:
    """The contribution of a group of weights to an update.

    names: the weights. scores: the distribution of |theta * grad|. squares: the sum of squares of the weights, and that
    of the gradients.
    """

    def __init__(self, device: torch.device) -> None:
        self.names: list[str] = []
        self.scores = Distribution(device)
        self.squares = torch.zeros(2, dtype=torch.float64, device=device)

    def count_(self, slot: Slot, scale: float | Tensor) -> None:
        """Count a weight, in float32: products of weights and gradients underflow in half precision."""
        self.names.append(slot.name)
        weight = slot.weight
        for _, (theta, grad) in blocks(len(slot), counting_block_size(weight), weight, gradient(slot)):
            theta, grad = theta.float(), grad.float() * scale
            self.scores.count_(loss_preserving(theta, grad))
            self.squares += torch.stack([torch.linalg.vector_norm(theta), torch.linalg.vector_norm(grad)]).double() ** 2

    def add_(self, other: "Contribution") -> None:
        """Count the weights of `other`."""
        self.names += other.names
        self.scores.add_(other.scores)
        self.squares += other.squares.to(self.squares.device)

    def row(self, frozen: Mapping[str, float] | None) -> dict[str, Any]:
        """The row of a table. frozen: the count of frozen numbers in each weight; None if unknown."""
        weight_norm, gradient_norm = self.squares.sqrt().tolist()
        scores = self.scores.cpu()
        scores.check_valid()
        return {
            "parameters": scores.count,
            **{name: value if math.isfinite(value) else None for name, value in scores.balance().items()},
            "weight_norm": weight_norm,
            "gradient_norm": gradient_norm,
            "frozen": None if frozen is None else sum(frozen.get(name, 0) for name in self.names) / scores.count,
        }


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch in one thread.

    The steps here are short: on a busy machine, two threads take up to 30 times as long because they wait for each
    other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def measure(weights: Sequence[tuple[Entry, Slot]], scale: float | Tensor = 1.0) -> dict[Group, Contribution]:
    """The contributions of all groups of `weights` that have gradients, without synchronising with a GPU.

    scale: the factor by which gradients are still to be multiplied.
    """
    slots_by_groups: dict[tuple[Group, ...], list[Slot]] = {}
    for entry, slot in weights:
        if len(slot) and slot.grad is not None:
            slots_by_groups.setdefault(tuple(groups_of(entry)), []).append(slot)
    contributions: dict[Group, Contribution] = {}
    for groups, slots in slots_by_groups.items():
        # Counted first and then added to each group: adding histograms for every bias would be slow.
        subtotal = Contribution(slots[0].parameter.device)
        for slot in slots:
            subtotal.count_(slot, scale)
        for group in groups:
            contributions.setdefault(group, Contribution(slots[0].parameter.device)).add_(subtotal)
    return {group: contributions[group] for group in in_order(contributions)}


@one_thread()
def rows(
    contributions: Mapping[Group, Contribution], frozen: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """A row for each group; a ratio that is not finite is None."""
    return [{"by": by, "group": name, **contribution.row(frozen)} for (by, name), contribution in contributions.items()]
