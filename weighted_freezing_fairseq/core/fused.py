"""Cross entropy and divergence of K passes over a large vocabulary, a few rows at a time, in one exact pass.

For K passes, T tokens and V words the formulas of `losses.py` hold a dozen K x T x V tensors. Here a chunk of rows at
a time goes from features through the output projection to values and gradients, all in float32 and in log space, and
nothing of size T x V outlives its chunk. With l_k = log p_k, the derivative by the scores z_k of every divergence
here has one form,

    dD/dz_k = 1/K * (p_k * c_k - b),

    x        c_k = s_k - <p_k, s_k> + 1,  b = m = mean_k p_k,  with s_k = l_k - mean_j l_j
    js       c_k = r_k - <p_k, r_k>,      b = 0,               with r_k = l_k - log m
    mse      c_k = g_k - <p_k, g_k>,      b = 0,               with g_k = 2 (p_k - m)
    teacher  c = 1,                       b = q,               with K = 1 and the teacher's q

and the smoothed cross entropy adds p_k - e - (1 - eps - e) * onehot. Left out on purpose: a softmax that is not over
the whole vocabulary at once (adaptive softmax), and second derivatives.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A teacher's probabilities for the rows [start, stop): (stop - start, V), float32.
Teacher = Callable[[int, int], Tensor]
# From l and p, both (K, R, V), and a teacher's q: values (R,), c (K, R, V) or None for 1, b (R, V) or None for 0.
# p must stay as it is, l may be used up.
Terms = tuple[Tensor, Tensor | None, Tensor | None]

_CPU_CHUNK = 8 << 20  # bytes of one K x R x V tensor: a handful of them stay in the last-level cache
_GPU_CHUNK = 128 << 20  # a few launches an update
_LEAST_ROWS = 160  # of K x R: every chunk moves the whole weight and its gradient, for these at least


def _centred(p: Tensor, v: Tensor) -> Tensor:
    """<p, v> of each row; v becomes v - <p, v>."""
    inner: Tensor = torch.linalg.vecdot(p, v)
    v.sub_(inner[..., None])
    return inner


def _x_terms(log_p: Tensor, p: Tensor, q: Tensor | None) -> Terms:
    s = log_p.sub_(log_p.mean(0))
    values = _centred(p, s).mean(0)
    return values, s.add_(1), p.mean(0)


def _js_terms(log_p: Tensor, p: Tensor, q: Tensor | None) -> Terms:
    r = log_p.sub_(log_p.logsumexp(0) - math.log(len(log_p)))
    return _centred(p, r).mean(0), r, None


def _squared_terms(log_p: Tensor, p: Tensor, q: Tensor | None) -> Terms:
    g = p - p.mean(0)
    values = g.square().sum(-1).mean(0)
    _centred(p, g.mul_(2))
    return values, g, None


def _teacher_terms(log_p: Tensor, p: Tensor, q: Tensor | None) -> Terms:
    assert q is not None
    return -(torch.special.entr(q).sum(-1) + torch.linalg.vecdot(q, log_p[0])), None, q


TERMS: Mapping[str, Callable[[Tensor, Tensor, Tensor | None], Terms]] = MappingProxyType(
    {"x": _x_terms, "js": _js_terms, "mse": _squared_terms, "teacher": _teacher_terms}
)


@dataclass(frozen=True)
class _Settings:
    eps: float
    divergence: str
    strength: float
    teacher: Teacher | None
    count_correct: bool
    chunk: int | None


@dataclass(frozen=True)
class Sums:
    """Sums over rows; those of the K passes are means over K. Only `loss` has a gradient."""

    loss: Tensor
    cross_entropy: Tensor  # smoothed
    nll: Tensor
    divergence: Tensor
    correct: Tensor  # how often the likeliest word is the target, if that is counted


def passes_loss(
    outputs: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    eps: float = 0.0,
    divergence: str = "x",
    strength: float = 5.0,
    teacher: Teacher | None = None,
    count_correct: bool = False,
    ignore_index: int | None = None,
    chunk: int | None = None,
) -> Sums:
    """mean_k CE(p_k) + strength * D(p_1, ..., p_K), summed over rows (Xu et al. 2022, eq. 10).

    outputs: (K, N, D) features with weight (V, D) of the output projection, or (K, N, V) scores without one; scores may
    be log-probabilities. target: (N,). Rows whose target is `ignore_index` (padding) contribute nothing and get no
    gradient; the default is that all count. eps: label smoothing. divergence: a key of `TERMS`; "teacher"
    needs K = 1 and a teacher, which is asked for rows of the N. chunk: rows at once, if not what fits the device.

    The gradient by features and weight is formed here, in float32, before any loss scale is known; that by scores is
    formed in the backward pass, and nothing is kept. Second derivatives are refused by torch.
    """
    if divergence not in TERMS or (divergence == "teacher") != (teacher is not None):
        raise ValueError(f"unknown divergence {divergence!r}, or one without its teacher; choose: {', '.join(TERMS)}")
    _check_shapes(outputs, target, weight)
    if teacher is not None and len(outputs) != 1:
        raise ValueError(f"a teacher teaches one pass, got {len(outputs)}; give outputs[:1]")
    if ignore_index is not None:
        counts = (target != ignore_index).nonzero().view(-1)
        teacher = None if teacher is None else _of_rows(teacher, counts)
        outputs, target = outputs.index_select(1, counts), target[counts]
    settings = _Settings(eps, divergence, strength, teacher, count_correct, chunk)
    loss, parts = _Passes.apply(outputs, weight, target, settings)  # type: ignore[no-untyped-call]
    return Sums(loss, *parts.unbind())


def _check_shapes(outputs: Tensor, target: Tensor, weight: Tensor | None) -> None:
    """Three dimensions, one and two, of sizes that fit."""
    if outputs.dim() != 3:
        last = "V) of scores" if weight is None else "D) of features"
        remedy = "outputs[None] for a single pass" if outputs.dim() == 2 else "outputs.flatten(1, -2)"
        raise ValueError(f"outputs must have the shape (K, N, {last}, got {tuple(outputs.shape)}; give {remedy}")
    if target.shape != outputs.shape[1:2]:
        remedy = "target.flatten()" if target.dim() > 1 else "one target for each row of outputs"
        rows = outputs.shape[1]
        raise ValueError(f"target must have the shape (N,) = ({rows},), got {tuple(target.shape)}; give {remedy}")
    if weight is not None and (weight.dim() != 2 or weight.shape[1] != outputs.shape[2]):
        raise ValueError(
            f"weight must have the shape (V, D) with D = {outputs.shape[2]}, got {tuple(weight.shape)}; "
            "give that of the output projection, or weight.T"
        )


def _of_rows(teacher: Teacher, rows: Tensor) -> Teacher:
    """The teacher of these rows alone, which are in ascending order."""
    places = rows.tolist()

    def probabilities(start: int, stop: int) -> Tensor:
        first, last = places[start], places[stop - 1]
        return teacher(first, last + 1)[rows[start:stop] - first]

    return probabilities


class _Passes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, weight: Tensor | None, target: Tensor, settings: _Settings
    ) -> tuple[Tensor, Tensor]:
        ctx.dtypes = outputs.dtype, None if weight is None else weight.dtype
        ctx.settings = settings
        wanted = any(ctx.needs_input_grad)
        matmul = _matmul_dtype(outputs)  # autocast's, before it is switched off for all else
        with torch.autocast(outputs.device.type, enabled=False):
            if weight is None:
                ctx.save_for_backward(outputs, target)
                parts = outputs.new_zeros(4, dtype=_exact(outputs.dtype))
                for start, stop in _chunks(outputs, outputs.shape[-1], settings):
                    parts += _rows(outputs[:, start:stop].to(parts.dtype), target, start, settings, gradient=False)[0]
            else:
                parts, d_outputs, d_weight = _project(outputs, weight, target, settings, matmul, wanted)
                ctx.save_for_backward(d_outputs, d_weight)
        ctx.mark_non_differentiable(parts)
        return parts[0] + settings.strength * parts[2], parts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        dtype, weight_dtype = ctx.dtypes
        if weight_dtype is not None:
            d_outputs, d_weight = ctx.saved_tensors
            return (d_outputs * scale).to(dtype), (d_weight * scale).to(weight_dtype), None, None
        outputs, target = ctx.saved_tensors
        grad = torch.empty_like(outputs)
        with torch.autocast(outputs.device.type, enabled=False):
            for start, stop in _chunks(outputs, outputs.shape[-1], ctx.settings):
                scores = outputs[:, start:stop].to(_exact(dtype))
                d_scores = _rows(scores, target, start, ctx.settings)[1]
                assert d_scores is not None
                grad[:, start:stop] = d_scores.mul_(scale)
        return grad, None, None, None


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The precision of everything but the matrix products: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def _chunks(outputs: Tensor, words: int, settings: _Settings) -> Iterator[tuple[int, int]]:
    """Ranges of rows, as even as they come."""
    passes, rows = outputs.shape[:2]
    budget = _CPU_CHUNK if outputs.device.type == "cpu" else _GPU_CHUNK
    size = settings.chunk or max(math.ceil(_LEAST_ROWS / passes), budget // (4 * passes * words))
    count = math.ceil(rows / size)
    for part in range(count):
        yield part * rows // count, (part + 1) * rows // count


def _rows(
    scores: Tensor, target: Tensor, start: int, settings: _Settings, gradient: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Sums over the rows of a chunk (cross entropy, nll, divergence, correct) and the derivative by its scores."""
    passes, rows, words = scores.shape
    log_p = scores.log_softmax(-1)
    place = target[start : start + rows].expand(passes, rows)[..., None]
    each = settings.eps / (words - 1)
    nll = -log_p.gather(-1, place).sum() / passes
    cross_entropy = (1 - settings.eps - each) * nll
    if each:
        cross_entropy = cross_entropy - each * log_p.sum() / passes
    correct = nll.new_zeros(())
    if settings.count_correct:
        correct = (log_p.argmax(-1, keepdim=True) == place).sum().to(nll.dtype) / passes
    p = log_p.exp()
    q = None if settings.teacher is None else settings.teacher(start, start + rows)
    values, c, b = TERMS[settings.divergence](log_p, p, q)
    sums = torch.stack([cross_entropy, nll, values.sum(), correct])
    if not gradient:
        return sums, None
    alpha = settings.strength
    p = p.mul_(1 + alpha) if c is None else p.mul_(c.mul_(alpha).add_(1))
    p.sub_(each if b is None else b * alpha + each)
    p.scatter_add_(-1, place, p.new_full((1, 1, 1), each + settings.eps - 1).expand(place.shape))
    return sums, p.div_(passes)


