"""The step of the base optimizer: `base.step()`, or PyTorch's fused implementation of it for a plain Adam.

The fused step works on the base's state, so `base.step()` can continue at any update. It equals the base's step up to
rounding and takes about a third of its time on a CPU. The base itself makes the first step, which creates its state,
and steps with unusual options or dtypes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

Options = Mapping[str, Any]  # one entry of an optimizer's `param_groups`


@dataclass(frozen=True)
class AdamFormula:
    """How an implementation of Adam differs from `torch.optim.Adam`.

    decoupled: weight decay is applied to the weight (AdamW), not added to the gradient (Adam).
    eps_before_correction: eps is added to sqrt(v) before the bias correction of v; PyTorch adds it afterwards.
    """

    decoupled: bool
    eps_before_correction: bool = False

    def eps(self, group: Options, step: float) -> float:
        """The eps of PyTorch's formula that has the same effect: eps / sqrt(1 - beta2 ** step) if added before."""
        if not self.eps_before_correction:
            return float(group["eps"])
        return float(group["eps"]) / math.sqrt(1 - group["betas"][1] ** step)


# Looked up by exact class, since a subclass may compute another step. Users of other Adams add theirs here.
ADAMS: dict[type[torch.optim.Optimizer], AdamFormula] = {
    torch.optim.Adam: AdamFormula(decoupled=False),
    torch.optim.AdamW: AdamFormula(decoupled=True),
}
# Options that select another formula or another implementation.
_UNUSUAL = ("amsgrad", "maximize", "capturable", "differentiable", "foreach", "fused")


def step_base(base: torch.optim.Optimizer, fused: bool = True) -> None:
    """Step `base`, by PyTorch's fused Adam if `fused` is set and the base supports it."""
    formula = ADAMS.get(type(base))
    batches = _batches(base) if fused and formula is not None and not _hooked(base) else None
    if formula is None or batches is None:
        base.step()
        return
    for group, step, parameters in batches:
        states = [base.state[p] for p in parameters]
        for state in states:
            state["step"] += 1
        time = torch.full((), step, device=parameters[0].device)
        decoupled = formula.decoupled or bool(group.get("decoupled_weight_decay"))
        fused_step = torch._fused_adamw_ if decoupled else torch._fused_adam_
        fused_step(
            parameters,
            [_gradient(p) for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [time] * len(parameters),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=formula.eps(group, step),
            amsgrad=False,
            maximize=False,
        )


def leaves_gradients(base: torch.optim.Optimizer) -> bool:
    """Whether a step of `base` is known not to change gradients, as PyTorch's SGD with nesterov does on a GPU."""
    return type(base) in ADAMS and not _hooked(base)


def _hooked(base: torch.optim.Optimizer) -> bool:
    """Whether `base` has hooks, or a replacement of its step (a scheduler's), which expect that base.step is called."""
    return bool("step" in vars(base) or base._optimizer_step_pre_hooks or base._optimizer_step_post_hooks)


def _batches(base: torch.optim.Optimizer) -> list[tuple[Options, float, list[Tensor]]] | None:
    """Parameters with a gradient, grouped by options and number of the step; None if the fused step does not fit."""
    batches: list[tuple[Options, float, list[Tensor]]] = []
    for group in base.param_groups:
        options = (group["lr"], group["weight_decay"], group["eps"], *group["betas"])
        if any(group.get(option) for option in _UNUSUAL) or any(isinstance(option, Tensor) for option in options):
            return None
        by_step: dict[float, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = base.state.get(parameter)
            if not state or not _supports(parameter, state):
                return None
            by_step.setdefault(float(state["step"]) + 1, []).append(parameter)
        batches += [(group, step, parameters) for step, parameters in by_step.items()]
    return batches


def _supports(parameter: Tensor, state: Mapping[str, Any]) -> bool:
    """Whether the fused step supports this parameter: dense float32 on a device that has a fused Adam."""
    tensors = (parameter, _gradient(parameter), state["exp_avg"], state["exp_avg_sq"])
    return all(
        t.dtype is torch.float32 and t.layout is torch.strided and t.is_contiguous() and t.device == parameter.device
        for t in tensors
    ) and _works(parameter.device)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@cache
def _works(device: torch.device) -> bool:
    """Whether this version of PyTorch has a fused Adam on this device."""
    parameter = torch.nn.Parameter(torch.zeros(1, device=device))
    parameter.grad = torch.zeros(1, device=device)
    try:
        torch.optim.AdamW([parameter], fused=True).step()
    except (RuntimeError, NotImplementedError):
        return False
    return True
