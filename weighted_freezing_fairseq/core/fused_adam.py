"""Adam and what guides it in one pass over weight, gradient and moments (`native.py`, `launched.py`).

One table says whose Adam can be stepped so: each class by its own formula, on the base's own state, so that the base
itself, or another machine, can go on with it at any update. On a CPU with the bits of the base, on a GPU up to
rounding. Left out on purpose: whatever is unusual (amsgrad, other dtypes, a first step, which makes the state): the
base does that itself.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import native, twins
from .native import NO_FORM, NO_GUIDE, Arithmetic, Form, Guide, Numbers, Part
from .scope import Slot

Group = Mapping[str, Any]

_ADD_TO_WEIGHT, _SCALE_WEIGHT, _ADD_TO_GRADIENT = 1, 2, 3  # the enum of weight decays in kernels.c


def _fairseq(group: Group, step: float) -> Numbers:
    beta1, beta2 = group["betas"]
    rate = group["lr"] * math.sqrt(1 - beta2**step) / (1 - beta1**step)
    decay = -group["weight_decay"] * group["lr"]
    decays = _ADD_TO_WEIGHT if group["weight_decay"] != 0 else 0
    return Numbers(decays, False, decay, beta1, 1 - beta1, beta2, 1 - beta2, 1.0, group["eps"], -rate)


def _torch(group: Group, step: float, decoupled: bool) -> Numbers:
    beta1, beta2 = group["betas"]
    decays, decay = 0, group["weight_decay"]
    if decay != 0:
        decays, decay = (_SCALE_WEIGHT, 1 - group["lr"] * decay) if decoupled else (_ADD_TO_GRADIENT, decay)
    rate, scale = group["lr"] / (1 - beta1**step), (1 - beta2**step) ** 0.5
    return Numbers(decays, True, decay, beta1, 1 - beta1, beta2, 1 - beta2, scale, group["eps"], -rate)


# By the name of the very class (a subclass may step in another way): what it multiplies by, at the n-th step.
FORMULAS: Mapping[str, Callable[[Group, float], Numbers]] = MappingProxyType(
    {
        "fairseq.optim.adam.Adam": _fairseq,
        "torch.optim.adam.Adam": lambda group, step: _torch(group, step, group.get("decoupled_weight_decay", False)),
        "torch.optim.adamw.AdamW": lambda group, step: _torch(group, step, True),
    }
)
# Options of these classes that ask for another step than the formula's.
_UNUSUAL = ("amsgrad", "maximize", "capturable", "differentiable", "foreach", "fused")
# For a short parameter of the base the whole one, and the positions in it that the short one stands for.
Picked = Mapping[Tensor, tuple[Tensor, Tensor]]


class _Stepped(NamedTuple):
    """A parameter with a gradient, and the options and the state that the base has for it or for `positions` of it."""

    parameter: Tensor
    grad: Tensor
    positions: Tensor | None
    group: Group
    state: dict[str, Any]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What a kernel must be able to read."""
        return self.parameter, self.grad, self.state["exp_avg"], self.state["exp_avg_sq"]


class FusedAdam:
    """The next step of a base optimizer that is one of `FORMULAS`, with guides inside.

    exact: whether the step without guides has the bits of the base's own.
    """

    def __init__(
        self, base: torch.optim.Optimizer, stepped: Sequence[_Stepped], step: Callable[..., None], exact: bool
    ) -> None:
        self.formula = FORMULAS[_name(base)]
        self.stepped = stepped
        self.step = step
        self.exact = exact

    @classmethod
    def of(cls, base: torch.optim.Optimizer, picked: Picked = MappingProxyType({})) -> "FusedAdam | None":
        """The step, or None where only the base itself can take it."""
        stepped = _stepped(base, picked) if _name(base) in FORMULAS and not _watched(base) else None
        twin = twins.of(tensor for each in stepped or () for tensor in each.tensors)
        if stepped is None or twin is None:
            return None
        if twin is not native:
            return cls(base, stepped, twin.step_, exact=False)
        arithmetic = _arithmetic()
        return arithmetic and cls(base, stepped, partial(native.step_, arithmetic=arithmetic), exact=True)

    def take_(
        self,
        guides: Sequence[tuple[Slot, Guide]],
        metric: str = "magnitude",
        form: Form = NO_FORM,
        shared_range: bool = False,
    ) -> None:
        """Step every parameter; of those that slots lie in, guide these slots."""
        by_parameter: dict[int, list[tuple[Slot, Guide]]] = {}
        for slot, guide in guides:
            by_parameter.setdefault(id(slot.parameter), []).append((slot, guide))
        groups: dict[tuple[int, float], int] = {}
        numbers: list[Numbers] = []
        parts: list[Part] = []
        for parameter, grad, positions, group, state in self.stepped:
            state["step"] += 1
            step = float(state["step"])
            index = groups.setdefault((id(group), step), len(numbers))
            if index == len(numbers):
                numbers.append(self.formula(group, step))
            moments, guided = (state["exp_avg"], state["exp_avg_sq"]), by_parameter.get(id(parameter))
            if positions is not None:
                parts.append(Part(parameter, grad, moments, index, Guide(native.PICK, more=positions)))
            elif guided is None:
                parts.append(Part(parameter, grad, moments, index))
            elif guided[0][0].start is None:
                parts.append(Part(parameter, grad, moments, index, guided[0][1]))
            else:
                parts += _cut(parameter.detach(), grad, moments, index, guided)
        parts.sort(key=lambda part: -part.length)  # the last to be taken are short
        self.step(parts, numbers, metric, form, shared_range)


