"""A run on labelled sentences: every set predicted with one checkpoint, and scored by its labels.

The sets of one subset (the languages of XNLI) are scored one by one, and all together. Predictions for a set whose
labels GLUE keeps to itself are written in the format of its server.
"""

import importlib.util
import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import atomic_folder, write_atomically
from ...workspace.machine import Machine
from ...workspace.processes import failure_reason, refuse_when_stopping, start_module
from ...workspace.progress import Progress, say
from ...workspace.runs import Run
from ..scores import read_lines
from .measures import MEASURES, all_scores, as_numbers

_PREDICT = "weighted_freezing_fairseq.plugin.predict"  # a process of its own: only plugin/ imports fairseq
_PROGRESS = "predicted "  # how a line of its progress begins
_BATCH = 32


def refuse_without_packages() -> None:
    """Say what to install before anything is predicted."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("labels are scored by scikit-learn and scipy; type: pip install scikit-learn scipy")


def score_labels(run: Run, machine: Machine, folder: Path, manifest: Mapping[str, Any], choice: str) -> None:
    """Predict all sets of the data in `folder` with one checkpoint, and write labels and scores to the run's folder."""
    checkpoint = run.folder / f"checkpoints/checkpoint_{choice}.pt"
    if not checkpoint.is_file():
        raise UserError(f"there is no checkpoint {checkpoint}; type --choices with one that is there")
    rows = {split: manifest["rows"][split] for sets in manifest["subsets"].values() for split in sets.values()}
    predictions = run.folder / "predictions" / choice
    with atomic_folder(predictions) as part:
        _predict(run, machine, checkpoint, folder / "bin", part, rows, manifest["scale"])
    for subset, sets in manifest["subsets"].items():
        paths = {name: predictions / split for name, split in sets.items()}
        write_scores(run, folder, manifest, choice, subset, paths)


def as_text(scores: Mapping[str, Any]) -> str:
    """One line about the scores of a subset."""
    values = ", ".join(f"{MEASURES[name].title} {value:.2f}" for name, value in scores["scores"].items())
    sets = "".join(f", {name} {value:.1f}" for name, value in scores["sets"].items()) if len(scores["sets"]) > 1 else ""
    return f"{values}  {scores['sentences']:,} sentences{sets}  {scores['signature']}"


def _predict(
    run: Run, machine: Machine, checkpoint: Path, data: Path, out: Path, rows: Mapping[str, int], scale: float | None
) -> None:
    """A file of labels for each split of `rows`, which holds the number of its rows."""
    total = sum(rows.values())
    say(f"{run.name}: predicting {total:,} labels with {checkpoint.name}")
    words = [checkpoint, data, out, *rows, "--batch", _BATCH, "--scale", scale or 1]
    words += ["--device", machine.device, "--progress", _PROGRESS]
    with (
        machine.environment() as env,
        tempfile.TemporaryFile() as errors,
        start_module(_PREDICT, words, stdout=subprocess.PIPE, stderr=errors, env=env, text=True) as process,
        Progress(desc=run.name, total=total, unit="label", lines=True) as bar,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(_PROGRESS):
                bar.update(int(line.removeprefix(_PROGRESS)) - bar.n)
        process.wait()
        errors.seek(0)
        stderr = errors.read().decode("utf-8", errors="replace")
    if process.returncode != 0:
        refuse_when_stopping()
        raise UserError(f"predicting with {checkpoint} failed: {failure_reason(stderr, process.returncode)}")
    for split, number in rows.items():
        if (count := len(read_lines(out / split))) != number:
            raise UserError(f"{count} labels of {split} were predicted, where it has {number} rows")


def write_scores(
    run: Run, folder: Path, manifest: Mapping[str, Any], choice: str, subset: str, predictions: Mapping[str, Path]
) -> None:
    """The predictions of a subset, its sets one after another, and their scores or the file for GLUE's server."""
    goal = run.folder / "scores" / f"{subset}.{choice}.json"
    by_set = {name: read_lines(path) for name, path in predictions.items()}
    lines = [line for labels in by_set.values() for line in labels]
    write_atomically(goal.with_name(f"{subset}.{choice}.hyp.txt"), "".join(f"{line}\n" for line in lines))
    reference = folder / "labels" / f"{subset}.txt"
    if not reference.is_file():
        rows = "".join(f"{number}\t{line}\n" for number, line in enumerate(lines))
        write_atomically(run.folder / "server" / choice / f"{manifest['task']}.tsv", f"index\tprediction\n{rows}")
        return
    labels, metrics = manifest["labels"], manifest["metrics"]
    gold, predicted = as_numbers(read_lines(reference), labels, reference), as_numbers(lines, labels, goal)
    sets, first = {}, 0
    for name, set_lines in by_set.items():
        last = first + len(set_lines)
        sets[name] = all_scores(predicted[first:last], gold[first:last], metrics[:1])[metrics[0]]
        first = last
    scores = all_scores(predicted, gold, metrics)
    record = {
        "subset": subset, "choice": choice, "decode": {}, "recipe": manifest["recipe"], "task": manifest["task"],
        "checkpoint": f"checkpoints/checkpoint_{choice}.pt", "reference": str(reference), "sentences": len(gold),
        "labels": labels, "metric": metrics[0], "score": scores[metrics[0]],
        "signature": MEASURES[metrics[0]].signature, "scores": scores, "sets": sets,
    }  # fmt: skip
    write_atomically(goal, json.dumps(record, indent=2) + "\n")
