"""provenance.json of a run folder: what was trained, from what, by which command, with what, and when.

With it a run can be told from another and made again. Left out on purpose: settings, which are run.yaml's.
"""

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

# Named one by one: an environment holds tokens and passwords under any prefix (SLURM_JWT, PYTHON_..._INDEX_URL).
_STEERING = frozenset(
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


def note(run: Run, about: Mapping[str, Any], config: Path, machine: Machine) -> Callable[[], None]:
    """Gather where this run comes from; the function that is returned writes it, with a line for this start of it.

    To gather takes seconds (packages, git, the device), in which the output of a training would not be read.

    Args:
        about: what only the study knows: dataset, recipe, pair, data, changed, command.
    """
    if run.trained:
        return lambda: None
    path = run.folder / PROVENANCE
    sittings = run.provenance()["sittings"] if path.is_file() else []
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    sittings.append({"begun": now, "machine": str(machine), "host": platform.node(), "device": _device(machine)})
    known = config.is_relative_to(CONFIGS.parent)
    content = {
        **about, "method": run.method, "seed": run.seed,
        "config": str(config.relative_to(CONFIGS.parent) if known else config),
        "commit": commit_of(), "versions": _versions(), "sittings": sittings,
    }  # fmt: skip
    environment = _environment()

    def write() -> None:
        write_atomically(path, json.dumps(content, indent=2) + "\n")
        write_atomically(run.folder / "environment.txt", environment)

    return write


def relocate(run: Run, about: Mapping[str, Any]) -> None:
    """Where a finished run and its data lie now: what may have been moved since."""
    known = run.provenance()
    here = {**known, **{key: about[key] for key in ("data", "command") if key in about}}
    if here != known:
        write_atomically(run.folder / PROVENANCE, json.dumps(here, indent=2) + "\n")


def commit_of(package: Path = PACKAGE) -> str | None:
    """The commit of the checkout that `package` belongs to, with a + where files differ from it.

    None for an installed package, even inside another git repository: a checkout has the package at its top level and
    tracks it.
    """
    here = ["git", "-C", str(package.parent)]
    questions = (
        ["rev-parse", "--show-prefix"],
        ["ls-files", "--error-unmatch", f"{package.name}/__init__.py"],
        ["rev-parse", "--short=12", "HEAD"],
        ["status", "--porcelain", "--untracked-files=no"],
    )
    try:
        prefix, _, commit, changed = (
            subprocess.run([*here, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in questions
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return None if prefix else commit + "+" * bool(changed)


def _versions() -> dict[str, str]:
    names = ("torch", "fairseq", "fairseq-fixed", "numpy", "sacrebleu", "sentencepiece")
    found = {"python": platform.python_version(), "weighted_freezing_fairseq": __version__}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _environment() -> str:
    """Every package, and the variables that steer computing, as they were at the last start."""
    packages = sorted({f"{found.metadata['Name']}=={found.version}" for found in metadata.distributions()})
    variables = sorted(f"{name}={value}" for name, value in os.environ.items() if name in _STEERING)
    return "\n".join([*packages, "", *variables, ""])


def _device(machine: Machine) -> str:
    """What computes, by its name."""
    name = device_name(machine.device)
    return f"{name}, {machine.threads} threads" if machine.device == "cpu" else f"{machine.gpus} x {name}"
