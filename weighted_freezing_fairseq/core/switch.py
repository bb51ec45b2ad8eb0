"""Switch layers: each token goes through one of several feed-forward experts (Fedus et al. 2022, sections 2.1 to 2.4).

A router chooses the expert and scales its output. A balance loss keeps the experts equally busy; the layer adds the
gradient of this loss in the backward pass, whatever the training loss is. Experts are on one device and have no
dropout rate of their own.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# The statistics of each pass in training, in this order.
STATISTICS = ("load_max", "dropped", "entropy", "balance")


def assign(p: Tensor, padding: Tensor | None = None) -> Tensor:
    """One-hot assignment of each token to its most probable expert: (T, B, E), bool.

    p: router probabilities (T, B, E). padding: (B, T), True at padding, which is assigned to no expert.
    """
    assigned = F.one_hot(p.argmax(-1), p.shape[-1]).bool()
    return assigned if padding is None else assigned & ~padding.T[..., None]


def within_capacity(assigned: Tensor, factor: float, by_sentence: bool) -> Tensor:
    """`assigned` without overflowing tokens: an expert takes the first ceil(factor * tokens / E) of its tokens (eq. 3).

    assigned: (T, B, E). Tokens are counted over the batch, sentence by sentence as in the authors' code, or in each
    sentence separately (by_sentence). factor 0 means no limit.
    """
    if not factor:
        return assigned
    queues = assigned if by_sentence else assigned.transpose(0, 1).flatten(0, 1)[:, None]
    capacity = (factor * queues.sum((0, 2)) / assigned.shape[-1]).ceil()
    accepted = queues & (queues.cumsum(0) <= capacity[:, None])
    return accepted if by_sentence else accepted.view(*assigned.shape[1::-1], -1).transpose(0, 1)


def balance_loss(p: Tensor, assigned: Tensor) -> Tensor:
    """E * sum_i f_i * P_i: 1 if all experts are equally busy, E if one expert has every token (eq. 4 to 6).

    f_i: the share of tokens assigned to expert i, before overflowing tokens are dropped. P_i: its mean probability,
    which carries the gradient. p and assigned: (T, B, E).
    """
    tokens = assigned.sum().clamp_min(1)
    f = assigned.sum((0, 1), dtype=p.dtype) / tokens
    mean_p = (p * assigned.any(-1, keepdim=True)).sum((0, 1)) / tokens
    return p.shape[-1] * (f * mean_p).sum()


def z_loss(logits: Tensor, assigned: Tensor) -> Tensor:
    """The mean over tokens of (log sum_i exp logit_i)^2, which keeps logits small (Zoph et al. 2022, eq. 5)."""
    return (logits.logsumexp(-1).square() * assigned.any(-1)).sum() / assigned.sum().clamp_min(1)


class Router(nn.Module):
    """Logits of the experts for each token, in float32 at least.

    Not an nn.Linear, so that scope `linear` holds the weights of experts but not the router.
    """

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width))
        std = math.sqrt(0.1 / width)  # section 2.4
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x: Tensor, jitter: float = 0.0) -> Tensor:
        """(..., width) -> (..., E); inputs are multiplied by uniform noise between 1 - jitter and 1 + jitter."""
        with torch.autocast(x.device.type, enabled=False):
            exact = x.to(torch.promote_types(x.dtype, torch.float32))
            if jitter:
                # DEVIATION: the pseudo-code of Fedus et al. adds the router's noise to the logits. Their text and their
                # code multiply its input by the noise, as here.
                exact = exact * torch.empty_like(exact).uniform_(1 - jitter, 1 + jitter)
            return F.linear(exact, self.weight.to(exact.dtype))


class FeedForward(nn.Module):
    """An expert: fc2(dropout(activation(fc1 x)))."""

    def __init__(self, fc1: nn.Module, fc2: nn.Module, activation: Callable[[Tensor], Tensor], dropout: nn.Module):
        super().__init__()
        self.fc1, self.fc2, self.activation, self.dropout = fc1, fc2, activation, dropout

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        y: Tensor = self.fc2(self.dropout(self.activation(self.fc1(x))))
        return y


class _AddAuxiliaryLoss(torch.autograd.Function):
    """The identity on the output; its backward pass also starts that of the auxiliary loss."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, auxiliary: Tensor, layer: "SwitchFeedForward") -> Tensor:
        ctx.layer, ctx.dtype, ctx.device = layer, auxiliary.dtype, auxiliary.device
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, torch.as_tensor(ctx.layer.auxiliary_scale, dtype=ctx.dtype, device=ctx.device), None


