"""`--optimizer weighted_freeze`, `sage`, `fish_mask`, `lfr_cm`: one adapter class a row, no mathematics.

An adapter builds any base optimizer of fairseq from that optimizer's own settings, wraps its torch optimizer in the one
of `core` that its row asks for, and hands everything else through. Settings are one dataclass: ours plus the union of
all bases', where None means "the base's own default", so that command line and YAML both know them.
"""

import argparse
import dataclasses
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.optim import OPTIMIZER_REGISTRY, FairseqOptimizer, register_optimizer
from fairseq.optim.adam import Adam
from omegaconf import II, DictConfig, OmegaConf

from ..core import snapshot
from ..core.base_step import ADAMS, AdamFormula
from ..core.fixed import SOURCES, FixedMaskOptimizer
from ..core.guided import STAGES, GuidedOptimizer
from ..core.importance import METRICS
from ..core.rules import RULES, forms
from ..core.scope import SCOPES, Slot
from ..core.wrapped import NORMS, STATE_KEY, WrappedOptimizer
from ..errors import UserError, check_fraction
from . import no_effect, parameters

logger = logging.getLogger(__name__)

# A composite has no settings of its own to wrap: inside one, give each group a guided optimizer.
BASES = tuple(sorted(name for name in OPTIMIZER_REGISTRY if name != "composite"))


ADAMS[Adam] = AdamFormula(decoupled=True, eps_of_raw_root=True)
STATE_DTYPES = {"parameter": None, "fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class GuidedConfig(FairseqDataclass):
    """Settings that every guided optimizer has."""

    base_optimizer: ChoiceEnum(BASES) = field(  # type: ignore[valid-type]
        default="adam", metadata={"help": "optimizer that makes the update; its own flags stay usable"}
    )
    base_fused: str = field(
        default="true",
        metadata={
            "help": "true or false: make the step of base adam by torch's fused implementation, equal within rounding; "
            "with false the base steps itself, and neutral settings give its very bits"
        },
    )
    importance_scope: Optional[ChoiceEnum(SCOPES)] = field(  # type: ignore[valid-type]  # noqa: UP045
        default=None,
        metadata={
            "help": "linear: matrices of attention and feed-forward layers; all: every parameter "
            "(default: linear for weighted_freeze and sage, all for fish_mask and lfr_cm)"
        },
    )
    seed: int = II("common.seed")
    log_interval: int = II("common.log_interval")


@dataclass
class MeasuredConfig(GuidedConfig):
    """Settings of the rows that measure the importance in every update."""

    importance: Optional[ChoiceEnum(list(METRICS))] = field(  # type: ignore[valid-type]  # noqa: UP045
        default=None, metadata={"help": "importance metric (default: the method's own, see `wff rules`)"}
    )
    importance_norm: ChoiceEnum(NORMS) = field(  # type: ignore[valid-type]
        default="tensor", metadata={"help": "range and mean of scores: within each tensor or over the whole scope"}
    )
    importance_start: int = field(default=1, metadata={"help": "first update at which the method acts"})


@dataclass
class FreezeConfig(MeasuredConfig):
    freeze_rule: ChoiceEnum([row.variant for row in forms("weighted_freeze")]) = field(  # type: ignore[valid-type]
        default="important",
        metadata={
            "help": "which weights are frozen more often. important: those with large scores (Li et al. section 3.3); "
            "printed: those with small scores (Algorithm 1 and the authors' code); smooth: the same with keep "
            "probability sqrt(p / 2) (the authors' --smooth-scores); random: any, as many as important would freeze"
        },
    )
    freeze_keep: Optional[float] = field(  # noqa: UP045
        default=None,
        metadata={"help": "with --freeze-rule random: fixed share of the weights that is updated, between 0 and 1"},
    )
    freeze_apply: ChoiceEnum(STAGES) = field(  # type: ignore[valid-type]
        default="gradient",
        metadata={"help": "mask the gradient (the paper), or undo the whole update, momentum and decay included"},
    )


@dataclass
class SageConfig(MeasuredConfig):
    sage_variant: ChoiceEnum([row.variant for row in forms("sage")]) = field(  # type: ignore[valid-type]
        default="full",
        metadata={
            "help": "full: |I - average| / average (Liang et al.); li: |I - average| / I (Li et al. eq. 2); "
            "light: mean(I) / I without moving average or state (SAGE* of Li et al.)"
        },
    )
    sage_denominator: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "removed; use --sage-variant full (was: average) or li (was: importance)"}
    )
    sage_beta: float = field(default=0.75, metadata={"help": "rate of the moving average of I"})
    sage_eps: float = field(default=1e-12, metadata={"help": "smoothing, above and below the line"})
    sage_max_scale: Optional[float] = field(  # noqa: UP045
        default=None,
        metadata={"help": "upper bound of the factor on a learning rate (default: max(1, beta / (1 - beta)))"},
    )
    sage_state_dtype: ChoiceEnum(list(STATE_DTYPES)) = field(  # type: ignore[valid-type]
        default="parameter",
        metadata={"help": "precision of the moving average; parameter: as the weights (bf16 for fp16 weights)"},
    )


