"""What an update must cost: its operations counted, the bytes that its step cannot help moving, and the time of both.

Operations are counted as torch is asked for them, so that no formula has to be believed; bytes are those of the tensors
that the step reads or writes, each moved once. Left out on purpose: the traffic of activations, which depends on how
kernels are fused, so that the time here is one that no code can go below, and not one that some code reaches.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..core import kernels_c

# One operation for each number that is read; all else that computes is pointwise, or a product.
_PER_INPUT = frozenset(
    "sum mean amin amax aminmax linalg_vector_norm _softmax _softmax_backward_data _log_softmax "
    "_log_softmax_backward_data native_layer_norm native_layer_norm_backward".split()
)
_MOVES = frozenset("clone copy fill to_copy".split())  # pointwise to torch, but nothing is computed
# By name: one function counts what torch does in place, and for a CPU, too.
_PRODUCTS = {packet.__name__: count for packet, count in flop_registry.items()}
_SIDE, _COPIED, _TIMES = 1024, 1 << 26, 5  # of the matrices and the bytes that a machine's rates are measured with


class Operations(TorchDispatchMode):
    """Counts while it lasts: `products`, of matrices, two a multiplication and addition; `others`, one a number."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.others = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._overloadpacket.__name__
        product = _PRODUCTS.get(name.removesuffix("_").replace("_for_cpu", ""))
        if product is not None:
            self.products += product(*args, **kwargs, out_val=out)
        elif name in _PER_INPUT:
            self.others += next(arg.numel() for arg in args if isinstance(arg, Tensor))
        elif torch.Tag.pointwise in func.tags and name.strip("_") not in _MOVES:
            self.others += out.numel() if isinstance(out, Tensor) else 0
        return out


def operations(work: Callable[[], None]) -> Operations:
    """Those of `work`, with the torch path in place of C kernels, whose operations nobody sees."""
    with kernels_c.switched_off(), Operations() as found:
        work()
    return found


def step_bytes(optimizer: Any, held: Iterable[Tensor]) -> int:
    """The least traffic of a step: weights, state and averages read and written, gradients, masks and `held` read.

    Weights and gradients count as far as they move: with a mask that stays, the base holds no others.
    """
    base = getattr(optimizer, "base", optimizer)
    moving = [p for group in base.param_groups for p in group["params"] if p in base.state or p.grad is not None]
    state = [value for values in base.state.values() for value in values.values()]
    averages = getattr(optimizer, "averages", {}).values()
    extra = getattr(optimizer, "extra_bytes", 0)  # averages among it
    return 3 * in_bytes(moving) + 2 * in_bytes(state) + in_bytes(averages) + extra + in_bytes(held)


def in_bytes(values: Iterable[Any]) -> int:
    """The size of those `values` that are tensors."""
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


@dataclass(frozen=True)
class Rates:
    """What a machine can do in a second, measured: operations of a large matrix product, bytes of a large copy."""

    flops: float
    bytes: float

    @classmethod
    def of(cls, device: str, wait: Callable[[], None]) -> "Rates":
        """The best of a few attempts: others on the machine can only make it slower."""
        one, two = torch.rand(2, _SIDE, _SIDE, device=device)
        source = torch.rand(_COPIED // 4, device=device)
        goal = torch.empty_like(source)
        products = _best(lambda: torch.mm(one, two), wait)
        copies = _best(lambda: goal.copy_(source), wait)
        return cls(2 * _SIDE**3 / products, 2 * _COPIED / copies)

    def seconds(self, products: int, moved: int) -> float:
        """No update with that many operations in products, and a step that moves that many bytes, is faster."""
        return products / self.flops + moved / self.bytes


def _best(work: Callable[[], Any], wait: Callable[[], None]) -> float:
    found = []
    for _ in range(_TIMES):
        wait()
        start = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - start)
    return min(found)
