"""The penalties on weights, with their gradients: quadratic (EWC, Frobenius) and by alignment (AlignReg)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import kernels_c
from .scope import block_size, blocks


class _Penalty(torch.autograd.Function):
    """1/2 sum F (theta - anchor)^2 without a temporary as large as theta in the forward pass."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, exact: Tensor, fisher: Tensor | None, anchor: Tensor | None) -> Tensor:
        ctx.save_for_backward(exact, fisher, anchor)
        ctx.dtype = theta.dtype
        parts = []
        for _, (t, *given) in blocks(
            exact.numel(), block_size(exact), exact, *(x for x in (fisher, anchor) if x is not None)
        ):
            square = t.square() if anchor is None else (t - given[-1]).square_()
            parts.append((square if fisher is None else square.mul_(given[0])).sum())
        return torch.stack(parts).sum() / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        exact, fisher, anchor = ctx.saved_tensors
        grad = exact.clone() if anchor is None else exact - anchor
        grad = grad if fisher is None else grad.mul_(fisher)
        return grad.mul_(scale).to(ctx.dtype), None, None, None


def quadratic_penalty(
    theta: Tensor, fisher: Tensor | None, anchor: Tensor | None, exact: Tensor | None = None
) -> Tensor:
    """1/2 sum F (theta - theta_A)^2 (Kirkpatrick et al. 2017, eq. 3; Li et al. 2023, section 2.2), with its gradient.

    theta: the weight that takes the gradient. exact: the same weight in the precision of fisher and anchor, where
    theta is a half-precision copy of it. fisher None is 1, anchor None is 0. Multiply by lambda. With the fisher of 1
    twice this is the squared Frobenius distance of frobenius-MBP (O'Neill et al. 2021, eq. 6).
    """
    penalty: Tensor = _Penalty.apply(theta, theta if exact is None else exact, fisher, anchor)  # type: ignore[no-untyped-call]
    return penalty


class _Alignment(torch.autograd.Function):
    """Mean absolute cosine of the rows of two matrices, found by `alignments`, with the gradient by the first.

    One node a matrix: the gradient is added while it is in the cache, and never are those of all matrices held at once.
    """

    @staticmethod
    def forward(ctx: Any, theta: Tensor, w: Tensor, r: Tensor, factors: Tensor, mean: Tensor) -> Tensor:
        ctx.save_for_backward(w, r, factors)
        ctx.dtype = theta.dtype
        return mean.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        w, r, factors = ctx.saved_tensors
        toward, along = (factors * (scale / len(w)))[:, :, None]
        return (r * toward).addcmul_(w.to(toward.dtype), along, value=-1).to(ctx.dtype), None, None, None, None


def _row_sums(w: Tensor, r: Tensor) -> Tensor:
    """The sums over each row of w r, w^2 and r^2: (rows, 3), in float32 where w is of half precision."""
    rows = max(1, block_size(w) // max(1, w.shape[1]))
    exact = torch.promote_types(w.dtype, torch.float32)
    parts = ((a.to(exact), b.to(exact)) for a, b in zip(w.split(rows), r.split(rows), strict=True))
    return torch.cat([torch.stack([(a * b).sum(1), a.square().sum(1), b.square().sum(1)], 1) for a, b in parts])


def alignments(
    thetas: Sequence[Tensor],
    references: Sequence[Tensor],
    level: str = "unit",
    exacts: Sequence[Tensor] | None = None,
) -> Tensor:
    """For each layer the mean over its units of |cos(W_i, W~_i)| (O'Neill et al. 2021, eq. 2), with its gradient by W~.

    thetas, references: W~ and W of each layer, (units, inputs) as torch keeps it; the paper's columns are these rows.
    level `layer`: one cosine of the whole matrices. exacts: the thetas in the precision of the references, where these
    are half-precision copies. A unit without any weight counts as 0. Eq. 3 is the cross entropy - lambda times the mean
    of the result.
    """
    exacts = [t.detach() for t in (thetas if exacts is None else exacts)]
    if level == "layer":
        thetas, exacts, references = ([t.reshape(1, -1) for t in each] for each in (thetas, exacts, references))
    pairs = list(zip(exacts, references, strict=True))
    sums = kernels_c.row_sums(pairs) if kernels_c.ready(pairs) else [_row_sums(*pair) for pair in pairs]
    dot, own, other = torch.cat(sums).unbind(1)
    norms = own.sqrt() * other.sqrt()
    cosine = torch.where(norms > 0, dot / norms, 0)  # a unit without weights has no direction
    # DEVIATION: O'Neill et al. print in eq. 5, as the derivative of eq. 2: W~ where W belongs in the first term, W
    # where W~ belongs in the second, the cube on the norm of W and not of W~, 1 / (N - 1) for 1 / N, and a sum over
    # units though an element belongs to one. The derivative of eq. 2 by an element of unit i is used:
    # 1/N sign(W_i . W~_i) (W_i / (|W_i| |W~_i|) - W~_i (W_i . W~_i) / (|W_i| |W~_i|^3)).
    toward = torch.where(norms > 0, cosine.sign() / norms, 0)
    along = torch.where(own > 0, cosine.abs() / own, 0)
    units = [len(w) for w in exacts]
    exact = torch.promote_types(exacts[0].dtype, torch.float32)
    means = torch.stack([each.mean() for each in cosine.abs().split(units)]).to(exact)
    factors = torch.stack([toward, along]).to(exact).split(units, 1)
    found: list[Tensor] = [
        _Alignment.apply(theta, w, r, f, mean)  # type: ignore[no-untyped-call]
        for theta, (w, r), f, mean in zip(thetas, pairs, factors, means, strict=True)
    ]
    return torch.stack(found)
