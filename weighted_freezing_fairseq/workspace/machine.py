"""The device, and how parallel runs share it: runs at once, and the threads or GPUs of each.

The batch of a run is the one that its YAML sets for one process, for any number of GPUs; the precision is the best that
the device supports, unless the user chooses one. A run cannot use several nodes.
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
from .processes import thread_pool

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
_NO_GPU = "torch sees no GPU; type --device cpu, or wff doctor to see why"
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cores() -> int:
    """The number of CPU cores that this process may use; SLURM does not always bind a job to its cores."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, _positive_int("SLURM_CPUS_PER_TASK") or available)


def threads_per_job(jobs: int) -> int:
    """The number of threads of each of `jobs` parallel runs: its share of the cores, at most OMP_NUM_THREADS.

    With more threads than cores, training is many times slower, because threads that wait for others keep a core busy.
    """
    share = max(1, cores() // jobs)
    return min(share, _positive_int("OMP_NUM_THREADS") or share)


def _positive_int(variable: str) -> int | None:
    """A positive integer of the environment, or None; of a list (nested threads) the first."""
    first = os.environ.get(variable, "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def device_of(choice: str) -> str:
    """The device of one of `DEVICES`: auto is a GPU if torch sees one, else the CPU."""
    if choice == "cpu":
        return choice
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if choice == "cuda":
        raise UserError(_NO_GPU)
    return "cpu"


def device_name(device: str) -> str:
    """The model of the GPU or of the processor, as far as the system reports it."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name(0)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def environment(threads: int) -> dict[str, str]:
    """The environment of a child process with a number of threads.

    The child logs everything at once and with whole tracebacks: progress, curves and the reason of a failure are read
    from its log.
    """
    log = {"PYTHONUNBUFFERED": "1", "LOGLEVEL": "INFO", "HYDRA_FULL_ERROR": "1"}
    return {**os.environ, "OMP_NUM_THREADS": str(threads), **log}


def share_of_batch(tokens: int, update_freq: int, gpus: int, at_most: int | None = None) -> tuple[int, int]:
    """max_tokens and update_freq for each of `gpus` processes, so that their batch is tokens * update_freq.

    The batch is never larger, and smaller by less than one token per micro-batch. Each process must get a token of it.

    Args:
        at_most: the tokens that fit into a GPU at once (default: `tokens`).
    """
    batch = tokens * update_freq
    micro_batches = min(-(-batch // (gpus * (at_most or tokens))), batch // gpus)
    return batch // (gpus * micro_batches), micro_batches


@dataclass(frozen=True)
class Machine:
    """The device of training runs: `jobs` runs at once, each with `threads` threads and `gpus` GPUs."""

    device: str
    jobs: int
    threads: int
    gpus: int = 0
    precision: str = "fp32"
    tokens_per_gpu: int | None = None
    _free_gpus: "queue.SimpleQueue[str]" = field(
        default_factory=queue.SimpleQueue, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if not self.gpus:
            return
        visible = _visible_gpus()
        for job in range(self.jobs):
            first = job * self.gpus  # more runs than GPUs share them
            self._free_gpus.put(",".join(visible[(first + k) % len(visible)] for k in range(self.gpus)))

    @classmethod
    def of(
        cls,
        device: str,
        jobs: int | None,
        runs: int,
        gpus: int = 1,
        precision: str = "auto",
        tokens_per_gpu: int | None = None,
    ) -> "Machine":
        """The machine with the user's choices; by default GPUs if there are any, and a run for each core or `gpus`."""
        device = device_of(device) if device == "auto" else device
        if device == "cpu":
            if precision not in ("auto", "fp32"):
                raise UserError(f"--precision {precision} is for GPUs; type --precision fp32, or --device cuda")
            jobs = min(jobs or cores(), runs)
            return cls(device, jobs, threads_per_job(jobs))
        visible = len(_visible_gpus())
        if not visible:
            raise UserError(_NO_GPU)
        if gpus < 1 or gpus > visible:
            raise UserError(f"torch sees {visible} GPUs, got --gpus {gpus}; type --gpus {visible}")
        jobs = min(jobs or visible // gpus, runs)
        if precision == "auto":
            import torch

            # bfloat16 needs no loss scale.
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return cls(device, jobs, threads_per_job(jobs), gpus, precision, tokens_per_gpu)

    def map(self, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """`work` on every item, `jobs` at once."""
        with thread_pool(self.jobs) as pool:
            return list(pool.map(work, items))

    @contextmanager
    def environment(self) -> Iterator[dict[str, str]]:
        """The environment of one run; its GPUs are reserved until the block ends, if there are enough."""
        variables = environment(self.threads)
        if not self.gpus:
            yield variables
            return
        gpus = self._free_gpus.get()
        try:
            yield {**variables, "CUDA_VISIBLE_DEVICES": gpus}
        finally:
            self._free_gpus.put(gpus)

    def settings(self, tokens: int, update_freq: int, unit: str = "max_tokens") -> dict[str, Any]:
        """fairseq's settings for this machine of a run whose YAML sets `tokens` and `update_freq` for one process.

        Args:
            unit: what `tokens` counts: max_tokens, or batch_size for sentences.
        """
        if not self.gpus:
            return {"common": {"cpu": True}, "distributed_training": {"distributed_world_size": 1}}
        if tokens * update_freq < self.gpus:
            raise UserError(
                f"a batch of {unit} {tokens} * update_freq {update_freq} is not enough for {self.gpus} GPUs: each "
                f"needs one or more; type --gpus {tokens * update_freq}"
            )
        share, micro_batches = share_of_batch(tokens, update_freq, self.gpus, self.tokens_per_gpu)
        precisions = {
            "fp32": {},
            "bf16": {"bf16": True},
            "fp16": {"fp16": True, "fp16_no_flatten_grads": True},  # masks need the gradient of each parameter
        }
        return {
            "common": {"cpu": False, **precisions[self.precision]},
            "distributed_training": {"distributed_world_size": self.gpus},
            "dataset": {unit: share},
            "optimization": {"update_freq": [micro_batches]},
        }

    def __str__(self) -> str:
        share = (
            f"{self.threads} thread{'s' * (self.threads > 1)}"
            if not self.gpus
            else f"{self.gpus} GPU{'s' * (self.gpus > 1)}"
        )
        return f"{self.device}, {self.precision}, {self.jobs} at a time with {share} each"


def _visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return names or [str(index) for index in range(torch.cuda.device_count())]
