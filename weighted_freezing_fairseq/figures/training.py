"""Figures of a training: learning curves, importance of parameters, and the strength of intra-distillation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.schedules import adaptive_alpha
from ..errors import UserError
from . import drawing
from .drawing import CsvRow, Options, Schedule, draw_key, draw_seeds, points
from .training_logs import RunFiles

LINE = ("run", "method", "seed")  # the columns of `seed_columns`, which the registry adds

# Learning curves ----------------------------------------------------------------------------------------------------

CURVES = (*LINE, "split", "update", "loss", "nll_loss", "bleu")
PANELS = {
    "training": ("train", "loss", "training loss (bits/token)"),
    "loss": ("valid", "loss", "validation loss (bits/token)"),
    "nll_loss": ("valid", "nll_loss", "validation nll_loss (bits/token)"),
    "bleu": ("valid", "bleu", "validation BLEU"),
}


def read_curves(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """A row for each interval of training and each validation; BLEU needs --eval-bleu."""
    rows = [
        {"run": label, "split": row["split"], "update": row["update"]}
        | {name: row.get(name, "") for name in ("loss", "nll_loss", "bleu")}
        for row in RunFiles(path).history()
    ]
    return rows if any(row[name] != "" for row in rows for name in ("loss", "nll_loss", "bleu")) else []


def draw_curves(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """A panel for each measure, those of `options.show` or all that any run has; a line for each method."""
    rows_by_panel = {
        name: [row for row in rows if row["split"] == split and row[column] != ""]
        for name, (split, column, _) in PANELS.items()
    }
    for name in options.show:
        if not rows_by_panel[name]:
            remedy = "train with --eval-bleu" if name == "bleu" else "train with validation"
            raise UserError(f"no log has {PANELS[name][2]}; {remedy}, or leave {name} out of --show")
    shown = options.show or [name for name in PANELS if rows_by_panel[name]]
    lines = drawing.seed_lines(rows)
    with drawing.paper_panels(picture, len(shown), options) as axes:
        for axis, name in zip(axes, shown, strict=True):
            split, column, ylabel = PANELS[name]
            for index, (line, runs) in enumerate(lines.items()):
                in_panel = [[r for r in run if r["split"] == split and r[column] != ""] for run in runs.values()]
                draw_seeds(axis, index, line, [points(run, "update", column) for run in in_panel])
            axis.set(xlabel="updates", ylabel=ylabel)
        drawing.add_key_of_seeds(axes[0], lines)


# Importance while training ------------------------------------------------------------------------------------------

IMPORTANCE = (*LINE, "update", "group", "mean_top20", "mean_bottom80", "std", "frozen")


def read_importance(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """The rows of --log-importance for `options.groups`; of a repeated update of a resumed run, the last one."""
    table, columns = RunFiles(path).importance, IMPORTANCE[3:]
    rows = drawing.read_csv(table, torn=True) if table else []
    if not rows or not {*columns} <= rows[0].keys():
        return []
    groups = list(dict.fromkeys(row["group"] for row in rows))
    for group in options.groups:
        if group not in groups:
            raise UserError(f"{table} has no group {group!r}; type --group with some of: {', '.join(groups)}")
    last = {(row["group"], drawing.whole_number(row["update"])): row for row in rows if row["group"] in options.groups}
    return [{"run": label, **{name: last[key][name] for name in columns}} for key in sorted(last)]


def draw_importance(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """Panels with the means of the top 20 % and of the rest, the standard deviation, and the frozen share if any."""
    lines = drawing.seed_lines(rows, "group")
    columns = [("std", "std of sensitivity\n(nats/token)", 1)]
    if any(row["frozen"] != "" for row in rows):
        columns.append(("frozen", "frozen (%)", 100))
    with drawing.paper_panels(picture, 1 + len(columns), options) as (means, *others):
        for index, (line, runs) in enumerate(lines.items()):
            for column, style in (("mean_top20", {}), ("mean_bottom80", {"markerfacecolor": "white"})):
                draw_seeds(means, index, line, [points(run, "update", column) for run in runs.values()], **style)
        draw_key(means, "top 20 %", linestyle="-", marker="o")
        draw_key(means, "the rest", linestyle="-", marker="o", markerfacecolor="white")
        drawing.add_key_of_seeds(means, lines)
        means.set(ylabel="mean sensitivity\n(nats/token)", yscale="log", xlabel="updates")
        for axis, (column, ylabel, scale) in zip(others, columns, strict=True):
            for index, (line, runs) in enumerate(lines.items()):
                scaled = [[(x, scale * y) for x, y in points(run, "update", column)] for run in runs.values()]
                draw_seeds(axis, index, line, scaled)
            axis.set(ylabel=ylabel, xlabel="updates")
        drawing.start_at_zero(others)


# The strength of intra-distillation ---------------------------------------------------------------------------------

ALPHA = (*LINE, "source", "update", "alpha")
SETTINGS, LOG = "settings", "log"  # values of the column "source"
PAPER = {"alpha": 5.0, "alpha_schedule": "adaptive", "alpha_p": 5.0, "alpha_q": 10.0}  # defaults of the criterion
_POINTS = 200  # of the line of a schedule


def read_alpha(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """alpha' by the settings of a run, and by its log: the mean of each interval, at the middle of the interval."""
    files = RunFiles(path)
    settings = files.settings()
    rows = []
    if settings.get("criterion", {}).get("_name") == "intra_distillation":
        rows += _rows_of_schedule({"run": label}, *_schedule(settings))
    start = 0
    for row in files.history():
        if row["split"] == "train" and "alpha" in row:
            rows.append({"run": label, "source": LOG, "update": (start + row["update"]) / 2, "alpha": row["alpha"]})
            start = row["update"]
    return rows