@dataclass
class FixedConfig(GuidedConfig):
    """Settings of the rows whose mask stays."""

    mask_communication: bool = field(
        default=False,
        metadata={
            "help": "send gradients of what the mask lets move, and of nothing else, between processes; "
            "--clip-norm and gnorm then see only these"
        },
    )


@dataclass
class FishConfig(FixedConfig):
    fish_density: Optional[float] = field(  # noqa: UP045
        default=None, metadata={"help": "fraction of the parameters in scope that is updated"}
    )
    fish_mask: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "mask made by `wff fisher --mask-density` (default: estimated while training)"}
    )
    fish_updates: int = field(
        default=32, metadata={"help": "estimate the mask in this many first updates, in which no weight moves"}
    )
    fish_source: ChoiceEnum(["fisher", *SOURCES]) = field(  # type: ignore[valid-type]
        default="fisher",
        metadata={"help": "what chooses the mask; baselines: random, magnitude, bias (BitFit, needs no density)"},
    )
    fish_always: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "regular expression: parameters with such a name are always updated, and count in --fish-density "
            "(default: the classification head of a sentence task, or what --fish-mask says; '': none)"
        },
    )


# DEVIATION: Li et al. section 2.2 do not mention norms and positions; the code of Gu et al. never trains them.
_NORMS_AND_POSITIONS = r"layer_?norm|embed_positions"


@dataclass
class LfrConfig(FixedConfig):
    fisher: Optional[str] = field(  # noqa: UP045
        default=None, metadata={"help": "Fisher information of the old domain, made by `wff fisher`"}
    )
    lfr_threshold: Optional[float] = field(  # noqa: UP045
        default=None, metadata={"help": "weights with Fisher information up to this are trained"}
    )
    lfr_quantile: Optional[float] = field(  # noqa: UP045
        default=None, metadata={"help": "this fraction of the weights, those with the least Fisher, is trained"}
    )
    lfr_norm: ChoiceEnum(NORMS) = field(  # type: ignore[valid-type]
        default="tensor",
        metadata={"help": "take the fraction of each tensor (Gu et al.), or over the whole scope (global)"},
    )
    lfr_always_frozen: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "regular expression: parameters with such a name are never trained; '' for none "
            f"(default: norms and positions, {_NORMS_AND_POSITIONS})"
        },
    )


def base_settings(name: str) -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """Type, default and metadata of each setting of the base optimizer `name`, whatever its generation."""
    cls = OPTIMIZER_REGISTRY[name]
    settings_class = getattr(cls, "__dataclass", None)
    if settings_class is not None:
        return {
            f.name: (f.type, f.default if f.default is not dataclasses.MISSING else None, dict(f.metadata))
            for f in dataclasses.fields(settings_class)
            if f.name != "_name"
        }
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    cls.add_args(parser)
    found: dict[str, tuple[Any, Any, dict[str, Any]]] = {"lr": (list[float], II("optimization.lr"), {})}
    for action in parser._actions:
        metadata = {"help": action.help}
        if len(action.option_strings) > 1:
            metadata["argparse_alias"] = action.option_strings[-1]
        kind = bool if action.nargs == 0 else (action.type or str)
        found[action.dest] = (kind, action.default, metadata)
    return found


