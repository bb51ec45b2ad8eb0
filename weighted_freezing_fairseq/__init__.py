"""Importance-guided training for machine translation, as a plugin for unmodified fairseq.

The mathematics is in `core` (pure torch), the adapters are in `plugin` (the only package that imports fairseq).
Importing this package does not import torch or fairseq. `register()`, or fairseq's --user-dir, adds the methods to
fairseq.
"""

from __future__ import annotations  # so that an older Python can report that it is too old

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.after_step import AfterStepOptimizer as AfterStepOptimizer
    from .core.decay import DecayOptimizer as DecayOptimizer
    from .core.divergences import js_divergence as js_divergence
    from .core.divergences import x_divergence as x_divergence
    from .core.fixed import FixedMaskOptimizer as FixedMaskOptimizer
    from .core.fused import passes_loss as passes_loss
    from .core.guided import GuidedOptimizer as GuidedOptimizer
    from .core.importance import METRICS as METRICS
    from .core.layers import DrawnLayersOptimizer as DrawnLayersOptimizer
    from .core.model_optimizers import FishMask as FishMask
    from .core.model_optimizers import LfrCm as LfrCm
    from .core.model_optimizers import Sage as Sage
    from .core.model_optimizers import WeightedFreeze as WeightedFreeze
    from .core.penalties import alignments as alignments
    from .core.penalties import quadratic_penalty as quadratic_penalty
    from .core.pruner import IterativePruning as IterativePruning
    from .core.rules import RULES as RULES
    from .core.rules import Rule as Rule
    from .core.schedules import adaptive_alpha as adaptive_alpha
    from .core.scope import HEADS as HEADS
    from .core.scope import scope_of as scope_of
    from .core.soft_mask import SoftMaskOptimizer as SoftMaskOptimizer
    from .core.sparse_reduce import MaskedReduce as MaskedReduce
    from .core.sparse_reduce import reduce_bucket as reduce_bucket

__version__ = "0.2.0"

_PUBLIC = {
    "WeightedFreeze": "core.model_optimizers",
    "Sage": "core.model_optimizers",
    "FishMask": "core.model_optimizers",
    "LfrCm": "core.model_optimizers",
    "GuidedOptimizer": "core.guided",
    "AfterStepOptimizer": "core.after_step",
    "DecayOptimizer": "core.decay",
    "SoftMaskOptimizer": "core.soft_mask",
    "DrawnLayersOptimizer": "core.layers",
    "FixedMaskOptimizer": "core.fixed",
    "MaskedReduce": "core.sparse_reduce",
    "reduce_bucket": "core.sparse_reduce",
    "RULES": "core.rules",
    "Rule": "core.rules",
    "METRICS": "core.importance",
    "scope_of": "core.scope",
    "HEADS": "core.scope",
    "passes_loss": "core.fused",
    "x_divergence": "core.divergences",
    "js_divergence": "core.divergences",
    "quadratic_penalty": "core.penalties",
    "adaptive_alpha": "core.schedules",
    "IterativePruning": "core.pruner",
    "alignments": "core.penalties",
}
__all__ = ["__version__", "register", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def register() -> None:
    """Add the methods to fairseq and apply the mends, like `--user-dir`, in a script that calls fairseq.

    It can be called before or after `import fairseq`; a second call does nothing.
    """
    importlib.import_module(f"{__name__}.plugin")


def _is_user_dir() -> bool:
    """Whether fairseq is importing this folder as its --user-dir; it stores the path before it imports."""
    load = getattr(sys.modules.get("fairseq.utils"), "import_user_module", None)
    return Path(__file__).resolve().parent in {Path(path).resolve() for path in getattr(load, "memo", ())}


if _is_user_dir():
    importlib.import_module(f"{__name__}.errors").hide_traceback_of_user_errors()
    register()
