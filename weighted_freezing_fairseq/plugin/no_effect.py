"""Warnings of settings that have no effect, with the value, the reason, and what to type.

Settings that are documented to switch a method off (`--alpha 0`) give no warning.
"""

import functools
import logging
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

logger = logging.getLogger(__name__)


@functools.cache
def warn(message: str) -> None:
    """Log a warning once per process; an optimizer is built again when a checkpoint is loaded."""
    logger.warning(message)


def warn_of(cfg: Any, settings: type, names: Iterable[str], reason: str) -> None:
    """Warn of each setting in `names` whose value in `cfg` is not the default of the dataclass `settings`."""
    defaults = {field.name: field.default for field in fields(settings)}
    for name in names:
        value = getattr(cfg, name, defaults[name])
        interpolated = str(defaults[name]).startswith("${")  # taken from another section of the settings
        if str(value) != str(defaults[name]) and not interpolated:
            warn(f"--{name.replace('_', '-')} {value} has no effect: {reason}")