def _with_base_settings(own: type[GuidedConfig]) -> type[GuidedConfig]:
    """`own` and the union of all bases' settings as one dataclass; a setting that several bases share appears once."""
    merged: dict[str, tuple[str, Any, Any]] = {}
    users: dict[str, list[str]] = {}
    aliases: dict[str, str] = {}
    for name in BASES:
        for key, (kind, default, metadata) in base_settings(name).items():
            users.setdefault(key, []).append(name)
            if "argparse_alias" in metadata:
                aliases[key] = metadata["argparse_alias"]
            if isinstance(default, str) and default.startswith("${"):  # filled in by another part of the settings
                merged[key] = (key, kind, field(default=default))
            elif kind is bool:
                merged[key] = (key, bool, field(default=False, metadata=metadata))
            elif kind is Any:
                merged[key] = (key, Any, field(default=None, metadata=metadata))
            else:
                kind = getattr(kind, "__args__", (kind,))[0]  # Optional[float] -> float
                merged[key] = (key, Optional[kind], field(default=None, metadata=metadata))  # noqa: UP045
    for key, (_, _, spec) in merged.items():
        if spec.metadata:
            text = f"{spec.metadata.get('help') or key} (base: {', '.join(users[key])}; default: the base's)"
            alias = {"argparse_alias": aliases[key]} if key in aliases else {}
            spec.metadata = {"help": text, **alias}
    taken = {f.name for f in dataclasses.fields(own)}
    name = f"{own.__name__}WithBase"
    both = make_dataclass(name, [entry for key, entry in merged.items() if key not in taken], bases=(own,))
    both.__module__ = __name__
    globals()[name] = both  # where pickle looks for it
    return both


def build_base(name: str, settings: DictConfig, params: list[torch.nn.Parameter]) -> FairseqOptimizer:
    """The base optimizer `name`, with what `settings` says of it and its own defaults for the rest."""
    values = {}
    for key, (_, default, _) in base_settings(name).items():
        given = settings[key]
        values[key] = default if given is None else given
    cls = OPTIMIZER_REGISTRY[name]
    settings_class = getattr(cls, "__dataclass", None)
    if settings_class is None:
        lr = values.pop("lr")
        return cls(argparse.Namespace(optimizer=name, lr=OmegaConf.to_container(lr), **values), params)
    config = OmegaConf.structured(settings_class)
    for key, value in values.items():
        if value is not None:
            config[key] = value
    return cls(config, params)


