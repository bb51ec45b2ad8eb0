"""Figures of what methods cost: time, memory and operations beside standard training, and how they grow.

Their rows come from bench.csv, which `wff bench` writes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import drawing
from .drawing import CsvRow, Options, draw_bars, draw_line, number
from .models import STANDARD

COST = ("table", "size", "parameters", "method", "per", "seconds", "seconds_low", "seconds_high", "more_memory")
BENCH = ("method", "size", "parameters", "update_seconds", "time_ratio", "time_low", "time_high", "memory_ratio")
GROWTH = ("table", "size", "varied", "value", "method", "time_ratio", "time_low", "time_high", "memory_ratio")
FLOPS = ("table", "method", "size", "parameters", "flops", "more_flops")
_LINEAR_RANGE = 5  # if the largest value is more times the smallest, the axis is logarithmic


def _bench_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a bench.csv or of the one in a folder; none without such a table, or if it lacks one of `columns`."""
    table = path / "bench.csv" if path.is_dir() else path
    rows = drawing.read_csv(table) if table.is_file() and table.suffix == ".csv" else []
    return rows if rows and {*columns} <= rows[0].keys() else []


def _standard_by_size(rows: Sequence[CsvRow]) -> dict[str, CsvRow]:
    """The row of standard training at each size."""
    return {row["size"]: row for row in rows if row["method"] == STANDARD}


def read_cost(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """Seconds of an update or an epoch: the median of standard training times the ratio and quartiles of each method.

    Ratios of updates that were measured side by side are less noisy than their seconds. Memory was measured once.
    """
    bench_rows = _bench_rows(path, *BENCH)
    standard = _standard_by_size(bench_rows)
    rows = []
    for row in bench_rows:
        if row["size"] not in standard:
            continue
        seconds = number(standard[row["size"]]["update_seconds"]) * (options.updates_per_epoch or 1)
        low, middle, high = (seconds * number(row[name]) for name in ("time_low", "time_ratio", "time_high"))
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
    """Panels for each size, with a bar for each method: seconds, and memory beyond that of standard training if any."""
    sizes = drawing.rows_by_line(rows, ("size", "table"))
    more_memory = any(number(row["more_memory"]) for row in rows)
    columns = 2 if more_memory else 1
    width = drawing.TWO_COLUMNS if options.wide else drawing.ONE_COLUMN
    height = len(sizes) * (0.16 * max(map(len, sizes.values())) + 0.8)
    with drawing.panels(
        picture, columns * len(sizes), height, width=width, columns=columns, share_x=False, share_y="row"
    ) as axes:  # fmt: skip
        for index, (size, rows_of_size) in enumerate(sizes.items()):
            time, *memory = axes[columns * index : columns * (index + 1)]
            names = ("seconds", "seconds_low", "seconds_high")
            draw_bars(time, [(row["method"], *(number(row[name]) for name in names)) for row in rows_of_size], STANDARD)
            time.set_title(f"{size}: {number(rows_of_size[0]['parameters']) / 1e6:.3g} M parameters", loc="left")
            time.set_xlabel(f"seconds\nper {rows_of_size[0]['per']}")
            for axis in memory:
                percentages = [(row["method"], 100 * number(row["more_memory"])) for row in rows_of_size]
                draw_bars(axis, [(method, value, value, value) for method, value in percentages], STANDARD)
                axis.set_xlabel("additional\nmemory (%)")
                if not any(value for _, value in percentages):
                    axis.set_xlim(0, 100)


def read_flops(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """Operations of an update, and the difference to standard training at the same size."""
    bench_rows = _bench_rows(path, *FLOPS[1:-1])
    standard = _standard_by_size(bench_rows)
    return [
        {"table": label, **{name: row[name] for name in FLOPS[1:-1]}}
        | {"more_flops": f"{number(row['flops']) - number(standard[row['size']]['flops']):.6g}"}
        for row in bench_rows
        if row["size"] in standard
    ]


def draw_flops(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """Additional operations over the size of the model, on logarithmic axes; a line for each method that needs any."""
    more = [row for row in rows if number(row["more_flops"]) > 0]
    if not more:
        raise UserError(
            "no method needs more operations than standard training, so there is nothing to draw; add --methods with "
            "others to wff bench"
        )
    with drawing.paper_panels(picture, 1, options) as (axis,):
        for index, (name, line) in enumerate(drawing.rows_by_line(more, ("method", "table")).items()):
            draw_line(axis, index, name, sorted(drawing.points(line, "parameters", "more_flops")), markevery=1)
        axis.set(xlabel="parameters", ylabel="additional operations\nper update", xscale="log", yscale="log")


def read_growth(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """Ratios to standard training for each value of the varied number, which is the size of the model by default."""
    rows = []
    for row in _bench_rows(path, *BENCH, "varied", "value"):
        if row["varied"]:
            case = {"size": row["size"].split(",")[0], "varied": row["varied"], "value": row["value"]}
        else:
            case = {"size": "", "varied": "parameters", "value": row["parameters"]}
        rows.append({"table": label, **case, **{name: row[name] for name in GROWTH[4:]}})
    return rows


def draw_growth(rows: Sequence[CsvRow], picture: Path, options: Options) -> None:
    """Update time with quartiles, and peak memory, over the varied number; a line for each method."""
    names_varied = list(dict.fromkeys(row["varied"] for row in rows))
    methods = drawing.rows_by_line(rows, ("method", "size", "table"))
    with drawing.paper_panels(picture, 2 * len(names_varied), options) as axes:
        for column, varied in enumerate(names_varied):
            time, memory = axes[2 * column : 2 * column + 2]
            for index, (name, rows_of_method) in enumerate(methods.items()):
                line = [row for row in rows_of_method if row["varied"] == varied]
                line.sort(key=lambda row: number(row["value"]))
                if not line:
                    continue
                quartiles = [tuple(number(row[f"time_{end}"]) for end in ("low", "ratio", "high")) for row in line]
                drawing.draw_intervals(time, index, name, [number(row["value"]) for row in line], quartiles)
                draw_line(memory, index, name, drawing.points(line, "value", "memory_ratio"), markevery=1)
            values = sorted({number(row["value"]) for row in rows if row["varied"] == varied})
            for axis, measure in ((time, "update time"), (memory, "peak memory")):
                axis.set(xlabel=varied, ylabel=f"{measure}\n(standard = 1)")
                axis.set_xscale("log" if values[-1] > _LINEAR_RANGE * values[0] else "linear")
                axis.set_xticks(values, [f"{x / 1e6:.3g} M" if x >= 1e5 else f"{x:.6g}" for x in values])
                axis.minorticks_off()
        drawing.start_at_zero(axes)
