"""How every picture looks: palette, lines, bars, violins, panels and legends, and the rows that they are drawn from.

Sized for the columns of a paper, told apart by colour-blind readers and in grey, and the same bytes from the same rows.
Left out on purpose: which figures there are (`figures.py`), and where their rows come from.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart; each line also has its own dash and marker.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_GREY = "#777777"
_MARKED = 8  # markers on a line with more points than that

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches
_LEGEND_ROW, _LETTER, _HANDLE = 0.17, 0.058, 0.5  # inches of a legend in 7 points
FORMATS = ("png", "pdf", "svg")
NO_PICTURE = "no picture: matplotlib is missing; type: pip install 'weighted-freezing-fairseq[plot]'"

# The same bytes from the same rows; text that stays text, in whatever such font the reader has.
_STYLE = {
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

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """What a figure may be asked for beside its inputs. Only the last ones change a picture whose CSV is there."""

    groups: tuple[str, ...] = ("all",)  # importance: of which types or layers
    updates_per_epoch: int | None = None  # cost: seconds of an epoch in place of an update
    per_parameter: bool = False  # norms: divided by the root of the number of parameters
    wide: bool = False  # for two columns of a paper


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows as they were written."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(cell: Any) -> float:
    """A cell as a number; an empty one is none, which leaves a gap in a line."""
    return math.nan if cell in ("", None) else float(cell)


@contextmanager
def panels(
    picture: Path, count: int, height: float, also: Sequence[str] = (), width: float = 6.4, columns: int = 1
) -> Iterator[Any]:
    """Axes, row by row, that become a picture of `width` x `height` inches when the block ends well.

    also: endings of other formats that it is saved in, as `.pdf`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(_STYLE):
        rows = math.ceil(count / columns)
        figure, axes = pyplot.subplots(
            rows, columns, sharex=True, squeeze=False, figsize=(width, height), layout="constrained"
        )
        try:
            for axis in axes.flat[count:]:
                axis.remove()
            yield axes.flat[:count]
            for axis in axes.flat[:count]:
                axis.grid(alpha=0.3)
                axis.set_axisbelow(True)
            picture.parent.mkdir(parents=True, exist_ok=True)
            for path in (picture, *map(picture.with_suffix, also)):
                figure.savefig(path, dpi=300, metadata=_UNDATED.get(path.suffix))
        finally:
            pyplot.close(figure)


@contextmanager
def paper(picture: Path, count: int, options: Options, height: float = 1.7) -> Iterator[Any]:
    """`panels` for a paper: one above the other in one column, two by two across two; `height` is that of a panel."""
    columns = 2 if options.wide and count > 1 else 1
    width = TWO_COLUMNS if options.wide else ONE_COLUMN
    with panels(picture, count, height * math.ceil(count / columns) + 0.3, width=width, columns=columns) as axes:
        yield axes


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


def draw_violins(axis: Any, samples: Sequence[Any]) -> None:
    """A violin for each sample, its median marked, at 0, 1, 2 ... of the horizontal axis."""
    drawn = axis.violinplot(samples, range(len(samples)), widths=0.8, showmedians=True, showextrema=False)
    for body in drawn["bodies"]:
        body.set(facecolor=_COLOURS[2], edgecolor=_COLOURS[5], alpha=0.8)
    drawn["cmedians"].set_color(_COLOURS[0])


def legend_below(axes: Sequence[Any]) -> None:
    """One legend for all `axes`, below them, where it hides nothing; the picture grows by its height."""
    named = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }  # fmt: skip
    if not named:
        return
    figure = axes[0].figure
    width, height = figure.get_size_inches()
    columns = max(1, min(len(named), int(width / (_HANDLE + _LETTER * max(map(len, named))))))
    figure.set_size_inches(width, height + _LEGEND_ROW * math.ceil(len(named) / columns) + 0.1)
    figure.legend(named.values(), named, loc="outside lower center", ncols=columns, frameon=False)
