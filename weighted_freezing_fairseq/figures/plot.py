"""`wff plot`: every figure by one command, its CSV first, its pictures from the CSV alone.

The figures are the rows of `registry.py`. Left out on purpose: violins of sensitivities and scores of a pruned
checkpoint, which `wff sensitivity` and `wff prune` draw as they measure them.
"""

import argparse
import itertools
import logging
from pathlib import Path

from ..errors import UserError
from ..workspace.labels import labels
from .drawing import FORMATS, Options, Schedule
from .registry import FIGURES, is_table_of, make
from .training import PANELS

HELP = """\
Draw a figure of the papers from runs of your own: FIGURE.csv first, then pictures from that CSV alone, so that a CSV
that was edited draws again: wff plot FIGURE DIR/FIGURE.csv. `wff plot --list` says which figures there are."""
EXAMPLE = """\
wff plot curves runs/standard-1 runs/intra_distillation-1 other/train.log --names standard,ID,other --out figures
  wff plot curves adaptive/train.log constant/train.log --names adaptive,constant --show loss --out figure7
  wff plot alpha --alpha 5 --p 5 --q 10,25 --updates 50000 --out figure4
  wff plot curves figures/curves.csv --wide                       # again, after the CSV was edited
  wff plot --list"""


def as_list() -> str:
    """Every figure: what it shows, whose it is, what it is drawn from."""
    return "\n\n".join(
        f"{figure.name}: {figure.about}\n  as {figure.source}\n  wff plot {figure.name} {figure.takes} --out DIR"
        for figure in FIGURES.values()
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which figure, of what, and where to put it."""
    parser.add_argument("figure", nargs="?", metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument("input", nargs="*", type=Path, metavar="INPUT", help="run folders, logs, tables: see --list")
    parser.add_argument("--list", action="store_true", help="say which figures there are, and what they are drawn from")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for FIGURE.csv and pictures")
    parser.add_argument("--names", metavar="A,B", help="what to call the inputs (default: by their paths)")
    parser.add_argument("--format", default="png,pdf", help="comma-separated: png, pdf, svg (default png,pdf)")
    parser.add_argument("--wide", action="store_true", help="for two columns of a paper, 7 inches (default: one, 3.4)")
    own = parser.add_argument_group("of one figure")
    own.add_argument("--show", metavar="A,B", help=f"curves: some of {','.join(PANELS)} (default: all that there are)")
    own.add_argument("--group", default="all", metavar="A,B", help="importance: types or layers (default: all of it)")
    own.add_argument("--alpha", type=_numbers, metavar="A", help="alpha: draw the function itself; several: 5,10")
    own.add_argument("--p", type=_numbers, default=[5.0], help="alpha is reached at update N/p (default 5)")
    own.add_argument("--q", type=_numbers, default=[10.0], help="strength 1 is reached at update N/q (default 10)")
    own.add_argument("--updates", type=int, default=50_000, metavar="N", help="of the training (default 50000)")
    own.add_argument("--per-parameter", action="store_true", help="norms: divided by the root of their number")
    own.add_argument("--updates-per-epoch", type=int, metavar="N", help="cost: seconds per epoch, not per update")


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, nor several as 5,10") from None


def _options(args: argparse.Namespace) -> Options:
    """What the words of the command ask of a figure."""
    show = tuple(args.show.split(",")) if args.show else ()
    for name in show:
        if name not in PANELS:
            raise UserError(f"there is no panel {name!r}; type --show with some of {','.join(PANELS)}")
    for name in ("updates", "updates_per_epoch"):
        if (given := getattr(args, name)) is not None and given < 1:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} must be at least 1; type {option} 1000")
    schedules = [Schedule(*each, args.updates) for each in itertools.product(args.alpha or (), args.p, args.q)]
    for each in schedules:
        if not each.q > each.p > 0 or each.alpha < 0:
            raise UserError("the schedule needs q > p > 0 and no alpha below 0; type --alpha 5 --p 5 --q 10")
    return Options(
        groups=tuple(args.group.split(",")),
        schedules=tuple(schedules),
        updates_per_epoch=args.updates_per_epoch,
        show=show,
        per_parameter=args.per_parameter,
        wide=args.wide,
    )


def run(args: argparse.Namespace) -> int:
    logging.disable(logging.INFO)  # what matplotlib tells of fonts once fairseq is there, which asks for all of it
    if args.list:
        print(as_list())
        return 0
    if args.figure not in FIGURES:
        known = f"type one of: {', '.join(FIGURES)}; wff plot --list says what they are"
        raise UserError(f"there is no figure {args.figure!r}; {known}" if args.figure else f"which figure? {known}")
    formats = args.format.split(",")
    for ending in formats:
        if ending not in FORMATS:
            raise UserError(f"there is no format {ending!r}; type --format with some of {','.join(FORMATS)}")
    figure = FIGURES[args.figure]
    options = _options(args)
    if not args.input and not figure.alone(options):
        raise UserError(f"nothing to draw; type: wff plot {figure.name} {figure.takes} --out DIR")
    out = args.out
    if out is None and len(args.input) == 1 and is_table_of(figure.name, args.input[0]):
        out = args.input[0].parent
    if out is None:
        raise UserError("where to? add --out DIR")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, and a figure needs a folder; give another --out")
    for path in make(figure.name, labels(args.input, args.names, "inputs"), out, formats, options):
        print(f"wrote {path}")
    return 0
