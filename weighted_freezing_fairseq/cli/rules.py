"""`wff rules`: the table of methods for a terminal, for a README, or for a machine."""

import argparse
import json

from ..core.rules import RULES, as_markdown

HELP = "Print every method as theta <- f(I) theta + g(I) eta grad + h(I), with its stage, cost and source."
EXAMPLE = "wff rules weighted_freeze --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which rows, in which form."""
    parser.add_argument("method", nargs="*", choices=[[], *RULES], metavar="METHOD", help="only these rows")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="the table as it stands in the README")
    form.add_argument("--json", action="store_true", help="one object per row")


def run(args: argparse.Namespace) -> int:
    rows = [RULES[name] for name in args.method] or list(RULES.values())
    if args.markdown:
        print(as_markdown())
    elif args.json:
        print(json.dumps([_record(row) for row in rows], indent=2))
    else:
        print("theta <- f(I) * theta + g(I) * eta * grad + h(I)\n")
        for row in rows:
            for key, value in _record(row).items():
                print(f"  {key:13}{value}" if key != "name" else value)
            print()
    return 0


def _record(row) -> dict[str, str]:
    return {
        "name": row.name,
        "kind": row.kind,
        "I": row.metric,
        "f": row.f.text,
        "g": row.g.text,
        "h": row.h.text,
        "R": row.loss.text if row.loss else "0",
        "stage": row.stage,
        "extra passes": row.extra_passes,
        "extra state": row.extra_state,
        "source": row.source,
    }
