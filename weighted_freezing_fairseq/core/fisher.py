"""Diagonal Fisher information from the gradients of single samples, a whole batch at a time: FISH Mask, eq. 3.

    F_i = 1/N sum_n (d log p(y_n | x_n) / d theta_i) ** 2

Gold y_n give the empirical Fisher, y_n drawn from the model the standard one. One forward and one backward pass serve a
batch: the input of a layer and the gradient of its output give the weight gradient of every sample separately, and the
uses of one parameter (tied embeddings) are added before they are squared. Left out on purpose: what a sample is and how
likely it is, which the caller's function says, and masks (`masks.py`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from . import masks
from .per_sample import Site, Watch, add_squares_
from .scope import catalogue

Item = TypeVar("Item")
# The log-likelihood of each of some samples, from one forward pass: (B,).
LogLikelihoods = Callable[[Sequence[Item]], Tensor]
Totals = dict[str, Tensor]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are measured, by their names in `scope.catalogue`: tied weights once."""
    return {entry.name: parameter for entry, parameter in catalogue(model) if parameter.requires_grad}


def zeros(parameters: Mapping[str, Tensor]) -> Totals:
    """Sums to begin with, in float32."""
    return {name: torch.zeros_like(p, dtype=torch.float32).detach() for name, p in parameters.items()}


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module is in the mode that it was in, which need not be its parent's."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def diagonal(
    model: nn.Module,
    log_likelihoods: LogLikelihoods[Item],
    batches: Iterable[Sequence[Item]],
    memory: int = 512 << 20,
) -> Totals:
    """The Fisher information of every trainable parameter: the mean over samples of their squared gradients.

    `log_likelihoods(batch)` gives log p(y_n | x_n), shape (B,), of the samples of a batch. `memory` bounds the bytes of
    per-sample gradients. Dropout is off while it measures; `.grad` is left alone.

    Not for a layer that mixes samples (batch normalisation in training): a sample then has no gradient of its own.
    """
    batches = [list(batch) for batch in batches]
    probe = [item for batch in batches for item in batch][:5]
    squares = SquaredGradients(model, log_likelihoods, probe, memory)
    totals = zeros(trainable(model))
    for batch in batches:
        squares.add_(totals, batch)
    count = sum(map(len, batches))
    return {name: total / count for name, total in totals.items()}


def add_squared_sum_(
    totals: Totals, parameters: Mapping[str, Tensor], log_likelihoods: LogLikelihoods[Item], items: Sequence[Item]
) -> None:
    """totals += (sum over `items` of d log p / d theta) ** 2: one ordinary gradient, squared.

    For one item that is its term of the Fisher information. For several it is a cheap stand-in, with a term
    g_m * g_n of every two samples beside g_n ** 2: divided by the number of samples, it is the Fisher information only
    as far as these terms cancel, and it depends on the size of the batch.
    """
    total = log_likelihoods(items).sum()
    for name, grad in _gradients(total, parameters).items():
        totals[name].addcmul_(grad, grad)


def add_one_by_one_(
    totals: Totals, parameters: Mapping[str, Tensor], log_likelihoods: LogLikelihoods[Item], items: Sequence[Item]
) -> None:
    """The slow reference of `SquaredGradients`: a forward and a backward pass for every sample."""
    for item in items:
        add_squared_sum_(totals, parameters, log_likelihoods, [item])


def _gradients(total: Tensor, parameters: Mapping[str, Tensor]) -> Totals:
    """The gradients that exist: a parameter that `total` does not depend on has none."""
    if not parameters or not total.requires_grad:
        return {}
    grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {
        name: (grad.to_dense() if grad.is_sparse else grad).float()
        for name, grad in zip(parameters, grads, strict=True)
        if grad is not None
    }


