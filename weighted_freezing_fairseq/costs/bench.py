"""`wff bench`: what each method costs next to standard training, measured side by side in one process.

Every round runs one whole update of every method on the same batch, so that a noisy machine disturbs all alike; what
is reported are medians of the per-round ratios with their quartiles. Memory on a CPU is the sum of torch's own
allocations (the profiler's memory events), on a GPU the allocator's peak. Beside what was measured stands what no code
can go below (`operations.py`). Left out on purpose: absolute seconds as a result.
"""

import argparse
import ctypes
import gc
import json
import logging
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..figures.drawing import number, read_csv, whole_number
from ..files import write_atomically
from ..forms import Content
from ..workspace.configs import CONFIGS, config_path, methods_in
from ..workspace.locks import alone_in
from ..workspace.machine import device_name
from ..workspace.processes import end_with_parent, without_interrupts
from ..workspace.progress import say
from ..workspace.steps import once
from ..workspace.tables import as_csv
from .subjects import PRECISIONS, SIZES, Size, Subject, subject_of, synthetic
from .tables import TABLES, Table

HELP = """\
Measure time and memory of every method beside standard training, interleaved in one process, and count the operations
and bytes that it cannot do without."""
EXAMPLE = """\
wff bench --quick
  wff bench --methods sage,ewc --size iwslt --rounds 15 --out runs/bench
  wff bench --size small --vary vocabulary=4000,12000,40000
  wff bench --table all --device cuda --precision bf16 --out runs/costs   # every table of the README, on your GPU"""

# A method's YAML with other settings: its variants, the modes of its passes, the plain way of them (`plain_passes.py`),
# what fairseq itself has to offer, and the fastest plain Adam (`fused_adamw.py`).
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "adamw_of_torch": ("standard", "optimizer._name=adamw_of_torch"),
    "alignreg_frobenius": ("alignreg", "criterion.alignreg=frobenius"),
    "intra_distillation_loop": ("intra_distillation", "criterion.pass_mode=loop"),
    "intra_distillation_plain": ("intra_distillation", "criterion._name=intra_distillation_plain"),
    "intra_distillation_recompute": ("intra_distillation", "criterion.pass_mode=recompute"),
    "r_drop_of_fairseq": (
        "standard",
        "criterion._name=label_smoothed_cross_entropy_with_rdrop",
        "criterion.rdrop_alpha=5",
    ),
    "sage_bf16": ("sage", "optimizer.sage_state_dtype=bf16"),
    "sage_light": ("sage", "optimizer.sage_variant=light"),
}
_NUMBERS = tuple(field.name for field in fields(Size))
_OTHERS = ("passes", "processes")  # that can be varied, and are no numbers of a size


@dataclass(frozen=True)
class Case:
    """What is measured in one go: a size, under the name that rows have, and what tells it from others of that size."""

    name: str
    size: Size
    varied: str = ""
    value: int | None = None

    @property
    def passes(self) -> int | None:
        """The number K; None for that of the YAML."""
        return self.value if self.varied == "passes" else None

    @property
    def processes(self) -> int:
        """How many train together."""
        return (self.value or 1) if self.varied == "processes" else 1


@dataclass(frozen=True)
class Row:
    """One method at one size; ratios are to standard training, `low` and `high` are quartiles over rounds."""

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


