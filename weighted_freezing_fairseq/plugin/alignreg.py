"""`--criterion alignreg`: iterative pruning inside a training run, held near a reference (O'Neill et al. 2021).

The mathematics is in `core/losses.py`, `core/pruning.py` and `core/pruner.py`; here are the flags, the reference, and
what fairseq's trainer has to be told. Left out on purpose: pruning of a finished checkpoint, which is `wff prune`.
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
from ..core.losses import alignments, quadratic_penalty
from ..core.pruner import IterativePruning
from ..core.pruning import METHODS
from ..core.schedules import PRUNE_SCHEDULES, pruning_steps
from ..core.scope import Slot
from ..errors import UserError, check_fraction
from . import checkpoints, no_effect, parameters
from .guided_criterion import GuidedConfig, GuidedCriterion, register

logger = logging.getLogger(__name__)

_REMEDY = "give --alignreg-reference a checkpoint of this very model from before fine-tuning"


@dataclass
class AlignRegConfig(GuidedConfig):
    alignreg: ChoiceEnum(["cosine", "frobenius", "none"]) = field(  # type: ignore[valid-type]
        default="cosine",
        metadata={"help": "what keeps the pruned network near the reference: directions of weights, distance, nothing"},
    )
    alignreg_level: ChoiceEnum(["unit", "layer"]) = field(  # type: ignore[valid-type]
        default="unit", metadata={"help": "cosine of each unit's weights, or of each layer's"}
    )
    alignreg_lambda: float = field(default=5e-4, metadata={"help": "strength of that; 0: none"})
    alignreg_reference: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "checkpoint of the reference network (default: the weights at the start of this run)"},
    )
    prune: ChoiceEnum(["none", *METHODS]) = field(  # type: ignore[valid-type]
        default="none", metadata={"help": "how to choose what is pruned; see wff prune --help"}
    )
    prune_step: float = field(
        default=0.1, metadata={"help": "share of the weights that is pruned in each pruning step"}
    )
    prune_interval: Optional[int] = field(  # noqa: UP045
        default=None, metadata={"help": "a pruning step every so many updates, or epochs"}
    )
    prune_unit: ChoiceEnum(["updates", "epochs"]) = field(  # type: ignore[valid-type]
        default="updates", metadata={"help": "what --prune-interval counts"}
    )
    prune_target: float = field(default=0.7, metadata={"help": "share of the weights that is pruned in the end"})
    prune_schedule: ChoiceEnum(PRUNE_SCHEDULES) = field(  # type: ignore[valid-type]
        default="uniform",
        metadata={
            "help": "uniform: --prune-step of all weights each time; geometric: of those that are left; "
            "cubic: as many steps, large ones first"
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

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        super().__init__(task, cfg)
        _refuse_wrong(cfg)
        _warn_of_no_effect(cfg)
        self._layers: list[tuple[nn.Parameter, Slot]] = []
        self._reference: dict[str, Tensor] = {}
        self._pruning: IterativePruning | None = None
        self._epoch = 1
        self._begun: dict[str, int] = {}  # updates and epochs that were over when pruning began

    @property
    def _aligned(self) -> bool:
        return str(self.cfg.alignreg) != "none" and self.cfg.alignreg_lambda != 0

    @property
    def neutral(self) -> bool:
        return not self._aligned and str(self.cfg.prune) == "none"

    @property
    def needs_whole_weights(self) -> bool:
        return not self.neutral

    @property
    def held(self) -> Iterable[Tensor]:
        return [*self._reference.values(), *(self._pruning.held if self._pruning is not None else ())]

    def forward(self, model: nn.Module, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, Any, dict]:
        if self._pruning is not None and not model.training:
            self._pruning.settle()
        return super().forward(model, sample, reduce)

    def guided(self, model: nn.Module, sample: dict[str, Any], sample_size: Any) -> tuple[Tensor, dict[str, Any]]:
        if self._aligned and not self._reference:
            self._reference = {slot.name: slot.weight.clone() for _, slot in self._layers}
        if self._pruning is not None:
            if not self._begun:
                earlier = self._pruning.steps * self.cfg.prune_interval  # of the run whose masks this one keeps
                self._begun = {unit: count - earlier for unit, count in self._over().items()}
                self._warn_if_out_of_reach()
            self._pruning.begin_update()
        # Before the model's pass, see `penalised`.
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
        """What --alignreg-lambda multiplies: minus the mean cosine (eq. 3), or the squared distance (eq. 6)."""
        if str(self.cfg.alignreg) == "cosine":
            thetas, exacts = [parameter for parameter, _ in self._layers], [slot.weight for _, slot in self._layers]
            references = [self._reference[slot.name] for _, slot in self._layers]
            return -alignments(thetas, references, str(self.cfg.alignreg_level), exacts).mean()
        halves = [quadratic_penalty(p, None, self._reference[s.name], s.weight) for p, s in self._layers]
        return 2 * torch.stack(halves).sum()

    def attach(self, trainer: Trainer) -> None:
        super().attach(trainer)
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
        """The flags that reach the target in `count` updates or epochs, with time to train on where there is some."""
        cfg, steps = self.cfg, self._last_step
        if steps <= count:
            return f"--prune-interval {max(1, count // (steps + 1))}"
        share = 1 - (1 - cfg.prune_target) ** (1 / count) if str(cfg.prune_schedule) == "geometric" else None
        return f"--prune-interval 1 --prune-step {math.ceil(1e4 * (share or cfg.prune_target / count)) / 1e4:g}"

    def _warn_if_out_of_reach(self) -> None:
        """Said when pruning begins, where the run ends by the other unit, or a part of it is over already."""
        unit, over, iterator = str(self.cfg.prune_unit), self._over(), self.trainer.epoch_iterator
        frequency = self.trainer.cfg.optimization.update_freq
        if iterator is None:
            return
        an_epoch = math.ceil(len(iterator) / frequency[min(self._epoch, len(frequency)) - 1])
        left = (self.cfg.max_update or math.inf) - over["updates"]
        if self.cfg.max_epoch > 0:
            left = min(left, (self.cfg.max_epoch - over["epochs"]) * an_epoch)
        count = over[unit] - self._begun[unit] + (left if unit == "updates" else left / an_epoch)
        if count < (needed := self._last_step * self.cfg.prune_interval):
            logger.warning(
                "--prune-target %g will not be reached: pruning takes %d %s, and this run has %d; type %s",
                self.cfg.prune_target, needed, unit, count, self._what_fits(max(1, int(count))),
            )  # fmt: skip

    def optimizer_built(self, optimizer: torch.optim.Optimizer) -> None:
        if self.neutral:
            return
        try:
            slots = parameters.match([p for group in optimizer.param_groups for p in group["params"]], "linear")
        except ValueError:  # of an empty scope, which other methods have a flag for
            raise UserError(
                "--criterion alignreg acts on matrices of attention and feed-forward layers, and this model has none; "
                "type another --criterion"
            ) from None
        named = parameters.by_name()
        self._layers = [(named[slot.name], slot) for slot in slots]
        if self._aligned and self.cfg.alignreg_reference is not None and not self._reference:
            self._load_reference(Path(self.cfg.alignreg_reference))
        if str(self.cfg.prune) != "none":
            self._pruning = self._prunes(slots)
            self._pruning.attach(optimizer)

    def _load_reference(self, path: Path) -> None:
        weights = checkpoints.read(path, "reference", _REMEDY)["model"]
        self.trainer.get_model().upgrade_state_dict(weights)  # published RoBERTas have the names of older versions
        wanted = [(slot.name, slot.shape) for _, slot in self._layers]
        found = snapshot.matching(weights, path, wanted, _REMEDY)
        for _, slot in self._layers:
            self._reference[slot.name] = found[slot.name].to(slot.weight.device, slot.weight.dtype)

    def _prunes(self, slots: list[Slot]) -> IterativePruning:
        cfg = self.cfg
        return IterativePruning(
            slots,
            str(cfg.prune),
            interval=cfg.prune_interval,
            amount=cfg.prune_step,
            target=cfg.prune_target,
            schedule=str(cfg.prune_schedule),
            seed=cfg.seed,
            strength=cfg.prune_lambda,
            gate_lr=cfg.prune_gate_lr,
            elapsed=self._elapsed,
            seen=[Slot(slot.name, parameter, slot.shape) for parameter, slot in self._layers],
            pruned=_forget_best,
        )

    def _over(self) -> dict[str, int]:
        """Updates and epochs that were over when this update began."""
        return {"updates": int(self.trainer.get_num_updates()), "epochs": self._epoch - 1}

    def _elapsed(self) -> int:
        """What --prune-interval counts, at the end of an update that the trainer has not counted yet."""
        unit = str(self.cfg.prune_unit)
        iterator = self.trainer.epoch_iterator
        ended = unit == "updates" or (iterator is not None and iterator.end_of_epoch())
        return self._over()[unit] - self._begun[unit] + ended

    def epoch_begun(self, epoch: int) -> None:
        self._epoch = epoch

    def before_clipping(self) -> None:
        if self._pruning is not None:
            self._pruning.mask_gradients()

    @property
    def keeps_zeros(self) -> bool:
        return str(self.cfg.prune) != "none"

    def load_masks(self, own: dict[str, Any]) -> None:
        assert self.trainer.optimizer is not None and self._pruning is not None  # built when it is asked for
        self._pruning.keep_masks(own["pruning"])
        logger.info("%.2f %% of the weights stay at zero, as the checkpoint has them", 100 * self._pruning.sparsity)

    def own_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        if self._reference and self.cfg.alignreg_reference is None:
            state["reference"] = dict(self._reference)
        if self._pruning is not None:
            state |= {"pruning": self._pruning.state(), "begun": self._begun}
        return state

    def load_own_state(self, own: dict[str, Any]) -> None:
        if "pruning" in own and self._pruning is None:
            raise UserError(
                "this checkpoint is being pruned: resume it with its own --prune, or start a new run from it with "
                "--finetune-from-model"
            )
        self._begun = own.get("begun", {})
        if self._aligned and "reference" in own and self.cfg.alignreg_reference is None:
            self._reference = {s.name: own["reference"][s.name].to(s.weight.device, copy=True) for _, s in self._layers}
        if self._pruning is not None and "pruning" in own:
            self._pruning.load_state(own["pruning"])


def is_pruned(own: Mapping[str, Any]) -> bool:
    """Whether the state of a criterion has masks."""
    return bool(own.get("pruning", {}).get("masks"))


def zeros_would_grow(own: Mapping[str, Any], filename: str, cfg: DictConfig) -> None:
    """Of a run that starts from a pruned checkpoint and keeps no masks: refused, or warned of where that may be meant.

    --finetune-from-model may take the weights alone, for a dense model.
    """
    masks = own["pruning"]["masks"]
    keep = (
        f"to keep them, add --criterion alignreg --prune {own['pruning']['method']} with the --prune-interval and "
        "--prune-target that it was pruned with"
    )
    if cfg.checkpoint.finetune_from_model == filename:
        logger.warning("%s is pruned, and the zeros in %d matrices will grow again; %s", filename, len(masks), keep)
    else:
        raise UserError(
            f"{filename} is pruned, and without its masks the zeros in {len(masks)} matrices would grow again; {keep}, "
            "or start a new, dense run from it with --finetune-from-model"
        )


def _forget_best() -> None:
    """After a pruning step: the best checkpoint so far was a larger network, and `checkpoint_best.pt` begins anew."""
    if hasattr(checkpoint_utils.save_checkpoint, "best"):
        del checkpoint_utils.save_checkpoint.best


def _refuse_wrong(cfg: DictConfig) -> None:
    """What the dataclass cannot know by itself."""
    if cfg.alignreg_lambda < 0:
        raise UserError(f"--alignreg-lambda {cfg.alignreg_lambda:g} would drive from the reference; type 5e-4")
    if str(cfg.prune) == "none":
        return
    if cfg.prune_interval is None or cfg.prune_interval < 1:
        raise UserError("--prune needs to know how often: add --prune-interval 1000, or 15 with --prune-unit epochs")
    check_fraction("--prune-step", cfg.prune_step, 0.1)
    check_fraction("--prune-target", cfg.prune_target, 0.7)
    penalty = METHODS[str(cfg.prune)].penalty
    if cfg.prune_lambda is not None and (not penalty or cfg.prune_lambda < 0):
        raise UserError("--prune-lambda is the strength, not negative, of the penalty of --prune l2 or l0")


def _warn_of_no_effect(cfg: DictConfig) -> None:
    """What is given and belongs to something that is switched off."""
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
