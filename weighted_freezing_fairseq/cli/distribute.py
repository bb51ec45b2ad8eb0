"""`wff distribute`: train by several workers that merge what they changed after many updates."""

import argparse
import shlex
from pathlib import Path

from ..errors import UserError, check_fraction
from ..workspace.configs import CONFIGS
from ..workspace.machine import Machine
from ..workspace.trainings import binarised_of, checkpoint_of
from .arguments import MODEL, add_binarised, add_choice, add_device, check_at_least

HELP = """\
Train by several workers on this machine, each inside its own fixed mask and on its own part of the data, and merge what
they changed after every N updates (FISH Mask, Sung et al. 2021). Prints the bytes that they exchange, beside those of
synchronous training. After a kill the same call resumes."""
EXAMPLE = """\
wff distribute parent.pt --data BIN --workers 2 --rounds 5 --local-updates 60 --out runs/distributed
  wff distribute runs/adapt/de-en/parent-1 --data runs/adapt/de-en/new/bin --masks equal --out runs/equal"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parent", type=Path, metavar="RUN", help=f"what all workers start from: {MODEL}")
    add_choice(parser)
    add_binarised(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the rounds")
    parser.add_argument(
        "--config", type=Path, default=CONFIGS / "adapt/fish_mask.yaml", metavar="YAML",
        help="of fish_mask: the training of a worker (default: configs/adapt/fish_mask.yaml)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="1 to 8 (default 2)")
    parser.add_argument("--rounds", type=int, default=5, metavar="R", help="merges (default 5)")
    parser.add_argument(
        "--local-updates", type=int, default=60, metavar="U", help="updates of a worker in a round (default 60)"
    )
    parser.add_argument(
        "--masks", choices=["complementary", "equal"], default="complementary",
        help="complementary: the mask is divided among the workers, whose differences add up (default); equal: each "
        "has the whole mask, and the mean of the differences is taken",
    )  # fmt: skip
    parser.add_argument("--density", type=float, default=0.05, help="density of the whole mask (default 0.05)")
    parser.add_argument("--samples", type=int, default=1024, help="sentences for Fisher information (default 1024)")
    parser.add_argument("--seed", type=int, default=1, help="of the first worker; others have the next (default 1)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change a setting of the YAML; may be repeated",
    )  # fmt: skip
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    check_at_least(args, ["workers", "rounds", "local_updates"])
    check_at_least(args, ["samples"], 2)
    if args.workers > 8:
        raise UserError(f"--workers must be at most 8, got {args.workers}; type --workers 8")
    check_fraction("--density", args.density, 0.05, one=True)
    from ..studies.distribute import Distribution, distribute  # torch

    parent = checkpoint_of(args.parent, args.choice).resolve()
    job = Distribution(
        parent=parent,
        data=(args.data or binarised_of(args.parent, parent)).resolve(),
        config=args.config.resolve(),
        out=args.out.resolve(),
        assignments=args.set,
        command=shlex.join(["wff", *args.words]),
        **{name: getattr(args, name) for name in ("workers", "rounds", "local_updates", "masks", "density", "samples")},
        seed=args.seed,
    )
    print(distribute(job, Machine.of(args.device, None, args.workers)))
    return 0
