"""How evenly the parameters of checkpoints contribute, as a table and as violins.

The sensitivity |theta * grad| of every parameter, the mean over random batches (Xu et al. 2022, sections 2.1 to 2.3 and
appendix B), statistics of all of them, and a sample to draw. Left out on purpose: sensitivity while a model trains
(`--log-importance`), and the translations of a model without its least sensitive weights (`prune.py`).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..core import fisher
from ..core.balance import Distribution
from ..core.importance import loss_preserving
from ..core.masks import stream_key, uniform
from ..core.parameter_groups import Group, groups_of, in_order
from ..core.scope import Entry, Scope, catalogue
from ..core.snapshot import fingerprint
from ..core.tensor_files import refuse_bad_numbers
from ..errors import UserError
from ..figures import drawing
from ..files import atomic_file, write_atomically
from ..workspace.checkpoints import read_checkpoint
from ..workspace.labels import as_file_name, reuse
from ..workspace.locks import lock_folder
from ..workspace.progress import say
from ..workspace.tables import as_csv
from .gradients import Sample, draw_batches, of_batches

_DRAWN_SHARE, _DRAWN_AT_MOST, _TRIMMED = 0.1, 100_000, 0.01
_BLOCK = 1 << 20


# One checkpoint -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sensitivities:
    """The mean sensitivity, over the batches, of every parameter that the loss depends on."""

    entries: list[Entry]
    totals: list[Tensor]
    batches: int


def measure(path: Path, scope: Scope, sample: Sample) -> Sensitivities:
    """|theta * grad| of the weights in `scope`, averaged in float32 over random batches.

    Memory, beside the model and the activations of a batch: a gradient and a sum of each weight, 8 bytes.
    """
    from ..plugin.trained import Trained

    assert sample.data is not None
    trained = Trained.load(path, sample.data, sample.split, sample.device)
    in_scope = [(entry, weight) for entry, weight in catalogue(trained.model) if entry.within(scope) and weight.numel()]
    if not in_scope:
        raise UserError(f"{path} has no attention or feed-forward matrix; type --scope all")
    weights = {entry.name: weight.requires_grad_() for entry, weight in in_scope}
    totals, used = fisher.zeros(weights), set()
    batches = draw_batches(trained, sample)
    for grads in of_batches(trained, weights, batches):
        for name, weight in weights.items():
            grad = grads.pop(0)  # frees it before the gradients of the next batch are computed
            if grad is not None:
                totals[name].add_(loss_preserving(weight.detach(), grad), alpha=1 / len(batches))
                used.add(name)
    refuse_bad_numbers(totals, f"{path}: the sensitivity of")
    if not any(bool(total.any()) for total in totals.values()):
        raise UserError(f"{path}: every sensitivity is 0; give a checkpoint of a model that was trained")
    # fairseq 0.12.2 gives its layers parameters that nothing reads; as zeros they would look unbalanced.
    if unused := [name for name in weights if name not in used]:
        say(f"left out, since the loss does not depend on them: {', '.join(unused)}")
    entries = [entry for entry, _ in in_scope if entry.name in used]
    return Sensitivities(entries, [totals[entry.name] for entry in entries], len(batches))


def summarise(measured: Sensitivities, seed: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Statistics of each group, and the sample for the violins, in one pass over all numbers, a block at a time."""
    groups: dict[Group, Distribution] = {}
    # DEVIATION: Xu et al. appendix B draws 10 % of the sensitivities; here it is 10 %, but about 100,000 of them at
    # most, which give the same violin.
    share = min(_DRAWN_SHARE, _DRAWN_AT_MOST / sum(total.numel() for total in measured.totals))
    drawn = bytearray()
    for entry, total in zip(measured.entries, measured.totals, strict=True):
        distribution = Distribution.of(total).cpu()
        for group in groups_of(entry):
            groups.setdefault(group, Distribution()).add_(distribution)
        draw(drawn, total, share, seed, entry.name)
    sample = np.frombuffer(drawn, np.float32)
    # Where all scores of a group are 0, a ratio is not a number: None, an empty cell, since JSON has no word for it.
    rows = [
        {"by": by, "group": name, "batches": measured.batches}
        | {key: x if math.isfinite(x) else None for key, x in groups[by, name].statistics().items()}
        for by, name in in_order(groups)
    ]
    return rows, sample[sample <= groups["model", "all"].quantile(1 - _TRIMMED)]


