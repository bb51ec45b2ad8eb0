"""Feed-forward layers in which each token uses one of several experts (Fedus et al. 2021, sections 2.1, 2.2 and 2.4).

A router chooses the expert and scales what it makes; a loss keeps the experts equally busy, and its gradient enters the
backward pass here, whatever the loss of the training is. Left out on purpose: experts on other devices, more than one
expert a token, and dropout of its own for experts.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# What a layer notes of each pass in training, in this order.
NOTES = ("load_max", "dropped", "entropy", "balance")


def chosen(p: Tensor, padding: Tensor | None = None) -> Tensor:
    """The expert of each token, the one with the largest probability, as one 1 in a row: (T, B, E), bool.

    p: (T, B, E); padding: (B, T), True where a position holds no token, whose row is all 0.
    """
    rows = F.one_hot(p.argmax(-1), p.shape[-1]).bool()
    return rows if padding is None else rows & ~padding.T[..., None]


def within_capacity(rows: Tensor, factor: float, by_sentence: bool) -> Tensor:
    """`rows` without the tokens that came too late: an expert takes factor * tokens / E of them, rounded up (eq. 3).

    rows: (T, B, E) as `chosen` makes them. Tokens are counted over the whole batch, where they come sentence by
    sentence as in the authors' code, or (by_sentence) in each sentence for itself. factor 0 means no limit.
    """
    if not factor:
        return rows
    queues = rows if by_sentence else rows.transpose(0, 1).flatten(0, 1)[:, None]
    limit = (factor * queues.sum((0, 2)) / rows.shape[-1]).ceil()
    kept = queues & (queues.cumsum(0) <= limit[:, None])
    return kept if by_sentence else kept.view(*rows.shape[1::-1], -1).transpose(0, 1)


def balance_loss(p: Tensor, rows: Tensor) -> Tensor:
    """E * sum_i f_i * P_i: 1 where all experts are equally busy, E where one has every token (eq. 4 to 6).

    f_i: the share of tokens that chose expert i, counted before any is dropped; P_i: its mean probability. The gradient
    goes through P. p and rows: (T, B, E).
    """
    tokens = rows.sum().clamp_min(1)
    f = rows.sum((0, 1), dtype=p.dtype) / tokens
    mean_p = (p * rows.any(-1, keepdim=True)).sum((0, 1)) / tokens
    return p.shape[-1] * (f * mean_p).sum()


def z_loss(logits: Tensor, rows: Tensor) -> Tensor:
    """The mean over tokens of (log sum_i exp logit_i)^2, which keeps logits small (Zoph et al. 2022, eq. 5)."""
    return (logits.logsumexp(-1).square() * rows.any(-1)).sum() / rows.sum().clamp_min(1)


class Router(nn.Module):
    """Logits of the experts for each token, in float32 at least.

    No nn.Linear: it decides which weights a token meets and is none of them, so scope `linear` must not hold it.
    """

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width))
        std = math.sqrt(0.1 / width)  # section 2.4
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x: Tensor, jitter: float = 0.0) -> Tensor:
        """(..., width) -> (..., E); each number of the input times one between 1 - jitter and 1 + jitter."""
        with torch.autocast(x.device.type, enabled=False):
            exact = x.to(torch.promote_types(x.dtype, torch.float32))
            if jitter:
                # DEVIATION: the router's pseudo-code of Fedus et al. adds this noise to the logits, where its mean of 1
                # does nothing. Their text and their code multiply the input by it.
                exact = exact * torch.empty_like(exact).uniform_(1 - jitter, 1 + jitter)
            return F.linear(exact, self.weight.to(exact.dtype))


class FeedForward(nn.Module):
    """One expert: fc2(dropout(activation(fc1 x))), made of whatever the dense layer is made of."""

    def __init__(self, fc1: nn.Module, fc2: nn.Module, activation: Callable[[Tensor], Tensor], dropout: nn.Module):
        super().__init__()
        self.fc1, self.fc2, self.activation, self.dropout = fc1, fc2, activation, dropout

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        made: Tensor = self.fc2(self.dropout(self.activation(self.fc1(x))))
        return made


class _WithAuxiliary(torch.autograd.Function):
    """The output as it is; in the backward pass, the gradient of the layer's own loss beside the output's."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, auxiliary: Tensor, layer: "SwitchFeedForward") -> Tensor:
        ctx.layer, ctx.like = layer, (auxiliary.dtype, auxiliary.device)
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        dtype, device = ctx.like
        return grad, torch.as_tensor(ctx.layer.auxiliary_scale, dtype=dtype, device=device), None


