"""Tables of results as text: CSV, and means with their standard deviation."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomically


def write_tables(folder: Path, text: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """table.md, and table.csv with `rows` of equal keys."""
    write_atomically(folder / "table.md", text + "\n")
    write_atomically(folder / "table.csv", as_csv(rows))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` of equal keys under a line of their names."""
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()


def mean(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"
