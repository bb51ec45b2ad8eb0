"""`wff fisher`: measure the Fisher information of a checkpoint, or make the mask of its largest entries."""

import argparse
import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, check_fraction
from ..workspace.machine import device_of
from ..workspace.trainings import binarised_of, checkpoint_of
from .arguments import MODEL, add_binarised, add_choice, add_device, check_at_least

if TYPE_CHECKING:
    from ..analysis.fisher import FisherSettings, MaskSettings

HELP = """\
Measure the diagonal Fisher information of a checkpoint, or make the mask of its largest entries. A file of Fisher
information has 4 bytes per parameter, and the weights at which it was measured, with 4 or 2 bytes as in the checkpoint.
A mask has one bit per parameter."""
EXAMPLE = """\
wff fisher runs/multi30k/clean/de-en/standard-1 --out fisher.pt
  wff fisher save-dir/checkpoint_best.pt --data BIN --mask-density 0.005 --out mask.pt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="?", type=Path, metavar="RUN", help=MODEL)
    add_choice(parser)
    add_binarised(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="snapshot to write")
    parser.add_argument(
        "--mask-density", type=float, metavar="D",
        help="write the mask of the largest fraction D of all parameters instead of the Fisher information",
    )  # fmt: skip
    parser.add_argument(
        "--always", metavar="REGEX", help="with --mask-density: parameters whose name matches are all in the mask, and "
        "count in D (default: the classification head of a sentence task, as in Sung et al.; '': none)",
    )  # fmt: skip
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FISHER",
        help="make the mask from this Fisher snapshot and measure nothing",
    )  # fmt: skip
    parser.add_argument(
        "--estimator", choices=["per-sample", "expected", "sampled", "batch"], default="per-sample",
        help="per-sample: squared gradients of sentences with their own targets, the empirical Fisher (default); "
        "expected: the expectation over all classes of a sentence task, a pass for each class, the standard Fisher; "
        "sampled: an estimate of it from targets drawn from the model; batch: squared gradients of batches, cheap, and "
        "dependent on --max-tokens",
    )  # fmt: skip
    parser.add_argument("--samples", type=int, default=1024, metavar="N", help="sentences to draw (default 1024)")
    parser.add_argument("--draws", type=int, default=1, metavar="D", help="sampled targets per sentence (default 1)")
    parser.add_argument("--split", default="train", help="set to draw sentences from (default train)")
    parser.add_argument("--seed", type=int, default=1, help="random seed of sentences and sampled targets (default 1)")
    parser.add_argument("--max-tokens", type=int, default=4000, help="maximum of a batch, with padding (default 4000)")
    parser.add_argument(
        "--memory", type=int, default=512, metavar="MB", help="maximum memory for gradients of sentences (default 512)"
    )
    parser.add_argument("--processes", type=int, default=1, metavar="P", help="processes, one per GPU (default 1)")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    mask = _mask_settings(args)
    report = functools.partial(print, flush=True)
    if args.source is None:
        settings = _settings(args)
        from ..analysis import fisher  # torch

        fisher.write_fisher(settings, args.out, mask, report)
        return 0
    if mask is None:
        raise UserError("--from makes a mask; add --mask-density 0.005")
    if args.checkpoint is not None or args.data is not None:
        raise UserError("--from measures nothing; leave out the checkpoint and --data")
    from ..analysis import fisher  # torch

    fisher.write_mask_from(args.source, args.out, mask, report)
    return 0


def _mask_settings(args: argparse.Namespace) -> "MaskSettings | None":
    if args.mask_density is None:
        if args.always is not None:
            raise UserError("--always applies to masks; add --mask-density 0.005")
        return None
    check_fraction("--mask-density", args.mask_density, 0.005, one=True)
    try:
        re.compile(args.always or "")
    except re.error as error:
        raise UserError(
            f"--always {args.always!r} is not a regular expression ({error}); type --always 'encoder.*'"
        ) from None
    from ..analysis.fisher import MaskSettings  # torch

    return MaskSettings(args.mask_density, args.always)


def _settings(args: argparse.Namespace) -> "FisherSettings":
    if args.checkpoint is None:
        raise UserError("give a run folder or a checkpoint, or --from; type: wff fisher --help")
    check_at_least(args, ["samples"], 2)
    check_at_least(args, ["draws", "max_tokens", "memory", "processes"])
    if args.draws > 1 and args.estimator != "sampled":
        raise UserError("--draws counts sampled targets; type --estimator sampled")
    options = {name: getattr(args, name) for name in ("split", "estimator", "samples", "draws", "seed", "max_tokens")}
    from ..analysis.fisher import FisherSettings  # torch

    checkpoint = checkpoint_of(args.checkpoint, args.choice)
    data = args.data or binarised_of(args.checkpoint, checkpoint)
    return FisherSettings(
        checkpoint=str(checkpoint.resolve()),
        data=str(data.resolve()),
        memory=args.memory << 20,
        device=device_of(args.device),
        processes=args.processes,
        **options,
    )