class SwitchFeedForward(nn.Module):
    """Each token's output is p_i(x) E_i(x), i the expert with the largest p (eq. 1 and 2).

    A token whose expert is full gets zero, so that only the residual around this layer carries it. Whether it is
    dropped never depends on later tokens of its sentence.

    In training the layer adds balance_weight * balance_loss + z_weight * z_loss to the loss, times `auxiliary_scale`:
    set that before the backward pass to what the loss is a multiple of (1 for a mean over tokens, the number of tokens
    for a sum). In evaluation capacity is counted in each sentence for itself, so that no sentence depends on others.
    """

    def __init__(
        self,
        experts: Sequence[nn.Module],
        width: int,
        *,
        capacity: float = 1.25,
        eval_capacity: float = 0.0,
        balance_weight: float = 0.01,
        z_weight: float = 0.0,
        jitter: float = 0.01,
    ) -> None:
        super().__init__()
        self.router = Router(width, len(experts))
        self.experts = nn.ModuleList(experts)
        self.capacity, self.eval_capacity = capacity, eval_capacity
        self.balance_weight, self.z_weight, self.jitter = balance_weight, z_weight, jitter
        self.padding: Tensor | None = None  # (B, T), set before each pass by whoever knows it
        self.auxiliary_scale: Tensor | float = 0.0
        self.notes: list[Tensor] = []  # of every pass in training since `begin`

    def begin(self) -> None:
        """Forget what was noted, and whose loss it was: a new batch comes."""
        self.notes, self.auxiliary_scale = [], 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, width) -> (T, B, width)."""
        logits = self.router(x, self.jitter if self.training else 0.0)
        p = logits.softmax(-1)
        rows = chosen(p, self.padding)
        kept = within_capacity(rows, self.capacity if self.training else self.eval_capacity, not self.training)
        if not self.training:
            return self._everywhere(x, p, kept) if torch.is_grad_enabled() else self._dispatch(x, p, kept)
        output = self._dispatch(x, p, kept)
        balance = balance_loss(p, rows)
        self.notes.append(_noted(p, rows, kept, balance))
        auxiliary = self.balance_weight * balance
        if self.z_weight:
            auxiliary = auxiliary + self.z_weight * z_loss(logits, rows)
        made: Tensor = _WithAuxiliary.apply(output, auxiliary, self)  # type: ignore[no-untyped-call]
        return made

    def _dispatch(self, x: Tensor, p: Tensor, kept: Tensor) -> Tensor:
        """Tokens sorted by expert, one call of each expert, and back: an expert without tokens still gets a gradient.

        The gathered rows are as many as tokens are kept, whatever their distribution over experts.
        """
        flat, kept = x.reshape(-1, x.shape[-1]), kept.flatten(0, 1)
        expert, token = kept.T.nonzero(as_tuple=True)
        parts = flat.index_select(0, token).split(kept.sum(0).tolist())
        made = torch.cat([module(part) for module, part in zip(self.experts, parts, strict=True)])
        made = made * p.flatten(0, 1)[token, expert, None].to(made.dtype)
        return made.new_zeros(len(flat), made.shape[-1]).index_copy(0, token, made).view(*x.shape[:-1], -1)

    def _everywhere(self, x: Tensor, p: Tensor, kept: Tensor) -> Tensor:
        """What `_dispatch` makes, by every expert on every token: sentences keep an axis of their own.

        `per_sample.py` tells their gradients apart by it, and gradients are what evaluation asks for with autograd on.
        """
        scales = (p * kept).unbind(-1)
        made = [module(x) for module in self.experts]
        return torch.stack([y * scale[..., None].to(y.dtype) for y, scale in zip(made, scales, strict=True)]).sum(0)


@torch.no_grad()
def _noted(p: Tensor, rows: Tensor, kept: Tensor, balance: Tensor) -> Tensor:
    """The busiest expert's share, the share of dropped tokens, the router's mean entropy in bits, the balance loss."""
    tokens = rows.sum().clamp_min(1)
    entropy = (torch.special.entr(p).sum(-1) * rows.any(-1)).sum() / tokens / math.log(2)
    return torch.stack([rows.sum((0, 1)).max() / tokens, 1 - kept.sum() / tokens, entropy, balance]).detach()
