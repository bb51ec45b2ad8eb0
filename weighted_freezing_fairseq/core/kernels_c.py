"""C kernels for float32 tensors on a CPU (`kernels.c`), compiled on first use and called by ctypes.

Plain C compiles in two seconds, without PyTorch's headers, and the library is stored in the user's cache. Without a
compiler, or with `WFF_NATIVE=0`, `load` returns None and callers use PyTorch, which gives the same bits (for
`row_sums` the same up to rounding).
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
    """The folder of compiled kernels, in `XDG_CACHE_HOME` or ~/.cache."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weighted_freezing_fairseq"
    except RuntimeError:
        raise OSError("this user has no home folder") from None


def _compile(library: Path) -> None:
    """Compile in a temporary folder, then rename, so that no process loads an incomplete file."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise OSError("no C compiler (cc) on the PATH")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        output = Path(folder) / library.name
        command = [*compiler.split(), *_FLAGS, "-o", str(output), str(SOURCE)]
        process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if process.returncode != 0:
            raise OSError(f"{' '.join(command)} failed: {process.stderr.strip().splitlines()[-1:]}")
        output.replace(library)


_enabled: ContextVar[bool] = ContextVar("whether kernels are enabled", default=True)


@contextmanager
def switched_off() -> Iterator[None]:
    """A context in which no kernels are used, only PyTorch."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


def allowed() -> bool:
    """Whether kernels, in C or Triton, may be used."""
    return _enabled.get() and os.environ.get("WFF_NATIVE") != "0"


def load() -> ctypes.CDLL | None:
    """The compiled kernels, or None; the log says why they cannot be loaded."""
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
            "install a C compiler (cc), or set XDG_CACHE_HOME to a writable folder",
            error,
        )
        return None
    for name in ("ranges", "restore", "mask", "row_sums", "guide"):
        getattr(kernels, f"wff_{name}").restype = None
    return kernels


def readable(tensor: Tensor) -> bool:
    """Whether the kernels support this tensor: float32, contiguous, on the CPU."""
    return tensor.is_cpu and tensor.dtype is torch.float32 and not tensor.is_sparse and tensor.is_contiguous()


def ready(pairs: Iterable[tuple[Tensor, Tensor]]) -> bool:
    """Whether the kernels are loaded and support all tensors of `pairs`."""
    return all(readable(tensor) for pair in pairs for tensor in pair) and load() is not None


# The functions g of the table that the kernels compute, in the order of the enums in kernels.c.
MASKS = (rules.freeze_important, rules.freeze_printed, rules.freeze_smooth, rules.freeze_random)
FACTORS = (rules.sage_full, rules.sage_li, rules.sage_light)


class Kernel(NamedTuple):
    """The function -g(I) that a kernel computes.

    variant: an index into `FACTORS` if `scales` is set, else into `MASKS`. half: whether averages are bfloat16, not
    float32. constants: beta, eps and max_scale of factors.
    """

    variant: int = 0
    scales: bool = False
    half: bool = False
    constants: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def needs_range(self) -> bool:
        """Whether the function reads the smallest and the largest score."""
        return not self.scales and MASKS[self.variant] is not rules.freeze_random


def kernel_of(
    g: Callable[..., Tensor], importance: str, averages: Iterable[Tensor], constants: tuple[float, float, float]
) -> Kernel | None:
    """The kernel for a row with the function `g`, or None if the function, metric or dtype is not supported."""
    if g in MASKS:
        return Kernel(MASKS.index(g))
    dtypes = {average.dtype for average in averages}
    supported = dtypes in (set(), {torch.float32}, {torch.bfloat16})
    if g in FACTORS and importance == "loss-preserving" and supported:
        return Kernel(FACTORS.index(g), True, dtypes == {torch.bfloat16}, constants)
    return None


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="wff")


def _in_threads(count: int, work: Callable[[int], _T]) -> list[_T]:
    """[work(0), work(1), ...], each in its own thread; ctypes releases the GIL."""
    if count <= 1:
        return list(map(work, range(count)))
    futures = [_threads(count - 1).submit(work, index) for index in range(1, count)]
    return [work(0), *(future.result() for future in futures)]


def _on_shares(tensors: Sequence[Tensor], work: Callable[[list[int]], _T]) -> list[_T]:
    """Divide `tensors` among threads, the largest first to the least loaded thread; work(indices) in each thread."""
    shares: list[list[int]] = [[] for _ in range(torch.get_num_threads())]
    sizes = [0] * len(shares)
    for index in sorted(range(len(tensors)), key=lambda i: -tensors[i].numel()):
        smallest = sizes.index(min(sizes))
        shares[smallest].append(index)
        sizes[smallest] += tensors[index].numel()
    shares = [share for share in shares if share]
    return _in_threads(len(shares), lambda index: work(shares[index]))


def ranges(pairs: Sequence[tuple[Tensor, Tensor]], metric: str) -> tuple[float, float]:
    """The smallest and the largest importance in all (weight, gradient) of `pairs` together."""
    kind = ctypes.c_int(METRICS.index(metric))
    weights, grads = ([part for pair in pairs for part in pair[k].view(-1).split(_JOB_SIZE)] for k in (0, 1))

    def bounds_of(share: list[int]) -> list[float]:
        bounds = (ctypes.c_float * (2 * len(share)))()
        _loaded().wff_ranges(*_sizes(weights, share), _pointers(weights, share), _pointers(grads, share), kind, bounds)
        return list(bounds)

    bounds = torch.tensor([bound for share in _on_shares(weights, bounds_of) for bound in share]).view(-1, 2)
    return float(bounds[:, 0].amin()), float(bounds[:, 1].amax())  # amax, because in PyTorch NaN is the largest


