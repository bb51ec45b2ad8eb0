"""Between processes goes only what a mask lets move (Sung et al. 2021, section 1: less to communicate).

Gradients are averaged as ever, but of a masked weight only the numbers that are updated are put together and sent; the
others, which no process will use, become zero on all of them. Left out on purpose: the updates in which a mask is still
estimated, which need the whole gradient; compression of what is sent.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .fixed import FixedMaskOptimizer

logger = logging.getLogger(__name__)


class MaskedReduce:
    """What `optimizer` updates of the gradients of `weights`, averaged over the processes of `group`.

    weights: the model's parameter for the name of each slot of the optimizer (default: what the slots lie in);
    parameters that are not among them are sent whole. `sent` counts the bytes that this process handed to all_reduce.
    Processes sum in another order than with whole gradients: equal bits on two of them, rounding on more.

        ddp = DistributedDataParallel(model)
        ddp.register_comm_hook(MaskedReduce(FixedMaskOptimizer(...)), reduce_bucket)

    Not for gradients that are clipped as a whole: their norm is from then on that of what is updated.
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
        self._masks: Mapping[str, Tensor] | None = None  # those that the positions are of
        self._positions: dict[Tensor, Tensor] = {}

    def average_(self, parameters: Iterable[Tensor]) -> None:
        """The gradients of `parameters`, zeros where there is none, in place: without DistributedDataParallel."""
        alike: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            some, grads = alike.setdefault((p.device, p.dtype), ([], []))
            some.append(p)
            grads.append(p.grad)
        for some, grads in alike.values():
            positions = self._of(some)
            packed = _packed(grads, positions)
            if packed.numel():
                self._sum(packed).wait()
            _unpack_(packed, grads, positions)

    def zero_outside_(self, parameters: Iterable[Tensor]) -> None:
        """What `average_` leaves of the gradients of a single process."""
        for p in parameters:
            position = self._of([p])[0]
            if p.grad is not None and position is not None:
                _unpack_(_packed([p.grad], [position]), [p.grad], [position])

    def start(
        self, parameters: Sequence[Tensor], grads: Sequence[Tensor], buffer: Tensor
    ) -> torch.futures.Future[Tensor]:
        """The same of a bucket of DistributedDataParallel, whose `grads` lie in `buffer`, beside the backward pass."""
        positions = self._of(parameters)
        whole = all(position is None for position in positions)
        packed = buffer if whole else _packed(grads, positions)
        if not packed.numel():
            nothing: torch.futures.Future[Tensor] = torch.futures.Future(devices=_gpus(buffer))
            nothing.set_result(buffer.zero_())
            return nothing

        def finish(done: torch.futures.Future[list[Tensor]]) -> Tensor:
            (sent,) = done.value()  # or what went wrong
            if not whole:
                _unpack_(sent, grads, positions)
            return buffer

        averaged: torch.futures.Future[Tensor] = self._sum(packed).get_future().then(finish)
        return averaged

    def _sum(self, gradient: Tensor) -> dist.Work:
        """Begin to make `gradient` the mean over all processes."""
        self.sent += gradient.numel() * gradient.element_size()
        mean = gradient.div_(dist.get_world_size(self.group))
        work: dist.Work = dist.all_reduce(mean, group=self.group, async_op=True)
        return work

    def _of(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Where the numbers lie that are updated of each of `parameters`; None: all of them."""
        if self.optimizer.masks is not self._masks:
            self._masks = self.optimizer.masks
            found = {name: mask.reshape(-1).nonzero().view(-1) for name, mask in (self._masks or {}).items()}
            if found and dist.is_available() and dist.is_initialized():
                self._compare(found.values())
                kept, total = sum(map(len, found.values())), sum(map(len, self.optimizer.slots))
                logger.info("between processes, %d of %d numbers of the gradient travel", kept, total)
            weights = {self._weights[name]: at for name, at in found.items()}
            self._positions = {weight: at for weight, at in weights.items() if len(at) < weight.numel()}
        return [self._positions.get(p) for p in parameters]

    def _compare(self, found: Iterable[Tensor]) -> None:
        """Refuse masks that differ between processes: gradients of other weights would be added up, unnoticed."""
        sums = torch.stack([n for at in found for n in (at.new_tensor(len(at)), at.sum(), at.square().sum())])
        both = torch.cat([sums, -sums])
        dist.all_reduce(both, dist.ReduceOp.MAX, group=self.group)
        highest, lowest = both.chunk(2)
        if not torch.equal(highest, -lowest):
            raise ValueError("the processes have different masks: give all of them the same file, density and seed")


def reduce_bucket(state: MaskedReduce, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """A communication hook: `ddp.register_comm_hook(MaskedReduce(optimizer), reduce_bucket)`."""
    return state.start(bucket.parameters(), bucket.gradients(), bucket.buffer())


def _gpus(tensor: Tensor) -> list[int | str | torch.device]:
    return [tensor.device] if tensor.device.type == "cuda" else []


def _packed(grads: Sequence[Tensor], positions: Sequence[Tensor | None]) -> Tensor:
    """The numbers at `positions` of each gradient, one after the other."""
    flat = [grad.reshape(-1) for grad in grads]
    return torch.cat([g if at is None else g.index_select(0, at) for g, at in zip(flat, positions, strict=True)])


def _unpack_(packed: Tensor, grads: Sequence[Tensor], positions: Sequence[Tensor | None]) -> None:
    """Put them back, with zeros around them."""
    lengths = [grad.numel() if at is None else len(at) for grad, at in zip(grads, positions, strict=True)]
    for grad, at, numbers in zip(grads, positions, packed.split(lengths), strict=True):
        if at is None:
            grad.copy_(numbers.view(grad.shape))
        else:
            flat = grad.view(-1) if grad.is_contiguous() else grad.new_empty(grad.numel())
            flat.zero_().index_copy_(0, at, numbers)
            if not grad.is_contiguous():
                grad.copy_(flat.view(grad.shape))
