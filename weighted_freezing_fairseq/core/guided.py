"""Optimizer rows that measure I in every update, before the base's step: Weighted Freezing, SAGE, GMT.

The row of the table (`rules.py`) gives the factor -g(I). It multiplies a weight's gradient at stage `gradient`, or the
whole change that the base optimizer makes at stage `update`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from . import kernels, kernels_c
from .kernels_c import GuidedWeight, Kernel
from .masks import keep_probability, stream_key, uniform
from .rules import Given, Rule
from .scope import Slot
from .wrapped import NORMS, WrappedOptimizer, choice, gradient

STATISTICS = ("lo", "hi", "mean", "rate")  # of scores; `norm` says of which
Statistics = dict[str, Tensor | float]  # those of one slot
Before = Sequence[tuple[Tensor, Tensor]]  # weight and gradient of each slot before the base's step: I is of these


class GuidedOptimizer(WrappedOptimizer):
    """Scales the updates of `base` by a factor that depends on the importance I of each weight.

    In every step I = metric(theta, grad) is measured on the weights in `slots`. Then

    - at stage `gradient`: grad <- -g(I) * grad; `base.step()`
    - at stage `update`: theta' = theta after `base.step()`; theta <- theta + -g(I) * (theta' - theta), so that g = 0
      also undoes momentum and weight decay.

    For plain SGD these are the row's f, g, h (`rules.py`).

    Args:
        base: the optimizer that updates the parameters.
        slots: the weights that the method acts on (`scope_of(model)`).
        method: `weighted_freeze`, `sage` or `gmt`, or a row of the table.
        variant: the name of another form of the row.
        importance: the metric (default: that of the row).
        norm: range and mean of scores: within each `tensor`, or over all slots (`global`).
        stage: where g acts (default: the row's stage).
        start: the first update, counted from 1, in which the method acts.
        seed: the seed of random masks.
        beta: decay rate of the moving average of I, for rows that have one. The average of a tensor is divided by
            1 - beta ** t after t updates in which the tensor had a gradient.
        eps: added to numerator and denominator of factors.
        max_scale: upper bound of factors (default: max(1, beta / (1 - beta)), which sage's `full` never exceeds).
        state_dtype: dtype of the moving averages (default: that of the parameter, bfloat16 for float16).
        keep: fraction of the weights that variant `random` of weighted_freeze updates (default: as many as variant
            `important` would update in the same tensor and update).
        fraction: for gmt: share of the numbers of each tensor that is updated, those with the largest I.
        base_fused: run the step of a plain Adam or AdamW by PyTorch's fused implementation, which is equal up to
            rounding. With False the base steps itself, and neutral settings are bit-identical to it.

    Raises:
        ValueError: if a setting has no such value, if a weight in `slots` is not one of the base's, or if the step of
            the base needs a closure.

    Masking the gradient does not freeze a weight under momentum or weight decay; use stage="update" for that. If you
    inspect gradients, do it before `step()`, which masks them in place. bfloat16 averages stop changing when beta is
    above about 0.99.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import GuidedOptimizer, scope_of
        >>> model = torch.nn.Linear(8, 2)
        >>> base = torch.optim.Adam(model.parameters(), lr=1e-3)
        >>> optimizer = GuidedOptimizer(base, scope_of(model), "weighted_freeze", stage="update")
        >>> model(torch.randn(4, 8)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.updates
        1
    """

    gives = frozenset((*STATISTICS, "average", "u", "eps", "max_scale", "fraction"))
    stages = ("gradient", "update")

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
        fraction: float | None = None,
        base_fused: bool = True,
    ) -> None:
        super().__init__(base, slots, method, importance, seed, base_fused, variant, start)
        self.norm = choice("norm", norm, NORMS)
        self.stage = choice("stage", stage or self.rule.stage, self.stages)
        if not (0 <= beta < 1 and eps >= 0 and (max_scale is None or max_scale > 0)):
            raise ValueError(
                f"beta must be in [0, 1), eps at least 0 and max_scale above 0; got beta {beta}, eps {eps}, "
                f"max_scale {max_scale}"
            )
        if keep is not None and not ("rate" in self.rule.needs and 0 <= keep <= 1):
            raise ValueError(
                "keep must be between 0 and 1 and needs variant 'random' of weighted_freeze; "
                f"got {keep} for {self.rule.label}"
            )
        self.beta, self.eps, self.state_dtype, self.keep = beta, eps, state_dtype, keep
        self.max_scale = max(1.0, beta / (1 - beta)) if max_scale is None else max_scale
        self.fraction = self._checked_fraction(fraction)
        self.averages: dict[str, Tensor] = {}
        self.averaged: dict[str, int] = {}  # number of updates in each average

    def _update(self, active: Sequence[Slot]) -> None:
        if "average" in self.rule.needs:
            for slot in active:
                self.averaged[slot.name] = self.averaged.get(slot.name, 0) + 1
        self._record_statistics(self._sums(active))
        by_kernel_ = self._kernel_for(active)
        guide_ = self._guide_ if by_kernel_ is None else by_kernel_
        statistics = self._statistics(active, without_range=by_kernel_ is not None)
        if self.stage == "gradient":
            guide_(active, statistics, [(slot.weight, gradient(slot)) for slot in active])
            self._step_base()
        else:
            guide_(active, statistics, self._step_base_and_keep(active))

    # 1. Statistics of the scores.

    def _statistics(self, slots: Sequence[Slot], without_range: bool = False) -> list[Statistics]:
        """The statistics that the row `needs`, for each slot."""
        if not slots:
            return []
        needs = set(self.rule.needs)
        columns: dict[str, Sequence[Tensor | float]] = {}
        if needs & {"lo", "hi"} and not without_range:
            columns["lo"], columns["hi"] = self._ranges(slots)
        if "mean" in needs:
            columns["mean"] = self._means(slots)
        if "rate" in needs:
            columns["rate"] = self._rates(slots)
        return [{name: column[index] for name, column in columns.items()} for index in range(len(slots))]

    def _ranges(self, slots: Sequence[Slot]) -> tuple[list[Tensor], list[Tensor]]:
        """The smallest and the largest score of each slot, or of all slots together."""
        lo, hi = [], []
        for slot in slots:
            blocks = self._blocks(slot, slot.weight, gradient(slot))
            bounds = [torch.aminmax(self._scores(weight, grad)) for _, (weight, grad) in blocks]
            lo.append(torch.stack([bound.min for bound in bounds]).amin())
            hi.append(torch.stack([bound.max for bound in bounds]).amax())
        if self.norm == "tensor":
            return lo, hi
        return _copies(_stack(lo).amin(), slots), _copies(_stack(hi).amax(), slots)

    def _means(self, slots: Sequence[Slot]) -> list[Tensor]:
        """The mean score of each slot, or of all slots together."""
        means = [self._mean(slot) for slot in slots]
        if self.norm == "tensor":
            return means
        total = sum(map(len, slots))
        shares = [mean.double() * (len(slot) / total) for mean, slot in zip(means, slots, strict=True)]
        return _copies(_stack(shares).sum().to(means[0].dtype), slots)

    def _mean(self, slot: Slot) -> Tensor:
        """The mean score of a slot, accumulated in float64."""
        blocks = self._blocks(slot, slot.weight, gradient(slot))
        sums = [self._scores(weight, grad).sum(dtype=torch.float64) for _, (weight, grad) in blocks]
        return (torch.stack(sums).sum() / len(slot)).to(torch.promote_types(slot.parameter.dtype, torch.float32))

    def _rates(self, slots: Sequence[Slot]) -> Sequence[Tensor | float]:
        """The fraction of each slot that is updated: `keep`, or the mean `keep_probability` of its scores."""
        if self.keep is not None:
            return [self.keep] * len(slots)
        return [
            keep_probability(self._mean(slot), lo, hi) for slot, lo, hi in zip(slots, *self._ranges(slots), strict=True)
        ]

    # 2. The moving average of I.

    def _average_of(self, slot: Slot) -> Tensor:
        """The average of a slot, zero at first.

        Its dtype is `state_dtype` or the parameter's, but bfloat16 in place of float16: I is a product of two small
        numbers, which underflows in float16.
        """
        if slot.name not in self.averages:
            dtype = self.state_dtype or slot.parameter.dtype
            dtype = torch.bfloat16 if dtype == torch.float16 else dtype
            self.averages[slot.name] = torch.zeros(slot.shape, dtype=dtype, device=slot.parameter.device)
        return self.averages[slot.name]

    def _average_input(self, slot: Slot) -> tuple[Tensor, ...]:
        """The average of a slot if the row has one, as a tuple to pass to `_blocks`."""
        return (self._average_of(slot),) if "average" in self.rule.needs else ()

    def _next_average(self, average: Tensor, scores: Tensor) -> Tensor:
        """beta * average + (1 - beta) * I, in the average's dtype."""
        result = average.to(scores.dtype, copy=True).mul_(self.beta).add_(scores * (1 - self.beta))
        return result.to(average.dtype)

    def _correction(self, slot: Slot) -> float:
        # DEVIATION: neither paper prints a correction of the average for its start at zero. The code of Liang et al.
        # has it for Adam and not for Adamax; here it is always there, so that in a tensor's first update the average
        # is I itself and (but for eps) nothing moves.
        return 1 / (1 - self.beta ** self.averaged[slot.name])

    # 3. The factors -g(I).

    # DEVIATION: the code of Liang et al. scales Adam's step and leaves decoupled weight decay as it is. Both papers'
    # equations scale the learning rate, which the decay is multiplied by too: so does stage `update`.
    def _guide_(self, slots: Sequence[Slot], statistics: Sequence[Statistics], before: Before) -> None:
        """Scale the gradients, or the step that the base has made; updates the averages of I."""
        for slot, numbers, (old, grad) in zip(slots, statistics, before, strict=True):
            target = grad if self.stage == "gradient" else slot.weight
            tensors = old, grad, target, *self._average_input(slot)
            for start, (old_block, grad_block, output, *averages) in self._blocks(slot, *tensors):
                scores = self._scores(old_block, grad_block)
                for average in averages:
                    average.copy_(self._next_average(average, scores))
                factor = self._factor(slot, numbers, start, scores, *averages)
                if self.stage == "gradient":
                    output.mul_(factor)
                else:
                    output.copy_(_scaled(old_block, output, factor))

    def _factor(
        self, slot: Slot, statistics: Statistics, at: int, scores: Tensor, average: Tensor | None = None
    ) -> Tensor:
        """-g(I) for the block of a slot that begins at number `at`."""
        quantities = {**statistics, **self._quantities(slot, at, scores)}
        if average is not None:
            quantities["average"] = average.to(scores.dtype) * self._correction(slot)
        return -self.rule.g.value(scores, Given(**quantities))

    def _quantities(self, slot: Slot, at: int, scores: Tensor) -> dict[str, Any]:
        """What the row reads beside I, its statistics and its average, for that block."""
        quantities: dict[str, Any] = {"eps": self.eps, "max_scale": self.max_scale, "fraction": self.fraction}
        if "u" in self.rule.needs:
            u = uniform(scores.numel(), self._stream_key(slot), at, scores.device)
            quantities["u"] = u.view(scores.shape)
        return quantities

    def _stream_key(self, slot: Slot) -> tuple[int, int]:
        return stream_key(self.seed, self.updates, slot.name)

    def _kernel_for(self, slots: Sequence[Slot]) -> Callable[..., None] | None:
        """`_guide_` in a kernel, or None if no kernel computes this row or supports these tensors."""
        averages = [average for slot in slots for average in self._average_input(slot)]
        constants = (self.beta, self.eps, self.max_scale)
        kernel = kernels_c.kernel_of(self.rule.g.value, self.importance, averages, constants)
        module = kernels.module_for([tensor for slot in slots for tensor in (slot.weight, gradient(slot))])
        if module is None or kernel is None or (kernel.scales and self.stage == "gradient"):
            return None
        return partial(self._guide_by_kernel_, module, kernel)

    def _guide_by_kernel_(
        self, module: ModuleType, kernel: Kernel,
        slots: Sequence[Slot], statistics: Sequence[Statistics], before: Before,
    ) -> None:  # fmt: skip
        guided_weights = []
        for slot, numbers, (old, grad) in zip(slots, statistics, before, strict=True):
            operand = numbers.get("rate", numbers.get("mean", 0.0))
            if "average" in self.rule.needs:
                operand = self._correction(slot)
            weight = None if self.stage == "gradient" else slot.weight
            average, key = self.averages.get(slot.name), self._stream_key(slot)
            guided_weights.append(GuidedWeight(old, grad, weight, average, key, operand))
        module.guide_(guided_weights, self.importance, kernel, self.norm == "global")

    # State.

    def _method_state(self) -> dict[str, Any]:
        return {"averages": dict(self.averages), "averaged": dict(self.averaged)} if self.averages else {}

    def _load_method_state(self, state: dict[str, Any]) -> None:
        saved = state.get("averages", {})
        self.averages = {s.name: self._average_of(s).copy_(saved[s.name]) for s in self.slots if s.name in saved}
        # States of earlier versions have no counts: every average had seen all updates since `start`.
        since_start = state.get("updates", 0) - self.start + 1
        self.averaged = {name: state.get("averaged", {}).get(name, since_start) for name in self.averages}

    @property
    def extra_bytes(self) -> int:
        """Bytes of the moving averages."""
        return sum(average.numel() * average.element_size() for average in self.averages.values())

    # The sums that are logged (`_record_statistics`).

    def _sums(self, active: Sequence[Slot]) -> Iterator[tuple[Slot, Tensor]]:
        """The sums of each slot before the base's step."""
        for slot, statistics in zip(active, self._statistics(active), strict=True):
            sums = torch.zeros(3, dtype=torch.float64, device=slot.parameter.device)
            tensors = slot.weight, gradient(slot), *self._average_input(slot)
            for start, (weight, grad, *averages) in self._blocks(slot, *tensors):
                scores = self._scores(weight, grad)
                averages = [self._next_average(average, scores) for average in averages]
                sums += self._block_sums(self._factor(slot, statistics, start, scores, *averages), scores)
            yield slot, sums


def _scaled(old: Tensor, new: Tensor, factor: Tensor) -> Tensor:
    """old + factor * (new - old), exact for factors 0 and 1; torch.lerp would round otherwise than the kernels."""
    new = new.to(factor.dtype)
    step = new - old.to(factor.dtype)
    return torch.where(factor < 0.5, old + factor * step, new - (1 - factor) * step)


def _stack(numbers: Sequence[Tensor]) -> Tensor:
    """Numbers of several devices as one vector on the device of the first."""
    return torch.stack([number.to(numbers[0].device) for number in numbers])


def _copies(number: Tensor, slots: Sequence[Slot]) -> list[Tensor]:
    """`number` on the device of each slot."""
    return [number.to(slot.parameter.device) for slot in slots]
