"""Figures of what comes out of trainings: scores by passes and by pruning, the norms of weights.

Their rows come from scored runs, from tables of `wff prune` and `wff prune-iterative`, and from checkpoints. Left out
on purpose: making any of these.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import drawing
from .drawing import CsvRow, Options, draw_line, draw_means, number
from .training import PAPER
from .training_logs import RunFiles

# BLEU by passes -----------------------------------------------------------------------------------------------------

PASSES = ("run", "setting", "model", "scoring", "series", "passes", "seed", "bleu")
STANDARD = "standard"


def read_passes(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """The scores of one run of intra-distillation, or of standard training, which is one pass."""
    files = RunFiles(path)
    settings = files.settings()
    criterion = settings.get("criterion", {})
    if criterion.get("_name") == "intra_distillation":
        chosen = {"divergence": "x", **PAPER, **criterion}
        series = f"{chosen['divergence']}, alpha {number(chosen['alpha']):g} {chosen['alpha_schedule']}"
        passes = drawing.whole_number(chosen.get("num_passes", 3))
    elif criterion.get("_name") == "label_smoothed_cross_entropy" and "base_optimizer" not in settings["optimizer"]:
        series, passes = STANDARD, 1
    else:
        return []
    return [
        {
            "run": label,
            "setting": score.setting,
            "model": settings["model"]["_name"],
            "scoring": score.scoring,
            "series": series,
            "passes": passes,
            "seed": settings["common"]["seed"],
            "bleu": score.bleu,
        }
        for score in files.scores()
    ]


def draw_passes(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """A panel for each setting, whose scores are never compared with another's; a line a series, over K."""
    settings = drawing.lines_of(rows, ("setting", "model", "scoring"))
    series = [name for name in dict.fromkeys(row["series"] for row in rows) if name != STANDARD]
    titles = [of_setting[0]["setting"] for of_setting in settings.values()]
    if len(set(titles)) < len(titles):  # what tells them apart is more than a reader asks for
        titles = list(settings)
    furthest = max(drawing.whole_number(row["passes"]) for row in rows)
    with drawing.paper(picture, len(settings), options) as axes:
        for axis, title, of_setting in zip(axes, titles, settings.values(), strict=True):
            if standard := [number(row["bleu"]) for row in of_setting if row["series"] == STANDARD]:
                drawing.draw_level(axis, 0, "standard (K = 1)", (1, furthest), standard)
            for index, name in enumerate(series, 1):
                if of_series := [row for row in of_setting if row["series"] == name]:
                    draw_means(axis, index, name, drawing.points(of_series, "passes", "bleu"))
            axis.set(xlabel="passes K", ylabel="BLEU", xticks=range(1, furthest + 1))
            if len(settings) > 1:
                axis.set_title(drawing.wrapped(title))


# Scores by pruning --------------------------------------------------------------------------------------------------

PRUNING = ("table", "model", "method", "seed", "pruned", "bleu", "chrf", "change", "signature")
_PARENT, _NOTHING = "parent", "none"  # rows of `wff prune-iterative`: where all begin, and tuned without pruning


