"""`wff quickstart`: compare methods on the embedded corpus, from raw text to a table."""

import argparse

from .arguments import add_embedded_study, embedded_study, split

HELP = "Train, score and measure the cost of several methods on the embedded corpus."
EXAMPLE = "wff quickstart --pair de-en --methods standard,weighted_freeze --seeds 1-3 --out runs/quickstart"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--methods",
        type=split,
        default="standard,weighted_freeze",
        help="comma-separated; each has a YAML in --configs, or in configs/adapt if it starts from standard training",
    )
    add_embedded_study(parser, trained="seeds of trainings", out="runs/quickstart", configs="toy")


def run(args: argparse.Namespace) -> int:
    from ..studies.quickstart import compare

    study = embedded_study(args)
    table, page = compare(study, args.methods)
    print(table)
    print(f"\nTables, learning curves and logs: {study.folder}/ (table.md, table.csv, curves.png, */train.log)")
    print(f"TensorBoard: tensorboard --logdir {study.folder}")
    print(f"All results on one page, for any browser: {page}")
    return 0
