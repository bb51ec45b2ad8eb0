"""Schedules of the strength of intra-distillation and of the sparsity of pruning, as functions of the update."""

import math


def adaptive_alpha(update: int, updates: int, alpha: float, p: float, q: float) -> float:
    """alpha' = alpha * (p x / N)^gamma up to update N / p, then alpha (Xu et al. 2022, eq. 11 and 12).

    gamma = log_(p/q)(1 / alpha), so that alpha' is 1 at N / q and alpha from N / p on. It grows slowly at first,
    because the large divergence between passes of an untrained model slows down learning.

    Args:
        update: x, counted from 0.
        updates: N, the length of the training.
        alpha: the last strength; alpha <= 1 is constant, as in the paper.
        p: alpha' is alpha from N / p on.
        q: alpha' is 1 at N / q; q > p > 0.

    Returns:
        alpha', the strength of the divergence in this update.

    Examples:
        >>> from weighted_freezing_fairseq import adaptive_alpha
        >>> [round(adaptive_alpha(x, 1000, 5.0, p=5, q=10), 3) for x in (0, 50, 100, 200, 900)]
        [0.0, 0.2, 1.0, 5.0, 5.0]
    """
    if alpha <= 1 or update * p >= updates:
        return alpha
    gamma = math.log(1 / alpha) / math.log(p / q)
    return float(alpha * (p * update / updates) ** gamma)


PRUNE_SCHEDULES = ["uniform", "geometric", "cubic"]


def sparsity(step: int, amount: float, target: float, schedule: str) -> float:
    """The fraction of the weights that is pruned after pruning step `step`; `target` from step `pruning_steps` on.

    uniform: amount * step. geometric: 1 - (1 - amount)^step, a constant fraction of the remaining weights.
    cubic: target (1 - (1 - step / n)^3), with the n steps of uniform (Zhu and Gupta 2017, eq. 1).

    >>> from weighted_freezing_fairseq.core.schedules import sparsity
    >>> [round(sparsity(k, 0.1, 0.35, "uniform"), 3) for k in range(5)]
    [0.0, 0.1, 0.2, 0.3, 0.35]
    """
    # DEVIATION: O'Neill et al. section 4 speaks of pruning 10 % of the parameters at each step, but the 31 % and 28 %
    # that remain in Table 1 and Figure 8 are 0.9^11 and 0.9^12: 10 % of what is left. That is `geometric`;
    # the default is what the sentence says.
    steps = pruning_steps(amount, target, schedule)
    if step >= steps:
        return target
    if schedule == "cubic":
        return target * (1 - (1 - step / steps) ** 3)
    return amount * step if schedule == "uniform" else 1 - (1 - amount) ** step


def pruning_steps(amount: float, target: float, schedule: str) -> int:
    """The number of pruning steps until `target` is reached."""
    exact = math.log1p(-target) / math.log1p(-amount) if schedule == "geometric" else target / amount
    return math.ceil(round(exact, 9))
