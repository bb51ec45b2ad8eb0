"""The sensitivity |theta * grad| of the parameters of checkpoints, as a table and violin plots.

Sensitivities are means over random batches (Xu et al. 2022, sections 2.1 to 2.3 and appendix B). During training,
`--log-importance` measures them.
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
from ..core.rules import Scope
from ..core.scope import Entry, catalogue
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
from .gradients import Sample, draw_batches, gradients_of

_PLOTTED_SHARE, _PLOTTED_AT_MOST, _TRIMMED = 0.1, 100_000, 0.01
_BLOCK = 1 << 20  # numbers that are copied from a GPU at once


# One checkpoint -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sensitivities:
    """The sensitivity of every parameter that the loss depends on, as the mean over batches."""

    entries: list[Entry]
    means: list[Tensor]
    batches: int


def measure(path: Path, scope: Scope, sample: Sample) -> Sensitivities:
    """|theta * grad| of the weights in `scope`, averaged in float32 over random batches.

    Besides the model and the activations of a batch, it needs 8 bytes per weight: a gradient and a sum.
    """
    from ..plugin.trained import Trained

    assert sample.data is not None
    trained = Trained.load(path, sample.data, sample.split, sample.device)
    in_scope = [(entry, weight) for entry, weight in catalogue(trained.model) if entry.within(scope) and weight.numel()]
    if not in_scope:
        raise UserError(f"{path} has no attention or feed-forward matrix; type --scope all")
    weights = {entry.name: weight.requires_grad_() for entry, weight in in_scope}
    means, used = fisher.zeros(weights), set()
    batches = draw_batches(trained, sample)
    for grads in gradients_of(trained, weights, batches):
        for name, weight in weights.items():
            grad = grads.pop(0)  # frees it before the gradients of the next batch are computed
            if grad is not None:
                means[name].add_(loss_preserving(weight.detach(), grad), alpha=1 / len(batches))
                used.add(name)
    refuse_bad_numbers(means, f"{path}: the sensitivity of")
    if not any(bool(mean.any()) for mean in means.values()):
        raise UserError(f"{path}: every sensitivity is 0; give a checkpoint of a model that was trained")
    # fairseq 0.12.2 gives its layers unused parameters; zeros for them would look like imbalance.
    if unused := [name for name in weights if name not in used]:
        say(f"left out, since the loss does not depend on them: {', '.join(unused)}")
    entries = [entry for entry, _ in in_scope if entry.name in used]
    return Sensitivities(entries, [means[entry.name] for entry in entries], len(batches))


def summarise(sensitivities: Sensitivities, seed: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Statistics of each group of parameters, and a sample of the sensitivities for the violin plot."""
    groups: dict[Group, Distribution] = {}
    # DEVIATION: Xu et al. appendix B draws 10 % of the sensitivities; here it is 10 %, but about 100,000 of them at
    # most, which give the same violin.
    share = min(_PLOTTED_SHARE, _PLOTTED_AT_MOST / sum(mean.numel() for mean in sensitivities.means))
    # One buffer: small tensors that are allocated between large temporary ones would keep the memory of those in use.
    drawn = bytearray()
    for entry, mean in zip(sensitivities.entries, sensitivities.means, strict=True):
        distribution = Distribution.from_scores(mean).cpu()
        for group in groups_of(entry):
            groups.setdefault(group, Distribution()).add_(distribution)
        # Which numbers are drawn depends on seed, name and position only, on every device.
        key = stream_key(seed, 0, f"sensitivities of {entry.name}")
        for index, block in enumerate(mean.reshape(-1).split(_BLOCK)):
            drawn += block.cpu()[uniform(len(block), key, start=index * _BLOCK) <= share].numpy().tobytes()
    sample = np.frombuffer(drawn, np.float32)
    # A ratio of sensitivities that are all 0 is NaN, which JSON lacks: None, and an empty cell of the table.
    rows = [
        {"by": by, "group": name, "batches": sensitivities.batches}
        | {key: value if math.isfinite(value) else None for key, value in groups[by, name].statistics().items()}
        for by, name in in_order(groups)
    ]
    return rows, sample[sample <= groups["model", "all"].quantile(1 - _TRIMMED)]


# Several checkpoints ------------------------------------------------------------------------------------------------


def compare(paths: Mapping[str, Path], scope: Scope, sample: Sample, folder: Path) -> list[dict[str, Any]]:
    """Measure several checkpoints, and write table, samples and picture into `folder`; returns the rows of the table.

    A checkpoint that an earlier call measured with the same settings is not measured again.

    Args:
        paths: checkpoints by label.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and the results need a folder; give another --out")
    for path in paths.values():
        if not path.is_file():  # before hours are spent on the others
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
    """The file of the sensitivities that are plotted: float32, for numpy.load."""
    return folder / "samples" / f"{as_file_name(label)}.npy"


def _rows_of(label: str, path: Path, scope: Scope, sample: Sample, folder: Path) -> list[dict[str, Any]]:
    """The rows of one checkpoint, from its file in `folder` or from a new measurement."""
    settings = {
        "checkpoint": fingerprint(read_checkpoint(path)[1]),
        "data": str(sample.data and sample.data.resolve()),
        "scope": scope,
        **sample.settings,
    }
    file = folder / "measured" / f"{as_file_name(label)}.json"
    content = reuse(file, settings, folder, {"rows": [{"by": str}]})
    if content is not None and sample_path(folder, label).is_file():
        say(f"{label} is measured already")
    else:
        rows, plotted = summarise(measure(path, scope, sample), sample.seed)
        with atomic_file(sample_path(folder, label)) as part, part.open("wb") as stream:
            np.save(stream, plotted)
        content = {"path": str(path), "settings": settings, "rows": rows}
        write_atomically(file, json.dumps(content, indent=2) + "\n")  # last: it marks the sample as complete
    rows_of_checkpoint: list[dict[str, Any]] = content["rows"]
    return rows_of_checkpoint


def picture(folder: Path, goal: Path | None = None, width: float = 6.4) -> None:
    """Plot a violin and the standard deviation of each checkpoint, from the table and the samples in `folder`.

    The upper panel is that of Xu et al., Figures 3, 5 and 9, on a logarithmic axis; the lower one is divided by the
    mean, which removes the scale of the gradients.

    Args:
        goal: file to write (default: sensitivity.png and .pdf beside the table).
        width: in inches.
    """
    rows = [row for row in drawing.read_csv(folder / "sensitivity.csv") if row["by"] == "model"]
    names = [row["checkpoint"] for row in rows]
    samples = [np.load(sample_path(folder, name)) for name in names]
    over_mean = [sample / drawing.number(row["mean"]) for sample, row in zip(samples, rows, strict=True)]
    panels = (("std", "(nats/token)", samples), ("std_over_mean", "/ mean", over_mean))
    also = () if goal else (".pdf",)
    with drawing.panels(goal or folder / "sensitivity.png", len(panels), 5.4, also, width) as axes:
        for axis, (column, unit, values) in zip(axes, panels, strict=True):
            drawing.draw_violins(axis, values)
            drawing.draw_values(axis, 3, column, [drawing.number(row[column]) for row in rows])
            axis.set_ylabel(f"sensitivity {unit}")
        axes[0].set_title("violins: without zeros, lowest and highest 1 %;\n\u25c6: std of all", fontsize="medium")
        ticks = {"rotation": 30, "ha": "right"} if len("".join(names)) > 8 * width else {}
        axes[-1].set_xticks(range(len(names)), names, **ticks)
