"""`wff sensitivity`: how evenly the parameters of checkpoints contribute, as a table and as violins.

The sensitivity |theta * grad| of every parameter, the mean over random batches (Xu et al. 2022, sections 2.1 to 2.3 and
appendix B), statistics of all of them, and a sample to draw. Left out on purpose: sensitivity while a model trains
(`--log-importance`), and what would happen to its translations without the least sensitive weights (`prune.py`).
"""

import argparse
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..core import fisher
from ..core.balance import Distribution
from ..core.importance import loss_preserving
from ..core.masks import stream_key, uniform
from ..core.parts import Group, groups_of, in_order
from ..core.scope import SCOPES, Entry, Scope, catalogue
from ..core.snapshot import fingerprint
from ..core.tensor_files import refuse_bad_numbers
from ..errors import UserError
from ..figures import drawing
from ..files import whole, write_atomically
from ..workspace.checkpoints import read_checkpoint
from ..workspace.labels import as_file_name, labels, reuse
from ..workspace.locks import alone_in
from ..workspace.machine import a_device
from ..workspace.progress import say
from ..workspace.tables import as_csv
from .gradients import Sample, draw_batches, of_batches

HELP = """\
Measure how evenly the parameters of checkpoints contribute: the sensitivity abs(theta * grad) of each, the mean over
random batches; its standard deviation (the degree of contribution balance: lower is more balanced), Gini coefficient,
share of the top 20 % and quantiles, for the whole model, each type of module and each layer. With violins of
several checkpoints side by side. A call that is killed goes on with the checkpoint that it was at."""
EXAMPLE = """\
wff sensitivity runs/a/checkpoint_best.pt runs/b/checkpoint_best.pt --names standard,sage --data BIN \\
    --out runs/sensitivity"""

_DRAWN_SHARE, _DRAWN_AT_MOST, _TRIMMED = 0.1, 100_000, 0.01
_BLOCK = 1 << 20


# One checkpoint -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sensitivities:
    """Of every parameter that has a part in the loss: what it is, and the mean of its sensitivity over the batches."""

    entries: list[Entry]
    totals: list[Tensor]
    batches: int


def measure(path: Path, scope: Scope, sample: Sample) -> Sensitivities:
    """|theta * grad| of the weights in `scope`, averaged in float32 over random batches.

    Needs, beside the model and the activations of a batch, a gradient and a sum of each weight: 8 bytes.
    """
    from ..plugin.trained import Trained

    assert sample.data is not None
    trained = Trained.load(path, sample.data, sample.split, sample.device)
    chosen = [(entry, weight) for entry, weight in catalogue(trained.model) if entry.within(scope) and weight.numel()]
    if not chosen:
        raise UserError(f"{path} has no attention or feed-forward matrix; type --scope all")
    weights = {entry.name: weight.requires_grad_() for entry, weight in chosen}
    totals, used = fisher.zeros(weights), set()
    batches = draw_batches(trained, sample)
    for grads in of_batches(trained, weights, batches):
        for name, weight in weights.items():
            grad = grads.pop(0)  # so that none is left when those of the next batch are made
            if grad is not None:
                totals[name].add_(loss_preserving(weight.detach(), grad), alpha=1 / len(batches))
                used.add(name)
    refuse_bad_numbers(totals, f"{path}: the sensitivity of")
    if not any(bool(total.any()) for total in totals.values()):
        raise UserError(f"{path}: every sensitivity is 0; give a checkpoint of a model that was trained")
    # fairseq 0.12.2 gives its layers parameters that nothing reads; as zeros they would look unbalanced.
    unused = [name for name in weights if name not in used]
    if unused:
        say(f"left out, since the loss does not depend on them: {', '.join(unused)}")
    kept = [entry for entry, _ in chosen if entry.name in used]
    return Sensitivities(kept, [totals[entry.name] for entry in kept], len(batches))


