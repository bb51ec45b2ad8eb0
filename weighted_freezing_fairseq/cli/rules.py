"""`wff rules`: print the table of methods as text, Markdown or JSON."""

import argparse
import json
from itertools import groupby

from ..core.rules import RULES, VARIANTS, Rule, as_markdown, forms, rows

HELP = """\
Print every method and variant as theta <- f(I) theta + g(I) eta grad + h(I), with its stage, cost and source, grouped
by what the methods are for."""
EXAMPLE = "wff rules weighted_freeze --json"

_VARIANTS = {name: [row] for row in VARIANTS for name in (row.variant, f"{row.name}_{row.variant}")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("method", nargs="*", choices=[[], *RULES, *_VARIANTS], metavar="METHOD", help="only these")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="as a Markdown table")
    form.add_argument("--json", action="store_true", help="one object per row")


def run(args: argparse.Namespace) -> int:
    named = [row for name in args.method or RULES for row in _VARIANTS.get(name) or forms(name)]
    selected = [row for row in rows() if row in named]
    if args.markdown:
        print(as_markdown(selected))
    elif args.json:
        print(json.dumps([_record(row) for row in selected], indent=2))
    else:
        print("theta <- f(I) * theta + g(I) * eta * grad + h(I)\n")
        for purpose, group in groupby(selected, key=lambda row: row.purpose):
            print(f"== {purpose} ==\n")
            for row in group:
                for key, value in _record(row).items():
                    print(f"  {key:13}{value}" if key != "name" else row.label)
                print()
    return 0


def _record(row: Rule) -> dict[str, str]:
    return {
        "name": row.name,
        "variant": row.variant,
        "purpose": row.purpose,
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
