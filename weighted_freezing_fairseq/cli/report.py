"""`wff report`: tables of scored runs, in the form of the papers' tables or as one page."""

import argparse
from pathlib import Path

from ..errors import UserError
from ..report import tables
from ..scoring.published import TABLES
from .arguments import add_choice, add_names

HELP = """\
Collect scored runs into the papers' tables and one table of all runs, with significance. With --html, write one page
about runs of this package or of plain fairseq: scores, sentences, curves, settings, sensitivity, cost, provenance."""
EXAMPLE = """\
wff report runs/iwslt14 runs/multi30k --table xu-2 --table runs --out report
  wff report --html runs/multi30k/clean/de-en/standard-1 runs/multi30k/clean/de-en/sage-1 --out page.html
  wff report --html save-folder/train.log --names mine   # of any fairseq-train --log-format json or simple
  wff report --html runs/tensorboard                      # of any --tensorboard-logdir"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="*", type=Path, default=[Path("runs")], metavar="RUNS",
        help="folders of wff train, as runs/multi30k (default: all under runs); for a page also save folders of "
        "fairseq, training logs, folders of --tensorboard-logdir, of wff sensitivity and of wff bench",
    )  # fmt: skip
    parser.add_argument(
        "--table", action="append", choices=[tables.EVERYTHING, *TABLES], default=[], metavar="NAME",
        help=f"{tables.EVERYTHING}: all runs; "
        + "; ".join(f"{name}: {table.source}" for name, table in TABLES.items())
        + " (default: all; may be repeated)",
    )  # fmt: skip
    add_choice(parser, "for each run, best if it was scored")
    parser.add_argument(
        "--data", type=Path, help="folder that wff prepare made, for references that were moved (default data/DATASET)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write to (default: report in the first RUNS); for a page, "
        "its file (default: report.html beside the first run)",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print every cell as JSON")
    form.add_argument("--html", action="store_true", help="write one page; --table adds tables of the papers")
    add_names(parser, "runs on a page")


def run(args: argparse.Namespace) -> int:
    if args.html:
        from ..report import page  # torch

        inputs = page.PageInputs.find(args.runs, args.names, tables=args.table, choice=args.choice, data=args.data)
        print(f"wrote {page.write(inputs, args.out)}")
        return 0
    if args.names:
        raise UserError("--names is for a page; add --html, or leave it out")
    out = args.out or args.runs[0] / "report"
    report = tables.write(args.runs, out, args.table, args.choice, args.data)
    print(report.as_json() if args.json else f"{report}\n\nwrote {out}/")
    return 0