def _name(base: torch.optim.Optimizer) -> str:
    return f"{type(base).__module__}.{type(base).__qualname__}"


def _watched(base: torch.optim.Optimizer) -> bool:
    """Whether somebody would notice that `base.step` is not called: a hook of its own, or a step that was replaced."""
    return bool("step" in vars(base) or base._optimizer_step_pre_hooks or base._optimizer_step_post_hooks)


def _stepped(base: torch.optim.Optimizer, picked: Picked) -> list[_Stepped] | None:
    """Every parameter that the base would step, or None if one of them, or an option, is not for the kernel."""
    found = []
    for group in base.param_groups:
        floats = (group["lr"], group["weight_decay"], group["eps"], *group["betas"])
        if any(group.get(key) for key in _UNUSUAL) or any(isinstance(value, Tensor) for value in floats):
            return None
        if group["betas"][0] <= 0.5:  # torch's lerp has another formula there
            return None
        for parameter in group["params"]:
            whole, positions = picked.get(parameter, (parameter, None))
            grad = whole.grad
            if grad is None or (positions is not None and not len(positions)):
                continue
            state = base.state.get(parameter)
            if not state:
                return None  # the base makes it in its own way
            found.append(_Stepped(whole, grad, positions, group, state))
    return found


def _cut(
    weight: Tensor, grad: Tensor, moments: tuple[Tensor, Tensor], group: int, guides: Sequence[tuple[Slot, Guide]]
) -> Iterator[Part]:
    """A parameter's tensors as the slots cut them, what lies between slots without a guide."""
    flat = [tensor.view(-1) for tensor in (weight, grad, *moments)]

    def part(start: int, stop: int, guide: Guide = NO_GUIDE) -> Part:
        w, g, m, v = (tensor[start:stop] for tensor in flat)
        return Part(w, g, (m, v), group, guide)

    at = 0
    for slot, guide in sorted(guides, key=lambda pair: pair[0].start or 0):
        start = slot.start or 0
        yield part(at, start)
        at = start + len(slot)
        yield part(start, at, guide)
    yield part(at, len(flat[0]))


# How torch computes ---------------------------------------------------------------------------------------------------


@cache
def _arithmetic() -> Arithmetic | None:
    """What makes the kernel's bits those of torch here, found by trial; None if nothing does.

    It depends on the processor and on what torch was built with: vectorised x * y + z rounds once or twice, and MKL's
    square root, which most builds of torch call, is not always the nearest number.
    """
    for mkl in (_mkl(), None):
        for contracted in (True, False):
            if _same_bits(Arithmetic(contracted, mkl)):
                return Arithmetic(contracted, mkl)
    return None


def _mkl() -> tuple[int, int] | None:
    """What `Arithmetic` says of the MKL inside torch, if it is there."""
    library = native.torch_itself()
    try:
        root, threads = library.vmsSqrt, library.MKL_Set_Num_Threads_Local  # type: ignore[union-attr]
    except AttributeError:
        return None
    return native.address(root), native.address(threads)


def _same_bits(arithmetic: Arithmetic) -> bool:
    """Whether torch's Adam and the kernel agree on some thousand numbers of all sizes, and on a vector's odd end."""
    generator = torch.Generator("cpu").manual_seed(1)
    drawn = torch.empty(6, 4099, dtype=torch.float32, device="cpu").normal_(generator=generator)
    drawn = drawn[:3] * drawn[3:].exp()
    results = []
    for fused in (False, True):
        parameter = torch.nn.Parameter(drawn[0].clone())
        base = torch.optim.Adam([parameter], lr=0.01, betas=(0.9, 0.98), weight_decay=0.01, foreach=False)
        for step in range(2):
            parameter.grad = drawn[1 + step].clone()
            stepped = _stepped(base, {}) if fused and step else None
            if stepped is None:
                base.step()
            else:
                FusedAdam(base, stepped, partial(native.step_, arithmetic=arithmetic), exact=True).take_([])
        state = base.state[parameter]
        results.append(torch.stack([parameter.detach(), state["exp_avg"], state["exp_avg_sq"]]))
    return torch.equal(*results)
