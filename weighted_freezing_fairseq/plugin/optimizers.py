"""`--optimizer weighted_freeze`, and every later optimizer row: one adapter class a row, no mathematics.

An adapter builds any base optimizer of fairseq from that optimizer's own settings, wraps its torch optimizer in a
`GuidedOptimizer`, and hands everything else through. Settings are one dataclass: ours plus the union of all bases',
where None means "the base's own default", so that command line and YAML both know them.
"""

import argparse
import dataclasses
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, make_dataclass
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.optim import OPTIMIZER_REGISTRY, FairseqOptimizer, register_optimizer
from omegaconf import II, DictConfig, OmegaConf

from ..core.guided import NORMS, STAGES, STATE_KEY, GuidedOptimizer
from ..core.importance import METRICS
from ..core.rules import RULES
from ..core.scope import SCOPES
from . import parameters

logger = logging.getLogger(__name__)

# A composite has no settings of its own to wrap: inside one, give each group a guided optimizer.
BASES = tuple(sorted(name for name in OPTIMIZER_REGISTRY if name != "composite"))


@dataclass
class GuidedConfig(FairseqDataclass):
    """Settings that every guided optimizer has."""

    base_optimizer: ChoiceEnum(BASES) = field(  # type: ignore[valid-type]
        default="adam", metadata={"help": "optimizer that makes the update; its own flags stay usable"}
    )
    importance: Optional[ChoiceEnum(list(METRICS))] = field(  # type: ignore[valid-type]  # noqa: UP045
        default=None, metadata={"help": "importance metric (default: the method's own, see `wff rules`)"}
    )
    importance_norm: ChoiceEnum(NORMS) = field(  # type: ignore[valid-type]
        default="tensor", metadata={"help": "normalise scores within each tensor or over the whole scope"}
    )
    importance_scope: ChoiceEnum(SCOPES) = field(  # type: ignore[valid-type]
        default="linear",
        metadata={"help": "linear: matrices of attention and feed-forward layers; all: every parameter"},
    )
    importance_start: int = field(default=1, metadata={"help": "first update at which the method acts"})
    freeze_apply: ChoiceEnum(STAGES) = field(  # type: ignore[valid-type]
        default="gradient",
        metadata={"help": "mask the gradient (the paper), or undo the whole update, momentum and decay included"},
    )
    seed: int = II("common.seed")
    log_interval: int = II("common.log_interval")


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


def _merged_settings() -> list[tuple[str, Any, Any]]:
    """The union of all bases' settings as dataclass fields; one that several bases share appears once."""
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
    taken = {f.name for f in dataclasses.fields(GuidedConfig)}
    return [entry for key, entry in merged.items() if key not in taken]


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
    """A base optimizer of fairseq, guided by one row of the table; subclasses only name the row."""

    method: str

    def __init__(self, cfg: DictConfig, params: Iterable[torch.nn.Parameter]):
        super().__init__(cfg)
        params = list(params)
        flat = [p for group in params for p in group["params"]] if isinstance(params[0], dict) else params
        self.base = build_base(cfg.base_optimizer, cfg, params)
        self._optimizer = self._guide(parameters.match(flat, cfg.importance_scope))
        # Hooks, since not every wrapper of fairseq calls `step` of this class: --amp steps the torch optimizer.
        self._optimizer.register_step_pre_hook(self._record)
        self._optimizer.register_step_post_hook(self._log)

    def _guide(self, slots) -> GuidedOptimizer:
        cfg = self.cfg
        guided = GuidedOptimizer(
            self.base.optimizer,
            slots,
            self.method,
            importance=cfg.importance,
            norm=cfg.importance_norm,
            stage=cfg.freeze_apply,
            start=cfg.importance_start,
            seed=cfg.seed,
        )
        count = sum(map(len, slots))
        logger.info(
            "%s around %s: %d weights in %d tensors are guided by %s",
            self.method, cfg.base_optimizer, count, len(slots), guided.importance,
        )  # fmt: skip
        return guided

    def _record(self, guided: GuidedOptimizer, *_: Any) -> None:
        """Before a step: have it measured if this update is logged."""
        guided.record = (guided.updates + 1) % self.cfg.log_interval == 0

    def _log(self, guided: GuidedOptimizer, *_: Any) -> None:
        """After a step: hand what was measured to the progress bar and TensorBoard."""
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
                f"{error}: give --optimizer and --base-optimizer as in that run, or add --reset-optimizer"
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


def _register(name: str, class_name: str) -> None:
    """Register the row `name` as `--optimizer name`."""
    doc = f"{RULES[name].source}; g(I) = {RULES[name].g.text}."
    settings = make_dataclass(f"{class_name}Config", _merged_settings(), bases=(GuidedConfig,))
    settings.__module__ = __name__
    adapter = type(class_name, (GuidedFairseqOptimizer,), {"method": name, "__doc__": doc, "__module__": __name__})
    globals()[class_name] = register_optimizer(name, dataclass=settings)(adapter)
    globals()[settings.__name__] = settings


_register("weighted_freeze", "WeightedFreeze")
