"""Diagonal Fisher information from the gradients of single samples (FISH Mask, Sung et al. 2021, eq. 3).

    F_i = 1/N sum_n (d log p(y_n | x_n) / d theta_i) ** 2

Gold y_n give the empirical Fisher information, y_n drawn from the model the standard one. `per_sample.py` computes the
gradients of all samples of a batch in one forward and one backward pass. The caller defines what a sample is and
computes its log-likelihood.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from . import masks
from .per_sample import Site, Watch, add_squares_
from .scope import catalogue

Item = TypeVar("Item")
# The log-likelihoods of B samples, from one forward pass: (B,).
LogLikelihoods = Callable[[Sequence[Item]], Tensor]
Totals = dict[str, Tensor]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by their names in `scope.catalogue`, tied weights once."""
    return {entry.name: parameter for entry, parameter in catalogue(model) if parameter.requires_grad}


def zeros(parameters: Mapping[str, Tensor]) -> Totals:
    """Totals of zero, in float32."""
    return {name: torch.zeros_like(p, dtype=torch.float32).detach() for name, p in parameters.items()}


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; restores the mode of every module, which may differ from that of its parent."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def add_squared_sum_(
    totals: Totals, parameters: Mapping[str, Tensor], log_likelihoods: LogLikelihoods[Item], items: Sequence[Item]
) -> None:
    """totals += (sum over `items` of d log p / d theta) ** 2: one ordinary gradient, squared.

    For a single item this is its term of the Fisher information. For several items it is a cheap approximation: beside
    each g_n ** 2 it has a term g_m * g_n for every two samples, and so depends on the batch size.
    """
    for name, grad in _gradients(log_likelihoods(items).sum(), parameters).items():
        totals[name].addcmul_(grad, grad)


def add_one_by_one_(
    totals: Totals, parameters: Mapping[str, Tensor], log_likelihoods: LogLikelihoods[Item], items: Sequence[Item]
) -> None:
    """The slow reference of `SquaredGradients`: one forward and one backward pass per sample."""
    for item in items:
        add_squared_sum_(totals, parameters, log_likelihoods, [item])


def _gradients(total: Tensor, parameters: Mapping[str, Tensor]) -> Totals:
    """The gradients of the parameters that `total` depends on."""
    if not parameters or not total.requires_grad:
        return {}
    grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {
        name: (grad.to_dense() if grad.is_sparse else grad).float()
        for name, grad in zip(parameters, grads, strict=True)
        if grad is not None
    }


class SquaredGradients(Generic[Item]):
    """Sums of squared per-sample gradients, a batch at a time. Dropout is off, and `.grad` does not change.

    `probe`, a few samples of different lengths, shows which axis of a layer's input holds the samples (the one that
    grows with their number), and whether the batched squares of a parameter agree with `add_one_by_one_`. Parameters
    that disagree, because their layer is not supported or because samples share a use of them, are in `looped` and are
    measured by that slow reference. `memory` bounds the bytes of per-sample gradients.

    Not for layers that mix samples (batch normalisation in training): a sample then has no gradient of its own.
    """

    def __init__(
        self, model: nn.Module, log_likelihoods: LogLikelihoods[Item], probe: Sequence[Item], memory: int = 512 << 20
    ) -> None:
        self.model, self.log_likelihoods, self.memory = model, log_likelihoods, memory
        self.batched: dict[str, Tensor] = dict(trainable(model))
        self.looped: dict[str, Tensor] = {}
        with without_dropout(model):
            self.axes = self._sample_axes(probe)
            self._loop(self._mismatched(probe))

    def add_(self, totals: Totals, items: Sequence[Item]) -> None:
        """totals += sum over `items` of (d log p / d theta) ** 2."""
        with without_dropout(self.model):
            self._add_batched_(totals, items)
            if self.looped:
                add_one_by_one_(totals, self.looped, self.log_likelihoods, items)

    def _add_batched_(self, totals: Totals, items: Sequence[Item]) -> set[str]:
        """`add_` for the batched parameters; returns the names of those that a watched layer used."""
        with Watch(self.batched, self.looped.values(), self.axes) as watch:
            total = self.log_likelihoods(items).sum()
        watch.backward(total, lambda name, uses: add_squares_(totals[name], uses, len(items), self.memory))
        return {name for name, _ in watch.shapes}

    def _loop(self, names: set[str]) -> None:
        """Measure the parameters `names` one sample at a time from now on."""
        self.looped |= {name: self.batched.pop(name) for name in list(self.batched) if name in names}

    def _sample_axes(self, probe: Sequence[Item]) -> dict[Site, int]:
        """The axis of the samples at every site; parameters with a site where it is ambiguous become looped."""
        candidates: dict[Site, set[int]] = {}
        for count in range(min(2, len(probe)), len(probe) + 1):
            with Watch(self.batched) as watch:
                self.log_likelihoods(probe[:count])
            for site, shape in watch.shapes.items():
                axes = {axis for axis, size in enumerate(shape) if size == count}
                candidates[site] = axes & candidates.get(site, axes)
        self._loop({name for (name, _), axes in candidates.items() if len(axes) != 1})
        return {site: axes.pop() for site, axes in candidates.items() if len(axes) == 1}

    def _mismatched(self, probe: Sequence[Item]) -> set[str]:
        """Batched parameters whose squares differ from the reference on `probe` and on `probe` without any one sample.

        A ReLU unit whose input is 0 up to rounding may be on in a batch and off alone. That is no error of the layer,
        and it disappears without the sample that it comes from.
        """
        names = self._mismatched_on(probe)
        for index in range(len(probe) if len(probe) > 2 else 0):
            if not names:
                break
            names &= self._mismatched_on([*probe[:index], *probe[index + 1 :]])
        return names

    def _mismatched_on(self, items: Sequence[Item]) -> set[str]:
        """Parameters whose squares differ by more than 0.1 % of the parameter's largest entry.

        A gradient that is 0 up to rounding (the bias of attention keys) has no digits to compare: differences below
        (1e-5 times the model's largest gradient) ** 2 are ignored.
        """
        fast, slow = zeros(self.batched), zeros(self.batched)
        watched = self._add_batched_(fast, items)
        add_one_by_one_(slow, self.batched, self.log_likelihoods, items)
        used = _gradients(self.log_likelihoods(items).sum(), self.batched).keys()
        largest = {name: float(total.max()) if total.numel() else 0.0 for name, total in slow.items()}
        floor = 1e-10 * max(largest.values(), default=0.0)
        return {
            name
            for name in self.batched
            if (name in used and name not in watched)
            or not bool(((fast[name] - slow[name]).abs() <= 1e-3 * largest[name] + floor).all())
        }


# For measurements over a sample of a data set ----------------------------------------------------------------------


def batches(items: Sequence[Item], length: Callable[[Item], int], max_tokens: int) -> list[list[Item]]:
    """Batches of `items`, longest first, with count * longest <= max_tokens and at most a quarter of padding.

    A longer item is a batch of its own.
    """
    result: list[list[Item]] = []
    for item in sorted(items, key=length, reverse=True):
        longest = length(result[-1][0]) if result else 0
        if not result or (len(result[-1]) + 1) * longest > max_tokens or length(item) < 0.75 * longest:
            result.append([])
        result[-1].append(item)
    return result


def categorical(logits: Tensor, u: Tensor) -> Tensor:
    """One class for each row of `logits` (B, classes), by inverse transform sampling at u (B,) in (0, 1].

    It is the first class whose cumulative probability reaches u: a class of probability 0 is never drawn.
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
