"""The adapters to fairseq, registered when this package is imported; no other package imports fairseq."""

from fairseq.optim import OPTIMIZER_REGISTRY

if "weighted_freeze" in OPTIMIZER_REGISTRY:
    raise ImportError(
        f"this plugin is registered already, under the name "
        f"{OPTIMIZER_REGISTRY['weighted_freeze'].__module__.partition('.')[0]}; import the package under one name, and "
        'give fairseq one path to it: --user-dir "$(wff user-dir)"'
    )

from . import mends  # noqa: E402

mends.apply_mends()  # first: an invalid WFF_MENDS is refused before anything is registered

from . import alignreg, architectures, criterions, importance_log, optimizers, trainers  # noqa: E402

importance_log.add_setting()
trainers.install()

__all__ = ["alignreg", "architectures", "criterions", "importance_log", "mends", "optimizers", "trainers"]
