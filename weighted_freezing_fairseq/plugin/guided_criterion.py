"""What the criterions of all rows share: fairseq's own loss of a task, and while training one more term.

Which loss that is follows from the task (`token_loss.py`, `sentence_loss.py`), so that a row is written once and has
one name for both. fairseq's trainer talks to it through `trainers.py`. Left out on purpose: the rows themselves
(`criterions.py`, `alignreg.py`).
"""

import functools
import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
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
from .sentence_loss import SentenceLoss
from .token_loss import TokenLoss


@dataclass
class GuidedConfig(LabelSmoothedCrossEntropyCriterionConfig, SentencePredictionConfig):
    """The settings of both losses: those of the other one are refused."""


class GuidedCriterion(FairseqCriterion):
    """The loss of a task, with one more term of a row of the table while training.

    A row is abstract: `build_criterion` puts it in front of the loss of its task, which `super()` then means. That is
    fairseq's own class and what it lacks: the loss of K passes (`held_together`) and beside a teacher (`taught`), what
    sums are divided by (`sizes`), its `settings`, and its names in the log.
    """

    method: str
    in_bits: tuple[str, ...] = ()  # terms of the loss, logged in base 2 like it
    as_is: tuple[str, ...] = ()  # other numbers to log

    @classmethod
    def build_criterion(cls, cfg: DictConfig, task: Any) -> "GuidedCriterion":
        """The criterion of this row for the loss of `task`."""
        loss = SentenceLoss if isinstance(task, SentencePredictionTask) else TokenLoss
        _refuse_settings_of_others(cfg, loss, task)
        if getattr(task, "target_dictionary", None) is None:
            raise UserError(
                f"--criterion {cls.method} works with tasks that predict words, such as --task translation, and with "
                f"--task sentence_prediction; {type(task).__name__} has no target dictionary"
            )
        return _over(cls, loss)(task, cfg)

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        super().__init__(task, cfg)
        self.cfg = cfg
        self._trainer: weakref.ref[Trainer] | None = None

    @property
    def neutral(self) -> bool:
        """Whether the settings leave nothing but the task's loss."""
        raise NotImplementedError

    @property
    def needs_whole_weights(self) -> bool:
        """Whether training that shards weights over processes must be refused."""
        return False

    @property
    def held(self) -> Iterable[Tensor]:
        """What it keeps in memory beside the model."""
        return ()

    def guided(self, model: nn.Module, sample: dict[str, Any], sample_size: Any) -> tuple[Tensor, dict[str, Any]]:
        """The loss of one batch, summed like the task's, and what is logged, summed likewise."""
        raise NotImplementedError

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, Any, dict]:
        """Loss, sample size and what is logged. In validation, per sentence, and when neutral: fairseq's own."""
        if self.neutral or not model.training or not reduce:
            return super().forward(model, sample, reduce)
        sizes = self.sizes(sample)
        loss, logged = self.guided(model, sample, sizes["sample_size"])
        return loss, sizes["sample_size"], {**logged, "loss": loss.detach(), **sizes}

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the loss as fairseq does, and every term beside it, from sums over ranks and micro-batches."""
        super().reduce_metrics(logging_outputs)
        size = sum(log["sample_size"] for log in logging_outputs)
        in_bits = cls.loss_names + cls.in_bits
        for key in in_bits + cls.as_is:
            if all(key in log for log in logging_outputs):
                unit = math.log(2) if key in in_bits else 1
                metrics.log_scalar(key, sum(log[key] for log in logging_outputs) / size / unit, size, round=6)

    def penalised(
        self, model: nn.Module, sample: dict[str, Any], sample_size: Any, terms: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Any]]:
        """fairseq's loss of the task and `terms` of the weights alone, each logged under its name.

        The terms were made before the model's pass: autograd takes what was made last first, so that their gradients,
        as large as the weights, come when the activations are gone.
        """
        loss, _, logged = super().forward(model, sample)
        logged[self.loss_name] = logged["loss"]
        # The trainer divides by the sizes of all batches of all ranks: each contributes its share of one penalty.
        for name, term in terms.items():
            loss, logged[name] = loss + term * sample_size, term.detach() * sample_size
        return loss, logged

    # What the trainer tells, see trainers.py.

    @property
    def trainer(self) -> Trainer:
        """The trainer that this criterion works for."""
        trainer = None if self._trainer is None else self._trainer()
        if trainer is None:
            raise RuntimeError(f"{self.method} trains only through fairseq's Trainer, which counts its updates")
        return trainer

    def attach(self, trainer: Trainer) -> None:
        """Called once, when the trainer is made."""
        self._trainer = weakref.ref(trainer)

    def optimizer_built(self, optimizer: torch.optim.Optimizer) -> None:
        """Called when the trainer has built its optimizer, also anew after a checkpoint is loaded; names are known."""

    def epoch_begun(self, epoch: int) -> None:
        """Called before the first update of every epoch, also when a run is resumed."""

    def update_begun(self, samples: Sequence[Mapping[str, Any]]) -> None:
        """Called before every update with this process's micro-batches; an empty one is a stand-in."""

    def before_clipping(self) -> None:
        """Called before every optimizer step, when the model has the gradients, of all ranks, that clipping sees."""

    def clipped(self, factor: float | Tensor) -> None:
        """Called before every optimizer step with what clipping multiplied the gradients by."""

    def own_state(self) -> dict[str, Any]:
        """Tensors and plain values that a resumed run needs; called before the model is saved."""
        return {}

    def load_own_state(self, own: dict[str, Any]) -> None:
        """Take them back; an empty dict means a checkpoint of another criterion."""

    @property
    def keeps_zeros(self) -> bool:
        """Whether what an earlier run pruned stays at zero."""
        return False

    def load_masks(self, own: dict[str, Any]) -> None:
        """Called in place of `load_own_state` when a run starts anew from a pruned model; see `keeps_zeros`."""


@functools.cache
def _over(row: type[GuidedCriterion], loss: type) -> type[GuidedCriterion]:
    return type(row.__name__, (row, loss), {"__doc__": row.__doc__})


def _refuse_settings_of_others(cfg: DictConfig, loss: type, task: Any) -> None:
    """A setting of another task's loss would silently do nothing."""
    own = {field.name for field in fields(loss.settings)}
    for field in fields(GuidedConfig):
        given = getattr(cfg, field.name, field.default)
        interpolated = str(field.default).startswith("${")  # a setting of fairseq's that every task has
        if field.name not in own and not interpolated and given != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            raise UserError(f"{flag} is nothing that the loss of {type(task).__name__} has; leave it out")


def register(criterion: type[GuidedCriterion], settings: type[GuidedConfig]) -> None:
    """Register a criterion under the name of its row."""
    criterion.__doc__ = f"{RULES[criterion.method].source}."
    register_criterion(criterion.method, dataclass=settings)(criterion)
