"""`wff evaluate`: score every test set of a trained run with its checkpoints, or one set with any checkpoint.

The task decides what is scored and how: translations (`translation.py`) or labels (`sentences/task.py`). A run folder
records its test sets and search settings; for a checkpoint the user gives them.
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
from ..scoring.scored_runs import read_scores, rescore_hint
from ..scoring.scores import all_scores
from ..scoring.sentences import evaluate as sentences
from ..workspace.contents import MANIFEST, content_hash
from ..workspace.locks import lock_folder
from ..workspace.machine import Machine
from ..workspace.progress import Progress
from ..workspace.provenance import relocate
from ..workspace.runs import CHOICES, Run
from ..workspace.steps import DONE, OPEN, OTHER, read_stamp, state_of
from ..workspace.trainings import binarised_of, checkpoint_of, is_run
from .scorings import ScoringOptions
from .tasks import task_of
from .translation import text_of

Scores = dict[str, dict[str, Any]]  # of each test set, by name


@dataclass(frozen=True)
class BinarisedSet:
    """What to score a checkpoint on, outside a run folder.

    Args:
        data: binarised folder (None: what the checkpoint was trained on).
        subset: name of the set.
        reference: raw text (None: that of `wff prepare`).
        out: folder for translations and scores (None: they are not written).
        search: fields of `Decode` to change.
    """

    data: Path | None = None
    subset: str = "test"
    reference: Path | None = None
    out: Path | None = None
    search: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    paths: Sequence[Path], machine: Machine, options: ScoringOptions, moved_data: Path | None, test_set: BinarisedSet
) -> Scores:
    """Score run folders, save-dirs of fairseq and checkpoints, after all of them were checked.

    Args:
        moved_data: where the data of the run folders is now, if it was moved.
        test_set: for save-dirs and checkpoints.
    """
    if options.choices and all(path.is_file() for path in paths):
        raise UserError(
            f"--choices is for folders, and {paths[0]} is a checkpoint; leave --choices out, or give a folder"
        )
    models = [
        (path, checkpoint)
        for path in paths
        for checkpoint in ([None] if is_run(path) else _checkpoints_of(path, options.choices))
    ]
    several = len(models) > 1
    scorers = [
        _checked_folder(path, machine, options, moved_data)
        if checkpoint is None
        else _checked_checkpoint(path, checkpoint, machine, test_set, several)
        for path, checkpoint in models
    ]
    return {name: scores for scorer in scorers for name, scores in scorer().items()}


def as_text(scores: Mapping[str, Any]) -> str:
    """The scores of one test set, for a terminal."""
    return sentences.as_text(scores) if "metric" in scores else translate.as_text(scores)


# Runs ----------------------------------------------------------------------------------------------------------------


def evaluate_run(run: Run, machine: Machine, options: ScoringOptions) -> Scores:
    """The scores of a trained run by SUBSET.CHOICE; each is computed once and kept in the run's folder."""
    return _checked_run(run, machine, options)()


def _checked_run(run: Run, machine: Machine, options: ScoringOptions) -> Callable[[], Scores]:
    """Check that a run can be scored; returns the function that scores it."""
    about = run.provenance()
    if not run.trained:
        raise UserError(f"{run.folder} is not trained to its end; type: {about['command']}")
    task = task_of(about["dataset"])
    data = task.checked_data(run, options)

    def score() -> Scores:
        with lock_folder(run.folder):
            steps = task.score(run, data, machine, options, rescore_hint(run.folder))
            return {name: read_scores(path) for step in steps for name, path in step.files(run).items()}

    return score


def state_of_scores(run: Run, data: Path, options: ScoringOptions) -> str:
    """DONE, OPEN or OTHER: the state in which `evaluate_run` will find the scores of a trained run on `data`."""
    steps = task_of(run.provenance()["dataset"]).scoring_steps(run, options, read_manifest(data))
    states = {state_of(run.folder, f"scoring-{step.name}", step.settings) for step in steps}
    return next((state for state in (OTHER, OPEN) if state in states), DONE)


def _checked_folder(
    path: Path, machine: Machine, options: ScoringOptions, moved_data: Path | None
) -> Callable[[], Scores]:
    """Check a run folder and record where its data is; returns the function that scores it."""
    run = Run.load(path)
    about = run.provenance()
    if about["dataset"] not in NAMES:
        raise UserError(f"{path} is scored by the recipe that trained it; type: {about['command']}")
    if moved_data is not None:
        folder = prepared(moved_data.resolve(), about["recipe"], about["pair"])
        read_manifest(folder)
        stamp = run.folder / ".training.json"
        recorded = read_stamp(stamp).get("contents", {}) if stamp.is_file() else {}
        current = content_hash(folder / "bin")
        if recorded.get("task.data", current) != current:
            raise UserError(
                f"{run.folder} was not trained on {folder}; give --data the folder that wff prepare made for it"
            )
        relocate(run, {"data": str(folder)})
    score = _checked_run(run, machine, options)
    return lambda: {f"{path}/scores/{name}": scores for name, scores in score().items()}


# Checkpoints ---------------------------------------------------------------------------------------------------------


def _checkpoints_of(path: Path, choices: Sequence[str] | None) -> list[Path]:
    """A checkpoint, or the chosen checkpoints of a save-dir of fairseq: by default all of `CHOICES` that it has."""
    if path.is_dir() and choices:
        return [checkpoint_of(path, choice) for choice in choices]
    there = [path / f"checkpoint_{choice}.pt" for choice in CHOICES]
    return [checkpoint for checkpoint in there if checkpoint.is_file()] or [checkpoint_of(path)]


def _checked_checkpoint(
    path: Path, checkpoint: Path, machine: Machine, test_set: BinarisedSet, several: bool
) -> Callable[[], Scores]:
    """Check a checkpoint of `path` and its test set; returns the function that scores it.

    several: whether names of files need the checkpoint's folder to be unique.
    """
    subset, reference = test_set.subset, test_set.reference
    data = test_set.data or binarised_of(path, checkpoint)
    translate.refuse_missing(data)
    folder = data.resolve().parent
    pieces, language, text = translate.Pieces(), "", {}
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        pieces, language, text = translate.pieces_of(manifest), manifest["target"], text_of(manifest)
    reference = reference or translate.raw_text_of(data, subset)
    lines = translate.raw_reference(data, subset, reference)
    language = language or reference.suffix.lstrip(".")

    def score() -> Scores:
        decode = Decode(**test_set.search)
        with Progress(desc=checkpoint.name, total=len(lines), unit="sentence", lines=True) as bar:
            hypotheses = translate.generate(checkpoint, data, subset, decode, machine, pieces, bar.update)
        scores = {**text, **all_scores(hypotheses, lines, language)}
        if test_set.out:
            name = f"{checkpoint.parent.name}-{checkpoint.stem}" if several else checkpoint.stem
            write_atomically(test_set.out / f"{name}.hyp.txt", "".join(f"{line}\n" for line in hypotheses))
            write_atomically(test_set.out / f"{name}.score.json", json.dumps(scores, indent=2) + "\n")
        return {str(checkpoint): scores}

    return score
