"""Which weights to prune: a score for each method of O'Neill et al. 2021 (section 4), one traversal for all.

The least important weights of each layer, or of all layers together, are pruned; what is pruned stays so. Masks are 1
where a weight is kept. Left out on purpose: when pruning happens (`schedules.py`) and how weights are kept at zero
while training goes on (`pruner.py`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from . import importance
from .masks import largest, stream_key, uniform

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """One weight matrix (units out, units in) with what a score may read beside it."""

    name: str
    weight: Tensor
    grad: Tensor | None = None
    gate: Tensor | None = None  # log alpha of its hard-concrete gates (`gates.py`)


@dataclass(frozen=True)
class Network:
    """All layers by name, and what names a stream of random numbers."""

    layers: Mapping[str, Layer]
    seed: int = 1
    step: int = 0


Score = Callable[[Layer, Network], Tensor]


def random(layer: Layer, network: Network) -> Tensor:
    """Uniform random numbers: what every other score should beat."""
    key = stream_key(network.seed, network.step, f"prune {layer.name}")
    return uniform(layer.weight.numel(), key, device=layer.weight.device).view(layer.weight.shape)


def magnitude(layer: Layer, network: Network) -> Tensor:
    """|theta| (Karnin 1990; MBP)."""
    return layer.weight.abs()


def gradient(layer: Layer, network: Network) -> Tensor:
    """|grad|, accumulated over a batch (Sun et al. 2017)."""
    return _grad(layer).abs()


def sensitivity(layer: Layer, network: Network) -> Tensor:
    """|theta * grad|, the change of the loss to first order when theta is set to zero (Xu et al. 2022, eq. 1)."""
    return importance.loss_preserving(_exact(layer.weight), _grad(layer))


def fisher(layer: Layer, network: Network) -> Tensor:
    """grad ** 2 of a batch, the diagonal of its Fisher information."""
    return importance.fisher(layer.weight, _grad(layer))


def lamp(layer: Layer, network: Network) -> Tensor:
    """theta_u^2 / sum over v with |theta_v| >= |theta_u| of theta_v^2 (Lee et al. 2020, eq. 4).

    Among equals, those that come first are counted as larger. The largest of each layer has score 1, so that pruning by
    the scores of all layers together empties none before every other is down to one weight.
    """
    order = layer.weight.reshape(-1).abs().argsort(descending=True, stable=True)
    squares = layer.weight.reshape(-1)[order].double().square()
    scores = torch.empty_like(squares)
    scores[order] = squares / squares.cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return scores.view(layer.weight.shape)


def lookahead(layer: Layer, network: Network) -> Tensor:
    """|theta| times the norms of the weights next to it on its path (Park et al. 2019, eq. 5).

    theta joins unit j below to unit k above: the score is how much the product of the layer and its neighbour changes
    when theta is set to zero. Where no neighbour is, its factor is 1.
    """
    # DEVIATION: Park et al. chain the layers of a feed-forward network; a Transformer's are cut apart by residual sums,
    # layer norms and the softmax. The pairs that are multiplied as they stand are: the two layers of a feed-forward
    # block; values and output of an attention; its queries and keys, unit by unit.
    scores = _exact(layer.weight).abs()
    prefix, _, own = layer.name.removesuffix(".weight").rpartition(".")
    other, where = _NEIGHBOURS.get(own, ("", "beside"))
    neighbour = network.layers.get(f"{prefix}.{other}.weight")
    if neighbour is None:
        return scores
    norms: Tensor = _exact(neighbour.weight).norm(dim=0 if where == "out of" else 1)
    return scores * (norms[None, :] if where == "into" else norms[:, None])


# name of a layer -> its neighbour, whose weights run: "out of" each of its units above, "into" each of its units below,
# or "beside" each of its units above
_NEIGHBOURS: Mapping[str, tuple[str, Literal["out of", "into", "beside"]]] = {
    "fc1": ("fc2", "out of"),
    "fc2": ("fc1", "into"),
    "v_proj": ("out_proj", "out of"),
    "out_proj": ("v_proj", "into"),
    "q_proj": ("k_proj", "beside"),
    "k_proj": ("q_proj", "beside"),
}


def gates(layer: Layer, network: Network) -> Tensor:
    """How open the gate of each weight is: the logistic function of log alpha, which keeps their order."""
    assert layer.gate is not None
    return _exact(layer.gate).sigmoid()


def _exact(tensor: Tensor) -> Tensor:
    """In float32 at least: half precision cannot hold a product of small numbers."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _grad(layer: Layer) -> Tensor:
    """The gradient of a layer; a weight that the batch did not touch has none, which is zero."""
    return _exact(torch.zeros_like(layer.weight) if layer.grad is None else layer.grad)


