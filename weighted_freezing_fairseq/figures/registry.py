"""All figures of `wff plot`: the columns of each CSV, the function that reads them, and the function that draws them.

rows = collect("curves", {"standard": Path("runs/standard-1"), "sage": Path("runs/sage-1")})
draw("curves", rows, Path("curves.svg"))
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_atomically
from ..workspace.progress import say
from ..workspace.runs import PROVENANCE
from ..workspace.tables import as_csv
from . import costs, drawing, models, training
from .drawing import DEFAULTS, CsvRow, Options
from .training_logs import seed_columns


@dataclass(frozen=True)
class Figure:
    """A figure of a paper, drawn from the user's own runs.

    Args:
        about: a description in one line.
        source: the figure in the paper.
        takes: the arguments of `wff plot NAME`.
        remedy: why an input may have no rows, and what to type.
        columns: the columns of the CSV.
        read: returns the rows of an input with a label; empty if it has none.
        draw: draws a picture from the rows of the CSV.
        rows_of_options: returns rows that need no input.
    """

    name: str
    about: str
    source: str
    takes: str
    remedy: str
    columns: Sequence[str]
    read: Callable[[str, Path, Options], list[dict[str, Any]]]
    draw: Callable[[Sequence[CsvRow], Path, Options], None]
    rows_of_options: Callable[[Options], list[dict[str, Any]]] = lambda options: []


FIGURES: Mapping[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure(
            "curves",
            about="learning curves: training loss, validation loss, nll_loss and BLEU over updates",
            source="Xu et al. 2022, Figure 7",
            takes="RUN...",
            remedy="no values in fairseq's log and no TensorBoard files; train with --log-format json or simple, or "
            "--tensorboard-logdir DIR, and give the log where it is not called train.log",
            columns=training.CURVES,
            read=training.read_curves,
            draw=training.draw_curves,
        ),
        Figure(
            "importance",
            about="mean importance of the top 20 % and of the rest, balance, and what is frozen, while a run trains",
            source="Xu et al. 2022, Figure 2",
            takes='RUN... [--group "fc1,encoder.layers.0"]',
            remedy="no importance.csv; train with --log-importance 200",
            columns=training.IMPORTANCE,
            read=training.read_importance,
            draw=training.draw_importance,
        ),
        Figure(
            "alpha",
            about="the adaptive strength of intra-distillation over updates, as it is set and as it was logged",
            source="Xu et al. 2022, Figure 4",
            takes="[RUN...] [--alpha 5 --p 5 --q 10,25 --updates 50000]",
            remedy="no run.yaml with intra_distillation, and no log with alpha; give a run of that criterion, or type "
            "--alpha 5 --p 5 --q 10 --updates 50000",
            columns=training.ALPHA,
            read=training.read_alpha,
            draw=training.draw_alpha,
            rows_of_options=training.schedules,
        ),
        Figure(
            "passes",
            about="BLEU against the number K of passes, mean and standard deviation over seeds",
            source="Xu et al. 2022, Figure 8",
            takes="RUN...",
            remedy="no score of standard training or of intra_distillation beside its run.yaml; give run folders that "
            "are trained, and score them with: wff evaluate RUN",
            columns=models.PASSES,
            read=models.read_passes,
            draw=models.draw_passes,
        ),
        Figure(
            "pruning",
            about="BLEU, and its change, against the share of the weights that is pruned",
            source="Xu et al. 2022, Figures 6, 10 and 11",
            takes="FOLDER-OR-TABLE...",
            remedy="no curve.csv of wff prune --fractions 0:0.9:0.1, and no table.csv of wff prune-iterative; "
            "give one of these, or its folder",
            columns=models.PRUNING,
            read=models.read_pruning,
            draw=models.draw_pruning,
        ),
        Figure(
            "norms",
            about="norms of the weights by layer and type of module, of any checkpoints, pruned or not",
            source="O'Neill et al. 2022, Figure 7",
            takes="CHECKPOINT... [--per-parameter]",
            remedy="no weights",
            columns=models.NORMS,
            read=models.read_norms,
            draw=models.draw_norms,
        ),
        Figure(
            "cost",
            about="time of an update or epoch, with quartiles, and memory beyond standard training's, by method",
            source="Li et al. 2023, Figure 2",
            takes="BENCH.CSV... [--updates-per-epoch N]",
            remedy="no table of wff bench with standard training in it; make one with: wff bench --out DIR",
            columns=costs.COST,
            read=costs.read_cost,
            draw=costs.draw_cost,
        ),
        Figure(
            "growth",
            about="time of an update and peak memory beside standard training's, against what was varied, or the "
            "size of the model",
            source="Li et al. 2023, Figure 3, in time and memory",
            takes="BENCH.CSV...",
            remedy="no table of wff bench that says what was varied; make one with: wff bench --table batch --out DIR",
            columns=costs.GROWTH,
            read=costs.read_growth,
            draw=costs.draw_growth,
        ),
        Figure(
            "flops",
            about="operations of an update beyond standard training's, against the size of the model",
            source="Li et al. 2023, Figure 3",
            takes="BENCH.CSV...",
            remedy="no table with the columns method, size, parameters and flops, and standard among the methods; "
            "make one with: wff bench --size toy --size small --size iwslt --size big --out DIR",
            columns=costs.FLOPS,
            read=costs.read_flops,
            draw=costs.draw_flops,
        ),
    )
}


def as_markdown() -> str:
    """The table of docs/analyse.md."""
    lines = ["| figure | shows | as | from |", "|---|---|---|---|"]
    for figure in FIGURES.values():
        lines.append(f"| `{figure.name}` | {figure.about} | {figure.source} | `{figure.takes}` |")
    return "\n".join(lines)


def collect(name: str, inputs: Mapping[str, Path], options: Options = DEFAULTS) -> list[dict[str, Any]]:
    """The rows of a figure's CSV, from inputs by label; inputs without rows are skipped."""
    return [row for rows in _rows_by_label(name, inputs, options).values() for row in rows]


