"""How much each part of a model contributes to one update: |theta * grad|, the norms, and the share that is frozen.

Summed up by type and layer (`parts.py`) from weights and gradients as they are held, a block at a time, with the
statistics of `balance.py`. Left out on purpose: means over many batches (`wff sensitivity`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .balance import Distribution, block_size
from .importance import loss_preserving
from .parameter_groups import Group, groups_of, in_order
from .scope import Entry, Slot, blocks
from .wrapped import gradient


class Contribution:
    """Of a group of weights in one update: their names, the distribution of |theta * grad|, the sums of squares.

    squares: of the weights, and of the gradients.
    """

    def __init__(self, device: torch.device) -> None:
        self.names: list[str] = []
        self.scores = Distribution(device)
        self.squares = torch.zeros(2, dtype=torch.float64, device=device)

    def count_(self, slot: Slot, scale: float | Tensor) -> None:
        """A weight too. In float32: half precision cannot hold the product of a weight and a gradient."""
        self.names.append(slot.name)
        weight = slot.weight
        for _, (theta, grad) in blocks(len(slot), block_size(weight), weight, gradient(slot)):
            theta, grad = theta.float(), grad.float() * scale
            self.scores.count_(loss_preserving(theta, grad))
            self.squares += torch.stack([torch.linalg.vector_norm(theta), torch.linalg.vector_norm(grad)]).double() ** 2

    def add_(self, other: "Contribution") -> None:
        """The weights of `other` too."""
        self.names += other.names
        self.scores.add_(other.scores)
        self.squares += other.squares.to(self.squares.device)

    def row(self, frozen: Mapping[str, float] | None) -> dict[str, Any]:
        """Its figures by the names of a table's columns; frozen: how many numbers of each weight, if that is known."""
        weight, grad = self.squares.sqrt().tolist()
        scores = self.scores.cpu()
        scores.refuse_wrong()
        share = None if frozen is None else sum(frozen.get(name, 0) for name in self.names) / scores.count
        balance = {name: value if math.isfinite(value) else None for name, value in scores.balance().items()}
        return {"parameters": scores.count, **balance, "weight_norm": weight, "gradient_norm": grad, "frozen": share}


@contextmanager
def one_thread() -> Iterator[None]:
    """Let this process compute in one thread for a while.

    Every step here is short: two threads would wait for each other thousands of times, up to 30 times as long on a
    machine that has other work. Filling bins takes one thread anyhow.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def measure(weights: Sequence[tuple[Entry, Slot]], scale: float | Tensor = 1.0) -> dict[Group, Contribution]:
    """The contributions of all groups of `weights`, those without gradient left out; nothing waits for a GPU.

    scale: what the gradients, as they are held, are still to be multiplied with.
    """
    alike: dict[tuple[Group, ...], list[Slot]] = {}
    for entry, slot in weights:
        if len(slot) and slot.grad is not None:
            alike.setdefault(tuple(groups_of(entry)), []).append(slot)
    found: dict[Group, Contribution] = {}
    for groups, slots in alike.items():
        # Summed up on their own first: thousands of bins are cheaper to add once than for every bias of a layer.
        own = Contribution(slots[0].parameter.device)
        for slot in slots:
            own.count_(slot, scale)
        for group in groups:
            found.setdefault(group, Contribution(slots[0].parameter.device)).add_(own)
    return {group: found[group] for group in in_order(found)}


@one_thread()
def rows(found: Mapping[Group, Contribution], frozen: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """One row a group; None where a ratio has no value."""
    return [{"by": by, "group": name, **contribution.row(frozen)} for (by, name), contribution in found.items()]
