"""`--optimizer weighted_freeze`, `sage`, `cautious`, `cautious_decay`, `magma`, `gmt`, `fish_mask` and so on: adapters.

An adapter builds any base optimizer of fairseq and wraps its torch optimizer in the optimizer of `core` that applies
the method. The settings of a method include the settings of every base optimizer, where None is the base's default.
"""

import argparse
import dataclasses
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, OPTIMIZER_REGISTRY, FairseqOptimizer, register_optimizer
from fairseq.optim.adam import Adam
from omegaconf import II, DictConfig, OmegaConf

from ..core import snapshot
from ..core.base_step import ADAMS, AdamFormula
from ..core.fixed import SOURCES, FixedMaskOptimizer
from ..core.guided import GuidedOptimizer
from ..core.importance import METRICS
from ..core.layers import LAYER_PATTERN
from ..core.optimizers import class_of
from ..core.rules import RULES, SCOPES, forms
from ..core.scope import Slot
from ..core.wrapped import NORMS, STATE_KEY, WrappedOptimizer
from ..errors import UserError, check_fraction
from . import no_effect, parameters

logger = logging.getLogger(__name__)

# Without composite: it has no update of its own. Each of its groups can have a guided optimizer instead.
BASES = tuple(sorted(name for name in OPTIMIZER_REGISTRY if name != "composite"))
STATE_DTYPES = {"parameter": None, "fp32": torch.float32, "bf16": torch.bfloat16}

ADAMS[Adam] = AdamFormula(decoupled=True, eps_before_correction=True)


class Setting(NamedTuple):
    """One setting of a base optimizer."""

    type: Any
    default: Any
    metadata: dict[str, Any]


def base_settings(base: str) -> dict[str, Setting]:
    """The settings of a base optimizer by name, from its dataclass or, if it has none, from its flags."""
    config = OPTIMIZER_DATACLASS_REGISTRY.get(base)
    if config is not None:
        return {
            f.name: Setting(f.type, None if f.default is dataclasses.MISSING else f.default, dict(f.metadata))
            for f in dataclasses.fields(config)
            if f.name != "_name"
        }
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    OPTIMIZER_REGISTRY[base].add_args(parser)
    settings = {"lr": Setting(list[float], II("optimization.lr"), {})}
    for action in parser._actions:
        metadata = {"help": action.help}
        if len(action.option_strings) > 1:
            metadata["argparse_alias"] = action.option_strings[-1]
        settings[action.dest] = Setting(bool if action.nargs == 0 else action.type or str, action.default, metadata)
    return settings


def _fields_of_bases() -> list[tuple[str, Any, Any]]:
    """The settings of all base optimizers as fields of one dataclass; bases share a setting of the same name."""
    settings: dict[str, dict[str, Setting]] = defaultdict(dict)
    for base in BASES:
        for name, setting in base_settings(base).items():
            settings[name][base] = setting
    entries = []
    for name, by_base in settings.items():
        *_, (kind, default, _) = by_base.values()
        if str(default).startswith("${"):  # taken from another section of the settings
            entries.append((name, kind, field(default=default)))
            continue
        metadata = {key: value for setting in by_base.values() for key, value in setting.metadata.items()}
        metadata["help"] = f"{metadata.get('help') or name} (base: {', '.join(by_base)}; default: the base's)"
        if kind not in (bool, Any):  # fairseq cannot make a flag of Optional[Any]
            kind = Optional[kind]
        entries.append((name, kind, field(default=False if kind is bool else None, metadata=metadata)))
    return entries


BaseSettings = make_dataclass(
    "BaseSettings", _fields_of_bases(), bases=(FairseqDataclass,), namespace={"__module__": __name__}
)


def build_base(base: str, cfg: DictConfig, params: list[torch.nn.Parameter]) -> FairseqOptimizer:
    """Build the base optimizer with its settings in `cfg`, and its own defaults where `cfg` has None."""
    values = {
        name: setting.default if cfg[name] is None else cfg[name] for name, setting in base_settings(base).items()
    }
    cls, config = OPTIMIZER_REGISTRY[base], OPTIMIZER_DATACLASS_REGISTRY.get(base)
    if config is None:
        lr = OmegaConf.to_container(values.pop("lr"))
        return cls(argparse.Namespace(optimizer=base, lr=lr, **values), params)
    base_cfg = OmegaConf.structured(config)
    for name, value in values.items():
        if value is not None:
            base_cfg[name] = value
    return cls(base_cfg, params)


