"""`--criterion intra_distillation`, `ewc`, `self_distillation`: the loss of a task plus one term.

The loss of the task is fairseq's own (`guided_criterion.py`). The mathematics is in `core/divergences.py`,
`core/penalties.py` and `core/fused.py`, the forward passes in `passes.py`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from omegaconf import II, DictConfig
from torch import Tensor, nn

from ..core import snapshot
from ..core.divergences import DIVERGENCES
from ..core.penalties import quadratic_penalty
from ..core.rules import RULES, SCOPES
from ..core.schedules import adaptive_alpha
from ..core.scope import Slot
from ..errors import UserError
from . import no_effect, parameters
from .guided_criterion import CriterionConfig, GuidedCriterion, register
from .passes import PASS_MODES, LossAndLog, Sample, differ
from .sentence_loss import SentenceLoss
from .teachers import Teachers

logger = logging.getLogger(__name__)


@dataclass
class IntraDistillationConfig(CriterionConfig):
    num_passes: int = field(default=3, metadata={"help": "K, passes of each batch, each with its own dropout"})
    divergence: ChoiceEnum(list(DIVERGENCES)) = field(
        default="x",
        metadata={"help": "difference of the passes: X-divergence, Jensen-Shannon divergence, squared difference"},
    )
    divergence_reduction: ChoiceEnum(["mean", "sum"]) = field(
        default="mean",
        metadata={
            "help": "with --task sentence_prediction: add to the mean loss the mean of the sentences' divergences, or, "
            "as Xu et al. on GLUE, their sum over the batch of an update, which multiplies alpha by the batch size"
        },
    )
    alpha: float = field(default=5.0, metadata={"help": "strength of the divergence; 0: plain training in one pass"})
    alpha_schedule: ChoiceEnum(["adaptive", "constant"]) = field(
        default="adaptive",
        metadata={"help": "adaptive: rises from 0 to 1 at update N/q and to alpha at N/p, with N = --max-update"},
    )
    alpha_p: float = field(default=5.0, metadata={"help": "p: alpha is reached at update N/p"})
    alpha_q: float = field(default=10.0, metadata={"help": "q: strength 1 is reached at update N/q"})
    pass_mode: ChoiceEnum(list(PASS_MODES)) = field(
        default="concat",
        metadata={
            "help": "concat: one forward pass of K copies; loop: K forward passes; "
            "recompute: K forward passes in the memory of one, all but the last computed twice"
        },
    )
    max_update: int = II("optimization.max_update")


class IntraDistillation(GuidedCriterion):
    """Cross entropy CE_n plus the divergence D_n of K passes. For an update of N sentences (or tokens), over all
    micro-batches and processes, with alpha' the strength at this update, the loss is

        mean:  1/N sum_n (CE_n + alpha' D_n)
        sum:   1/N sum_n CE_n + alpha' sum_n D_n  =  1/N sum_n (CE_n + N alpha' D_n)

    fairseq's trainer divides the summed gradients by N after the last pass. `sum` counts N before the first pass
    (`update_begun`), so that the gradient does not depend on how a batch is split into micro-batches. The logged
    `divergence` is the term that alpha' multiplies.
    """

    method = "intra_distillation"
    logged_in_bits = ("divergence",)
    logged_unscaled = ("alpha",)

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        super().__init__(task, cfg)
        if cfg.num_passes < 1:
            raise UserError(f"--num-passes must be at least 1, got {cfg.num_passes}; type --num-passes 3")
        if cfg.alpha < 0:
            raise UserError(f"--alpha must not be negative, got {cfg.alpha:g}; type --alpha 5")
        if self._summed and not isinstance(self.loss, SentenceLoss):
            raise UserError(
                "--divergence-reduction sum is a sum over sentences: it works with --task sentence_prediction, "
                f"not with {type(task).__name__}; type --divergence-reduction mean"
            )
        self._update_size = 0.0  # N
        self._passes_compared = False
        self._warn_of_no_effect()
        if self.neutral or cfg.alpha_schedule == "constant" or cfg.alpha <= 1:
            return
        if not cfg.alpha_q > cfg.alpha_p > 0:
            raise UserError(
                f"--alpha-p {cfg.alpha_p:g} --alpha-q {cfg.alpha_q:g}: the schedule needs q > p > 0; "
                "type --alpha-p 5 --alpha-q 10"
            )
        if cfg.max_update <= 0:
            raise UserError(
                "an adaptive alpha needs a last update: add --max-update 50000, or --alpha-schedule constant"
            )

    def _warn_of_no_effect(self) -> None:
        cfg = self.cfg
        if cfg.num_passes == 1 and cfg.alpha != 0:
            no_effect.warn("--num-passes 1 is plain training, since one pass has no divergence; type --num-passes 3")
        schedule = ("alpha_p", "alpha_q")
        if cfg.alpha_schedule == "constant":
            reason = "--alpha-schedule constant does not rise; leave it out, or type --alpha-schedule adaptive"
            no_effect.warn_of(cfg, IntraDistillationConfig, schedule, reason)
        elif cfg.alpha <= 1:
            reason = f"--alpha {cfg.alpha:g} does not rise, since it is not above 1; leave it out, or type --alpha 5"
            no_effect.warn_of(cfg, IntraDistillationConfig, schedule, reason)
        if getattr(self.loss, "regression_target", False) and cfg.divergence != "mse":
            reason = "with --regression-target passes are compared by squared differences; leave it out"
            no_effect.warn_of(cfg, IntraDistillationConfig, ("divergence",), reason)

    @property
    def neutral(self) -> bool:
        return self.cfg.num_passes == 1 or self.cfg.alpha == 0

    @property
    def _summed(self) -> bool:
        return str(self.cfg.divergence_reduction) == "sum"

    @property
    def strength(self) -> float:
        """alpha' of the current update."""
        cfg = self.cfg
        if cfg.alpha_schedule == "constant":
            return float(cfg.alpha)
        return adaptive_alpha(self.trainer.get_num_updates(), cfg.max_update, cfg.alpha, cfg.alpha_p, cfg.alpha_q)

    def guided(self, model: nn.Module, sample: Sample, sample_size: Any) -> LossAndLog:
        outputs = PASS_MODES[str(self.cfg.pass_mode)](model, sample, self.cfg.num_passes, self.loss.one_pass)
        if not self._passes_compared and not differ(outputs[0].detach()):
            no_effect.warn(
                f"--num-passes {self.cfg.num_passes}: all passes of the first batch are the same, so their divergence "
                "is 0; the model seems to have no dropout; type --dropout 0.1"
            )
        self._passes_compared = True
        strength, factor = self.strength, self._update_size if self._summed else 1.0
        loss, logged = self.loss.of_passes(outputs, sample, str(self.cfg.divergence), strength * factor)
        return loss, {**logged, "divergence": factor * logged["divergence"], "alpha": strength * sample_size}

    def update_begun(self, trainer: Trainer, samples: Sequence[Sample]) -> None:
        """Count the sentences of this update, by which the trainer will divide its gradient."""
        if not self._summed or self.neutral:
            return
        # An empty batch is a placeholder. If the last one is, the trainer counts no sentence of this process.
        count = sum(self.loss.sizes(sample)["sample_size"] for sample in samples if sample) if samples[-1] else 0
        total = torch.tensor(float(count), device=trainer.device)
        if trainer.data_parallel_world_size > 1:
            distributed_utils.all_reduce(total, group=trainer.data_parallel_process_group)
        self._update_size = float(total)


