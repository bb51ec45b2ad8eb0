"""`wff quickstart`: compare methods on the embedded corpus, from raw text to a table."""

import argparse
from dataclasses import replace

from .arguments import add_embedded_study, embedded_study, split

HELP = "Train, score and measure the cost of several methods on the embedded corpus."
EXAMPLE = "wff quickstart --pair de-en --methods standard,weighted_freeze,intra_distillation --seeds 1-3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..data.embedded import CORPORA, FULL, SMALL

    parser.add_argument(
        "--methods",
        type=split,
        default="standard,weighted_freeze,intra_distillation",
        help="comma-separated; each has a YAML in --configs, or in configs/adapt if it starts from standard training "
        "(default: standard,weighted_freeze,intra_distillation)",
    )
    parser.add_argument(
        "--corpus",
        choices=CORPORA,
        default="small",
        help=f"small: {SMALL.train:,} training pairs, at most {SMALL.max_update} updates, so that standard training "
        f"overfits (default); full: {FULL.train:,} pairs and the updates of the YAML, where it does not",
    )
    add_embedded_study(parser, trained="seeds of trainings", out="runs/quickstart", configs="toy")


def run(args: argparse.Namespace) -> int:
    from ..data.embedded import CORPORA
    from ..studies.quickstart import compare

    study = replace(embedded_study(args), size=CORPORA[args.corpus])
    table, page = compare(study, args.methods)
    print(table)
    print(f"\nTables, learning curves and logs: {study.folder}/ (table.md, table.csv, curves.png, */train.log)")
    print(f"TensorBoard: tensorboard --logdir {study.folder}")
    print(f"All results on one page, for any browser: {page}")
    return 0
