"""`wff unpack`: the tuned checkpoint from its base and the file that `wff pack` made.

Nothing is written unless the base is the one that was packed against and the result is the model that was packed, both
by SHA-256. What is equal, and what is left out, is said in `pack.py`.
"""

import argparse
from pathlib import Path

from ..core.difference import patched
from ..core.snapshot import few, fingerprint, mismatches
from ..errors import UserError
from ..files import whole
from .checkpoints import OPTIMIZER_STATE, read_checkpoint, refuse_to_overwrite, save
from .pack import read_packed

HELP = """\
Give back the checkpoint that `wff pack` stored, for which BASE must be the checkpoint that it was packed against. Plain
fairseq loads the result as it would load the packed checkpoint."""
EXAMPLE = "wff unpack parent.pt child.wff --out child.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to put together, and where."""
    parser.add_argument("base", type=Path, metavar="BASE", help="checkpoint that FILE was packed against")
    parser.add_argument("file", type=Path, metavar="FILE", help="what wff pack wrote")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="CHECKPOINT", help="checkpoint to write; never overwritten"
    )


def run(args: argparse.Namespace) -> int:
    refuse_to_overwrite(args.out)
    content = read_packed(args.file)
    base = read_checkpoint(args.base)[1]
    wanted, found = content["base"], fingerprint(base)
    if found != wanted["fingerprint"]:
        other = mismatches(base, wanted.get("shapes", {}).items())  # earlier versions wrote no shapes
        raise UserError(
            f"{args.base} (fingerprint {found[:12]}) is not the base of {args.file}: "
            f"{f'it is another model, {few(other)}; ' if other else ''}give the checkpoint with "
            f"fingerprint {wanted['fingerprint'][:12]}, which was {wanted['path']} when it was packed"
        )
    try:
        model = patched(base, content["difference"])
        if fingerprint(model) != content["tuned"]["fingerprint"]:
            raise ValueError("it does not give back what was packed")
    except ValueError as error:
        raise UserError(f"{args.file} is damaged: {error}; fetch or pack it again") from None
    state = content["rest"]
    state["model"].update(model)
    with whole(args.out) as part:
        save(state, part)
    without = "" if OPTIMIZER_STATE in state else ", without an optimizer's state"
    print(f"{args.out}: the checkpoint that was packed (fingerprint {content['tuned']['fingerprint'][:12]}){without}")
    return 0
