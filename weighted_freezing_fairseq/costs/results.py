"""What a method costs: one row for each method and size, as a table, as pictures, and compared with an earlier one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..figures.drawing import number, read_csv, whole_number
from ..files import write_atomically
from ..forms import Content
from ..workspace.tables import as_csv


@dataclass(frozen=True)
class Cost:
    """The cost of one method at one size; ratios are to standard training, `low` and `high` are quartiles of rounds."""

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
    peak_bytes: int  # weights, state, and the most that an update needs beside them
    transient_ratio: float
    state_bytes: int  # of optimizer and criterion beyond standard's
    flops: int  # operations of one update, of which `product_flops` are products of matrices
    product_flops: int
    step_bytes: int  # that one step cannot help moving
    bound_seconds: float  # the least that these products and bytes take on this machine
    bound_ratio: float  # that, beside standard's
    update_seconds: float
    parameters: int
    tokens: int
    rounds: int
    varied: str  # of the size, and its value here
    value: int | None
    device: str
    threads: int
    torch: str


def as_markdown(rows: Sequence[Cost]) -> str:
    """A Markdown table of medians with quartiles in brackets."""
    lines = [
        "| size | method | update time | by count | step | step on top, in updates | peak memory | transient "
        "| more state | GFLOP |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.size} ({row.parameters / 1e6:.1f} M) | `{row.method}` "
            f"| {row.time_ratio:.3f} [{row.time_low:.3f}, {row.time_high:.3f}] | {row.bound_ratio:.3f} "
            f"| {row.step_ratio:.2f} | {100 * row.step_share_added:+.2f} % "
            f"[{100 * row.step_share_low:+.2f}, {100 * row.step_share_high:+.2f}] "
            f"| {row.memory_ratio:.3f} | {row.transient_ratio:.3f} | {row.state_bytes:,} B "
            f"| {row.flops / 1e9:.2f} |"
        )
    return "\n".join(lines)


def write(rows: Sequence[Cost], out: Path, about: str, command: str) -> None:
    """Write bench.csv, bench.md and the pictures to `out`.

    Args:
        about: what was measured, in one line.
        command: the command that measures this again.
    """
    from ..figures import registry

    first = rows[0]
    with_what = f"{first.device}, {first.threads} threads, {first.precision}, torch {first.torch}"
    heading = f"""\
# {about[0].upper()}{about[1:]}

Beside standard training, as in Table 1 and Figure 2 of Li et al. 2023: ratios, median and quartiles of {first.rounds}
interleaved rounds. {with_what}.

    {command}
"""
    write_atomically(out / "bench.csv", as_csv([asdict(row) for row in rows]))
    write_atomically(out / "bench.md", f"{heading}\n{as_markdown(rows)}\n")
    if len({row.method for row in rows}) > 1:
        registry.make("cost", {out.name: out / "bench.csv"}, out, ("png", "pdf"))
    if len({row.size for row in rows}) > 1:
        registry.make("growth", {out.name: out / "bench.csv"}, out, ("png", "pdf"))


def worse_than(stored: Iterable[Mapping[str, str]], rows: Sequence[Cost]) -> Iterator[str]:
    """One line for each value of `rows` that is worse than in a table that was measured earlier.

    Counts may differ by one percent, where the machine chooses the kernels. A time is worse if its lower quartile is
    more than 10 % above the upper quartile of the earlier table; noise on a shared machine stays below that.
    """
    then = {(row["method"], row["size"], row["precision"]): row for row in stored}
    for row in rows:
        old = then.get((row.method, row.size, row.precision))
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
    """The rows of a bench.csv to compare with; a file without the columns that are compared is refused."""
    rows = read_csv(path)
    names = ("state_bytes", "product_flops", "step_bytes", "transient_ratio", "time_low", "time_ratio", "time_high")
    for row in rows:
        row["method"], row["size"], row["precision"]  # noqa: B018
        for name in names:
            number(row[name])
        whole_number(row["state_bytes"])
    return rows
