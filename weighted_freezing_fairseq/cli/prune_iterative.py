"""`wff prune-iterative`: prune a model step by step with several methods."""

import argparse
from pathlib import Path

from ..core.pruning import METHODS
from ..errors import UserError, check_fraction, did_you_mean
from ..studies.prune_iterative import ALIGNMENTS, prune
from ..workspace.configs import CONFIGS
from .arguments import add_embedded_study, embedded_study, split

HELP = "Train a model, prune it step by step with several methods during further training, and compare their BLEU."
EXAMPLE = "wff prune-iterative --pair de-en --methods magnitude,lamp,random --sparsity 0.7 --out runs/prune"


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
        "--sparsity", type=float, default=0.7, help="fraction of weights that is pruned in the end (default 0.7)"
    )
    parser.add_argument("--parent-config", type=Path, help="YAML of the parents (default: configs/toy/standard.yaml)")
    add_embedded_study(parser, trained="seeds of parents and children", out="runs/prune", configs="prune")


def run(args: argparse.Namespace) -> int:
    study = embedded_study(args)
    check_fraction("--sparsity", args.sparsity, 0.7)
    for name in args.methods:
        if name not in METHODS:
            hint = did_you_mean(name, METHODS) or f"type --methods with some of: {','.join(METHODS)}"
            raise UserError(f"unknown {name!r} in --methods; {hint}")
    parent_config = (args.parent_config or CONFIGS / "toy/standard.yaml").resolve()
    print(prune(study, args.methods, args.alignreg, args.sparsity, parent_config))
    print(f"\nTables, checkpoints and logs: {study.folder}/ (table.md, table.csv, */train.log)")
    return 0