def measure(
    subjects: Sequence[Subject], case: Case, sample: dict[str, Any], rounds: int, device: str, precision: str = "fp32"
) -> list[Row]:
    """Rows of `subjects` (standard first), which are those of `case`."""
    import torch

    from .operations import Rates

    seconds: dict[str, list[float]] = {subject.method: [] for subject in subjects}
    steps: dict[str, list[float]] = {subject.method: [] for subject in subjects}
    for subject in subjects:
        subject.settle(sample)
    transients = {subject.method: _transient_bytes(lambda s=subject: s.update(sample), device) for subject in subjects}
    counts = {subject.method: subject.count(sample) for subject in subjects}
    rates = Rates.of(device, lambda: _wait(device))
    bounds = {method: rates.seconds(found.products, moved) for method, (found, moved) in counts.items()}
    for turn in range(rounds):
        order = subjects[turn % len(subjects) :] + subjects[: turn % len(subjects)]
        for subject in order:
            seconds[subject.method].append(_timed(lambda s=subject: s.update(sample), device))
        for subject in order:
            subject.forget_gradients()
        for subject in order:
            steps[subject.method].append(_timed(subject.step, device))
        print(f"\rbench {case.name}: round {turn + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    base, named = subjects[0], device_name(device)
    rows = []
    for subject in subjects:
        time_low, time_mid, time_high = _quartiles(_ratios(seconds[subject.method], seconds[base.method]))
        added = [
            (mine - plain) / update
            for mine, plain, update in zip(steps[subject.method], steps[base.method], seconds[base.method], strict=True)
        ]
        share_low, share_mid, share_high = _quartiles(added)
        total = {s.method: s.resident_bytes() + transients[s.method] for s in (subject, base)}
        found, moved = counts[subject.method]
        rows.append(
            Row(
                method=subject.method,
                size=case.name,
                precision=precision,
                time_ratio=time_mid,
                time_low=time_low,
                time_high=time_high,
                step_ratio=_quartiles(_ratios(steps[subject.method], steps[base.method]))[1],
                step_share_added=share_mid,
                step_share_low=share_low,
                step_share_high=share_high,
                memory_ratio=total[subject.method] / total[base.method],
                peak_bytes=total[subject.method],
                transient_ratio=transients[subject.method] / transients[base.method],
                state_bytes=subject.state_bytes() - base.state_bytes(),
                flops=found.products + found.others,
                product_flops=found.products,
                step_bytes=moved,
                bound_seconds=bounds[subject.method],
                bound_ratio=bounds[subject.method] / bounds[base.method],
                update_seconds=statistics.median(seconds[subject.method]),
                parameters=sum(p.numel() for p in subject.trainer.model.parameters()),
                tokens=sample["ntokens"],
                rounds=rounds,
                varied=case.varied,
                value=case.value,
                device=named,
                threads=torch.get_num_threads(),
                torch=torch.__version__,
            )
        )
    return rows


def _timed(work: Callable[[], None], device: str) -> float:
    _meet()
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _meet() -> None:
    """Wait for the other processes, if there are any."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _transient_bytes(work: Callable[[], None], device: str) -> int:
    """The most bytes alive at once during `work` beyond those that were alive before it."""
    import torch

    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def _ratios(mine: Sequence[float], base: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(mine, base, strict=True)]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return (values[0],) * 3
    low, mid, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, mid, high


def as_markdown(rows: Sequence[Row]) -> str:
    """Medians and, in brackets, quartiles."""
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


def write(rows: Sequence[Row], out: Path, about: str, command: str) -> None:
    """bench.csv and bench.md in `out`, and pictures. about: one line; command: that measures this again."""
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


# A regression check ---------------------------------------------------------------------------------------------------


def worse_than(stored: Iterable[Mapping[str, str]], rows: Sequence[Row]) -> Iterator[str]:
    """What of `rows` is worse than a table of an earlier measurement, a line each.

    What is counted must be equal, but for a percent where kernels are chosen by the machine. Times are worse when even
    the lower quartile of now lies a tenth above the upper one of then: a shared machine shows less than that by chance.
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


def _stored(path: Path) -> list[Content]:
    """A table to compare with, looked at before anything is measured."""
    rows = read_csv(path)
    names = ("state_bytes", "product_flops", "step_bytes", "transient_ratio", "time_low", "time_ratio", "time_high")
    for row in rows:
        row["method"], row["size"], row["precision"]  # noqa: B018
        for name in names:
            number(row[name])
        whole_number(row["state_bytes"])
    return rows


# The command ----------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, how often, where to put it."""
    parser.add_argument(
        "--methods",
        help="comma-separated: each has a YAML in --configs, or is one of the variants "
        f"{', '.join(VARIANTS)} (default: all of both)",
    )
    parser.add_argument(
        "--configs",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of METHOD.yaml files; repeat for several (default: configs/toy and configs/adapt)",
    )
    parser.add_argument("--size", action="append", choices=list(SIZES), help="repeat for several (default: small)")
    parser.add_argument(
        "--vary",
        metavar="NAME=A,B",
        help=f"how cost grows: each size with each of these values for one of {', '.join(_NUMBERS)}; or passes=A,B, "
        "the K of intra_distillation; or processes=A,B, on as many GPUs, or on equal shares of the CPU's threads",
    )
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32", help="of training (default fp32)")
    parser.add_argument(
        "--table",
        action="append",
        choices=[*TABLES, "all"],
        help="a published table again, in the folder of that name in --out; one that is there is left as it is: "
        f"{'; '.join(f'{table.name}: {table.about}' for table in TABLES.values())}; all of them take about an hour of "
        "two free cores",
    )
    parser.add_argument("--rounds", type=int, help="interleaved rounds per size (default 15; a table has its own)")
    quick = TABLES["quick"]
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{quick.rounds} rounds of {', '.join(quick.methods)}: under 3 minutes on two free cores",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to measure (default cpu)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for bench.csv, bench.md and a picture of both costs")
    parser.add_argument(
        "--check",
        type=Path,
        metavar="BENCH.CSV",
        help="compare with this table; exit status 1 where something is worse",
    )
    parser.add_argument("--json", action="store_true", help="rows as JSON on standard output")