def summarise(found: Sensitivities, seed: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Statistics of each group, and the sample for the violins: one look at every number, a block at a time."""
    groups: dict[Group, Distribution] = {}
    # DEVIATION: Xu et al. appendix B draws 10 % of the sensitivities; here it is 10 %, but about 100,000 of them at
    # most, which give the same violin.
    share = min(_DRAWN_SHARE, _DRAWN_AT_MOST / sum(total.numel() for total in found.totals))
    drawn = bytearray()
    for entry, total in zip(found.entries, found.totals, strict=True):
        own = Distribution.of(total).cpu()
        for group in groups_of(entry):
            groups.setdefault(group, Distribution()).add_(own)
        draw(drawn, total, share, seed, entry.name)
    everything = groups["model", "all"]
    sample = np.frombuffer(drawn, np.float32)
    rows = [
        {"by": by, "group": name, "batches": found.batches, **_without_nan(groups[by, name].statistics())}
        for by, name in in_order(groups)
    ]
    return rows, sample[sample <= everything.quantile(1 - _TRIMMED)]


def _without_nan(statistics: Mapping[str, float]) -> dict[str, float | None]:
    """None, an empty cell, where all scores of a group are 0 and for a ratio to 0: JSON has no word for either."""
    return {name: value if math.isfinite(value) else None for name, value in statistics.items()}


def draw(drawn: bytearray, scores: Tensor, share: float, seed: int, name: str) -> None:
    """Add about `share` of `scores` to `drawn`: which ones is a function of (seed, name, position), on every device.

    To one buffer, since many small tensors, made between large ones that go again, keep the memory of these in use.
    """
    key = stream_key(seed, 0, f"sensitivities of {name}")
    for place, block in enumerate(scores.reshape(-1).split(_BLOCK)):
        drawn += block.cpu()[uniform(len(block), key, start=place * _BLOCK) <= share].numpy().tobytes()


# Several checkpoints ------------------------------------------------------------------------------------------------


def sample_path(folder: Path, label: str) -> Path:
    """Where the sensitivities lie that a violin is drawn from: float32, as numpy.load reads them."""
    return folder / "samples" / f"{as_file_name(label)}.npy"


def measure_all(paths: Mapping[str, Path], scope: Scope, sample: Sample, folder: Path) -> list[dict[str, Any]]:
    """The rows of all checkpoints, of which those are measured that are missing; the table is written after each."""
    rows: list[dict[str, Any]] = []
    for number, (label, path) in enumerate(paths.items(), 1):
        say(f"checkpoint {number} of {len(paths)}: {label}")
        rows += [{"checkpoint": label, **row} for row in _measured(label, path, scope, sample, folder)]
        write_atomically(folder / "sensitivity.csv", as_csv(rows))
    return rows


def _measured(label: str, path: Path, scope: Scope, sample: Sample, folder: Path) -> list[dict[str, Any]]:
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
        with whole(sample_path(folder, label)) as part, part.open("wb") as file:
            np.save(file, drawn)
        content = {"path": str(path), "settings": settings, "rows": rows}
        write_atomically(goal, json.dumps(content, indent=2) + "\n")  # last: what it speaks of is there
    else:
        say(f"{label} is measured already")
    found: list[dict[str, Any]] = content["rows"]
    return found


def picture(folder: Path, goal: Path | None = None) -> None:
    """A violin and the standard deviation a checkpoint, from the table and the samples in `folder`.

    goal: where to; without, sensitivity.png and .pdf beside the table.

    Above as in Xu et al., Figures 3, 5 and 9; below divided by the mean, which takes out how large gradients are.
    """
    rows = [row for row in drawing.read_csv(folder / "sensitivity.csv") if row["by"] == "model"]
    names = [row["checkpoint"] for row in rows]
    samples = [np.load(sample_path(folder, name)) for name in names]
    over_mean = [sample / drawing.number(row["mean"]) for sample, row in zip(samples, rows, strict=True)]
    shown = (("std", "(nats per token)", samples), ("std_over_mean", "/ mean", over_mean))
    own = folder / "sensitivity.png"
    with drawing.panels(goal or own, len(shown), height=7.2, also=() if goal else (".pdf",)) as axes:
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


def _as_text(rows: Sequence[Mapping[str, Any]], folder: Path) -> str:
    lines = [
        f"{row['checkpoint']}  std {row['std']:.3g}  std/mean {row['std_over_mean']:.2f}  Gini {row['gini']:.3f}  "
        f"top 20 % hold {row['share_top20']:.1%}  ({row['parameters']:,} parameters, {row['batches']} batches)"
        for row in rows
        if row["by"] == "model"
    ]
    return "\n".join([*lines, f"wrote {folder}/"])


# The command --------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, on what, and where to put it."""
    parser.add_argument("checkpoint", nargs="+", type=Path, metavar="CHECKPOINT", help="fairseq checkpoint")
    parser.add_argument("--data", type=Path, required=True, metavar="BIN", help="binarised folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for table, samples and pictures")
    parser.add_argument("--names", metavar="A,B", help="what to call the checkpoints (default: by their paths)")
    parser.add_argument(
        "--scope",
        choices=SCOPES,
        default="all",
        help="all: every parameter (default); linear: matrices of attention and feed-forward layers",
    )
    parser.add_argument("--split", default="train", help="set to measure on (default train)")
    parser.add_argument("--batches", type=int, default=100, metavar="N", help="random batches of it (default 100)")
    parser.add_argument("--max-tokens", type=int, default=4000, help="longest of them, padding included (default 4000)")
    parser.add_argument("--seed", type=int, default=1, help="of the batches and of the sample drawn (default 1)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")
    parser.add_argument("--json", action="store_true", help="the table as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    logging.disable(logging.INFO)  # fairseq's own account of dictionaries and data
    for name in ("batches", "max_tokens"):
        if getattr(args, name) < 1:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} must be at least 1; type {option} 1, or leave it out")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"{args.out} is a file, and the results need a folder; give another --out")
    paths = labels(args.checkpoint, args.names)
    for path in paths.values():
        if not path.is_file():  # now, and not after hours spent on the others
            raise UserError(f"there is no checkpoint {path}; give the path of a fairseq checkpoint")
    sample = Sample(args.data, args.split, args.batches, args.max_tokens, args.seed, args.device or a_device())
    with alone_in(args.out):
        rows = measure_all(paths, args.scope, sample, args.out)
        try:
            picture(args.out)
        except ImportError:
            say(drawing.NO_PICTURE)
    print(json.dumps(rows, indent=2) if args.json else _as_text(rows, args.out))
    return 0
