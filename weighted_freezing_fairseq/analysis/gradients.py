"""Gradients of a trained model on random batches of its data: what importance by gradients is measured with.

Each is of the mean negative log-likelihood per token, or label, of one batch, without dropout, in float32; the batches
depend on the data and the seed alone. Left out on purpose: what is made of a gradient, which is the caller's, and
gradients of single sentences (`fisher.py`).
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
    """The batches on which importance by gradients is measured, and the seed of all that is random."""

    data: Path | None
    split: str
    batches: int
    max_tokens: int
    seed: int
    device: str

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result."""
        return {name: getattr(self, name) for name in ("split", "batches", "max_tokens", "seed")}


def draw_batches(trained: Any, sample: Sample) -> list[list[int]]:
    """Random batches of sentences of like lengths, as many as asked for or as the split has."""
    ids, _ = trained.draw(len(trained.dataset), sample.seed)
    batches = fisher.batches(ids, trained.dataset.num_tokens, sample.max_tokens)
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(sample.seed))[: sample.batches]
    say(f"measuring importance on {len(order)} of the {len(batches)} batches of {sample.split}")
    return [batches[place] for place in order]


def of_batches(
    trained: Any, parameters: Mapping[str, Tensor], batches: Sequence[Sequence[int]]
) -> Iterator[list[Tensor | None]]:
    """For each of `batches`, as it is measured: the gradient of each parameter, None where it has no part in the loss.

    One backward pass of a batch serves whatever is made of it.
    """
    # DEVIATION: Xu et al. appendix B does not say which loss its 100 batches have, whether dropout is on, nor whether
    # their gradients are summed before or after the absolute value; here the loss is the mean negative log-likelihood
    # per token, dropout is off, each batch is scored by itself, and the scores are averaged.
    with fisher.without_dropout(trained.model):
        for ids in Progress(batches, unit="batch"):
            pairs = trained.gold(ids)
            loss = -trained.log_likelihoods(pairs).sum() / sum(len(pair["target"]) for pair in pairs)
            yield list(torch.autograd.grad(loss, list(parameters.values()), allow_unused=True))
