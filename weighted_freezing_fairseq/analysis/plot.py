"""`wff plot`: every figure by one command, its CSV first, its pictures from the CSV alone.

The figures are the rows of `figures.py`. Left out on purpose: violins of sensitivities and scores of a pruned
checkpoint, which `wff sensitivity` and `wff prune` draw as they measure them.
"""

import argparse
from pathlib import Path

from ..errors import UserError
from .curves import FORMATS, Options
from .figures import FIGURES, is_table_of, make
from .kept import labels

HELP = """\
Draw a figure of the papers from runs of your own: FIGURE.csv first, then pictures from that CSV alone, so that a CSV
that was edited draws again: wff plot FIGURE DIR/FIGURE.csv. `wff plot --list` says which figures there are."""
EXAMPLE = """\
wff plot curves runs/standard-1 runs/intra_distillation-1 other/train.log --names standard,ID,other --out figures
  wff plot curves adaptive/train.log constant/train.log --names adaptive,constant --out figure7  # Xu et al., Figure 7
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


def run(args: argparse.Namespace) -> int:
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
    if not args.input:
        raise UserError(f"nothing to draw; type: wff plot {figure.name} {figure.takes} --out DIR")
    out = args.out
    if out is None and len(args.input) == 1 and is_table_of(figure.name, args.input[0]):
        out = args.input[0].parent
    if out is None:
        raise UserError("where to? add --out DIR")
    options = Options(wide=args.wide)
    for path in make(figure.name, labels(args.input, args.names, "inputs"), out, formats, options):
        print(f"wrote {path}")
    return 0
