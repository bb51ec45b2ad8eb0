"""The steps of guided optimizers on a GPU: Triton's kernels, one launch for all weights of a model.

A model has hundreds of small weights, and a step of several operations on each; what that costs on a GPU is launches,
of which there are two here. Nothing is read back: a table of addresses goes to the GPU, and bounds stay there. Results
are those of kernels.c, up to the rounding of x * y + z; masks are the same bits. Whoever calls must be ready for
`works` to say no, with the reason in the log: no trial on this device, or one that came out wrong. Under Triton's own
switch TRITON_INTERPRET=1 the CPU runs the kernels, slowly: so they are tested. Left out on purpose: other dtypes than
float32, and weights on several devices.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache, lru_cache

import torch
from torch import Tensor

from . import kernels_triton, native
from .masks import keep_mask, stream_key, uniform
from .native import NO_FORM, Form, Guide, Numbers, Part

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


def step_(
    parts: Sequence[Part], groups: Sequence[Numbers], metric: str, form: Form = NO_FORM, shared_range: bool = False
) -> None:
    """`native.step_`, in two launches."""
    parts = [part for part in parts if part.length]
    if not parts:
        return
    device = parts[0].weight.device
    launch = _Launch(parts, device)
    frozen = form.number != native.RANDOM and any(part.guide.kind in native.FREEZES for part in parts)
    bounds = _sent([_NO_RANGE], torch.int32, device).repeat(1 if shared_range or not frozen else len(parts), 1)
    ways = {"METRIC": native.METRICS.index(metric), "SHARED": shared_range}
    if frozen:
        launch(kernels_triton.ranges, bounds, **ways)
    beta, eps, max_scale = form.constants
    rows = [beta, 1 - beta, eps, max_scale, *(float(number) for group in groups for number in group)]
    numbers = _sent(rows, torch.float32, device)
    launch(kernels_triton.step, bounds, _operands(parts, device), numbers, **ways, FORM=form.number, HALF=form.half)


def advance_(changes: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """weight <- old + factor * (weight - old) for each (weight, old, factor), exact for factors 0 and 1."""
    parts = [Part(weight, weight, (old, factor), -1) for weight, old, factor in changes if weight.numel()]
    if parts:
        _Launch(parts, parts[0].weight.device)(kernels_triton.advance)


class _Launch:
    """A table of parts on their device, and the blocks that they are cut into."""

    def __init__(self, parts: Sequence[Part], device: torch.device) -> None:
        self.device = device
        self.owner = _owners(tuple(part.length for part in parts), device)
        self.table = _sent(list(_rows(parts)), torch.int64, device)

    def __call__(self, kernel: object, *tensors: Tensor, **constants: int) -> None:
        with nullcontext() if self.device.type == "cpu" else torch.cuda.device(self.device):
            kernel[(len(self.owner),)](  # type: ignore[index]
                self.table, self.owner, *tensors, **constants, BLOCK=_BLOCK, enable_fp_fusion=False
            )


def _rows(parts: Sequence[Part]) -> Iterator[tuple[int, ...]]:
    """The columns of kernels_triton.py."""
    first = 0
    for weight, grad, moments, group, guide in parts:
        count = moments[0].numel() if moments else weight.numel()
        m, v = (moments[0].data_ptr(), moments[1].data_ptr()) if moments else (0, 0)
        more = 0 if guide.more is None else guide.more.data_ptr()
        yield weight.data_ptr(), grad.data_ptr(), m, v, more, count, first, guide.kind, group, *guide.key
        first += -(-count // _BLOCK)


@lru_cache(maxsize=8)
def _owners(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """For each block the part that it belongs to; the same in every update."""
    blocks = torch.tensor([-(-count // _BLOCK) for count in counts], device="cpu")
    return torch.arange(len(counts), dtype=torch.int32, device="cpu").repeat_interleave(blocks).to(device)


def _sent(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values on their way to the device, which nobody waits for."""
    table = torch.tensor(values, dtype=dtype, device="cpu")
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def _operands(parts: Sequence[Part], device: torch.device) -> Tensor:
    """The operand of each part; those that were computed on the device stay there."""
    operands = [part.guide.operand for part in parts]
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
    """What is wrong where not all is as torch has it on the CPU: masks to the bit, Adam up to rounding."""
    try:
        return _differs(device)
    except Exception as error:  # noqa: BLE001  compiler, driver, GPU: whatever fails, torch can do without
        return f"{type(error).__name__}: {error}"


def _differs(device: torch.device) -> str:
    """One step of freezing and of Adam with numbers of all sizes."""
    generator = torch.Generator("cpu").manual_seed(1)
    drawn = torch.empty(4, 3 * _BLOCK - 5, device="cpu").normal_(generator=generator)
    w, g, m, v = drawn * drawn.roll(1, 1).exp() * 1e-2
    v = v.abs()
    key = stream_key(1, 1, "trial")
    adam = Numbers(2, True, 0.9, 0.9, 0.1, 0.98, 0.02, 0.5, 1e-8, -0.01)
    size = w.abs()
    masked = g * keep_mask(size, size.amin(), size.amax(), uniform(len(w), key))
    new_m = m.double() + adam.rest1 * (masked.double() - m)
    new_v = adam.beta2 * v.double() + adam.rest2 * masked.double().square()
    new_w = adam.decay * w.double() + adam.rate * new_m / (new_v.sqrt() / adam.scale + adam.eps)
    guide = Guide(native.GRADIENT, key)
    sent = [tensor.to(device, copy=True) for tensor in (w, g, m, v, g)]
    step_([Part(sent[0], sent[4], None, -1, guide)], [], "magnitude")  # masks where another optimizer would follow
    step_([Part(sent[0], sent[1], (sent[2], sent[3]), 0, guide)], [adam], "magnitude")
    found = [tensor.cpu() for tensor in sent]
    if not torch.equal(found[4], masked):
        return "another mask than torch's"
    pairs = zip((found[0], *found[2:4]), (new_w, new_m, new_v), strict=True)
    alike = all(torch.allclose(mine.double(), exact, rtol=1e-5, atol=1e-9) for mine, exact in pairs)
    return "" if alike else "another step than Adam's"
