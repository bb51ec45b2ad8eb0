"""`wff reproduce`: a matrix of methods, pairs and seeds, from archives to tables.

Each cell is what `wff train` and `wff evaluate` do by themselves; here they come in an order in which every run finds
the one that it starts from, as many at once as the machine takes. Killed, it goes on; a cell that fails does not stop
the others. Left out on purpose: a scheduler of its own; `--list` prints the cells for one.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import prepared
from ..errors import UserError
from ..report import tables
from ..workspace.configs import config_path
from ..workspace.contents import MANIFEST
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.steps import DONE, OPEN, OTHER
from . import evaluate, prepare, train
from .evaluate import Wanted, choices_of, evaluate_run, state_of_scores, usual_decode
from .train import Study, add_study_arguments, study_of

HELP = "Prepare, train, evaluate and report a matrix of methods, pairs and seeds; killed, it goes on."
EXAMPLE = """wff reproduce multi30k --methods standard,weighted_freeze,sage --seeds 1,2,3
  wff reproduce glue --tasks RTE,CoLA,MRPC --archive ~/glue_data --encoder ~/roberta.base
  wff reproduce iwslt14 --pairs de-en,es-en --methods standard,weighted_freeze --list"""


def levels(study: Study, cells: Sequence[tuple[str, Run]]) -> list[list[tuple[str, Run]]]:
    """The cells, and those that they start from, so that each finds its parent on an earlier level."""
    found: dict[Path, tuple[int, str, Run]] = {}

    def level_of(pair: str, run: Run) -> int:
        parent = study.parent(pair, run)
        level = 0 if parent is None else level_of(pair, parent) + 1
        found.setdefault(run.folder, (level, pair, run))
        return level

    for pair, run in cells:
        level_of(pair, run)
    deepest = max(level for level, _, _ in found.values())
    return [[(pair, run) for at, pair, run in found.values() if at == level] for level in range(deepest + 1)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which cells, and how many at once."""
    add_study_arguments(parser)
    parser.add_argument("--pairs", "--tasks", help="comma-separated (default: the first of the data set)")
    parser.add_argument("--methods", default="standard,weighted_freeze", help="comma-separated; standard is always run")
    parser.add_argument("--seeds", default="1,2,3", help="comma-separated (default 1,2,3)")
    parser.add_argument("--choices", help="checkpoints to score (default: all of best,last,average)")
    parser.add_argument("--jobs", type=int, help="runs at once (default: one a core, or one for each --gpus GPUs)")
    parser.add_argument("--archive", type=Path, nargs="+", help="for wff prepare: archives that were fetched by hand")
    parser.add_argument("--list", action="store_true", help="print LEVEL<tab>COMMAND for each cell, for a scheduler")
    parser.add_argument("--dry-run", action="store_true", help="say what is done and what is left to do")


def run(args: argparse.Namespace) -> int:
    study = study_of(args)
    pairs = [study.pair(word) for word in (args.pairs.split(",") if args.pairs else [None])]
    methods = list(dict.fromkeys(["standard", *args.methods.split(",")]))
    for method in methods:
        config_path(method, study.configs)
    choices = choices_of(args)
    cells = [(pair, study.run(pair, m, seed)) for seed in _seeds(args.seeds) for pair in pairs for m in methods]
    order = levels(study, cells)
    wanted = Wanted(choices, usual_decode(study.dataset.name))
    if args.list:
        for level, these in enumerate(order):
            for pair, cell in these:
                print(f"{level}\t{_command(study, pair, cell, args)}")
        return 0
    if args.dry_run:
        for pair, cell in (each for these in order for each in these):
            print(_left_to_do(study, pair, cell, wanted))
        return 0
    for method in dict.fromkeys(cell.method for these in order for _, cell in these if not cell.trained):
        study.refuse_invalid(method)
    machine = Machine.of(args.device, args.jobs, len(cells), args.gpus, args.precision, args.tokens_per_gpu)
    _prepare(args, study, pairs)
    failed = _run_all(study, order, machine, wanted)
    print(tables.write([study.runs], study.runs / "report"))
    for name, error in failed:
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 1 if failed else 0


