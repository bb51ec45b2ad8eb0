"""Snapshots of the diagonal Fisher information of a checkpoint, and masks of its largest entries (`wff fisher`).

A snapshot (`core/snapshot.py`) holds Fisher information in float32 and the weights of the checkpoint, or only a mask.
The overlap of the masks of half of the sentences and of all shows whether more sentences would change the mask.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..core import fisher, masks, scope, snapshot
from ..core.tensor_files import refuse_bad_numbers
from ..errors import UserError
from ..workspace.checkpoints import read_checkpoint
from ..workspace.locks import lock_file
from .fisher_sums import FisherSettings, load_trained, measure, plan, remove_partial_sums

_OVERLAP_DENSITY = 0.005  # if no mask is written

Report = Callable[[str], None]


@dataclass(frozen=True)
class MaskSettings:
    """The share of the parameters in a mask, and the parameters that are always in it."""

    density: float
    always: str | None  # a regular expression, or "" for none (None: the classification head of a sentence task)

    def metadata(self, names: Sequence[str]) -> dict[str, Any]:
        """The metadata of a mask of the parameters `names`, in addition to those of the measurement."""
        from ..plugin.parameters import classifiers_in

        always = classifiers_in(names) if self.always is None else self.always
        if self.always and not any(re.search(self.always, name) for name in names):
            raise UserError(f"no parameter has a name with {always!r} in it, such as {names[0]}; type another --always")
        return {"density": self.density, **({"always": always} if always else {})}


def write_fisher(settings: FisherSettings, out: Path, mask: MaskSettings | None, report: Report) -> None:
    """Measure Fisher information, and write it or a mask of it to `out`; a second call resumes a killed one.

    Args:
        report: called with each line of text about the measurement and its result.
    """
    if settings.device == "cuda" and settings.processes > torch.cuda.device_count():
        raise UserError(
            f"torch sees {torch.cuda.device_count()} GPUs; type --processes with at most that, or --device cpu"
        )
    with lock_file(out):
        trained = load_trained(settings, "cuda:0" if settings.device == "cuda" else "cpu")
        trained.refuse(settings.estimator)
        planned = plan(trained, settings)
        used = sum(planned.counts)
        weights = {entry.name: parameter for entry, parameter in scope.catalogue(trained.model)}
        measured = _metadata(settings, used, snapshot.fingerprint(weights))
        metadata = measured if mask is None else {**measured, **mask.metadata(list(weights))}
        if _is_written(out, "fisher" if mask is None else "mask", metadata, report):
            return
        if planned.too_long:
            report(f"left out {planned.too_long} sentences of {settings.split} that are too long for the model")
        all_of_them = " (all of them)" if used < settings.samples else ""
        report(f"{settings.estimator} Fisher information from {used} sentences of {settings.split}{all_of_them}")
        # Read now: a training run may remove the checkpoint during the measurement.
        theta = _as_stored(fisher.trainable(trained.model), Path(settings.checkpoint)) if mask is None else {}
        # Partial sums also depend on the batches and the number of processes.
        key = {**measured, "max_tokens": settings.max_tokens, "processes": settings.processes}
        first, second = measure(trained, settings, key, out, used)
        draws = settings.draws if settings.estimator == "sampled" else 1
        information = {name: (first[name] + second[name]) / (used * draws) for name in first}
        refuse_bad_numbers(information, "the Fisher information of")
        density = _OVERLAP_DENSITY if mask is None else mask.density
        overlap = fisher.overlap(first, information, density)
        report(f"the top {100 * density:g} % of the first {planned.counts[0]} and of all {used} sentences "
               f"overlap by {100 * overlap:.1f} %")  # fmt: skip
        if mask is None:
            snapshot.save(out, "fisher", information, weights=theta, **metadata)
            report(f"wrote {out}")
        else:
            _write_mask(out, information, metadata, report)
        remove_partial_sums(out)


def write_mask_from(source: Path, out: Path, mask: MaskSettings, report: Report) -> None:
    """Write a mask of the Fisher information in the snapshot `source`, without a measurement."""
    information = snapshot.load(source, "fisher")
    metadata = {**information.about, **mask.metadata(list(information.tensors))}
    if not _is_written(out, "mask", metadata, report):
        _write_mask(out, information.tensors, metadata, report)


def _metadata(settings: FisherSettings, used: int, fingerprint: str) -> dict[str, Any]:
    """The metadata of a snapshot of Fisher information; only a batch estimate depends on the batches."""
    names = ("estimator", "draws", "seed", "split", "data", "checkpoint")
    return {
        "metric": "fisher",
        "samples": used,
        **{name: getattr(settings, name) for name in names},
        **({"max_tokens": settings.max_tokens} if settings.estimator == "batch" else {}),
        "fingerprint": fingerprint,
        "version": __version__,
    }


def _is_written(out: Path, kind: snapshot.Kind, metadata: dict[str, Any], report: Report) -> bool:
    """Whether `out` exists with equal settings; any other file is refused."""
    if not out.exists():
        return False
    try:
        existing = snapshot.load(out, kind)
        # Earlier versions wrote Fisher information without weights.
        equal = existing.about == metadata and (kind == "mask" or existing.weights is not None)
    except UserError:
        equal = False
    if not equal:
        raise UserError(f"{out} exists with other content or settings; choose another --out, or remove it")
    report(f"{out} is there already, from the same settings")
    return True


def _as_stored(parameters: Mapping[str, torch.Tensor], checkpoint: Path) -> dict[str, torch.Tensor]:
    """Convert weights that were loaded as float32 to the widest floating-point type in the checkpoint."""
    types = {tensor.dtype for tensor in read_checkpoint(checkpoint)[1].values() if tensor.is_floating_point()}
    dtype = functools.reduce(torch.promote_types, types)
    return {name: parameter.detach().to(dtype) for name, parameter in parameters.items()}


def _write_mask(out: Path, information: fisher.Totals, metadata: dict[str, Any], report: Report) -> None:
    """Write a mask with exactly round(density * n) of the n numbers, 1 = is updated."""
    density, always = metadata["density"], metadata.get("always")
    n = sum(tensor.numel() for tensor in information.values())
    k = round(density * n)
    if k == 0:
        raise UserError(f"--mask-density {density:g} selects none of {n:,} parameters; type a larger one")
    try:
        mask = masks.density_masks(information, density, re.compile(always) if always else None)
    except ValueError as error:
        raise UserError(f"{error}, or type --always ''") from None
    snapshot.save(out, "mask", mask, **metadata)
    report(f"wrote {out}: the largest {k:,} of {n:,}{f', with all of {always},' if always else ''} are updated")
