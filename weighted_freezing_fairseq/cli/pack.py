"""`wff pack`: store a tuned checkpoint as its difference from a base."""

import argparse
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..workspace.trainings import checkpoint_of
from .arguments import MODEL, add_choice

if TYPE_CHECKING:
    from ..workspace.pack import Report

HELP = """\
Store a tuned checkpoint as the positions and values of the numbers that differ from the checkpoint that its training
started from. No number is changed; the optimizer's state is left out by default, as with fairseq's
--no-save-optimizer-state."""
EXAMPLE = """\
wff pack parent.pt runs/child/checkpoint_best.pt --out child.wff
  wff pack runs/adapt/de-en/standard-1 runs/adapt/de-en/fish_mask-1 --choice last --out child.wff"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", type=Path, metavar="BASE", help=f"what the training started from: {MODEL}")
    parser.add_argument("tuned", type=Path, metavar="TUNED", help=f"what to pack: {MODEL}")
    add_choice(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write; never overwritten")
    parser.add_argument(
        "--optimizer-state", action="store_true", help="keep the optimizer's complete state, to resume the run from it"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    from ..workspace.pack import pack

    base, tuned = (checkpoint_of(path, args.choice) for path in (args.base, args.tuned))
    report = pack(base, tuned, args.out, args.optimizer_state)
    print(json.dumps(asdict(report), indent=2) if args.json else _as_text(report, base, tuned, args.out))
    return 0


def _as_text(report: "Report", base: Path, tuned: Path, out: Path) -> str:
    lines = [
        f"changed: {report.numbers_changed} of {report.numbers} numbers ({report.density:.4%}), "
        f"in {report.tensors_changed} of {report.tensors} tensors",
        f"{out}: {report.file_bytes} bytes, {report.file_over_base_model:.4%} of the base's model weights "
        f"({report.base_model_bytes} bytes); {tuned} has {report.tuned_file_bytes}",
    ]
    if report.optimizer_state == "left out":
        lines.append(
            "the optimizer's state is left out: a run resumed from the unpacked checkpoint restarts its optimizer; "
            "to keep it, add --optimizer-state"
        )
    command = ["wff", "unpack", str(base), str(out), "--out", "CHECKPOINT"]
    lines.append(f"to get the checkpoint back: {shlex.join(command)}")
    return "\n".join(lines)
