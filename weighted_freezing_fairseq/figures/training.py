"""Figures of how a training goes: learning curves, importance and balance, the strength of intra-distillation.

Their rows come from the files of runs, a row a run and update. Left out on purpose: what comes out of a training
(`models.py`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.schedules import adaptive_alpha
from ..errors import UserError
from . import drawing
from .drawing import CsvRow, Options, Schedule, draw_key, draw_line, points
from .training_logs import RunFiles, read_log

# Learning curves ----------------------------------------------------------------------------------------------------

CURVES = ("run", "split", "update", "loss", "nll_loss", "bleu")
PANELS = {
    "training": ("train", "loss", "training loss (bits/token)"),
    "loss": ("valid", "loss", "validation loss (bits/token)"),
    "nll": ("valid", "nll_loss", "validation nll (bits/token)"),
    "bleu": ("valid", "bleu", "validation BLEU"),
}


def read_curves(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """Losses of training, an interval each, and of validation; BLEU where --eval-bleu measured it."""
    log = RunFiles(path).log
    return [
        {"run": label, "split": row["split"], "update": row["update"]}
        | {name: row.get(name, "") for name in ("loss", "nll_loss", "bleu")}
        for row in (read_log(log) if log else ())
    ]


def draw_curves(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """A panel for each measure that any run has, or for those that are asked for; a line a run."""
    there = {
        name: [row for row in rows if row["split"] == split and row[column] != ""]
        for name, (split, column, _) in PANELS.items()
    }
    for name in options.show:
        if not there[name]:
            how = "train with --eval-bleu" if name == "bleu" else "train with --log-format json, and validate"
            raise UserError(f"no log has {PANELS[name][2]}; {how}, or leave {name} out of --show")
    shown = options.show or [name for name in PANELS if there[name]]
    runs = list(dict.fromkeys(row["run"] for row in rows))
    with drawing.paper(picture, len(shown), options) as axes:
        for axis, name in zip(axes, shown, strict=True):
            _, column, what = PANELS[name]
            for index, run in enumerate(runs):
                draw_line(axis, index, run, points((r for r in there[name] if r["run"] == run), "update", column))
            axis.set(xlabel="updates", ylabel=what)


# Importance while training ------------------------------------------------------------------------------------------

IMPORTANCE = ("run", "update", "group", "mean_top20", "mean_bottom80", "std", "frozen")


def read_importance(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """What --log-importance wrote of some groups; an update that a resumed run repeats counts once."""
    table = RunFiles(path).importance
    if table is None:
        return []
    whole = drawing.read_csv(table, torn=True)
    if whole and not {*IMPORTANCE[1:]} <= whole[0].keys():
        return []
    known = list(dict.fromkeys(row["group"] for row in whole))
    for group in options.groups:
        if whole and group not in known:
            raise UserError(f"{table} has no group {group!r}; type --group with some of: {', '.join(known)}")
    last = {(row["group"], drawing.whole_number(row["update"])): row for row in whole if row["group"] in options.groups}
    return [{"run": label, **{name: last[key][name] for name in IMPORTANCE[1:]}} for key in sorted(last)]


def draw_importance(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """The mean of the top 20 % and of the rest; the balance; what is frozen, where a method freezes."""
    lines = drawing.lines_of(rows, ("run", "group"))
    shown = [("std", "standard deviation\n(nats/token)")]
    if any(row["frozen"] != "" for row in rows):
        shown.append(("frozen", "frozen (%)"))
    with drawing.paper(picture, 1 + len(shown), options) as (means, *others):
        for index, (name, line) in enumerate(lines.items()):
            draw_line(means, index, name, points(line, "update", "mean_top20"))
            draw_line(means, index, name, points(line, "update", "mean_bottom80"), markerfacecolor="white")
        draw_key(means, "top 20 %", linestyle="-", marker="o")
        draw_key(means, "the rest", linestyle="-", marker="o", markerfacecolor="white")
        means.set(ylabel="mean sensitivity\n(nats/token)", yscale="log")
        for axis, (column, what) in zip(others, shown, strict=True):
            for index, (name, line) in enumerate(lines.items()):
                scale = 100 if column == "frozen" else 1
                draw_line(axis, index, name, ((x, scale * y) for x, y in points(line, "update", column)))
            axis.set(ylabel=what, xlabel="updates")
        drawing.from_zero(others)


# The strength of intra-distillation ---------------------------------------------------------------------------------

ALPHA = ("run", "source", "update", "alpha")
SETTINGS, LOG = "settings", "log"  # where a row comes from
PAPER = {"alpha": 5.0, "alpha_schedule": "adaptive", "alpha_p": 5.0, "alpha_q": 10.0}  # defaults of the criterion
_STEPS = 200  # of the line of a function


def read_alpha(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """alpha' as the settings of a run have it, and as its log tells: the mean of an interval, at its middle."""
    files = RunFiles(path)
    settings = files.settings()
    rows = []
    if settings.get("criterion", {}).get("_name") == "intra_distillation":
        rows += _of_schedule(label, *_schedule(settings))
    intervals = [
        row for row in (read_log(files.log) if files.log else ()) if row["split"] == "train" and "alpha" in row
    ]
    before = 0
    for row in intervals:
        rows.append({"run": label, "source": LOG, "update": (before + row["update"]) / 2, "alpha": row["alpha"]})
        before = row["update"]
    return rows


