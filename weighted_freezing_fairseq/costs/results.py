"""The costs of methods: rows for each method and size, written as tables and pictures, and compared with a table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tabulate import tabulate

from ..figures.drawing import number, read_csv, whole_number
from ..files import write_atomically
from ..forms import Content
from ..workspace.tables import as_csv


@dataclass(frozen=True)
class Cost:
    """The cost of a method at a size. Ratios are to standard training; `low` and `high` are quartiles over rounds."""

    method: str
    size: str
    precision: str
    time_ratio: float
    time_low: float
    time_high: float
    step_ratio: float
    step_share_added: float  # (step of the method - standard step) / standard update
    step_share_low: float
    step_share_high: float
    memory_ratio: float
    peak_bytes: int  # weights, state, and the peak of temporary memory in an update
    transient_ratio: float  # of temporary memory
    state_bytes: int  # of optimizer and criterion, minus that of standard training
    flops: int  # operations of an update
    product_flops: int  # of these, in matrix products
    step_bytes: int  # minimal traffic of a step
    bound_seconds: float  # lower bound for products and traffic on this machine
    bound_ratio: float
    update_seconds: float
    parameters: int
    tokens: int
    rounds: int
    varied: str  # the name of the varied number, if any
    value: int | None
    device: str
    threads: int
    torch: str


def as_markdown(rows: Sequence[Cost]) -> str:
    """A table in Markdown, with quartiles in brackets."""
    header = ["size", "method", "update time", "by count", "step", "step on top, in updates", "peak memory"]
    header += ["transient", "more state", "GFLOP"]
    cells = [
        [
            f"{row.size} ({row.parameters / 1e6:.1f} M)",
            f"`{row.method}`",
            f"{row.time_ratio:.3f} [{row.time_low:.3f}, {row.time_high:.3f}]",
            f"{row.bound_ratio:.3f}",
            f"{row.step_ratio:.2f}",
            f"{100 * row.step_share_added:+.2f} % [{100 * row.step_share_low:+.2f}, {100 * row.step_share_high:+.2f}]",
            f"{row.memory_ratio:.3f}",
            f"{row.transient_ratio:.3f}",
            f"{row.state_bytes:,} B",
            f"{row.flops / 1e9:.2f}",
        ]
        for row in rows
    ]
    return tabulate(cells, header, "github", disable_numparse=True, numalign=None, stralign=None)


def write(rows: Sequence[Cost], out: Path, about: str, command: str) -> None:
    """Write bench.csv, bench.md and the pictures to `out`.

    Args:
        about: what was measured, in one line.
        command: the command that repeats the measurement.
    """
    from ..figures import registry

    first = rows[0]
    environment = (
        f"{first.device}, {first.threads} thread{'s' * (first.threads > 1)}, {first.precision}, torch {first.torch}"
    )
    heading = f"""\
# {about[0].upper()}{about[1:]}

Beside standard training, as in Table 1 and Figure 2 of Li et al. 2023: ratios, median and quartiles of {first.rounds}
interleaved rounds. {environment}.

    {command}
"""
    write_atomically(out / "bench.csv", as_csv([asdict(row) for row in rows]))
    write_atomically(out / "bench.md", f"{heading}\n{as_markdown(rows)}\n")
    for name, values in (("cost", {row.method for row in rows}), ("growth", {row.size for row in rows})):
        if len(values) > 1:
            registry.make(name, {out.name: out / "bench.csv"}, out, ("png", "pdf"))


def worse_than(stored: Iterable[Mapping[str, str]], rows: Sequence[Cost]) -> Iterator[str]:
    """One line for each value of `rows` that is worse than in the table `stored`.

    Counts are worse if they grow by more than 1 %, because the machine chooses some kernels. A time is worse if its
    lower quartile is more than 10 % above the stored upper quartile, which exceeds the noise of a shared machine.
    """
    stored_rows = {(row["method"], row["size"], row["precision"]): row for row in stored}
    for row in rows:
        old = stored_rows.get((row.method, row.size, row.precision))
        if old is None:
            continue
        name = f"{row.method}, {row.size}, {row.precision}"
        if row.state_bytes > int(old["state_bytes"]):
            yield f"{name}: {row.state_bytes:,} bytes of state, not {int(old['state_bytes']):,}"
        for column, tolerance in (("product_flops", 1.01), ("step_bytes", 1.01), ("transient_ratio", 1.05)):
            now, before = float(getattr(row, column)), float(old[column])
            if now > tolerance * before:
                yield f"{name}: {column} {now:.6g}, not {before:.6g}"
        if row.time_low > 1.1 * float(old["time_high"]):
            before = f"{float(old['time_ratio']):.3f} [..., {float(old['time_high']):.3f}]"
            yield f"{name}: update time {row.time_ratio:.3f} [{row.time_low:.3f}, ...], not {before}"


def read_costs(path: Path) -> list[Content]:
    """The rows of a bench.csv for `worse_than`; a file without its columns is refused."""
    rows = read_csv(path)
    names = ("state_bytes", "product_flops", "step_bytes", "transient_ratio", "time_low", "time_ratio", "time_high")
    for row in rows:
        row["method"], row["size"], row["precision"]  # noqa: B018
        for name in names:
            number(row[name])
        whole_number(row["state_bytes"])
    return rows
