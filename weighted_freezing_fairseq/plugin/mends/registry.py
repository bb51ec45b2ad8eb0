"""The registry of mends: what each mend repairs in fairseq, which versions need it, and whether it was applied.

The environment variable `WFF_MENDS` selects mends: unset, all that the installed versions need; `none`; or a
comma-separated list of names. A mend that is not needed is never applied.
"""

import importlib.util
import logging
import os
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fairseq
import torch

from ...errors import UserError

logger = logging.getLogger(__name__)

VARIABLE = "WFF_MENDS"
Repair = Callable[[], None]


@dataclass(frozen=True)
class Versions:
    """The installed versions, which decide the mends that are needed."""

    torch: tuple[int, ...]
    fairseq: tuple[int, ...]
    torch_xla: bool = False  # installed

    @classmethod
    def installed(cls) -> "Versions":
        numbers = (tuple(map(int, re.findall(r"\d+", text)[:3])) for text in (torch.__version__, fairseq.__version__))
        return cls(*numbers, torch_xla=importlib.util.find_spec("torch_xla") is not None)


@dataclass(frozen=True)
class Need:
    """The versions that need a mend, in words and as a predicate."""

    text: str
    holds: Callable[[Versions], bool]


ALWAYS = Need("every version", lambda versions: True)
TORCH_BEFORE_2_6 = Need("torch before 2.6", lambda versions: versions.torch < (2, 6))
TORCH_FROM_2_6 = Need("torch 2.6 or later", lambda versions: versions.torch >= (2, 6))
FAIRSEQ_UP_TO_0_12_2 = Need("fairseq 0.12.2 or earlier", lambda versions: versions.fairseq <= (0, 12, 2))
FAIRSEQ_AFTER_0_12_2 = Need("fairseq after 0.12.2", lambda versions: versions.fairseq > (0, 12, 2))
NO_TORCH_XLA = Need("torch_xla not installed", lambda versions: not versions.torch_xla)


@dataclass(frozen=True)
class Mend:
    """A patch of fairseq. `reason`: what happens without it. `protects`: whether it refuses unsafe checkpoints."""

    name: str
    reason: str
    need: Need
    apply: Repair
    protects: bool


MENDS: dict[str, Mend] = {}
_applied: set[str] = set()


def mend(reason: str, need: Need = ALWAYS, protects: bool = False) -> Callable[[Repair], Repair]:
    """Register a function that patches fairseq, under its own name."""

    def register(function: Repair) -> Repair:
        MENDS[function.__name__] = Mend(function.__name__, reason, need, function, protects)
        return function

    return register


def selected(setting: str | None) -> frozenset[str]:
    """The names that a value of WFF_MENDS selects; raises UserError for an unknown name."""
    if not setting:
        return frozenset(MENDS)
    names = frozenset(name.strip() for name in setting.split(",") if name.strip())
    if names == {"none"}:
        return frozenset()
    if unknown := sorted(names - MENDS.keys()):
        raise UserError(
            f"{VARIABLE}={setting}: unknown mend {', '.join(unknown)}; allowed are none, or a comma-separated list of "
            f"{', '.join(MENDS)}; type: unset {VARIABLE}"
        )
    return names


def apply_mends() -> None:
    """Apply every mend that the installed versions need and WFF_MENDS selects."""
    names, versions = selected(os.environ.get(VARIABLE)), Versions.installed()
    needed = [entry for entry in MENDS.values() if entry.need.holds(versions)]
    for entry in needed:
        if entry.name in names:
            entry.apply()
            _applied.add(entry.name)
    if unprotected := [entry.name for entry in needed if entry.protects and entry.name not in names]:
        logger.warning("%s leaves out what protects against unsafe checkpoints: %s", VARIABLE, ", ".join(unprotected))


def report() -> list[dict[str, Any]]:
    """Every mend with its state in this process, as `wff doctor` prints it."""
    versions, rows = Versions.installed(), []
    for entry in MENDS.values():
        state = "left out" if entry.need.holds(versions) else "not needed"
        rows.append(
            {
                "name": entry.name,
                "state": "applied" if entry.name in _applied else state,
                "reason": entry.reason,
                "needed_by": entry.need.text,
                "protects": entry.protects,
            }
        )
    return rows


def replace_torch_functions(module: types.ModuleType, **functions: Callable[..., Any]) -> None:
    """Replace functions of `torch` inside one module of fairseq only."""

    class PatchedTorch(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    module.torch = PatchedTorch("torch")
    vars(module.torch).update(functions)
