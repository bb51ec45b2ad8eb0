"""The base class of the optimizers that apply a row: a `torch.optim.Optimizer` that wraps another one.

Parameter groups and state are those of the wrapped optimizer; the state dict has one more key. `optimizers.py` lists
the subclasses.
"""

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base_step import leaves_gradients, step_base
from .importance import METRICS
from .rules import RULES, Rule, rows, rule_of
from .scope import Slot, block_size, blocks

logger = logging.getLogger(__name__)

NORMS = ("tensor", "global")  # scores are compared within each tensor, or over all slots
STATE_KEY = "guided"
# Labels under which earlier versions saved a row.
_EARLIER_LABELS = {
    "weighted_freeze": "weighted_freeze (important)",
    "sage": "sage (li)",
    "sage (average)": "sage (full)",
}


class WrappedOptimizer(torch.optim.Optimizer, ABC):
    """Changes the updates of `base` on the weights in `slots` according to an optimizer row of the table.

    A subclass applies the rows of its `stages` that need nothing beside what it `gives`, which are quantities of
    `Given`. A base that needs a closure (LBFGS) is rejected. With `record = True` a step also measures statistics:
    `recorded` holds those of all slots as tensors, and `frozen_counts` the frozen numbers of each slot. Measuring does
    not synchronize with the GPU.
    """

    gives: ClassVar[frozenset[str]]
    stages: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        base: torch.optim.Optimizer,
        slots: Iterable[Slot],
        method: str | Rule,
        importance: str | None,
        seed: int,
        base_fused: bool,
        variant: str = "",
        start: int = 1,
    ) -> None:
        rule = self._rule_of(method, variant)
        _reject_closure(base)
        self.base = base
        super().__setstate__({})  # sets up PyTorch's step hooks; __init__ would also create param_groups and a state
        self.slots = list(slots)
        self.rule = rule
        self.importance = choice("importance", importance or rule.metric, dict.fromkeys((*METRICS, rule.metric)))
        self.start = start
        self.seed = seed
        self.base_fused = base_fused
        self.updates = 0
        self.record = False
        self._slot_sums: dict[str, Tensor] = {}
        self.recorded: dict[str, Tensor] = {}
        _check_slots(base, self.slots)

    @classmethod
    def applies(cls, rule: Rule) -> bool:
        """Whether this class applies a row."""
        return rule.kind == "optimizer" and rule.stage in cls.stages and cls.gives.issuperset(rule.needs)

    @classmethod
    def _rule_of(cls, method: str | Rule, variant: str) -> Rule:
        """The row named `method` among those that this class applies; a row is taken as it is."""
        if isinstance(method, Rule):
            return method
        names = [name for name, row in RULES.items() if cls.applies(row)]
        return rule_of(choice("optimizer method", method, names), variant)

    def _checked_fraction(self, fraction: float | None) -> float | None:
        """Return `fraction`, which must be given for a row that needs it, and for no other."""
        needed = "fraction" in self.rule.needs
        if fraction is None and needed:
            raise ValueError(f"{self.rule.label} needs fraction, the share that is updated, such as fraction=0.5")
        if fraction is not None and not (needed and 0 < fraction <= 1):
            methods = [repr(name) for name, row in RULES.items() if "fraction" in row.needs and self.applies(row)]
            raise ValueError(
                f"fraction must be above 0 and at most 1, such as 0.5, and needs method {' or '.join(methods)}; "
                f"got {fraction} for {self.rule.label}"
            )
        return fraction

    # The interface of torch.optim.Optimizer, delegated to the base.

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
        """Add parameters to the base. They are not guided: a warning names them."""
        self.base.add_param_group(param_group)
        added = self.base.param_groups[-1]
        names = added.get("param_names") or [str(tuple(parameter.shape)) for parameter in added["params"]]
        logger.warning(
            "%s does not act on parameters that are added later (%s); only %s updates them. To guide them, make the "
            "optimizer when the model has all its parameters",
            self.rule.name, ", ".join(map(str, names)), type(self.base).__name__,
        )  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """The attributes to copy or pickle: without hooks and a scheduler's replacement of `step`, as in PyTorch.

        A row of the table is stored by name, since its functions cannot be pickled.
        """
        attributes = {k: v for k, v in vars(self).items() if k != "step" and not k.endswith("_hooks")}
        return {**attributes, "rule": (self.rule.name, self.rule.variant)} if self.rule in rows() else attributes

    def __setstate__(self, state: dict[str, Any]) -> None:
        rule = state["rule"]
        super().__setstate__({**state, "rule": rule if isinstance(rule, Rule) else rule_of(*rule)})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rule.name}, {len(self.slots)} slots, base={self.base!r})"

    # State.

    def state_dict(self) -> dict[str, Any]:
        """The base's state dict with one more key, the state of the method."""
        state = {"method": self.rule.label, "base": type(self.base).__name__, "updates": self.updates}
        return {**self.base.state_dict(), STATE_KEY: {**state, **self._method_state()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this method, or one of the bare base optimizer, with which the method starts at update 0."""
        state = state_dict.get(STATE_KEY, {})
        if not state:
            logger.warning("the optimizer state was saved without %s, which starts at update 0", self.rule.name)
        else:
            method = _EARLIER_LABELS.get(state["method"], state["method"])
            base = type(self.base).__name__
            for name, saved, expected in (("method", method, self.rule.label), ("base", state["base"], base)):
                if saved != expected:
                    raise ValueError(f"this state was saved with {name} {saved!r}, but this run has {expected!r}")
        self._load_method_state(state)
        self._load_base_state({key: value for key, value in state_dict.items() if key != STATE_KEY})
        self.updates = int(state.get("updates", 0))

    def _load_base_state(self, state_dict: dict[str, Any]) -> None:
        """Load the base's state in its saved dtype: PyTorch casts it to the dtype of half-precision parameters."""
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
        """Memory that the method needs beside the base's state."""
        return 0

    def _method_state(self) -> dict[str, Any]:
        """Tensors and plain values that the method saves."""
        return {}

    def _load_method_state(self, state: dict[str, Any]) -> None:
        """Load them; the dict is empty if the method was not used before."""

    # The step.

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One guided step of the base. `closure`, if given, first computes loss and gradients, as in PyTorch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.updates += 1
        self._update([slot for slot in self.slots if len(slot) and slot.grad is not None and self.started])
        return loss

    @property
    def started(self) -> bool:
        """Whether the method acts in this update."""
        return self.updates >= self.start

    def _step_base(self) -> None:
        step_base(self.base, self.base_fused)

    def _step_base_and_keep(self, slots: Sequence[Slot]) -> list[tuple[Tensor, Tensor]]:
        """Step the base; returns the weight and the gradient of each slot from before the step."""
        leaves = leaves_gradients(self.base)
        kept = [(s.weight.clone(), gradient(s) if leaves else gradient(s).clone()) for s in slots]
        self._step_base()
        return kept

    @abstractmethod
    def _update(self, active: Sequence[Slot]) -> None:
        """Guide and step the base; `active` are the slots that have a gradient, none before `start`."""

    # Statistics of an update.

    def _record_statistics(self, sums_of_slots: Iterable[tuple[Slot, Tensor]]) -> None:
        """Set `recorded` if `record` is set; empty before the method's first update.

        sums_of_slots: for each slot the sums of the effect, of I and of I ** 2, in float64. The effect on a number is
        its factor if the row `scales`, else 1 if the number is frozen. They are computed only when they are recorded,
        which takes one more pass over the weights.
        """
        sums = list(sums_of_slots) if self.record else []
        self._slot_sums = {slot.name: slot_sums for slot, slot_sums in sums}
        self.recorded = {}
        if sums:
            device = sums[0][1].device
            total = torch.stack([slot_sums.to(device) for _, slot_sums in sums]).sum(0)
            effect, mean, mean_square = total / sum(len(slot) for slot, _ in sums)
            std = (mean_square - mean.square()).clamp_min(0).sqrt()
            name = "scale_mean" if self.rule.scales else "frozen_fraction"
            self.recorded = {name: effect, "importance_mean": mean, "importance_std": std}

    @property
    def frozen_counts(self) -> dict[str, float] | None:
        """How many numbers of each slot were frozen in the last recorded update; None for a row that scales."""
        return None if self.rule.scales else {name: float(sums[0]) for name, sums in self._slot_sums.items()}

    def _mask_sums(self, slot: Slot, frozen: Tensor | float) -> Tensor:
        """The sums of a slot before the base's step; frozen: how many of its numbers are."""
        sums = torch.zeros(3, dtype=torch.float64, device=slot.parameter.device)
        for _, (weight, grad) in self._blocks(slot, slot.weight, gradient(slot)):
            scores = self._scores(weight, grad).double()
            sums[1:] += torch.stack([scores.sum(), scores.square().sum()])
        sums[0] = frozen
        return sums

    def _block_sums(self, factor: Tensor, scores: Tensor) -> Tensor:
        """The sums of a block, or of a slot."""
        effect = factor.double().sum() if self.rule.scales else (factor == 0).sum().double()
        scores = scores.double()
        return torch.stack([effect, scores.sum(), scores.square().sum()])

    # Scores.

    def _blocks(self, slot: Slot, *tensors: Tensor) -> Iterable[tuple[int, tuple[Tensor, ...]]]:
        """Blocks of a slot: the position of each, and its part of `tensors`.

        A row that selects a share of the numbers of a tensor gets the tensor in one block.
        """
        size = len(slot) if "fraction" in self.rule.needs else block_size(slot.parameter)
        return blocks(len(slot), size, *tensors)

    def _scores(self, weight: Tensor, grad: Tensor) -> Tensor:
        """I, at least in float32, because a squared gradient underflows in half precision."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return METRICS[self.importance](weight.to(dtype), grad.to(dtype))


def choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is among `choices`, else raise an error that lists them."""
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose one of: {', '.join(choices)}")
    return value


def gradient(slot: Slot) -> Tensor:
    """The gradient of a slot that has one."""
    grad = slot.grad
    assert grad is not None
    return grad


def _reject_closure(base: torch.optim.Optimizer) -> None:
    """Reject a base that computes the loss several times in one step: its weights change after I was measured."""
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"{type(base).__name__} cannot be guided: its step needs a closure; "
            "give a base whose step can be called without one, such as torch.optim.AdamW"
        )


def _check_slots(base: torch.optim.Optimizer, slots: Sequence[Slot]) -> None:
    """Check that the base updates every slot, and that names are unique: random masks are drawn by name."""
    base_ids = {id(p) for group in base.param_groups for p in group["params"]}
    missing = [slot.name for slot in slots if id(slot.parameter) not in base_ids]
    if missing:
        raise ValueError(
            f"the base optimizer does not hold {', '.join(missing[:3])}; build slots and optimizer from the same model"
        )
    if len({slot.name for slot in slots}) != len(slots):
        raise ValueError("two slots have the same name; give each slot a unique name")
    if not slots:
        raise ValueError("slots is empty; build it with scope_of(model, scope='all')")
