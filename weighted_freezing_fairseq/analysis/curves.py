"""Learning curves of several runs: first a CSV read from fairseq's JSON logs, then a picture drawn from the CSV.

How a picture, its lines and violins look is for other figures too. Left out on purpose: these figures, which read
checkpoints and not logs (`prune.py`, `sensitivity.py`).
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart; each run also has its own dash and marker.
_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NO_PICTURE = "no picture: matplotlib is missing; type: pip install 'weighted-freezing-fairseq[plot]'"
COLUMNS = ("run", "split", "update", "loss", "nll_loss")


def read_log(path: Path) -> list[dict[str, float | str]]:
    """Training (per interval) and validation losses of one log; a resumed run's repeated updates count once."""
    found: dict[tuple[str, int], dict[str, float | str]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        for kind, split, prefix in (("train_inner", "train", ""), ("valid", "valid", "valid_")):
            if f"| {kind} | {{" not in line and f"[{kind}][INFO] - {{" not in line:
                continue
            try:
                values = json.loads(line[line.index("{") :])
            except json.JSONDecodeError:  # a line that a killed run left half written
                continue
            if f"{prefix}nll_loss" in values:
                update = int(values[f"{prefix}num_updates"])
                losses = {name: float(values[f"{prefix}{name}"]) for name in ("loss", "nll_loss")}
                found[split, update] = {"split": split, "update": update, **losses}
    return [found[key] for key in sorted(found)]


def write_csv(logs: Mapping[str, Path], path: Path) -> None:
    """One row a run, split and update."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for run, log in logs.items():
            table.writerows({"run": run, **row} for row in read_log(log))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows as they were written."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(table: Path, picture: Path, title: str = "") -> None:
    """Training loss above, validation nll below, over updates; one line a run."""
    rows = read_csv(table)
    shown = (
        ("train", "loss", "training loss (bits, smoothed labels)"),
        ("valid", "nll_loss", "validation nll (bits)"),
    )
    with panels(picture, len(shown), height=6.4) as axes:
        for axis, (split, column, label) in zip(axes, shown, strict=True):
            for index, run in enumerate(dict.fromkeys(row["run"] for row in rows)):
                mine = [row for row in rows if row["run"] == run and row["split"] == split]
                draw_line(axis, index, run, ((int(row["update"]), float(row[column])) for row in mine))
            axis.set_ylabel(label)
        axes[0].legend(title=title or None)
        axes[1].set_xlabel("updates")


@contextmanager
def panels(picture: Path, count: int, height: float, also: Sequence[str] = ()) -> Iterator[Any]:
    """Axes, one above the other, that become a picture of `height` inches when the block ends well.

    also: endings of other formats that it is saved in, as `.pdf`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(count, 1, sharex=True, squeeze=False, figsize=(6.4, height), layout="constrained")
    try:
        yield axes[:, 0]
        for axis in axes[:, 0]:
            axis.grid(alpha=0.3)
        for path in (picture, *map(picture.with_suffix, also)):
            figure.savefig(path, dpi=150)
    finally:
        pyplot.close(figure)


def draw_line(axis: Any, index: int, label: str, points: Iterable[tuple[float, float]]) -> None:
    """One line of the picture; lines of different `index` look different."""
    points = list(points)
    axis.plot(
        *zip(*points, strict=True) if points else ((), ()),
        label=label,
        color=_COLOURS[index % len(_COLOURS)],
        linestyle=_DASHES[index % len(_DASHES)],
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=3,
    )


def draw_violins(axis: Any, samples: Sequence[Any]) -> None:
    """A violin for each sample, its median marked, at 0, 1, 2 ... of the horizontal axis."""
    drawn = axis.violinplot(samples, range(len(samples)), widths=0.8, showmedians=True, showextrema=False)
    for body in drawn["bodies"]:
        body.set(facecolor=_COLOURS[2], edgecolor=_COLOURS[5], alpha=0.8)
    drawn["cmedians"].set_color(_COLOURS[0])