def _rows_by_label(name: str, inputs: Mapping[str, Path], options: Options) -> dict[str, list[dict[str, Any]]]:
    """The rows of each input by its label, and those that need no input by an empty one."""
    rows = {label: _rows_of(name, label, path, options) for label, path in inputs.items()}
    if FIGURES[name].columns[: len(training.LINE)] == training.LINE:
        lines = seed_columns(inputs)
        rows = {label: [{**lines[label], **row} for row in of_input] for label, of_input in rows.items()}
    return {**rows, "": FIGURES[name].rows_of_options(options)}


def _rows_of(name: str, label: str, path: Path, options: Options) -> list[dict[str, Any]]:
    """The rows of one input, which may be a CSV of this figure."""
    if not path.exists():
        raise UserError(f"there is no {path}; give the folder of a run, its log, or a table")
    if is_table_of(name, path):
        return [{column: row[column] for column in FIGURES[name].columns} for row in drawing.read_csv(path)]
    return FIGURES[name].read(label, path, options)


def is_table_of(name: str, path: Path) -> bool:
    """Whether `path` is a CSV with the columns of a figure."""
    return path.suffix == ".csv" and path.is_file() and set(FIGURES[name].columns) <= _csv_columns(path)


def _csv_columns(path: Path) -> set[str]:
    """The names in the first line of a CSV."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return set(file.readline().rstrip("\r\n").split(","))


def _remedy(name: str, path: Path) -> str:
    """Why an input has no rows, and what to type."""
    if path.suffix == ".csv" and path.is_file() and "run" in (columns := _csv_columns(path)):
        missing = ", ".join(column for column in FIGURES[name].columns if column not in columns)
        return f"{path} has no column {missing}; draw it again from the runs"
    folders = {file.parents[1] for file in path.rglob(PROVENANCE)} if "RUN..." in FIGURES[name].takes else set()
    if folders and not (path / PROVENANCE).is_file():
        return f"{path} is a folder of runs; give its runs: {' '.join(sorted(f'{folder}/*' for folder in folders))}"
    return FIGURES[name].remedy


def draw(name: str, rows: Sequence[CsvRow], path: Path, options: Options = DEFAULTS) -> None:
    """Draw a figure from the rows of its CSV; the suffix of `path` is the format: .png, .pdf or .svg."""
    FIGURES[name].draw(rows, path, options)


def make(
    name: str, inputs: Mapping[str, Path], folder: Path, formats: Sequence[str], options: Options = DEFAULTS
) -> list[Path]:
    """Write NAME.csv into `folder`, and pictures of that CSV if matplotlib is installed; returns the files written."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a figure needs a folder; give another --out")
    rows_by_label = _rows_by_label(name, inputs, options)
    rows = [row for rows_of_input in rows_by_label.values() for row in rows_of_input]
    without_rows: dict[str, list[str]] = {}
    for label, path in inputs.items():
        if not rows_by_label[label]:
            without_rows.setdefault(_remedy(name, path), []).append(label)
    if not rows:
        raise UserError(f"nothing to draw: {'; '.join(without_rows) or FIGURES[name].remedy}")
    for remedy, labels in without_rows.items():
        say(f"{', '.join(labels)}: {remedy}")
    table = folder / f"{name}.csv"
    if table.resolve() not in (path.resolve() for path in inputs.values()):  # an edited CSV is not overwritten
        write_atomically(table, as_csv(rows))
    files = [table]
    for suffix in formats:
        picture = table.with_suffix(f".{suffix}")
        try:
            draw(name, drawing.read_csv(table), picture, options)
        except ImportError:
            say(drawing.NO_PICTURE)
            break
        files.append(picture)
    return files
