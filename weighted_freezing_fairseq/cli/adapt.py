"""`wff adapt`: adapt a model to a new domain with several methods."""

import argparse
from pathlib import Path

from ..errors import check_fraction
from ..workspace.configs import CONFIGS
from .arguments import add_embedded_study, check_at_least, embedded_study, split

HELP = "Adapt a model to a new domain with several methods, and measure BLEU on the new and on the old domain."
EXAMPLE = "wff adapt --pair de-en --methods standard,ewc,fish_mask,lfr_cm --seeds 1-3 --out runs/adapt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--methods", type=split, help="comma-separated; each has a YAML in --configs (default: all of them)"
    )
    parser.add_argument("--density", type=float, default=0.05, help="density of the mask for fish_mask (default 0.05)")
    parser.add_argument("--samples", type=int, default=1000, help="sentences for Fisher information (default 1000)")
    parser.add_argument("--parent-config", type=Path, help="YAML of the parents (default: configs/toy/standard.yaml)")
    add_embedded_study(parser, trained="seeds of parents and children", out="runs/adapt", configs="adapt")


def run(args: argparse.Namespace) -> int:
    from ..studies.adapt import adapt

    study = embedded_study(args)
    check_fraction("--density", args.density, 0.05, one=True)
    check_at_least(args, ["samples"])
    parent_config = (args.parent_config or CONFIGS / "toy/standard.yaml").resolve()
    print(adapt(study, args.methods, args.density, args.samples, parent_config))
    print(
        f"\nTables, Fisher information, masks, packed runs and logs: {study.folder}/ (table.md, table.csv, */train.log)"
    )
    return 0
