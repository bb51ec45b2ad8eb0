"""`wff report`: what runs have reached, as the papers' tables or as one page."""

import argparse
from pathlib import Path

from ..errors import UserError
from ..report import page, tables
from ..scoring.published import TABLES
from ..workspace.runs import CHOICES
from .arguments import split

HELP = """\
Collect scored runs into tables: the papers' own, and one of everything that is there, with significance. With --html:
one page on the runs, whoever made them: scores, curves, settings, sensitivity, cost, and where they come from."""
EXAMPLE = """\
wff report runs/iwslt14 runs/multi30k --table xu-2 --table runs --out report
  wff report --html runs/multi30k/clean/de-en/standard-1 runs/multi30k/clean/de-en/sage-1 --out page.html
  wff report --html save-folder/train.log --names mine    # of any fairseq-train --log-format json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which runs, which tables, and where to write them."""
    parser.add_argument(
        "runs", nargs="*", type=Path, default=[Path("runs")], metavar="RUNS",
        help="folders of wff train, as runs/multi30k (default: all under runs); for a page also save folders of "
        "fairseq, training logs, and folders of wff sensitivity and wff bench",
    )  # fmt: skip
    parser.add_argument(
        "--table", action="append", choices=[tables.EVERYTHING, *TABLES], default=[], metavar="NAME",
        help=f"{tables.EVERYTHING}: all that is there; "
        + "; ".join(f"{name}: {table.source}" for name, table in TABLES.items())
        + " (default: all; repeat for several)",
    )  # fmt: skip
    parser.add_argument(
        "--choice", choices=CHOICES, help="checkpoint that counts (default: of each run, best where it was scored)"
    )
    parser.add_argument(
        "--data", type=Path, help="what wff prepare left, for references that are not where they were (data/DATASET)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write to (default: report in the first RUNS); for a page: "
        "its file (default: report.html beside the first run)",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="every cell as JSON on standard output")
    form.add_argument("--html", action="store_true", help="one page in place of tables; --table adds the papers' to it")
    parser.add_argument(
        "--names", type=split, metavar="A,B", help="what to call the runs on a page (default: by their paths)"
    )


def run(args: argparse.Namespace) -> int:
    if args.html:
        inputs = page.PageInputs.find(args.runs, args.names, tables=args.table, choice=args.choice, data=args.data)
        print(f"wrote {page.write(inputs, args.out)}")
        return 0
    if args.names:
        raise UserError("--names is for a page; add --html, or leave it out")
    out = args.out or args.runs[0] / "report"
    report = tables.write(args.runs, out, args.table, args.choice, args.data)
    print(report.as_json() if args.json else f"{report}\n\nwrote {out}/")
    return 0
