"""What every guided optimizer is: a torch optimizer around another one that it never patches and never subclasses.

The base answers whatever an optimizer is asked; state is the base's with one more key. The two
ways to guide, by scores measured in every update (`guided.py`) and by a mask that stays (`fixed.py`), are subclasses.
Left out on purpose: any mathematics.
"""

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .base_step import step_base
from .importance import METRICS
from .rules import RULES, Rule, rows, rule_of
from .scope import Slot, block_size, blocks

logger = logging.getLogger(__name__)

NORMS = ("tensor", "global")  # over what scores are compared: within each tensor, or over all slots
STATE_KEY = "guided"
# Labels under which earlier versions saved a row.
_EARLIER_LABELS = {
    "weighted_freeze": "weighted_freeze (important)",
    "sage": "sage (li)",
    "sage (average)": "sage (full)",
}


class WrappedOptimizer(torch.optim.Optimizer, ABC):
    """`base` with its updates changed on the weights in `slots`, as one optimizer row of the table says.

    A base that needs a closure (LBFGS) is refused. `record = True` before a step has statistics measured into
    `recorded`, and what they come from of each slot into `noted`; nothing is synchronised.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        slots: Iterable[Slot],
        rule: Rule,
        importance: str | None,
        seed: int,
        base_fused: bool,
    ) -> None:
        _refuse_closure(base)
        self.base = base
        super().__setstate__({})  # torch's step hooks, without a second copy of param_groups and state
        self.slots = list(slots)
        self.rule = rule
        self.importance = choice("importance", importance or rule.metric, METRICS)
        self.seed = seed
        self.base_fused = base_fused
        self.updates = 0
        self.record = False
        self.noted: dict[str, Tensor] = {}
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
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad.detach_().zero_()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Hand new parameters to the base; they are not guided."""
        self.base.add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: no hooks, nor what a schedule put in place of `step`, as in torch's optimizers.

        A row of the table goes by name, so that a copy has that very row.
        """
        own = {k: v for k, v in vars(self).items() if k != "step" and not k.endswith("_hooks")}
        return {**own, "rule": (self.rule.name, self.rule.variant)} if self.rule in rows() else own

    def __setstate__(self, state: dict[str, Any]) -> None:
        rule = state["rule"]
        super().__setstate__({**state, "rule": rule if isinstance(rule, Rule) else rule_of(*rule)})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rule.name}, {len(self.slots)} slots, base={self.base!r})"

    # State: the base's, and one small entry beside it.

    def state_dict(self) -> dict[str, Any]:
        """The base's state dict with one more key: what is needed to go on with the same masks and averages."""
        own = {"method": self.rule.label, "base": type(self.base).__name__, "updates": self.updates}
        return {**self.base.state_dict(), STATE_KEY: {**own, **self._own_state()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this method, or of the bare base optimizer, whose updates then count as none."""
        own = state_dict.get(STATE_KEY)
        if own is None:
            logger.warning("this state is of a plain optimizer: %s starts afresh on it", self.rule.name)
        else:
            method = _EARLIER_LABELS.get(own["method"], own["method"])
            for what, saved, expected in (
                ("method", method, self.rule.label),
                ("base", own["base"], type(self.base).__name__),
            ):
                if saved != expected:
                    raise ValueError(f"this state was saved with {what} {saved!r}, but this run has {expected!r}")
        self._load_own_state(own or {})
        self._load_base_state({key: value for key, value in state_dict.items() if key != STATE_KEY})
        self.updates = 0 if own is None else int(own["updates"])

    def _load_base_state(self, state_dict: dict[str, Any]) -> None:
        """Load the base, and undo torch's cast of its state to the precision of half-precision parameters."""
        self.base.load_state_dict(state_dict)
        saved_ids = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [p for group in self.base.param_groups for p in group["params"]]
        for index, p in zip(saved_ids, params, strict=True):
            for key, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    loaded = self.base.state[p][key]
                    if loaded.dtype != value.dtype and key != "step":
                        self.base.state[p][key] = value.to(p.device, copy=True)

    @property
    def extra_bytes(self) -> int:
        """What is kept in memory beside the base's state."""
        return 0

    def _own_state(self) -> dict[str, Any]:
        """Tensors and plain values beside the base's state."""
        return {}

    def _load_own_state(self, own: dict[str, Any]) -> None:
        """Take them back; an empty dict means a start on a plain state."""

    # The step.

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update of the base, guided. `closure` recomputes loss and gradients first, as in torch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.updates += 1
        self._update([slot for slot in self.slots if len(slot) and slot.grad is not None])
        return loss

    def _step_base(self) -> None:
        step_base(self.base, self.base_fused)

    @abstractmethod
    def _update(self, active: Sequence[Slot]) -> None:
        """Guide and step the base; `active` are the slots that have a gradient."""

    # What an update does, measured where it is asked for.

    def _note(self, active: Sequence[Slot]) -> None:
        """Have I and its effect measured, if this update is recorded; empty where the row does not act yet.

        Costs one pass more: record only the updates that are logged.
        """
        self.noted = {slot.name: sums for slot, sums in self._sums(active)} if self.record else {}
        self.recorded = {}
        if self.noted:
            device = active[0].parameter.device
            total = torch.stack([sums.to(device) for sums in self.noted.values()]).sum(0)
            mean_effect, mean, squares = total / sum(map(len, active))
            deviation = (squares - mean.square()).clamp_min(0).sqrt()
            effect = "scale_mean" if self.rule.scales else "frozen_fraction"
            self.recorded = {effect: mean_effect, "importance_mean": mean, "importance_std": deviation}

    @abstractmethod
    def _sums(self, active: Sequence[Slot]) -> Iterable[tuple[Slot, Tensor]]:
        """Of each slot the sums of the effect, of I and of I ** 2, in float64.

        The effect on a number is its factor where the row `scales`, and else 1 if it is frozen.
        """

    @property
    def frozen(self) -> dict[str, float] | None:
        """How many numbers of each slot are frozen in an update that was recorded; None for a row that scales."""
        return None if self.rule.scales else {name: float(sums[0]) for name, sums in self.noted.items()}

    # What both ways to guide need.

    def _blocks(self, slot: Slot, *more: Tensor) -> Iterable[tuple[int, tuple[Tensor, ...]]]:
        """Weight, gradient and `more` of a slot, a block at a time, with the position of each block."""
        weight = slot.weight
        return blocks(len(slot), block_size(weight), weight, gradient(slot), *more)

    def _scores(self, weight: Tensor, grad: Tensor) -> Tensor:
        """I, in float32 at least: half precision cannot hold a square of a gradient."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return METRICS[self.importance](weight.to(dtype), grad.to(dtype))


def choice(what: str, value: str, known: Iterable[str]) -> str:
    """`value`, or an error that lists what there is."""
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; choose one of: {', '.join(known)}")
    return value


def optimizer_row(method: str | Rule, variant: str, measured: bool) -> Rule:
    """The available optimizer row `method` whose I is measured in every update, or whose mask stays."""
    if isinstance(method, Rule):
        return method
    known = [row.name for row in RULES.values() if row.kind == "optimizer" and row.measured == measured]
    return rule_of(choice("or not yet available optimizer method", method, known), variant)


def gradient(slot: Slot) -> Tensor:
    """The gradient of a slot that has one."""
    grad = slot.grad
    assert grad is not None
    return grad


def _refuse_closure(base: torch.optim.Optimizer) -> None:
    """A base that computes the loss several times in one step changes weights between two measurements of I."""
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"{type(base).__name__} cannot be guided: its step needs a closure; "
            "give a base whose step can be called without one, such as torch.optim.AdamW"
        )


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