_EVERYWHERE = [row.name for row in RULES.values() if row.kind == "optimizer" and row.scope == "all"]


@dataclass
class GuidedConfig(BaseSettings):
    """Settings of every guided optimizer, and of its base."""

    base_optimizer: ChoiceEnum(BASES) = field(
        default="adam", metadata={"help": "optimizer that makes the update; its own flags stay usable"}
    )
    base_fused: str = field(
        default="true",
        metadata={
            "help": "true or false: compute the step of base adam by torch's fused implementation, equal within "
            "rounding; with false, neutral settings give the same bits as the base"
        },
    )
    importance_scope: Optional[ChoiceEnum(SCOPES)] = field(
        default=None,
        metadata={
            "help": "linear: matrices of attention and feed-forward layers; all: every parameter "
            f"(default: all for {', '.join(_EVERYWHERE)}, else linear)"
        },
    )
    seed: int = II("common.seed")
    log_interval: int = II("common.log_interval")


@dataclass
class MeasuredConfig(GuidedConfig):
    """Settings of the methods that measure the importance in every update."""

    importance: Optional[ChoiceEnum(list(METRICS))] = field(
        default=None, metadata={"help": "importance metric (default: the method's own, see `wff rules`)"}
    )
    importance_norm: ChoiceEnum(NORMS) = field(
        default="tensor", metadata={"help": "range and mean of scores: within each tensor or over the whole scope"}
    )
    importance_start: int = field(default=1, metadata={"help": "first update at which the method acts"})


@dataclass
class FreezeConfig(MeasuredConfig):
    freeze_rule: ChoiceEnum([row.variant for row in forms("weighted_freeze")]) = field(
        default="important",
        metadata={
            "help": "which weights are frozen more often. important: those with large scores (Li et al. section 3.3); "
            "printed: those with small scores (Algorithm 1 and the authors' code); smooth: the same with keep "
            "probability sqrt(p / 2) (the authors' --smooth-scores); random: any, as many as important would freeze"
        },
    )
    freeze_keep: Optional[float] = field(
        default=None,
        metadata={"help": "with --freeze-rule random: fixed share of the weights that is updated, between 0 and 1"},
    )
    freeze_apply: ChoiceEnum(GuidedOptimizer.stages) = field(
        default="gradient",
        metadata={"help": "mask the gradient (the paper), or undo the whole update, momentum and decay included"},
    )


@dataclass
class SageConfig(MeasuredConfig):
    sage_variant: ChoiceEnum([row.variant for row in forms("sage")]) = field(
        default="full",
        metadata={
            "help": "full: |I - average| / average (Liang et al.); li: |I - average| / I (Li et al. eq. 2); "
            "light: mean(I) / I without moving average or state (SAGE* of Li et al.)"
        },
    )
    sage_beta: float = field(default=0.75, metadata={"help": "rate of the moving average of I"})
    sage_eps: float = field(default=1e-12, metadata={"help": "epsilon, in numerator and denominator"})
    sage_max_scale: Optional[float] = field(
        default=None,
        metadata={"help": "upper bound of the factor on a learning rate (default: max(1, beta / (1 - beta)))"},
    )
    sage_state_dtype: ChoiceEnum(list(STATE_DTYPES)) = field(
        default="parameter",
        metadata={"help": "precision of the moving average; parameter: as the weights (bf16 for fp16 weights)"},
    )


@dataclass
class MofoConfig(MeasuredConfig):
    mofo_fraction: float = field(
        default=0.15,
        metadata={"help": "share of the numbers of each tensor that an update moves, those with the largest momentum"},
    )


@dataclass
class MagmaConfig(MeasuredConfig):
    magma_variant: ChoiceEnum([row.variant for row in forms("magma")]) = field(
        default="aligned",
        metadata={
            "help": "aligned: an update is scaled by how well momentum and gradient agree; skip_update: by 1 / p"
        },
    )
    magma_fraction: float = field(
        default=0.5, metadata={"help": "p, the probability that a tensor is updated, drawn anew in each update"}
    )


@dataclass
class GmtConfig(MeasuredConfig):
    gmt_fraction: float = field(
        default=0.2,
        metadata={"help": "share of the numbers of each tensor whose gradient is kept, those with the largest"},
    )
    gmt_apply: ChoiceEnum(GuidedOptimizer.stages) = field(
        default="gradient",
        metadata={"help": "mask the gradient (the paper), or undo the whole update, momentum and decay included"},
    )


