"""The C kernels of what runs in every update, compiled on first use, loaded with ctypes; absent without a compiler.

A few hundred lines of torch headers would cost a minute to compile; plain C with pointers costs two seconds and is
kept in the user's cache. A caller must be ready for None: the torch path gives the same bits (the sums of
`row_sums`: within rounding). `WFF_NATIVE=0` switches the kernels off. Left out on purpose: other devices, and other
dtypes than float32.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from . import rules

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
    "-lm",
)
METRICS = ("magnitude", "loss-preserving", "fisher")  # the order of the enum in kernels.c


def cache_folder() -> Path:
    """Where compiled kernels are kept; `XDG_CACHE_HOME` moves it."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weighted_freezing_fairseq"
    except RuntimeError:
        raise OSError("this user has no home folder") from None


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


def allowed() -> bool:
    """Whether anything but plain torch may be used."""
    return _used.get() and os.environ.get("WFF_NATIVE") != "0"


def load() -> ctypes.CDLL | None:
    """The compiled kernels, or None with the reason in the log."""
    return _load() if allowed() else None


@cache
def _load() -> ctypes.CDLL | None:
    try:
        folder = cache_folder()
        recipe = (SOURCE.read_bytes(), _FLAGS, os.environ.get("CC"), platform.machine(), platform.libc_ver())
        library = folder / f"kernels-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}.so"
        if not library.exists():
            _compile(library)
        kernels = ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning(
            "guided optimizers run in plain torch, slower than with their C kernels: %s; "
            "these need a C compiler, and a cache folder that can be written (set XDG_CACHE_HOME)",
            error,
        )
        return None
    for name in ("ranges", "advance", "restore", "mask", "row_sums", "guide"):
        getattr(kernels, f"wff_{name}").restype = None
    return kernels


def suits(weight: Tensor, grad: Tensor) -> bool:
    """Whether the kernels can read this pair."""
    return readable(weight) and readable(grad)


def readable(tensor: Tensor) -> bool:
    """Whether a kernel can read this tensor: numbers of float32, one after the other, in the CPU's memory."""
    return tensor.is_cpu and tensor.dtype is torch.float32 and not tensor.is_sparse and tensor.is_contiguous()


