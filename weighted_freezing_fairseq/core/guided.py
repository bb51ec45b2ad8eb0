"""One optimizer that composes any torch optimizer with one row of the table.

The base optimizer is never patched or subclassed: `GuidedOptimizer` changes what it sees (stage `gradient`) or what it
did (stage `update`), and hands everything else through. Left out on purpose: rows that act inside the loss, which are
criterions, and anything of fairseq.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from . import native
from .importance import METRICS
from .masks import stream_key, uniform
from .rules import RULES, Given, Rule
from .scope import Slot, blocks

logger = logging.getLogger(__name__)

STATE_KEY = "guided"
NORMS = ("tensor", "global")
STAGES = ("gradient", "update")
# 64 Ki numbers: the temporaries of one block stay in the second-level cache of a CPU core.
_CPU_BLOCK = 1 << 16

Range = tuple[Tensor, Tensor]


class GuidedOptimizer(torch.optim.Optimizer):
    """`base` with its updates guided by the importance of each weight in `slots`.

    One step at stage `gradient`: I = metric(theta, grad); grad <- -g(I) * grad; `base.step()`. At stage `update`:
    theta' = what `base` makes of theta; theta <- theta + -g(I) * (theta' - theta), so that g = 0 undoes momentum and
    weight decay too. For plain SGD both are the row's f, g, h (`rules.py`).

    method: a row of the table, by name. slots: the weights that it acts on (`scope_of(model)`).
    importance: another metric than the row's. norm: scores are normalised within a `tensor` or over all (`global`).
    stage: where g acts; default is the row's. start: the first update (counted from 1) at which the method acts.

    Masked gradients do not freeze a weight under momentum or weight decay: use stage="update" for that. The gradient
    is changed in place, so measure it before `step()`. A base that needs a closure (LBFGS) cannot be guided.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        slots: Iterable[Slot],
        method: str | Rule = "weighted_freeze",
        *,
        importance: str | None = None,
        norm: Literal["tensor", "global"] = "tensor",
        stage: Literal["gradient", "update"] | None = None,
        start: int = 1,
        seed: int = 1,
    ) -> None:
        rule = method if isinstance(method, Rule) else RULES.get(method)
        if rule is None or rule.kind != "optimizer" or rule.status != "available":
            known = ", ".join(
                row.name for row in RULES.values() if row.kind == "optimizer" and row.status == "available"
            )
            raise ValueError(f"unknown or not yet available optimizer method {method!r}; choose one of: {known}")
        self.base = base
        super().__setstate__({})  # torch's step hooks, without a second copy of param_groups and state
        self.slots = list(slots)
        self.rule = rule
        self.importance = _choice("importance", importance or rule.metric, METRICS)
        self.norm = _choice("norm", norm, NORMS)
        self.stage = _choice("stage", stage or rule.stage, STAGES)
        self.start = start
        self.seed = seed
        self.updates = 0
        self.record = False
        self.recorded: dict[str, Tensor] = {}
        _check_slots(base, self.slots)

    # What a torch optimizer is asked for, answered by the base.

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.base.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Hand new parameters to the base; they are not guided."""
        self.base.add_param_group(param_group)

    def __repr__(self) -> str:
        return f"GuidedOptimizer({self.rule.name}, {self.stage}, {len(self.slots)} slots, base={self.base!r})"

    # State: the base's, and one small entry beside it.

    def state_dict(self) -> dict[str, Any]:
        """The base's state dict with one more key: what is needed to draw the same masks after a resume."""
        own = {"method": self.rule.name, "base": type(self.base).__name__, "updates": self.updates}
        return {**self.base.state_dict(), STATE_KEY: own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this method, or of the bare base optimizer, whose updates then count as none."""
        own = state_dict.get(STATE_KEY)
        if own is None:
            logger.warning("this state is of a plain optimizer: %s starts afresh on it", self.rule.name)
        else:
            for what, mine in (("method", self.rule.name), ("base", type(self.base).__name__)):
                if own[what] != mine:
                    raise ValueError(f"this state was saved with {what} {own[what]!r}, but this run has {mine!r}")
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != STATE_KEY})
        self.updates = 0 if own is None else int(own["updates"])

    # The step.

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update of the base, guided. `closure` recomputes loss and gradients first, as in torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.updates += 1
        acts = self.updates >= self.start
        active = [slot for slot in self.slots if acts and len(slot) and slot.grad is not None]
        self.recorded = self._statistics(active) if self.record else {}
        if self.stage == "gradient":
            self._guide_gradients(active)
            self.base.step()
        else:
            before = [(slot.weight, slot.weight.clone(), self._factor(slot, r)) for slot, r in self._ranged(active)]
            self.base.step()
            for weight, old, factor in before:
                weight.copy_(torch.lerp(old, weight, factor.to(weight.dtype)))
        return loss

    def _guide_gradients(self, active: Sequence[Slot]) -> None:
        """grad <- -g(I) * grad: by the C twin where that reads the tensors, else block by block in torch."""
        pairs = [(slot.weight, _grad(slot)) for slot in active]
        if pairs and self._native_reads(pairs):
            native.freeze_(pairs, [self._key(slot) for slot in active], self.importance, self.norm == "global")
            return
        for slot, bounds in self._ranged(active):
            for start, (weight, grad) in self._blocks(slot):
                grad.mul_(self._minus_g(slot, bounds, start, weight, grad))

    def _native_reads(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
        # Identity, not the name: a row that somebody changed must run as changed.
        return (
            self.rule is RULES["weighted_freeze"]
            and all(native.suits(weight, grad) for weight, grad in pairs)
            and native.load() is not None
        )

    def _key(self, slot: Slot) -> tuple[int, int]:
        return stream_key(self.seed, self.updates, slot.name)

    def _blocks(self, slot: Slot) -> Iterable[tuple[int, tuple[Tensor, ...]]]:
        size = _CPU_BLOCK if slot.parameter.device.type == "cpu" else len(slot)
        return blocks(len(slot), size, slot.weight, _grad(slot))

    def _scores(self, weight: Tensor, grad: Tensor) -> Tensor:
        """I, in float32 at least: half precision cannot hold a square of a gradient."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return METRICS[self.importance](weight.to(dtype), grad.to(dtype))

    def _ranged(self, active: Sequence[Slot]) -> Iterable[tuple[Slot, Range]]:
        """Each slot with the smallest and largest score that its own are normalised by."""
        ranges = (self._range(slot) for slot in active)
        if self.norm == "global" and active:
            found = list(ranges)
            lo = torch.stack([bounds[0].to(found[0][0]) for bounds in found]).amin()
            hi = torch.stack([bounds[1].to(found[0][1]) for bounds in found]).amax()
            ranges = ((lo.to(slot.parameter.device), hi.to(slot.parameter.device)) for slot in active)
        return zip(active, ranges, strict=True)

    def _range(self, slot: Slot) -> Range:
        found = [torch.aminmax(self._scores(weight, grad)) for _, (weight, grad) in self._blocks(slot)]
        return torch.stack([f.min for f in found]).amin(), torch.stack([f.max for f in found]).amax()

    def _minus_g(self, slot: Slot, bounds: Range, start: int, weight: Tensor, grad: Tensor) -> Tensor:
        """-g(I) for one block."""
        scores = self._scores(weight, grad)
        u = uniform(scores.numel(), self._key(slot), start, scores.device).view(scores.shape)
        return -self.rule.g.value(scores, Given(lo=bounds[0], hi=bounds[1], u=u))

    def _factor(self, slot: Slot, bounds: Range) -> Tensor:
        """-g(I) for a whole slot, in the weight's shape."""
        parts = [self._minus_g(slot, bounds, start, *pair) for start, pair in self._blocks(slot)]
        return parts[0] if len(parts) == 1 else torch.cat(parts).view(slot.shape)

    def _statistics(self, active: Sequence[Slot]) -> dict[str, Tensor]:
        """Fraction frozen (-g = 0) of the weights in scope, mean and standard deviation of I; nothing is synchronised.

        Empty before `start`. Costs one pass more: record only the updates that are logged.
        """
        sums = None
        for slot, bounds in self._ranged(active):
            for start, (weight, grad) in self._blocks(slot):
                scores = self._scores(weight, grad).double()
                frozen = (self._minus_g(slot, bounds, start, weight, grad) == 0).sum()
                part = torch.stack([frozen.double(), scores.sum(), scores.square().sum()])
                sums = part if sums is None else sums + part.to(sums.device)
        if sums is None:
            return {}
        frozen, total, squares = sums / sum(map(len, active))
        deviation = (squares - total.square()).clamp_min(0).sqrt()
        return {"frozen_fraction": frozen, "importance_mean": total, "importance_std": deviation}


def _choice(what: str, value: str, known: Iterable[str]) -> str:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; choose one of: {', '.join(known)}")
    return value


def _grad(slot: Slot) -> Tensor:
    grad = slot.grad
    assert grad is not None
    return grad


def _check_slots(base: torch.optim.Optimizer, slots: Sequence[Slot]) -> None:
    """Every slot lies in a parameter that the base updates, and no two share a name (or they would share a mask)."""
    held = {id(p) for group in base.param_groups for p in group["params"]}
    strangers = [slot.name for slot in slots if id(slot.parameter) not in held]
    if strangers:
        raise ValueError(f"the base optimizer does not hold {', '.join(strangers[:3])}; build both from one model")
    if len({slot.name for slot in slots}) != len(slots):
        raise ValueError("two weights have the same name; give each slot a name of its own")
    if not slots:
        raise ValueError("there is no weight to guide; build the slots with scope_of(model, scope='all')")
