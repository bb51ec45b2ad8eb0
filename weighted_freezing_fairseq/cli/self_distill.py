"""`wff self-distill`: train students of a model's own shape, round after round."""

import argparse

from .arguments import add_embedded_study, check_at_least, embedded_study

HELP = """\
Train a model on the embedded corpus, then students of the same shape, each taught by the model of the previous round,
and score every round. With --ensemble, the averaged probabilities of all earlier rounds teach."""
EXAMPLE = "wff self-distill --pair de-en --rounds 2 --seeds 1-3 --out runs/self_distill"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, default=2, metavar="N", help="number of students, one after another (default 2)"
    )
    parser.add_argument("--ensemble", action="store_true", help="all earlier rounds teach, not only the last one")
    add_embedded_study(parser, trained="seeds of all rounds", out="runs/self_distill", configs="toy")


def run(args: argparse.Namespace) -> int:
    from ..studies.self_distill import distil

    study = embedded_study(args)
    check_at_least(args, ["rounds"])
    print(distil(study, args.rounds, args.ensemble))
    print(f"\nTables and logs: {study.folder}/ (table.md, table.csv, */train.log)")
    return 0