def draw(drawn: bytearray, scores: Tensor, share: float, seed: int, name: str) -> None:
    """Append about `share` of `scores` to `drawn`: which ones is a function of (seed, name, position), on every device.

    One buffer, because many small tensors allocated between large temporary ones keep the memory of these in use.
    """
    key = stream_key(seed, 0, f"sensitivities of {name}")
    for place, block in enumerate(scores.reshape(-1).split(_BLOCK)):
        drawn += block.cpu()[uniform(len(block), key, start=place * _BLOCK) <= share].numpy().tobytes()


# Several checkpoints ------------------------------------------------------------------------------------------------


def compare(paths: Mapping[str, Path], scope: Scope, sample: Sample, folder: Path) -> list[dict[str, Any]]:
    """Measure all checkpoints, write table, samples and picture into `folder`, and return the rows of the table.

    Checkpoints that were measured with the same settings are not measured again; the table is written after each.

    Args:
        paths: checkpoints by label.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and the results need a folder; give another --out")
    for path in paths.values():
        if not path.is_file():  # now, and not after hours spent on the others
            raise UserError(f"there is no checkpoint {path}; give the path of a fairseq checkpoint")
    rows: list[dict[str, Any]] = []
    with lock_folder(folder):
        for number, (label, path) in enumerate(paths.items(), 1):
            say(f"checkpoint {number} of {len(paths)}: {label}")
            rows += [{"checkpoint": label, **row} for row in _rows_of(label, path, scope, sample, folder)]
            write_atomically(folder / "sensitivity.csv", as_csv(rows))
        try:
            picture(folder)
        except ImportError:
            say(drawing.NO_PICTURE)
    return rows


def sample_path(folder: Path, label: str) -> Path:
    """The sensitivities that a violin is drawn from: float32, as numpy.load reads them."""
    return folder / "samples" / f"{as_file_name(label)}.npy"


def _rows_of(label: str, path: Path, scope: Scope, sample: Sample, folder: Path) -> list[dict[str, Any]]:
    """The rows of one checkpoint, from its file in `folder` or measured anew."""
    settings = {
        "checkpoint": fingerprint(read_checkpoint(path)[1]),
        "data": str(sample.data and sample.data.resolve()),
        "scope": scope,
        **sample.settings,
    }
    goal = folder / "measured" / f"{as_file_name(label)}.json"
    content = reuse(goal, settings, folder, {"rows": [{"by": str}]})
    if content is None or not sample_path(folder, label).is_file():
        rows, drawn = summarise(measure(path, scope, sample), sample.seed)
        with atomic_file(sample_path(folder, label)) as part, part.open("wb") as file:
            np.save(file, drawn)
        content = {"path": str(path), "settings": settings, "rows": rows}
        write_atomically(goal, json.dumps(content, indent=2) + "\n")  # last: it says that the sample is complete
    else:
        say(f"{label} is measured already")
    rows_of_checkpoint: list[dict[str, Any]] = content["rows"]
    return rows_of_checkpoint


def picture(folder: Path, goal: Path | None = None) -> None:
    """A violin and the standard deviation of each checkpoint, from the table and the samples in `folder`.

    Above as in Xu et al., Figures 3, 5 and 9; below divided by the mean, which takes out how large gradients are.

    Args:
        goal: file to write (default: sensitivity.png and .pdf beside the table).
    """
    rows = [row for row in drawing.read_csv(folder / "sensitivity.csv") if row["by"] == "model"]
    names = [row["checkpoint"] for row in rows]
    samples = [np.load(sample_path(folder, name)) for name in names]
    over_mean = [sample / drawing.number(row["mean"]) for sample, row in zip(samples, rows, strict=True)]
    shown = (("std", "(nats per token)", samples), ("std_over_mean", "/ mean", over_mean))
    also = () if goal else (".pdf",)
    with drawing.panels(goal or folder / "sensitivity.png", len(shown), height=7.2, also=also) as axes:
        for axis, (column, unit, values) in zip(axes, shown, strict=True):
            drawing.draw_violins(axis, values)
            axis.set_ylabel(f"sensitivity {unit}")
            right = axis.twinx()
            drawing.draw_line(
                right, 3, column, ((place, drawing.number(row[column])) for place, row in enumerate(rows))
            )
            right.set_ylabel(f"\u25c6 standard deviation {unit}", color=right.lines[0].get_color())
            for side in (axis, right):
                side.set_ylim(bottom=0)
                side.ticklabel_format(axis="y", scilimits=(-3, 4))
        axes[0].set_title("violins: without the top 1 %; \u25c6: of all", fontsize="medium")
        long = len("".join(names)) > 50
        axes[-1].set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center")
