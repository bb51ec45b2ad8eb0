"""Which weights to prune: the scores of the methods of O'Neill et al. 2022 (section 4) and others, and the selection.

The weights with the lowest scores are pruned, in each row, each layer or all layers together, and stay pruned. In
masks, 1 means that a weight is kept. `schedules.py` decides how many weights are pruned, `pruner.py` keeps them at
zero. The module imports without torch, since `--help` prints the methods.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from . import importance

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Averages:
    """Exponential moving averages of the importance I = |theta * grad| of each weight, and of its uncertainty."""

    importance: Tensor
    uncertainty: Tensor

    def update_(self, layer: Layer, scale: float = 1.0) -> None:
        """I_bar <- beta_1 I_bar + (1 - beta_1) I, then U_bar <- beta_2 U_bar + (1 - beta_2) |I - I_bar|.

        `scale` is a factor of the gradient that I does not have.
        """
        latest = importance.loss_preserving(_float32(layer.weight), _grad(layer)) / scale
        self.importance.lerp_(latest, 1 - BETAS[0])
        self.uncertainty.lerp_((latest - self.importance).abs_(), 1 - BETAS[1])


BETAS = (0.85, 0.95)  # of Zhang et al., in the commands that their code documents


@dataclass(frozen=True)
class Layer:
    """A weight matrix (units out, units in), and the other inputs of a score."""

    name: str
    weight: Tensor
    grad: Tensor | None = None
    gate: Tensor | None = None  # log alpha of its hard-concrete gates (`gates.py`)
    input_norms: Tensor | None = None  # of each unit in (`input_norms.py`)
    averages: Averages | None = None


@dataclass(frozen=True)
class Network:
    """All layers by name, and the seed and pruning step of random scores."""

    layers: Mapping[str, Layer]
    seed: int = 1
    step: int = 0


Score = Callable[[Layer, Network], "Tensor"]


def random(layer: Layer, network: Network) -> Tensor:
    """Uniform random numbers: the baseline of all other scores."""
    from .masks import stream_key, uniform

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
    return importance.loss_preserving(_float32(layer.weight), _grad(layer))


def fisher(layer: Layer, network: Network) -> Tensor:
    """grad ** 2 of a batch, the diagonal of its Fisher information."""
    return importance.fisher(layer.weight, _grad(layer))


def lamp(layer: Layer, network: Network) -> Tensor:
    """theta_u^2 / sum over v with |theta_v| >= |theta_u| of theta_v^2 (Lee et al. 2021, eq. 4).

    Of equal weights, the first counts as the largest. The largest weight of each layer has score 1: no layer loses its
    last weight while another layer has more than one.
    """
    order = layer.weight.reshape(-1).abs().argsort(descending=True, stable=True)
    squares = layer.weight.reshape(-1)[order].double().square()
    scores = squares.new_empty(squares.shape)
    scores[order] = squares / squares.cumsum(0).clamp_min(sys.float_info.min)
    return scores.view(layer.weight.shape)


def lookahead(layer: Layer, network: Network) -> Tensor:
    """|theta| times the norms of the neighbouring weights on its path (Park et al. 2020, eq. 5).

    theta joins a unit below to a unit above. The score is the change of the product of the layer and its neighbour when
    theta is set to zero. Without a neighbour the factor is 1.
    """
    # DEVIATION: Park et al. chain the layers of a feed-forward network; residual connections, layer norms and the
    # softmax interrupt the chain in a Transformer. Neighbours are layers that are multiplied without these in between:
    # the two layers of a feed-forward block; values and output of an attention; its queries and keys, unit by unit.
    scores = _float32(layer.weight).abs()
    block, _, name = layer.name.removesuffix(".weight").rpartition(".")
    neighbour_name, position = _NEIGHBOURS.get(name, ("", "beside"))
    neighbour = network.layers.get(f"{block}.{neighbour_name}.weight")
    if neighbour is None:
        return scores
    norms: Tensor = _float32(neighbour.weight).norm(dim=0 if position == "above" else 1)
    return scores * (norms[None, :] if position == "below" else norms[:, None])


# The neighbour of each layer. Its norms multiply the rows of the layer (above, beside) or the columns (below).
_NEIGHBOURS: Mapping[str, tuple[str, Literal["above", "below", "beside"]]] = {
    "fc1": ("fc2", "above"),
    "fc2": ("fc1", "below"),
    "v_proj": ("out_proj", "above"),
    "out_proj": ("v_proj", "below"),
    "q_proj": ("k_proj", "beside"),
    "k_proj": ("q_proj", "beside"),
}


def gates(layer: Layer, network: Network) -> Tensor:
    """sigmoid(log alpha) of the gate of each weight (Louizos et al. 2018)."""
    assert layer.gate is not None
    return _float32(layer.gate).sigmoid()


def wanda(layer: Layer, network: Network) -> Tensor:
    """|theta_ij| * ||X_j||_2, with X_j the values of input j over a batch or a calibration set (Sun M. et al. 2023)."""
    assert layer.input_norms is not None
    return _float32(layer.weight).abs() * layer.input_norms


def platon(layer: Layer, network: Network) -> Tensor:
    """I_bar * U_bar, the averages of importance and of its uncertainty over all updates (Zhang et al. 2022)."""
    # DEVIATION: the code of Zhang et al. takes the mean of I over ten updates before each step of its averages, with
    # theta after the optimizer's step, and a pruned weight can come back. Here each update is a step of the averages,
    # with theta of its own passes, and a pruned weight stays so. Both averages start at zero and are not corrected: the
    # correction would be the same factor for all weights.
    assert layer.averages is not None
    return layer.averages.importance * layer.averages.uncertainty


def _float32(tensor: Tensor) -> Tensor:
    """In float32 at least: products of small numbers underflow in half precision."""
    import torch

    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _grad(layer: Layer) -> Tensor:
    """The gradient of a layer; zero for a weight that the loss does not depend on."""
    return _float32(layer.weight.new_zeros(layer.weight.shape) if layer.grad is None else layer.grad)


@dataclass(frozen=True)
class Method:
    """A row of `METHODS`."""

    name: str
    score: Score
    compared: Literal["row", "layer", "network"]  # within which scores are compared; each loses the same fraction
    text: str  # which weights are pruned first
    source: str
    needs: Literal["", "gradient", "inputs", "updates"] = ""
    penalty: Literal["", "l0", "l2"] = ""  # added to the loss in training


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("random", random, "layer", "any", "O'Neill et al. 2022, section 4"),
            Method("random_global", random, "network", "any", "O'Neill et al. 2022, section 4"),
            Method("magnitude", magnitude, "layer", "smallest abs(theta)", "MBP: Karnin 1990"),
            Method("magnitude_global", magnitude, "network", "smallest abs(theta)", "Global-MBP: Karnin 1990"),
            Method("l2", magnitude, "layer", "smallest abs(theta)", "L2-MBP: Han et al. 2015", penalty="l2"),
            Method("l0", gates, "layer", "most closed gate", "Louizos et al. 2018", penalty="l0"),
            Method("gradient", gradient, "layer", "smallest abs(grad)", "Sun et al. 2017", "gradient"),
            Method("lookahead", lookahead, "layer", "smallest path through neighbours", "Park et al. 2020, eq. 5"),
            Method("lamp", lamp, "network", "smallest share of its layer's larger weights", "Lee et al. 2021, eq. 4"),
            Method("sensitivity", sensitivity, "network", "smallest abs(theta * grad)", "Xu et al. 2022, section 5.1",
                   "gradient"),
            Method("fisher", fisher, "network", "smallest grad ** 2", "Li et al. 2023, section 2.1", "gradient"),
            Method("wanda", wanda, "row", "smallest abs(theta) * norm of its input",
                   "Sun M. et al. 2023, arXiv:2306.11695", "inputs"),
            Method("platon", platon, "network", "smallest average of abs(theta * grad), times its uncertainty",
                   "Zhang et al. 2022, arXiv:2206.12562", "updates"),
        )
    }
)  # fmt: skip
_NEEDS = {"": "", "gradient": "gradient", "inputs": "inputs of the layers", "updates": "gradients of all updates"}
# The methods that need no training.
ONCE: Mapping[str, Method] = MappingProxyType(
    {name: method for name, method in METHODS.items() if not method.penalty and method.needs != "updates"}
)


def scores_of(method: Method, layers: Sequence[Layer], seed: int = 1, step: int = 0) -> dict[str, Tensor]:
    """The scores of all weights by the names of their layers."""
    network = Network({layer.name: layer for layer in layers}, seed, step)
    return {layer.name: method.score(layer, network) for layer in layers}


def select(
    method: Method, scores: Mapping[str, Tensor], sparsity: float, previous: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Masks with exactly round(sparsity * n) weights pruned, of each row, each layer or all layers (`compared`).

    Of equal scores the first are kept. Weights that the masks `previous` prune stay pruned, and count. Warns of a layer
    that loses its last weight.
    """
    import torch

    from .masks import largest

    if previous is not None:  # pruned weights rank below kept ones, even below kept weights of score 0
        smallest = torch.finfo(torch.float32).tiny
        scores = {name: score.float().clamp_min(smallest).mul(previous[name]) for name, score in scores.items()}
    masks: dict[str, Tensor] = {}
    if method.compared == "row":
        masks = {n: _mask_of_rows(s, sparsity, None if previous is None else previous[n]) for n, s in scores.items()}
    else:
        for names in [list(scores)] if method.compared == "network" else [[name] for name in scores]:
            count = sum(scores[name].numel() for name in names)
            pruned = 0 if previous is None else sum(int((~previous[name]).sum()) for name in names)
            kept = largest([scores[name] for name in names], count - max(round(sparsity * count), pruned))
            masks |= dict(zip(names, kept, strict=True))
    for name, mask in masks.items():
        if mask.numel() and not bool(mask.any()) and (previous is None or bool(previous[name].any())):
            logger.warning("pruning by %s has emptied %s: all of its weights are zero", method.name, name)
    return masks


def _mask_of_rows(scores: Tensor, sparsity: float, previous: Tensor | None) -> Tensor:
    """The mask of exactly round(sparsity * n) weights pruned in each row of n, or as many as are pruned already."""
    import torch

    count = scores.shape[1]
    pruned = torch.full_like(scores[:, :1], round(sparsity * count), dtype=torch.int64)
    if previous is not None:
        pruned = pruned.maximum((~previous).sum(1, keepdim=True))
    order = scores.argsort(dim=1, descending=True, stable=True)
    kept = torch.arange(count, device=scores.device) < count - pruned
    return torch.zeros_like(kept).scatter_(1, order, kept)


def as_markdown() -> str:
    """The table of docs/prune.md."""
    lines = ["| method | goes first | chosen from | needs | source |", "|---|---|---|---|---|"]
    for m in METHODS.values():
        needs = _NEEDS[m.needs] + (f"an {m.penalty.upper()} penalty in training" if m.penalty else "")
        scope = {"row": "each row", "layer": "each layer", "network": "all layers"}[m.compared]
        lines.append(f"| `{m.name}` | {m.text} | {scope} | {needs or '-'} | {m.source} |")
    return "\n".join(lines)
