"""The common style of pictures (palette, panels, lines, bars, violins, legends), and the rows that they are drawn from.

Pictures fit the columns of a paper and can be read in grey and by colour-blind readers. The same rows give the same
bytes.
"""

import csv
import math
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UserError
from ..forms import Content

# Okabe and Ito's palette for colour-blind readers; lines also differ in dash and marker.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MAX_COLOURS = len(_COLOURS)
_GREY = "#777777"
_MARKERS_A_LINE = 8
_BAND = 0.15  # opacity

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # widths in inches
_PANEL, _LABELS = 1.7, 0.3  # heights in inches
_LEGEND_ROW, _LETTER, _HANDLE = 0.17, 0.05, 0.5  # sizes in a legend, in inches
_TITLE_LETTERS = 40
FORMATS = ("png", "pdf", "svg")
NO_PICTURE = "no picture: matplotlib is missing; type: pip install 'weighted-freezing-fairseq[plot]'"

# A fixed salt and text as text: the same bytes from the same rows.
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "svg.hashsalt": "wff",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
_NO_DATES = {".svg": {"Date": None}, ".pdf": {"CreationDate": None, "ModDate": None}}

CsvRow = Mapping[str, Any]


@dataclass(frozen=True)
class Schedule:
    """An adaptive alpha, and the number of updates of the training."""

    alpha: float
    p: float
    q: float
    updates: int


@dataclass(frozen=True)
class Options:
    """Options of figures. The first three affect the CSV, the others only the picture."""

    groups: tuple[str, ...] = ("all",)  # importance: types or layers of parameters
    schedules: tuple[Schedule, ...] = ()  # alpha: functions to draw without a run
    updates_per_epoch: int | None = None  # cost: seconds of an epoch instead of an update
    show: tuple[str, ...] = ()  # curves: panels
    per_parameter: bool = False  # norms: divided by the root of the number of parameters
    wide: bool = False  # two columns of a paper instead of one


DEFAULTS = Options()


# Rows ---------------------------------------------------------------------------------------------------------------


def read_csv(path: Path, torn: bool = False) -> list[Content]:
    """The rows of a CSV file, without comment lines (#). All rows must have the same number of cells.

    Args:
        torn: skip incomplete rows, which a killed run may leave.
    """
    remedy = "mend it, or make it again"
    with path.open(newline="", encoding="utf-8", errors="replace" if torn else "strict") as file:
        try:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not a table in UTF-8 ({error}); {remedy}") from None
    complete = [None not in row and None not in row.values() for row in rows]
    if not torn and not all(complete):
        bad = complete.index(False) + 1
        raise UserError(f"row {bad} of {path} has not as many cells as its first line; {remedy}")
    return [Content(row, path, remedy) for row, is_complete in zip(rows, complete, strict=True) if is_complete]


def rows_by_line(rows: Sequence[CsvRow], columns: Sequence[str]) -> dict[str, list[CsvRow]]:
    """The rows of each line of a picture. A line is named by its values in those of `columns` that differ."""
    differ = [name for name in columns if len({row[name] for row in rows}) > 1] or columns[:1]
    lines: dict[str, list[CsvRow]] = {}
    for row in rows:
        lines.setdefault(", ".join(str(row[name]) for name in differ if row[name] != ""), []).append(row)
    return lines


def points(rows: Iterable[CsvRow], x: str, y: str) -> list[tuple[float, float]]:
    """Two columns as the points of a line."""
    return [(number(row[x]), number(row[y])) for row in rows]


def number(cell: Any) -> float:
    """A cell as a number; NaN for an empty cell, which leaves a gap in a line."""
    try:
        return math.nan if cell in ("", None) else float(cell)
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{cell!r} is not a number; correct that cell of the CSV") from None


def whole_number(cell: Any) -> int:
    value = number(cell)
    if not value.is_integer():
        raise UserError(f"{cell!r} is not a whole number; correct that cell of the CSV")
    return int(value)


# Panels -------------------------------------------------------------------------------------------------------------


