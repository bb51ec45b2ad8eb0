"""`--mask-communication`: processes exchange the gradients of the weights that the mask updates, and no others.

The model's wrapper exchanges gradients: torch's wrapper calls a hook, fairseq's wrapper is called between backward pass
and clipping. In a single process, that call zeroes the gradients that several processes would not exchange, so that
clipping sees the same gradients for any number of processes. The exchange itself is in `core/sparse_reduce.py`.
"""

from fairseq.distributed import LegacyDistributedDataParallel
from fairseq.trainer import Trainer
from torch.nn.parallel import DistributedDataParallel

from ..core.sparse_reduce import MaskedReduce, reduce_bucket
from ..errors import UserError
from . import parameters
from .passes import unwrapped
from .trainer_events import TrainerListener


class MaskCommunication(TrainerListener):
    @classmethod
    def for_trainer(cls, trainer: Trainer) -> "MaskCommunication | None":
        return cls() if getattr(trainer.cfg.optimizer, "mask_communication", False) else None

    def optimizer_built(self, trainer: Trainer) -> None:
        """Replace the gradient exchange of the model's wrapper."""
        if trainer.cfg.optimization.use_bmuf:
            raise UserError("--mask-communication needs a gradient exchange in every update; leave out --use-bmuf")
        if trainer.cfg.distributed_training.ddp_comm_hook != "none":
            raise UserError("--mask-communication excludes other communication hooks; leave out --ddp-comm-hook")
        supported = (DistributedDataParallel, LegacyDistributedDataParallel)
        wrapper = next((module for module in unwrapped(trainer.model) if isinstance(module, supported)), None)
        reduce = MaskedReduce(trainer.optimizer.optimizer, parameters.by_name(), trainer.data_parallel_process_group)
        if isinstance(wrapper, DistributedDataParallel):
            _replace_hook(wrapper, reduce)
        elif wrapper is not None:
            _replace_exchange(wrapper, reduce)
        elif trainer.data_parallel_world_size == 1:
            model = trainer.get_model()
            model.all_reduce_grads = lambda: reduce.zero_outside_(model.parameters())
        else:
            raise UserError(
                f"--mask-communication does not work with --ddp-backend "
                f"{trainer.cfg.distributed_training.ddp_backend}; type --ddp-backend legacy_ddp or c10d"
            )


def _replace_hook(wrapper: DistributedDataParallel, reduce: MaskedReduce) -> None:
    """Register the hook, or give a registered one the new optimizer: torch accepts one hook only."""
    registered = vars(wrapper).get("masked_reduce")
    if registered is not None:
        registered.optimizer = reduce.optimizer
        return
    wrapper.masked_reduce = reduce
    wrapper.register_comm_hook(reduce, reduce_bucket)


def _replace_exchange(wrapper: LegacyDistributedDataParallel, reduce: MaskedReduce) -> None:
    """Replace fairseq's exchange, which also leaves out parameters that are not shared by processes (`expert`)."""
    shared = [p for p in wrapper.module.parameters() if p.requires_grad and not hasattr(p, "expert")]

    def all_reduce_grads() -> None:
        if not wrapper.accumulate_grads:
            reduce.average_(shared)

    wrapper.all_reduce_grads = all_reduce_grads
