"""Guided by scores that are measured in every update: Weighted Freezing, SAGE, and whatever row measures its I.

The row of the table says by which factor -g(I) a weight's gradient (stage `gradient`) or its whole change (stage
`update`) is multiplied; this module measures I, keeps what the row needs beside it, and applies the factor. Left out
on purpose: masks that stay (`fixed.py`), rows that act inside the loss, which are criterions, and anything of fairseq.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from . import native, twins
from .fused_adam import FusedAdam
from .masks import stream_key, uniform
from .native import NO_SCALE, Guide, Part, Scale
from .rules import RULES, Given, Rule
from .scope import Slot, block_size, blocks
from .wrapped import WrappedOptimizer, choice, gradient, optimizer_row

NORMS = ("tensor", "global")
STAGES = ("gradient", "update")

Summary = dict[str, Tensor]


class Change(NamedTuple):
    """A weight, what it was before the step, and the share of its change that it keeps."""

    weight: Tensor
    old: Tensor
    factor: Tensor


class GuidedOptimizer(WrappedOptimizer):
    """`base` with its updates guided by the importance of each weight in `slots`, measured in every update.

    One step at stage `gradient`: I = metric(theta, grad); grad <- -g(I) * grad; `base.step()`. At stage `update`:
    theta' = what `base` makes of theta; theta <- theta + -g(I) * (theta' - theta), so that g = 0 undoes momentum and
    weight decay too. For plain SGD both are the row's f, g, h (`rules.py`).

    method, variant: a row of the table, by name. slots: the weights that it acts on (`scope_of(model)`).
    importance: another metric than the row's. norm: scores are summed up within a `tensor` or over all (`global`).
    stage: where g acts; default is the row's. start: the first update (counted from 1) at which the method acts.
    Rows with a factor (sage): eps, and the bound max_scale. Rows with a moving average of I: its rate beta, and
    state_dtype, its precision; the average is divided by 1 - beta ** t, t updates after it began.

    Masked gradients do not freeze a weight under momentum or weight decay: use stage="update" for that. Measure
    gradients before `step()`: where it is not one pass with Adam, they are masked in place. bfloat16 averages stand
    still when beta is above about 0.99.
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
        max_scale: float = 3.0,
        state_dtype: torch.dtype | None = None,
    ) -> None:
        rule = optimizer_row(method, variant, measured=True)
        super().__init__(base, slots, rule, importance, seed)
        self.norm = choice("norm", norm, NORMS)
        self.stage = choice("stage", stage or rule.stage, STAGES)
        self.start = start
        if not (0 <= beta < 1 and eps >= 0 and max_scale > 0):
            raise ValueError(f"beta {beta}, eps {eps}, max_scale {max_scale}: give 0 <= beta < 1, eps >= 0, scale > 0")
        self.beta, self.eps, self.max_scale, self.state_dtype = beta, eps, max_scale, state_dtype
        self.averages: dict[str, Tensor] = {}

    def _own_state(self) -> dict[str, Any]:
        return {"averages": dict(self.averages)} if self.averages else {}

    def _load_own_state(self, own: dict[str, Any]) -> None:
        saved = own.get("averages", {})
        self.averages = {s.name: self._average_of(s).copy_(saved[s.name]) for s in self.slots if s.name in saved}

    @property
    def extra_bytes(self) -> int:
        return sum(average.numel() * average.element_size() for average in self.averages.values())

    # The step.

    def _update(self, active: Sequence[Slot]) -> None:
        if self.updates < self.start:
            active = []
        self._note(active)
        fused = FusedAdam.of(self.base)
        guides = self._guides(active) if fused is not None and (active or fused.exact) else None
        if fused is not None and guides is not None:
            fused.take_(list(zip(active, guides, strict=True)), *self._ways())
        elif self.stage == "gradient":
            self._guide_gradients(active)
            self.base.step()
        else:
            changes = self._remember(active)
            self.base.step()
            _advance_(changes)

    # The step by a twin: in one pass with Adam, or before another base.

    def _guides(self, active: Sequence[Slot]) -> list[Guide] | None:
        """What a twin is to do to each slot; None if the row is not one that it computes."""
        # Identity, not the name: a row that somebody changed must run as changed.
        if self.rule is RULES["weighted_freeze"]:
            kind = native.GRADIENT if self.stage == "gradient" else native.CHANGE
            return [Guide(kind, self._key(slot)) for slot in active]
        averages = [average for slot in active for average in self._average_read(slot)]
        if native.scale_kind(self.rule, self.importance, averages) is None or self.stage != "update":
            return None
        return [
            Guide(native.SCALE_CHANGE, mean=summary.get("mean", 0.0), more=next(iter(self._average_read(slot)), None))
            for slot, summary in self._summed_up(active)
        ]

    def _ways(self) -> tuple[str, Scale, bool]:
        """How a twin is to do it: the metric, the row of sage, and whether scores of all slots share a range."""
        kind = native.scale_kind(self.rule, self.importance, self.averages.values())
        scale = NO_SCALE
        if kind is not None and self.updates >= self.start:
            half = any(average.dtype == torch.bfloat16 for average in self.averages.values())
            scale = Scale(kind, half, (self.beta, self._correction(), self.eps, self.max_scale))
        return self.importance, scale, self.norm == "global"

    def _by_twin(
        self, active: Sequence[Slot], weights: Sequence[Tensor], moments: Sequence[tuple[Tensor, Tensor] | None]
    ) -> bool:
        """Have a twin do what is to be done before the base steps; False where none can."""
        grads = [gradient(slot) for slot in active]
        twin = twins.of([*weights, *grads])
        guides = self._guides(active) if twin else None
        if twin is None or guides is None:
            return False
        parts = (Part(*each) for each in zip(weights, grads, moments, [-1] * len(grads), guides, strict=True))
        twin.step_(list(parts), [], *self._ways())
        return True

    # The step in two: what guides, and the base.

    def _guide_gradients(self, active: Sequence[Slot]) -> None:
        """grad <- -g(I) * grad: by a twin where that reads the tensors, else block by block in torch."""
        if self._by_twin(active, [slot.weight for slot in active], [None] * len(active)):
            return
        self._learn(active)
        for slot, summary in self._summed_up(active):
            for start, block in self._blocks(slot, *self._average_read(slot)):
                block[1].mul_(self._minus_g(slot, summary, start, *block))

    # DEVIATION: the code of Liang et al. scales Adam's step and leaves decoupled weight decay as it is. Both papers'
    # equations scale the learning rate, which the decay is multiplied by too: so does stage `update`.
    def _remember(self, active: Sequence[Slot]) -> list[Change]:
        """Each slot's weight before the step and the factor -g(I) for its change, by a twin where it can."""
        changes = [
            Change(slot.weight, torch.empty_like(slot.weight), torch.empty_like(slot.weight, dtype=_precise(slot)))
            for slot in active
        ]
        if self._by_twin(active, [change.weight for change in changes], [(c.old, c.factor) for c in changes]):
            return changes
        self._learn(active)
        for (slot, summary), change in zip(self._summed_up(active), changes, strict=True):
            change.old.copy_(change.weight)
            for start, block in self._blocks(slot, *self._average_read(slot), change.factor):
                block[-1].copy_(self._minus_g(slot, summary, start, *block[:-1]))
        return changes

    def _minus_g(
        self, slot: Slot, summary: Summary, start: int, weight: Tensor, grad: Tensor, average: Tensor | None = None
    ) -> Tensor:
        """-g(I) for one block."""
        scores = self._scores(weight, grad)
        given = dict[str, Any](summary)
        if "u" in self.rule.needs:
            given["u"] = uniform(scores.numel(), self._key(slot), start, scores.device).view(scores.shape)
        if average is not None:
            given["average"] = average.to(scores.dtype) * self._correction()
        return -self.rule.g.value(scores, Given(**given, eps=self.eps, max_scale=self.max_scale))

    def _key(self, slot: Slot) -> tuple[int, int]:
        return stream_key(self.seed, self.updates, slot.name)

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
        return (self._average_of(slot),) if "average" in self.rule.needs else ()

    def _learn(self, active: Sequence[Slot]) -> None:
        """average <- beta * average + (1 - beta) * I, where the row has an average."""
        for slot in active if "average" in self.rule.needs else ():
            for _, (weight, grad, average) in self._blocks(slot, self._average_of(slot)):
                average.copy_(self._moved(average, self._scores(weight, grad)))

    def _moved(self, average: Tensor, scores: Tensor) -> Tensor:
        """The average after this update, in its own precision."""
        moved = average.to(scores.dtype, copy=True).mul_(self.beta).add_(scores * (1 - self.beta))
        return moved.to(average.dtype)

    def _correction(self) -> float:
        # DEVIATION: neither paper prints a correction of the average for its start at zero. The code of Liang et al.
        # has it for Adam and not for Adamax; here it is always there, so that in the first update the average is I
        # itself and (but for eps) nothing moves.
        return 1 / (1 - self.beta ** (self.updates - self.start + 1))

    # What is summed up over a tensor, or over all.

    def _summed_up(self, active: Sequence[Slot]) -> Iterable[tuple[Slot, Summary]]:
        """Each slot with the smallest and largest score, or the mean score, that its own are compared with."""
        summaries: Iterable[Summary] = (self._summary(slot) for slot in active)
        if self.norm == "global" and active:
            found = [{k: v.to(active[0].parameter.device) for k, v in summary.items()} for summary in summaries]
            shared = {}
            if "lo" in self.rule.needs:
                shared = {"lo": torch.stack([f["lo"] for f in found]).amin()}
                shared["hi"] = torch.stack([f["hi"] for f in found]).amax()
            if "mean" in self.rule.needs:
                total = sum(map(len, active))
                parts = [f["mean"].double() * (len(slot) / total) for f, slot in zip(found, active, strict=True)]
                shared["mean"] = torch.stack(parts).sum().to(found[0]["mean"].dtype)
            summaries = ({k: v.to(slot.parameter.device) for k, v in shared.items()} for slot in active)
        return zip(active, summaries, strict=True)

    def _summary(self, slot: Slot) -> Summary:
        if "lo" in self.rule.needs:
            found = [torch.aminmax(self._scores(weight, grad)) for _, (weight, grad) in self._blocks(slot)]
            return {"lo": torch.stack([f.min for f in found]).amin(), "hi": torch.stack([f.max for f in found]).amax()}
        if "mean" in self.rule.needs:
            scores = (self._scores(weight, grad) for _, (weight, grad) in self._blocks(slot))
            sums, dtype = zip(*((s.sum(dtype=torch.float64), s.dtype) for s in scores), strict=True)
            return {"mean": (torch.stack(sums).sum() / len(slot)).to(dtype[0])}
        return {}

    def _sums(self, active: Sequence[Slot]) -> Iterable[tuple[Slot, Tensor]]:
        for slot, summary in self._summed_up(active):
            sums = torch.zeros(3, dtype=torch.float64, device=slot.parameter.device)
            for start, (weight, grad, *average) in self._blocks(slot, *self._average_read(slot)):
                scores = self._scores(weight, grad)
                factor = self._minus_g(slot, summary, start, weight, grad, *(self._moved(a, scores) for a in average))
                scores = scores.double()
                effect = factor.double().sum() if self.scales else (factor == 0).sum().double()
                sums += torch.stack([effect, scores.sum(), scores.square().sum()])
            yield slot, sums


def _precise(slot: Slot) -> torch.dtype:
    return torch.promote_types(slot.parameter.dtype, torch.float32)


def _advance_(changes: Sequence[Change]) -> None:
    """weight <- old + factor * (weight - old), exact for factors 0 and 1."""
    if twin := twins.of(tensor for change in changes for tensor in change):
        twin.advance_(changes)
        return
    for change in changes:
        for _, (weight, old, factor) in blocks(change.weight.numel(), block_size(change.weight), *change):
            end = weight.to(factor.dtype)
            step = end - old.to(factor.dtype)
            weight.copy_(torch.where(factor < 0.5, old + factor * step, end - (1 - factor) * step))
