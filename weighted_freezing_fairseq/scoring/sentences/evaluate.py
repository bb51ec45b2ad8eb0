"""Predict the labels of every set of a run with one checkpoint, and score them.

The sets of one subset (the languages of XNLI) are scored one by one and all together. Predictions for a set without
labels are written in the format of GLUE's server, to a file of its name.
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import atomic_folder, write_atomically
from ...workspace.machine import Machine
from ...workspace.progress import Progress, say
from ...workspace.runs import Run
from ..scores import read_lines
from ..translate import run_module
from .measures import MEASURES, all_scores, as_numbers

_PREDICT = "weighted_freezing_fairseq.plugin.predict"  # runs as a process, because only plugin/ imports fairseq
_PROGRESS = "predicted "  # prefix of its lines of progress
_BATCH = 32


def refuse_without_packages() -> None:
    """Raise UserError if a package that scores labels is missing."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("labels are scored by scikit-learn; type: pip install scikit-learn")


def score_labels(run: Run, machine: Machine, folder: Path, manifest: Mapping[str, Any], choice: str) -> None:
    """Predict all sets of the data in `folder` with one checkpoint; write labels and scores to the run's folder."""
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
    """The scores of one subset, for a terminal."""
    values = ", ".join(f"{MEASURES[name].title} {value:.2f}" for name, value in scores["scores"].items())
    sets = "".join(f", {name} {value:.1f}" for name, value in scores["sets"].items()) if len(scores["sets"]) > 1 else ""
    return f"{values}  {scores['sentences']:,} sentences{sets}  {scores['signature']}"


def _predict(
    run: Run, machine: Machine, checkpoint: Path, data: Path, out: Path, rows: Mapping[str, int], scale: float | None
) -> None:
    """Write a file of labels to `out` for each split; `rows`: number of rows of each split."""
    total = sum(rows.values())
    say(f"{run.name}: predicting {total:,} labels with {checkpoint.name}")
    words = [checkpoint, data, out, *rows, "--batch", _BATCH, "--scale", scale or 1]
    words += ["--device", machine.device, "--progress", _PROGRESS]

    with Progress(desc=run.name, total=total, unit="label", lines=True) as bar:

        def watch(line: str) -> None:
            if line.startswith(_PROGRESS):
                bar.update(int(line.removeprefix(_PROGRESS)) - bar.n)

        run_module(_PREDICT, words, machine, watch, f"predicting with {checkpoint} failed")
    for split, number in rows.items():
        if (count := len(read_lines(out / split))) != number:
            raise UserError(f"{count} labels of {split} were predicted, where it has {number} rows")


def write_scores(
    run: Run, folder: Path, manifest: Mapping[str, Any], choice: str, subset: str, predictions: Mapping[str, Path]
) -> None:
    """Write the predictions of a subset, and their scores or a file for GLUE's server for each set.

    predictions: the file of each set, in the order in which they are concatenated.
    """
    path = run.folder / "scores" / f"{subset}.{choice}.json"
    by_set = {name: read_lines(file) for name, file in predictions.items()}
    lines = [line for labels in by_set.values() for line in labels]
    write_atomically(path.with_name(f"{subset}.{choice}.hyp.txt"), "".join(f"{line}\n" for line in lines))
    reference = folder / "labels" / f"{subset}.txt"
    if not reference.is_file():
        for name, set_lines in by_set.items():
            rows = "".join(f"{number}\t{line}\n" for number, line in enumerate(set_lines))
            write_atomically(run.folder / "server" / choice / f"{name}.tsv", f"index\tprediction\n{rows}")
        return
    labels, metrics = manifest["labels"], manifest["metrics"]
    gold, predicted = as_numbers(read_lines(reference), labels, reference), as_numbers(lines, labels, path)
    sets, start = {}, 0
    for name, set_lines in by_set.items():
        end = start + len(set_lines)
        sets[name] = all_scores(predicted[start:end], gold[..., start:end], metrics[:1])[metrics[0]]
        start = end
    scores = all_scores(predicted, gold, metrics)
    record = {
        "subset": subset, "choice": choice, "decode": {}, "recipe": manifest["recipe"], "task": manifest["task"],
        "checkpoint": f"checkpoints/checkpoint_{choice}.pt", "reference": str(reference), "sentences": len(predicted),
        "labels": labels, "metric": metrics[0], "score": scores[metrics[0]],
        "signature": MEASURES[metrics[0]].signature, "scores": scores, "sets": sets,
    }  # fmt: skip
    write_atomically(path, json.dumps(record, indent=2) + "\n")
