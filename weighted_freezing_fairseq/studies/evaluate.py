"""`wff evaluate`: every test set of a trained run scored with its checkpoints, or one set with any checkpoint.

What is scored and how is the task's: translations (`translation.py`) or labels (`sentences/task.py`). A run folder
knows its test sets and search settings; a checkpoint is given them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data import NAMES, prepared, read_manifest
from ..data.recipe import Decode
from ..errors import UserError
from ..files import write_atomically
from ..scoring import translate
from ..scoring.scored_runs import read_scores
from ..scoring.scores import all_scores
from ..scoring.sentences import evaluate as sentences
from ..workspace.contents import MANIFEST, content_hash
from ..workspace.locks import lock_folder
from ..workspace.machine import Machine
from ..workspace.progress import Progress
from ..workspace.provenance import relocate
from ..workspace.runs import Run
from ..workspace.steps import DONE, OPEN, OTHER, read_stamp, state_of
from .scorings import Wanted
from .tasks import StudyTask, task_of
from .translation import pieces_of, text_of


@dataclass(frozen=True)
class BinarisedSet:
    """What a checkpoint outside a run folder is scored on.

    data: the binarised folder. reference: raw text (None: that of wff prepare). out: folder for results.
    """

    data: Path | None = None
    subset: str = "test"
    reference: Path | None = None
    out: Path | None = None
    search: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    paths: Sequence[Path], machine: Machine, wanted: Wanted, moved_data: Path | None, binarised_set: BinarisedSet
) -> dict[str, dict[str, Any]]:
    """The scores of run folders and of checkpoints by their names; everything is checked before the first is scored.

    moved_data: where the data of the run folders lies now, if it was moved.
    """
    several = len(paths) > 1
    works = [
        _of_run(path, machine, wanted, moved_data)
        if path.is_dir()
        else _of_checkpoint(path, machine, binarised_set, several)
        for path in paths
    ]
    return {name: scores for work in works for name, scores in work().items()}


def as_text(scores: Mapping[str, Any]) -> str:
    """What a user is told about the scores of one set."""
    return sentences.as_text(scores) if "metric" in scores else translate.as_text(scores)


# Runs ----------------------------------------------------------------------------------------------------------------


def evaluate_run(run: Run, machine: Machine, wanted: Wanted) -> dict[str, dict[str, Any]]:
    """The scores of a trained run by SUBSET.CHOICE, kept in its folder; one process at a time."""
    refuse_early(run, wanted)
    with lock_folder(run.folder):
        remedy = f"to score it anew type: rm {run.folder}/.scoring-*"
        files = {
            name: path
            for step in _task_of(run).score(run, machine, wanted, remedy)
            for name, path in step.files(run).items()
        }
        return {name: read_scores(path) for name, path in files.items()}


def refuse_early(run: Run, wanted: Wanted) -> None:
    """Refuse what makes scoring impossible, before anything is scored."""
    if not run.trained:
        raise UserError(f"{run.folder} is not trained to its end; type: {run.provenance()['command']}")
    _task_of(run).refuse_early(run, wanted)


def state_of_scores(run: Run, data: Path, wanted: Wanted) -> str:
    """DONE, OPEN or OTHER, as `evaluate_run` will find all scores that are wanted of a trained run on `data`."""
    scorings = _task_of(run).scorings(run, wanted, read_manifest(data))
    states = {state_of(run.folder, f"scoring-{step.name}", step.settings) for step in scorings}
    return next((state for state in (OTHER, OPEN) if state in states), DONE)


def _task_of(run: Run) -> StudyTask:
    return task_of(run.provenance()["dataset"])


def _of_run(
    path: Path, machine: Machine, wanted: Wanted, moved_data: Path | None
) -> Callable[[], dict[str, dict[str, Any]]]:
    """The work on a run folder, after its checks."""
    run = Run.load(path)
    about = run.provenance()
    if about["dataset"] not in NAMES:
        raise UserError(f"{path} is scored by the recipe that trained it; type: {about['command']}")
    if moved_data is not None:
        _move_data(run, prepared(moved_data.resolve(), about["recipe"], about["pair"]))
    refuse_early(run, wanted)
    return lambda: {f"{path}/scores/{name}": scores for name, scores in evaluate_run(run, machine, wanted).items()}


def _move_data(run: Run, folder: Path) -> None:
    """Record that the data of a run lies in `folder` now, if it is that data."""
    read_manifest(folder)
    stamp = run.folder / ".training.json"
    known = read_stamp(stamp).get("contents", {}) if stamp.is_file() else {}
    if known.get("task.data", now := content_hash(folder / "bin")) != now:
        raise UserError(
            f"{run.folder} was not trained on {folder}; give --data the folder that wff prepare made for it"
        )
    relocate(run, {"data": str(folder)})


# Checkpoints ---------------------------------------------------------------------------------------------------------


def _of_checkpoint(
    checkpoint: Path, machine: Machine, binarised_set: BinarisedSet, several: bool
) -> Callable[[], dict[str, dict[str, Any]]]:
    """The work on a checkpoint, after its checks; `several`: names of files must tell the checkpoint's folder too."""
    data, subset, reference = binarised_set.data, binarised_set.subset, binarised_set.reference
    if data is None:
        raise UserError(f"{checkpoint} is no run folder; give --data BIN and --reference FILE with a checkpoint")
    translate.refuse_missing(data)
    folder = data.resolve().parent
    pieces, language, about = translate.Pieces(), "", {}
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        pieces, language, about = pieces_of(manifest), manifest["target"], text_of(manifest)
        if reference is None and subset in manifest["tests"]:
            reference = folder / manifest["tests"][subset]
    if reference is None:
        raise UserError("give --reference the raw text of the target side, one sentence a line")
    translate.refuse_missing_checkpoint(checkpoint)
    lines = translate.raw_reference(data, subset, reference)
    language = language or reference.suffix.lstrip(".")

    def work() -> dict[str, dict[str, Any]]:
        decode = Decode(**binarised_set.search)
        with Progress(desc=checkpoint.name, total=len(lines), unit="sentence", lines=True) as bar:
            hypotheses = translate.generate(checkpoint, data, subset, decode, machine, pieces, bar.update)
        scores = {**about, **all_scores(hypotheses, lines, language)}
        if binarised_set.out:
            name = f"{checkpoint.parent.name}-{checkpoint.stem}" if several else checkpoint.stem
            write_atomically(binarised_set.out / f"{name}.hyp.txt", "".join(f"{line}\n" for line in hypotheses))
            write_atomically(binarised_set.out / f"{name}.score.json", json.dumps(scores, indent=2) + "\n")
        return {str(checkpoint): scores}

    return work
