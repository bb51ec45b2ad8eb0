"""Guided by scores that are measured in every update: Weighted Freezing, SAGE, and whatever row measures its I.

The row of the table says by which factor -g(I) a weight's gradient (stage `gradient`) or its whole change (stage
`update`) is multiplied; this module measures I, keeps what the row needs beside it, and applies the factor. Left out
on purpose: masks that stay (`fixed.py`), rows that act inside the loss.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from . import kernels, kernels_c
from .kernels_c import GuidedWeight
from .masks import keep_probability, stream_key, uniform
from .rules import Given, Rule
from .scope import Slot, block_size, blocks
from .wrapped import NORMS, WrappedOptimizer, choice, gradient, optimizer_row

STAGES = ("gradient", "update")

Summary = dict[str, Tensor | float]


class Change(NamedTuple):
    """A weight, what it was before the base's step, and the factor for its change."""

    weight: Tensor
    old: Tensor
    factor: Tensor

    @classmethod
    def of(cls, slot: Slot) -> "Change":
        """For a slot, both still to be written; the factor is float32 at least."""
        precise = torch.promote_types(slot.parameter.dtype, torch.float32)
        return cls(slot.weight, torch.empty_like(slot.weight), torch.empty_like(slot.weight, dtype=precise))


class GuidedOptimizer(WrappedOptimizer):
    """`base` with its updates guided by the importance of each weight in `slots`, measured in every update.

    One step at stage `gradient`: I = metric(theta, grad); grad <- -g(I) * grad; `base.step()`. At stage `update`:
    theta' = what `base` makes of theta; theta <- theta + -g(I) * (theta' - theta), so that g = 0 undoes momentum and
    weight decay too. For plain SGD both are the row's f, g, h (`rules.py`).

    method, variant: a row of the table, by name. slots: the weights that it acts on (`scope_of(model)`).
    importance: another metric than the row's. norm: scores are summed up within a `tensor` or over all (`global`).
    stage: where g acts; default is the row's. start: the first update (counted from 1) at which the method acts.
    Variant `random` of weighted_freeze: keep, a fixed share of weights that is updated (default: as many as the variant
    `important` would update in this tensor and update).
    Rows with a factor (sage): eps, and the bound max_scale (default: max(1, beta / (1 - beta)), which the variant
    `full` never exceeds). Rows with a moving average of I: its rate beta, and state_dtype, its precision; the average
    of a tensor is divided by 1 - beta ** t after t updates in which this tensor had a gradient.
    base_fused: the step of a plain Adam or AdamW is made by torch's fused implementation, equal within rounding; with
    False the base steps itself, and neutral settings give its very bits.

    Masked gradients do not freeze a weight under momentum or weight decay: use stage="update" for that. Measure
    gradients before `step()`, which masks them in place. bfloat16 averages stand still when beta is above about 0.99.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        slots: Iterable[Slot],
        method: str | Rule = "weighted_freeze",
        *,
        variant: str = "",
        importance: str | None = None,
        norm: Literal["tensor", "global"] = "tensor",
        stage: Literal["gradient", "update"] | None = None,
        start: int = 1,
        seed: int = 1,
        beta: float = 0.75,
        eps: float = 1e-12,
        max_scale: float | None = None,
        state_dtype: torch.dtype | None = None,
        keep: float | None = None,
        base_fused: bool = True,
    ) -> None:
        rule = optimizer_row(method, variant, measured=True)
        super().__init__(base, slots, rule, importance, seed, base_fused)
        self.norm = choice("norm", norm, NORMS)
        self.stage = choice("stage", stage or rule.stage, rule.stages)
        self.start = start
        if not (0 <= beta < 1 and eps >= 0 and (max_scale is None or max_scale > 0)):
            raise ValueError(
                f"beta must be in [0, 1), eps at least 0 and max_scale above 0; got beta {beta}, eps {eps}, "
                f"max_scale {max_scale}"
            )
        if keep is not None and not (rule.has_rate and 0 <= keep <= 1):
            raise ValueError(
                f"keep is a share between 0 and 1 for variant 'random' of weighted_freeze; got {keep} for {rule.label}"
            )
        self.beta, self.eps, self.state_dtype, self.keep = beta, eps, state_dtype, keep
        self.max_scale = max(1.0, beta / (1 - beta)) if max_scale is None else max_scale
        self.judged: dict[str, Change] = {}  # of the step that is recorded, for a row that follows it
        self.averages: dict[str, Tensor] = {}
        self.averaged: dict[str, int] = {}  # updates that each average has seen

    def _own_state(self) -> dict[str, Any]:
        return {"averages": dict(self.averages), "averaged": dict(self.averaged)} if self.averages else {}

    def _load_own_state(self, own: dict[str, Any]) -> None:
        saved = own.get("averages", {})
        self.averages = {s.name: self._average_of(s).copy_(saved[s.name]) for s in self.slots if s.name in saved}
        # States of earlier versions have no counts: there every average had seen all updates since the start.
        since_start = own.get("updates", 0) - self.start + 1
        self.averaged = {name: own.get("averaged", {}).get(name, since_start) for name in self.averages}

    @property
    def extra_bytes(self) -> int:
        return sum(average.numel() * average.element_size() for average in self.averages.values())

    # One update: factors from the scores, the base's step, and its change times the factors.

    def _update(self, active: Sequence[Slot]) -> None:
        if self.updates < self.start:
            active = []
        for slot in active if self.rule.averages else ():
            self.averaged[slot.name] = self.averaged.get(slot.name, 0) + 1
        changes = [Change.of(slot) for slot in active] if self.stage == "update" else None
        if self.rule.follows_step:
            self._judge_step_(active, changes or [])
        else:
            self._note(active)
            self._factors_(active, changes)
            self._step_base()
        _advance_(changes or [])

    # The scores: what is summed up over a tensor, or over all.

    def _summed_up(self, active: Sequence[Slot], by_kernel: bool = False) -> Iterable[tuple[Slot, Summary]]:
        """Each slot with what the row compares its scores with: their range, their mean, or a rate.

        by_kernel: leave out the range, which the kernels find by themselves.
        """
        needs = self.rule.needs
        if by_kernel and not {"rate", "mean"} & set(needs):
            return [(slot, {}) for slot in active]
        if "rate" in needs and self.keep is not None:
            return [(slot, {"rate": self.keep}) for slot in active]
        ranges = [self._range(slot) for slot in active] if {"rate", "lo"} & set(needs) else []
        means = [self._mean(slot) for slot in active] if {"rate", "mean"} & set(needs) else []
        if self.norm == "global" and ranges:
            lo, hi = (_gathered(bounds) for bounds in zip(*ranges, strict=True))
            ranges = [(lo.amin().to(slot.parameter.device), hi.amax().to(slot.parameter.device)) for slot in active]
        if "rate" in needs:
            rates = [keep_probability(mean, *bounds) for mean, bounds in zip(means, ranges, strict=True)]
            return [(slot, {"rate": rate}) for slot, rate in zip(active, rates, strict=True)]
        if self.norm == "global" and means:
            total = sum(map(len, active))
            weighted = [mean.double() * (len(slot) / total) for mean, slot in zip(means, active, strict=True)]
            mean = _gathered(weighted).sum().to(means[0].dtype)
            means = [mean.to(slot.parameter.device) for slot in active]
        if ranges:
            return [(slot, {"lo": lo, "hi": hi}) for slot, (lo, hi) in zip(active, ranges, strict=True)]
        if means:
            return [(slot, {"mean": mean}) for slot, mean in zip(active, means, strict=True)]
        return [(slot, {}) for slot in active]

    def _range(self, slot: Slot) -> tuple[Tensor, Tensor]:
        """The smallest and the largest score of a slot."""
        bounds = [torch.aminmax(self._scores(weight, grad)) for _, (weight, grad) in self._blocks(slot)]
        return torch.stack([b.min for b in bounds]).amin(), torch.stack([b.max for b in bounds]).amax()

    def _mean(self, slot: Slot) -> Tensor:
        """The mean score of a slot, summed up in float64."""
        scores = (self._scores(weight, grad) for _, (weight, grad) in self._blocks(slot))
        sums, dtypes = zip(*((s.sum(dtype=torch.float64), s.dtype) for s in scores), strict=True)
        return (torch.stack(sums).sum() / len(slot)).to(dtypes[0])

    # The moving average of I.

    def _average_of(self, slot: Slot) -> Tensor:
        """The average of a slot, zero when it begins: in the parameter's precision, or bfloat16 for float16.

        I is a product of two small numbers, which float16 rounds to nothing.
        """
        if slot.name not in self.averages:
            dtype = self.state_dtype or slot.parameter.dtype
            dtype = torch.bfloat16 if dtype == torch.float16 else dtype
            self.averages[slot.name] = torch.zeros(slot.shape, dtype=dtype, device=slot.parameter.device)
        return self.averages[slot.name]

    def _average_read(self, slot: Slot) -> tuple[Tensor, ...]:
        return (self._average_of(slot),) if self.rule.averages else ()

    def _learn(self, active: Sequence[Slot]) -> None:
        """average <- beta * average + (1 - beta) * I, where the row has an average."""
        for slot in active if self.rule.averages else ():
            for _, (weight, grad, average) in self._blocks(slot, self._average_of(slot)):
                average.copy_(self._moved(average, self._scores(weight, grad)))

    def _moved(self, average: Tensor, scores: Tensor) -> Tensor:
        """The average after this update, in its own precision."""
        moved = average.to(scores.dtype, copy=True).mul_(self.beta).add_(scores * (1 - self.beta))
        return moved.to(average.dtype)

    def _correction(self, slot: Slot) -> float:
        # DEVIATION: neither paper prints a correction of the average for its start at zero. The code of Liang et al.
        # has it for Adam and not for Adamax; here it is always there, so that in a tensor's first update the average
        # is I itself and (but for eps) nothing moves.
        return 1 / (1 - self.beta ** self.averaged[slot.name])

    # The factors -g(I).

    # DEVIATION: the code of Liang et al. scales Adam's step and leaves decoupled weight decay as it is. Both papers'
    # equations scale the learning rate, which the decay is multiplied by too: so does stage `update`.
    def _factors_(self, active: Sequence[Slot], changes: Sequence[Change] | None) -> None:
        """grad <- -g(I) * grad; with `changes` instead: the weight before the step, and -g(I) for its change."""
        if self._by_kernel(active, changes):
            return
        self._learn(active)
        for index, (slot, summary) in enumerate(self._summed_up(active)):
            factor = () if changes is None else (changes[index].factor,)
            for start, (weight, grad, *more) in self._blocks(slot, *factor, *self._average_read(slot)):
                minus_g = self._minus_g(slot, summary, start, weight, grad, *more[len(factor) :])
                if factor:
                    more[0].copy_(minus_g)
                else:
                    grad.mul_(minus_g)
            if changes is not None:
                changes[index].old.copy_(slot.weight)

    def _judge_step_(self, active: Sequence[Slot], changes: Sequence[Change]) -> None:
        """The base's step, and then -g(I) for it, of whole tensors: a row that follows the step may compare numbers."""
        for change in changes:
            change.old.copy_(change.weight)
        self._step_base()
        for slot, (weight, old, factor) in zip(active, changes, strict=True):
            grad = gradient(slot).to(factor.dtype)
            step = weight.to(factor.dtype) - old.to(factor.dtype)
            given = Given(step=step, grad=grad, eps=self.eps, max_scale=self.max_scale)
            factor.copy_(-self.rule.g.value(self._scores(old, gradient(slot)), given))
        self.judged = {slot.name: change for slot, change in zip(active, changes, strict=True)} if self.record else {}
        self._note(active)
        self.judged = {}

    def _by_kernel(self, active: Sequence[Slot], changes: Sequence[Change] | None) -> bool:
        """Have a kernel do it; False where none computes this row or reads these tensors."""
        tensors = [tensor for slot in active for tensor in (slot.weight, gradient(slot))]
        tensors += [tensor for change in changes or () for tensor in change]
        averages = [average for slot in active for average in self._average_read(slot)]
        module = kernels.that_read(tensors)
        constants = (self.beta, self.eps, self.max_scale)
        kernel = kernels_c.kernel_of(self.rule.g.value, self.importance, averages, constants)
        if module is None or kernel is None or (kernel.scales and changes is None):
            return False
        action = kernels_c.SCALE_CHANGE if kernel.scales else kernels_c.CHANGE
        guided = []
        for index, (slot, summary) in enumerate(self._summed_up(active, by_kernel=True)):
            _, old, factor = changes[index] if changes is not None else (None, None, None)
            guided.append(
                GuidedWeight(
                    kernels_c.GRADIENT if changes is None else action,
                    slot.weight,
                    gradient(slot),
                    old,
                    factor,
                    average=next(iter(self._average_read(slot)), None),
                    key=self._key(slot),
                    operand=self._operand(slot, summary),
                )
            )
        module.guide_(guided, self.importance, kernel, self.norm == "global")
        return True

    def _operand(self, slot: Slot, summary: Summary) -> Tensor | float:
        """The number that a kernel needs for the row and does not compute."""
        if self.rule.averages:
            return self._correction(slot)
        return summary.get("rate", summary.get("mean", 0.0))

    def _minus_g(
        self, slot: Slot, summary: Summary, start: int, weight: Tensor, grad: Tensor, average: Tensor | None = None
    ) -> Tensor:
        """-g(I) for one block."""
        scores = self._scores(weight, grad)
        given = dict[str, Any](summary)
        if self.rule.draws:
            given["u"] = uniform(scores.numel(), self._key(slot), start, scores.device).view(scores.shape)
        if average is not None:
            given["average"] = average.to(scores.dtype) * self._correction(slot)
        return -self.rule.g.value(scores, Given(**given, eps=self.eps, max_scale=self.max_scale))

    def _key(self, slot: Slot) -> tuple[int, int]:
        return stream_key(self.seed, self.updates, slot.name)

    # What is recorded.

    def _sums(self, active: Sequence[Slot]) -> Iterable[tuple[Slot, Tensor]]:
        for slot in active if self.rule.follows_step else ():
            change = self.judged[slot.name]
            scores = self._scores(change.old, gradient(slot)).double()
            yield slot, torch.stack([self._effect(change.factor), scores.sum(), scores.square().sum()])
        if self.rule.follows_step:
            return
        for slot, summary in self._summed_up(active):
            sums = torch.zeros(3, dtype=torch.float64, device=slot.parameter.device)
            for start, (weight, grad, *average) in self._blocks(slot, *self._average_read(slot)):
                scores = self._scores(weight, grad)
                factor = self._minus_g(slot, summary, start, weight, grad, *(self._moved(a, scores) for a in average))
                scores = scores.double()
                sums += torch.stack([self._effect(factor), scores.sum(), scores.square().sum()])
            yield slot, sums

    def _effect(self, factor: Tensor) -> Tensor:
        return factor.double().sum() if self.rule.scales else (factor == 0).sum().double()


def _gathered(values: Sequence[Tensor]) -> Tensor:
    """Numbers of all slots as one vector, on the device of the first."""
    return torch.stack([value.to(values[0].device) for value in values])


def _advance_(changes: Sequence[Change]) -> None:
    """weight <- old + factor * (weight - old), exact for factors 0 and 1."""
    module = kernels.that_read(tensor for change in changes for tensor in change)
    if module is not None:
        module.advance_(changes)
        return
    for change in changes:
        for _, (weight, old, factor) in blocks(change.weight.numel(), block_size(change.weight), *change):
            end = weight.to(factor.dtype)
            step = end - old.to(factor.dtype)
            weight.copy_(torch.where(factor < 0.5, old + factor * step, end - (1 - factor) * step))
