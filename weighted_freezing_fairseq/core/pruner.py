"""Iterative pruning: prune a few weights, train on, prune again. Pruned weights stay exactly zero.

`pruning.py` decides which weights are pruned, `schedules.py` how many. Pruned weights get no gradient, and are set back
to zero after every step, because momentum and weight decay may move them.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import kernels_c
from .gates import Gates
from .input_norms import InputNorms
from .penalties import quadratic_penalty
from .pruning import METHODS, Averages, Layer, scores_of, select
from .schedules import PRUNE_SCHEDULES, pruning_steps, sparsity
from .scope import Slot
from .snapshot import pack_bits, unpack_bits
from .wrapped import choice

logger = logging.getLogger(__name__)

# Default strengths of the penalties.
PENALTIES = {"": 0.0, "l2": 1e-4, "l0": 1.0}


class IterativePruning:
    """Prunes the weights in `slots` step by step while an optimizer trains them.

    Call `attach` once, then in every update:

        pruning.begin_update()
        (loss + pruning.penalty()).backward()
        pruning.mask_gradients()
        optimizer.step()

    Args:
        slots: the weights that are pruned (`scope_of(model)`).
        method: the name of a pruning method, see the table in the guide to pruning.
        interval: a pruning step every `interval` of what `elapsed` counts.
        amount: share of the weights that a pruning step prunes, by `schedule`.
        target: share of the weights that is zero in the end.
        schedule: `uniform`: the share grows by `amount`. `geometric`: `amount` of the weights that are left is pruned.
            `cubic`: as many steps as `uniform`, larger at first.
        seed: the seed of random scores and gates.
        strength: of the penalty of `l0` and `l2` (default: that of the method).
        gate_lr: learning rate of the gates of `l0`.
        elapsed: what is counted, at the end of the update in progress (default: the steps of the optimizer).
        model: the model of the weights, which `wanda` needs: it measures the inputs of the layers.
        model_slots: the model's own weights, if `slots` are float32 copies that the optimizer holds.
        after_pruning: called after each pruning step.

    Attributes:
        masks: the mask of each slot by its name, 1 = is kept.
        sparsity: share of the weights that is zero now.

    Raises:
        ValueError: if there is no such method or schedule, if interval, amount or target is out of range, or if a
            weight has no layer whose inputs can be measured.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import IterativePruning, scope_of
        >>> model = torch.nn.Linear(10, 10)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> pruning = IterativePruning(scope_of(model), "magnitude", interval=2, amount=0.1, target=0.3)
        >>> pruning.attach(optimizer)
        >>> for update in range(6):
        ...     optimizer.zero_grad()
        ...     pruning.begin_update()
        ...     (model(torch.randn(4, 10)).square().mean() + pruning.penalty()).backward()
        ...     pruning.mask_gradients()
        ...     optimizer.step()
        >>> pruning.sparsity, int((model.weight == 0).sum())
        (0.3, 30)
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
        model: nn.Module | None = None,
        model_slots: Iterable[Slot] | None = None,
        after_pruning: Callable[[], None] = lambda: None,
    ) -> None:
        self.slots = list(slots)
        self.model_slots = self.slots if model_slots is None else list(model_slots)
        self.method = METHODS[choice("pruning method", method, METHODS)]
        choice("pruning schedule", schedule, PRUNE_SCHEDULES)
        if interval < 1 or not 0 < amount < 1 or not 0 < target < 1:
            raise ValueError(
                "interval must be at least 1, amount and target between 0 and 1, got "
                f"interval={interval}, amount={amount}, target={target}; give interval=100, amount=0.1, target=0.7"
            )
        self.interval, self.amount, self.target, self.schedule, self.seed = interval, amount, target, schedule, seed
        self.strength = PENALTIES[self.method.penalty] if strength is None else strength
        self.masks: dict[str, Tensor] = {}
        self.steps = 0  # pruning steps so far
        self.updates = 0  # optimizer steps so far
        self.sparsity = 0.0
        self._elapsed = elapsed or (lambda: self.updates + 1)
        self._after_pruning = after_pruning
        self._last_step = pruning_steps(amount, target, schedule)
        self._scores: dict[str, Tensor] = {}
        self._gates: Gates | None = None
        if self.method.penalty == "l0":
            self._gates = Gates(self.slots, self.model_slots, self.strength, gate_lr, seed)
        self._inputs: InputNorms | None = None
        if self.method.needs == "inputs":
            if model is None:
                raise ValueError(f"pruning by {method} needs the inputs of the layers; give model=model")
            self._inputs = InputNorms(model, {slot.name: slot.parameter for slot in self.model_slots})
        self._averages: dict[str, Averages] = {}
        if self.method.needs == "updates":
            for slot in self.slots:
                zeros = torch.zeros(slot.shape, dtype=torch.float32, device=slot.parameter.device)
                self._averages[slot.name] = Averages(zeros, zeros.clone())

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Prune in the steps of `optimizer`, which holds the weights in `slots`."""
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    @property
    def kept_tensors(self) -> list[Tensor]:
        """The tensors that pruning keeps in memory."""
        averages = [tensor for a in self._averages.values() for tensor in (a.importance, a.uncertainty)]
        return [*self.masks.values(), *averages, *(self._gates.kept_tensors if self._gates is not None else ())]

    # An update, in the order of the calls

    def begin_update(self) -> None:
        """Sample gates, and measure inputs if a pruning step is due; call it before the passes of an update."""
        if self._inputs is not None:
            self._inputs.begin(recording=self._due_steps() > self.steps)
        if self._gates is not None:
            self._gates.open(self.masks, self.updates + 1)

    def penalty(self) -> Tensor:
        """The penalty that the method adds to the loss; 0 without one."""
        if self._gates is not None:
            return self._gates.penalty
        if self.method.penalty == "l2":
            halves = [
                quadratic_penalty(model_slot.parameter, None, None, slot.weight)
                for model_slot, slot in zip(self.model_slots, self.slots, strict=True)
            ]
            return 2 * self.strength * torch.stack(halves).sum()
        return torch.zeros(())

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero; call it after the backward passes."""
        if self.masks:
            _mask_((grad, self.masks[slot.name]) for slot in self.model_slots if (grad := slot.grad) is not None)

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
        scale = kwargs.get("scale", 1.0)  # a fused half-precision optimizer unscales gradients inside its step only
        for slot in self.slots if self._averages else ():
            self._averages[slot.name].update_(Layer(slot.name, slot.weight, slot.grad), scale)
        # Before the step, because an optimizer may change gradients in place.
        if self.method.needs and self._due_steps() > self.steps:
            self._scores = self._score()
        if self._gates is not None:
            self._gates.before_step(self.updates + 1, scale)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
        if (due := self._due_steps()) > self.steps:
            self._prune(due)
        if self._gates is not None:
            self._gates.after_step(self.masks)
        elif self.masks:
            _mask_((slot.weight, self.masks[slot.name]) for slot in self.slots)
        self.updates += 1

    def close_gates(self) -> None:
        """Replace sampled gates of a skipped update by typical ones; call it before validation and saving."""
        if self._gates is not None:
            self._gates.close(self.masks)

    # A pruning step

    def _due_steps(self) -> int:
        """The number of pruning steps that should be finished at the end of the update in progress."""
        return min(self._elapsed() // self.interval, self._last_step)

    def _score(self) -> dict[str, Tensor]:
        log_alpha = self._gates.log_alpha if self._gates is not None else {}
        norms = self._inputs.norms() if self._inputs is not None else {}
        layers = [
            Layer(s.name, s.weight, s.grad, log_alpha.get(s.name), norms.get(s.name), self._averages.get(s.name))
            for s in self.slots
        ]
        return scores_of(self.method, layers, self.seed, self.steps)

    def _prune(self, step: int) -> None:
        start = time.perf_counter()
        goal = sparsity(step, self.amount, self.target, self.schedule)
        self.masks = select(self.method, self._scores or self._score(), goal, self.masks or None)
        self._scores = {}
        self.steps = step
        pruned, count = self._update_sparsity()
        logger.info(
            "pruning step %d of %d (%s): %s of %s weights are zero (%.2f %%), in %.2f s",
            step, self._last_step, self.method.name,
            f"{pruned:,}", f"{count:,}", 100 * pruned / count, time.perf_counter() - start,
        )  # fmt: skip
        self._after_pruning()

    def _update_sparsity(self) -> tuple[int, int]:
        """Set `sparsity`; returns the numbers of pruned weights and of all weights."""
        count = sum(map(len, self.slots))
        pruned = count - sum(int(mask.sum()) for mask in self.masks.values()) if self.masks else 0
        self.sparsity = pruned / count
        return pruned, count

    # State

    def state(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        self.close_gates()
        state: dict[str, Any] = {"method": self.method.name, "steps": self.steps, "updates": self.updates}
        state["masks"] = {name: pack_bits(mask) for name, mask in self.masks.items()}
        if self._averages:
            state["averages"] = {name: (a.importance, a.uncertainty) for name, a in self._averages.items()}
        return state if self._gates is None else {**state, "gates": self._gates.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Load a state of the same method."""
        if state["method"] != self.method.name:
            raise ValueError(
                f"this state is of pruning by {state['method']!r}, but this run prunes by {self.method.name!r}"
            )
        self.steps, self.updates = int(state["steps"]), int(state["updates"])
        self._load_masks(state["masks"])
        for name, averages in self._averages.items():
            importance, uncertainty = state["averages"][name]
            averages.importance.copy_(importance)
            averages.uncertainty.copy_(uncertainty)
        if self._gates is not None:
            self._gates.load_state(state["gates"])

    def keep_masks(self, state: dict[str, Any]) -> None:
        """Load the masks of a state of any method, and start the schedule at their sparsity."""
        self._load_masks(state["masks"])
        by_row = METHODS[state["method"]].compared == "row"
        groups = sum(slot.shape[0] if by_row else 1 for slot in self.slots)
        rounding = groups / sum(map(len, self.slots))  # each row or layer rounds by at most half a weight
        goals = [sparsity(step, self.amount, self.target, self.schedule) for step in range(1, self._last_step + 1)]
        self.steps = sum(goal <= self.sparsity + rounding for goal in goals)

    def _load_masks(self, packed: Mapping[str, Tensor]) -> None:
        self.masks = {
            slot.name: unpack_bits(packed[slot.name], slot.shape).to(slot.parameter.device)
            for slot in (self.slots if packed else ())
        }
        self._update_sparsity()


def _mask_(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """tensor *= mask for each pair, by the C kernel if it supports the tensors."""
    pairs = list(pairs)
    if kernels_c.ready((tensor, tensor) for tensor, _ in pairs):
        kernels_c.mask_(pairs)
    else:
        for tensor, mask in pairs:
            tensor.mul_(mask)