def read_pruning(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """The points of one table; `change`: of BLEU since nothing was pruned, where the table has that."""
    table = next((path / name for name in ("curve.csv", "table.csv") if (path / name).is_file()), path)
    points = drawing.read_csv(table) if table.is_file() and table.suffix == ".csv" else []
    columns = set(points[0]) if points else set()
    if {"checkpoint", "method", "remaining"} <= columns:
        rows = [_row(label, row["checkpoint"], row["method"], "", 1 - number(row["remaining"]), row) for row in points]
    elif {"prune", "alignreg", "sparsity"} <= columns:
        rows = _iterative(label, points)
    else:
        return []
    start = {(row["model"], row["method"], row["seed"]): number(row["bleu"]) for row in rows if not row["pruned"]}
    for row in rows:
        key = row["model"], row["method"], row["seed"]
        row["change"] = f"{number(row['bleu']) - start[key]:.2f}" if key in start else ""
    return rows


def _row(label: str, model: str, method: str, seed: str, pruned: float, row: CsvRow) -> dict[str, Any]:
    return {
        "table": label,
        "model": model,
        "method": method,
        "seed": seed,
        "pruned": float(f"{pruned:.6g}"),
        "bleu": row["bleu"],
        "chrf": row["chrf"],
        "change": "",
        "signature": row.get("signature") or row.get("bleu_signature", ""),
    }


def _iterative(label: str, runs: Sequence[CsvRow]) -> list[dict[str, Any]]:
    """Runs that were pruned while they trained on: the line of each begins at what was tuned for as long, unpruned."""
    starts = {row["seed"]: row for row in runs if row["prune"] == _PARENT}
    starts |= {row["seed"]: row for row in runs if row["prune"] == _NOTHING}
    rows = []
    for row in runs:
        if row["prune"] in (_PARENT, _NOTHING):
            continue
        cell = label, f"alignreg {row['alignreg']}", row["prune"], row["seed"]
        if row["seed"] in starts:
            rows.append(_row(*cell, 0, starts[row["seed"]]))
        rows.append(_row(*cell, number(row["sparsity"]), row))
    return rows


def draw_pruning(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """BLEU over the share of the weights that is pruned, and its change; a line a model and method.

    Where these are too many to tell apart, a panel a model, in which methods keep their looks.
    """
    lines = drawing.lines_of(rows, ("table", "model", "method"))
    models = list(dict.fromkeys(row["model"] for row in rows))
    if len(lines) > drawing.TOLD_APART and len(models) > 1:
        lines = drawing.lines_of(rows, ("method", "table"))
    else:
        models = [""]
    shown = [("bleu", "BLEU")]
    if any(row["change"] != "" for row in rows):
        shown.append(("change", "change of BLEU"))
    panels = [(model, column, what) for model in models for column, what in shown]
    with drawing.paper(picture, len(panels), options) as axes:
        for axis, (model, column, what) in zip(axes, panels, strict=True):
            for index, (name, line) in enumerate(lines.items()):
                drawn = [row for row in line if model in ("", row["model"]) and row[column] != ""]
                if drawn:
                    draw_means(axis, index, name, ((100 * x, y) for x, y in drawing.points(drawn, "pruned", column)))
            axis.set(xlabel="pruned weights (%)", ylabel=what, title=model)


# Norms of weights ---------------------------------------------------------------------------------------------------

NORMS = ("run", "layer", "type", "parameters", "zeros", "norm")
_MATRIX = re.compile(r"(self|cross)-attention |fc[12]$")


def read_norms(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """The L2 norm of the weights of each layer and type of module, from a checkpoint's names alone: no model is built.

    Tied tensors count once; buffers, which have no name of a weight or bias, do not count.
    """
    from torch import linalg, nn

    from ..core.difference import tied
    from ..core.parameter_groups import layer, module_type
    from ..core.scope import Entry
    from ..core.tensor_files import refuse_bad_numbers
    from ..workspace.checkpoints import read_checkpoint
    from ..workspace.progress import say

    say(f"{label}: reading {path}")
    tensors = {n: t for n, t in read_checkpoint(path)[1].items() if re.search(r"(^|[._])(weight|bias)$", n)}
    refuse_bad_numbers(tensors, f"{path}:")
    sums: dict[tuple[str, str], list[float]] = {}
    for names in tied(tensors):
        name, tensor = names[0], tensors[names[0]]
        owners = (nn.Embedding,) if "embed" in name else ()
        entry = Entry(name, tuple(names), owners, tensor.shape)
        totals = sums.setdefault((layer(entry) or "", module_type(entry)), [0, 0, 0.0])
        totals[0] += tensor.numel()
        totals[1] += tensor.numel() - int(tensor.count_nonzero())
        totals[2] += float(linalg.vector_norm(tensor.float()).double() ** 2)
    return [
        {"run": label, "layer": place, "type": kind, "parameters": count, "zeros": zeros, "norm": math.sqrt(squares)}
        for (place, kind), (count, zeros, squares) in sums.items()
    ]


def draw_norms(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """A panel a checkpoint and side: the norms of its matrices, a line a type, over the layers."""
    matrices = [row for row in rows if row["layer"] and _MATRIX.match(row["type"])]
    if not matrices:
        raise UserError("no attention or feed-forward matrix in any layer; give checkpoints of a Transformer")
    kinds = list(dict.fromkeys(row["type"] for row in matrices))
    panels: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in matrices:
        side, place = row["layer"].removesuffix(".").rsplit(".", 1)
        value = number(row["norm"]) / (math.sqrt(number(row["parameters"])) if options.per_parameter else 1)
        lines = panels.setdefault((row["run"], side.removesuffix(".layers")), {})
        lines.setdefault(row["type"], []).append((int(place) + 1, value))
    several = len({run for run, _ in panels}) > 1
    with drawing.paper(picture, len(panels), options, share_y="all") as axes:
        for axis, ((run, side), lines) in zip(axes, panels.items(), strict=True):
            for kind, norms in lines.items():
                draw_line(axis, kinds.index(kind), kind, sorted(norms), markevery=1)
            axis.set(xlabel="layer", ylabel="norm / \u221aparameters" if options.per_parameter else "norm of weights")
            axis.set_title(drawing.wrapped(f"{run}, {side}" if several else side))
            axis.xaxis.get_major_locator().set_params(integer=True)
        drawing.from_zero(axes)
