"""Figures of how a training goes: learning curves.

Their rows come from the traces of runs, a row a run and update. Left out on purpose: what comes out of a training.
"""

from collections.abc import Sequence
from pathlib import Path

from . import curves
from .curves import Options, Row, draw_line, number
from .traces import Traces, read_log

# Learning curves ----------------------------------------------------------------------------------------------------

CURVES = ("run", "split", "update", "loss", "nll_loss", "bleu")
_CURVES = (
    ("train", "loss", "training loss (bits/token)"),
    ("valid", "loss", "validation loss (bits/token)"),
    ("valid", "nll_loss", "validation nll (bits/token)"),
    ("valid", "bleu", "validation BLEU"),
)


def read_curves(label: str, path: Path, options: Options) -> list[dict[str, object]]:
    """Losses of training, an interval each, and of validation; BLEU where --eval-bleu measured it."""
    log = Traces(path).log
    return [
        {"run": label, "split": row["split"], "update": row["update"]}
        | {name: row.get(name, "") for name in ("loss", "nll_loss", "bleu")}
        for row in (read_log(log) if log else ())
    ]


def draw_curves(rows: Sequence[Row], picture: Path, options: Options) -> None:
    """A panel for each measure that any run has; a line a run."""
    shown = [
        (split, column, label)
        for split, column, label in _CURVES
        if any(row["split"] == split and row[column] != "" for row in rows)
    ]
    runs = list(dict.fromkeys(row["run"] for row in rows))
    with curves.paper(picture, len(shown), options) as axes:
        for axis, (split, column, label) in zip(axes, shown, strict=True):
            for index, run in enumerate(runs):
                mine = (row for row in rows if row["run"] == run and row["split"] == split)
                draw_line(axis, index, run, ((number(row["update"]), number(row[column])) for row in mine))
            axis.set_ylabel(label)
            axis.set_xlabel("updates")
            axis.label_outer()
        curves.legend_below(axes)
