"""Cross entropy and divergence of K passes over a large vocabulary, computed exactly in chunks of rows.

The formulas of `divergences.py` hold a dozen tensors of size K x T x V (K passes, T tokens, V words). Here each chunk
of rows goes from features through the output projection to loss and gradients, in float32 and in log space, and no
tensor of size T x V is kept. With l_k = log p_k, the derivative of every divergence by the scores z_k has the form

    dD/dz_k = 1/K * (p_k * c_k - b),

    x        c_k = s_k - <p_k, s_k> + 1,  b = m = mean_k p_k,  with s_k = l_k - mean_j l_j
    js       c_k = r_k - <p_k, r_k>,      b = 0,               with r_k = l_k - log m
    mse      c_k = g_k - <p_k, g_k>,      b = 0,               with g_k = 2 (p_k - m)
    teacher  c = 1,                       b = q,               with K = 1 and the teacher's q

The smoothed cross entropy adds p_k - e - (1 - eps - e) * onehot, with e = eps / (V - 1).
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
# The values (R,), c (K, R, V) or None for 1, and b (R, V) or None for 0 of a divergence.
Terms = tuple[Tensor, Tensor | None, Tensor | None]

_CPU_CHUNK = 8 << 20  # bytes of one K x R x V tensor: a handful of them fit into the last-level cache
_GPU_CHUNK = 128 << 20  # large enough that an update launches few kernels
_MIN_ROWS = 160  # of K x R: each chunk reads the whole weight and writes its whole gradient


def _centre_(p: Tensor, v: Tensor) -> Tensor:
    """v -= <p, v> in each row; returns <p, v>."""
    inner: Tensor = torch.linalg.vecdot(p, v)
    v.sub_(inner[..., None])
    return inner


# These may overwrite log_p, but not p.


def _x_terms(log_p: Tensor, p: Tensor, q: Tensor | None) -> Terms:
    s = log_p.sub_(log_p.mean(0))
    values = _centre_(p, s).mean(0)
    return values, s.add_(1), p.mean(0)


def _js_terms(log_p: Tensor, p: Tensor, q: Tensor | None) -> Terms:
    r = log_p.sub_(log_p.logsumexp(0) - math.log(len(log_p)))
    return _centre_(p, r).mean(0), r, None


def _mse_terms(log_p: Tensor, p: Tensor, q: Tensor | None) -> Terms:
    g = p - p.mean(0)
    values = g.square().sum(-1).mean(0)
    _centre_(p, g.mul_(2))
    return values, g, None


def _teacher_terms(log_p: Tensor, p: Tensor, q: Tensor | None) -> Terms:
    assert q is not None
    return -(torch.special.entr(q).sum(-1) + torch.linalg.vecdot(q, log_p[0])), None, q


TERMS: Mapping[str, Callable[[Tensor, Tensor, Tensor | None], Terms]] = MappingProxyType(
    {"x": _x_terms, "js": _js_terms, "mse": _mse_terms, "teacher": _teacher_terms}
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
    """Sums over rows of means over the K passes. Only `loss` has a gradient.

    Attributes:
        loss: cross_entropy + strength * divergence.
        cross_entropy: with label smoothing.
        nll: without label smoothing.
        divergence: without its strength.
        correct: number of correct predictions; 0 without `count_correct`.
    """

    loss: Tensor
    cross_entropy: Tensor
    nll: Tensor
    divergence: Tensor
    correct: Tensor


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

    With a weight no tensor of size N x V is kept. Gradients of features and weight are computed in the forward pass, in
    float32 and before any loss scaling. Those of scores are computed in the backward pass. Second derivatives and
    adaptive softmax are not supported.

    Args:
        outputs: features (K, N, D) of K passes over N tokens, with the weight of the output projection; or without a
            weight, scores or log-probabilities (K, N, V).
        target: the right words, (N,).
        weight: of the output projection, (V, D).
        eps: label smoothing.
        divergence: `x`, `js`, `mse` or `teacher`.
        strength: alpha, the factor of the divergence.
        teacher: a function of `start` and `stop` that returns the teacher's probabilities (stop - start, V) of these
            rows; required by the divergence `teacher`, with K = 1.
        count_correct: count correct predictions.
        ignore_index: rows with this target (padding) add nothing to the loss and get no gradient; by default no row
            is ignored.
        chunk: rows that are computed at a time; by default chosen for the device.

    Returns:
        The sums `loss`, `cross_entropy`, `nll`, `divergence` and `correct` over the rows. Only `loss` has a gradient.

    Raises:
        ValueError: if shapes do not fit together, or if there is no such divergence.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import passes_loss
        >>> outputs = torch.tensor([[[2.0, 0.0]], [[0.0, 0.0]]], requires_grad=True)  # 2 passes, 1 token, 2 words
        >>> sums = passes_loss(outputs, torch.tensor([0]), strength=5.0)
        >>> sums.loss.backward()
        >>> round(sums.nll.item(), 4), round(sums.divergence.item(), 4), outputs.grad.shape
        (0.41, 0.1904, torch.Size([2, 1, 2]))
    """
    if divergence not in TERMS or (divergence == "teacher") != (teacher is not None):
        raise ValueError(f"unknown divergence {divergence!r}, or one without its teacher; choose: {', '.join(TERMS)}")
    _check_shapes(outputs, target, weight)
    if teacher is not None and len(outputs) != 1:
        raise ValueError(f"a teacher teaches one pass, got {len(outputs)}; give outputs[:1]")
    if ignore_index is not None:
        rows = (target != ignore_index).nonzero().view(-1)
        teacher = None if teacher is None else _teacher_of(rows, teacher)
        outputs, target = outputs.index_select(1, rows), target[rows]
    settings = _Settings(eps, divergence, strength, teacher, count_correct, chunk)
    loss, sums = _PassesLoss.apply(outputs, weight, target, settings)  # type: ignore[no-untyped-call]
    return Sums(loss, *sums.unbind())