@contextmanager
def panels(
    picture: Path,
    count: int,
    height: float,
    also: Sequence[str] = (),
    width: float = 6.4,
    columns: int = 1,
    share_x: bool = True,
    share_y: Literal["row", "all", "none"] = "none",
) -> Iterator[Any]:
    """Yield `count` axes, row by row; if the block succeeds, save them as a picture of `width` x `height` inches.

    Args:
        also: suffixes of other formats to save, such as ".pdf".
        share_x: whether the panels of a column share the horizontal axis.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_STYLE):
        rows = math.ceil(count / columns)
        figure, axes = pyplot.subplots(
            rows, columns, sharex="col" if share_x else "none", sharey=share_y,
            squeeze=False, figsize=(width, height), layout="constrained",
        )  # fmt: skip
        try:
            for axis in axes.flat[count:]:
                axis.remove()
            yield axes.flat[:count]
            for index, axis in enumerate(axes.flat[:count]):
                axis.grid(alpha=0.3)
                lowest = not share_x or index + columns >= count  # in its column; the last row may be incomplete
                axis.tick_params(labelbottom=lowest)
                axis.xaxis.label.set_visible(lowest)
                axis.yaxis.label.set_visible(share_y == "none" or index % columns == 0)
                axis.set_axisbelow(True)
            picture.parent.mkdir(parents=True, exist_ok=True)
            for path in (picture, *map(picture.with_suffix, also)):
                figure.savefig(path, dpi=300, metadata=_NO_DATES.get(path.suffix))
        finally:
            pyplot.close(figure)


@contextmanager
def paper_panels(
    picture: Path, count: int, options: Options, share_y: Literal["row", "all", "none"] = "none"
) -> Iterator[Any]:  # fmt: skip
    """`panels` for a paper, with a legend: in a single column, or side by side across two columns."""
    columns = 1 if not options.wide else count if count <= 3 else 2
    width = TWO_COLUMNS if options.wide else ONE_COLUMN
    height = _PANEL * math.ceil(count / columns) + _LABELS
    with panels(picture, count, height, width=width, columns=columns, share_y=share_y) as axes:
        yield axes
        _add_legend(axes)


def _add_legend(axes: Sequence[Any]) -> None:
    """Add one legend for all `axes` below them; the picture grows by the height of the legend."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if not handles:
        return
    figure = axes[0].figure
    width, height = figure.get_size_inches()
    columns = max(1, min(len(handles), int(width / (_HANDLE + _LETTER * max(map(len, handles))))))
    figure.set_size_inches(width, height + _LEGEND_ROW * math.ceil(len(handles) / columns) + 0.1)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)


def wrap_title(title: str) -> str:
    """A title with line breaks, so that it fits into one column."""
    return "\n".join(textwrap.wrap(title, _TITLE_LETTERS))


def start_at_zero(axes: Iterable[Any]) -> None:
    """Start vertical axes at 0, with some room at the top; call it after everything is drawn."""
    axes = list(axes)
    tops = [axis.get_ylim()[1] for axis in axes]  # of all axes first, since axes may share their limits
    for axis, top in zip(axes, tops, strict=True):
        axis.set_ylim(0, 1.05 * top)
        axis.ticklabel_format(axis="y", scilimits=(-3, 4))


# Shapes -------------------------------------------------------------------------------------------------------------


