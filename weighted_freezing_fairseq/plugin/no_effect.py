"""Settings that are given and do nothing: one warning for each, with its value, the reason, and what to type.

Left out on purpose: settings that are documented to switch a method off (`--alpha 0`), and what is impossible, which
is refused where it is read.
"""

import functools
import logging
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from fairseq.optim import OPTIMIZER_REGISTRY
from omegaconf import DictConfig

from ..core.rules import RULES
from .optimizers import BASES, base_settings

logger = logging.getLogger(__name__)


@functools.cache
def warn(message: str) -> None:
    """Log a warning once in this process: an optimizer is built anew when a checkpoint is loaded."""
    logger.warning(message)


def warn_of(cfg: Any, settings: type, names: Iterable[str], reason: str) -> None:
    """Warn of each setting in `names` that is not what the dataclass `settings` has as its default."""
    defaults = {field.name: field.default for field in fields(settings)}
    for name in names:
        value = getattr(cfg, name, defaults[name])
        interpolated = str(defaults[name]).startswith("${")  # filled in by another part of the settings
        if str(value) != str(defaults[name]) and not interpolated:
            warn(f"--{name.replace('_', '-')} {value} has no effect: {reason}")


def warn_of_optimizer(cfg: DictConfig) -> None:
    """Warn of what the settings of a guided optimizer ask for in vain; `cfg` are those of the whole run."""
    given, last = cfg.optimizer, cfg.optimization.max_update
    method = getattr(given, "_name", None)
    if method not in RULES:
        return
    settings = getattr(OPTIMIZER_REGISTRY[method], "__dataclass")  # noqa: B009  # a class would mangle the name
    base = str(given.base_optimizer)
    others = {name for other in BASES for name in base_settings(other)} - base_settings(base).keys()
    warn_of(given, settings, sorted(others), f"--base-optimizer {base} has no such setting; leave it out")
    if method == "sage" and given.sage_variant == "light":
        reason = "--sage-variant light has no moving average; leave it out, or type --sage-variant full"
        warn_of(given, settings, ("sage_beta", "sage_state_dtype"), reason)
    elif method == "fish_mask":
        _warn_of_fish(given, settings, last)
    if RULES[method].measured and 0 < last < given.importance_start:
        warn(
            f"--importance-start {given.importance_start} has no effect: the run ends before, at --max-update {last}; "
            "type --importance-start 1"
        )


def _warn_of_fish(given: DictConfig, settings: type, last: int) -> None:
    source = str(given.fish_source)
    if given.fish_mask is not None:
        reason = "--fish-mask holds a finished mask; leave it out"
        warn_of(given, settings, ("fish_updates", "fish_source"), reason)
        return
    if source != "fisher":
        reason = f"--fish-source {source} measures no gradient; leave it out, or type --fish-source fisher"
        warn_of(given, settings, ("fish_updates",), reason)
    elif 0 < last <= given.fish_updates:
        warn(
            f"--fish-updates {given.fish_updates}: no weight moves before these updates are over, and the run ends at "
            f"--max-update {last}; type --fish-updates {max(1, last // 10)}"
        )
    if source == "bias":
        reason = "--fish-source bias takes all biases and nothing else; leave it out"
        warn_of(given, settings, ("fish_density",), reason)
