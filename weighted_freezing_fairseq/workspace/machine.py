"""What there is to compute with, and how it is shared out: runs side by side, threads or GPUs for each.

A run's effective batch is what its YAML says for one process, whatever the number of GPUs; its precision is what the
device does best, unless the user chooses. Left out on purpose: several nodes for one run (a model of these recipes fits
one GPU; SLURM gives each run its own node).
"""

import os
import platform
import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError
from .processes import threads

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
_T, _U = TypeVar("_T"), TypeVar("_U")


def cores() -> int:
    """The CPU cores that this process may use; SLURM does not always bind a job to those that it has."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here, _number("SLURM_CPUS_PER_TASK") or here)


def threads_each(jobs: int) -> int:
    """The threads of each of `jobs` runs side by side: its share of the cores, or fewer where OMP_NUM_THREADS says so.

    More threads than cores are a catastrophe: they wait for one another awake.
    """
    share = max(1, cores() // jobs)
    return min(share, _number("OMP_NUM_THREADS") or share)


def _number(variable: str) -> int | None:
    """A positive number that the environment holds; of a list for nested threads the first."""
    first = os.environ.get(variable, "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def a_device() -> str:
    """cuda where torch sees a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """What computes: the name of the GPU or of the processor, as far as the system tells it."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name(0)
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        told = []
    names = (line.partition(":")[2].strip() for line in told if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def environment(threads: int) -> dict[str, str]:
    """This process's, with a number of threads for what is started, and everything in its log.

    Progress and curves are read from the log, and so is the reason of a failure, which Hydra would shorten.
    """
    log = {"PYTHONUNBUFFERED": "1", "LOGLEVEL": "INFO", "HYDRA_FULL_ERROR": "1"}
    return {**os.environ, "OMP_NUM_THREADS": str(threads), **log}


def share_of_batch(tokens: int, update_freq: int, gpus: int, at_most: int | None = None) -> tuple[int, int]:
    """max_tokens and update_freq of each of `gpus` processes that together make the batch of one: tokens * update_freq.

    at_most: the tokens that fit into a GPU at once (default: `tokens`, as on one). The batch is never larger than that
    of one process, and smaller by less than one token a micro-batch. Each process must get a token of it.
    """
    whole = tokens * update_freq
    rounds = min(-(-whole // (gpus * (at_most or tokens))), whole // gpus)
    return whole // (gpus * rounds), rounds


@dataclass(frozen=True)
class Machine:
    """What trains: where, how many runs at once, threads and GPUs for each."""

    device: str
    jobs: int
    threads: int
    gpus: int = 0
    precision: str = "fp32"
    tokens_per_gpu: int | None = None
    _free: "queue.SimpleQueue[str]" = field(default_factory=queue.SimpleQueue, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        visible = _visible_gpus() if self.gpus else []
        for job in range(self.jobs if self.gpus else 0):
            first = job * self.gpus  # more runs than GPUs share them
            self._free.put(",".join(visible[(first + k) % len(visible)] for k in range(self.gpus)))

    @classmethod
    def of(
        cls,
        device: str | None,
        jobs: int | None,
        runs: int,
        gpus: int = 1,
        precision: str = "auto",
        tokens_per_gpu: int | None = None,
    ) -> "Machine":
        """The user's choice, or: GPUs where there are some, and as many runs at once as fit, a core or `gpus` each."""
        device = device or a_device()
        if device == "cpu":
            if precision not in ("auto", "fp32"):
                raise UserError(f"--precision {precision} is for GPUs; type --precision fp32, or --device cuda")
            jobs = min(jobs or cores(), runs)
            return cls(device, jobs, threads_each(jobs))
        found = len(_visible_gpus())
        if gpus < 1 or gpus > found:
            raise UserError(f"torch sees {found} GPUs, and {gpus} were asked for; type --gpus {max(1, found)}")
        jobs = min(jobs or found // gpus, runs)
        return cls(device, jobs, threads_each(jobs), gpus, _precision(precision), tokens_per_gpu)

    def map(self, work: Callable[[_T], _U], runs: Iterable[_T]) -> list[_U]:
        """`work` on each of `runs`, `jobs` at a time."""
        with threads(self.jobs) as pool:
            return list(pool.map(work, runs))

    @contextmanager
    def environment(self) -> Iterator[dict[str, str]]:
        """That of one run: its threads, and GPUs, which it has for itself where there are enough of them."""
        mine = environment(self.threads)
        if not self.gpus:
            yield mine
            return
        gpus = self._free.get()
        try:
            yield {**mine, "CUDA_VISIBLE_DEVICES": gpus}
        finally:
            self._free.put(gpus)

    def settings(self, tokens: int, update_freq: int, unit: str = "max_tokens") -> dict[str, Any]:
        """fairseq's settings for a training whose YAML has `tokens` and `update_freq` for one process in float32.

        unit: of the batch and of what fits into a GPU; `batch_size` counts sentences.
        """
        if not self.gpus:
            return {"common": {"cpu": True}, "distributed_training": {"distributed_world_size": 1}}
        if tokens * update_freq < self.gpus:
            raise UserError(
                f"a batch of {unit} {tokens} * update_freq {update_freq} is not enough for {self.gpus} GPUs: each "
                f"needs one or more; type --gpus {tokens * update_freq}"
            )
        each, rounds = share_of_batch(tokens, update_freq, self.gpus, self.tokens_per_gpu)
        halves = {
            "fp32": {},
            "bf16": {"bf16": True},
            "fp16": {"fp16": True, "fp16_no_flatten_grads": True},  # a flat tensor has no parameters to look at
        }
        return {
            "common": {"cpu": False, **halves[self.precision]},
            "distributed_training": {"distributed_world_size": self.gpus},
            "dataset": {unit: each},
            "optimization": {"update_freq": [rounds]},
        }

    def __str__(self) -> str:
        each = f"{self.threads} threads" if not self.gpus else f"{self.gpus} GPU{'s' * (self.gpus > 1)}"
        return f"{self.device}, {self.precision}, {self.jobs} at a time with {each} each"


def _visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named or [str(index) for index in range(torch.cuda.device_count())]


def _precision(wanted: str) -> str:
    """bfloat16 where the GPUs compute in it, for it needs no loss scale; else float16."""
    import torch

    if wanted != "auto":
        return wanted
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