def _schedule(settings: Mapping[str, Any]) -> tuple[Schedule, bool]:
    """The schedule in the settings of a run, and whether it is adaptive."""
    strength = {**PAPER, **{name: value for name, value in settings["criterion"].items() if name in PAPER}}
    updates = drawing.whole_number(settings.get("optimization", {}).get("max_update", 0))
    schedule = Schedule(*(drawing.number(strength[name]) for name in ("alpha", "alpha_p", "alpha_q")), updates)
    if not schedule.q > schedule.p > 0:
        raise UserError(f"a schedule needs alpha_q > alpha_p > 0, got {strength}; correct the settings of that run")
    return schedule, strength["alpha_schedule"] == "adaptive"


def schedules(options: Options) -> list[dict[str, Any]]:
    """The rows of the schedules in `options`."""
    names = [f"alpha {schedule.alpha:g}, p {schedule.p:g}, q {schedule.q:g}" for schedule in options.schedules]
    return [
        row
        for name, schedule in zip(names, options.schedules, strict=True)
        for row in _rows_of_schedule({"run": name, "method": name, "seed": ""}, schedule, True)
    ]


def _rows_of_schedule(line: Mapping[str, Any], schedule: Schedule, adaptive: bool) -> list[dict[str, Any]]:
    """Points of a schedule, among them the updates n/q and n/p, where alpha' reaches 1 and alpha."""
    n = schedule.updates
    updates = {round(n * step / _POINTS) for step in range(_POINTS + 1)}
    updates |= {round(n / schedule.q), round(n / schedule.p)}
    return [
        {
            **line,
            "source": SETTINGS,
            "update": update,
            "alpha": adaptive_alpha(update, n, schedule.alpha, schedule.p, schedule.q) if adaptive else schedule.alpha,
        }
        for update in sorted(updates)
    ]


def draw_alpha(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """A line for the settings of each method, and points for its log."""
    lines = drawing.seed_lines(rows)
    with drawing.paper_panels(picture, 1, options) as (axis,):
        for index, (line, runs) in enumerate(lines.items()):
            for source, style in ((SETTINGS, {"marker": ""}), (LOG, {"linestyle": "", "markevery": 1})):
                in_source = [[row for row in run if row["source"] == source] for run in runs.values()]
                if any(in_source):
                    draw_seeds(axis, index, line, [points(run, "update", "alpha") for run in in_source], **style)
        if any(row["source"] == LOG for row in rows):
            draw_key(axis, "as set", linestyle="-")
            draw_key(axis, "as logged, means of intervals", linestyle="", marker="o")
        drawing.add_key_of_seeds(axis, lines)
        axis.set(xlabel="updates", ylabel="strength \u03b1\u2032")
        drawing.start_at_zero([axis])
