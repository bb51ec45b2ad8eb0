"""Strengths that change while training: plain functions of the number of the update."""

import math


def adaptive_alpha(update: int, updates: int, alpha: float, p: float, q: float) -> float:
    """alpha' = alpha * (p x / N)^gamma up to update N / p, then alpha (Xu et al. 2022, eq. 11 and 12).

    x: `update`, counted from 0. N: `updates`, of the whole training. gamma = log_(p/q)(1 / alpha), so that alpha' is 1
    at N / q and alpha from N / p on: slow at first, because the divergence of an untrained model's passes holds it
    back. q > p > 0; alpha <= 1 is constant, as in the paper.

    >>> [round(adaptive_alpha(x, 1000, 5.0, p=5, q=10), 3) for x in (0, 50, 100, 200, 900)]
    [0.0, 0.2, 1.0, 5.0, 5.0]
    """
    if alpha <= 1 or update * p >= updates:
        return alpha
    gamma = math.log(1 / alpha) / math.log(p / q)
    return float(alpha * (p * update / updates) ** gamma)
