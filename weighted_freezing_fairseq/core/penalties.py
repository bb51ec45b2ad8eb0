"""Penalties on weights: quadratic (EWC, Frobenius) and alignment (AlignReg)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import kernels_c
from .scope import block_size, blocks


class _Penalty(torch.autograd.Function):
    """1/2 sum F (theta - anchor)^2; the forward pass allocates no temporary as large as theta."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, exact: Tensor, fisher: Tensor | None, anchor: Tensor | None) -> Tensor:
        ctx.save_for_backward(exact, fisher, anchor)
        ctx.dtype = theta.dtype
        optional = [tensor for tensor in (fisher, anchor) if tensor is not None]
        sums = []
        for _, (t, *others) in blocks(exact.numel(), block_size(exact), exact, *optional):
            square = t.square() if anchor is None else (t - others[-1]).square_()
            sums.append((square if fisher is None else square.mul_(others[0])).sum())
        return torch.stack(sums).sum() / 2

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
    """1/2 sum F (theta - theta_A)^2 (Kirkpatrick et al. 2017, eq. 3; Li et al. 2023, section 2.2).

    Multiply it by lambda. With fisher=None, twice the penalty is the squared Frobenius distance of frobenius-MBP
    (O'Neill et al. 2022, eq. 6).

    Args:
        theta: the weight that gets the gradient.
        fisher: F, of the shape of theta; None means 1.
        anchor: theta_A, of the shape of theta; None means 0.
        exact: the weight in the precision of fisher and anchor, if theta is a half-precision copy of it.

    Returns:
        A number; its gradient by theta is F (theta - theta_A).

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import quadratic_penalty
        >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> penalty = quadratic_penalty(theta, fisher=torch.tensor([3.0, 0.5]), anchor=torch.zeros(2))
        >>> penalty.backward()
        >>> penalty.item(), theta.grad
        (2.5, tensor([3., 1.]))
    """
    penalty: Tensor = _Penalty.apply(theta, theta if exact is None else exact, fisher, anchor)  # type: ignore[no-untyped-call]
    return penalty


class _Alignment(torch.autograd.Function):
    """`mean`, the mean absolute cosine of the rows of W~ and W that `alignments` computed, with its gradient by W~.

    One autograd node per matrix: torch accumulates each gradient while it is in the cache, and never holds the
    gradients of all matrices at once.
    """

    @staticmethod
    def forward(ctx: Any, theta: Tensor, exact: Tensor, reference: Tensor, factors: Tensor, mean: Tensor) -> Tensor:
        ctx.save_for_backward(exact, reference, factors)
        ctx.dtype = theta.dtype
        return mean.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        exact, reference, factors = ctx.saved_tensors
        reference_factor, theta_factor = (factors * (scale / len(exact)))[:, :, None]
        grad = (reference * reference_factor).addcmul_(exact.to(reference_factor.dtype), theta_factor, value=-1)
        return grad.to(ctx.dtype), None, None, None, None


def _row_sums(theta: Tensor, reference: Tensor) -> Tensor:
    """The sums over each row of W~ W, W~^2 and W^2: (rows, 3), in float32 at least."""
    rows = max(1, block_size(theta) // max(1, theta.shape[1]))
    dtype = torch.promote_types(theta.dtype, torch.float32)
    pairs = ((a.to(dtype), b.to(dtype)) for a, b in zip(theta.split(rows), reference.split(rows), strict=True))
    return torch.cat([torch.stack([(a * b).sum(1), a.square().sum(1), b.square().sum(1)], 1) for a, b in pairs])


def alignments(
    thetas: Sequence[Tensor], references: Sequence[Tensor], level: str = "unit", exacts: Sequence[Tensor] | None = None
) -> Tensor:
    """The mean over units of |cos(W_i, W~_i)| for each layer (O'Neill et al. 2022, eq. 2).

    The loss of eq. 3 is the cross entropy - lambda times the mean of the result. A unit whose weights are all zero
    counts as 0.

    Args:
        thetas: W~ of each layer, (units, inputs), which get the gradient. The paper's columns are these rows.
        references: W of each layer.
        level: `unit`, or `layer` for one cosine of the whole matrices.
        exacts: the thetas in the precision of the references, if the thetas are half-precision copies.

    Returns:
        One number for each layer, between 0 and 1.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import alignments
        >>> start = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> pruned = torch.tensor([[2.0, 0.0], [0.0, 0.0]])  # a unit in the same direction, and one of zeros
        >>> alignments([pruned], [start])
        tensor([0.5000])
    """
    exacts = [t.detach() for t in (thetas if exacts is None else exacts)]
    if level == "layer":
        thetas, exacts, references = ([t.reshape(1, -1) for t in ts] for ts in (thetas, exacts, references))
    pairs = list(zip(exacts, references, strict=True))
    sums = kernels_c.row_sums(pairs) if kernels_c.ready(pairs) else [_row_sums(*pair) for pair in pairs]
    dot, theta_squared, reference_squared = torch.cat(sums).unbind(1)
    norms = theta_squared.sqrt() * reference_squared.sqrt()
    cosine = torch.where(norms > 0, dot / norms, 0)  # a unit of zeros has no direction
    # DEVIATION: O'Neill et al. print in eq. 5, as the derivative of eq. 2: W~ where W belongs in the first term, W
    # where W~ belongs in the second, the cube on the norm of W and not of W~, 1 / (N - 1) for 1 / N, and a sum over
    # units though an element belongs to one. The derivative of eq. 2 by an element of unit i is used:
    # 1/N sign(W_i . W~_i) (W_i / (|W_i| |W~_i|) - W~_i (W_i . W~_i) / (|W_i| |W~_i|^3)).
    reference_factor = torch.where(norms > 0, cosine.sign() / norms, 0)
    theta_factor = torch.where(theta_squared > 0, cosine.abs() / theta_squared, 0)
    units = [len(exact) for exact in exacts]
    dtype = torch.promote_types(exacts[0].dtype, torch.float32)
    means = torch.stack([layer.mean() for layer in cosine.abs().split(units)]).to(dtype)
    factors = torch.stack([reference_factor, theta_factor]).to(dtype).split(units, 1)
    per_layer: list[Tensor] = [
        _Alignment.apply(theta, *pair, *constants)  # type: ignore[no-untyped-call]
        for theta, pair, *constants in zip(thetas, pairs, factors, means, strict=True)
    ]
    return torch.stack(per_layer)