def _check_shapes(outputs: Tensor, target: Tensor, weight: Tensor | None) -> None:
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


def _teacher_of(rows: Tensor, teacher: Teacher) -> Teacher:
    """`teacher` restricted to `rows`, which must be in ascending order."""
    indices = rows.tolist()

    def probabilities(start: int, stop: int) -> Tensor:
        first, last = indices[start], indices[stop - 1]
        return teacher(first, last + 1)[rows[start:stop] - first]

    return probabilities


class _PassesLoss(torch.autograd.Function):
    """The loss, and the sums that `Sums` holds beside it."""

    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, weight: Tensor | None, target: Tensor, settings: _Settings
    ) -> tuple[Tensor, Tensor]:
        ctx.dtypes = outputs.dtype, None if weight is None else weight.dtype
        ctx.settings = settings
        device = outputs.device.type
        matmul_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else outputs.dtype
        with torch.autocast(device, enabled=False):
            if weight is None:
                ctx.save_for_backward(outputs, target)
                sums = outputs.new_zeros(4, dtype=_float32_at_least(outputs.dtype))
                for start, stop in _chunks(outputs, outputs.shape[-1], settings):
                    scores = outputs[:, start:stop].to(sums.dtype)
                    sums += _chunk_loss(scores, target, start, settings, gradient=False)[0]
            else:
                gradient = any(ctx.needs_input_grad)
                sums, *grads = _projected_loss(outputs, weight, target, settings, matmul_dtype, gradient)
                ctx.save_for_backward(*grads)
        ctx.mark_non_differentiable(sums)
        return sums[0] + settings.strength * sums[2], sums

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
                scores = outputs[:, start:stop].to(_float32_at_least(dtype))
                d_scores = _chunk_loss(scores, target, start, ctx.settings)[1]
                assert d_scores is not None
                grad[:, start:stop] = d_scores.mul_(scale)
        return grad, None, None, None


