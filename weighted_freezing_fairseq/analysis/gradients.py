"""Gradients of a trained model on random batches of its data, from which importance is computed.

The loss is the mean negative log-likelihood per token or label of a batch, without dropout, in float32. The batches
depend only on the data and the seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import fisher
from ..workspace.progress import Progress, say


@dataclass(frozen=True)
class Sample:
    """The batches on which gradients are computed, and the seed of everything random."""

    data: Path | None
    split: str
    batches: int
    max_tokens: int
    seed: int
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that determine a result."""
        return {name: getattr(self, name) for name in ("split", "batches", "max_tokens", "seed")}


def draw_batches(trained: Any, sample: Sample) -> list[list[int]]:
    """`sample.batches` random batches of sentences of similar length, or all if the split has fewer."""
    ids, _ = trained.draw(len(trained.dataset), sample.seed)
    batches = fisher.batches(ids, trained.dataset.num_tokens, sample.max_tokens)
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(sample.seed))[: sample.batches]
    say(f"measuring importance on {len(order)} of the {len(batches)} batches of {sample.split}")
    return [batches[index] for index in order]


def gradients_of(
    trained: Any, parameters: Mapping[str, Tensor], batches: Sequence[Sequence[int]]
) -> Iterator[list[Tensor | None]]:
    """Yield the gradients of all parameters for each batch; None for a parameter that the loss does not depend on."""
    # DEVIATION: Xu et al. appendix B does not say which loss its 100 batches have, whether dropout is on, nor whether
    # their gradients are summed before or after the absolute value; here the loss is the mean negative log-likelihood
    # per token, dropout is off, each batch is scored by itself, and the scores are averaged.
    with fisher.without_dropout(trained.model):
        for ids in Progress(batches, unit="batch"):
            pairs = trained.gold(ids)
            loss = -trained.log_likelihoods(pairs).sum() / sum(len(pair["target"]) for pair in pairs)
            yield list(torch.autograd.grad(loss, list(parameters.values()), allow_unused=True))
