"""`wff bench`: measure the cost of each method relative to standard training."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..costs.cases import SIZE_NUMBERS, VARIANTS
from ..costs.subjects import PRECISIONS, SIZES
from ..costs.tables import TABLES, CostTable
from ..errors import UserError
from ..workspace.machine import device_of
from ..workspace.progress import say
from .arguments import add_device, split

HELP = """\
Measure time and memory of every method relative to standard training, interleaved in one process, and count the
operations and bytes that the method needs at least."""
EXAMPLE = """\
wff bench --quick
  wff bench --methods sage,ewc --size iwslt --rounds 15 --out runs/bench
  wff bench --size small --vary vocabulary=4000,12000,40000
  wff bench --table all --device cuda --precision bf16 --out runs/costs   # every table of docs/costs.md, on your GPU"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--methods",
        type=split,
        help="comma-separated: each has a YAML in --configs, or is one of the variants "
        f"{', '.join(VARIANTS)} (default: all of both)",
    )
    parser.add_argument(
        "--configs",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of METHOD.yaml files; may be repeated (default: configs/toy and configs/adapt)",
    )
    parser.add_argument("--size", action="append", choices=list(SIZES), help="may be repeated (default: small)")
    parser.add_argument(
        "--vary",
        metavar="NAME=A,B",
        help=f"measure each size with each of these values for one of {', '.join(SIZE_NUMBERS)}; or with "
        "passes=A,B, the K of intra_distillation; or with processes=A,B, on as many GPUs or equal shares of the CPU's "
        "threads",
    )
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32", help="of training (default fp32)")
    parser.add_argument(
        "--table",
        action="append",
        choices=[*TABLES, "all"],
        help="measure a table of docs/costs.md again, in a folder of its name in --out, unless it is there already: "
        f"{'; '.join(f'{table.name}: {table.about}' for table in TABLES.values())}; all of them take an hour or two "
        "on two free cores",
    )
    parser.add_argument("--rounds", type=int, help="interleaved rounds per size (default: 15, or that of the table)")
    quick = TABLES["quick"]
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{quick.rounds} rounds of {', '.join(quick.methods)}: under 3 minutes on two free cores",
    )
    add_device(parser)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for bench.csv, bench.md and plots")
    parser.add_argument(
        "--check", type=Path, metavar="BENCH.CSV", help="compare with this table; exit status 1 if a cost is higher"
    )
    parser.add_argument("--json", action="store_true", help="rows as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    from ..costs import bench, results

    bench.prepare()
    settings = bench.Settings(args.configs or bench.Settings.configs, device_of(args.device), args.precision, args.seed)
    if args.rounds is not None and args.rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {args.rounds}; type --rounds 15")
    if args.table:
        _refuse_with_table(args)
        names = list(bench.tables_here(settings.device) if "all" in args.table else dict.fromkeys(args.table))
        for text in bench.publish(names, args.out, settings, args.rounds, _command(args.words)):
            print(text)
        return 0
    if args.check is not None and not args.check.is_file():
        raise UserError(f"there is no table {args.check}; make one with: wff bench --quick --out DIR")
    earlier = [] if args.check is None else results.read_costs(args.check)
    table = _table(args, bench.measurable(settings.configs))
    rows = bench.measure_table(table, settings)
    print(json.dumps([asdict(row) for row in rows], indent=2) if args.json else results.as_markdown(rows))
    if args.out:
        results.write(rows, args.out, table.about, _command(args.words))
    if args.check is None:
        return 0
    for device in sorted({row.get("device", "") for row in earlier} - {rows[0].device, ""}):
        say(f"{args.check} was measured on another machine ({device}), whose ratios may differ from those of this one")
    worse = list(results.worse_than(earlier, rows))
    for line in worse:
        print(f"worse than {args.check}: {line}", file=sys.stderr)
    return 1 if worse else 0


def _refuse_with_table(args: argparse.Namespace) -> None:
    for option in ("methods", "size", "vary", "quick", "check", "json"):
        if getattr(args, option):
            raise UserError(f"--table determines what is measured; leave out --{option}, or --table")
    if args.out is None:
        raise UserError("--table needs a folder to write to; add --out DIR, in which each table gets a folder")


def _table(args: argparse.Namespace, measurable: Sequence[str]) -> CostTable:
    """The cost table that the options describe, with standard training as its first method."""
    quick = TABLES["quick"]
    if args.methods is not None:
        methods = args.methods
    else:
        methods = [name for name in quick.methods if name in measurable] if args.quick else measurable
    methods = ["standard", *(method for method in methods if method != "standard")]
    rounds = args.rounds or (quick.rounds if args.quick else 15)
    return CostTable("", "what methods cost", methods, args.size or ["small"], args.vary, rounds)


def _command(words: Sequence[str]) -> str:
    """The command of the user, with its number of threads."""
    threads = os.environ.get("OMP_NUM_THREADS")
    return " ".join([*([f"OMP_NUM_THREADS={threads}"] if threads else []), shlex.join(["wff", *words])])