def _float32_at_least(dtype: torch.dtype) -> torch.dtype:
    """The precision of everything but the matrix products."""
    return torch.promote_types(dtype, torch.float32)


def _chunks(outputs: Tensor, words: int, settings: _Settings) -> Iterator[tuple[int, int]]:
    """Ranges of rows of nearly equal size."""
    passes, rows = outputs.shape[:2]
    budget = _CPU_CHUNK if outputs.device.type == "cpu" else _GPU_CHUNK
    size = settings.chunk or max(math.ceil(_MIN_ROWS / passes), budget // (4 * passes * words))
    count = math.ceil(rows / size)
    for index in range(count):
        yield index * rows // count, (index + 1) * rows // count


def _chunk_loss(
    scores: Tensor, target: Tensor, start: int, settings: _Settings, gradient: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Sums over the rows of a chunk (cross entropy, nll, divergence, correct), and the derivative by its scores."""
    passes, rows, words = scores.shape
    log_p = scores.log_softmax(-1)
    labels = target[start : start + rows].expand(passes, rows)[..., None]
    e = settings.eps / (words - 1)
    nll = -log_p.gather(-1, labels).sum() / passes
    cross_entropy = (1 - settings.eps - e) * nll
    if e:
        cross_entropy = cross_entropy - e * log_p.sum() / passes
    correct = nll.new_zeros(())
    if settings.count_correct:
        correct = (log_p.argmax(-1, keepdim=True) == labels).sum().to(nll.dtype) / passes
    p = log_p.exp()
    q = None if settings.teacher is None else settings.teacher(start, start + rows)
    values, c, b = TERMS[settings.divergence](log_p, p, q)
    sums = torch.stack([cross_entropy, nll, values.sum(), correct])
    if not gradient:
        return sums, None
    alpha = settings.strength
    p = p.mul_(1 + alpha) if c is None else p.mul_(c.mul_(alpha).add_(1))
    p.sub_(e if b is None else b * alpha + e)
    p.scatter_add_(-1, labels, p.new_full((1, 1, 1), e + settings.eps - 1).expand(labels.shape))
    return sums, p.div_(passes)


def _projected_loss(
    outputs: Tensor, weight: Tensor, target: Tensor, settings: _Settings, dtype: torch.dtype, gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Sums over all rows from features, and the derivatives by features and weight, in float32 at least.

    dtype: the precision of the matrix products.
    """
    passes, _, features = outputs.shape
    words = len(weight)
    sum_dtype = _float32_at_least(outputs.dtype)
    projection = weight.to(dtype)
    sums = outputs.new_zeros(4, dtype=sum_dtype)
    d_outputs = torch.empty_like(outputs, dtype=sum_dtype) if gradient else None
    d_weight = torch.zeros_like(weight, dtype=sum_dtype) if gradient else None
    for start, stop in _chunks(outputs, words, settings):
        flat = outputs[:, start:stop].reshape(-1, features).to(dtype)
        scores = (flat @ projection.T).to(sum_dtype).view(passes, -1, words)
        chunk_sums, d_scores = _chunk_loss(scores, target, start, settings, gradient)
        sums += chunk_sums
        if d_scores is None or d_outputs is None or d_weight is None:
            continue
        d_flat = d_scores.view(-1, words)
        if dtype == sum_dtype:
            d_outputs[:, start:stop] = (d_flat @ projection).view(passes, -1, features)
            d_weight.addmm_(d_flat.T, flat)
        else:  # scaled to at most 1, so that half-precision products do not overflow
            largest = torch.linalg.vector_norm(d_flat, math.inf).clamp_min_(1)
            d_half = d_flat.div_(largest).to(dtype)
            d_outputs[:, start:stop] = (d_half @ projection).to(sum_dtype).mul_(largest).view(passes, -1, features)
            d_weight.add_((d_half.T @ flat).to(sum_dtype).mul_(largest))
    return sums, d_outputs, d_weight
