"""Importance I of a weight: the three metrics of Li et al. 2023, section 2.1.

Each is an elementwise function of a weight and its gradient. Averages over time belong to the rows (`rules.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Metric = Callable[["Tensor", "Tensor"], "Tensor"]


def magnitude(theta: Tensor, grad: Tensor) -> Tensor:
    """I = |theta|. The cheapest metric, and the one that Li et al. recommend during training (section 4.5)."""
    return theta.abs()


def loss_preserving(theta: Tensor, grad: Tensor) -> Tensor:
    """I = |theta * grad|, the first-order change of the loss when theta is set to zero (Li et al. eq. 1).

    Not for a converged model, where the gradient is noise around zero.
    """
    return (theta * grad).abs()


def fisher(theta: Tensor, grad: Tensor) -> Tensor:
    """I = grad ** 2, the diagonal of the empirical Fisher information when `grad` belongs to one sample.

    With the gradient of a batch, as in an optimizer step, it is a noisy approximation: opposite gradients of two
    samples cancel before they are squared.
    """
    return grad * grad


METRICS: Mapping[str, Metric] = MappingProxyType(
    {"magnitude": magnitude, "loss-preserving": loss_preserving, "fisher": fisher}
)
"""The importance metrics by name, each a function of a weight and its gradient."""
