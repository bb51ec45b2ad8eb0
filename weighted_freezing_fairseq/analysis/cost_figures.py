"""Figures of what methods cost: time and memory beside standard training, and operations by the size of the model.

Their rows come from bench.csv of `wff bench`. Left out on purpose: measuring (`bench.py`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import curves
from .curves import Options, Row, draw_bars, draw_line, number
from .model_figures import STANDARD

COST = ("table", "size", "parameters", "method", "per", "seconds", "seconds_low", "seconds_high", "more_memory")
OF_BENCH = ("method", "size", "parameters", "update_seconds", "time_ratio", "time_low", "time_high", "memory_ratio")
FLOPS = ("table", "method", "size", "parameters", "flops", "more_flops")


def _table(path: Path) -> list[dict[str, str]]:
    """bench.csv, or the one in a folder; nothing where there is none."""
    found = path / "bench.csv" if path.is_dir() else path
    return curves.read_csv(found) if found.is_file() and found.suffix == ".csv" else []


def _standards(rows: Sequence[Row]) -> dict[str, Row]:
    """Standard training at each size."""
    return {row["size"]: row for row in rows if row["method"] == STANDARD}


def read_cost(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """Seconds of an update or epoch: standard's median, times each method's ratio to it and the quartiles of that.

    Ratios of updates side by side leave out what a shared machine does to all of them. Memory was measured once.
    """
    given = _table(path)
    if not given or not {*OF_BENCH} <= given[0].keys():
        return []
    standard = _standards(given)
    rows = []
    for row in given:
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


def draw_cost(rows: Sequence[Row], picture: Path, options: Options) -> None:
    """Two panels a size: seconds, and memory beyond standard training's; a bar a method."""
    sizes = curves.lines_of(rows, ("size", "table"))
    most = max(map(len, sizes.values()))
    width = curves.TWO_COLUMNS if options.wide else curves.ONE_COLUMN
    height = len(sizes) * (0.16 * most + 0.8)
    with curves.panels(
        picture, 2 * len(sizes), height, width=width, columns=2, share_x=False, share_y="row"
    ) as axes:  # fmt: skip
        for place, (size, mine) in enumerate(sizes.items()):
            time, memory = axes[2 * place : 2 * place + 2]
            names = ("seconds", "seconds_low", "seconds_high")
            draw_bars(time, [(row["method"], *(number(row[name]) for name in names)) for row in mine], STANDARD)
            shares = [(row["method"], 100 * number(row["more_memory"])) for row in mine]
            draw_bars(memory, [(name, share, share, share) for name, share in shares], STANDARD)
            time.set_title(f"{size}: {number(mine[0]['parameters']) / 1e6:.3g} M parameters", loc="left")
            time.set_xlabel(f"seconds\nper {mine[0]['per']}")
            memory.set_xlabel("additional\nmemory (%)")


def read_flops(label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """Operations of an update, and those beyond standard training's at the same size."""
    given = _table(path)
    if not given or not {"method", "size", "parameters", "flops"} <= given[0].keys():
        return []
    standard = _standards(given)
    return [
        {"table": label, **{name: row[name] for name in FLOPS[1:-1]}}
        | {"more_flops": f"{number(row['flops']) - number(standard[row['size']]['flops']):.6g}"}
        for row in given
        if row["size"] in standard
    ]


def draw_flops(rows: Sequence[Row], picture: Path, options: Options) -> None:
    """Operations beyond standard training's over the size of the model, both in powers of ten; a line a method.

    A method that needs none has no place on such an axis.
    """
    more = [row for row in rows if number(row["more_flops"]) > 0]
    with curves.paper(picture, 1, options) as (axis,):
        for index, (name, mine) in enumerate(curves.lines_of(more, ("method", "table")).items()):
            draw_line(axis, index, name, sorted(curves.points(mine, "parameters", "more_flops")), markevery=1)
        axis.set(xlabel="parameters", ylabel="additional operations\nper update", xscale="log", yscale="log")
