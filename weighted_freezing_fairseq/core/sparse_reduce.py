"""Gradient exchange under a fixed mask: processes send only the numbers that are updated (Sung et al. 2021, section 1).

Gradients are averaged as usual, but only the updated numbers of masked weights are packed and sent; the others become
zero in every process. While a mask is still being estimated, gradients are sent whole.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .fixed import FixedMaskOptimizer

logger = logging.getLogger(__name__)


class MaskedReduce:
    """Averages over processes only the gradients that an optimizer with a fixed mask updates.

        ddp = DistributedDataParallel(model)
        ddp.register_comm_hook(MaskedReduce(FixedMaskOptimizer(...)), reduce_bucket)

    Gradients outside the mask become zero, so that the norm of all gradients becomes that of the updated numbers, which
    matters to clipping. Sums are bit-identical to those of whole gradients on two processes, and equal up to rounding
    on more.

    Args:
        optimizer: its masks say what is sent.
        weights: the model's parameters by the names of the optimizer's slots (default: the parameters of the slots).
            Other parameters are sent whole.
        group: the processes (default: all).

    Attributes:
        sent: number of bytes that this process passed to all_reduce.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import FixedMaskOptimizer, MaskedReduce, scope_of
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> masks = {"weight": torch.tensor([[True, False, False, True]])}
        >>> optimizer = FixedMaskOptimizer(torch.optim.SGD(model.parameters()), scope_of(model, "all"), masks=masks)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> MaskedReduce(optimizer).zero_outside_(model.parameters())  # a single process has nothing to send
        >>> model.weight.grad
        tensor([[1., 0., 0., 1.]])
    """

    def __init__(
        self,
        optimizer: FixedMaskOptimizer,
        weights: Mapping[str, Tensor] | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.group = group
        self.sent = 0
        self._weights = {slot.name: slot.parameter for slot in optimizer.slots} if weights is None else weights
        self._masks: Mapping[str, Tensor] | None = None  # the masks that `_positions` belong to
        self._positions: dict[Tensor, Tensor] = {}

    def average_(self, parameters: Iterable[Tensor]) -> None:
        """Average gradients in place, without DistributedDataParallel; a missing gradient counts as 0.

        Raises:
            ValueError: if the processes have different masks.
        """
        groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            groups.setdefault((p.device, p.dtype), []).append(p)
        for group in groups.values():
            grads = [p.grad for p in group if p.grad is not None]
            positions = self._positions_in(group)
            packed = _pack(grads, positions)
            if packed.numel():
                self._average(packed).wait()
            _unpack_(packed, grads, positions)

    def zero_outside_(self, parameters: Iterable[Tensor]) -> None:
        """Zero the gradients that `average_` zeroes; for a single process."""
        for p in parameters:
            positions = self._positions_in([p])
            if p.grad is not None and positions[0] is not None:
                _unpack_(_pack([p.grad], positions), [p.grad], positions)

    def average_bucket(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        """`average_` for a bucket of DistributedDataParallel, asynchronously."""
        buffer: Tensor = bucket.buffer()
        grads, positions = bucket.gradients(), self._positions_in(bucket.parameters())
        unmasked = all(position is None for position in positions)
        packed = buffer if unmasked else _pack(grads, positions)
        if not packed.numel():
            devices: list[int | str | torch.device] = [buffer.device] if buffer.device.type == "cuda" else []
            finished: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)
            finished.set_result(buffer.zero_())
            return finished

        def unpack(future: torch.futures.Future[list[Tensor]]) -> Tensor:
            (mean,) = future.value()  # raises the error of all_reduce, if any
            if not unmasked:
                _unpack_(mean, grads, positions)
            return buffer

        averaged: torch.futures.Future[Tensor] = self._average(packed).get_future().then(unpack)
        return averaged

    def _average(self, gradient: Tensor) -> dist.Work:
        """Start to replace `gradient` by its mean over all processes."""
        self.sent += gradient.numel() * gradient.element_size()
        scaled = gradient.div_(dist.get_world_size(self.group))
        work: dist.Work = dist.all_reduce(scaled, group=self.group, async_op=True)
        return work

    def _positions_in(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """The positions of the updated numbers in each parameter; None means all numbers."""
        if self.optimizer.masks is not self._masks:
            self._masks = self.optimizer.masks
            positions = {name: mask.reshape(-1).nonzero().view(-1) for name, mask in (self._masks or {}).items()}
            if positions and dist.is_available() and dist.is_initialized():
                self._check_equal(positions.values())
                sent, total = sum(map(len, positions.values())), sum(map(len, self.optimizer.slots))
                logger.info("processes exchange %d of %d numbers of the gradient", sent, total)
            pairs = [(self._weights[name], position) for name, position in positions.items()]
            self._positions = {weight: position for weight, position in pairs if len(position) < weight.numel()}
        return [self._positions.get(p) for p in parameters]

    def _check_equal(self, positions: Iterable[Tensor]) -> None:
        """ValueError if processes have different masks, which would add up gradients of different weights."""
        sums = torch.stack([n for p in positions for n in (p.new_tensor(len(p)), p.sum(), p.square().sum())])
        largest = torch.cat([sums, -sums])
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        if not torch.equal(largest[: len(sums)], -largest[len(sums) :]):
            raise ValueError("the processes have different masks: give all of them the same file, density and seed")


def reduce_bucket(state: MaskedReduce, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """A communication hook: `ddp.register_comm_hook(MaskedReduce(optimizer), reduce_bucket)`."""
    return state.average_bucket(bucket)


def _pack(grads: Sequence[Tensor], positions: Sequence[Tensor | None]) -> Tensor:
    """The concatenated numbers at `positions` of each gradient."""
    flat = [grad.reshape(-1) for grad in grads]
    return torch.cat([g if p is None else g.index_select(0, p) for g, p in zip(flat, positions, strict=True)])


def _unpack_(packed: Tensor, grads: Sequence[Tensor], positions: Sequence[Tensor | None]) -> None:
    """The inverse of `_pack`, with zeros at all other positions."""
    lengths = [
        grad.numel() if position is None else len(position) for grad, position in zip(grads, positions, strict=True)
    ]
    for grad, position, numbers in zip(grads, positions, packed.split(lengths), strict=True):
        if position is None:
            grad.copy_(numbers.view(grad.shape))
        else:
            flat = grad.view(-1) if grad.is_contiguous() else grad.new_empty(grad.numel())
            flat.zero_().index_copy_(0, position, numbers)
            if not grad.is_contiguous():
                grad.copy_(flat.view(grad.shape))
