"""Importance-guided training for machine translation, as a plugin for unmodified fairseq.

The mathematics lives in `core` (pure torch), the adapters in `plugin` (the only place that imports fairseq).
Importing this package is cheap: neither torch nor fairseq is loaded until it is used. The adapters are registered
with fairseq at once where fairseq is loaded already, as it is under `--user-dir`, and else when it is first imported.
"""

from __future__ import annotations  # an older Python must get as far as saying that it is too old

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "GuidedOptimizer": "core.guided",
    "FixedMaskOptimizer": "core.fixed",
    "MaskedReduce": "core.sparse_reduce",
    "reduce_bucket": "core.sparse_reduce",
    "RULES": "core.rules",
    "Rule": "core.rules",
    "METRICS": "core.importance",
    "scope_of": "core.scope",
    "HEADS": "core.scope",
    "passes_loss": "core.fused",
    "x_divergence": "core.losses",
    "js_divergence": "core.losses",
    "quadratic_penalty": "core.losses",
    "adaptive_alpha": "core.schedules",
    "IterativePruning": "core.pruner",
    "alignments": "core.losses",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


class _RegisterAfterFairseq(MetaPathFinder):
    """Registers the adapters when somebody else imports fairseq, however late that is.

    fairseq skips a `--user-dir` whose package is imported already, so a script that imports this package first would
    otherwise find no `--optimizer weighted_freeze`.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "fairseq":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)  # this may be a look-up, with the import still to come
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_then_register(module: ModuleType) -> None:
                execute(module)
                sys.meta_path.remove(self)
                importlib.import_module(f"{__name__}.plugin")

            spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec


if "fairseq" in sys.modules:
    importlib.import_module(f"{__name__}.plugin")
else:
    sys.meta_path.insert(0, _RegisterAfterFairseq())
