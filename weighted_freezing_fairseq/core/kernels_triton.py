"""The steps of guided optimizers on a GPU: Triton's kernels, one launch for all weights of a model.

A model has hundreds of small weights, and a step of several operations on each; what that costs on a GPU is launches,
of which there are two here. Nothing is read back: a table of addresses goes to the GPU, and bounds stay there. Results
are those of kernels.c, up to the rounding of x * y + z; masks are the same bits. `works` is False, with the
reason in the log, where the trial on a device failed. Under Triton's own switch TRITON_INTERPRET=1 the CPU runs the
kernels, slowly: so they are tested. Left out on purpose: other dtypes than float32, and weights on several devices.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache, lru_cache

import torch
from torch import Tensor

from . import kernels_c, triton_source
from .kernels_c import IMPORTANT, GuidedWeight, Kernel
from .masks import keep_mask, stream_key, uniform

logger = logging.getLogger(__name__)

_BLOCK = 1024
_NO_RANGE = (0x7FFFFFFF, 0)  # the bits of a minimum and a maximum of nothing
_DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def readable(tensor: Tensor) -> bool:
    """Whether a kernel can read this tensor: numbers of float32, one after the other, in the GPU's memory."""
    return (
        tensor.device.type == _DEVICE
        and tensor.dtype is torch.float32
        and not tensor.is_sparse
        and tensor.is_contiguous()
    )


def guide_(
    weights: Sequence[GuidedWeight], metric: str, kernel: Kernel = IMPORTANT, shared_range: bool = False
) -> None:
    """`kernels_c.guide_`, in two launches."""
    weights = [guided for guided in weights if guided.weight.numel()]
    if not weights:
        return
    device = weights[0].weight.device
    launch = _Launch(weights, device)
    frozen = kernel.variant != kernels_c.RANDOM and any(guided.action in kernels_c.MASKING for guided in weights)
    bounds = _sent([_NO_RANGE], torch.int32, device).repeat(1 if shared_range or not frozen else len(weights), 1)
    ways = {"METRIC": kernels_c.METRICS.index(metric), "SHARED": shared_range}
    if frozen:
        launch(triton_source.ranges, bounds, **ways)
    beta, eps, max_scale = kernel.constants
    constants = _sent([beta, 1 - beta, eps, max_scale], torch.float32, device)
    ways |= {"VARIANT": kernel.variant, "HALF": kernel.half}
    launch(triton_source.guide, bounds, _operands(weights, device), constants, **ways)


def advance_(changes: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """weight <- old + factor * (weight - old) for each (weight, old, factor), exact for factors 0 and 1."""
    weights = [GuidedWeight(0, weight, weight, old, factor) for weight, old, factor in changes if weight.numel()]
    if weights:
        _Launch(weights, weights[0].weight.device)(triton_source.advance)


class _Launch:
    """A table of weights on their device, and the blocks that they are cut into."""

    def __init__(self, weights: Sequence[GuidedWeight], device: torch.device) -> None:
        self.device = device
        self.owner = _owners(tuple(guided.weight.numel() for guided in weights), device)
        self.table = _sent(list(_rows(weights)), torch.int64, device)

    def __call__(self, kernel: object, *tensors: Tensor, **constants: int) -> None:
        with nullcontext() if self.device.type == "cpu" else torch.cuda.device(self.device):
            kernel[(len(self.owner),)](  # type: ignore[index]
                self.table, self.owner, *tensors, **constants, BLOCK=_BLOCK, enable_fp_fusion=False
            )


def _rows(weights: Sequence[GuidedWeight]) -> Iterator[tuple[int, ...]]:
    """The columns of triton_source.py."""
    first = 0
    for guided in weights:
        tensors = (guided.weight, guided.grad, guided.old, guided.factor, guided.average)
        count = guided.weight.numel()
        yield *(0 if t is None else t.data_ptr() for t in tensors), count, first, guided.action, *guided.key
        first += -(-count // _BLOCK)


@lru_cache(maxsize=8)
def _owners(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """For each block the weight that it belongs to; the same in every update."""
    blocks = torch.tensor([-(-count // _BLOCK) for count in counts], device="cpu")
    return torch.arange(len(counts), dtype=torch.int32, device="cpu").repeat_interleave(blocks).to(device)


def _sent(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values on their way to the device, which nobody waits for."""
    table = torch.tensor(values, dtype=dtype, device="cpu")
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def _operands(weights: Sequence[GuidedWeight], device: torch.device) -> Tensor:
    """The operand of each weight; those that were computed on the device stay there."""
    operands = [guided.operand for guided in weights]
    if not any(isinstance(operand, Tensor) for operand in operands):
        return _sent(operands, torch.float32, device)
    absent = torch.zeros((), device=device)
    return torch.stack([operand.float() if isinstance(operand, Tensor) else absent for operand in operands])


# Whether it works here ------------------------------------------------------------------------------------------------


@cache
def works(device: torch.device) -> bool:
    """Whether a trial on this device went well."""
    wrong = trial(device)
    if wrong:
        words = "guided optimizers run in plain torch on %s, which is slower: the trial of their kernels failed (%s)"
        logger.warning(words, device, wrong)
    return not wrong


def trial(device: torch.device) -> str:
    """What is wrong where not all is as torch has it on the CPU: masks to the bit, factors within rounding."""
    try:
        return _differs(device)
    except Exception as error:  # noqa: BLE001  compiler, driver, GPU: whatever fails, torch can do without
        return f"{type(error).__name__}: {error}"


def _differs(device: torch.device) -> str:
    """One update of freezing, and one of sage, with numbers of all sizes."""
    generator = torch.Generator("cpu").manual_seed(1)
    drawn = torch.empty(3, 3 * _BLOCK - 5, device="cpu").normal_(generator=generator)
    w, g, average = drawn * drawn.roll(1, 1).exp() * 1e-2
    average, key = average.abs(), stream_key(1, 1, "trial")
    size, score = w.abs(), (w * g).abs()
    masked = g * keep_mask(size, size.amin(), size.amax(), uniform(len(w), key))
    moved = average.double() * 0.75 + score.double() * 0.25
    factor = (((score - moved).abs() + 1e-12) / (moved + 1e-12)).clamp_max(3.0)
    sent = [tensor.to(device, copy=True) for tensor in (w, g, g, average, w, w)]
    weight, masked_here, grad, average_here, old_here, factor_here = sent
    guide_([GuidedWeight(kernels_c.GRADIENT, weight, masked_here, key=key)], "magnitude")
    scaled = GuidedWeight(kernels_c.SCALE_CHANGE, weight, grad, old_here, factor_here, average_here, operand=1.0)
    guide_([scaled], "loss-preserving", Kernel(0, True, constants=(0.75, 1e-12, 3.0)))
    if not torch.equal(masked_here.cpu(), masked):
        return "another mask than torch's"
    pairs = ((average_here, moved), (factor_here, factor))
    alike = all(torch.allclose(mine.cpu().double(), exact, rtol=1e-5, atol=1e-9) for mine, exact in pairs)
    return "" if alike and torch.equal(old_here.cpu(), w) else "another factor than torch's"