class GuidedFairseqOptimizer(FairseqOptimizer):
    """A base optimizer of fairseq, guided by one row of the table; subclasses say how the row is built."""

    method: str

    def __init__(self, cfg: DictConfig, params: Iterable[torch.nn.Parameter]):
        super().__init__(cfg)
        params = list(params)
        grouped = isinstance(params[0], dict)  # as a composite optimizer does
        if grouped and getattr(cfg, "mask_communication", False):
            raise UserError("a part of a composite optimizer cannot say what is sent; leave out mask_communication")
        flat = [p for group in params for p in group["params"]] if grouped else params
        self.base = build_base(cfg.base_optimizer, cfg, params)
        slots = parameters.match(flat, cfg.importance_scope or RULES[self.method].scope)
        self._optimizer = self._guide(slots)
        # Under --memory-efficient-fp16 fairseq copies a loaded state over the base's, which was not cast to begin with.
        self._optimizer.disable_mem_eff_fp16_loading_hack = True
        logger.info(
            "%s around %s: %d weights in %d tensors are guided by %s",
            self.method, cfg.base_optimizer, sum(map(len, slots)), len(slots), self._optimizer.importance,
        )  # fmt: skip
        # Hooks, since not every wrapper of fairseq calls `step` of this class: --amp steps the torch optimizer.
        self._optimizer.register_step_pre_hook(self._record)
        self._optimizer.register_step_post_hook(self._log)

    def _guide(self, slots: Sequence[Slot]) -> WrappedOptimizer:
        """The row's optimizer around the base's."""
        raise NotImplementedError

    def _record(self, guided: WrappedOptimizer, *_: Any) -> None:
        """Before a step: have it measured if this update is logged."""
        guided.record = (guided.updates + 1) % self.cfg.log_interval == 0

    def _log(self, guided: WrappedOptimizer, *_: Any) -> None:
        """After a step: hand what was measured to the progress bar and TensorBoard, if this update is logged."""
        if guided.updates % self.cfg.log_interval:
            return
        for priority, (key, value) in enumerate(guided.recorded.items(), start=600):
            metrics.log_scalar(key, value, weight=1, priority=priority, round=6)

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None) -> None:
        """Load the state of a run of this method; a run of another method or base is refused with what to type."""
        try:
            super().load_state_dict(state_dict, optimizer_overrides)
        except ValueError as error:
            if STATE_KEY not in state_dict:
                raise
            raise ValueError(
                f"{error}: give the flags of --optimizer as in that run, or add --reset-optimizer"
            ) from error

    @property
    def optimizer_config(self) -> dict[str, Any]:
        return self.base.optimizer_config

    @property
    def supports_flat_params(self) -> bool:
        return self.base.supports_flat_params

    @property
    def supports_memory_efficient_fp16(self) -> bool:
        return self.base.supports_memory_efficient_fp16

    @property
    def supports_step_with_scale(self) -> bool:
        """Never: the gradient must be unscaled before its importance is measured."""
        return False

    @property
    def supports_groups(self) -> bool:
        """Never: the guided step takes all parameters."""
        return False

    def average_params(self) -> None:
        self.base.average_params()


def _register(adapter: type[GuidedFairseqOptimizer], settings: type[GuidedConfig]) -> None:
    """Register an adapter under the name of its row, which is also its docstring."""
    rule = RULES[adapter.method]
    adapter.__doc__ = f"{rule.source}; g(I) = {rule.g.text}."
    register_optimizer(adapter.method, dataclass=_with_base_settings(settings))(adapter)


class WeightedFreeze(GuidedFairseqOptimizer):
    method = "weighted_freeze"

    def _guide(self, slots: Sequence[Slot]) -> WrappedOptimizer:
        cfg = self.cfg
        if cfg.freeze_keep is not None and cfg.freeze_rule != "random":
            raise UserError(f"--freeze-keep {cfg.freeze_keep} needs --freeze-rule random, not {cfg.freeze_rule}")
        if cfg.freeze_keep is not None and not 0 <= cfg.freeze_keep <= 1:
            raise UserError(f"--freeze-keep must be between 0 and 1, got {cfg.freeze_keep}")
        return GuidedOptimizer(
            self.base.optimizer,
            slots,
            self.method,
            variant=str(cfg.freeze_rule),
            stage=cfg.freeze_apply,
            keep=cfg.freeze_keep,
            **_measured(cfg),
        )


class Sage(GuidedFairseqOptimizer):
    method = "sage"

    def _guide(self, slots: Sequence[Slot]) -> WrappedOptimizer:
        cfg = self.cfg
        if cfg.sage_denominator is not None:
            variant = "full" if cfg.sage_denominator == "average" else "li"
            raise UserError(
                f"--sage-denominator {cfg.sage_denominator} is no longer an option; type --sage-variant {variant}"
            )
        return GuidedOptimizer(
            self.base.optimizer,
            slots,
            self.method,
            variant=str(cfg.sage_variant),
            beta=cfg.sage_beta,
            eps=cfg.sage_eps,
            max_scale=cfg.sage_max_scale,
            state_dtype=STATE_DTYPES[cfg.sage_state_dtype],
            **_measured(cfg),
        )


class MeasuredRow(GuidedFairseqOptimizer):
    """A row without settings of its own."""

    def _guide(self, slots: Sequence[Slot]) -> WrappedOptimizer:
        return GuidedOptimizer(self.base.optimizer, slots, self.method, **_measured(self.cfg))


