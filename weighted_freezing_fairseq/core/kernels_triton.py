"""Triton kernels for float32 tensors on one GPU: two launches for all weights of a model.

A model has hundreds of small weights, so that with several operations on each the launches would dominate the cost.
A table of addresses is sent to the GPU, and nothing is read back. Results are those of kernels.c: masks are
bit-identical, factors up to rounding of x * y + z. `works` tries the kernels once on a device and logs why they fail.
With TRITON_INTERPRET=1 Triton interprets the kernels on the CPU, for tests.
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
_NO_RANGE = (0x7FFFFFFF, 0)  # the bits of the minimum and the maximum of an empty set
_DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def readable(tensor: Tensor) -> bool:
    """Whether the kernels support this tensor: float32, contiguous, on a GPU."""
    return (
        tensor.device.type == _DEVICE
        and tensor.dtype is torch.float32
        and not tensor.is_sparse
        and tensor.is_contiguous()
    )


def guide_(
    weights: Sequence[GuidedWeight], metric: str, kernel: Kernel = IMPORTANT, shared_range: bool = False
) -> None:
    """The same as `kernels_c.guide_`."""
    weights = [guided for guided in weights if guided.old.numel()]
    if not weights:
        return
    device = weights[0].old.device
    launch = _Launch(weights, device)
    shared = shared_range or not kernel.needs_range
    bounds = _to_device([_NO_RANGE], torch.int32, device).repeat(1 if shared else len(weights), 1)
    options = {"METRIC": kernels_c.METRICS.index(metric), "SHARED": shared}
    if kernel.needs_range:
        launch(triton_source.ranges, bounds, **options)
    beta, eps, max_scale = kernel.constants
    constants = _to_device([beta, 1 - beta, eps, max_scale], torch.float32, device)
    options |= {"VARIANT": kernel.variant, "SCALES": kernel.scales, "HALF": kernel.half}
    launch(triton_source.guide, bounds, _operands(weights, device), constants, **options)


class _Launch:
    """Launches kernels on a table of weights, with one program for each block of `_BLOCK` numbers."""

    def __init__(self, weights: Sequence[GuidedWeight], device: torch.device) -> None:
        self.device = device
        self.owner = _owners(tuple(guided.old.numel() for guided in weights), device)
        self.table = _to_device(list(_table_rows(weights)), torch.int64, device)

    def __call__(self, kernel: object, *tensors: Tensor, **constants: int) -> None:
        with nullcontext() if self.device.type == "cpu" else torch.cuda.device(self.device):
            kernel[(len(self.owner),)](  # type: ignore[index]
                self.table, self.owner, *tensors, **constants, BLOCK=_BLOCK, enable_fp_fusion=False
            )


def _table_rows(weights: Sequence[GuidedWeight]) -> Iterator[tuple[int, ...]]:
    """One row for each weight; triton_source.py names the columns."""
    first_block = 0
    for guided in weights:
        tensors = (guided.old, guided.grad, guided.weight, guided.average)
        count = guided.old.numel()
        yield *(0 if t is None else t.data_ptr() for t in tensors), count, first_block, *guided.key
        first_block += -(-count // _BLOCK)


@lru_cache(maxsize=8)
def _owners(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """For each block the index of its weight; cached, since it is the same in every update."""
    blocks = torch.tensor([-(-count // _BLOCK) for count in counts], device="cpu")
    return torch.arange(len(counts), dtype=torch.int32, device="cpu").repeat_interleave(blocks).to(device)


def _to_device(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy values to the device asynchronously."""
    table = torch.tensor(values, dtype=dtype, device="cpu")
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def _operands(weights: Sequence[GuidedWeight], device: torch.device) -> Tensor:
    """The operand of each weight; operands that are tensors on the device are not copied to the CPU."""
    operands = [guided.operand for guided in weights]
    if not any(isinstance(operand, Tensor) for operand in operands):
        return _to_device(operands, torch.float32, device)
    zero = torch.zeros((), device=device)
    return torch.stack([operand.float() if isinstance(operand, Tensor) else zero for operand in operands])


@cache
def works(device: torch.device) -> bool:
    """Whether the kernels work on this device, by a trial."""
    problem = trial(device)
    if problem:
        logger.warning(
            "guided optimizers run in plain torch on %s, which is slower: the trial of their kernels failed (%s)",
            device,
            problem,
        )
    return not problem


def trial(device: torch.device) -> str:
    """Compare the kernels with PyTorch on the CPU; returns the problem, or "" if there is none."""
    try:
        return _difference_from_torch(device)
    except Exception as error:  # noqa: BLE001  compiler, driver and GPU raise many types; PyTorch can replace them all
        return f"{type(error).__name__}: {error}"


def _difference_from_torch(device: torch.device) -> str:
    """Run one update of weighted_freeze and one of sage on numbers of many magnitudes."""
    generator = torch.Generator("cpu").manual_seed(1)
    normal = torch.empty(3, 3 * _BLOCK - 5, device="cpu").normal_(generator=generator)
    w, g, average = normal * normal.roll(1, 1).exp() * 1e-2
    average, key = average.abs(), stream_key(1, 1, "trial")
    magnitude, score = w.abs(), (w * g).abs()
    expected_grad = g * keep_mask(magnitude, magnitude.amin(), magnitude.amax(), uniform(len(w), key))
    expected_average = average.double() * 0.75 + score.double() * 0.25
    expected_factor = ((score - expected_average).abs() + 1e-12) / (expected_average + 1e-12)
    new, expected_factor = w - 1e-2, expected_factor.clamp_max(3.0)
    expected_weight = w.double() + expected_factor * (new.double() - w.double())
    copies = [tensor.to(device, copy=True) for tensor in (w, g, g, new, average)]
    old, masked_grad, grad, weight, average = copies
    guide_([GuidedWeight(old, masked_grad, key=key)], "magnitude")
    scaled = GuidedWeight(old, grad, weight, average, operand=1.0)
    guide_([scaled], "loss-preserving", Kernel(0, True, constants=(0.75, 1e-12, 3.0)))
    if not torch.equal(masked_grad.cpu(), expected_grad):
        return "another mask than torch's"
    close = all(
        torch.allclose(result.cpu().double(), expected, rtol=1e-5, atol=1e-9)
        for result, expected in ((average, expected_average), (weight, expected_weight))
    )
    return "" if close else "another step than torch's"