def _command(study: Study, pair: str, cell: Run, args: argparse.Namespace) -> str:
    """What trains and scores one cell, with every option of this call that concerns a cell; paths are absolute."""
    own = {"recipe": study.recipe, "data": study.data, "configs": study.configs, "out": study.runs, "dry_run": False}
    own |= {"pair": pair, "method": cell.method, "seed": cell.seed, "encoder": args.encoder and args.encoder.resolve()}
    scoring = {"run_or_checkpoint": [cell.folder], "choices": args.choices, "device": args.device}
    words = words_of(train.add_arguments, {**vars(args), **own})
    return f"{shlex.join(['wff', 'train', *words])} && " + shlex.join(
        ["wff", "evaluate", *words_of(evaluate.add_arguments, scoring)]
    )


def words_of(add_arguments: Callable[[argparse.ArgumentParser], None], values: Mapping[str, Any]) -> list[str]:
    """`values` as a user types them for a command with these arguments, defaults too; what is not set is left out."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    words: list[str] = []
    for action in parser._actions:  # argparse has no other list of them
        value = values.get(action.dest)
        if value is None or value is False:
            continue
        option = action.option_strings[:1]
        if action.nargs == 0:  # a switch
            words += option
        elif isinstance(action, argparse._AppendAction):
            words += [word for item in value for word in (*option, str(item))]
        else:
            words += [*option, *map(str, value if isinstance(value, list) else [value])]
    return words


def _left_to_do(study: Study, pair: str, cell: Run, wanted: Wanted) -> str:
    """A line on one cell; where something of other settings is in the way, what to type."""
    data = prepared(study.data, study.recipe, pair)
    if not (data / MANIFEST).is_file():
        return f"to prepare      {cell.folder}; its data will be {data}"
    state = study.state(pair, cell)
    if state == OTHER:
        return f"other settings  {cell.folder}; give another --out, or move that folder away"
    if state == OPEN:
        return f"to train        {cell.folder}"
    scores = state_of_scores(cell, data, wanted)
    if scores == OTHER:
        return f"other scoring   {cell.folder}; to score it anew type: rm {shlex.quote(str(cell.folder))}/.scoring-*"
    return f"{'done' if scores == DONE else 'to score':<14}  {cell.folder}"


def _seeds(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text} are no numbers; type --seeds 1,2,3") from None


def _prepare(args: argparse.Namespace, study: Study, pairs: Sequence[str]) -> None:
    missing = [p for p in pairs if not (prepared(study.data, study.recipe, p) / MANIFEST).is_file()]
    if missing:
        parser = argparse.ArgumentParser()
        prepare.add_arguments(parser)
        words = [study.dataset.name, "--pairs", ",".join(missing), "--recipe", study.recipe, "--out", str(study.data)]
        words += ["--encoder", str(args.encoder)] if args.encoder else []
        prepare.run(parser.parse_args([*words, *(["--archive", *map(str, args.archive)] if args.archive else [])]))


def _run_all(
    study: Study, order: Sequence[Sequence[tuple[str, Run]]], machine: Machine, wanted: Wanted
) -> list[tuple[str, UserError]]:
    """Every cell trained and scored; returns those that failed, with the reason."""
    failed: list[tuple[str, UserError]] = []

    def work(cell: tuple[str, Run]) -> None:
        pair, run = cell
        try:
            study.train(pair, run, machine)
            evaluate_run(run, machine, wanted)
        except UserError as error:
            say(f"{run.name}: {error}")
            failed.append((f"{pair}, {run.name}", error))

    say(f"{sum(map(len, order))} runs, on {machine}")
    for these in order:
        machine.map(work, these)
    return failed