def cases(names: Sequence[str], vary: str | None) -> list[Case]:
    """Each size that is asked for, with each value of what is varied."""
    if vary is None:
        return [Case(name, SIZES[name]) for name in names]
    key, _, values = vary.partition("=")
    try:
        numbers = [int(value) for value in values.split(",")]
    except ValueError:
        numbers = []
    if key not in (*_NUMBERS, *_OTHERS) or not numbers or min(numbers) < 1:
        raise UserError(f"--vary {vary} says nothing to vary; type --vary vocabulary=4000,12000,40000 or passes=2,3,4")
    return [
        Case(
            f"{name}, {key} {number}",
            SIZES[name] if key in _OTHERS else replace(SIZES[name], **{key: number}),
            key,
            number,
        )
        for name in names
        for number in numbers
    ]


def variant(method: str, folders: Sequence[Path], passes: int | None) -> tuple[Path, list[str]]:
    """The YAML of a method or variant, and what is changed in it."""
    from omegaconf import OmegaConf

    method, *more = VARIANTS.get(method, (method,))
    path = config_path(method, *folders)
    if passes is not None and method == "intra_distillation":
        assert "num_passes" in OmegaConf.load(path).criterion
        more.append(f"criterion.num_passes={passes}")
    return path, more


def _asked(args: argparse.Namespace, folders: Sequence[Path]) -> Table:
    """What the words of the command ask for, standard first."""
    known = methods_in(*folders)
    every = [*known, *(name for name, (method, *_) in VARIANTS.items() if method in known and _is_here(name))]
    quick = TABLES["quick"]
    usual = [name for name in quick.methods if name in every] if args.quick else every
    asked = args.methods.split(",") if args.methods is not None else usual
    methods = ["standard", *(method for method in asked if method != "standard")]
    rounds = args.rounds or (quick.rounds if args.quick else 15)
    return Table("", "what methods cost", methods, args.size or ["small"], args.vary, rounds)


def _is_here(method: str) -> bool:
    """Whether this fairseq has the criterion of a variant: 0.12.2 has no R-Drop."""
    from fairseq.criterions import CRITERION_REGISTRY

    named = dict(setting.split("=") for setting in VARIANTS.get(method, ("",))[1:])
    return named.get("criterion._name", "cross_entropy") in CRITERION_REGISTRY


def _prepare() -> None:
    import fairseq  # noqa: F401  (registers the plugin's adapters)

    from . import fused_adamw, plain_passes  # noqa: F401  (register variants)

    logging.disable(logging.INFO)


def _measured(
    case: Case,
    methods: Sequence[str],
    folders: Sequence[Path],
    rounds: int,
    args: argparse.Namespace,
    settings: Sequence[str] = (),
) -> list[Row]:
    """The rows of a case, with more settings for all of its runs."""
    sample, task = synthetic(case.size, args.seed)
    subjects = []
    for method in methods:
        path, more = variant(method, folders, case.passes)
        more = [*settings, *PRECISIONS[args.precision], *more]
        subjects.append(subject_of(method, path, case.size, args.device, args.seed, task, more))
    return measure(subjects, case, sample, rounds, args.device, args.precision)


# Several processes ----------------------------------------------------------------------------------------------------


