"""The only place that imports fairseq: thin adapters, registered when this package is imported.

fairseq auto-imports sub-folders called `tasks` and `models` only, and not even those in every way of loading, so
everything is imported here.
"""

from fairseq.optim import OPTIMIZER_REGISTRY

if "weighted_freeze" in OPTIMIZER_REGISTRY:
    raise ImportError(
        f"this plugin is loaded already, as {OPTIMIZER_REGISTRY['weighted_freeze'].__module__.split('.')[0]}; "
        'give fairseq one path to it: --user-dir "$(wff user-dir)"'
    )

from . import alignreg, architectures, compat, criterions, importance_log, optimizers, trainers  # noqa: E402

compat.mend()
importance_log.add_setting()
trainers.install()

__all__ = ["alignreg", "architectures", "compat", "criterions", "importance_log", "optimizers", "trainers"]