_FISHER = {"help": "Fisher information of the old domain, made by `wff fisher`"}


@dataclass
class SpgConfig(MeasuredConfig):
    fisher: Optional[str] = field(default=None, metadata=_FISHER)
    spg_apply: ChoiceEnum(GuidedOptimizer.stages) = field(
        default="gradient",
        metadata={"help": "mask the gradient (the paper), or scale the whole update, momentum and decay included"},
    )


@dataclass
class LisaConfig(MeasuredConfig):
    lisa_layers: int = field(
        default=2, metadata={"help": "number of layers that are trained, drawn among those of encoder and decoder"}
    )
    lisa_period: int = field(default=20, metadata={"help": "number of updates after which layers are drawn again"})
    lisa_layer_pattern: Optional[str] = field(
        default=None,
        metadata={
            "help": "regular expression: what it matches, from the start of a parameter's name, is the name of its "
            "layer; other parameters are always trained (default: encoder.layers.0 and the like)"
        },
    )


@dataclass
class FixedConfig(GuidedConfig):
    """Settings of the methods with a fixed mask."""

    mask_communication: bool = field(
        default=False,
        metadata={
            "help": "exchange between processes only the gradients of weights that the mask updates; "
            "--clip-norm and gnorm then see only these"
        },
    )


@dataclass
class FishConfig(FixedConfig):
    fish_density: Optional[float] = field(
        default=None, metadata={"help": "fraction of the parameters in scope that is updated"}
    )
    fish_mask: Optional[str] = field(
        default=None, metadata={"help": "mask made by `wff fisher --mask-density` (default: estimated while training)"}
    )
    fish_updates: Optional[int] = field(
        default=None,
        metadata={
            "help": "estimate the mask in this many first updates, in which no weight moves (default: "
            + ", ".join(f"{source.updates} for {name}" for name, source in SOURCES.items() if source.updates)
            + ")"
        },
    )
    fish_source: ChoiceEnum(list(SOURCES)) = field(
        default="fisher",
        metadata={
            "help": "what chooses the mask. fisher: mean of squared gradients; sift: largest gradients of each tensor; "
            "smt: blocks of matrices with large gradients; lift: largest numbers of a low-rank approximation of each "
            "matrix; baselines: random, magnitude, bias (BitFit, needs no density)"
        },
    )
    fish_block: int = field(default=256, metadata={"help": "rows and columns of a block of --fish-source smt"})
    fish_rank: int = field(default=128, metadata={"help": "rank of the approximation of --fish-source lift"})
    fish_always: Optional[str] = field(
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
    fisher: Optional[str] = field(default=None, metadata=_FISHER)
    lfr_threshold: Optional[float] = field(
        default=None, metadata={"help": "weights with Fisher information up to this are trained"}
    )
    lfr_quantile: Optional[float] = field(
        default=None, metadata={"help": "this fraction of the weights, those with the least Fisher, is trained"}
    )
    lfr_norm: ChoiceEnum(NORMS) = field(
        default="tensor",
        metadata={"help": "take the fraction of each tensor (Gu et al.), or over the whole scope (global)"},
    )
    lfr_always_frozen: Optional[str] = field(
        default=None,
        metadata={
            "help": "regular expression: parameters with such a name are never trained; '' for none "
            f"(default: norms and positions, {_NORMS_AND_POSITIONS})"
        },
    )


class GuidedFairseqOptimizer(FairseqOptimizer):
    """A base optimizer of fairseq, guided by one method; subclasses build the optimizer of `core` that applies it."""

    method: str

    def __init__(self, cfg: DictConfig, params: Iterable[torch.nn.Parameter]):
        super().__init__(cfg)
        params = list(params)
        if isinstance(params[0], dict):  # parameter groups, from a composite optimizer
            if getattr(cfg, "mask_communication", False):
                raise UserError(
                    "mask_communication does not work in parts of a composite optimizer; leave out mask_communication"
                )
            tensors = [p for group in params for p in group["params"]]
        else:
            tensors = params
        self.base = build_base(cfg.base_optimizer, cfg, params)
        slots = parameters.match(tensors, cfg.importance_scope or RULES[self.method].scope)
        self._optimizer = self._wrap_base(slots)
        # Without this flag, --memory-efficient-fp16 replaces the state that the base has loaded by the saved one.
        self._optimizer.disable_mem_eff_fp16_loading_hack = True
        logger.info(
            "%s around %s: %d weights in %d tensors are guided by %s",
            self.method, cfg.base_optimizer, sum(map(len, slots)), len(slots), self._optimizer.importance,
        )  # fmt: skip
        # Hooks, because --amp steps the torch optimizer and does not call `step` of this class.
        self._optimizer.register_step_pre_hook(self._request_record)
        self._optimizer.register_step_post_hook(self._log_record)

    def _wrap_base(self, slots: Sequence[Slot]) -> WrappedOptimizer:
        """The optimizer of `core` around the torch optimizer of the base."""
        raise NotImplementedError

    def _request_record(self, optimizer: WrappedOptimizer, *_: Any) -> None:
        """Before a step that is logged, ask the optimizer to record its statistics."""
        optimizer.record = (optimizer.updates + 1) % self.cfg.log_interval == 0

    def _log_record(self, optimizer: WrappedOptimizer, *_: Any) -> None:
        """After a step that is logged, log the recorded statistics to the progress bar and TensorBoard."""
        if optimizer.updates % self.cfg.log_interval:
            return
        for priority, (name, value) in enumerate(optimizer.recorded.items(), start=600):
            metrics.log_scalar(name, value, weight=1, priority=priority, round=6)

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None) -> None:
        """Load the state of a run with the same method and base; for another run, raise ValueError."""
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
        return False  # the gradient must be unscaled before its importance is measured

    @property
    def supports_groups(self) -> bool:
        return False  # the guided step takes all parameters

    def average_params(self) -> None:
        self.base.average_params()


