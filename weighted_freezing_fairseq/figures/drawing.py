"""How every picture looks: palette, lines, bars, violins, panels and legends, and the rows that they are drawn from.

Sized for the columns of a paper, told apart by colour-blind readers and in grey, and the same bytes from the same rows.
Left out on purpose: which figures there are (`registry.py`), and where their rows come from.
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

# Okabe and Ito's palette, which colour-blind readers can tell apart; each line also has its own dash and marker.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
TOLD_APART = len(_COLOURS)  # lines that differ in colour
_GREY = "#777777"
_MARKED = 8  # markers on a line with more points than that

ONE_COLUMN, TWO_COLUMNS, _PANEL, _LABELS = 3.4, 7.0, 1.7, 0.3  # inches: widths, heights
_LEGEND_ROW, _LETTER, _HANDLE = 0.17, 0.05, 0.5  # inches of a legend in 7 points
_TITLE = 40  # letters in 8 points
FORMATS = ("png", "pdf", "svg")
NO_PICTURE = "no picture: matplotlib is missing; type: pip install 'weighted-freezing-fairseq[plot]'"

# The same bytes from the same rows; text that stays text, in whatever such font the reader has.
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
_UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None, "ModDate": None}}

CsvRow = Mapping[str, Any]


@dataclass(frozen=True)
class Schedule:
    """An adaptive alpha, and the updates of the training that it grows in."""

    alpha: float
    p: float
    q: float
    updates: int


@dataclass(frozen=True)
class Options:
    """What a figure may be asked for beside its inputs. Only the last ones change a picture whose CSV is there."""

    groups: tuple[str, ...] = ("all",)  # importance: of which types or layers
    schedules: tuple[Schedule, ...] = ()  # alpha: the function itself
    updates_per_epoch: int | None = None  # cost: seconds of an epoch in place of an update
    show: tuple[str, ...] = ()  # curves: which panels
    per_parameter: bool = False  # norms: divided by the root of the number of parameters
    wide: bool = False  # for two columns of a paper


def read_csv(path: Path, torn: bool = False) -> list[Content]:
    """Rows as they were written, all of the same columns, without lines of comments (#).

    torn: leave out rows that a killed run left half-written.
    """
    remedy = "mend it, or make it again"
    with path.open(newline="", encoding="utf-8", errors="replace" if torn else "strict") as file:
        try:
            rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not a table in UTF-8 ({error}); {remedy}") from None
    whole = [Content(row, path, remedy) for row in rows if None not in row and None not in row.values()]
    if not torn and len(whole) < len(rows):
        bad = next(number for number, row in enumerate(rows, 1) if None in row or None in row.values())
        raise UserError(f"row {bad} of {path} has not as many cells as its first line; {remedy}")
    return whole


def lines_of(rows: Sequence[CsvRow], columns: Sequence[str]) -> dict[str, list[CsvRow]]:
    """The rows of each line of a picture, by its name: what they have in those of `columns` that tell lines apart."""
    differ = [name for name in columns if len({row[name] for row in rows}) > 1] or columns[:1]
    lines: dict[str, list[CsvRow]] = {}
    for row in rows:
        lines.setdefault(", ".join(str(row[name]) for name in differ if row[name] != ""), []).append(row)
    return lines


def points(rows: Iterable[CsvRow], x: str, y: str) -> list[tuple[float, float]]:
    """Two columns as the points of a line."""
    return [(number(row[x]), number(row[y])) for row in rows]


def number(cell: Any) -> float:
    """A cell as a number; an empty one is none, which leaves a gap in a line."""
    try:
        return math.nan if cell in ("", None) else float(cell)
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{cell!r} stands where a number should; mend that cell of the CSV") from None


def whole_number(cell: Any) -> int:
    """A cell as a count."""
    value = number(cell)
    if not value.is_integer():
        raise UserError(f"{cell!r} stands where a whole number should; mend that cell of the CSV")
    return int(value)


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
    """Axes, row by row, that become a picture of `width` x `height` inches when the block ends well.

    share_x: those in a column have one horizontal axis. also: endings of other formats that it is saved in, as `.pdf`.
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
            for place, axis in enumerate(axes.flat[:count]):
                axis.grid(alpha=0.3)
                lowest = not share_x or place + columns >= count  # of its column; a row below may be half empty
                axis.tick_params(labelbottom=lowest)
                axis.xaxis.label.set_visible(lowest)
                axis.yaxis.label.set_visible(share_y == "none" or place % columns == 0)
                axis.set_axisbelow(True)
            picture.parent.mkdir(parents=True, exist_ok=True)
            for path in (picture, *map(picture.with_suffix, also)):
                figure.savefig(path, dpi=300, metadata=_UNDATED.get(path.suffix))
        finally:
            pyplot.close(figure)


@contextmanager
def paper(
    picture: Path, count: int, options: Options, share_y: Literal["row", "all", "none"] = "none"
) -> Iterator[Any]:  # fmt: skip
    """`panels` for a paper, one above the other in one column, side by side across two, and a legend below them."""
    columns = 1 if not options.wide else count if count <= 3 else 2
    width = TWO_COLUMNS if options.wide else ONE_COLUMN
    height = _PANEL * math.ceil(count / columns) + _LABELS
    with panels(picture, count, height, width=width, columns=columns, share_y=share_y) as axes:
        yield axes
        legend_below(axes)


def draw_line(axis: Any, index: int, label: str, points: Iterable[tuple[float, float]], **look: Any) -> None:
    """One line of the picture; lines of different `index` look different. look: what is not as usual, by matplotlib."""
    points = list(points)
    style = {
        "color": _COLOURS[index % len(_COLOURS)],
        "linestyle": _DASHES[index % len(_DASHES)],
        # another marker when the colours begin anew
        "marker": _MARKERS[(index + index // len(_COLOURS)) % len(_MARKERS)],
        "markersize": 3,
        "markevery": max(1, len(points) // _MARKED),
    }
    axis.plot(*zip(*points, strict=True) if points else ((), ()), label=label, **{**style, **look})


def draw_key(axis: Any, label: str, **look: Any) -> None:
    """A line of the legend for what a look means in lines of every colour."""
    axis.plot((), (), label=label, color=_GREY, markersize=3, **look)


def draw_means(axis: Any, index: int, label: str, points: Iterable[tuple[float, float]]) -> None:
    """A line through the mean at each place, with the standard deviation where there are several values."""
    at: dict[float, list[float]] = {}
    for place, value in points:
        at.setdefault(place, []).append(value)
    places = sorted(at)
    middles = [statistics.mean(at[place]) for place in places]
    spreads = [statistics.stdev(at[place]) if len(at[place]) > 1 else 0.0 for place in places]
    spans = [(middle - spread, middle, middle + spread) for middle, spread in zip(middles, spreads, strict=True)]
    draw_spans(axis, index, label, places, spans)


def draw_spans(
    axis: Any, index: int, label: str, places: Sequence[float], spans: Sequence[tuple[float, float, float]]
) -> None:
    """A line through the middle of (low, middle, high) at each place, with whiskers to both ends."""
    middles = [middle for _, middle, _ in spans]
    down, up = [middle - low for low, middle, _ in spans], [high - middle for _, middle, high in spans]
    draw_line(axis, index, label, zip(places, middles, strict=True), markevery=1)
    axis.errorbar(
        places, middles, yerr=[down, up],
        fmt="none", ecolor=_COLOURS[index % len(_COLOURS)], elinewidth=0.8, capsize=2,
    )  # fmt: skip


def draw_level(axis: Any, index: int, label: str, ends: tuple[float, float], values: Sequence[float]) -> None:
    """A level line from end to end at the mean of `values`, in a band of their standard deviation."""
    middle, spread = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    draw_line(axis, index, label, [(end, middle) for end in ends], marker="")
    axis.fill_between(ends, middle - spread, middle + spread, color=_COLOURS[index], alpha=0.15, linewidth=0)


def draw_bars(axis: Any, bars: Sequence[tuple[str, float, float, float]], first: str) -> None:
    """Lying bars from the top, each a name, a length, and the ends of its whisker; that of `first` in grey."""
    for place, (name, length, low, high) in enumerate(bars):
        colour = _GREY if name == first else _COLOURS[5]
        axis.barh(place, length, 0.7, color=colour)
        if low < high:
            axis.errorbar(length, place, xerr=[[length - low], [high - length]], color=_COLOURS[0], capsize=2)
    axis.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axis.set_ylim(len(bars) - 0.5, -0.5)


def draw_violins(axis: Any, samples: Sequence[Any]) -> None:
    """A violin for each sample, its median marked, at 0, 1, 2 ... of the horizontal axis."""
    drawn = axis.violinplot(samples, range(len(samples)), widths=0.8, showmedians=True, showextrema=False)
    for body in drawn["bodies"]:
        body.set(facecolor=_COLOURS[2], edgecolor=_COLOURS[5], alpha=0.8)
    drawn["cmedians"].set_color(_COLOURS[0])


def wrapped(title: str) -> str:
    """A title in lines that one column has room for."""
    return "\n".join(textwrap.wrap(title, _TITLE))


def from_zero(axes: Iterable[Any]) -> None:
    """Lengths that a reader compares begin at 0; called when everything is drawn, with room above it."""
    axes = list(axes)
    tops = [axis.get_ylim()[1] for axis in axes]  # of shared axes before any is changed
    for axis, top in zip(axes, tops, strict=True):
        axis.set_ylim(0, 1.05 * top)
        axis.ticklabel_format(axis="y", scilimits=(-3, 4))


def legend_below(axes: Sequence[Any]) -> None:
    """One legend for all `axes`, below them, where it hides nothing; the picture grows by its height."""
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if not named:
        return
    figure = axes[0].figure
    width, height = figure.get_size_inches()
    columns = max(1, min(len(named), int(width / (_HANDLE + _LETTER * max(map(len, named))))))
    figure.set_size_inches(width, height + _LEGEND_ROW * math.ceil(len(named) / columns) + 0.1)
    figure.legend(named.values(), named, loc="outside lower center", ncols=columns, frameon=False)