def _measured_together(case: Case, *given: Any) -> list[Row]:
    """The same by processes that average their gradients, each with such a batch; times are those of the first."""
    import torch

    device = given[-1].device
    if device == "cuda" and torch.cuda.device_count() < case.processes:
        raise UserError(
            f"{case.processes} processes need as many GPUs, and there are {torch.cuda.device_count()}; "
            f"type --vary processes=1,{torch.cuda.device_count()}, or --device cpu"
        )
    threads = max(1, torch.get_num_threads() // case.processes)
    with tempfile.TemporaryDirectory() as folder:
        with without_interrupts():
            processes = torch.multiprocessing.spawn(
                _process, (Path(folder), threads, case, *given), nprocs=case.processes, join=False
            )
        while not processes.join():
            pass
        return [Row(**row) for row in json.loads((Path(folder) / "rows.json").read_text(encoding="utf-8"))]


def _process(rank: int, folder: Path, threads: int, case: Case, *given: Any) -> None:
    """One of them; all take the same turns, as they wait for each other's gradients."""
    import torch

    end_with_parent()

    _prepare()
    torch.set_num_threads(threads)
    on_gpu = given[-1].device == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=meeting, rank=rank, world_size=case.processes
    )
    settings = {
        "distributed_world_size": case.processes,
        "distributed_rank": rank,
        "device_id": rank,
        "ddp_backend": "pytorch_ddp" if on_gpu else "legacy_ddp",
    }
    with Path(os.devnull).open("w") if rank else nullcontext(sys.stderr) as log, redirect_stderr(log):
        rows = _measured(case, *given, [f"distributed_training.{name}={value}" for name, value in settings.items()])
    if rank == 0:
        write_atomically(folder / "rows.json", json.dumps([asdict(row) for row in rows]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _rows(table: Table, args: argparse.Namespace, folders: Sequence[Path]) -> list[Row]:
    """Every case of a table."""
    rows = []
    for case in cases(table.sizes, table.vary):
        how = _measured if case.processes == 1 else _measured_together
        rows += how(case, table.methods, folders, table.rounds, args)
        _give_back()
    return rows


def _give_back() -> None:
    """The memory of models that are gone, which glibc keeps, to the next case and its processes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _make_tables(args: argparse.Namespace, folders: Sequence[Path]) -> None:
    """Each table that is asked for in a folder of its own, but for those that are there already."""
    for option in ("methods", "size", "vary", "quick", "check", "json"):
        if getattr(args, option):
            raise UserError(f"--table says what is measured, and where it goes; leave out --{option}, or --table")
    if args.out is None:
        raise UserError("where to? add --out DIR, in which each table gets a folder")
    for name in dict.fromkeys(TABLES if "all" in args.table else args.table):
        known = TABLES[name]
        table = replace(known, methods=list(filter(_is_here, known.methods)), rounds=args.rounds or known.rounds)
        out = args.out / name

        def work(table: Table = table, out: Path = out) -> None:
            say(f"measuring {table.name}: {table.about}")
            write(_rows(table, args, folders), out, table.about, _command(args.words))

        settings = {"table": asdict(table), "configs": args.configs}
        settings |= {option: getattr(args, option) for option in ("device", "precision", "seed")}
        with alone_in(out):
            once(out, "bench", settings, work)
        print((out / "bench.md").read_text(encoding="utf-8"))


def _command(words: Sequence[str]) -> str:
    """As it was typed, with the number of threads that it had."""
    threads = os.environ.get("OMP_NUM_THREADS")
    return " ".join([*([f"OMP_NUM_THREADS={threads}"] if threads else []), shlex.join(["wff", *words])])


def run(args: argparse.Namespace) -> int:
    # Read when torch is imported, whose profiler prints its own probes, and wonders what was allocated before it began.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    _prepare()
    folders = args.configs or [CONFIGS / "toy", CONFIGS / "adapt"]
    if args.rounds is not None and args.rounds < 1:
        raise UserError("--rounds must be at least 1; type --rounds 15")
    if args.table:
        _make_tables(args, folders)
        return 0
    if args.check is not None and not args.check.is_file():
        raise UserError(f"there is no table {args.check}; make one with: wff bench --quick --out DIR")
    stored = [] if args.check is None else _stored(args.check)
    asked = _asked(args, folders)
    rows = _rows(asked, args, folders)
    print(json.dumps([asdict(row) for row in rows], indent=2) if args.json else as_markdown(rows))
    if args.out:
        write(rows, args.out, asked.about, _command(args.words))
    if args.check is None:
        return 0
    for device in sorted({row.get("device", "") for row in stored} - {rows[0].device, ""}):
        say(f"{args.check} was measured on another machine ({device}), whose ratios may differ from those of this one")
    worse = list(worse_than(stored, rows))
    for line in worse:
        say(f"worse than {args.check}: {line}")
    return 1 if worse else 0