def ready(pairs: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether the kernels are there and can read every pair."""
    return all(suits(*pair) for pair in pairs) and load() is not None


# The functions of the table that kernels compute, in the order of the enums in kernels.c; torch computes all others.
MASKS = (rules.freeze_important, rules.freeze_printed, rules.freeze_smooth, rules.freeze_random)
FACTORS = (rules.sage_full, rules.sage_li, rules.sage_light)


class Kernel(NamedTuple):
    """Which -g(I) a kernel computes: a position in `MASKS`, or in `FACTORS` with what these need.

    half: averages are bfloat16. constants: beta, eps, max_scale.
    """

    variant: int = 0
    scales: bool = False
    half: bool = False
    constants: tuple[float, float, float] = (0.0, 0.0, 0.0)


def kernel_of(
    g: Callable[..., Tensor], importance: str, averages: Iterable[Tensor], constants: tuple[float, float, float]
) -> Kernel | None:
    """The kernel for a row whose third term is the function `g`; None for another function, metric or precision."""
    if g in MASKS:
        return Kernel(MASKS.index(g))
    dtypes = {average.dtype for average in averages}
    readable_averages = dtypes in (set(), {torch.float32}, {torch.bfloat16})
    if g in FACTORS and importance == "loss-preserving" and readable_averages:
        return Kernel(FACTORS.index(g), True, dtypes == {torch.bfloat16}, constants)
    return None


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="wff")


def _each(count: int, work: Callable[[int], _T]) -> list[_T]:
    """[work(0), work(1), ...], side by side: ctypes releases the interpreter's lock."""
    if count <= 1:
        return list(map(work, range(count)))
    others = [_threads(count - 1).submit(work, index) for index in range(1, count)]
    return [work(0), *(other.result() for other in others)]


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
    """`work` on the share of each thread."""
    shares = _shares(tensors)
    return _each(len(shares), lambda index: work(shares[index]))


def ranges(pairs: Sequence[tuple[Tensor, Tensor]], metric: str) -> tuple[float, float]:
    """The smallest and the largest importance in all (weight, gradient) of `pairs` together."""
    kind = ctypes.c_int(METRICS.index(metric))
    weights, grads = ([part for pair in pairs for part in pair[k].view(-1).split(_LONG)] for k in (0, 1))

    def range_of(share: list[int]) -> list[float]:
        found = (ctypes.c_float * (2 * len(share)))()
        _loaded().wff_ranges(*_sizes(weights, share), _at(weights, share), _at(grads, share), kind, found)
        return list(found)

    found = torch.tensor([number for share in _on_shares(weights, range_of) for number in share]).view(-1, 2)
    return float(found[:, 0].amin()), float(found[:, 1].amax())  # of torch: a NaN is the largest


GRADIENT, CHANGE, SCALE_CHANGE = range(1, 4)  # the enum of actions in kernels.c
MASKING = (GRADIENT, CHANGE)


class GuidedWeight(NamedTuple):
    """A weight, its gradient, and what is done to them before the base steps.

    GRADIENT masks the gradient in place. CHANGE and SCALE_CHANGE write the weight to `old`, and to `factor` the share
    of its change that it will keep (`advance_`).
    """

    action: int
    weight: Tensor
    grad: Tensor
    old: Tensor | None = None
    factor: Tensor | None = None
    average: Tensor | None = None  # of SCALE_CHANGE, where the row has one
    key: tuple[int, int] = (0, 0)  # of the stream of masks
    operand: Tensor | float = 0.0  # of the row: the rate, the mean of the scores, or the correction of the average


IMPORTANT = Kernel()
RANDOM = MASKS.index(rules.freeze_random)  # whose masks do not depend on scores
_JOB = struct.Struct("@5P2q2I3f2i0q")  # the structs of kernels.c, field for field
_SETTINGS = struct.Struct("@P3i0q")
# More numbers than this are shared out among threads, and do not stay in a cache between two passes.
_LONG = 1 << 19


def guide_(
    weights: Sequence[GuidedWeight], metric: str, kernel: Kernel = IMPORTANT, shared_range: bool = False
) -> None:
    """Do for every weight what its action says, in one pass over its numbers; all tensors must be `readable`.

    With `shared_range` one minimum and maximum of the scores serve all weights that are frozen.
    """
    kernels = _loaded()
    frozen = [(guided.weight, guided.grad) for guided in weights if guided.action in MASKING]
    shared = (0.0, 0.0) if kernel.variant == RANDOM else ranges(frozen, metric) if shared_range and frozen else None
    jobs = [job for guided in weights for job in _jobs(guided, metric, shared)]
    table = b"".join(jobs)
    taken = ctypes.c_int64(0)
    beta, eps, max_scale = kernel.constants
    constants = (ctypes.c_float * 4)(beta, 1 - beta, eps, max_scale)
    settings = _SETTINGS.pack(ctypes.addressof(constants), METRICS.index(metric), kernel.variant, kernel.half)

    def work(_: int) -> None:
        kernels.wff_guide(ctypes.c_int64(len(jobs)), table, ctypes.byref(taken), settings)

    _each(min(torch.get_num_threads(), len(jobs)), work)


def _jobs(guided: GuidedWeight, metric: str, bounds: tuple[float, float] | None) -> list[bytes]:
    """A weight as jobs of kernels.c, none of them long; `bounds` of the scores, where they are not the weight's own."""
    action, weight, grad, old, factor, average, (key0, key1), operand = guided
    count = weight.numel()
    if count > _LONG and bounds is None and action in MASKING:
        bounds = ranges([(weight, grad)], metric)
    lo, hi = bounds or (0.0, 0.0)
    columns = [
        (t.data_ptr(), t.element_size()) if t is not None else (0, 0) for t in (weight, grad, old, factor, average)
    ]
    return [
        _JOB.pack(
            *(address + at * size for address, size in columns),
            min(_LONG, count - at), at, key0, key1, lo, hi, operand, action, bounds is not None,
        )
        for at in range(0, count, _LONG)
    ]  # fmt: skip


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
