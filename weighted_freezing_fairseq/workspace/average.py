"""Averages of the parameters of several checkpoints, such as the last ones of a run (Vaswani et al. 2017, section 6.1).

The result is a plain fairseq checkpoint. Weighted means and sharded checkpoints are not supported.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..core.difference import tied
from ..core.snapshot import few, fingerprint
from ..core.tensor_files import refuse_bad_numbers
from ..errors import UserError
from ..files import atomic_file, refuse_to_overwrite
from .checkpoints import OPTIMIZER_STATE, read_checkpoint, save

HEADER = "averaged"
NAME = "checkpoint_average.pt"  # in the checkpoints/ of a run
# Entries of `extra_state` with copies of the weights of one checkpoint: moving averages, and the state of a criterion.
_WEIGHT_COPIES = ("ema", "ema_fp32_params", "guided_criterion")
# fairseq's file names, with the number to sort by, and the options that keep several checkpoints.
_NUMBERED = {
    "epoch": (re.compile(r"checkpoint(\d+)\.pt"), "--keep-last-epochs {}"),
    "update": (re.compile(r"checkpoint_\d+_(\d+)\.pt"), "--save-interval-updates 1000 --keep-interval-updates {}"),
}


def average(paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write the mean of the checkpoints `paths` to `out`; returns the header that lists them.

    Everything but the parameters comes from the last of `paths`, without the optimizer's state and copies of the
    weights. The sum is in float64, in which a sum of float32 numbers is exact unless their sizes are far apart: the
    order of the checkpoints does not matter, and the mean of equal numbers is that number.

    Raises:
        UserError: the checkpoints are of different models, or `out` exists and is not an earlier average.
    """
    _refuse_to_overwrite_work(out, paths)
    sources: list[dict[str, Any]] = []
    sums: dict[str, Tensor] = {}
    form: dict[str, str] = {}
    tensor_numbers: dict[str, tuple[int, ...]] = {}  # by name, which of the distinct tensors of each checkpoint it is
    for path in paths:
        rest, tensors = read_checkpoint(path)
        path_form = {name: f"{list(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in tensors.items()}
        if sources:
            _refuse_another_model(path, path_form, sources[0]["path"], form)
        form = path_form
        refuse_bad_numbers(
            {name: t for name, t in tensors.items() if t.is_floating_point() or t.is_complex()},
            f"{path}:",
            "leave this checkpoint out",
        )
        for number, names in enumerate(tied(tensors)):
            tensor_numbers.update((name, (*tensor_numbers.get(name, ()), number)) for name in names)
        _add_(sums, tensors)
        dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        updates = (rest.get("optimizer_history") or [{}])[-1].get("num_updates")
        sources.append({"path": str(path.resolve()), "updates": updates, "fingerprint": fingerprint(tensors)})
        rest.pop(OPTIMIZER_STATE, None)
        for entry in _WEIGHT_COPIES:
            (rest.get("extra_state") or {}).pop(entry, None)
        del tensors  # before the next checkpoint is read
    # Names that are one tensor in all checkpoints stay one tensor; if they are one in some (a GPU's checkpoints store a
    # tied parameter twice), they become several.
    means: dict[tuple[int, ...], Tensor] = {}
    for name, total in sums.items():
        key = tensor_numbers[name]
        if key not in means:
            means[key] = (total / len(paths)).to(dtypes[name]) if dtypes[name].is_floating_point else total
        rest["model"][name] = means[key]
    rest[HEADER] = {"by": f"weighted_freezing_fairseq {__version__}", "checkpoints": sources}
    with atomic_file(out) as part:
        save(rest, part)
    return rest[HEADER]


def _add_(sums: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """Add the tensors of a checkpoint to the sums; of counters (integers) the sum is the last value."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            sums[name] = tensor
        elif name in sums:
            sums[name] += tensor
        else:
            sums[name] = tensor.to(torch.float64, copy=True)


def latest(folder: Path, count: int, or_fewer: bool = False) -> list[Path]:
    """The `count` latest numbered checkpoints of a run in ascending order: by epoch, or else by update.

    The two kinds are not mixed, since the end of an epoch may hold the same weights as an update.

    Args:
        or_fewer: return fewer if the run has fewer, instead of raising an error.
    """
    if count < 1:
        raise UserError(f"--last must be at least 1, got {count}; type --last 5")
    checkpoints = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    if not checkpoints.is_dir():
        raise UserError(f"there is no run folder {folder}; type one that holds checkpoints/, or name checkpoints")
    names = list(checkpoints.iterdir())
    by_kind = {
        kind: sorted((int(match[1]), path) for path in names if (match := pattern.fullmatch(path.name)))[-count:]
        for kind, (pattern, _) in _NUMBERED.items()
    }
    most = max(by_kind.values(), key=len)  # if equally many, those by epoch
    if len(most) < count and not or_fewer:
        keep = " or ".join(option.format(count) for _, option in _NUMBERED.values())
        raise UserError(
            f"{checkpoints} has {len(by_kind['epoch'])} checkpoints by epoch and {len(by_kind['update'])} by update, "
            f"not {count}; average fewer, or train with {keep}"
        )
    return [path for _, path in most]


def _refuse_to_overwrite_work(out: Path, paths: Sequence[Path]) -> None:
    """Refuse an `out` that exists, unless it is an earlier average."""
    if not out.exists():
        return
    if out.resolve() in {path.resolve() for path in paths}:
        raise UserError(f"{out} is one of the checkpoints to average; give another --out")
    try:
        is_average = HEADER in read_checkpoint(out)[0]
    except UserError:
        is_average = False
    if not is_average:
        refuse_to_overwrite(out)


def _refuse_another_model(path: Path, form: dict[str, str], first_path: str, first_form: dict[str, str]) -> None:
    """Refuse a checkpoint whose parameters differ in name, shape or dtype from those of the first one."""
    wrong = [f"{name} is only in {first_path}" for name in first_form if name not in form]
    wrong += [f"{name} is only in {path}" for name in form if name not in first_form]
    wrong += [
        f"{name} is {form[name]} there and {first_form[name]} in {first_path}"
        for name in form
        if form[name] != first_form.get(name, form[name])
    ]
    if wrong:
        raise UserError(f"{path} is of another model than {first_path}: {few(wrong)}; name checkpoints of one run")
