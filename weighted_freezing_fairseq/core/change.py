"""The change that the base's step makes to a weight, scaled number by number."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import kernels
from .scope import Slot, block_size, blocks


class Change(NamedTuple):
    """A weight, its value before the base's step, and the factor for its change."""

    weight: Tensor
    old: Tensor
    factor: Tensor

    @classmethod
    def of(cls, slot: Slot) -> "Change":
        """The change of a slot, with `old` and `factor` uninitialized; `factor` is at least float32."""
        dtype = torch.promote_types(slot.parameter.dtype, torch.float32)
        return cls(slot.weight, torch.empty_like(slot.weight), torch.empty_like(slot.weight, dtype=dtype))

    @classmethod
    def before_step(cls, slot: Slot) -> "Change":
        """The change of a slot that the base steps next; `factor` is uninitialized."""
        change = cls.of(slot)
        change.old.copy_(change.weight)
        return change


def advance_(changes: Sequence[Change]) -> None:
    """weight <- old + factor * (weight - old), exact for factors 0 and 1."""
    module = kernels.module_for(tensor for change in changes for tensor in change)
    if module is not None:
        module.advance_(changes)
        return
    for change in changes:
        for _, (weight, old, factor) in blocks(change.weight.numel(), block_size(change.weight), *change):
            new = weight.to(factor.dtype)
            step = new - old.to(factor.dtype)
            weight.copy_(torch.where(factor < 0.5, old + factor * step, new - (1 - factor) * step))
