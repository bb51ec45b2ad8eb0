"""`wff plot`: draw a figure as a CSV, and as pictures from that CSV."""

import argparse
import itertools
from pathlib import Path

from ..errors import UserError, did_you_mean
from ..figures.drawing import FORMATS, Options, Schedule
from ..figures.registry import FIGURES, is_table_of, make
from ..figures.training import PANELS
from ..workspace.labels import labels
from .arguments import add_names, check_at_least, split

HELP = """\
Draw a figure of the papers from your own runs. FIGURE.csv is written first and the pictures are drawn from it alone, so
that an edited CSV can be drawn again: wff plot FIGURE DIR/FIGURE.csv. Runs that differ only in their seed (standard-1,
standard-2), as their provenance.json says, are one line in a band from the lowest to the highest; the CSV has all of
them. `wff plot --list` lists the figures."""
EXAMPLE = """\
wff plot curves runs/standard-1 runs/intra_distillation-1 other/train.log --names standard,ID,other --out figures
  wff plot curves adaptive/train.log constant/train.log --names adaptive,constant --show loss --out figure7
  wff plot alpha --alpha 5 --p 5 --q 10,25 --updates 50000 --out figure4
  wff plot curves figures/curves.csv --wide                       # again, after the CSV was edited
  wff plot --list"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("figure", nargs="?", metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument("input", nargs="*", type=Path, metavar="INPUT", help="runs, logs, tables: see --list")
    parser.add_argument("--list", action="store_true", help="list the figures and their inputs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for FIGURE.csv and pictures")
    add_names(parser, "inputs")
    parser.add_argument("--format", type=split, default="png,pdf", help="some of png,pdf,svg (default png,pdf)")
    parser.add_argument("--wide", action="store_true", help="7 inches, two columns of a paper (default: one, 3.4)")
    group = parser.add_argument_group("for one figure")
    group.add_argument("--show", type=split, default=[], metavar="A,B", help=f"curves: some of {','.join(PANELS)}")
    group.add_argument("--group", type=split, default="all", metavar="A,B", help="importance: types or layers")
    group.add_argument("--alpha", type=_numbers, metavar="A", help="alpha: draw the function for these values, as 5,10")
    group.add_argument("--p", type=_numbers, default=[5.0], help="alpha is reached at update N/p (default 5)")
    group.add_argument("--q", type=_numbers, default=[10.0], help="strength 1 is reached at update N/q (default 10)")
    group.add_argument("--updates", type=int, default=50_000, metavar="N", help="alpha: of training (default 50000)")
    group.add_argument("--per-parameter", action="store_true", help="norms: divide by the root of the parameter count")
    group.add_argument("--updates-per-epoch", type=int, metavar="N", help="cost: seconds per epoch, not per update")


def run(args: argparse.Namespace) -> int:
    if args.list:
        print("\n\n".join(
            f"{figure.name}: {figure.about}\n  as {figure.source}\n  wff plot {figure.name} {figure.takes} --out DIR"
            for figure in FIGURES.values()
        ))  # fmt: skip
        return 0
    if args.figure not in FIGURES:
        known = f"type one of: {', '.join(FIGURES)}; wff plot --list describes them"
        if args.figure is None:
            raise UserError(f"which figure? {known}")
        raise UserError(f"there is no figure {args.figure!r}; {did_you_mean(args.figure, FIGURES) or known}")
    for ending in args.format:
        if ending not in FORMATS:
            raise UserError(f"there is no format {ending!r}; type --format with some of {','.join(FORMATS)}")
    figure, options = FIGURES[args.figure], _options(args)
    if not args.input and not figure.rows_of_options(options):
        raise UserError(f"nothing to draw; type: wff plot {figure.name} {figure.takes} --out DIR")
    out = args.out
    if out is None and len(args.input) == 1 and is_table_of(figure.name, args.input[0]):
        out = args.input[0].parent
    if out is None:
        raise UserError("the folder to write is missing; add --out DIR")
    for path in make(figure.name, labels(args.input, args.names, "inputs"), out, args.format, options):
        print(f"wrote {path}")
    return 0


def _options(args: argparse.Namespace) -> Options:
    for name in args.show:
        if name not in PANELS:
            raise UserError(f"there is no panel {name!r}; type --show with some of {','.join(PANELS)}")
    check_at_least(args, ["updates", "updates_per_epoch"])
    schedules = [Schedule(*values, args.updates) for values in itertools.product(args.alpha or (), args.p, args.q)]
    if not all(schedule.q > schedule.p > 0 and schedule.alpha >= 0 for schedule in schedules):
        raise UserError("the schedule needs q > p > 0 and no alpha below 0; type --alpha 5 --p 5 --q 10")
    return Options(
        groups=tuple(args.group),
        schedules=tuple(schedules),
        updates_per_epoch=args.updates_per_epoch,
        show=tuple(args.show),
        per_parameter=args.per_parameter,
        wide=args.wide,
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in split(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 5,10") from None