class SwitchFeedForward(nn.Module):
    """Each token's output is p_i(x) E_i(x), with i the most probable expert (eq. 1 and 2).

    The output of a token that exceeds its expert's capacity is zero, so that it passes through the residual connection
    only. Whether a token is dropped never depends on later tokens of its sentence. In evaluation, capacity is counted
    in each sentence separately, so that sentences do not depend on each other.

    In training, the layer adds balance_weight * balance_loss + z_weight * z_loss to the loss, times `auxiliary_scale`.
    Set the scale before the backward pass: 1 if the loss is a mean over tokens, the number of tokens if it is a sum.
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
        self.padding: Tensor | None = None  # (B, T), to set before each pass
        self.auxiliary_scale: Tensor | float = 0.0
        self.statistics: list[Tensor] = []  # of every pass in training since `reset`

    def reset(self) -> None:
        """Clear statistics and scale before a new batch."""
        self.statistics, self.auxiliary_scale = [], 0.0

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, width) -> (T, B, width)."""
        logits = self.router(x, self.jitter if self.training else 0.0)
        p = logits.softmax(-1)
        assigned = assign(p, self.padding)
        capacity = self.capacity if self.training else self.eval_capacity
        accepted = within_capacity(assigned, capacity, by_sentence=not self.training)
        if not self.training:
            return self._dense(x, p, accepted) if torch.is_grad_enabled() else self._dispatch(x, p, accepted)
        output = self._dispatch(x, p, accepted)
        balance = balance_loss(p, assigned)
        self.statistics.append(_statistics(p, assigned, accepted, balance))
        auxiliary = self.balance_weight * balance
        if self.z_weight:
            auxiliary = auxiliary + self.z_weight * z_loss(logits, assigned)
        output_with_loss: Tensor = _AddAuxiliaryLoss.apply(output, auxiliary, self)  # type: ignore[no-untyped-call]
        return output_with_loss

    def _dispatch(self, x: Tensor, p: Tensor, accepted: Tensor) -> Tensor:
        """Call each expert once, on its tokens. An expert without tokens still gets a gradient."""
        flat, accepted = x.reshape(-1, x.shape[-1]), accepted.flatten(0, 1)
        expert, token = accepted.T.nonzero(as_tuple=True)
        inputs = flat.index_select(0, token).split(accepted.sum(0).tolist())
        outputs = torch.cat([module(part) for module, part in zip(self.experts, inputs, strict=True)])
        outputs = outputs * p.flatten(0, 1)[token, expert, None].to(outputs.dtype)
        return outputs.new_zeros(len(flat), outputs.shape[-1]).index_copy(0, token, outputs).view(*x.shape[:-1], -1)

    def _dense(self, x: Tensor, p: Tensor, accepted: Tensor) -> Tensor:
        """The result of `_dispatch`, from every expert on every token.

        Sentences keep an axis of their own, which `per_sample.py` needs: evaluation with autograd measures gradients.
        """
        scales = (p * accepted).unbind(-1)
        outputs = [module(x) for module in self.experts]
        return torch.stack([y * scale[..., None].to(y.dtype) for y, scale in zip(outputs, scales, strict=True)]).sum(0)


@torch.no_grad()
def _statistics(p: Tensor, assigned: Tensor, accepted: Tensor, balance: Tensor) -> Tensor:
    """The busiest expert's share, the share of dropped tokens, the router's mean entropy in bits, the balance loss."""
    tokens = assigned.sum().clamp_min(1)
    entropy = (torch.special.entr(p).sum(-1) * assigned.any(-1)).sum() / tokens / math.log(2)
    return torch.stack([assigned.sum((0, 1)).max() / tokens, 1 - accepted.sum() / tokens, entropy, balance]).detach()
