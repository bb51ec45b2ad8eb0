"""The step of the base optimizer: its own, or for plain Adam torch's fused implementation of the same formula.

The fused step reads and writes the base's own state, so the base itself, or another machine, can go on at any update.
It equals the base's step within rounding, and takes about a third of its time on a CPU. Left out on purpose: unusual
options (amsgrad, other dtypes), and a first step, which creates the state: the base does that itself.
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
    """What distinguishes one Adam from another.

    decoupled: weight decay shrinks the weight (AdamW) in place of adding to the gradient (Adam).
    eps_of_raw_root: eps is added to sqrt(v) before v is corrected for its start at zero; torch adds it after.
    """

    decoupled: bool
    eps_of_raw_root: bool = False

    def eps(self, group: Options, step: float) -> float:
        """The eps for torch's formula: eps / sqrt(1 - beta2 ** t) after the correction is eps before it."""
        if not self.eps_of_raw_root:
            return float(group["eps"])
        return float(group["eps"]) / math.sqrt(1 - group["betas"][1] ** step)


# By the very class: a subclass may step in another way. A host adds its own Adam here.
ADAMS: dict[type[torch.optim.Optimizer], AdamFormula] = {
    torch.optim.Adam: AdamFormula(decoupled=False),
    torch.optim.AdamW: AdamFormula(decoupled=True),
}
# Options that ask for another step than the plain formula's, or for another implementation of it.
_UNUSUAL = ("amsgrad", "maximize", "capturable", "differentiable", "foreach", "fused")


def step_base(base: torch.optim.Optimizer, fused: bool = True) -> None:
    """One step of `base`: by torch's fused Adam where `fused` is set and the base is a plain Adam, else by itself."""
    formula = ADAMS.get(type(base))
    batches = _batches(base) if fused and formula is not None and not _is_watched(base) else None
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


def _batches(base: torch.optim.Optimizer) -> list[tuple[Options, float, list[Tensor]]] | None:
    """Parameters with a gradient that share options and the number of their step; None if the base must step."""
    batches: list[tuple[Options, float, list[Tensor]]] = []
    for group in base.param_groups:
        numbers = (group["lr"], group["weight_decay"], group["eps"], *group["betas"])
        if any(group.get(option) for option in _UNUSUAL) or any(isinstance(number, Tensor) for number in numbers):
            return None
        by_step: dict[float, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = base.state.get(parameter)
            if not state or not _suits(parameter, state):
                return None
            by_step.setdefault(float(state["step"]) + 1, []).append(parameter)
        batches += [(group, step, parameters) for step, parameters in by_step.items()]
    return batches


def _suits(parameter: Tensor, state: Mapping[str, Any]) -> bool:
    """Whether torch's fused step takes this parameter: dense float32 on a device where it works."""
    tensors = (parameter, _gradient(parameter), state["exp_avg"], state["exp_avg_sq"])
    alike = all(
        t.dtype is torch.float32 and t.layout is torch.strided and t.is_contiguous() and t.device == parameter.device
        for t in tensors
    )
    return alike and _works(parameter.device)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _is_watched(base: torch.optim.Optimizer) -> bool:
    """Whether a caller would notice that `base.step` is not called: it has hooks, or its step was replaced."""
    return bool("step" in vars(base) or base._optimizer_step_pre_hooks or base._optimizer_step_post_hooks)


@cache
def _works(device: torch.device) -> bool:
    """Whether this torch has a fused Adam on this device."""
    parameter = torch.nn.Parameter(torch.zeros(1, device=device))
    parameter.grad = torch.zeros(1, device=device)
    try:
        torch.optim.AdamW([parameter], fused=True).step()
    except (RuntimeError, NotImplementedError):
        return False
    return True