def _project(
    outputs: Tensor, weight: Tensor, target: Tensor, settings: _Settings, dtype: torch.dtype, gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Sums over all rows from their features, and the derivatives by features and weight, in float32 at least.

    dtype: the precision of the matrix products.
    """
    passes, _, features = outputs.shape
    words = len(weight)
    exact = _exact(outputs.dtype)
    factor = weight.to(dtype)
    parts = outputs.new_zeros(4, dtype=exact)
    d_outputs = torch.empty_like(outputs, dtype=exact) if gradient else None
    d_weight = torch.zeros_like(weight, dtype=exact) if gradient else None
    for start, stop in _chunks(outputs, words, settings):
        flat = outputs[:, start:stop].reshape(-1, features).to(dtype)
        scores = (flat @ factor.T).to(exact).view(passes, -1, words)
        sums, d_scores = _rows(scores, target, start, settings, gradient)
        parts += sums
        if d_scores is None or d_outputs is None or d_weight is None:
            continue
        d_flat = d_scores.view(-1, words)
        if dtype == exact:
            d_outputs[:, start:stop] = (d_flat @ factor).view(passes, -1, features)
            d_weight.addmm_(d_flat.T, flat)
        else:  # no number of a half-precision product may be above what that precision holds
            top = torch.linalg.vector_norm(d_flat, math.inf).clamp_min_(1)
            d_half = d_flat.div_(top).to(dtype)
            d_outputs[:, start:stop] = (d_half @ factor).to(exact).mul_(top).view(passes, -1, features)
            d_weight.add_((d_half.T @ flat).to(exact).mul_(top))
    return parts, d_outputs, d_weight


def _matmul_dtype(outputs: Tensor) -> torch.dtype:
    """The precision of the matrix products: autocast's where it is on, else that of the features."""
    device = outputs.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else outputs.dtype
