"""Count the operations of an update and the bytes that its step has to move, and bound its time by both.

Operations are counted when torch dispatches them. Bytes are the sizes of the tensors that a step reads or writes, each
moved once. The traffic of activations depends on how kernels are fused and is not counted, so the time is a lower bound
that no implementation needs to reach.
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

# One operation for each number of the input; other operations that compute are pointwise or products.
_PER_INPUT = frozenset(
    "sum mean amin amax aminmax linalg_vector_norm _softmax _softmax_backward_data _log_softmax "
    "_log_softmax_backward_data native_layer_norm native_layer_norm_backward".split()
)
_COPIES = frozenset("clone copy fill to_copy".split())  # tagged pointwise by torch, but without arithmetic
# By name, because in-place and CPU variants of an operation have the same count.
_PRODUCTS = {packet.__name__: count for packet, count in flop_registry.items()}
_SIDE, _COPIED, _ATTEMPTS = 1024, 1 << 26, 5  # side of the matrices and bytes of the copy that measure the rates


class Operations(TorchDispatchMode):
    """Counts operations while it is active.

    Attributes:
        products: of matrix products, two for each multiplication and addition.
        others: one for each number.
    """

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
        elif torch.Tag.pointwise in func.tags and name.strip("_") not in _COPIES:
            self.others += out.numel() if isinstance(out, Tensor) else 0
        return out


def operations(work: Callable[[], None]) -> Operations:
    """Count the operations of `work`, with PyTorch in place of C kernels, which torch does not dispatch."""
    with kernels_c.switched_off(), Operations() as counted:
        work()
    return counted


def step_bytes(optimizer: Any, criterion_tensors: Iterable[Tensor]) -> int:
    """The minimal traffic of a step.

    The step reads and writes weights, state and averages; it reads gradients, masks and `criterion_tensors`. Only
    weights that the base optimizer holds count: with a fixed mask, these are the ones that move.
    """
    base = getattr(optimizer, "base", optimizer)
    moving = [p for group in base.param_groups for p in group["params"] if p in base.state or p.grad is not None]
    state = [value for values in base.state.values() for value in values.values()]
    averages = getattr(optimizer, "averages", {}).values()
    extra = getattr(optimizer, "extra_bytes", 0)  # includes the averages
    return 3 * in_bytes(moving) + 2 * in_bytes(state) + in_bytes(averages) + extra + in_bytes(criterion_tensors)


def in_bytes(values: Iterable[Any]) -> int:
    """The total size of the tensors among `values`."""
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second: operations of a large matrix product, bytes of a large copy."""

    flops: float
    bytes: float

    @classmethod
    def measure(cls, device: str, synchronise: Callable[[], None]) -> "Rates":
        """The fastest of a few attempts, because other processes can only slow the machine down."""
        a, b = torch.rand(2, _SIDE, _SIDE, device=device)
        source = torch.rand(_COPIED // 4, device=device)
        target = torch.empty_like(source)

        def fastest(work: Callable[[], Any]) -> float:
            seconds = []
            for _ in range(_ATTEMPTS):
                synchronise()
                start = time.perf_counter()
                work()
                synchronise()
                seconds.append(time.perf_counter() - start)
            return min(seconds)

        return cls(2 * _SIDE**3 / fastest(lambda: torch.mm(a, b)), 2 * _COPIED / fastest(lambda: target.copy_(source)))

    def seconds(self, product_flops: int, step_bytes: int) -> float:
        """A lower bound of the time of an update with these operations in products and this traffic of its step."""
        return product_flops / self.flops + step_bytes / self.bytes
