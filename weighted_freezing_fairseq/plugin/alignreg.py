"""`--criterion alignreg`: iterative pruning during training, aligned with a reference network (O'Neill et al. 2021).

The mathematics is in `core/penalties.py`, `core/pruning.py` and `core/pruner.py`. This module has the flags, the
reference, and the reactions to the trainer's events. Left out on purpose: pruning of a finished checkpoint, which is
`wff prune`.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass import ChoiceEnum
from fairseq.trainer import Trainer
from omegaconf import II, DictConfig
from torch import Tensor, nn

from ..core import snapshot
from ..core.penalties import alignments, quadratic_penalty
from ..core.pruner import IterativePruning
from ..core.pruning import METHODS
from ..core.schedules import PRUNE_SCHEDULES, pruning_steps
from ..core.scope import Slot
from ..errors import UserError, check_fraction
from . import checkpoints, no_effect, parameters
from .guided_criterion import CriterionConfig, GuidedCriterion, register, saved_state
from .passes import LossAndLog, Sample
from .trainer_events import TrainerListener

logger = logging.getLogger(__name__)

_REMEDY = "give --alignreg-reference a checkpoint of the same model from before fine-tuning"


@dataclass
class AlignRegConfig(CriterionConfig):
    alignreg: ChoiceEnum(["cosine", "frobenius", "none"]) = field(  # type: ignore[valid-type]
        default="cosine",
        metadata={"help": "penalty on the distance from the reference: cosine of weights, Frobenius norm, none"},
    )
    alignreg_level: ChoiceEnum(["unit", "layer"]) = field(  # type: ignore[valid-type]
        default="unit", metadata={"help": "take the cosine over the weights of each unit, or of each layer"}
    )
    alignreg_lambda: float = field(default=5e-4, metadata={"help": "strength of the penalty; 0: no penalty"})
    alignreg_reference: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "checkpoint of the reference network (default: the weights at the start of this run)"},
    )
    prune: ChoiceEnum(["none", *METHODS]) = field(  # type: ignore[valid-type]
        default="none", metadata={"help": "pruning method, which ranks the weights; see wff prune --help"}
    )
    prune_step: float = field(default=0.1, metadata={"help": "fraction of the weights that each pruning step prunes"})
    prune_interval: Optional[int] = field(  # noqa: UP045
        default=None, metadata={"help": "number of updates, or epochs, between pruning steps"}
    )
    prune_unit: ChoiceEnum(["updates", "epochs"]) = field(  # type: ignore[valid-type]
        default="updates", metadata={"help": "unit of --prune-interval"}
    )
    prune_target: float = field(default=0.7, metadata={"help": "final fraction of the weights that are pruned"})
    prune_schedule: ChoiceEnum(PRUNE_SCHEDULES) = field(  # type: ignore[valid-type]
        default="uniform",
        metadata={
            "help": "uniform: each step prunes --prune-step of all weights; geometric: of the remaining weights; "
            "cubic: as many steps as uniform, larger ones first"
        },
    )
    prune_lambda: Optional[float] = field(  # noqa: UP045
        default=None, metadata={"help": "strength of the penalty of --prune l2 (default 1e-4) and l0 (default 1)"}
    )
    prune_gate_lr: float = field(default=0.01, metadata={"help": "learning rate of the gates of --prune l0"})
    max_update: int = II("optimization.max_update")
    max_epoch: int = II("optimization.max_epoch")
    seed: int = II("common.seed")


class AlignReg(GuidedCriterion):
    method = "alignreg"
    in_bits = ("alignreg", "prune_penalty")
    as_is = ("sparsity",)
    needs_whole_weights = True

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        super().__init__(task, cfg)
        _refuse_wrong(cfg)
        _warn_of_no_effect(cfg)
        self._layers: list[tuple[nn.Parameter, Slot]] = []
        self._reference: dict[str, Tensor] = {}
        self._pruning: IterativePruning | None = None
        self._epoch = 1
        self._batches: Any = None  # fairseq's epoch iterator; None until the trainer has built it
        self._begun: dict[str, int] = {}  # finished updates and epochs at the beginning of pruning

    @property
    def _aligned(self) -> bool:
        return str(self.cfg.alignreg) != "none" and self.cfg.alignreg_lambda != 0

    @property
    def neutral(self) -> bool:
        return not self._aligned and str(self.cfg.prune) == "none"

    @property
    def held(self) -> Iterable[Tensor]:
        return [*self._reference.values(), *(self._pruning.held if self._pruning is not None else ())]

    def forward(self, model: nn.Module, sample: Sample, reduce: bool = True) -> tuple[Tensor, Any, dict]:
        if self._pruning is not None and not model.training:
            self._pruning.close_gates()
        return super().forward(model, sample, reduce)

    def guided(self, model: nn.Module, sample: Sample, sample_size: Any) -> LossAndLog:
        if self._aligned and not self._reference:
            self._reference = {slot.name: slot.weight.clone() for _, slot in self._layers}
        if self._pruning is not None:
            if not self._begun:
                earlier = self._pruning.steps * self.cfg.prune_interval  # steps of the run that the masks come from
                self._begun = {unit: count - earlier for unit, count in self._finished().items()}
                self._warn_if_out_of_reach()
            self._pruning.begin_update()
        # Before the forward pass, see `penalised`.
        terms = {}
        if self._aligned:
            terms["alignreg"] = self.cfg.alignreg_lambda * self._distance()
        if self._pruning is not None and self._pruning.method.penalty:
            terms["prune_penalty"] = self._pruning.penalty()
        loss, logged = self.penalised(model, sample, sample_size, terms)
        if self._pruning is not None:
            logged["sparsity"] = self._pruning.sparsity * sample_size
        return loss, logged

    def _distance(self) -> Tensor:
        """The penalty without its strength: minus the mean cosine (eq. 3), or the squared distance (eq. 6)."""
        if str(self.cfg.alignreg) == "cosine":
            thetas, exacts = [parameter for parameter, _ in self._layers], [slot.weight for _, slot in self._layers]
            references = [self._reference[slot.name] for _, slot in self._layers]
            return -alignments(thetas, references, str(self.cfg.alignreg_level), exacts).mean()
        halves = [quadratic_penalty(p, None, self._reference[s.name], s.weight) for p, s in self._layers]
        return 2 * torch.stack(halves).sum()

    def trainer_built(self, trainer: Trainer) -> None:
        super().trainer_built(trainer)
        cfg, unit = self.cfg, str(self.cfg.prune_unit)
        limit = {"updates": cfg.max_update, "epochs": cfg.max_epoch}[unit]
        if str(cfg.prune) != "none" and 0 < limit < self._last_step * cfg.prune_interval:
            raise UserError(
                f"{self._last_step} pruning steps every {cfg.prune_interval} {unit} do not fit in "
                f"--max-{unit.removesuffix('s')} {limit}; type {self._what_fits(limit)}"
            )

    @property
    def _last_step(self) -> int:
        return pruning_steps(self.cfg.prune_step, self.cfg.prune_target, str(self.cfg.prune_schedule))

    def _what_fits(self, count: int) -> str:
        """Flags that reach the target in `count` updates or epochs, with training after the last step if possible."""
        cfg, steps = self.cfg, self._last_step
        if steps <= count:
            return f"--prune-interval {max(1, count // (steps + 1))}"
        geometric = str(cfg.prune_schedule) == "geometric"
        step = 1 - (1 - cfg.prune_target) ** (1 / count) if geometric else cfg.prune_target / count
        return f"--prune-interval 1 --prune-step {math.ceil(1e4 * step) / 1e4:g}"

    def _warn_if_out_of_reach(self) -> None:
        """When pruning begins: the run may end by the other unit, or may have been resumed with little time left."""
        unit, finished = str(self.cfg.prune_unit), self._finished()
        frequency = self.trainer.cfg.optimization.update_freq
        if self._batches is None:
            return
        epoch_length = math.ceil(len(self._batches) / frequency[min(self._epoch, len(frequency)) - 1])
        left = (self.cfg.max_update or math.inf) - finished["updates"]
        if self.cfg.max_epoch > 0:
            left = min(left, (self.cfg.max_epoch - finished["epochs"]) * epoch_length)
        count = finished[unit] - self._begun[unit] + (left if unit == "updates" else left / epoch_length)
        if count < (needed := self._last_step * self.cfg.prune_interval):
            logger.warning(
                "--prune-target %g will not be reached: pruning takes %d %s, and this run has %d; type %s",
                self.cfg.prune_target, needed, unit, count, self._what_fits(max(1, int(count))),
            )  # fmt: skip

    def use_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        if self.neutral:
            return
        try:
            slots = parameters.match([p for group in optimizer.param_groups for p in group["params"]], "linear")
        except ValueError:  # an empty scope; its message names a flag that alignreg lacks
            raise UserError(
                "--criterion alignreg acts on matrices of attention and feed-forward layers, and this model has none; "
                "type another --criterion"
            ) from None
        named = parameters.by_name()
        self._layers = [(named[slot.name], slot) for slot in slots]
        if self._aligned and self.cfg.alignreg_reference is not None and not self._reference:
            self._load_reference(Path(self.cfg.alignreg_reference))
        if str(self.cfg.prune) != "none":
            self._pruning = IterativePruning(
                slots,
                str(self.cfg.prune),
                interval=self.cfg.prune_interval,
                amount=self.cfg.prune_step,
                target=self.cfg.prune_target,
                schedule=str(self.cfg.prune_schedule),
                seed=self.cfg.seed,
                strength=self.cfg.prune_lambda,
                gate_lr=self.cfg.prune_gate_lr,
                elapsed=self._elapsed,
                model_slots=[Slot(slot.name, parameter, slot.shape) for parameter, slot in self._layers],
                after_pruning=_forget_best,
            )
            self._pruning.attach(optimizer)

    def _load_reference(self, path: Path) -> None:
        weights = checkpoints.read(path, "reference", _REMEDY)["model"]
        self.trainer.get_model().upgrade_state_dict(weights)  # published RoBERTas use names of older versions
        wanted = [(slot.name, slot.shape) for _, slot in self._layers]
        reference = snapshot.matching(weights, path, wanted, _REMEDY)
        for _, slot in self._layers:
            self._reference[slot.name] = reference[slot.name].to(slot.weight.device, slot.weight.dtype)

    def _finished(self) -> dict[str, int]:
        """Updates and epochs that were finished before the current update."""
        return {"updates": int(self.trainer.get_num_updates()), "epochs": self._epoch - 1}

    def _elapsed(self) -> int:
        """Units of --prune-interval since pruning began, at the end of an update that the trainer has not counted."""
        unit = str(self.cfg.prune_unit)
        ended = unit == "updates" or (self._batches is not None and self._batches.end_of_epoch())
        return self._finished()[unit] - self._begun[unit] + ended

    def batches_built(self, trainer: Trainer, batches: Any) -> None:
        self._batches = batches

    def epoch_begun(self, trainer: Trainer, epoch: int) -> None:
        self._epoch = epoch

    def gradients_final(self, trainer: Trainer) -> None:
        if self._pruning is not None:
            self._pruning.mask_gradients()

    def keep_masks(self, saved: dict[str, Any]) -> None:
        """Keep the zeros of a pruned model from which a new run starts; `saved` is the state of the run that pruned."""
        assert self.trainer.optimizer is not None and self._pruning is not None  # the first access builds both
        self._pruning.keep_masks(saved["pruning"])
        logger.info("%.2f %% of the weights stay at zero, as in the checkpoint", 100 * self._pruning.sparsity)

    def state_to_save(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        if self._reference and self.cfg.alignreg_reference is None:
            state["reference"] = dict(self._reference)
        if self._pruning is not None:
            state |= {"pruning": self._pruning.state(), "begun": self._begun}
        return state

    def restore_state(self, saved: dict[str, Any]) -> None:
        if "pruning" in saved and self._pruning is None:
            raise UserError(
                "this checkpoint is being pruned: resume it with its own --prune, or start a new run from it with "
                "--finetune-from-model"
            )
        self._begun = saved.get("begun", {})
        if self._aligned and "reference" in saved and self.cfg.alignreg_reference is None:
            weights = saved["reference"]
            self._reference = {s.name: weights[s.name].to(s.weight.device, copy=True) for _, s in self._layers}
        if self._pruning is not None and "pruning" in saved:
            self._pruning.load_state(saved["pruning"])


class PrunedStart(TrainerListener):
    """Keeps the zeros of a pruned checkpoint, also where a run takes its weights only."""

    def state_in(self, trainer: Trainer, extra_state: Mapping[str, Any], path: str, reset_optimizer: bool) -> None:
        criterion, saved = trainer.get_criterion(), saved_state(extra_state)
        masks = saved.get("pruning", {}).get("masks")
        resumed = isinstance(criterion, AlignReg) and not reset_optimizer  # and has loaded its masks
        if not masks or resumed:
            return
        if isinstance(criterion, AlignReg) and str(criterion.cfg.prune) != "none":
            criterion.keep_masks(saved)
            return
        remedy = (
            f"to keep them, add --criterion alignreg --prune {saved['pruning']['method']} with the --prune-interval "
            "and --prune-target that it was pruned with"
        )
        if trainer.cfg.checkpoint.finetune_from_model == path:  # a dense run may be intended
            logger.warning("%s is pruned, and zeros in %d matrices will become nonzero; %s", path, len(masks), remedy)
        else:
            raise UserError(
                f"{path} is pruned, and without its masks zeros in {len(masks)} matrices would become nonzero; "
                f"{remedy}, or start a new, dense run from it with --finetune-from-model"
            )


def _forget_best() -> None:
    """After a pruning step, restart the search for `checkpoint_best.pt`: the best so far was a larger network."""
    if hasattr(checkpoint_utils.save_checkpoint, "best"):
        del checkpoint_utils.save_checkpoint.best


def _refuse_wrong(cfg: DictConfig) -> None:
    """Refuse values that the types of the dataclass allow."""
    if cfg.alignreg_lambda < 0:
        raise UserError(f"--alignreg-lambda must not be negative, got {cfg.alignreg_lambda:g}; type 5e-4")
    if str(cfg.prune) == "none":
        return
    if cfg.prune_interval is None or cfg.prune_interval < 1:
        raise UserError("--prune needs an interval: add --prune-interval 1000, or 15 with --prune-unit epochs")
    check_fraction("--prune-step", cfg.prune_step, 0.1)
    check_fraction("--prune-target", cfg.prune_target, 0.7)
    penalty = METHODS[str(cfg.prune)].penalty
    if cfg.prune_lambda is not None and (not penalty or cfg.prune_lambda < 0):
        raise UserError(f"--prune-lambda must be 0 or more, got {cfg.prune_lambda:g}, and needs --prune l2 or l0")


def _warn_of_no_effect(cfg: DictConfig) -> None:
    """Warn of settings of a part that is switched off."""
    kind, method = str(cfg.alignreg), str(cfg.prune)
    warn_of = partial(no_effect.warn_of, cfg, AlignRegConfig)
    if kind == "none":
        reason = "--alignreg none has no reference; leave it out, or type --alignreg cosine"
        warn_of(("alignreg_level", "alignreg_lambda", "alignreg_reference"), reason)
    elif kind == "frobenius":
        warn_of(("alignreg_level",), "--alignreg frobenius is one distance of all weights; leave it out")
    if method == "none":
        names = [field.name for field in fields(AlignRegConfig) if field.name.startswith("prune_")]
        warn_of(names, "--prune none prunes nothing; leave it out, or type --prune magnitude")
    elif method != "l0":
        warn_of(("prune_gate_lr",), f"--prune {method} has no gates; leave it out, or type --prune l0")


register(AlignReg, AlignRegConfig)
