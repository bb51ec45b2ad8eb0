"""`wff prune-iterative`: prune a model step by step with several methods."""

import argparse
from pathlib import Path

from ..core.pruning import METHODS
from ..data.embedded import MANY_TO_ONE
from ..errors import UserError, check_fraction, did_you_mean
from ..studies.prune_iterative import ALIGNMENTS, prune
from ..workspace.configs import CONFIGS
from .arguments import add_embedded_study, embedded_study, split

HELP = "Train a model, prune it step by step with several methods during further training, and compare their BLEU."
EXAMPLE = """\
wff prune-iterative --pair de-en --methods magnitude,lamp,random --sparsity 0.7 --out runs/prune
  wff prune-iterative --zero-shot --methods magnitude --sparsity 0.3,0.5,0.7 --alignreg none,cosine@0.5,frobenius"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--methods", type=split, default=",".join(METHODS), help=f"comma-separated (default: all: {', '.join(METHODS)})"
    )
    parser.add_argument(
        "--alignreg",
        type=split,
        default=",".join(ALIGNMENTS),
        help=f"comma-separated, optionally with a lambda, as in cosine@0.5 (default: {','.join(ALIGNMENTS)})",
    )
    parser.add_argument(
        "--sparsity", type=split, default="0.7", help="fractions of weights that are pruned in the end (default 0.7)"
    )
    parser.add_argument(
        "--zero-shot",
        action="store_true",
        help=f"train the parents on all languages ({MANY_TO_ONE}), tune and prune on --pair, and score all languages",
    )
    parser.add_argument(
        "--parent-config", type=Path,
        help="YAML of the parents (default: configs/toy/standard.yaml, or with --zero-shot prune/many_to_one.yaml)",
    )  # fmt: skip
    add_embedded_study(parser, trained="seeds of parents and children", out="runs/prune", configs="prune")


def run(args: argparse.Namespace) -> int:
    study = embedded_study(args)
    sparsities = [_fraction(text) for text in args.sparsity]
    for name in args.methods:
        if name not in METHODS:
            hint = did_you_mean(name, METHODS) or f"type --methods with some of: {','.join(METHODS)}"
            raise UserError(f"unknown {name!r} in --methods; {hint}")
    default = "prune/many_to_one.yaml" if args.zero_shot else "toy/standard.yaml"
    parent_config = (args.parent_config or CONFIGS / default).resolve()
    print(prune(study, args.methods, args.alignreg, sparsities, parent_config, args.zero_shot))
    print(f"\nTables, checkpoints and logs: {study.folder}/ (table.md, table.csv, */train.log)")
    return 0


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"--sparsity has {text!r}; type fractions, as in --sparsity 0.3,0.5,0.7") from None
    check_fraction("--sparsity", value, 0.7)
    return value
