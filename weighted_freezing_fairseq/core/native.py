"""The C twins of what runs in every update, compiled on first use, loaded with ctypes; absent without a compiler.

A few hundred lines of torch headers would cost a minute to compile; plain C with pointers costs half a second and is
kept in the user's cache. Whoever calls must be ready for None: the torch path beside each twin gives the same bits (the
sums of `row_sums`: up to rounding).
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from .rules import RULES, VARIANTS, Rule

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

SOURCE = Path(__file__).with_name("kernels.c")
_FLAGS = (
    "-O3",
    "-std=gnu11",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
)
_METRICS = ("magnitude", "loss-preserving", "fisher")  # the order of the enum in kernels.c


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


_used: ContextVar[bool] = ContextVar("whether kernels are used", default=True)


@contextmanager
def switched_off() -> Iterator[None]:
    """Plain torch while this lasts."""
    token = _used.set(False)
    try:
        yield
    finally:
        _used.reset(token)


def load() -> ctypes.CDLL | None:
    """The compiled kernels, or None with the reason in the log."""
    return _load() if _used.get() and os.environ.get("WFF_NATIVE") != "0" else None


@cache
def _load() -> ctypes.CDLL | None:
    recipe = (SOURCE.read_bytes(), _FLAGS, os.environ.get("CC"), platform.machine(), platform.libc_ver())
    library = cache_folder() / f"kernels-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}.so"
    try:
        if not library.exists():
            _compile(library)
        kernels = ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("guided optimizers run in plain torch, without their C kernels: %s", error)
        return None
    for name in ("ranges", "freeze", "scale", "advance", "restore", "mask", "row_sums"):
        getattr(kernels, f"wff_{name}").restype = None
    return kernels


def suits(weight: Tensor, grad: Tensor) -> bool:
    """Whether the kernels can read this pair."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in (weight, grad))