class MeasuringOptimizer(GuidedFairseqOptimizer):
    """A method that measures the importance in every update."""

    def _wrap_base(self, slots: Sequence[Slot]) -> WrappedOptimizer:
        optimizer = class_of(RULES[self.method])
        norm = {"norm": self.cfg.importance_norm} if optimizer is GuidedOptimizer else {}
        return optimizer(
            self.base.optimizer,
            slots,
            self.method,
            importance=self.cfg.importance,
            start=self.cfg.importance_start,
            **norm,
            **self._settings_of_method(slots),
            **_common_settings(self.cfg),
        )

    def _settings_of_method(self, slots: Sequence[Slot]) -> dict[str, Any]:
        """The arguments that only this method has, of the class that applies it."""
        return {}


class WeightedFreeze(MeasuringOptimizer):
    method = "weighted_freeze"

    def _settings_of_method(self, slots: Sequence[Slot]) -> dict[str, Any]:
        cfg = self.cfg
        if cfg.freeze_keep is not None and cfg.freeze_rule != "random":
            raise UserError(f"--freeze-keep {cfg.freeze_keep} needs --freeze-rule random, not {cfg.freeze_rule}")
        if cfg.freeze_keep is not None and not 0 <= cfg.freeze_keep <= 1:
            raise UserError(f"--freeze-keep must be between 0 and 1, got {cfg.freeze_keep}")
        return {"variant": str(cfg.freeze_rule), "stage": cfg.freeze_apply, "keep": cfg.freeze_keep}


class Sage(MeasuringOptimizer):
    method = "sage"

    def _settings_of_method(self, slots: Sequence[Slot]) -> dict[str, Any]:
        cfg = self.cfg
        return {
            "variant": str(cfg.sage_variant),
            "beta": cfg.sage_beta,
            "eps": cfg.sage_eps,
            "max_scale": cfg.sage_max_scale,
            "state_dtype": STATE_DTYPES[cfg.sage_state_dtype],
        }


class Mofo(MeasuringOptimizer):
    method = "mofo"

    def _settings_of_method(self, slots: Sequence[Slot]) -> dict[str, Any]:
        check_fraction("--mofo-fraction", self.cfg.mofo_fraction, 0.15, one=True)
        return {"fraction": self.cfg.mofo_fraction}


class Magma(MeasuringOptimizer):
    method = "magma"

    def _settings_of_method(self, slots: Sequence[Slot]) -> dict[str, Any]:
        check_fraction("--magma-fraction", self.cfg.magma_fraction, 0.5, one=True)
        return {"variant": str(self.cfg.magma_variant), "fraction": self.cfg.magma_fraction}


