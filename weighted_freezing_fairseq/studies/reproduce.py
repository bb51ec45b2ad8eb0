"""`wff reproduce`: a matrix of methods, pairs and seeds, from archives to scores.

A cell is one run: `wff train`, then `wff evaluate`. Cells are ordered by level, so that a run is trained after the one
that it starts from; a level runs in parallel. After a kill the same call resumes; a cell that fails does not stop the
others. `--list` prints the cells for a scheduler.
"""

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..scoring.scored_runs import rescore_hint
from ..workspace.configs import config_path
from ..workspace.contents import MANIFEST
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.runs import Run
from ..workspace.steps import DONE, OPEN, OTHER
from .evaluate import evaluate_run, state_of_scores
from .scorings import ScoringOptions
from .train import Study

Cell = tuple[str, Run]  # the pair, and the run of a method and a seed


def cells_of(study: Study, pairs: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Every combination with the methods of the study; each must have a YAML."""
    for method in study.methods:
        config_path(method, study.configs)
    return [(pair, study.run(pair, method, seed)) for seed in seeds for pair in pairs for method in study.methods]


def levels(study: Study, cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells and their parents by level; the parent of a cell is on an earlier level."""
    placed: dict[Path, tuple[int, Cell]] = {}

    def level_of(pair: str, run: Run) -> int:
        parent = study.parent(pair, run)
        level = 0 if parent is None else level_of(pair, parent) + 1
        placed.setdefault(run.folder, (level, (pair, run)))
        return level

    deepest = max(level_of(pair, run) for pair, run in cells)
    return [[cell for level, cell in placed.values() if level == n] for n in range(deepest + 1)]


def status_line(study: Study, cell: Cell, options: ScoringOptions) -> str:
    """What is left to do for one cell; where its folder has other settings, what to type."""
    pair, run = cell
    data = study.data_of(pair)
    if not (data / MANIFEST).is_file():
        return f"to prepare      {run.folder}; its data will be {data}"
    state = study.state(pair, run)
    if state == OTHER:
        return f"other settings  {run.folder}; give another --out, or move that folder away"
    if state == OPEN:
        return f"to train        {run.folder}"
    scores = state_of_scores(run, data, options)
    if scores == OTHER:
        return f"other scoring   {run.folder}; {rescore_hint(run.folder)}"
    return f"{'done' if scores == DONE else 'to score':<14}  {run.folder}"


def refuse_invalid(study: Study, order: Sequence[Sequence[Cell]]) -> None:
    """Raise UserError, before any work, if the YAML of a run that is not trained is invalid.

    Of the errors of several methods, one that suggests a name: a misspelt setting is only similar to that of some.
    """
    errors = []
    for method in dict.fromkeys(run.method for level in order for _, run in level if not run.trained):
        try:
            study.refuse_invalid(method)
        except UserError as error:
            errors.append(error)
    if errors:
        raise max(errors, key=lambda error: "did you mean" in str(error))


def prepare_missing(study: Study, pairs: Sequence[str], archives: Sequence[Path]) -> list[str]:
    """Prepare the data that is missing; returns a line about each pair."""
    missing = [pair for pair in pairs if not (study.data_of(pair) / MANIFEST).is_file()]
    return study.task.prepare(missing, study.recipe, study.data, archives) if missing else []


def train_and_score(
    study: Study, order: Sequence[Sequence[Cell]], machine: Machine, options: ScoringOptions
) -> list[tuple[str, UserError]]:
    """Train and score every cell; returns the cells that failed, with their errors."""
    failures: list[tuple[str, UserError]] = []

    def work(cell: Cell) -> None:
        pair, run = cell
        try:
            study.train(pair, run, machine)
            evaluate_run(run, machine, options)
        except UserError as error:
            say(f"{run.name}: {error}")
            failures.append((f"{pair}, {run.name}", error))

    say(f"{sum(map(len, order))} runs, on {machine}")
    for level in order:
        machine.map(work, level)
    return failures
