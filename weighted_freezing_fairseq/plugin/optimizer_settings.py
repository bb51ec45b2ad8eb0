"""Checks of a guided optimizer's settings: refuses sharding, and warns of settings that have no effect."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial

from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY
from fairseq.trainer import Trainer
from omegaconf import DictConfig

from ..core.fixed import SOURCES
from ..core.guided import STATISTICS
from ..core.rules import RULES, forms
from . import no_effect
from .optimizers import BaseSettings, base_settings
from .parameters import refuse_sharding
from .trainer_events import TrainerListener


class OptimizerSettings(TrainerListener):
    @classmethod
    def for_trainer(cls, trainer: Trainer) -> "OptimizerSettings | None":
        return cls() if getattr(trainer.cfg.optimizer, "_name", None) in RULES else None

    def optimizer_requested(self, trainer: Trainer) -> None:
        refuse_sharding(trainer.cfg, str(trainer.cfg.optimizer._name))

    def optimizer_built(self, trainer: Trainer) -> None:
        settings, last_update = trainer.cfg.optimizer, trainer.cfg.optimization.max_update
        method, base = settings._name, str(settings.base_optimizer)
        warn_of = partial(no_effect.warn_of, settings, OPTIMIZER_DATACLASS_REGISTRY[method])
        other_bases = {field.name for field in fields(BaseSettings)} - base_settings(base).keys() - {"_name"}
        warn_of(sorted(other_bases), f"--base-optimizer {base} has no such setting; leave it out")
        if method == "sage" and settings.sage_variant == "light":
            reason = "--sage-variant light has no moving average; leave it out, or type --sage-variant full"
            warn_of(("sage_beta", "sage_state_dtype"), reason)
        elif method == "fish_mask":
            _warn_of_fish_mask(settings, warn_of, last_update)
        needs = {need for row in forms(method) for need in row.needs}
        if "importance_norm" in settings and needs.isdisjoint(STATISTICS):
            warn_of(("importance_norm",), f"{method} reads no range or mean of scores; leave it out")
        if method == "spg" and settings.spg_apply == "gradient" and base not in ("sgd", "nag"):
            no_effect.warn(
                f"--spg-apply gradient has next to no effect: --base-optimizer {base} divides by the size of past "
                "gradients, which cancels a constant factor; type --spg-apply update, or --base-optimizer sgd"
            )
        if "lam" in needs and not settings.weight_decay:
            no_effect.warn(f"--optimizer {method} has no effect without weight decay; type --weight-decay 0.01")
        if "importance_start" in settings and 0 < last_update < settings.importance_start:
            no_effect.warn(
                f"--importance-start {settings.importance_start} has no effect: the run ends earlier, at --max-update "
                f"{last_update}; type --importance-start 1"
            )


def _warn_of_fish_mask(settings: DictConfig, warn_of: Callable[[Iterable[str], str], None], last_update: int) -> None:
    source = str(settings.fish_source)
    if settings.fish_mask is not None:
        warn_of(
            ("fish_updates", "fish_source", "fish_block", "fish_rank"),
            "--fish-mask holds a finished mask; leave it out",
        )
        return
    updates = settings.fish_updates if settings.fish_updates is not None else SOURCES[source].updates
    if SOURCES[source].observe is None:
        reason = f"--fish-source {source} measures no gradient; leave it out, or type --fish-source fisher"
        warn_of(("fish_updates",), reason)
    elif 0 < last_update <= updates:
        no_effect.warn(
            f"--fish-updates {updates}: no weight moves before these updates are over, and the run ends "
            f"at --max-update {last_update}; type --fish-updates {max(1, last_update // 10)}"
        )
    for name, needed in {"fish_block": "smt", "fish_rank": "lift"}.items():
        if source != needed:
            warn_of(
                (name,), f"--fish-source {source} has no such setting; leave it out, or type --fish-source {needed}"
            )
    if source == "bias":
        warn_of(("fish_density",), "--fish-source bias updates all biases and no other weights; leave it out")