def _schedule(settings: Mapping[str, Any]) -> tuple[Schedule, bool]:
    """The schedule that a run.yaml asks for, and whether it is adaptive."""
    strength = {**PAPER, **{name: value for name, value in settings["criterion"].items() if name in PAPER}}
    updates = drawing.whole_number(settings.get("optimization", {}).get("max_update", 0))
    schedule = Schedule(*(drawing.number(strength[name]) for name in ("alpha", "alpha_p", "alpha_q")), updates)
    if not schedule.q > schedule.p > 0:
        raise UserError(f"a schedule needs alpha_q > alpha_p > 0, and not {strength}; mend the settings of that run")
    return schedule, strength["alpha_schedule"] == "adaptive"


def schedules(options: Options) -> list[dict[str, Any]]:
    """The function itself, where it is asked for."""
    return [
        row
        for schedule in options.schedules
        for row in _of_schedule(f"alpha {schedule.alpha:g}, p {schedule.p:g}, q {schedule.q:g}", schedule, True)
    ]


def _of_schedule(label: str, schedule: Schedule, adaptive: bool) -> list[dict[str, Any]]:
    """Its line, with the two updates at which alpha' is 1 and alpha."""
    n = schedule.updates
    sentinels = {round(n / schedule.q), round(n / schedule.p)}
    updates = sorted({round(n * step / _STEPS) for step in range(_STEPS + 1)} | sentinels)
    return [
        {
            "run": label,
            "source": SETTINGS,
            "update": update,
            "alpha": adaptive_alpha(update, n, schedule.alpha, schedule.p, schedule.q) if adaptive else schedule.alpha,
        }
        for update in updates
    ]


def draw_alpha(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """A line by the settings of each run, and points by its log."""
    runs = drawing.lines_of(rows, ("run",))
    with drawing.paper(picture, 1, options) as (axis,):
        for index, (run, of_run) in enumerate(runs.items()):
            by = {
                source: points((row for row in of_run if row["source"] == source), "update", "alpha")
                for source in (SETTINGS, LOG)
            }
            if by[SETTINGS]:
                draw_line(axis, index, run, by[SETTINGS], marker="")
            if by[LOG]:
                draw_line(axis, index, run, by[LOG], linestyle="", markevery=1)
        if any(row["source"] == LOG for row in rows):
            draw_key(axis, "as set", linestyle="-")
            draw_key(axis, "as logged, means of intervals", linestyle="", marker="o")
        axis.set(xlabel="updates", ylabel="strength \u03b1\u2032")
        drawing.from_zero([axis])
