"""`wff evaluate` of a run on labelled sentences: every set predicted with its checkpoints, and scored by its labels.

The sets of one subset (the languages of XNLI) are scored one by one, and all together. What GLUE keeps the labels of is
written as its server takes it. Left out on purpose: an average of checkpoints, which nobody reports for fine-tuning.
"""

import importlib.util
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...data import read_manifest
from ...errors import UserError
from ...files import whole_folder, write_atomically
from ...forms import read_json
from ...workspace.machine import Machine
from ...workspace.processes import reason, refuse_when_stopping, started
from ...workspace.progress import progress, say
from ...workspace.runs import Run
from ...workspace.steps import once
from ..results import SCORE_FORM
from ..scores import read_lines
from .measures import MEASURES, all_scores, as_numbers

CHOICES = ("best", "last")
DONE = "predicted "  # how a line of `predict.py` begins, before a number
_BATCH = 32


def evaluate_run(run: Run, machine: Machine, choices: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """The scores of a finished run by SUBSET.CHOICE, kept in its folder."""
    folder = Path(run.provenance()["data"])
    manifest = read_manifest(folder)
    found = {}
    for choice, about in steps_of(choices).items():
        work = partial(_score, run, machine, folder, manifest, choice)
        once(run.folder, f"scoring-{choice}", about, work, f"type: rm {run.folder}/.scoring-*")
        for subset in manifest["subsets"]:
            path = run.folder / "scores" / f"{subset}.{choice}.json"
            if path.is_file():
                found[f"{subset}.{choice}"] = read_json(path, SCORE_FORM, f"type: rm {run.folder}/.scoring-*")
    return found


def refuse_early(run: Run, choices: Sequence[str] | None) -> None:
    """What makes scoring impossible, before anything is predicted."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("labels are scored by scikit-learn and scipy; type: pip install scikit-learn scipy")
    if "average" in (choices or ()):
        raise UserError(f"{run.folder} is not translated: there is no average; type --choices {','.join(CHOICES)}")


def steps_of(choices: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """The settings of the step for each checkpoint that is wanted."""
    return {choice: {"choice": choice} for choice in choices or CHOICES}


def shown(found: Mapping[str, Any]) -> str:
    """One line on a score."""
    values = ", ".join(f"{MEASURES[name].title} {value:.2f}" for name, value in found["scores"].items())
    several = (
        "".join(f", {name} {value:.1f}" for name, value in found["sets"].items()) if len(found["sets"]) > 1 else ""
    )
    return f"{values}  {found['sentences']:,} sentences{several}  {found['signature']}"


def _score(run: Run, machine: Machine, folder: Path, manifest: Mapping[str, Any], choice: str) -> None:
    """Predict all sets with one checkpoint, and leave labels and scores."""
    checkpoint = run.folder / f"checkpoints/checkpoint_{choice}.pt"
    if not checkpoint.is_file():
        raise UserError(f"there is no checkpoint {checkpoint}; type --choices with one that is there")
    rows = {split: manifest["rows"][split] for own in manifest["subsets"].values() for split in own.values()}
    made = run.folder / "predictions" / choice
    with whole_folder(made) as part:
        _predict(run, machine, checkpoint, folder / "bin", part, rows, manifest["scale"])
    for subset, own in manifest["subsets"].items():
        _leave(run, folder, manifest, choice, subset, {name: made / split for name, split in own.items()})


def _predict(
    run: Run, machine: Machine, checkpoint: Path, data: Path, out: Path, rows: Mapping[str, int], scale: float | None
) -> None:
    """A file of labels for each split of `rows`, which says how many it has."""
    total = sum(rows.values())
    say(f"{run.name}: predicting {total:,} labels with {checkpoint.name}")
    watch = progress(run.name, total)
    words = [checkpoint, data, out, *rows, "--batch", _BATCH, "--scale", scale or 1]
    with (
        machine.environment() as env,
        tempfile.TemporaryFile() as errors,
        started(
            f"{__package__}.predict", [*words, "--device", machine.device],
            stdout=subprocess.PIPE, stderr=errors, env=env, text=True,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(DONE):
                watch(int(line.removeprefix(DONE)))
        process.wait()
        errors.seek(0)
        said = errors.read().decode("utf-8", errors="replace")
    if process.returncode != 0:
        refuse_when_stopping()
        raise UserError(f"predicting with {checkpoint} failed: {reason(said, process.returncode)}")
    for split, number in rows.items():
        if (count := len(read_lines(out / split))) != number:
            raise UserError(f"{count} labels of {split} were predicted, where it has {number} rows")


def _leave(
    run: Run, folder: Path, manifest: Mapping[str, Any], choice: str, subset: str, made: Mapping[str, Path]
) -> None:
    """The predictions of a subset, its sets one after another, and their scores or the file for the server."""
    goal = run.folder / "scores" / f"{subset}.{choice}.json"
    predicted = {name: read_lines(path) for name, path in made.items()}
    lines = [line for own in predicted.values() for line in own]
    write_atomically(goal.with_name(f"{subset}.{choice}.hyp.txt"), "".join(f"{line}\n" for line in lines))
    reference = folder / "labels" / f"{subset}.txt"
    if not reference.is_file():
        rows = "".join(f"{number}\t{line}\n" for number, line in enumerate(lines))
        write_atomically(run.folder / "server" / choice / f"{manifest['task']}.tsv", f"index\tprediction\n{rows}")
        return
    labels, metrics = manifest["labels"], manifest["metrics"]
    gold, mine = as_numbers(read_lines(reference), labels, reference), as_numbers(lines, labels, goal)
    sets, first = {}, 0
    for name, own in predicted.items():
        last = first + len(own)
        sets[name] = all_scores(mine[first:last], gold[first:last], metrics[:1])[metrics[0]]
        first = last
    scores = all_scores(mine, gold, metrics)
    found = {
        "subset": subset, "choice": choice, "decode": {}, "recipe": manifest["recipe"], "task": manifest["task"],
        "checkpoint": f"checkpoints/checkpoint_{choice}.pt", "reference": str(reference), "sentences": len(gold),
        "labels": labels, "metric": metrics[0], "score": scores[metrics[0]],
        "signature": MEASURES[metrics[0]].signature, "scores": scores, "sets": sets,
    }  # fmt: skip
    write_atomically(goal, json.dumps(found, indent=2) + "\n")