@dataclass
class EwcConfig(CriterionConfig):
    ewc_lambda: Optional[float] = field(
        default=None, metadata={"help": "strength of the penalty on the distance to the anchor; 0: plain training"}
    )
    ewc_anchor: str = field(
        default="previous",
        metadata={
            "help": "previous: the weights one update earlier, with the squared gradient of that update as Fisher; "
            "or a snapshot made by `wff fisher` on the old task"
        },
    )
    ewc_start: Optional[int] = field(
        default=None,
        metadata={"help": "first update with the penalty (default: the first one; with previous, after the warm-up)"},
    )
    importance_scope: Optional[ChoiceEnum(SCOPES)] = field(
        default=None,
        metadata={"help": "linear: matrices of attention and feed-forward layers; all: every parameter (default)"},
    )


class Ewc(GuidedCriterion):
    """A quadratic penalty on the distance to an anchor; keeps F and theta_A of the weights in scope in float32."""

    method = "ewc"
    logged_in_bits = ("ewc",)
    needs_whole_weights = True

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        super().__init__(task, cfg)
        if cfg.ewc_lambda is None:
            raise UserError(
                "--criterion ewc needs --ewc-lambda; the best value depends on the data: start with --ewc-lambda 1e3, "
                "or 10 with a snapshot as --ewc-anchor, and compare ewc with ce_loss in the log"
            )
        if cfg.ewc_lambda < 0:
            raise UserError(f"--ewc-lambda must not be negative, got {cfg.ewc_lambda:g}; type --ewc-lambda 1e3")
        self._weights: list[tuple[nn.Parameter, Slot]] = []
        self._fisher: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}
        self._clip_factor: float | Tensor = 1.0  # by which the gradients of the current update are clipped

    @property
    def neutral(self) -> bool:
        return self.cfg.ewc_lambda == 0

    @property
    def kept_tensors(self) -> list[Tensor]:
        return [*self._fisher.values(), *self._anchor.values()]

    @property
    def start(self) -> int:
        """The first update with the penalty, counted from 1."""
        if self.cfg.ewc_start is not None:
            return int(self.cfg.ewc_start)
        warm_up = getattr(self.trainer.cfg.lr_scheduler, "warmup_updates", 0)
        return int(warm_up) + 1 if self.cfg.ewc_anchor == "previous" else 1

    @property
    def update(self) -> int:
        """The current update, counted from 1."""
        return int(self.trainer.get_num_updates()) + 1

    def trainer_built(self, trainer: Trainer) -> None:
        super().trainer_built(trainer)
        last = trainer.cfg.optimization.max_update
        if not self.neutral and 0 < last < self.start:
            no_effect.warn(
                f"--ewc-lambda {self.cfg.ewc_lambda:g} has no effect: the penalty begins at update {self.start}, "
                f"the run ends at --max-update {last}; type --ewc-start 1"
            )

    @property
    def active(self) -> bool:
        """Whether the current update has the penalty."""
        return self.update >= self.start and bool(self._anchor)

    def guided(self, model: nn.Module, sample: Sample, sample_size: Any) -> LossAndLog:
        penalty = torch.zeros((), device=sample["target"].device)
        if self.active:
            halves = [
                quadratic_penalty(parameter, self._fisher[slot.name], self._anchor[slot.name], slot.weight)
                for parameter, slot in self._weights
            ]
            penalty = self.cfg.ewc_lambda * torch.stack(halves).sum()
        return self.penalised(model, sample, sample_size, {"ewc": penalty})

    def use_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        if self.neutral:
            return
        tensors = [p for group in optimizer.param_groups for p in group["params"]]
        slots = parameters.match(tensors, self.cfg.importance_scope or RULES[self.method].scope)
        named = parameters.by_name()
        self._weights = [(named[slot.name], slot) for slot in slots]
        if self.cfg.ewc_anchor == "previous":
            optimizer.register_step_pre_hook(self._update_anchor)
        elif not self._anchor:
            self._load_anchor(Path(self.cfg.ewc_anchor), slots)

    def _load_anchor(self, path: Path, slots: Sequence[Slot]) -> None:
        """Load Fisher information and weights of the old task."""
        shapes = [(slot.name, slot.shape) for slot in slots]
        fisher, weights = snapshot.fisher_and_weights(snapshot.load(path, "fisher"), path, shapes)
        for slot in slots:
            self._fisher[slot.name] = fisher[slot.name].to(slot.weight.device, torch.float32)
            self._anchor[slot.name] = weights[slot.name].to(slot.weight.device, torch.float32)

    @torch.no_grad()
    def _update_anchor(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
        """Before a step, store the current weights as theta_A and the square of their gradient as F."""
        # DEVIATION: Li et al. section 3.1 does not say which loss gives the Fisher information of the previous
        # mini-batch. Here it is the squared gradient of the cross entropy, averaged over the batch and clipped. `wff
        # fisher` measures the mean of squared gradients per sentence. The gradient of the penalty is subtracted first:
        # otherwise the penalty would increase its own F without bound.
        if self.update < self.start - 1:
            return
        active = self.active  # before the loop below stores anchors
        for _, slot in self._weights:
            if slot.name not in self._anchor:
                self._anchor[slot.name] = torch.empty_like(slot.weight, dtype=torch.float32)
                self._fisher[slot.name] = torch.zeros_like(self._anchor[slot.name])
            fisher, anchor = self._fisher[slot.name], self._anchor[slot.name]
            if active:  # minus the gradient of the penalty, which is part of slot.grad
                minus_penalty = anchor.sub_(slot.weight).mul_(fisher).mul_(self.cfg.ewc_lambda * self._clip_factor)
            if slot.grad is None:
                fisher.zero_()
            else:  # a fused half-precision optimizer unscales its gradients only inside its step
                fisher.copy_(slot.grad).div_(kwargs.get("scale", 1.0))
                if active:
                    fisher.add_(minus_penalty)
                fisher.square_()
            anchor.copy_(slot.weight)

    def clipped(self, trainer: Trainer, norm: Tensor) -> None:
        limit = trainer.cfg.optimization.clip_norm
        self._clip_factor = (limit / (norm + 1e-6)).clamp_max(1) if limit > 0 else 1.0

    def state_to_save(self) -> dict[str, Any]:
        if self.cfg.ewc_anchor != "previous" or not self._anchor:
            return {}
        return {"fisher": dict(self._fisher), "anchor": dict(self._anchor)}

    def restore_state(self, saved: dict[str, Any]) -> None:
        if self.neutral or self.cfg.ewc_anchor != "previous":
            return
        if not saved:
            logger.warning("the checkpoint has no state of ewc: the penalty starts after the next update")
        slots = [slot for _, slot in self._weights] if saved else []
        self._fisher, self._anchor = (
            {s.name: saved[key][s.name].to(s.weight.device, copy=True) for s in slots} for key in ("fisher", "anchor")
        )


@dataclass
class SelfDistillationConfig(CriterionConfig):
    teacher: Optional[str] = field(
        default=None, metadata={"help": "checkpoint of the teacher, or PATH:PATH... for an ensemble"}
    )
    teacher_weight: float = field(
        default=1.0, metadata={"help": "weight of KL(teacher || student); 0: plain training without a teacher"}
    )


class SelfDistillation(GuidedCriterion):
    method = "self_distillation"
    logged_in_bits = ("teacher_kl", "teacher_mse")

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        super().__init__(task, cfg)
        if cfg.teacher_weight < 0:
            raise UserError(
                f"--teacher-weight must not be negative, got {cfg.teacher_weight:g}; type --teacher-weight 1"
            )
        if cfg.teacher is None and not self.neutral:
            raise UserError("--criterion self_distillation needs --teacher CHECKPOINT of a trained model")
        self._teachers: Teachers | None = None

    @property
    def neutral(self) -> bool:
        return self.cfg.teacher_weight == 0

    @property
    def kept_tensors(self) -> list[Tensor]:
        return [] if self._teachers is None else [p for model in self._teachers.models for p in model.parameters()]

    def trainer_built(self, trainer: Trainer) -> None:
        super().trainer_built(trainer)
        if not self.neutral:
            self._teachers = Teachers.load(self.cfg.teacher, trainer.get_model(), trainer.task)

    def guided(self, model: nn.Module, sample: Sample, sample_size: Any) -> LossAndLog:
        assert self._teachers is not None
        return self.loss.with_teachers(model, sample, self._teachers, self.cfg.teacher_weight)


register(IntraDistillation, IntraDistillationConfig)
register(Ewc, EwcConfig)
register(SelfDistillation, SelfDistillationConfig)
