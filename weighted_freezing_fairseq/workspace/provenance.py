"""provenance.json of a run folder: what was trained on which data, by which command, versions and machine, and when.

The settings are in run.yaml.
"""

import contextlib
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import write_atomically
from .configs import CONFIGS
from .machine import Machine, device_name
from .runs import PROVENANCE, Run

EMBEDDED = "embedded"
PACKAGE = Path(__file__).resolve().parents[1]

# Listed by name, since variables with the same prefixes hold tokens and passwords (SLURM_JWT, PYTHON_..._INDEX_URL).
_RECORDED_VARIABLES = frozenset(
    """
    CUBLAS_WORKSPACE_CONFIG CUDA_DEVICE_MAX_CONNECTIONS CUDA_DEVICE_ORDER CUDA_LAUNCH_BLOCKING CUDA_MODULE_LOADING
    CUDA_VISIBLE_DEVICES NVIDIA_TF32_OVERRIDE
    NCCL_ALGO NCCL_ASYNC_ERROR_HANDLING NCCL_BLOCKING_WAIT NCCL_BUFFSIZE NCCL_DEBUG NCCL_IB_DISABLE NCCL_IB_HCA
    NCCL_MAX_NCHANNELS NCCL_MIN_NCHANNELS NCCL_NET_GDR_LEVEL NCCL_NTHREADS NCCL_P2P_DISABLE NCCL_P2P_LEVEL NCCL_PROTO
    NCCL_SHM_DISABLE NCCL_SOCKET_IFNAME
    GOMP_CPU_AFFINITY KMP_AFFINITY KMP_BLOCKTIME OMP_DYNAMIC OMP_MAX_ACTIVE_LEVELS OMP_NESTED OMP_NUM_THREADS
    OMP_PLACES OMP_PROC_BIND OMP_SCHEDULE OMP_STACKSIZE OMP_THREAD_LIMIT OMP_WAIT_POLICY OPENBLAS_NUM_THREADS
    MKL_CBWR MKL_DEBUG_CPU_TYPE MKL_DYNAMIC MKL_ENABLE_INSTRUCTIONS MKL_NUM_THREADS MKL_SERVICE_FORCE_INTEL
    MKL_THREADING_LAYER
    SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SLURM_CPUS_ON_NODE SLURM_CPUS_PER_TASK SLURM_GPUS SLURM_GPUS_ON_NODE
    SLURM_GPUS_PER_NODE SLURM_GPUS_PER_TASK SLURM_JOB_ID SLURM_JOB_NAME SLURM_JOB_NODELIST SLURM_JOB_NUM_NODES
    SLURM_JOB_PARTITION SLURM_LOCALID SLURM_MEM_PER_NODE SLURM_NODEID SLURM_NTASKS SLURM_PROCID SLURM_RESTART_COUNT
    PYTHONDEVMODE PYTHONHASHSEED PYTHONMALLOC PYTHONNOUSERSITE PYTHONOPTIMIZE PYTHONPATH PYTHONUNBUFFERED PYTHONUTF8
    PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF PYTORCH_NVML_BASED_CUDA_CHECK TORCH_ALLOW_TF32_CUBLAS_OVERRIDE
    TORCH_BLAS_PREFER_CUBLASLT TORCH_CPP_LOG_LEVEL TORCH_CUDA_ARCH_LIST TORCH_DISTRIBUTED_DEBUG
    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD TORCH_FORCE_WEIGHTS_ONLY_LOAD TORCH_LOGS TORCH_NCCL_ASYNC_ERROR_HANDLING
    TORCH_NCCL_BLOCKING_WAIT TORCH_SHOW_CPP_STACKTRACES
    SACREBLEU_SEED WFF_MENDS WFF_NATIVE
    """.split()
)


def provenance_writer(run: Run, about: Mapping[str, Any], config: Path, machine: Machine) -> Callable[[], None]:
    """Collect the provenance of a run; returns a function that writes it, with an entry for this start of the run.

    Collecting takes seconds (packages, git, the device), during which the output of a training would not be read.

    Args:
        about: entries of the study: dataset, recipe, pair, data, changed, command.
    """
    if run.trained:
        return lambda: None
    path = run.folder / PROVENANCE
    starts = run.provenance()["sittings"] if path.is_file() else []
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    name = device_name(machine.device)
    device = (
        f"{name}, {machine.threads} thread{'s' * (machine.threads > 1)}"
        if machine.device == "cpu"
        else f"{machine.gpus} x {name}"
    )
    starts.append({"begun": now, "machine": str(machine), "host": platform.node(), "device": device})
    in_configs = config.is_relative_to(CONFIGS.parent)
    content = {
        **about, "method": run.method, "seed": run.seed,
        "config": str(config.relative_to(CONFIGS.parent) if in_configs else config),
        "commit": commit_of(), "versions": _versions(), "sittings": starts,
    }  # fmt: skip
    packages = sorted({f"{package.metadata['Name']}=={package.version}" for package in metadata.distributions()})
    variables = sorted(f"{name}={value}" for name, value in os.environ.items() if name in _RECORDED_VARIABLES)
    environment = "\n".join([*packages, "", *variables, ""])

    def write() -> None:
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        write_atomically(run.folder / "environment.txt", environment)

    return write


def relocate(run: Run, about: Mapping[str, Any]) -> None:
    """Update the paths in the provenance of a finished run, which may have been moved with its data."""
    recorded = run.provenance()
    current = {**recorded, **{key: about[key] for key in ("data", "command") if key in about}}
    if current != recorded:
        write_atomically(run.folder / PROVENANCE, json.dumps(current, indent=2) + "\n")


def commit_of(package: Path = PACKAGE) -> str | None:
    """The commit of the checkout of `package`, with a + if files differ from it, or None for an installed package.

    An installed package may lie in another git repository; a checkout has the package at its top level and tracks it.
    """
    git = ["git", "-C", str(package.parent)]
    commands = (
        ["rev-parse", "--show-prefix"],
        ["ls-files", "--error-unmatch", f"{package.name}/__init__.py"],
        ["rev-parse", "--short=12", "HEAD"],
        ["status", "--porcelain", "--untracked-files=no"],
    )
    try:
        prefix, _, commit, changes = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return None if prefix else commit + "+" * bool(changes)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "weighted_freezing_fairseq": __version__}
    for name in ("torch", "fairseq", "fairseq-fixed", "numpy", "sacrebleu", "sentencepiece"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
