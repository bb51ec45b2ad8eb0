"""Tables of results as text: CSV, and means with their standard deviation."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_atomically


def write_tables(folder: Path, text: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `text` to table.md and `rows`, which have the same keys, to table.csv."""
    write_atomically(folder / "table.md", text + "\n")
    write_atomically(folder / "table.csv", as_csv(rows))


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows`, which have the same keys, as CSV with a header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def mean(values: Sequence[float]) -> str:
    """The mean of `values`, with the standard deviation if there are several."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"
