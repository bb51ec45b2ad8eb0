"""Which parts of this package listen to fairseq's Trainer, and in which order each event reaches them."""

import logging

from fairseq.trainer import Trainer

from ..hydra_train import FIRST_UPDATE
from . import trainer_events
from .alignreg import PrunedStart
from .architectures import JoinedLosses
from .guided_criterion import GuidedCriterion
from .importance_log import ImportanceLog
from .mask_communication import MaskCommunication
from .optimizer_settings import OptimizerSettings
from .trainer_events import TrainerListener

logger = logging.getLogger(__name__)


class FirstUpdate(TrainerListener):
    """Logs a run's first update: a recipe that shares the machine waits for this line (`hydra_train.py`)."""

    logged = False

    def updated(self, trainer: Trainer) -> None:
        if not self.logged:
            self.logged = True
            logger.info(FIRST_UPDATE)


LISTENERS: tuple[type[TrainerListener], ...] = (
    OptimizerSettings,  # first, since it refuses what no later listener could work with
    JoinedLosses,
    MaskCommunication,
    GuidedCriterion,
    PrunedStart,  # after the criterion took back its own masks
    ImportanceLog,  # measures the gradients as all others leave them
    FirstUpdate,
)


def install() -> None:
    """Have them listen to every trainer that is built from now on."""
    trainer_events.install(LISTENERS)
