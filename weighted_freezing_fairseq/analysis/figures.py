"""Every figure, a row each: where its numbers come from, the columns of its CSV, and how it is drawn from these alone.

    rows = collect("curves", {"standard": Path("runs/standard-1"), "sage": Path("runs/sage-1")})
    draw("curves", rows, Path("curves.svg"))

Left out on purpose: what a picture looks like (`curves.py`), and the words of the command (`plot.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_atomically
from ..recipes.runs import as_csv, say
from . import curves, training_figures
from .curves import Options, Row
from .traces import refuse_missing


@dataclass(frozen=True)
class Figure:
    """A figure of a paper, for runs of one's own."""

    name: str
    about: str  # one line
    source: str  # the paper's figure
    takes: str  # what is typed after its name
    remedy: str  # why an input may have nothing for it, and what to type
    columns: Sequence[str]  # of its CSV
    read: Callable[[str, Path, Options], list[dict[str, Any]]]  # the rows of one input, none where it has nothing
    paint: Callable[[Sequence[Row], Path, Options], None]


FIGURES: Mapping[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure(
            "curves",
            about="learning curves: training loss, validation loss, nll and BLEU over updates",
            source="Xu et al. 2022, Figure 7",
            takes="RUN...",
            remedy="no JSON lines of fairseq's log; train with --log-format json, and give the log where it is "
            "not called train.log",
            columns=training_figures.CURVES,
            read=training_figures.read_curves,
            paint=training_figures.draw_curves,
        ),
    )
}


def collect(name: str, inputs: Mapping[str, Path], options: Options = Options()) -> list[dict[str, Any]]:  # noqa: B008
    """The rows of a figure's CSV, for inputs by their labels; none where they have nothing for it."""
    return [row for label, path in inputs.items() for row in rows_of(name, label, path, options)]


def rows_of(name: str, label: str, path: Path, options: Options = Options()) -> list[dict[str, Any]]:  # noqa: B008
    """What one input has for a figure; a CSV of this figure has its rows already."""
    refuse_missing(path)
    if is_table_of(name, path):
        return [{column: row[column] for column in FIGURES[name].columns} for row in curves.read_csv(path)]
    return FIGURES[name].read(label, path, options)


def is_table_of(name: str, path: Path) -> bool:
    """Whether `path` is a CSV with the columns of a figure."""
    if path.suffix != ".csv" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return set(FIGURES[name].columns) <= set(file.readline().rstrip("\r\n").split(","))


def draw(name: str, rows: Sequence[Row], path: Path, options: Options = Options()) -> None:  # noqa: B008
    """One picture of the rows of a figure's CSV; the ending of `path` decides: .png, .pdf, .svg."""
    FIGURES[name].paint(rows, path, options)


def make(
    name: str, inputs: Mapping[str, Path], folder: Path, formats: Sequence[str], options: Options = Options()  # noqa: B008
) -> list[Path]:  # fmt: skip
    """NAME.csv in `folder`, then pictures drawn from it alone, where matplotlib is; the files that were written."""
    rows: list[dict[str, Any]] = []
    for label, path in inputs.items():
        found = rows_of(name, label, path, options)
        if not found:
            say(f"{label}: {FIGURES[name].remedy}")
        rows += found
    if not rows:
        raise UserError(f"nothing to draw: {FIGURES[name].remedy}")
    table = folder / f"{name}.csv"
    if table.resolve() not in (path.resolve() for path in inputs.values()):  # which stays as it was edited
        write_atomically(table, as_csv(rows))
    written = [table]
    for ending in formats:
        try:
            draw(name, curves.read_csv(table), table.with_suffix(f".{ending}"), options)
        except ImportError:
            say(curves.NO_PICTURE)
            break
        written.append(table.with_suffix(f".{ending}"))
    return written