class GuidedWeight(NamedTuple):
    """The tensors of one weight. `guide_` changes, in place, what the factor multiplies: the gradient or the step."""

    old: Tensor  # the weight before the base's step
    grad: Tensor
    weight: Tensor | None = None  # the weight after the base's step, or None to multiply the gradient
    average: Tensor | None = None  # of I, if the row has one
    key: tuple[int, int] = (0, 0)  # the stream of random numbers
    operand: Tensor | float = 0.0  # the rate, the mean of the scores, or the correction of the average


IMPORTANT = Kernel()
_JOB = struct.Struct("@4P2q2I3fi0q")  # the structs of kernels.c, field by field
_SETTINGS = struct.Struct("@P4i0q")
# The largest job. Longer weights are divided among threads, and do not fit into a cache between two passes.
_JOB_SIZE = 1 << 19


def guide_(
    weights: Sequence[GuidedWeight], metric: str, kernel: Kernel = IMPORTANT, shared_range: bool = False
) -> None:
    """Multiply the gradient or the step of every weight by its factor; all tensors must be `readable`.

    A mask can multiply either, a factor of SAGE only the step.

    shared_range: compare scores with their minimum and maximum over all weights, not within each weight.
    """
    kernels = _loaded()
    bounds = None
    if not kernel.needs_range:
        bounds = (0.0, 0.0)  # not read
    elif shared_range and weights:
        bounds = ranges([(guided.old, guided.grad) for guided in weights], metric)
    jobs = [job for guided in weights for job in _jobs(guided, metric, bounds)]
    job_array = b"".join(jobs)
    next_job = ctypes.c_int64(0)
    beta, eps, max_scale = kernel.constants
    constants = (ctypes.c_float * 4)(beta, 1 - beta, eps, max_scale)
    settings = _SETTINGS.pack(ctypes.addressof(constants), METRICS.index(metric), *kernel[:3])

    def work(_: int) -> None:
        kernels.wff_guide(ctypes.c_int64(len(jobs)), job_array, ctypes.byref(next_job), settings)

    _in_threads(min(torch.get_num_threads(), len(jobs)), work)


def _jobs(guided: GuidedWeight, metric: str, bounds: tuple[float, float] | None) -> list[bytes]:
    """The jobs of a weight; bounds: smallest and largest score, or None if a job computes them itself."""
    *tensors, (key0, key1), operand = guided
    count = guided.old.numel()
    if count > _JOB_SIZE and bounds is None:
        bounds = ranges([(guided.old, guided.grad)], metric)
    lo, hi = bounds or (0.0, 0.0)
    addresses = [(0, 0) if tensor is None else (tensor.data_ptr(), tensor.element_size()) for tensor in tensors]
    return [
        _JOB.pack(
            *(address + start * size for address, size in addresses),
            min(_JOB_SIZE, count - start), start, key0, key1, lo, hi, operand, bounds is not None,
        )
        for start in range(0, count, _JOB_SIZE)
    ]  # fmt: skip


def restore_(triples: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """weight <- old where the mask is 0, for each (weight, old, mask)."""
    _on_columns("wff_restore", triples)


def mask_(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """tensor *= mask for each (tensor, bool mask) of the same shape."""
    _on_columns("wff_mask", pairs)


def row_sums(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """For each pair of matrices (w, r): the sums over each row of w r, w^2 and r^2, (rows, 3) in float64."""
    ws, rs = [w for w, _ in pairs], [r for _, r in pairs]
    sums = [torch.zeros(w.shape[0], 3, dtype=torch.float64) for w in ws]

    def work(share: list[int]) -> None:
        columns = (ctypes.c_int64 * len(share))(*(ws[i].shape[1] for i in share))
        pointers = _pointers(ws, share), _pointers(rs, share), columns, _pointers(sums, share)
        _loaded().wff_row_sums(*_sizes(ws, share), *pointers)

    _on_shares(ws, work)
    return sums


def _on_columns(kernel: str, tuples: Sequence[tuple[Tensor, ...]]) -> None:
    """Call a kernel whose arguments are one array of pointers for each position in `tuples`."""
    columns = list(zip(*tuples, strict=True))

    def work(share: list[int]) -> None:
        getattr(_loaded(), kernel)(*_sizes(columns[0], share), *(_pointers(column, share) for column in columns))

    if columns:
        _on_shares(columns[0], work)


def _loaded() -> ctypes.CDLL:
    kernels = load()
    assert kernels is not None
    return kernels


def _sizes(tensors: Sequence[Tensor], share: list[int]) -> tuple[object, object]:
    """The arguments `count` and `n` of a kernel: the number of tensors in a share, and their sizes."""
    return ctypes.c_int64(len(share)), (ctypes.c_int64 * len(share))(*(tensors[i].numel() for i in share))


def _pointers(tensors: Sequence[Tensor], share: list[int]) -> object:
    return (ctypes.c_void_p * len(share))(*(tensors[i].data_ptr() for i in share))
