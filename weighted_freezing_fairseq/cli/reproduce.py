"""`wff reproduce`: prepare, train, evaluate and report a matrix of methods, pairs and seeds."""

import argparse
import shlex
import sys
from pathlib import Path

from ..report import tables
from ..studies.reproduce import Cell, cells_of, levels, prepare_missing, refuse_invalid, status_line, train_and_score
from ..studies.scorings import ScoringOptions
from ..studies.train import Study
from ..workspace.progress import say
from . import evaluate, train
from .arguments import add_study_arguments, choices_of, machine_of, seeds, split, study_of, words_of

HELP = "Prepare, train, evaluate and report a matrix of methods, pairs and seeds; after a kill the same call resumes."
EXAMPLE = """wff reproduce multi30k --methods standard,weighted_freeze,sage --seeds 1,2,3
  wff reproduce glue --tasks RTE,CoLA,MRPC --archive ~/glue_data --encoder ~/roberta.base
  wff reproduce iwslt14 --pairs de-en,es-en --methods standard,weighted_freeze --list"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser)
    parser.add_argument("--pairs", "--tasks", type=split, help="comma-separated (default: the first of the data set)")
    parser.add_argument(
        "--methods", type=split, default="standard,weighted_freeze", help="comma-separated, standard is added"
    )
    parser.add_argument("--seeds", type=seeds, default="1-3", metavar="1-3", help="as 1,2,3 or 1-3 (default 1-3)")
    parser.add_argument("--choices", help="checkpoints to score (default: all of best,last,average)")
    parser.add_argument("--jobs", type=int, help="runs in parallel (default: one per core, or per --gpus GPUs)")
    parser.add_argument(
        "--archive", type=Path, nargs="+", default=[], help="archives that you downloaded, for wff prepare"
    )
    parser.add_argument("--list", action="store_true", help="print LEVEL<tab>COMMAND for each cell, for a scheduler")
    parser.add_argument("--dry-run", action="store_true", help="print what is done and what is left to do")


def run(args: argparse.Namespace) -> int:
    study = study_of(args)
    pairs = [study.task.pair(word) for word in args.pairs or [None]]
    options = ScoringOptions(choices_of(args.choices))
    cells = cells_of(study, pairs, args.seeds)
    order = levels(study, cells)
    if args.list:
        print("\n".join(f"{n}\t{_command(study, cell, args)}" for n, level in enumerate(order) for cell in level))
        return 0
    for assignment in study.assignments:
        having = [method for method in study.methods if assignment in study.assignments_of(method)]
        if len(having) < len(study.methods):
            say(f"--set {assignment} is for {', '.join(having)}: the others have no such setting")
    if args.dry_run:
        print("\n".join(status_line(study, cell, options) for level in order for cell in level))
        return 0
    refuse_invalid(study, order)
    machine = machine_of(args, args.jobs, len(cells))
    for line in prepare_missing(study, pairs, args.archive):
        print(line)
    failures = train_and_score(study, order, machine, options)
    print(tables.write([study.runs], study.runs / "report"))
    for name, error in failures:
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 1 if failures else 0


def _command(study: Study, cell: Cell, args: argparse.Namespace) -> str:
    """The command that trains and scores one cell, with absolute paths and all options that apply to a cell."""
    pair, run = cell
    training = {
        **vars(args), "recipe": study.recipe, "data": study.data, "configs": study.configs, "size": None,
        "out": study.runs, "set": study.assignments_of(run.method), "encoder": args.encoder and args.encoder.resolve(),
        "pair": pair, "method": run.method, "seed": run.seed,
    }  # fmt: skip
    scoring = {"run_or_checkpoint": [run.folder], "choices": args.choices, "device": args.device}
    return " && ".join(
        shlex.join(["wff", name, *words_of(add, values)])
        for name, add, values in (
            ("train", train.add_arguments, training),
            ("evaluate", evaluate.add_arguments, scoring),
        )
    )