def ready(pairs: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether the kernels are there and can read every pair."""
    return all(suits(*pair) for pair in pairs) and load() is not None


def scale_kind(rule: Rule, importance: str, averages: Iterable[Tensor]) -> int | None:
    """The kernel's number for a row that it computes, with averages that it can read; else None.

    Identity, not the name: a row that somebody changed must run as changed.
    """
    dtypes = {average.dtype for average in averages}
    if importance != "loss-preserving" or len(dtypes) > 1 or not dtypes <= {torch.float32, torch.bfloat16}:
        return None
    twins = (RULES["sage"], *(row for row in VARIANTS if row.name == "sage"))  # the order of the enum in kernels.c
    return next((number for number, row in enumerate(twins) if row is rule), None)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="wff")


def _shares(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Indices of whole tensors for each thread, largest first to the least loaded."""
    shares: list[list[int]] = [[] for _ in range(torch.get_num_threads())]
    load = [0] * len(shares)
    for index in sorted(range(len(tensors)), key=lambda i: -tensors[i].numel()):
        least = load.index(min(load))
        shares[least].append(index)
        load[least] += tensors[index].numel()
    return [share for share in shares if share]


def _on_shares(tensors: Sequence[Tensor], work: Callable[[list[int]], _T]) -> list[_T]:
    """`work` on the share of each thread; ctypes lets go of the interpreter's lock, so they run side by side."""
    shares = _shares(tensors)
    return list(map(work, shares) if len(shares) <= 1 else _threads(len(shares)).map(work, shares))


def freeze_(
    pairs: Sequence[tuple[Tensor, Tensor]], keys: Sequence[tuple[int, int]], metric: str, shared_range: bool
) -> None:
    """grad *= keep for every (weight, gradient) of `pairs`, in place; `ready(pairs)` must hold.

    With `shared_range` one minimum and maximum serve all tensors.
    """
    kernels = _loaded()
    weights, grads = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    kind = ctypes.c_int(_METRICS.index(metric))
    bounds = None
    if shared_range:

        def range_of(share: list[int]) -> list[float]:
            found = (ctypes.c_float * (2 * len(share)))()
            kernels.wff_ranges(*_sizes(weights, share), _at(weights, share), _at(grads, share), kind, found)
            return list(found)

        found = _on_shares(weights, range_of)
        lowest, highest = min(min(f[::2]) for f in found), max(max(f[1::2]) for f in found)
        bounds = (ctypes.c_float * 2)(lowest, highest)

    def freeze(share: list[int]) -> None:
        words = (ctypes.c_uint32 * (2 * len(share)))(*(word for i in share for word in keys[i]))
        pointers = _at(weights, share), _at(grads, share)
        kernels.wff_freeze(*_sizes(weights, share), *pointers, words, kind, bounds)

    _on_shares(weights, freeze)


def scale_(
    kind: int,
    changes: Sequence[tuple[Tensor, Tensor, Tensor]],
    grads: Sequence[Tensor],
    averages: Sequence[tuple[Tensor, ...]],
    means: Sequence[Tensor | None],
    numbers: tuple[float, float, float, float],
) -> None:
    """For each (weight, old, factor) of `changes`: move the average of I, old = weight, factor = -g(I) of the row.

    numbers: beta, the average's bias correction, eps, max_scale. `ready` must hold for weights and gradients.
    """
    kernels = _loaded()
    weights, olds, factors = ([change[k] for change in changes] for k in range(3))
    beta, correction, eps, max_scale = numbers
    constants = (ctypes.c_float * 5)(beta, 1 - beta, correction, eps, max_scale)
    halves = ctypes.c_int(any(a.dtype == torch.bfloat16 for average in averages for a in average))

    def scale(share: list[int]) -> None:
        kept = _at([average[0] for average in averages], share) if averages[0] else None
        given = (ctypes.c_float * len(share))(*(float(means[i] or 0) for i in share))
        tensors = (
            _at(weights, share),
            _at(grads, share),
            kept,
            _at(olds, share),
            _at(factors, share),
        )
        kernels.wff_scale(*_sizes(weights, share), *tensors, given, ctypes.c_int(kind), halves, constants)

    _on_shares(weights, scale)


def advance_(changes: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """weight <- old + factor * (weight - old) for each (weight, old, factor), exact for factors 0 and 1."""
    _on_columns("wff_advance", changes)


def restore_(held: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """weight <- old where the mask is 0, for each (weight, old, mask)."""
    _on_columns("wff_restore", held)


def mask_(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """tensor *= mask for each (tensor, bool mask) of one shape."""
    _on_columns("wff_mask", pairs)


def row_sums(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """For each (w, r) of matrices: the sums over each row of w r, w^2 and r^2, (rows, 3) in float64."""
    weights, others = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    sums = [torch.zeros(w.shape[0], 3, dtype=torch.float64) for w in weights]

    def add_up(share: list[int]) -> None:
        widths = (ctypes.c_int64 * len(share))(*(weights[i].shape[1] for i in share))
        _loaded().wff_row_sums(
            *_sizes(weights, share), *(_at(t, share) for t in (weights, others)), widths, _at(sums, share)
        )

    _on_shares(weights, add_up)
    return sums


def _on_columns(kernel: str, tuples: Sequence[tuple[Tensor, ...]]) -> None:
    columns = list(zip(*tuples, strict=True))

    def work(share: list[int]) -> None:
        getattr(_loaded(), kernel)(*_sizes(columns[0], share), *(_at(column, share) for column in columns))

    if columns:
        _on_shares(columns[0], work)


def _loaded() -> ctypes.CDLL:
    kernels = load()
    assert kernels is not None
    return kernels


def _sizes(tensors: Sequence[Tensor], share: list[int]) -> tuple[object, object]:
    """How many tensors a share has, and their lengths."""
    return ctypes.c_int64(len(share)), (ctypes.c_int64 * len(share))(*(tensors[i].numel() for i in share))


def _at(tensors: Sequence[Tensor], share: list[int]) -> object:
    """Where their numbers begin."""
    return (ctypes.c_void_p * len(share))(*(tensors[i].data_ptr() for i in share))