class FishMask(GuidedFairseqOptimizer):
    method = "fish_mask"

    def _guide(self, slots: Sequence[Slot]) -> WrappedOptimizer:
        cfg = self.cfg
        if cfg.fish_mask is None and cfg.fish_density is None and cfg.fish_source != "bias":
            raise UserError("--optimizer fish_mask needs --fish-density 0.005, or --fish-mask FILE made by wff fisher")
        if cfg.fish_mask is not None and cfg.fish_density is not None:
            raise UserError("--fish-mask has a density of its own; leave out --fish-density")
        always = cfg.fish_always
        if always is None:
            always = parameters.classifiers_in(slot.name for slot in slots) if cfg.fish_mask is None else ""
        if cfg.fish_density is not None:
            check_fraction("--fish-density", cfg.fish_density, 0.005, one=True)
        return FixedMaskOptimizer(
            self.base.optimizer,
            slots,
            self.method,
            masks=None if cfg.fish_mask is None else _tensors_of(cfg.fish_mask, "mask", slots),
            density=cfg.fish_density,
            source=str(cfg.fish_source),
            observe=cfg.fish_updates,
            always=always,
            **_shared(cfg),
        )


class LfrCm(GuidedFairseqOptimizer):
    method = "lfr_cm"

    def _guide(self, slots: Sequence[Slot]) -> WrappedOptimizer:
        cfg = self.cfg
        if cfg.fisher is None:
            raise UserError("--optimizer lfr_cm needs --fisher FILE; make it with: wff fisher CHECKPOINT --data BIN")
        if (cfg.lfr_threshold is None) == (cfg.lfr_quantile is None):
            raise UserError("--optimizer lfr_cm needs one of --lfr-quantile 0.25 and --lfr-threshold TAU")
        frozen = cfg.lfr_always_frozen
        if frozen and not any(re.search(frozen, slot.name) for slot in slots):
            no_effect.warn(f"--lfr-always-frozen {frozen} matches the name of no parameter in scope")
        if cfg.lfr_quantile is not None:
            check_fraction("--lfr-quantile", cfg.lfr_quantile, 0.25, one=True)
        return FixedMaskOptimizer(
            self.base.optimizer,
            slots,
            self.method,
            tau=cfg.lfr_threshold,
            quantile=cfg.lfr_quantile,
            source=_tensors_of(cfg.fisher, "fisher", slots),
            norm=cfg.lfr_norm,
            never=_NORMS_AND_POSITIONS if frozen is None else frozen,
            **_shared(cfg),
        )


def _register_plain_rows() -> None:
    """An adapter for every other optimizer row that measures I: `MeasuredConfig` has all its settings."""
    for name, rule in RULES.items():
        if rule.kind == "optimizer" and rule.measured and name not in OPTIMIZER_REGISTRY:
            title = name.title().replace("_", "")
            settings = dataclass(type(f"{title}Config", (MeasuredConfig,), {"__module__": __name__}))
            _register(type(title, (MeasuredRow,), {"method": name}), settings)


def _shared(cfg: DictConfig) -> dict[str, Any]:
    """What `GuidedConfig` says, as optimizers of `core` take it."""
    fused = str(cfg.base_fused).lower()
    if fused not in ("true", "false"):
        raise UserError(f"--base-fused must be true or false, got {cfg.base_fused}; type --base-fused false")
    return {"base_fused": fused == "true", "seed": cfg.seed}


def _measured(cfg: DictConfig) -> dict[str, Any]:
    """What `MeasuredConfig` says, as `GuidedOptimizer` takes it."""
    metric = {"importance": cfg.importance, "norm": cfg.importance_norm, "start": cfg.importance_start}
    return {**metric, **_shared(cfg)}


def _tensors_of(path: str, kind: snapshot.Kind, slots: Sequence[Slot]) -> dict[str, torch.Tensor]:
    """The snapshot's tensors for these slots."""
    found = snapshot.load(Path(path), kind)
    return snapshot.of_this_model(found, Path(path), [(slot.name, slot.shape) for slot in slots])


_register(WeightedFreeze, FreezeConfig)
_register(Sage, SageConfig)
_register(FishMask, FishConfig)
_register(LfrCm, LfrConfig)
_register_plain_rows()
