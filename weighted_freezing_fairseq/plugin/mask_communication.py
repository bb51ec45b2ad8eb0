"""`--mask-communication`: of the gradient, processes exchange what the mask lets move, and nothing else.

Who exchanges gradients is the model's wrapper, and each kind has a seam of its own: torch's has hooks, fairseq's is
called between backward pass and clipping. A single process, which that call does not need, uses it to zero what several
would not send, so that clipping sees the same on any number of them. Left out on purpose: the exchange itself
(`core/sparse_reduce.py`); wrappers that average weights, which are refused.
"""

from fairseq.distributed import LegacyDistributedDataParallel
from fairseq.trainer import Trainer
from torch.nn.parallel import DistributedDataParallel

from ..core.sparse_reduce import MaskedReduce, reduce_bucket
from ..errors import UserError
from . import parameters
from .passes import unwrapped


def join(trainer: Trainer) -> None:
    """If it is asked for, change how this trainer's gradients travel; its optimizer was just built, names published."""
    if not getattr(trainer.cfg.optimizer, "mask_communication", False):
        return
    if trainer.cfg.optimization.use_bmuf:
        raise UserError("--mask-communication needs gradients to be exchanged in every update; leave out --use-bmuf")
    if trainer.cfg.distributed_training.ddp_comm_hook != "none":
        raise UserError("--mask-communication is a communication hook, too; leave out --ddp-comm-hook")
    known = (DistributedDataParallel, LegacyDistributedDataParallel)
    wrapper = next((module for module in unwrapped(trainer.model) if isinstance(module, known)), None)
    if isinstance(wrapper, DistributedDataParallel):
        _join_torch(trainer, wrapper)
    elif wrapper is not None:
        _join_fairseq(trainer, wrapper)
    elif trainer.data_parallel_world_size == 1:
        _join_single(trainer)
    else:
        raise UserError(
            "--mask-communication does not know how this wrapper exchanges gradients; "
            "type --ddp-backend legacy_ddp or c10d"
        )


def _reduce(trainer: Trainer) -> MaskedReduce:
    return MaskedReduce(trainer.optimizer.optimizer, parameters.by_name(), trainer.data_parallel_process_group)


def _join_torch(trainer: Trainer, wrapper: DistributedDataParallel) -> None:
    """A hook, which can be given only once: the optimizer of a loaded checkpoint takes the place of the one before."""
    known = vars(wrapper).get("masked_reduce")
    if known is not None:
        known.optimizer = trainer.optimizer.optimizer
        return
    wrapper.masked_reduce = _reduce(trainer)
    wrapper.register_comm_hook(wrapper.masked_reduce, reduce_bucket)


def _join_fairseq(trainer: Trainer, wrapper: LegacyDistributedDataParallel) -> None:
    """The exchange itself is replaced; parameters that each process has to itself (`expert`) stay out of it."""
    shared = [p for p in wrapper.module.parameters() if p.requires_grad and not hasattr(p, "expert")]
    reduce = _reduce(trainer)

    def all_reduce_grads() -> None:
        if not wrapper.accumulate_grads:
            reduce.average_(shared)

    wrapper.all_reduce_grads = all_reduce_grads


def _join_single(trainer: Trainer) -> None:
    model, reduce = trainer.get_model(), _reduce(trainer)
    model.all_reduce_grads = lambda: reduce.zero_outside_(model.parameters())
