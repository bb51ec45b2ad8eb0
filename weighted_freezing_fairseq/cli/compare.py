"""`wff compare`: two runs on one test set, sentence by sentence."""

import argparse
from pathlib import Path

from ..errors import UserError
from ..files import refuse_to_overwrite
from .arguments import add_choice, check_at_least

HELP = """\
Compare the translations of two scored runs sentence by sentence: where the second gains over the first and where it
loses, with source, reference and both translations, and whether the whole sets differ significantly."""
EXAMPLE = """wff compare runs/multi30k/clean/de-en/standard-1 runs/multi30k/clean/de-en/sage-1
  wff compare runs/quickstart/de-en/standard-1 runs/quickstart/de-en/weighted_freeze-1 --html --out compare.html"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, on which test set, and what to write."""
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="scored run folders; the first is the baseline")
    parser.add_argument("--subset", default="test", help="test set (default test)")
    add_choice(parser, "best if it was scored, else the next")
    parser.add_argument(
        "--data", type=Path, help="what wff prepare left, for references that were moved (data/DATASET)"
    )
    parser.add_argument("--most", type=int, default=5, metavar="N", help="sentences of each side to print (default 5)")
    parser.add_argument("--html", action="store_true", help="write all sentences side by side to a page, too")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file of the page (default compare.html)")


def run(args: argparse.Namespace) -> int:
    from ..report import comparison
    from ..scoring.compare import compare

    check_at_least(args, ("most",), 0)
    if args.out is not None and not args.html:
        raise UserError("--out is the file of a page; add --html, or leave it out")
    page = args.out or Path("compare.html")
    if args.html:
        refuse_to_overwrite(page)
    found = compare(args.runs, args.subset, args.choice, args.data)
    print(comparison.as_text(found, args.most))
    if args.html:
        comparison.write_page(found, page)
        print(f"\nwrote {page}")
    return 0
