"""`--criterion alignreg`: iterative pruning during training, aligned with a reference network (O'Neill et al. 2022).

The mathematics is in `core/penalties.py`, `core/pruning.py` and `core/pruner.py`. This module has the flags, the
reference network and the listeners to the trainer's events.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass import ChoiceEnum
from fairseq.modules import LayerDropModuleList
from fairseq.trainer import Trainer
from omegaconf import II, DictConfig
from torch import Tensor, nn

from ..core import snapshot
from ..core.input_norms import NoInputsError
from ..core.penalties import alignments, quadratic_penalty
from ..core.pruner import IterativePruning
from ..core.pruning import METHODS
from ..core.schedules import PRUNE_SCHEDULES, pruning_steps
from ..core.scope import Slot
from ..errors import UserError, check_fraction
from . import checkpoints, no_effect, parameters
from .guided_criterion import CriterionConfig, GuidedCriterion, register, saved_state
from .passes import LossAndLog, Sample
from .trained import call_projections_as_layers
from .trainer_events import TrainerListener

logger = logging.getLogger(__name__)

_REMEDY = "give --alignreg-reference a checkpoint of the same model from before fine-tuning"


@dataclass
class AlignRegConfig(CriterionConfig):
    alignreg: ChoiceEnum(["cosine", "frobenius", "none"]) = field(
        default="cosine",
        metadata={"help": "penalty on the distance from the reference: cosine of weights, Frobenius norm, none"},
    )
    alignreg_level: ChoiceEnum(["unit", "layer"]) = field(
        default="unit", metadata={"help": "take the cosine over the weights of each unit, or of each layer"}
    )
    alignreg_lambda: float = field(default=5e-4, metadata={"help": "strength of the penalty; 0: no penalty"})
    alignreg_reference: Optional[str] = field(
        default=None,
        metadata={"help": "checkpoint of the reference network (default: the weights at the start of this run)"},
    )
    prune: ChoiceEnum(["none", *METHODS]) = field(
        default="none", metadata={"help": "pruning method, which ranks the weights; see wff prune --help"}
    )
    prune_step: float = field(default=0.1, metadata={"help": "fraction of the weights that each pruning step prunes"})
    prune_interval: Optional[int] = field(
        default=None, metadata={"help": "number of updates, or epochs, between pruning steps"}
    )
    prune_unit: ChoiceEnum(["updates", "epochs"]) = field(
        default="updates", metadata={"help": "unit of --prune-interval"}
    )
    prune_target: float = field(default=0.7, metadata={"help": "final fraction of the weights that are pruned"})
    prune_schedule: ChoiceEnum(PRUNE_SCHEDULES) = field(
        default="uniform",
        metadata={
            "help": "uniform: each step prunes --prune-step of all weights; geometric: of the remaining weights; "
            "cubic: as many steps as uniform, larger ones first"
        },
    )
    prune_lambda: Optional[float] = field(
        default=None, metadata={"help": "strength of the penalty of --prune l2 (default 1e-4) and l0 (default 1)"}
    )
    prune_gate_lr: float = field(default=0.01, metadata={"help": "learning rate of the gates of --prune l0"})
    max_update: int = II("optimization.max_update")
    max_epoch: int = II("optimization.max_epoch")
    seed: int = II("common.seed")


class AlignReg(GuidedCriterion):
    method = "alignreg"
    logged_in_bits = ("alignreg", "prune_penalty")
    logged_unscaled = ("sparsity",)
    needs_whole_weights = True

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        super().__init__(task, cfg)
        _refuse_invalid(cfg)
        _warn_of_no_effect(cfg)
        self._weights: list[tuple[nn.Parameter, Slot]] = []  # the matrices that are aligned and pruned
        self._reference: dict[str, Tensor] = {}
        self._pruning: IterativePruning | None = None
        self._epoch = 1
        self._batches: Any = None  # fairseq's epoch iterator; None until the trainer has built it
        self._start: dict[str, int] = {}  # updates and epochs that were finished when pruning began

    @property
    def _aligned(self) -> bool:
        return str(self.cfg.alignreg) != "none" and self.cfg.alignreg_lambda != 0

    @property
    def neutral(self) -> bool:
        return not self._aligned and str(self.cfg.prune) == "none"

    @property
    def kept_tensors(self) -> list[Tensor]:
        return [*self._reference.values(), *(self._pruning.kept_tensors if self._pruning is not None else ())]

    def forward(self, model: nn.Module, sample: Sample, reduce: bool = True) -> tuple[Tensor, Any, dict]:
        if self._pruning is not None and not model.training:
            self._pruning.close_gates()
        return super().forward(model, sample, reduce)

    def guided(self, model: nn.Module, sample: Sample, sample_size: Any) -> LossAndLog:
        if self._aligned and not self._reference:
            self._reference = {slot.name: slot.weight.clone() for _, slot in self._weights}
        terms = {}  # computed before the forward pass, see `penalised`
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
            thetas, exacts = [parameter for parameter, _ in self._weights], [slot.weight for _, slot in self._weights]
            references = [self._reference[slot.name] for _, slot in self._weights]
            return -alignments(thetas, references, str(self.cfg.alignreg_level), exacts).mean()
        halves = [
            quadratic_penalty(parameter, None, self._reference[slot.name], slot.weight)
            for parameter, slot in self._weights
        ]
        return 2 * torch.stack(halves).sum()

    def trainer_built(self, trainer: Trainer) -> None:
        super().trainer_built(trainer)
        cfg, unit = self.cfg, str(self.cfg.prune_unit)
        limit = {"updates": cfg.max_update, "epochs": cfg.max_epoch}[unit]
        if str(cfg.prune) != "none" and 0 < limit < self._total_steps * cfg.prune_interval:
            raise UserError(
                f"{self._total_steps} pruning steps every {cfg.prune_interval} {unit} do not fit in "
                f"--max-{unit.removesuffix('s')} {limit}; type {self._flags_that_fit(limit)}"
            )

    @property
    def _total_steps(self) -> int:
        """The number of pruning steps to the target."""
        return pruning_steps(self.cfg.prune_step, self.cfg.prune_target, str(self.cfg.prune_schedule))

    def _flags_that_fit(self, count: int) -> str:
        """Flags that reach the target in `count` updates or epochs, with training after the last step if possible."""
        cfg, steps = self.cfg, self._total_steps
        if steps <= count:
            return f"--prune-interval {max(1, count // (steps + 1))}"
        geometric = str(cfg.prune_schedule) == "geometric"
        step = 1 - (1 - cfg.prune_target) ** (1 / count) if geometric else cfg.prune_target / count
        return f"--prune-interval 1 --prune-step {math.ceil(1e4 * step) / 1e4:g}"

    def _warn_if_target_is_out_of_reach(self) -> None:
        """Warn if the run will end before the last step: at the limit of the other unit, or because it began late."""
        unit, finished = str(self.cfg.prune_unit), self._finished()
        frequency = self.trainer.cfg.optimization.update_freq
        if self._batches is None:
            return
        epoch_length = math.ceil(len(self._batches) / frequency[min(self._epoch, len(frequency)) - 1])
        remaining = (self.cfg.max_update or math.inf) - finished["updates"]
        if self.cfg.max_epoch > 0:
            remaining = min(remaining, (self.cfg.max_epoch - finished["epochs"]) * epoch_length)
        count = finished[unit] - self._start[unit] + (remaining if unit == "updates" else remaining / epoch_length)
        if count < (needed := self._total_steps * self.cfg.prune_interval):
            logger.warning(
                "--prune-target %g will not be reached: pruning takes %d %s, and this run has %d; type %s",
                self.cfg.prune_target, needed, unit, count, self._flags_that_fit(max(1, int(count))),
            )  # fmt: skip

    def use_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        if self.neutral:
            return
        try:
            slots = parameters.match([p for group in optimizer.param_groups for p in group["params"]], "linear")
        except ValueError:  # no weight in scope; the message names a flag that alignreg does not have
            raise UserError(
                "--criterion alignreg acts on matrices of attention and feed-forward layers, and this model has none; "
                "type another --criterion"
            ) from None
        named = parameters.by_name()
        self._weights = [(named[slot.name], slot) for slot in slots]
        if self._aligned and self.cfg.alignreg_reference is not None and not self._reference:
            self._load_reference(Path(self.cfg.alignreg_reference))
        if str(self.cfg.prune) != "none":
            self._pruning = self._pruning_of(slots)
            self._pruning.attach(optimizer)

    def _pruning_of(self, slots: Sequence[Slot]) -> IterativePruning:
        try:
            return IterativePruning(
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
                model=self._model_whose_layers_are_called(),
                model_slots=[Slot(slot.name, parameter, slot.shape) for parameter, slot in self._weights],
                after_pruning=_forget_best,
            )
        except NoInputsError as error:
            raise UserError(str(error)) from None

    def _model_whose_layers_are_called(self) -> nn.Module:
        """The model; for a method that needs the inputs of layers, attention calls its projections as layers."""
        model: nn.Module = self.trainer.get_model()
        if METHODS[str(self.cfg.prune)].needs == "inputs":
            if any(isinstance(module, LayerDropModuleList) and module.p > 0 for module in model.modules()):
                raise UserError(
                    f"--prune {self.cfg.prune} needs the inputs of every layer, and --encoder-layerdrop and "
                    "--decoder-layerdrop leave layers out; type --prune magnitude"
                )
            call_projections_as_layers(model)
        return model

    def _load_reference(self, path: Path) -> None:
        weights = checkpoints.read(path, "reference", _REMEDY)["model"]
        self.trainer.get_model().upgrade_state_dict(weights)  # published RoBERTas use names of older versions
        shapes = [(slot.name, slot.shape) for _, slot in self._weights]
        reference = snapshot.matching(weights, path, shapes, _REMEDY)
        for _, slot in self._weights:
            self._reference[slot.name] = reference[slot.name].to(slot.weight.device, slot.weight.dtype)

    def _finished(self) -> dict[str, int]:
        """Updates and epochs that were finished before the current update."""
        return {"updates": int(self.trainer.get_num_updates()), "epochs": self._epoch - 1}

    def _elapsed(self) -> int:
        """Updates or epochs since pruning began, at the end of an update that the trainer has not counted yet."""
        unit = str(self.cfg.prune_unit)
        unit_ends = unit == "updates" or (self._batches is not None and self._batches.end_of_epoch())
        return self._finished()[unit] - self._start[unit] + unit_ends

    def batches_built(self, trainer: Trainer, batches: Any) -> None:
        self._batches = batches

    def epoch_begun(self, trainer: Trainer, epoch: int) -> None:
        self._epoch = epoch

    def update_begun(self, trainer: Trainer, samples: Sequence[Sample]) -> None:
        if str(self.cfg.prune) == "none":
            return
        assert trainer.optimizer is not None and self._pruning is not None  # the first access builds both
        if not self._start:
            earlier = self._pruning.steps * self.cfg.prune_interval  # in the run that the masks come from
            self._start = {unit: count - earlier for unit, count in self._finished().items()}
            self._warn_if_target_is_out_of_reach()
        self._pruning.begin_update()

    def gradients_final(self, trainer: Trainer) -> None:
        if self._pruning is not None:
            self._pruning.mask_gradients()

    def keep_masks(self, saved: dict[str, Any]) -> None:
        """Keep the zeros of a pruned model that a new run starts from; `saved` is the state of the run that pruned."""
        assert self.trainer.optimizer is not None and self._pruning is not None  # the first access builds both
        self._pruning.keep_masks(saved["pruning"])
        logger.info("%.2f %% of the weights stay at zero, as in the checkpoint", 100 * self._pruning.sparsity)

    def state_to_save(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        if self._reference and self.cfg.alignreg_reference is None:
            state["reference"] = dict(self._reference)
        if self._pruning is not None:
            state |= {"pruning": self._pruning.state(), "begun": self._start}
        return state

    def restore_state(self, saved: dict[str, Any]) -> None:
        if "pruning" in saved and self._pruning is None:
            raise UserError(
                "this checkpoint is being pruned: resume it with its own --prune, or start a new run from it with "
                "--finetune-from-model"
            )
        self._start = saved.get("begun", {})
        if self._aligned and "reference" in saved and self.cfg.alignreg_reference is None:
            weights = saved["reference"]
            self._reference = {s.name: weights[s.name].to(s.weight.device, copy=True) for _, s in self._weights}
        if self._pruning is not None and "pruning" in saved:
            self._pruning.load_state(saved["pruning"])


class PrunedStart(TrainerListener):
    """Keeps the zeros of a pruned checkpoint, also in a run that loads only its weights."""

    def checkpoint_loaded(
        self, trainer: Trainer, extra_state: Mapping[str, Any], path: str, reset_optimizer: bool
    ) -> None:
        criterion, saved = trainer.get_criterion(), saved_state(extra_state)
        masks = saved.get("pruning", {}).get("masks")
        resumed = isinstance(criterion, AlignReg) and not reset_optimizer  # the criterion has loaded the masks
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
    """After a pruning step, restart the search for `checkpoint_best.pt`: the best checkpoint so far is less pruned."""
    if hasattr(checkpoint_utils.save_checkpoint, "best"):
        del checkpoint_utils.save_checkpoint.best


def _refuse_invalid(cfg: DictConfig) -> None:
    """Raise UserError for invalid values and missing settings."""
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
    """Warn of settings of the penalty or of pruning where that is switched off."""
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
