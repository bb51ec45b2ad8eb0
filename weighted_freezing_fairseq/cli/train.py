"""`wff train`: train one method on prepared data with one seed."""

import argparse

from ..workspace.configs import config_path
from .arguments import add_study_arguments, machine_of, study_of

HELP = "Train one method on prepared data; after a kill the same call resumes."
EXAMPLE = """wff train multi30k --pair de-en --method weighted_freeze --seed 1
  wff train glue --task RTE --method weighted_freeze --seed 1 --encoder ~/roberta.base"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)
    parser.add_argument("--pair", "--task", help="default: the first of the data set")
    parser.add_argument("--method", default="standard", help="default standard")
    parser.add_argument("--seed", type=int, default=1, help="default 1")
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained, and where")


def run(args: argparse.Namespace) -> int:
    study = study_of(args)
    pair = study.task.pair(args.pair)
    training_run = study.run(pair, args.method, args.seed)
    config = config_path(args.method, study.configs)
    machine = machine_of(args, jobs=1, runs=1)
    if args.dry_run:
        study.refuse_invalid(args.method)
        print(f"{training_run.name}: {config} on {study.data_of(pair)}\nin {training_run.folder}, on {machine}")
        return 0
    study.train(pair, training_run, machine)
    print(f"{training_run.folder}\nnext: wff evaluate {training_run.folder}")
    return 0
