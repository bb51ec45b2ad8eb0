"""Which kernels guide an update: C on a CPU, Triton on a GPU, or none, and plain torch does it.

A twin is a module with `guide_` and `advance_`; beside it always stands the torch path, which gives the same masks and,
up to rounding, the same updates. Left out on purpose: what they compute (`native.py`, `launched.py`).
"""

import logging
import os
from collections.abc import Iterable
from functools import cache
from types import ModuleType

from torch import Tensor

from . import native

logger = logging.getLogger(__name__)


def of(tensors: Iterable[Tensor]) -> ModuleType | None:
    """The twin that can read all of `tensors` here, if there is one."""
    given = list(tensors)
    if not given or not native.allowed():
        return None
    if all(map(native.readable, given)) and native.load() is not None:
        return native
    device = given[0].device
    launched = _launched() if device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1" else None
    if launched is None or not all(launched.readable(t) and t.device == device for t in given):
        return None
    return launched if launched.works(device) else None


@cache
def _launched() -> ModuleType | None:
    try:
        from . import launched
    except ImportError as error:  # torch for a GPU brings Triton along, on Linux
        logger.info("guided optimizers run in plain torch, without Triton's kernels: %s", error)
        return None
    return launched