def draw_line(axis: Any, index: int, label: str, points: Iterable[tuple[float, float]], **style: Any) -> None:
    """Draw a line; lines with a different `index` look different. `style` overrides arguments of Axes.plot."""
    points = list(points)
    look = {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _DASHES[index % len(_DASHES)],
        # shifted when the colours repeat
        "marker": _MARKERS[(index + index // len(_COLOURS)) % len(_MARKERS)],
        "markersize": 3,
        "markevery": max(1, len(points) // _MARKERS_A_LINE),
    }
    axis.plot(*zip(*points, strict=True) if points else ((), ()), label=label, **{**look, **style})


def draw_key(axis: Any, label: str, **style: Any) -> None:
    """Add a grey entry to the legend that explains a style used with every colour."""
    axis.plot((), (), label=label, color=_GREY, **{"markersize": 3, **style})


def draw_note(axis: Any, text: str) -> None:
    """Write at the top of a panel, above what is drawn, why that is little."""
    axis.margins(y=0.4)
    axis.text(0.5, 0.95, text, transform=axis.transAxes, ha="center", va="top", fontsize=7)


def seed_lines(rows: Sequence[CsvRow], *columns: str) -> dict[str, dict[str, list[CsvRow]]]:
    """The rows of each line of a picture by run, where the seeds of a method are one line with their number.

    Args:
        columns: others that tell lines apart.
    """
    return {
        (f"{name} ({len(runs)} seeds)" if len(runs) > 1 else name): runs
        for name, line in rows_by_line(rows, ("method", *columns)).items()
        for runs in [rows_by_line(line, ("run",))]
    }


def draw_seeds(axis: Any, index: int, label: str, runs: Iterable[Sequence[tuple[float, float]]], **style: Any) -> None:
    """Draw the points of a run as a line; of several, the mean in a band from the lowest to the highest.

    Between its points a run is interpolated; outside them, the mean and the band are of the other runs. Where no x is
    within all runs, each is a line.
    """
    import numpy as np

    runs = [points for points in runs if points]
    first = max((points[0][0] for points in runs), default=0)
    last = min((points[-1][0] for points in runs), default=0)
    if len(runs) < 2 or first > last:
        for points in runs or [()]:
            draw_line(axis, index, label, points, **style)
        return
    xs = sorted({x for points in runs for x, _ in points})
    nan = math.nan
    values = [np.interp(xs, *zip(*points, strict=True), left=nan, right=nan) for points in runs]
    masked = np.ma.masked_invalid(values)
    mean, low, high = (of_runs.filled(nan) for of_runs in (masked.mean(0), masked.min(0), masked.max(0)))
    draw_line(axis, index, label, zip(xs, mean.tolist(), strict=True), **style)
    axis.fill_between(xs, low, high, color=_COLOURS[index % len(_COLOURS)], alpha=_BAND, linewidth=0)


def add_key_of_seeds(axis: Any, lines: Mapping[str, Mapping[str, Any]]) -> None:
    """Explain the bands in the legend, if any of `seed_lines` has several runs."""
    if any(len(runs) > 1 for runs in lines.values()):
        axis.fill_between((), (), (), color=_GREY, alpha=2 * _BAND, linewidth=0, label="seeds: mean, lowest to highest")


def draw_means(axis: Any, index: int, label: str, points: Iterable[tuple[float, float]]) -> None:
    """Draw a line through the mean at each x, with the standard deviation of several values as whiskers."""
    values: dict[float, list[float]] = {}
    for x, y in points:
        values.setdefault(x, []).append(y)
    xs = sorted(values)
    intervals = []
    for x in xs:
        mean, deviation = _mean_and_deviation(values[x])
        intervals.append((mean - deviation, mean, mean + deviation))
    draw_intervals(axis, index, label, xs, intervals)


def draw_intervals(
    axis: Any, index: int, label: str, xs: Sequence[float], intervals: Sequence[tuple[float, float, float]]
) -> None:
    """Draw a line through the middle of (low, middle, high) at each x, with whiskers to low and high."""
    middles = [middle for _, middle, _ in intervals]
    down, up = [middle - low for low, middle, _ in intervals], [high - middle for _, middle, high in intervals]
    draw_line(axis, index, label, zip(xs, middles, strict=True), markevery=1)
    axis.errorbar(
        xs, middles, yerr=[down, up], fmt="none", ecolor=_COLOURS[index % len(_COLOURS)], elinewidth=0.8, capsize=2
    )


def draw_level(axis: Any, index: int, label: str, ends: tuple[float, float], values: Sequence[float]) -> None:
    """Draw a horizontal line at the mean of `values`, in a band of their standard deviation."""
    mean, deviation = _mean_and_deviation(values)
    draw_line(axis, index, label, [(end, mean) for end in ends], marker="")
    axis.fill_between(ends, mean - deviation, mean + deviation, color=_COLOURS[index], alpha=_BAND, linewidth=0)


def _mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def draw_bars(axis: Any, bars: Sequence[tuple[str, float, float, float]], grey: str) -> None:
    """Draw horizontal bars from the top: (name, length, low, high), with whiskers; the bar named `grey` is grey."""
    for y, (name, length, low, high) in enumerate(bars):
        axis.barh(y, length, 0.7, color=_GREY if name == grey else _COLOURS[5])
        if low < high:
            axis.errorbar(length, y, xerr=[[length - low], [high - length]], color=_COLOURS[0], capsize=2)
    axis.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axis.set_ylim(len(bars) - 0.5, -0.5)


def draw_violins(axis: Any, samples: Sequence[Any]) -> None:
    """Draw a violin with its median for each sample, at x = 0, 1, 2, ..., on a logarithmic axis.

    Densities are of the logarithms, so that areas can be compared by eye. Zeros and the lowest 1 % of the others are
    left out. A sample of zeros has no violin.
    """
    import numpy as np

    logarithms = {x: np.log10(sample[sample > 0]) for x, sample in enumerate(samples) if (sample > 0).any()}
    logarithms = {x: logs[logs >= np.quantile(logs, 0.01, method="lower")] for x, logs in logarithms.items()}
    if logarithms:
        violins = axis.violinplot(
            list(logarithms.values()), list(logarithms), widths=0.8, showmedians=True, showextrema=False
        )
        for body in violins["bodies"]:
            body.set(facecolor=_COLOURS[2], edgecolor=_COLOURS[5], alpha=0.8)
        violins["cmedians"].set_color(_COLOURS[0])
    axis.set_xlim(-0.6, len(samples) - 0.4)
    axis.margins(y=0.15)
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.yaxis.set_major_formatter(lambda y, _: f"$10^{{{y:.0f}}}$")


def draw_values(axis: Any, index: int, label: str, values: Sequence[float]) -> None:
    """Mark positive values at x = 0, 1, 2, ... on the logarithmic axis of `draw_violins`, each with its number."""
    points = [(x, math.log10(value)) for x, value in enumerate(values) if value > 0]
    draw_line(axis, index, label, points, linestyle="", markersize=4, markevery=1)
    for x, y in points:
        axis.annotate(f"{values[x]:.3g}", (x, y), (0, 9), textcoords="offset points", ha="center", fontsize=7)
