"""Measure the cases of a cost table, in one process or in several that average their gradients.

A published table (`tables.py`) is measured once, into its own folder; a killed measurement starts again.
"""

import ctypes
import gc
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import UserError
from ..files import write_atomically
from ..workspace.configs import CONFIGS, methods_in
from ..workspace.locks import lock_folder
from ..workspace.processes import end_with_parent, without_interrupts
from ..workspace.progress import say
from ..workspace.steps import once
from . import results
from .cases import VARIANTS, Case, cases, criterion_of, variant
from .measure import measure
from .results import Cost
from .subjects import PRECISIONS, subject_of, synthetic
from .tables import TABLES, CostTable


@dataclass(frozen=True)
class Settings:
    """Settings for all cases of a command.

    Args:
        configs: folders of METHOD.yaml files.
    """

    configs: Sequence[Path] = (CONFIGS / "toy", CONFIGS / "adapt")
    device: str = "cpu"
    precision: str = "fp32"
    seed: int = 1


def prepare() -> None:
    """Register all methods, and silence fairseq and torch's profiler. Call it before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from ..plugin import bench_baselines  # noqa: F401

    logging.disable(logging.INFO)


def measurable(configs: Sequence[Path]) -> list[str]:
    """The methods with a YAML in `configs`, and their variants."""
    methods = methods_in(*configs)
    return [*methods, *(name for name, (method, *_) in VARIANTS.items() if method in methods and _is_available(name))]


def _is_available(method: str) -> bool:
    """Whether the installed fairseq has the criterion of a variant; fairseq 0.12.2 has no R-Drop."""
    from ..plugin.bench_baselines import has_criterion

    criterion = criterion_of(method)
    return criterion is None or has_criterion(criterion)


def measure_table(table: CostTable, settings: Settings) -> list[Cost]:
    """The costs of every case of a table."""
    rows = []
    for case in cases(table.sizes, table.vary):
        measure_case = _in_this_process if case.processes == 1 else _in_several_processes
        rows += measure_case(case, table.methods, table.rounds, settings)
        # glibc keeps the memory of deleted models; return it to the system, for the next case and its processes.
        gc.collect()
        if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
            trim(0)
    return rows


def tables_here(device: str) -> Iterator[str]:
    """The published tables that this machine can measure: a process needs a GPU of its own."""
    import torch

    gpus = torch.cuda.device_count()
    for table in TABLES.values():
        needed = max(case.processes for case in cases(table.sizes, table.vary))
        if device == "cuda" and needed > gpus:
            say(f"table {table.name} is left out: it needs {needed} GPUs, and torch sees {gpus}")
        else:
            yield table.name


def publish(names: Sequence[str], out: Path, settings: Settings, rounds: int | None, command: str) -> Iterator[str]:
    """Measure published tables that are not in `out` yet, each into a folder of its name; yields their Markdown.

    Args:
        rounds: overrides the number of rounds of each table.
        command: the command that repeats the measurement.
    """
    for name in names:
        methods = list(filter(_is_available, TABLES[name].methods))
        table = replace(TABLES[name], methods=methods, rounds=rounds or TABLES[name].rounds)
        folder = out / name

        def work(table: CostTable = table, folder: Path = folder) -> None:
            say(f"measuring {table.name}: {table.about}")
            results.write(measure_table(table, settings), folder, table.about, command)

        stamp = {"table": asdict(table), **asdict(settings)}
        if settings.configs == Settings.configs:
            stamp["configs"] = None  # not the path, which depends on where the package is installed
        with lock_folder(folder):
            once(folder, "bench", stamp, work)
        yield (folder / "bench.md").read_text(encoding="utf-8")


def _in_this_process(
    case: Case, methods: Sequence[str], rounds: int, settings: Settings, overrides: Sequence[str] = ()
) -> list[Cost]:
    """The costs of a case, with `overrides` of the settings of all its runs."""
    sample, task = synthetic(case.size, settings.seed)
    subjects = []
    for method in methods:
        path, of_variant = variant(method, settings.configs, case.passes)
        all_overrides = [*overrides, *PRECISIONS[settings.precision], *of_variant]
        subjects.append(subject_of(method, path, case.size, settings.device, settings.seed, task, all_overrides))
    return measure(subjects, case, sample, rounds, settings.device, settings.precision)


def _in_several_processes(case: Case, methods: Sequence[str], rounds: int, settings: Settings) -> list[Cost]:
    """The costs of a case in which processes average their gradients; measured in the first process."""
    import torch

    if settings.device == "cuda" and torch.cuda.device_count() < case.processes:
        raise UserError(
            f"{case.processes} processes need as many GPUs, but there are {torch.cuda.device_count()}; "
            f"type --vary processes=1,{torch.cuda.device_count()}, or --device cpu"
        )
    threads = max(1, torch.get_num_threads() // case.processes)
    with tempfile.TemporaryDirectory() as folder:
        arguments = (Path(folder), threads, case, methods, rounds, settings)
        with without_interrupts():
            processes = torch.multiprocessing.spawn(_measure_as_rank, arguments, nprocs=case.processes, join=False)
        while not processes.join():
            pass
        return [Cost(**row) for row in json.loads((Path(folder) / "rows.json").read_text(encoding="utf-8"))]


def _measure_as_rank(
    rank: int, folder: Path, threads: int, case: Case, methods: Sequence[str], rounds: int, settings: Settings
) -> None:
    """Measure in one of several processes. All measure the same methods in the same order, to average gradients."""
    import torch

    end_with_parent()
    prepare()
    torch.set_num_threads(threads)
    on_gpu = settings.device == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=case.processes
    )
    distributed = {
        "distributed_world_size": case.processes,
        "distributed_rank": rank,
        "device_id": rank,
        "ddp_backend": "pytorch_ddp" if on_gpu else "legacy_ddp",
    }
    overrides = [f"distributed_training.{name}={value}" for name, value in distributed.items()]
    with Path(os.devnull).open("w") if rank else nullcontext(sys.stderr) as log, redirect_stderr(log):
        rows = _in_this_process(case, methods, rounds, settings, overrides)
    if rank == 0:
        write_atomically(folder / "rows.json", json.dumps([asdict(row) for row in rows]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
