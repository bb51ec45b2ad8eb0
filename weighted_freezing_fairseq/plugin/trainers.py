"""The seams in fairseq's Trainer: what guided optimizers and criterions learn from it, and what it keeps for them.

An optimizer is not told the names of its tensors. A criterion is not told which update is being made, does not see the
optimizer, and is saved only if it has Parameters, which would break --finetune-from-model. So the trainer publishes
names while it builds its optimizer, introduces itself and that optimizer to a guided criterion, tells it when an epoch
begins or ends, when an update begins, and when and how gradients are clipped, and carries its state in its own. A
pruned checkpoint keeps its zeros, or training from it is refused. Layers with a loss of their own (`architectures.py`)
learn from it what the criterion is. What `--log-importance` asks for (`importance_log.py`) is told when gradients are
final and when an update is done. The first update is logged: a recipe waits for it (`runs.py`).
"""

import functools
import logging
from typing import Any

from fairseq.trainer import Trainer

from ..core.rules import RULES
from ..hydra_train import FIRST_UPDATE
from . import alignreg, mask_communication
from .architectures import join_losses
from .guided_criterion import GuidedCriterion
from .importance_log import ImportanceLog, interval_of, log_of
from .no_effect import warn_of_optimizer
from .parameters import published, refuse_sharding

logger = logging.getLogger(__name__)

_STATE_KEY = "guided_criterion"


def install() -> None:
    """Change every trainer that is made from now on."""
    create, build, clip = Trainer.__init__, Trainer._build_optimizer, Trainer.clip_grad_norm
    save, load, begin = Trainer.state_dict, Trainer.load_checkpoint, Trainer.begin_epoch
    count, step, iterate = Trainer.set_num_updates, Trainer.train_step, Trainer.get_train_iterator

    @functools.wraps(create)
    def create_and_attach(self: Trainer, *args: Any, **kwargs: Any) -> None:
        self.epoch_iterator = None
        create(self, *args, **kwargs)
        join_losses(self)
        if (criterion := _guided_criterion(self)) is not None:
            criterion.attach(self)

    @functools.wraps(build)
    def build_with_names(self: Trainer) -> None:
        criterion = _guided_criterion(self)
        if (method := getattr(self.cfg.optimizer, "_name", None)) in RULES:
            refuse_sharding(self.cfg, str(method))
        if criterion is not None and criterion.needs_whole_weights:
            refuse_sharding(self.cfg, criterion.method)
        interval = interval_of(self.cfg)
        with published(self.get_model(), self.get_criterion()):
            build(self)
            warn_of_optimizer(self.cfg)
            mask_communication.join(self)
            if criterion is not None:
                criterion.optimizer_built(self.optimizer.optimizer)
            self.importance_log = log_of(self, interval)

    @functools.wraps(clip)
    def clip_and_tell(self: Trainer, clip_norm: float) -> Any:
        criterion = _guided_criterion(self)
        if criterion is not None:
            criterion.before_clipping()
        norm = clip(self, clip_norm)
        if criterion is not None:
            criterion.clipped((clip_norm / (norm + 1e-6)).clamp_max(1) if clip_norm > 0 else 1.0)
        if (log := _importance_log(self)) is not None:
            log.clipped(norm)
        return norm

    @functools.wraps(step)
    def tell_and_step(self: Trainer, samples: list[Any], *args: Any, **kwargs: Any) -> Any:
        if (criterion := _guided_criterion(self)) is not None:
            criterion.update_begun(samples)
        before = self.get_num_updates()
        logged = step(self, samples, *args, **kwargs)
        if self.get_num_updates() > before and not getattr(self, "first_update_logged", False):
            self.first_update_logged = True
            logger.info(FIRST_UPDATE)
        return logged

    @functools.wraps(count)
    def count_and_tell(self: Trainer, num_updates: int) -> None:
        count(self, num_updates)
        if (log := _importance_log(self)) is not None:
            log.done(num_updates)

    @functools.wraps(save)
    def save_with_criterion(self: Trainer) -> dict[str, Any]:
        criterion = _guided_criterion(self)
        own = {} if criterion is None else criterion.own_state()
        state = save(self)
        if criterion is not None and own:
            state["extra_state"][_STATE_KEY] = {"method": criterion.method, **own}
        return state

    @functools.wraps(load)
    def load_with_criterion(self: Trainer, filename: str, reset_optimizer: bool = False, *args: Any, **kw: Any) -> Any:
        extra_state = load(self, filename, reset_optimizer, *args, **kw)
        if extra_state is None:
            return None
        criterion, own = _guided_criterion(self), extra_state.get(_STATE_KEY, {})
        same = criterion is not None and own.get("method") == criterion.method
        if criterion is not None and not reset_optimizer:
            criterion.load_own_state(own if same else {})
        if alignreg.is_pruned(own) and (reset_optimizer or not same):
            if criterion is not None and criterion.keeps_zeros:
                criterion.load_masks(own)
            else:
                alignreg.zeros_would_grow(own, filename, self.cfg)
        return extra_state

    @functools.wraps(iterate)
    def iterate_and_tell(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        self.epoch_iterator = iterate(self, *args, **kwargs)
        return self.epoch_iterator

    @functools.wraps(begin)
    def begin_and_tell(self: Trainer, epoch: int) -> None:
        if (criterion := _guided_criterion(self)) is not None:
            criterion.epoch_begun(epoch)
        begin(self, epoch)

    Trainer.__init__ = create_and_attach
    Trainer._build_optimizer = build_with_names
    Trainer.clip_grad_norm = clip_and_tell
    Trainer.train_step = tell_and_step
    Trainer.set_num_updates = count_and_tell
    Trainer.state_dict = save_with_criterion
    Trainer.load_checkpoint = load_with_criterion
    Trainer.get_train_iterator = iterate_and_tell
    Trainer.begin_epoch = begin_and_tell


def _importance_log(trainer: Trainer) -> ImportanceLog | None:
    log: ImportanceLog | None = getattr(trainer, "importance_log", None)  # its optimizer may not be built yet
    return log


def _guided_criterion(trainer: Trainer) -> GuidedCriterion | None:
    criterion = trainer.get_criterion()
    return criterion if isinstance(criterion, GuidedCriterion) else None
