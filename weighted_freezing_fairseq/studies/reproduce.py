"""`wff reproduce`: a matrix of methods, pairs and seeds, from archives to scores.

Each cell is what `wff train` and `wff evaluate` do by themselves; here they come in an order in which every run finds
the one that it starts from, as many at once as the machine takes. After a kill the same call resumes; a cell that fails
does not stop the others. Left out on purpose: a scheduler of its own; `--list` prints the cells for one.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..workspace.configs import config_path
from ..workspace.contents import MANIFEST
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.steps import DONE, OPEN, OTHER
from .evaluate import evaluate_run, state_of_scores
from .scorings import Wanted
from .train import Study

Cell = tuple[str, Run]  # the pair, and the run of a method and a seed


def cells_of(study: Study, pairs: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Every combination, standard training first; each method must have a YAML."""
    methods = list(dict.fromkeys(["standard", *methods]))
    for method in methods:
        config_path(method, study.configs)
    return [(pair, study.run(pair, method, seed)) for seed in seeds for pair in pairs for method in methods]


def levels(study: Study, cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells, and those that they start from, so that each finds its parent on an earlier level."""
    placed: dict[Path, tuple[int, Cell]] = {}

    def level_of(pair: str, run: Run) -> int:
        parent = study.parent(pair, run)
        level = 0 if parent is None else level_of(pair, parent) + 1
        placed.setdefault(run.folder, (level, (pair, run)))
        return level

    for pair, run in cells:
        level_of(pair, run)
    deepest = max(level for level, _ in placed.values())
    return [[cell for at, cell in placed.values() if at == level] for level in range(deepest + 1)]


def left_to_do(study: Study, cell: Cell, wanted: Wanted) -> str:
    """A line about one cell; where something of other settings is in the way, what to type."""
    pair, run = cell
    data = study.data_of(pair)
    if not (data / MANIFEST).is_file():
        return f"to prepare      {run.folder}; its data will be {data}"
    state = study.state(pair, run)
    if state == OTHER:
        return f"other settings  {run.folder}; give another --out, or move that folder away"
    if state == OPEN:
        return f"to train        {run.folder}"
    scores = state_of_scores(run, data, wanted)
    if scores == OTHER:
        return f"other scoring   {run.folder}; to score it anew type: rm {shlex.quote(str(run.folder))}/.scoring-*"
    return f"{'done' if scores == DONE else 'to score':<14}  {run.folder}"


def refuse_invalid(study: Study, order: Sequence[Sequence[Cell]]) -> None:
    """Every YAML that is still to be trained must be valid, before any work."""
    for method in dict.fromkeys(run.method for level in order for _, run in level if not run.trained):
        study.refuse_invalid(method)


def prepare_missing(study: Study, pairs: Sequence[str], archives: Sequence[Path]) -> list[str]:
    """Prepare the data that is not there yet; returns a line about each pair."""
    missing = [pair for pair in pairs if not (study.data_of(pair) / MANIFEST).is_file()]
    return study.task.prepare(missing, study.recipe, study.data, archives) if missing else []


def train_and_score(
    study: Study, order: Sequence[Sequence[Cell]], machine: Machine, wanted: Wanted
) -> list[tuple[str, UserError]]:
    """Train and score every cell; returns those that failed, with the reason."""
    failures: list[tuple[str, UserError]] = []

    def work(cell: Cell) -> None:
        pair, run = cell
        try:
            study.train(pair, run, machine)
            evaluate_run(run, machine, wanted)
        except UserError as error:
            say(f"{run.name}: {error}")
            failures.append((f"{pair}, {run.name}", error))

    say(f"{sum(map(len, order))} runs, on {machine}")
    for level in order:
        machine.map(work, level)
    return failures
