"""Selects the kernels that guide an update: C on a CPU, Triton on a GPU, or None, which means plain PyTorch.

Both kernel modules have `guide_`. The PyTorch code in `guided.py` gives the same masks and, up to rounding, the same
updates.
"""

import logging
import os
from collections.abc import Iterable
from functools import cache
from types import ModuleType

from torch import Tensor

from . import kernels_c

logger = logging.getLogger(__name__)


def module_for(tensors: Iterable[Tensor]) -> ModuleType | None:
    """The kernel module that supports all of `tensors` on this machine, or None."""
    tensors = list(tensors)
    if not tensors or not kernels_c.allowed():
        return None
    if all(map(kernels_c.readable, tensors)) and kernels_c.load() is not None:
        return kernels_c
    device = tensors[0].device
    triton = _triton() if device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1" else None
    if triton is None or not all(triton.readable(t) and t.device == device for t in tensors):
        return None
    return triton if triton.works(device) else None


@cache
def _triton() -> ModuleType | None:
    try:
        from . import kernels_triton
    except ImportError as error:  # PyTorch for GPUs installs Triton, but only on Linux
        logger.info("guided optimizers run in plain torch, without Triton's kernels: %s", error)
        return None
    return kernels_triton
