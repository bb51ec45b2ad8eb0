"""Iterative pruning: prune a little, train on, prune again, with pruned weights at exactly zero all the while.

Which weights go is decided in `pruning.py`, how many in `schedules.py`. What is pruned takes no gradient and is put
back to zero after every step, whatever momentum or weight decay did to it. Left out on purpose: the term
that keeps the pruned network near a reference (`losses.py`).
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import kernels_c
from .gates import Gates
from .penalties import quadratic_penalty
from .pruning import METHODS, Layer, scores_of, select
from .schedules import PRUNE_SCHEDULES, pruning_steps, sparsity
from .scope import Slot
from .snapshot import pack_bits, unpack_bits
from .wrapped import choice

logger = logging.getLogger(__name__)

# Strength of the penalty that a method's training adds to the loss, where the user names none.
PENALTIES = {"": 0.0, "l2": 1e-4, "l0": 1.0}


class IterativePruning:
    """Prunes the weights in `slots` step by step while an optimizer trains them.

    method: a key of `pruning.METHODS`. amount, target, schedule: how much is pruned after each step
    (`schedules.sparsity`). interval: a pruning step is made every so many of what `elapsed` counts, by default updates.
    seen: where forward and backward passes work on copies of the weights, the slots of these copies.
    strength, gate_lr: of the penalty of `l0` and `l2`, and of Adam on the gates of `l0`. pruned: called after each
    pruning step.

    In a loop of one's own, with `pruning.attach(optimizer)` once:

        pruning.begin_update()
        (loss + pruning.penalty()).backward()
        pruning.mask_gradients()
        optimizer.step()
    """

    def __init__(
        self,
        slots: Iterable[Slot],
        method: str = "magnitude",
        *,
        interval: int,
        amount: float = 0.1,
        target: float = 0.7,
        schedule: str = "uniform",
        seed: int = 1,
        strength: float | None = None,
        gate_lr: float = 0.01,
        elapsed: Callable[[], int] | None = None,
        seen: Iterable[Slot] | None = None,
        pruned: Callable[[], None] = lambda: None,
    ) -> None:
        self.slots = list(slots)
        self.seen = self.slots if seen is None else list(seen)
        self.method = METHODS[choice("pruning method", method, METHODS)]
        choice("pruning schedule", schedule, PRUNE_SCHEDULES)
        if interval < 1 or not 0 < amount < 1 or not 0 < target < 1:
            raise ValueError(
                f"interval {interval}, amount {amount}, target {target}: give >= 1, and fractions in (0, 1)"
            )
        self.interval, self.amount, self.target, self.schedule, self.seed = interval, amount, target, schedule, seed
        self.strength = PENALTIES[self.method.penalty] if strength is None else strength
        self.masks: dict[str, Tensor] = {}
        self.steps = 0  # pruning steps that were made
        self.updates = 0  # optimizer steps that were made
        self.sparsity = 0.0
        self._elapsed = elapsed or (lambda: self.updates)
        self._pruned = pruned
        self._scores: dict[str, Tensor] = {}
        self._gates = (
            Gates(self.slots, self.seen, self.strength, gate_lr, seed) if self.method.penalty == "l0" else None
        )

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Prune in the steps of `optimizer`, which holds the weights in `slots`."""
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    @property
    def held(self) -> list[Tensor]:
        """What it keeps in memory."""
        return [*self.masks.values(), *(self._gates.held if self._gates is not None else ())]

    # One update, in the order of these.

    def begin_update(self) -> None:
        """Before the forward passes of an update."""
        if self._gates is not None:
            self._gates.open(self.masks, self.updates + 1)

    def penalty(self) -> Tensor:
        """What the method adds to the loss."""
        if self._gates is not None:
            return self._gates.penalty
        if self.method.penalty == "l2":
            terms = [
                quadratic_penalty(seen.parameter, None, None, slot.weight)
                for seen, slot in zip(self.seen, self.slots, strict=True)
            ]
            return 2 * self.strength * torch.stack(terms).sum()
        return torch.zeros(())

    def mask_gradients(self) -> None:
        """After the backward passes: the gradient of the pruned network, which is zero at what is pruned."""
        if self.masks:
            _mask_((grad, self.masks[slot.name]) for slot in self.seen if (grad := slot.grad) is not None)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
        self.updates += 1
        # Before the step: an optimizer may change gradients in place, and this is where they were measured.
        if self.method.needs == "gradient" and self._due() > self.steps:
            self._scores = self._measured()
        if self._gates is not None:  # a fused half-precision optimizer gets its gradients unscaled only inside its step
            self._gates.before_step(self.updates, kwargs.get("scale", 1.0))

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
        if (due := self._due()) > self.steps:
            self._prune(due)
        if self._gates is not None:
            self._gates.after_step(self.masks)
        elif self.masks:
            _mask_((slot.weight, self.masks[slot.name]) for slot in self.slots)

    def settle(self) -> None:
        """Whatever became of the last update: the weights are the pruned network, for validation and checkpoints."""
        if self._gates is not None:
            self._gates.close(self.masks)

    # A pruning step.

    def _due(self) -> int:
        """How many pruning steps should be made by now."""
        return min(self._elapsed() // self.interval, self._last_step)

    @property
    def _last_step(self) -> int:
        return pruning_steps(self.amount, self.target, self.schedule)

    def _measured(self) -> dict[str, Tensor]:
        gates = self._gates.log_alpha if self._gates is not None else {}
        layers = [Layer(slot.name, slot.weight, slot.grad, gates.get(slot.name)) for slot in self.slots]
        return scores_of(self.method, layers, self.seed, self.steps)

    def _prune(self, due: int) -> None:
        begun = time.perf_counter()
        goal = sparsity(due, self.amount, self.target, self.schedule)
        self.masks = select(self.method, self._scores or self._measured(), goal, self.masks or None)
        self._scores = {}
        self.steps = due
        pruned, count = self._count()
        logger.info(
            "pruning step %d of %d (%s): %s of %s weights are zero (%.2f %%), in %.2f s",
            due, self._last_step, self.method.name,
            f"{pruned:,}", f"{count:,}", 100 * pruned / count, time.perf_counter() - begun,
        )  # fmt: skip
        self._pruned()

    def _count(self) -> tuple[int, int]:
        """How many weights are pruned, of how many."""
        count = sum(map(len, self.slots))
        pruned = count - sum(int(mask.sum()) for mask in self.masks.values()) if self.masks else 0
        self.sparsity = pruned / count
        return pruned, count

    # State.

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        self.settle()
        own: dict[str, Any] = {"method": self.method.name, "steps": self.steps, "updates": self.updates}
        own["masks"] = {name: pack_bits(mask) for name, mask in self.masks.items()}
        return own if self._gates is None else {**own, "gates": self._gates.state()}

    def load_state(self, own: dict[str, Any]) -> None:
        """Take it back; refused when another method made it."""
        if own["method"] != self.method.name:
            raise ValueError(
                f"this state is of pruning by {own['method']!r}, but this run prunes by {self.method.name!r}"
            )
        self.steps, self.updates = int(own["steps"]), int(own["updates"])
        self._load_masks(own["masks"])
        if self._gates is not None:
            self._gates.load_state(own["gates"])

    def keep_masks(self, own: dict[str, Any]) -> None:
        """Take the masks of a state by any method, and begin the schedule after the steps that they cover."""
        self._load_masks(own["masks"])
        rounding = len(self.slots) / sum(map(len, self.slots))  # at most half a weight in each layer
        goals = [sparsity(step, self.amount, self.target, self.schedule) for step in range(1, self._last_step + 1)]
        self.steps = sum(goal <= self.sparsity + rounding for goal in goals)

    def _load_masks(self, packed: Mapping[str, Tensor]) -> None:
        self.masks = {
            slot.name: unpack_bits(packed[slot.name], slot.shape).to(slot.parameter.device)
            for slot in self.slots
            if packed
        }
        self._count()


def _mask_(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """tensor *= mask for each pair, by the C kernel where it can read the tensors."""
    pairs = list(pairs)
    if kernels_c.ready((tensor, tensor) for tensor, _ in pairs):
        kernels_c.mask_(pairs)
    else:
        for tensor, mask in pairs:
            tensor.mul_(mask)
