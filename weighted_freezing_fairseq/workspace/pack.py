"""`wff pack`: a tuned checkpoint as what differs from its base, and the format of that file.

A run under a fixed sparse mask changes few of its weights: their positions and values are stored, and as it is all
that the checkpoint holds beside its model. `wff unpack` then gives back equal contents: the model's names in their
order, each tensor's dtype, shape and every bit, and everything else value by value. Not equal are the bytes of the zip
container and strides. Left out on purpose: a difference of anything but the model, so that a second copy of it (the
averages of --store-ema) is stored whole.
"""

import argparse
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..core import tensor_files
from ..core.difference import (
    FORM,
    difference,
    equal_bits,
    patches,
    refuse_malformed,
    stored_tensors,
    tied,
)
from ..core.snapshot import fingerprint
from ..errors import UserError
from ..files import whole
from ..forms import expect, expect_known
from .checkpoints import OPTIMIZER_STATE, _read, read_checkpoint, refuse_to_overwrite, save

HELP = """\
Store a tuned checkpoint as what differs from the checkpoint that its training started from: positions and values,
without loss. The optimizer's state is left out unless it is asked for, as with fairseq's --no-save-optimizer-state."""
EXAMPLE = "wff pack parent.pt runs/child/checkpoint_best.pt --out child.wff"
_FORMAT = "weighted_freezing_fairseq difference 1"
_PACKED_FORM = {
    "base": {"path": str, "fingerprint": str},  # and "shapes", which earlier versions did not write
    "tuned": {"fingerprint": str},
    "difference": FORM,
    "rest": {"model": dict},
}


@dataclass(frozen=True)
class Report:
    """What changed and what it weighs. Tied tensors count once; a number without a counterpart counts as changed."""

    numbers: int
    numbers_changed: int
    density: float
    tensors: int
    tensors_changed: int
    file_bytes: int
    base_model_bytes: int
    file_over_base_model: float
    tuned_file_bytes: int
    optimizer_state: str  # kept, left out, or none where TUNED has none


def read_packed(path: Path) -> dict[str, Any]:
    """What `wff pack` wrote: base, tuned (fingerprints), difference, and the rest of the tuned checkpoint."""
    remedy = "make one with: wff pack BASE TUNED --out FILE"
    content = _read(path, "file of wff pack", remedy)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f"{path} is not a file that this version of wff pack made; {remedy}")
    try:
        expect(content, _PACKED_FORM)
        expect_known(content["base"], {"shapes": {str: [int]}})
        refuse_malformed(content["difference"])
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; {remedy}") from None
    if content["rest"]["model"]:
        raise UserError(f"{path} is damaged: its rest has a model of its own; {remedy}")
    tensor_files.refuse_unusual(stored_tensors(content["difference"]), path)
    return content


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to compare, and where to put what differs."""
    parser.add_argument("base", type=Path, metavar="BASE", help="checkpoint that the training started from")
    parser.add_argument("tuned", type=Path, metavar="TUNED", help="checkpoint to pack")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write; never overwritten")
    parser.add_argument(
        "--optimizer-state", action="store_true", help="keep the optimizer's state, whole, to resume the run from it"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    refuse_to_overwrite(args.out)
    base = read_checkpoint(args.base)[1]
    rest, tuned = read_checkpoint(args.tuned)
    optimizer_state = "none" if rest.get(OPTIMIZER_STATE) is None else "kept"
    if not args.optimizer_state and rest.pop(OPTIMIZER_STATE, None) is not None:
        optimizer_state = "left out"
    content = {
        "format": _FORMAT,
        "version": __version__,
        "base": {
            "path": str(args.base.resolve()),
            "fingerprint": fingerprint(base),
            "shapes": {name: list(tensor.shape) for name, tensor in base.items()},
        },
        "tuned": {"fingerprint": fingerprint(tuned)},
        "difference": difference(base, tuned),
        "rest": rest,
    }
    with whole(args.out) as part:
        save(content, part)
        _check(part, base, tuned)
    report = _report(content["difference"], base, tuned, args, optimizer_state)
    print(json.dumps(asdict(report), indent=2) if args.json else _as_text(report, args))
    return 0


def _check(part: Path, base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    """What was written gives `tuned` back: unpacked tensor by tensor, before the file gets its name."""
    written = read_packed(part)["difference"]
    good = {name: equal_bits(tensor, tuned[name]) for names, tensor in patches(base, written) for name in names}
    wrong = [name for name in tuned if not good.get(name)]
    if wrong or written["names"] != list(tuned):
        raise UserError(f"what was written does not give {wrong[:3]} back and is deleted; give --out on another disk")


def _report(
    found: Mapping[str, Any],
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    args: argparse.Namespace,
    optimizer_state: str,
) -> Report:
    entries = found["tensors"]
    numbers = sum(tuned[entry["names"][0]].numel() for entry in entries)
    changed = sum(entry["changed"] for entry in entries)
    file_bytes = args.out.stat().st_size
    model_bytes = sum(base[names[0]].nbytes for names in tied(base))
    return Report(
        numbers=numbers,
        numbers_changed=changed,
        density=changed / max(1, numbers),
        tensors=len(entries),
        tensors_changed=sum(entry["changed"] > 0 for entry in entries),
        file_bytes=file_bytes,
        base_model_bytes=model_bytes,
        file_over_base_model=file_bytes / max(1, model_bytes),
        tuned_file_bytes=args.tuned.stat().st_size,
        optimizer_state=optimizer_state,
    )


def _as_text(report: Report, args: argparse.Namespace) -> str:
    lines = [
        f"changed: {report.numbers_changed} of {report.numbers} numbers ({report.density:.4%}), "
        f"in {report.tensors_changed} of {report.tensors} tensors",
        f"{args.out}: {report.file_bytes} bytes, {report.file_over_base_model:.4%} of the base's model weights "
        f"({report.base_model_bytes} bytes); {args.tuned} has {report.tuned_file_bytes}",
    ]
    if report.optimizer_state == "left out":
        lines.append(
            "the optimizer's state is left out: a run resumed from the unpacked checkpoint starts its optimizer anew; "
            "to keep it, add --optimizer-state"
        )
    command = ["wff", "unpack", str(args.base), str(args.out), "--out", "CHECKPOINT"]
    lines.append(f"to get the checkpoint back: {shlex.join(command)}")
    return "\n".join(lines)
