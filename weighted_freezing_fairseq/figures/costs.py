"""Figures of what methods cost: time and memory beside standard training, how they grow, and operations.

Their rows come from bench.csv of `wff bench`. Left out on purpose: measuring (`costs/bench.py`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import drawing
from .drawing import CsvRow, Options, draw_bars, draw_line, number
from .models import STANDARD

COST = ("table", "size", "parameters", "method", "per", "seconds", "seconds_low", "seconds_high", "more_memory")
OF_BENCH = ("method", "size", "parameters", "update_seconds", "time_ratio", "time_low", "time_high", "memory_ratio")
GROWTH = ("table", "size", "varied", "value", "method", "time_ratio", "time_low", "time_high", "memory_ratio")
_WIDE = 5  # beyond such a range values are in powers of ten
FLOPS = ("table", "method", "size", "parameters", "flops", "more_flops")


def _table(path: Path) -> list[dict[str, str]]:
    """bench.csv, or the one in a folder; nothing where there is none."""
    table = path / "bench.csv" if path.is_dir() else path
    return drawing.read_csv(table) if table.is_file() and table.suffix == ".csv" else []


def _standards(rows: Sequence[CsvRow]) -> dict[str, CsvRow]:
    """Standard training at each size."""
    return {row["size"]: row for row in rows if row["method"] == STANDARD}


def read_cost(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """Seconds of an update or epoch: standard's median, times each method's ratio to it and the quartiles of that.

    Ratios of updates side by side leave out what a shared machine does to all of them. Memory was measured once.
    """
    measured = _table(path)
    if not measured or not {*OF_BENCH} <= measured[0].keys():
        return []
    standard = _standards(measured)
    rows = []
    for row in measured:
        if row["size"] not in standard:
            continue
        unit = number(standard[row["size"]]["update_seconds"]) * (options.updates_per_epoch or 1)
        low, middle, high = (unit * number(row[name]) for name in ("time_low", "time_ratio", "time_high"))
        rows.append(
            {
                "table": label,
                "size": row["size"],
                "parameters": row["parameters"],
                "method": row["method"],
                "per": "epoch" if options.updates_per_epoch else "update",
                "seconds": f"{middle:.6g}",
                "seconds_low": f"{low:.6g}",
                "seconds_high": f"{high:.6g}",
                "more_memory": f"{number(row['memory_ratio']) - 1:.6g}",
            }
        )
    return rows


def draw_cost(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """Two panels a size: seconds, and memory beyond standard training's; a bar a method."""
    sizes = drawing.lines_of(rows, ("size", "table"))
    most = max(map(len, sizes.values()))
    width = drawing.TWO_COLUMNS if options.wide else drawing.ONE_COLUMN
    height = len(sizes) * (0.16 * most + 0.8)
    with drawing.panels(
        picture, 2 * len(sizes), height, width=width, columns=2, share_x=False, share_y="row"
    ) as axes:  # fmt: skip
        for place, (size, of_size) in enumerate(sizes.items()):
            time, memory = axes[2 * place : 2 * place + 2]
            names = ("seconds", "seconds_low", "seconds_high")
            draw_bars(time, [(row["method"], *(number(row[name]) for name in names)) for row in of_size], STANDARD)
            shares = [(row["method"], 100 * number(row["more_memory"])) for row in of_size]
            draw_bars(memory, [(name, share, share, share) for name, share in shares], STANDARD)
            time.set_title(f"{size}: {number(of_size[0]['parameters']) / 1e6:.3g} M parameters", loc="left")
            time.set_xlabel(f"seconds\nper {of_size[0]['per']}")
            memory.set_xlabel("additional\nmemory (%)")


def read_flops(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """Operations of an update, and those beyond standard training's at the same size."""
    measured = _table(path)
    if not measured or not {"method", "size", "parameters", "flops"} <= measured[0].keys():
        return []
    standard = _standards(measured)
    return [
        {"table": label, **{name: row[name] for name in FLOPS[1:-1]}}
        | {"more_flops": f"{number(row['flops']) - number(standard[row['size']]['flops']):.6g}"}
        for row in measured
        if row["size"] in standard
    ]


def draw_flops(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """Operations beyond standard training's over the size of the model, both in powers of ten; a line a method.

    A method that needs none has no place on such an axis.
    """
    more = [row for row in rows if number(row["more_flops"]) > 0]
    with drawing.paper(picture, 1, options) as (axis,):
        for index, (name, line) in enumerate(drawing.lines_of(more, ("method", "table")).items()):
            draw_line(axis, index, name, sorted(drawing.points(line, "parameters", "more_flops")), markevery=1)
        axis.set(xlabel="parameters", ylabel="additional operations\nper update", xscale="log", yscale="log")


def read_growth(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """Ratios to standard training with each value of what was varied; where nothing was, with the size of the model."""
    measured = _table(path)
    if not measured or not {*OF_BENCH, "varied", "value"} <= measured[0].keys():
        return []
    rows = []
    for row in measured:
        ratios = {name: row[name] for name in GROWTH[4:]}
        if row["varied"]:
            place = {"size": row["size"].split(",")[0], "varied": row["varied"], "value": row["value"]}
        else:
            place = {"size": "", "varied": "parameters", "value": row["parameters"]}
        rows.append({"table": label, **place, **ratios})
    return rows


def draw_growth(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """Time of an update with quartiles, and peak memory, over what was varied; a line a method."""
    kinds = list(dict.fromkeys(row["varied"] for row in rows))
    methods = drawing.lines_of(rows, ("method", "size", "table"))
    with drawing.paper(picture, 2 * len(kinds), options) as axes:
        for place, kind in enumerate(kinds):
            time, memory = axes[2 * place : 2 * place + 2]
            for index, (name, of_method) in enumerate(methods.items()):
                line = sorted((row for row in of_method if row["varied"] == kind), key=lambda row: number(row["value"]))
                if not line:
                    continue
                spans = [tuple(number(row[f"time_{end}"]) for end in ("low", "ratio", "high")) for row in line]
                places = [number(row["value"]) for row in line]
                drawing.draw_spans(time, index, name, places, spans)
                draw_line(memory, index, name, drawing.points(line, "value", "memory_ratio"), markevery=1)
            values = sorted({number(row["value"]) for row in rows if row["varied"] == kind})
            for axis, what in ((time, "update time"), (memory, "peak memory")):
                axis.set(xlabel=kind, ylabel=f"{what}\n(standard = 1)")
                axis.set_xscale("log" if values[-1] > _WIDE * values[0] else "linear")
                axis.set_xticks(values, [_short(value) for value in values])
                axis.minorticks_off()
        drawing.from_zero(axes)


def _short(value: float) -> str:
    return f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value:.6g}"
