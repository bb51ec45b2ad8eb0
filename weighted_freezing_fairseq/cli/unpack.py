"""`wff unpack`: restore a tuned checkpoint from its base and the file of `wff pack`."""

import argparse
from pathlib import Path

from ..workspace.trainings import checkpoint_of
from .arguments import MODEL, add_choice

HELP = """\
Restore the checkpoint that `wff pack` stored; BASE must be the checkpoint that it was packed against. Plain fairseq
loads the result as it would load the packed checkpoint."""
EXAMPLE = "wff unpack parent.pt child.wff --out child.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", type=Path, metavar="BASE", help=f"what FILE was packed against: {MODEL}")
    add_choice(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="file that wff pack wrote")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="CHECKPOINT", help="checkpoint to write; never overwritten"
    )


def run(args: argparse.Namespace) -> int:
    from ..workspace.checkpoints import OPTIMIZER_STATE
    from ..workspace.pack import unpack

    content = unpack(checkpoint_of(args.base, args.choice), args.file, args.out)
    without = "" if OPTIMIZER_STATE in content["rest"] else ", without an optimizer's state"
    print(f"{args.out}: the checkpoint that was packed (fingerprint {content['tuned']['fingerprint'][:12]}){without}")
    return 0
