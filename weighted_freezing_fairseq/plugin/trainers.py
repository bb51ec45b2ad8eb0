"""The listeners to fairseq's Trainer, in the order in which they receive events."""

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
    """Logs the first update of a run; recipes wait for this line (`hydra_train.py`)."""

    logged = False

    def updated(self, trainer: Trainer) -> None:
        if not self.logged:
            self.logged = True
            logger.info(FIRST_UPDATE)


LISTENERS: tuple[type[TrainerListener], ...] = (
    OptimizerSettings,  # first: refuses settings that no other listener supports
    JoinedLosses,
    MaskCommunication,
    GuidedCriterion,
    PrunedStart,  # after the criterion has restored its masks
    ImportanceLog,  # after all listeners that change gradients
    FirstUpdate,
)


def install() -> None:
    """Attach the listeners to every trainer that is built from now on."""
    trainer_events.install(LISTENERS)
