"""`wff average`: average the parameters of several checkpoints."""

import argparse
from pathlib import Path

from ..errors import UserError
from ..workspace.trainings import checkpoint_of
from .arguments import MODEL, add_choice

HELP = (
    "Write the mean of the parameters of several checkpoints or runs, or of the last ones of a run, as one checkpoint."
)
EXAMPLE = """\
wff average runs/a/checkpoint8.pt runs/a/checkpoint9.pt runs/a/checkpoint10.pt --out average.pt
  wff average runs/multi30k/clean/de-en/standard-1 --last 5"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", nargs="+", type=Path, metavar="RUN", help=f"{MODEL}; with --last one folder")
    add_choice(parser)
    parser.add_argument(
        "--last", type=int, metavar="N", help="average the N latest numbered checkpoints of the run, by epoch or update"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="checkpoint to write; only an earlier average is overwritten (with --last, default: "
        "checkpoint_average.pt beside the checkpoints of the run)",
    )


def run(args: argparse.Namespace) -> int:
    from ..workspace import average

    paths, out = args.checkpoint, args.out
    if args.last is not None:
        if len(paths) > 1:
            raise UserError("--last takes one run folder; type: wff average RUN --last 5")
        if args.choice is not None:
            raise UserError("--last averages numbered checkpoints, and --choice names others; leave one of them out")
        paths = average.latest(paths[0], args.last)
        out = out or paths[0].with_name(average.NAME)
    elif len(paths) == 1 and paths[0].is_dir():
        raise UserError(f"{paths[0]} is a folder; add --last 5 to average the last five checkpoints of a run")
    elif out is None:
        raise UserError("the file to write is missing; add --out FILE")
    else:
        paths = [checkpoint_of(path, args.choice) for path in paths]
    for source in average.average(paths, out)["checkpoints"]:
        updates = "" if source["updates"] is None else f" ({source['updates']} updates)"
        print(f"{source['path']}{updates}")
    print(f"{out}: the mean of {len(paths)}, without an optimizer's state")
    return 0
