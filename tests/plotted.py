"""What tests of figures share: lines of fairseq's log, tables, the lines of a picture."""

import csv
import json
from pathlib import Path


def line(kind, update, loss, hydra=False, **more):
    """One line of fairseq's log, by --log-format json."""
    prefix = {"train_inner": "", "train": "train_", "valid": "valid_"}[kind]
    values = {"num_updates": update, "loss": loss, "nll_loss": loss - 1, **more}
    values = {"epoch": 1, "update": 0.5} | {
        f"{prefix}{name}": value if isinstance(value, list) else str(value) for name, value in values.items()
    }
    return (f"[2026][{kind}][INFO] - " if hydra else f"2026 | INFO | {kind} | ") + json.dumps(values)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def lines(axis) -> dict[str, list[list[float]]]:
    """The points of each line that has a name and points, by its name."""
    found = {each.get_label(): each.get_xydata().tolist() for each in axis.lines}
    return {name: points for name, points in found.items() if points and not name.startswith("_")}