@dataclass(frozen=True)
class Method:
    """One way to choose what is pruned."""

    name: str
    score: Score
    pooled: bool  # the least of all layers together; else the same share of each
    text: str
    source: str
    needs: Literal["", "gradient"] = ""
    penalty: Literal["", "l0", "l2"] = ""  # what its training adds to the loss


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("random", random, False, "any", "O'Neill et al. 2021, section 4"),
            Method("random_global", random, True, "any", "O'Neill et al. 2021, section 4"),
            Method("magnitude", magnitude, False, "smallest abs(theta)", "MBP: Karnin 1990"),
            Method("magnitude_global", magnitude, True, "smallest abs(theta)", "Global-MBP: Karnin 1990"),
            Method("l2", magnitude, False, "smallest abs(theta)", "L2-MBP: Han et al. 2015", penalty="l2"),
            Method("l0", gates, False, "most closed gate", "Louizos et al. 2018", penalty="l0"),
            Method("gradient", gradient, False, "smallest abs(grad)", "Sun et al. 2017", "gradient"),
            Method("lookahead", lookahead, False, "smallest path through neighbours", "Park et al. 2019, eq. 5"),
            Method("lamp", lamp, True, "smallest share of its layer's larger weights", "Lee et al. 2020, eq. 4"),
            Method("sensitivity", sensitivity, True, "smallest abs(theta * grad)", "Xu et al. 2022, section 5.1",
                   "gradient"),
            Method("fisher", fisher, True, "smallest grad ** 2", "Li et al. 2023, section 2.1", "gradient"),
        )
    }
)  # fmt: skip


def scores_of(method: Method, layers: Sequence[Layer], seed: int = 1, step: int = 0) -> dict[str, Tensor]:
    """The score of every weight, by the name of its layer."""
    network = Network({layer.name: layer for layer in layers}, seed, step)
    return {layer.name: method.score(layer, network) for layer in layers}


def select(
    method: Method, scores: Mapping[str, Tensor], sparsity: float, masks: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Masks with exactly round(sparsity * n) weights pruned, of each layer or (pooled) of all; 1 = is kept.

    Of equal scores the first are kept. What `masks` has pruned stays so, and counts. A layer that loses its last weight
    is named in a warning.
    """
    ranked = dict(scores)
    if masks is not None:
        # Whatever is pruned ranks below whatever is kept, also where the score of a kept weight is zero.
        floor = torch.finfo(torch.float32).tiny
        ranked = {name: score.float().clamp_min(floor).mul(masks[name]) for name, score in scores.items()}
    names = list(ranked)
    found: dict[str, Tensor] = {}
    for pool in [names] if method.pooled else [[name] for name in names]:
        count = sum(ranked[name].numel() for name in pool)
        pruned = 0 if masks is None else sum(masks[name].numel() - int(masks[name].sum()) for name in pool)
        kept = largest([ranked[name] for name in pool], count - max(round(sparsity * count), pruned))
        found |= dict(zip(pool, kept, strict=True))
    for name, mask in found.items():
        if mask.numel() and not bool(mask.any()) and (masks is None or bool(masks[name].any())):
            logger.warning("pruning by %s has emptied %s: nothing passes through it any more", method.name, name)
    return found


def as_markdown() -> str:
    """The table of the README."""
    lines = ["| method | goes first | chosen from | needs | source |", "|---|---|---|---|---|"]
    for m in METHODS.values():
        needs = ", ".join(filter(None, [m.needs, f"an {m.penalty.upper()} penalty in training" if m.penalty else ""]))
        scope = "all layers" if m.pooled else "each layer"
        lines.append(f"| `{m.name}` | {m.text} | {scope} | {needs or '-'} | {m.source} |")
    return "\n".join(lines)
