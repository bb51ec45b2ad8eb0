"""The C twins of what runs in every update, compiled on first use, loaded with ctypes; absent without a compiler.

A few hundred lines of torch headers would cost a minute to compile; plain C with pointers costs two seconds and is
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

from .rules import Rule, forms

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
    for name in ("ranges", "advance", "restore", "mask", "row_sums", "step"):
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


def form_of(rule: Rule, importance: str, averages: Iterable[Tensor]) -> int | None:
    """The kernels' number for a row that they compute, with averages that they can read; else None.

    The numbers are the order of the enums in kernels.c. A row is recognised by identity, not by name: a row that a
    caller has changed must run as changed.
    """
    dtypes = {average.dtype for average in averages}
    computes = rule.name == "weighted_freeze" or (
        rule.name == "sage"
        and importance == "loss-preserving"
        and len(dtypes) <= 1
        and dtypes <= {torch.float32, torch.bfloat16}
    )
    return next((number for number, form in enumerate(forms(rule.name)) if computes and form is rule), None)


@cache
def torch_itself() -> ctypes.CDLL | None:
    """The library that torch computes with, and what that is linked to, if it is where wheels have it."""
    try:
        return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    except OSError:
        return None


@cache
def _team() -> Callable[..., None] | None:
    """What starts torch's own threads: `GOMP_parallel(function, data, how many, 0)` of its OpenMP, if it has one.

    After an operation these wait awake for the next one, many milliseconds long, and would slow other threads down.
    """
    try:
        start = torch_itself().GOMP_parallel  # type: ignore[union-attr]
    except AttributeError:
        return None
    start.restype = None
    return start


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="wff")


def _each(count: int, work: Callable[[int], _T]) -> list[_T]:
    """[work(0), work(1) ...], side by side: ctypes lets go of the interpreter's lock."""
    if count <= 1:
        return list(map(work, range(count)))
    start = _team()
    if start is None:
        return list(_threads(count).map(work, range(count)))
    left, done = iter(range(count)), dict[int, _T]()

    def take(_: object) -> None:
        for index in left:
            done[index] = work(index)

    start(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(take), None, ctypes.c_uint(count), ctypes.c_uint(0))
    return [done[index] for index in range(count)]


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


GRADIENT, CHANGE, SCALE_CHANGE, HOLD, PICK = range(1, 6)  # the enum of guides in kernels.c
FREEZES = (GRADIENT, CHANGE)


class Guide(NamedTuple):
    """What is done to a weight in a step of `step_`: `kind` is a guide, 0 for none."""

    kind: int = 0
    key: tuple[int, int] = (0, 0)  # of the stream of masks
    operand: Tensor | float = 0.0  # of the row: the rate, the mean of the scores, or the correction of the average
    more: Tensor | None = None  # an average, a mask that stays, or the positions that the moments belong to


NO_GUIDE = Guide()


class Numbers(NamedTuple):
    """The constants of Adam for a group of weights: the struct `adam` of kernels.c."""

    decays: int
    lerps: int
    decay: float
    beta1: float
    rest1: float
    beta2: float
    rest2: float
    scale: float
    eps: float
    rate: float


class Part(NamedTuple):
    """Numbers that are stepped alike: a weight or a slice of one, its gradient, Adam's moments, and which `Numbers`.

    With group -1 another optimizer steps it afterwards, and a guide does what is to be done before: GRADIENT masks the
    gradient, which stays as it was where Adam follows in the same pass; the others write the old weight and the share
    of its change that it keeps where moments would be.
    """

    weight: Tensor
    grad: Tensor
    moments: tuple[Tensor, Tensor] | None
    group: int
    guide: Guide = NO_GUIDE

    @property
    def length(self) -> int:
        """How many numbers are stepped: all of the weight, or those that have moments."""
        return (self.moments[0] if self.moments else self.weight).numel()


class Arithmetic(NamedTuple):
    """How torch computes on this machine: whether x * y + z rounds once, and where MKL is, whose roots it takes.

    Of MKL the addresses of two functions: a square root of many numbers, and what keeps it to the caller's thread.
    """

    contracted: bool
    mkl: tuple[int, int] | None


# For where Adam is not stepped.
NO_ADAM = Arithmetic(False, None)


class Form(NamedTuple):
    """The form of a row (`form_of`), whether its averages are bfloat16, and the constants of sage."""

    number: int = 0
    half: bool = False
    constants: tuple[float, float, float] = (0.0, 0.0, 0.0)  # beta, eps, max_scale


NO_FORM = Form()
RANDOM = 3  # the form of weighted_freeze whose masks do not depend on scores
_JOB = struct.Struct("@5P2q2I3f3i0q")  # the structs of kernels.c, field for field
_ADAM = struct.Struct("@2i8f")
_SETTINGS = struct.Struct("@4P4i0q")
# More numbers than this are shared out among threads, and do not stay in a cache between two passes.
_LONG = 1 << 19


def step_(
    parts: Sequence[Part],
    groups: Sequence[Numbers],
    metric: str,
    form: Form = NO_FORM,
    shared_range: bool = False,
    arithmetic: Arithmetic = NO_ADAM,
) -> None:
    """Guide and step every part in one pass over its numbers, in place; all tensors must be `readable`.

    With `shared_range` one minimum and maximum serve all parts that are frozen.
    """
    kernels = _loaded()
    frozen = [(part.weight, part.grad) for part in parts if part.guide.kind in FREEZES]
    shared = (0.0, 0.0) if form.number == RANDOM else ranges(frozen, metric) if shared_range and frozen else None
    jobs = [job for part in parts for job in _jobs(part, metric, shared)]
    table = b"".join(jobs)
    taken = ctypes.c_int64(0)
    constants = ctypes.create_string_buffer(b"".join(_ADAM.pack(*group) for group in groups))
    beta, eps, max_scale = form.constants
    scales = (ctypes.c_float * 4)(beta, 1 - beta, eps, max_scale)
    settings = _SETTINGS.pack(
        ctypes.addressof(constants), *(arithmetic.mkl or (0, 0)), ctypes.addressof(scales),
        arithmetic.contracted, METRICS.index(metric), form.number, form.half,
    )  # fmt: skip

    def work(_: int) -> None:
        kernels.wff_step(ctypes.c_int64(len(jobs)), table, ctypes.byref(taken), settings)

    _each(min(torch.get_num_threads(), len(jobs)), work)


def address(function: object) -> int:
    """Of a function that ctypes found."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def _jobs(part: Part, metric: str, bounds: tuple[float, float] | None) -> list[bytes]:
    """A part as jobs of kernels.c, none of them long; `bounds` of the scores, where they are not the part's own."""
    weight, grad, moments, group, guide = part
    kind, (key0, key1), operand, more = guide
    count = part.length
    if count > _LONG and bounds is None and kind in FREEZES:
        bounds = ranges([(weight, grad)], metric)
    lo, hi = bounds or (0.0, 0.0)
    m, v = (moments[0].data_ptr(), moments[1].data_ptr()) if moments else (0, 0)
    w, g = weight.data_ptr(), grad.data_ptr()
    other, other_bytes = (more.data_ptr(), more.element_size()) if more is not None else (0, 0)
    jobs = []
    for at in range(0, count, _LONG):
        by = 4 * at
        whole = 0 if kind == PICK else by  # positions count from where a weight begins
        n = min(_LONG, count - at)
        jobs.append(
            _JOB.pack(
                w + whole, g + whole, m and m + by, v and v + by, other + at * other_bytes,
                n, at, key0, key1, lo, hi, operand, kind, bounds is not None, group,
            )
        )  # fmt: skip
    return jobs


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