class SquaredGradients(Generic[Item]):
    """Sums over samples of their squared gradients, a batch at a time.

    What a layer's input looks like is found out on `probe`, a few samples of unlike lengths: which axis holds the
    samples (the one that grows with their number), and whether every parameter's squares agree with those of
    `add_one_by_one_`. Parameters of other layers do not, nor do those that several samples share a use of; their names
    are in `looped`, and they are measured by that slow reference, exactly.
    """

    def __init__(
        self,
        model: nn.Module,
        log_likelihoods: LogLikelihoods[Item],
        probe: Sequence[Item],
        memory: int = 512 << 20,
    ) -> None:
        self.model, self.log_likelihoods, self.memory = model, log_likelihoods, memory
        self.watched: dict[str, Tensor] = dict(trainable(model))
        self.others: dict[str, Tensor] = {}
        with without_dropout(model):
            self.axes = self._find_axes(probe)
            for name in self._wrong(probe):
                self.others[name] = self.watched.pop(name)

    @property
    def looped(self) -> list[str]:
        """Parameters that are measured one sample at a time."""
        return list(self.others)

    def add_(self, totals: Totals, items: Sequence[Item]) -> None:
        """totals += sum over `items` of (d log p / d theta) ** 2."""
        with without_dropout(self.model):
            self._add_watched_(totals, items)
            if self.others:
                add_one_by_one_(totals, self.others, self.log_likelihoods, items)

    def _add_watched_(self, totals: Totals, items: Sequence[Item]) -> set[str]:
        """The watched part of `add_`; the names of the parameters that were seen."""
        with Watch(self.watched, self.others.values(), self.axes) as watch:
            total = self.log_likelihoods(items).sum()
        watch.backward(total, lambda name, uses: add_squares_(totals[name], uses, len(items), self.memory))
        return {name for name, _ in watch.shapes}

    def _find_axes(self, probe: Sequence[Item]) -> dict[Site, int]:
        """The axis of the samples at every site; parameters with a site where it is not clear are watched no more."""
        axes: dict[Site, set[int]] = {}
        for count in range(min(2, len(probe)), len(probe) + 1):
            with Watch(self.watched) as watch:
                self.log_likelihoods(probe[:count])
            for site, shape in watch.shapes.items():
                grown = {axis for axis, size in enumerate(shape) if size == count}
                axes[site] = grown & axes.get(site, grown)
        for name in {name for (name, _), found in axes.items() if len(found) != 1}:
            self.others[name] = self.watched.pop(name)
        return {site: found.pop() for site, found in axes.items() if len(found) == 1}

    def _wrong(self, probe: Sequence[Item]) -> list[str]:
        """Watched parameters that were not seen, or whose squares are not those of the slow reference.

        A unit of a ReLU whose input is 0 but for rounding is on in one pass and off in the other: no disagreement, and
        gone without the sample that it belongs to. So a parameter must be wrong without each of the samples too.
        """
        wrong = self._disagreeing(probe)
        for left_out in range(len(probe) if len(probe) > 2 else 0):
            if not wrong:
                break
            wrong &= self._disagreeing([item for place, item in enumerate(probe) if place != left_out])
        return [name for name in self.watched if name in wrong]

    def _disagreeing(self, items: Sequence[Item]) -> set[str]:
        """Where `items` batched are not `items` one by one, in a thousandth of the parameter's largest entry.

        A gradient that is 0 but for rounding (the bias of attention keys) has no digits to agree in: differences below
        1e-5 of the largest gradient of the model, squared, do not count.
        """
        fast, slow = zeros(self.watched), zeros(self.watched)
        seen = self._add_watched_(fast, items)
        add_one_by_one_(slow, self.watched, self.log_likelihoods, items)
        alive = _gradients(self.log_likelihoods(items).sum(), self.watched).keys()
        largest = {name: float(total.max()) if total.numel() else 0.0 for name, total in slow.items()}
        floor = 1e-10 * max(largest.values(), default=0.0)
        return {
            name
            for name in self.watched
            if (name in alive and name not in seen)
            or not bool(((fast[name] - slow[name]).abs() <= 1e-3 * largest[name] + floor).all())
        }


# What a measurement over a sample of a data set needs beside gradients ---------------------------------------------


def batches(items: Sequence[Item], length: Callable[[Item], int], max_tokens: int) -> list[list[Item]]:
    """All of `items`, longest first, cut so that count * longest <= max_tokens; a longer item is a batch of its own.

    No batch is more than a quarter padding.
    """
    cut: list[list[Item]] = []
    for item in sorted(items, key=length, reverse=True):
        longest = length(cut[-1][0]) if cut else 0
        if not cut or (len(cut[-1]) + 1) * longest > max_tokens or length(item) < 0.75 * longest:
            cut.append([])
        cut[-1].append(item)
    return cut


def categorical(logits: Tensor, u: Tensor) -> Tensor:
    """One class of each row of `logits` (B, classes) by the inverse of its cumulative distribution at u (B,) in (0, 1].

    The first class whose cumulative probability reaches u: a class of probability 0 is never drawn.
    """
    cumulative = logits.double().softmax(1).cumsum(1)
    return torch.searchsorted(cumulative, (u.double() * cumulative[:, -1])[:, None]).squeeze(1)


def overlap(a: Mapping[str, Tensor], b: Mapping[str, Tensor], fraction: float) -> float:
    """The share of the top `fraction` of all scores in `a` that is also in the top of `b`: 1 for equal masks."""
    k = round(fraction * sum(score.numel() for score in a.values()))
    if k == 0:
        return 1.0
    pairs = zip(masks.largest(list(a.values()), k), masks.largest([b[name] for name in a], k), strict=True)
    return sum(int((x & y).sum()) for x, y in pairs) / k
