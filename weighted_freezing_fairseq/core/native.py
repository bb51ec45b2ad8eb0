"""The C twin of `weighted_freeze`, compiled on first use and loaded with ctypes; absent where no compiler is.

A few hundred lines of torch headers would cost a minute to compile; plain C with pointers costs half a second and is
kept in the user's cache. Whoever calls must be ready for None: the torch path of `guided.py` gives the same bits.
`WFF_NATIVE=0` switches it off. Left out on purpose: other devices and other dtypes than float32.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("freeze.c")
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_METRICS = ("magnitude", "loss-preserving", "fisher")  # the order of the enum in freeze.c


def cache_folder() -> Path:
    """Where compiled kernels are kept; `XDG_CACHE_HOME` moves it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weighted_freezing_fairseq"


def _compile(library: Path) -> None:
    """Compile beside the goal and rename, so that no process ever loads half a file."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise OSError("no C compiler (cc) on the PATH")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [*compiler.split(), *_FLAGS, "-o", str(made), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            raise OSError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
        made.replace(library)


@cache
def load() -> ctypes.CDLL | None:
    """The compiled kernels, or None with the reason in the log."""
    if os.environ.get("WFF_NATIVE") == "0":
        return None
    recipe = (SOURCE.read_bytes(), _FLAGS, os.environ.get("CC"), platform.machine(), platform.libc_ver())
    library = cache_folder() / f"freeze-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}.so"
    try:
        if not library.exists():
            _compile(library)
        kernels = ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("weighted_freeze runs in plain torch, without its C kernel: %s", error)
        return None
    kernels.wff_ranges.restype = kernels.wff_freeze.restype = None
    return kernels


def suits(weight: Tensor, grad: Tensor) -> bool:
    """Whether the kernels can read this pair."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in (weight, grad))


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="wff")


def _shares(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[list[int]]:
    """Indices of whole tensors for each thread, largest first to the least loaded."""
    shares: list[list[int]] = [[] for _ in range(torch.get_num_threads())]
    load = [0] * len(shares)
    for index in sorted(range(len(pairs)), key=lambda i: -pairs[i][0].numel()):
        least = load.index(min(load))
        shares[least].append(index)
        load[least] += pairs[index][0].numel()
    return [share for share in shares if share]


def freeze_(
    pairs: Sequence[tuple[Tensor, Tensor]], keys: Sequence[tuple[int, int]], metric: str, shared_range: bool
) -> None:
    """grad *= keep for every (weight, gradient) of `pairs`, in place; `load()` must have succeeded.

    With `shared_range` one minimum and maximum serve all tensors. ctypes lets go of the interpreter's lock, so the
    threads really run side by side.
    """
    kernels = load()
    assert kernels is not None
    shares = _shares(pairs)
    packed = [_pack(pairs, keys, share) for share in shares]
    kind = ctypes.c_int(_METRICS.index(metric))
    run = map if len(shares) == 1 else _threads(len(shares)).map
    bounds = None
    if shared_range:
        found = [(ctypes.c_float * (2 * len(share)))() for share in shares]
        list(run(lambda p, out: kernels.wff_ranges(*p[:4], kind, out), packed, found))
        lows, highs = [low for out in found for low in out[::2]], [high for out in found for high in out[1::2]]
        bounds = (ctypes.c_float * 2)(min(lows), max(highs))
    list(run(lambda p: kernels.wff_freeze(*p, kind, bounds), packed))


def _pack(
    pairs: Sequence[tuple[Tensor, Tensor]], keys: Sequence[tuple[int, int]], share: list[int]
) -> tuple[object, ...]:
    """C arrays of pointers, lengths and keys for one thread."""
    count = len(share)
    return (
        ctypes.c_int64(count),
        (ctypes.c_void_p * count)(*(pairs[i][0].data_ptr() for i in share)),
        (ctypes.c_void_p * count)(*(pairs[i][1].data_ptr() for i in share)),
        (ctypes.c_int64 * count)(*(pairs[i][0].numel() for i in share)),
        (ctypes.c_uint32 * (2 * count))(*(word for i in share for word in keys[i])),
    )
