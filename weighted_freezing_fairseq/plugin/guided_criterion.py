"""The base class of the package's criterions: fairseq's loss of a task and, in training, one more term.

The task selects the loss: `token_loss.py` for words, `sentence_loss.py` for labels of sentences.
"""

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.criterions.sentence_prediction import SentencePredictionConfig
from fairseq.logging import metrics
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.trainer import Trainer
from omegaconf import DictConfig
from torch import Tensor, nn

from ..core.rules import RULES
from ..errors import UserError
from .parameters import refuse_sharding
from .passes import LossAndLog, Sample
from .sentence_loss import SentenceLoss
from .token_loss import TokenLoss
from .trainer_events import TrainerListener

TaskLoss = TokenLoss | SentenceLoss

_STATE_KEY = "guided_criterion"


@dataclass
class CriterionConfig(LabelSmoothedCrossEntropyCriterionConfig, SentencePredictionConfig):
    """The settings of both losses. A setting of the loss that the task does not use is an error."""


class GuidedCriterion(FairseqCriterion, TrainerListener):
    """The loss of a task and, in training, the term of one method. It follows the trainer as a listener."""

    method: str
    logged_in_bits: tuple[str, ...] = ()  # logged terms of the loss, converted to base 2 like the loss
    logged_unscaled: tuple[str, ...] = ()  # other logged values
    needs_whole_weights = False  # True: refuse training that shards weights over processes, unless neutral

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        loss = SentenceLoss if isinstance(task, SentencePredictionTask) else TokenLoss
        _refuse_settings_of_other_loss(cfg, loss, task)
        if not _predicts_words(task):
            raise UserError(
                f"--criterion {self.method} works with tasks that predict words, such as --task translation, and with "
                f"--task sentence_prediction; {type(task).__name__} has no target dictionary"
            )
        super().__init__(task)
        self.cfg = cfg
        self.loss: TaskLoss = loss(task, cfg)
        self._trainer: weakref.ref[Trainer] | None = None

    @property
    def neutral(self) -> bool:
        """Whether the settings switch the method off, so that only the loss of the task remains."""
        raise NotImplementedError

    @property
    def kept_tensors(self) -> list[Tensor]:
        """The tensors that the criterion keeps in memory beside the model, whose size `wff bench` counts."""
        return []

    def guided(self, model: nn.Module, sample: Sample, sample_size: Any) -> LossAndLog:
        """Return the loss of one batch and the values to log, both summed over the batch like the task's loss."""
        raise NotImplementedError

    def forward(self, model: nn.Module, sample: Sample, reduce: bool = True) -> tuple[Tensor, Any, dict]:
        """Return loss, sample size and logged values; if neutral or not in training, of the task's loss alone."""
        if self.neutral or not model.training or not reduce:
            return self.loss(model, sample, reduce)
        sizes = self.loss.sizes(sample)
        loss, logged = self.guided(model, sample, sizes["sample_size"])
        return loss, sizes["sample_size"], {**logged, "loss": loss.detach(), **sizes}

    def penalised(self, model: nn.Module, sample: Sample, sample_size: Any, terms: Mapping[str, Tensor]) -> LossAndLog:
        """Return the task's loss plus `terms`, which depend on the weights only; each term is logged under its name.

        Compute the terms before the call: autograd runs backward through the latest operations first, so that the
        gradients of the terms, as large as the weights, are allocated after the activations are freed.
        """
        loss, _, logged = self.loss(model, sample)
        logged[self.loss.loss_name] = logged["loss"]
        # The trainer divides by the sample size of all batches on all processes: each adds its share of one penalty.
        for name, term in terms.items():
            loss, logged[name] = loss + term * sample_size, term.detach() * sample_size
        return loss, logged

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the loss as fairseq does, and the other values, from sums over processes and micro-batches."""
        # fairseq calls this on the class, which does not know the task. Only the loss of words logs nll_loss.
        loss = TokenLoss if any("nll_loss" in log for log in logging_outputs) else SentenceLoss
        loss.reduce_metrics(logging_outputs)
        size = sum(log["sample_size"] for log in logging_outputs)
        in_bits = loss.loss_names + cls.logged_in_bits
        for key in in_bits + cls.logged_unscaled:
            if all(key in log for log in logging_outputs):
                unit = math.log(2) if key in in_bits else 1
                metrics.log_scalar(key, sum(log[key] for log in logging_outputs) / size / unit, size, round=6)

    def logging_outputs_can_be_summed(self) -> bool:
        return self.loss.logging_outputs_can_be_summed()

    # State in checkpoints, and events of the trainer.

    def state_to_save(self) -> dict[str, Any]:
        """Return the tensors and plain values that a resumed run needs."""
        return {}

    def restore_state(self, saved: dict[str, Any]) -> None:
        """Restore what `state_to_save` returned; `saved` is empty for a checkpoint of another criterion."""

    def use_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Called with every torch optimizer that the trainer builds, while `parameters` knows its tensors' names."""

    @property
    def trainer(self) -> Trainer:
        """The trainer that this criterion trains in."""
        trainer = None if self._trainer is None else self._trainer()
        if trainer is None:
            raise RuntimeError(f"{self.method} works only in fairseq's Trainer, which counts the updates")
        return trainer

    @classmethod
    def for_trainer(cls, trainer: Trainer) -> "GuidedCriterion | None":
        criterion = trainer.get_criterion()
        return criterion if isinstance(criterion, cls) else None

    def trainer_built(self, trainer: Trainer) -> None:
        self._trainer = weakref.ref(trainer)

    def optimizer_requested(self, trainer: Trainer) -> None:
        if self.needs_whole_weights and not self.neutral:
            refuse_sharding(trainer.cfg, self.method)

    def optimizer_built(self, trainer: Trainer) -> None:
        self.use_optimizer(trainer.optimizer.optimizer)

    def checkpoint_loaded(
        self, trainer: Trainer, extra_state: Mapping[str, Any], path: str, reset_optimizer: bool
    ) -> None:
        saved = saved_state(extra_state)
        if not reset_optimizer:
            self.restore_state(saved if saved.get("method") == self.method else {})

    def checkpoint_saving(self, trainer: Trainer, extra_state: dict[str, Any]) -> None:
        if saved := self.state_to_save():
            extra_state[_STATE_KEY] = {"method": self.method, **saved}


def saved_state(extra_state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a guided criterion in a checkpoint; empty if it has none."""
    return extra_state.get(_STATE_KEY, {})


def _predicts_words(task: Any) -> bool:
    try:
        return getattr(task, "target_dictionary", None) is not None
    except NotImplementedError:  # tasks of fairseq 0.12.2 that have none
        return False


def _refuse_settings_of_other_loss(cfg: DictConfig, loss: type[TaskLoss], task: Any) -> None:
    """Refuse a setting of the loss that this task does not use; it would have no effect."""
    used = {field.name for field in fields(loss.settings)}
    for field in fields(CriterionConfig):
        value = getattr(cfg, field.name, field.default)
        interpolated = str(field.default).startswith("${")  # a setting of fairseq that every task has
        if field.name not in used and not interpolated and value != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            raise UserError(f"{flag} is not a setting of the loss of {type(task).__name__}; leave it out")


def register(criterion: type[GuidedCriterion], settings: type[CriterionConfig]) -> None:
    """Register a criterion under the name of its method."""
    criterion.__doc__ = f"{RULES[criterion.method].source}."
    register_criterion(criterion.method, dataclass=settings)(criterion)
