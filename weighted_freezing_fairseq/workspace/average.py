"""The mean of the parameters of several checkpoints as one checkpoint, most often of the last ones of a run.

Vaswani et al. 2017, section 6.1, translate with such a mean; the result is a plain fairseq checkpoint. Weighted means
and the parts of a sharded checkpoint are not supported.
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
from ..files import whole
from .checkpoints import OPTIMIZER_STATE, read_checkpoint, refuse_to_overwrite, save

HEADER = "averaged"
NAME = "checkpoint_average.pt"  # beside a run's own
# What `extra_state` holds of one checkpoint's weights: their moving average, and what a criterion keeps of them.
_OF_ONE = ("ema", "ema_fp32_params", "guided_criterion")
# fairseq's names, with the number that tells which is later, and what makes it keep several.
_NUMBERED = {
    "epoch": (re.compile(r"checkpoint(\d+)\.pt"), "--keep-last-epochs {}"),
    "update": (re.compile(r"checkpoint_\d+_(\d+)\.pt"), "--save-interval-updates 1000 --keep-interval-updates {}"),
}

Kinds = dict[str, tuple[tuple[int, ...], torch.dtype]]


def average(paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write the mean of the checkpoints `paths` to `out`; returns its header, which says what was averaged.

    Everything but the parameters comes from the last of `paths`, except what belongs to its own weights: the state of
    the optimizer, and copies of the weights. Checkpoints of different models are refused, and an `out` that exists and
    is not an earlier average.
    """
    _refuse_to_lose(out, paths)
    total = _Sum()
    for path in paths:
        rest = total.add(path)
    rest["model"].update(total.mean())  # the container keeps the versions of fairseq's modules
    rest[HEADER] = {"by": f"weighted_freezing_fairseq {__version__}", "checkpoints": total.sources}
    with whole(out) as part:
        save(rest, part)
    return rest[HEADER]


class _Sum:
    """The parameters of one checkpoint after another, so that no two of them are in memory.

    In float64 a sum of float32 numbers is exact unless their sizes are far apart: the order of the checkpoints does not
    count, and the mean of equal numbers is that number. It takes 8 bytes a parameter, and a checkpoint with the state
    of Adam, which is in memory beside it, 12.
    """

    def __init__(self) -> None:
        self.sources: list[dict[str, Any]] = []
        self.sums: dict[str, Tensor] = {}
        self.kinds: Kinds = {}
        self.places: dict[str, tuple[int, ...]] = {}  # which tensor of each checkpoint a name stands for

    def add(self, path: Path) -> dict[str, Any]:
        """Add one more checkpoint; returns what it holds beside its parameters, with an empty model."""
        rest, tensors = read_checkpoint(path)
        kinds = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
        if self.sources:
            _refuse_another_model(path, kinds, self.sources[0]["path"], self.kinds)
        numbers = {name: t for name, t in tensors.items() if t.is_floating_point() or t.is_complex()}  # no counters
        refuse_bad_numbers(numbers, f"{path}:", "leave this checkpoint out")
        self.kinds = kinds
        for place, names in enumerate(tied(tensors)):
            self.places.update((name, (*self.places.get(name, ()), place)) for name in names)
        for name, tensor in tensors.items():
            if not tensor.is_floating_point():
                self.sums[name] = tensor  # a counter: the last one's
            elif name in self.sums:
                self.sums[name] += tensor
            else:
                self.sums[name] = tensor.to(torch.float64, copy=True)
        history = rest.get("optimizer_history") or [{}]
        updates = history[-1].get("num_updates")
        self.sources.append({"path": str(path.resolve()), "updates": updates, "fingerprint": fingerprint(tensors)})
        rest.pop(OPTIMIZER_STATE, None)
        for key in _OF_ONE:
            (rest.get("extra_state") or {}).pop(key, None)
        return rest

    def mean(self) -> dict[str, Tensor]:
        """By name, in the checkpoints' own precision; names of one tensor in all checkpoints are one tensor again.

        Not those of one tensor in some: a GPU's checkpoints hold a tied parameter twice, equal ones of a CPU once.
        """
        found: dict[tuple[int, ...], Tensor] = {}
        for name, total in self.sums.items():
            dtype = self.kinds[name][1]
            if self.places[name] not in found:
                mean = (total / len(self.sources)).to(dtype) if dtype.is_floating_point else total
                found[self.places[name]] = mean
        return {name: found[self.places[name]] for name in self.sums}


def latest(folder: Path, count: int, or_fewer: bool = False) -> list[Path]:
    """The `count` latest numbered checkpoints of a run, the latest last: by epoch, or else by update.

    The two kinds are never mixed, since the end of an epoch may hold the same weights as an update.

    Args:
        or_fewer: return fewer where the run has fewer, in place of an error.
    """
    if count < 1:
        raise UserError("--last must be at least 1; type --last 5")
    checkpoints = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    if not checkpoints.is_dir():
        raise UserError(f"there is no run folder {folder}; type one that holds checkpoints/, or name checkpoints")
    names = list(checkpoints.iterdir())
    found = {
        kind: sorted((int(m[1]), path) for path in names if (m := pattern.fullmatch(path.name)))[-count:]
        for kind, (pattern, _) in _NUMBERED.items()
    }
    most = max(found.values(), key=len)  # of equally many those by epoch, which come first
    if len(most) < count and not or_fewer:
        keep = " or ".join(option.format(count) for _, option in _NUMBERED.values())
        raise UserError(
            f"{checkpoints} has {len(found['epoch'])} checkpoints by epoch and {len(found['update'])} by update, not "
            f"{count}; type a smaller --last, or train with {keep}"
        )
    return [path for _, path in most]


def _refuse_to_lose(out: Path, paths: Sequence[Path]) -> None:
    """Refuse an `out` that exists, unless it is an earlier average, which may be written again."""
    if not out.exists():
        return
    if out.resolve() in {path.resolve() for path in paths}:
        raise UserError(f"{out} is one of the checkpoints to average; give another --out")
    try:
        made_here = HEADER in read_checkpoint(out)[0]
    except UserError:
        made_here = False
    if not made_here:
        refuse_to_overwrite(out)


def _refuse_another_model(path: Path, kinds: Kinds, first: str, wanted: Kinds) -> None:
    """Refuse a checkpoint whose parameters differ in name, shape or dtype from those of the first one."""
    wrong = [f"{name} is only in {first}" for name in wanted if name not in kinds]
    wrong += [f"{name} is only in {path}" for name in kinds if name not in wanted]
    wrong += [
        f"{name} is {_as_text(kinds[name])} there and {_as_text(wanted[name])} in {first}"
        for name in kinds
        if name in wanted and kinds[name] != wanted[name]
    ]
    if wrong:
        raise UserError(f"{path} is of another model than {first}: {few(wrong)}; name checkpoints of one run")


def _as_text(kind: tuple[tuple[int, ...], torch.dtype]) -> str:
    shape, dtype = kind
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"