class Gmt(MeasuringOptimizer):
    method = "gmt"

    def _settings_of_method(self, slots: Sequence[Slot]) -> dict[str, Any]:
        check_fraction("--gmt-fraction", self.cfg.gmt_fraction, 0.2, one=True)
        return {"fraction": self.cfg.gmt_fraction, "stage": self.cfg.gmt_apply}


class Spg(MeasuringOptimizer):
    method = "spg"

    def _settings_of_method(self, slots: Sequence[Slot]) -> dict[str, Any]:
        return {"fisher": _load_fisher(self.cfg.fisher, self.method, slots), "stage": self.cfg.spg_apply}


class Lisa(MeasuringOptimizer):
    method = "lisa"

    def _settings_of_method(self, slots: Sequence[Slot]) -> dict[str, Any]:
        cfg = self.cfg
        if any(slot.start is not None for slot in slots):
            raise UserError("--optimizer lisa needs each weight as a tensor of its own; add --fp16-no-flatten-grads")
        pattern = LAYER_PATTERN if cfg.lisa_layer_pattern is None else cfg.lisa_layer_pattern
        return {"layers": cfg.lisa_layers, "period": cfg.lisa_period, "layer_pattern": pattern}


class FishMask(GuidedFairseqOptimizer):
    method = "fish_mask"

    def _wrap_base(self, slots: Sequence[Slot]) -> WrappedOptimizer:
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
            masks=None if cfg.fish_mask is None else _load_tensors(cfg.fish_mask, "mask", slots),
            density=cfg.fish_density,
            source=str(cfg.fish_source),
            observe=cfg.fish_updates,
            block=cfg.fish_block,
            rank=cfg.fish_rank,
            always=always,
            **_common_settings(cfg),
        )


class LfrCm(GuidedFairseqOptimizer):
    method = "lfr_cm"

    def _wrap_base(self, slots: Sequence[Slot]) -> WrappedOptimizer:
        cfg = self.cfg
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
            source=_load_fisher(cfg.fisher, self.method, slots),
            norm=cfg.lfr_norm,
            never=_NORMS_AND_POSITIONS if frozen is None else frozen,
            **_common_settings(cfg),
        )


def _common_settings(cfg: DictConfig) -> dict[str, Any]:
    """The arguments that all optimizers of `core` take, from the settings in `GuidedConfig`."""
    fused = str(cfg.base_fused).lower()
    if fused not in ("true", "false"):
        raise UserError(f"--base-fused must be true or false, got {cfg.base_fused}; type --base-fused false")
    return {"base_fused": fused == "true", "seed": cfg.seed}


def _load_fisher(path: str | None, method: str, slots: Sequence[Slot]) -> dict[str, torch.Tensor]:
    """Load the Fisher information of the old domain, which `method` needs, for these slots."""
    if path is None:
        raise UserError(f"--optimizer {method} needs --fisher FILE; make it with: wff fisher CHECKPOINT --data BIN")
    return _load_tensors(path, "fisher", slots)


def _load_tensors(path: str, kind: snapshot.Kind, slots: Sequence[Slot]) -> dict[str, torch.Tensor]:
    """Load the tensors of a snapshot for these slots."""
    loaded = snapshot.load(Path(path), kind)
    return snapshot.of_this_model(loaded, Path(path), [(slot.name, slot.shape) for slot in slots])


def _register(adapter: type[GuidedFairseqOptimizer], config: type[GuidedConfig]) -> None:
    """Register an adapter under the name of its method."""
    rule = RULES[adapter.method]
    adapter.__doc__ = f"{rule.source}; f(I) = {rule.f.text}, g(I) = {rule.g.text}."
    register_optimizer(adapter.method, dataclass=config)(adapter)


_register(WeightedFreeze, FreezeConfig)
_register(Sage, SageConfig)
_register(Mofo, MofoConfig)
_register(Magma, MagmaConfig)
_register(Gmt, GmtConfig)
_register(Spg, SpgConfig)
_register(Lisa, LisaConfig)
_register(FishMask, FishConfig)
_register(LfrCm, LfrConfig)
for name, rule in RULES.items():  # the other methods have no settings of their own
    if rule.kind == "optimizer" and name not in OPTIMIZER_REGISTRY:
        # The class name is saved in checkpoints.
        _register(type(name.title().replace("_", ""), (MeasuringOptimizer,), {"method": name}), MeasuredConfig)
