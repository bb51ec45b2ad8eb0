"""The divergences of the criterion rows, as in the formulas of their papers.

They take log-probabilities, because a softmax followed by a logarithm underflows where two scores are 100 apart. They
hold several copies of their input; `fused.py` computes the same over a large vocabulary in chunks of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def x_divergence(log_p: Tensor) -> Tensor:
    """X-divergence of K distributions: 1/K sum_k KL(p_k || m) + KL(m || p_k), m the mean (Xu et al. 2022, eq. 8).

    The two logarithms of m cancel, because sum_k (p_k - m) = 0. The rest, `1/K sum_k <p_k, log p_k - mean_j log p_j>`,
    is the mean of KL(p_i || p_j) over all K^2 ordered pairs.

    Args:
        log_p: log-probabilities, (K, ..., V). For a large V, `passes_loss` needs less memory.

    Returns:
        The divergence of each position, (...), 0 where all K distributions are equal.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import x_divergence
        >>> x_divergence(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log())  # mean of 0, 0 and twice 0.8 log 9
        tensor(0.8789)
    """
    # DEVIATION: Li et al. eq. 3 prints sums over k where Xu et al. eq. 8 has means. The means are used: a sum of
    # probabilities is not a distribution, and the effect of alpha would depend on K.
    return (log_p.exp() * (log_p - log_p.mean(0))).sum(-1).mean(0)


def js_divergence(log_p: Tensor) -> Tensor:
    """Jensen-Shannon divergence of K distributions: 1/K sum_k KL(p_k || m), m the mean.

    Args:
        log_p: log-probabilities, (K, ..., V).

    Returns:
        The divergence of each position, (...), between 0 and log K.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import js_divergence
        >>> js_divergence(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log())
        tensor(0.3681)
    """
    log_m = log_p.logsumexp(0) - math.log(len(log_p))
    return (log_p.exp() * (log_p - log_m)).sum(-1).mean(0)


def mean_squared(outputs: Tensor) -> Tensor:
    """1/K sum_k ||y_k - mean_j y_j||^2 of K outputs (Xu et al. 2022, eq. 9); (K, ..., d) -> (...)."""
    return (outputs - outputs.mean(0)).square().sum(-1).mean(0)


# The divergences of `intra_distillation`, as functions of log-probabilities.
DIVERGENCES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"x": x_divergence, "js": js_divergence, "mse": lambda log_p: mean_squared(log_p.exp())}
)


def teacher_divergence(log_p: Tensor, teacher: Tensor) -> Tensor:
    """KL(q || p) for a teacher's probabilities q (Xu et al. 2022, eq. 3); (..., V) -> (...)."""
    from torch.special import entr

    entropy: Tensor = entr(teacher)
    return -(entropy + teacher * log_p).sum(-1)
