"""Figures of trained models: scores by passes and by pruning, and the norms of weights.

Their rows come from scored runs, from tables of `wff prune` and `wff prune-iterative`, and from checkpoints.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ..errors import UserError
from . import drawing
from .drawing import CsvRow, Options, draw_line, draw_means, number
from .training import PAPER
from .training_logs import RunFiles

# BLEU by passes -----------------------------------------------------------------------------------------------------

PASSES = ("run", "setting", "model", "scoring", "series", "passes", "seed", "bleu")
STANDARD = "standard"
_STANDARD_LABEL = "standard (K = 1)"


def read_passes(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """The scores of a run of intra-distillation, or of standard training, which has one pass."""
    files = RunFiles(path)
    settings = files.settings()
    criterion = settings.get("criterion", {})
    if criterion.get("_name") == "intra_distillation":
        criterion = {"divergence": "x", **PAPER, **criterion}
        series = f"{criterion['divergence']}, alpha {number(criterion['alpha']):g} {criterion['alpha_schedule']}"
        passes = drawing.whole_number(criterion.get("num_passes", 3))
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
    """A panel for each setting, because scores of different settings are not comparable; a line for each series."""
    settings = drawing.rows_by_line(rows, ("setting", "model", "scoring"))
    series = [name for name in dict.fromkeys(row["series"] for row in rows) if name != STANDARD]
    titles = [rows_of_setting[0]["setting"] for rows_of_setting in settings.values()]
    if len(set(titles)) < len(titles):  # panels of one setting differ in model or scoring
        titles = list(settings)
    most_passes = max(drawing.whole_number(row["passes"]) for row in rows)
    with drawing.paper_panels(picture, len(settings), options) as axes:
        for axis, title, rows_of_setting in zip(axes, titles, settings.values(), strict=True):
            passes = {drawing.whole_number(row["passes"]) for row in rows_of_setting}
            standard = [(1, number(row["bleu"])) for row in rows_of_setting if row["series"] == STANDARD]
            if passes == {1}:
                draw_means(axis, 0, _STANDARD_LABEL, standard)
            elif standard:
                drawing.draw_level(axis, 0, _STANDARD_LABEL, (1, most_passes), [bleu for _, bleu in standard])
            for index, name in enumerate(series, 1):
                if rows_of_series := [row for row in rows_of_setting if row["series"] == name]:
                    draw_means(axis, index, name, drawing.points(rows_of_series, "passes", "bleu"))
            axis.set(xlabel="passes K", ylabel="BLEU", xlim=(0.5, most_passes + 0.5), xticks=range(1, most_passes + 1))
            if len(passes) == 1:
                drawing.draw_note(axis, f"scores of K = {min(passes)} only: train and score other K")
            if len(settings) > 1:
                axis.set_title(drawing.wrap_title(title))
        if len({row["seed"] for row in rows}) > 1:
            drawing.draw_key(axes[0], "\u00b1 standard deviation over seeds", linestyle="", marker="|", markersize=8)


# Scores by pruning --------------------------------------------------------------------------------------------------

PRUNING = ("table", "model", "method", "seed", "pruned", "bleu", "chrf", "change", "signature")
# Rows of `wff prune-iterative` that are not pruned: the model that all runs start from, and this model tuned.
_PARENT, _NOT_PRUNED = "parent", "none"


def read_pruning(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """The points of a table of `wff prune` or `wff prune-iterative`; `change` is the BLEU minus the unpruned BLEU."""
    table = next((path / name for name in ("curve.csv", "table.csv") if (path / name).is_file()), path)
    scores = drawing.read_csv(table) if table.is_file() and table.suffix == ".csv" else []
    columns = scores[0].keys() if scores else set()
    if {"checkpoint", "method", "remaining"} <= columns:
        rows = [_row(label, row["checkpoint"], row["method"], "", 1 - number(row["remaining"]), row) for row in scores]
    elif {"prune", "alignreg", "sparsity"} <= columns:
        rows = _iterative_rows(label, scores)
    else:
        return []
    start = {(row["model"], row["method"], row["seed"]): number(row["bleu"]) for row in rows if not row["pruned"]}
    for row in rows:
        key = row["model"], row["method"], row["seed"]
        row["change"] = f"{number(row['bleu']) - start[key]:.2f}" if key in start else ""
    return rows


def _iterative_rows(label: str, scores: Sequence[CsvRow]) -> list[dict[str, Any]]:
    """The points of a table of `wff prune-iterative`; of pairs that no model was tuned on, one with their mean."""
    groups: dict[tuple[str, ...], list[CsvRow]] = {}
    for row in scores:
        of = "" if row["pair"] == row.get("tuned", row["pair"]) else ", other pairs"
        groups.setdefault((row["prune"], row["alignreg"], row["seed"], of, row["sparsity"]), []).append(row)
    means = {
        key: {**group[0], **{name: f"{mean(number(row[name]) for row in group):.2f}" for name in ("bleu", "chrf")}}
        for key, group in groups.items()
    }
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for (method, kind, seed, of, sparsity), row in means.items():
        if method in (_PARENT, _NOT_PRUNED):
            continue
        line = label, f"alignreg {kind}{of}", method, seed
        starts = [(_NOT_PRUNED, kind), (_NOT_PRUNED, _NOT_PRUNED), (_PARENT, _NOT_PRUNED)]
        unpruned = [key for start in starts for key in means if key[:4] == (*start, seed, of)]
        if unpruned:
            rows[line, "0"] = _row(*line, 0, means[unpruned[0]])
        rows[line, sparsity] = _row(*line, number(sparsity), row)
    return list(rows.values())


def _row(label: str, model: str, method: str, seed: str, pruned: float, scores: CsvRow) -> dict[str, Any]:
    return {
        "table": label,
        "model": model,
        "method": method,
        "seed": seed,
        "pruned": float(f"{pruned:.6g}"),
        "bleu": scores["bleu"],
        "chrf": scores["chrf"],
        "change": "",
        "signature": scores.get("signature") or scores.get("bleu_signature", ""),
    }


def draw_pruning(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """BLEU and its change over the pruned share of the weights; a line for each model and method.

    If there are more lines than colours, each model has its own panel, and a method looks the same in all panels.
    """
    lines = drawing.rows_by_line(rows, ("table", "model", "method"))
    models = list(dict.fromkeys(row["model"] for row in rows))
    if len(lines) > drawing.MAX_COLOURS and len(models) > 1:
        lines = drawing.rows_by_line(rows, ("method", "table"))
    else:
        models = [""]
    columns = [("bleu", "BLEU")]
    if any(row["change"] != "" for row in rows):
        columns.append(("change", "change of BLEU"))
    panels = [(model, column, ylabel) for model in models for column, ylabel in columns]
    with drawing.paper_panels(picture, len(panels), options) as axes:
        for axis, (model, column, ylabel) in zip(axes, panels, strict=True):
            for index, (name, line) in enumerate(lines.items()):
                in_panel = [row for row in line if model in ("", row["model"]) and row[column] != ""]
                if in_panel:
                    draw_means(axis, index, name, ((100 * x, y) for x, y in drawing.points(in_panel, "pruned", column)))
            axis.set(xlabel="pruned weights (%)", ylabel=ylabel, title=model)
        if len({row["seed"] for row in rows}) > 1:
            drawing.draw_key(axes[0], "\u00b1 standard deviation over seeds", linestyle="", marker="|", markersize=8)


# Norms of weights ---------------------------------------------------------------------------------------------------

NORMS = ("run", "layer", "type", "parameters", "zeros", "norm")
_MATRIX = re.compile(r"(self|cross)-attention |fc[12]$")


def read_norms(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """The L2 norm of the weights of each layer and type of module, from the names in a checkpoint.

    Tied tensors count once. Buffers do not count: their names do not end in weight or bias.
    """
    from torch import linalg, nn

    from ..core.difference import tied
    from ..core.parameter_groups import layer, module_type
    from ..core.scope import Entry
    from ..core.tensor_files import refuse_bad_numbers
    from ..workspace.checkpoints import read_checkpoint
    from ..workspace.progress import say
    from ..workspace.trainings import checkpoint_of

    path = checkpoint_of(path)
    say(f"{label}: reading {path}")
    tensors = {n: t for n, t in read_checkpoint(path)[1].items() if re.search(r"(^|[._])(weight|bias)$", n)}
    refuse_bad_numbers(tensors, f"{path}:")
    sums: dict[tuple[str, str], list[float]] = {}  # number of parameters, number of zeros, sum of squares
    for names in tied(tensors):
        name, tensor = names[0], tensors[names[0]]
        module_types = (nn.Embedding,) if "embed" in name else ()
        entry = Entry(name, tuple(names), module_types, tensor.shape)
        totals = sums.setdefault((layer(entry) or "", module_type(entry)), [0, 0, 0.0])
        totals[0] += tensor.numel()
        totals[1] += tensor.numel() - int(tensor.count_nonzero())
        totals[2] += float(linalg.vector_norm(tensor.float()).double() ** 2)
    return [
        {"run": label, "layer": name, "type": kind, "parameters": count, "zeros": zeros, "norm": math.sqrt(squares)}
        for (name, kind), (count, zeros, squares) in sums.items()
    ]


def draw_norms(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """The norms of matrices over the layers: a panel for each checkpoint and side, a line for each type."""
    matrices = [row for row in rows if row["layer"] and _MATRIX.match(row["type"])]
    if not matrices:
        raise UserError("no attention or feed-forward matrix in any layer; give checkpoints of a Transformer")
    types = list(dict.fromkeys(row["type"] for row in matrices))
    panels: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in matrices:
        side, layer_number = row["layer"].removesuffix(".").rsplit(".", 1)
        norm = number(row["norm"]) / (math.sqrt(number(row["parameters"])) if options.per_parameter else 1)
        lines = panels.setdefault((row["run"], side.removesuffix(".layers")), {})
        lines.setdefault(row["type"], []).append((int(layer_number) + 1, norm))
    several = len({run for run, _ in panels}) > 1
    with drawing.paper_panels(picture, len(panels), options, share_y="all") as axes:
        for axis, ((run, side), lines) in zip(axes, panels.items(), strict=True):
            for module_type, norms in lines.items():
                draw_line(axis, types.index(module_type), module_type, sorted(norms), markevery=1)
            axis.set(xlabel="layer", ylabel="norm / \u221aparameters" if options.per_parameter else "norm of weights")
            axis.set_title(drawing.wrap_title(f"{run}, {side}" if several else side))
            axis.xaxis.get_major_locator().set_params(integer=True)
        drawing.start_at_zero(axes)
