"""Gradients of single samples from one forward and one backward pass of a batch, for `fisher.py`.

The input of a layer and the gradient of its output give the gradient of its weight for every sample separately: a
product over the positions of a sample where torch takes one over all. Linear maps, embeddings and layer norms are
known, at any place of a model and with weights tied to each other. Left out on purpose: every other layer, whose
parameters are reported as not seen.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# A batch of per-sample gradients that stays in a CPU's cache is squared two to four times as fast.
_CACHED_BYTES = 4 << 20
_FEW = 8


# The gradient of each sample, from one use of a parameter ----------------------------------------------------------


class Use(Protocol):
    """One use of a parameter in a forward pass, when the gradient of its output is known."""

    def put_(self, out: Tensor, rows: slice, beta: int) -> None:
        """out = beta * out + the gradients of the samples `rows`, shape (rows, *parameter)."""


@dataclass
class _Outer:
    """The matrix of y = W x: sum over t of grad_y[t] x[t]^T, for inputs (B, T, in) and grads (B, T, out)."""

    inputs: Tensor
    grads: Tensor

    def put_(self, out: Tensor, rows: slice, beta: int) -> None:
        torch.baddbmm(out, self.grads[rows].transpose(1, 2), self.inputs[rows], beta=beta, out=out)


@dataclass
class _Direct:
    """A bias or a norm's weight: small enough to be had for all samples at once, (B, *parameter)."""

    values: Tensor

    def put_(self, out: Tensor, rows: slice, beta: int) -> None:
        if beta:
            out.mul_(beta).add_(self.values[rows])
        else:
            out.copy_(self.values[rows])


@dataclass
class _Lookup:
    """A row of an embedding for each token (n,) of a sample (n,): grads (n, width), padding left out."""

    samples: Tensor
    tokens: Tensor
    grads: Tensor

    def put_(self, out: Tensor, rows: slice, beta: int) -> None:
        if beta:
            out.mul_(beta)
        else:
            out.zero_()
        here = ((self.samples >= rows.start) & (self.samples < rows.stop)).nonzero().view(-1)
        places = (self.samples[here] - rows.start) * out.shape[1] + self.tokens[here]
        out.view(-1, out.shape[2]).index_add_(0, places, self.grads[here])


def _lookup(tokens: Tensor, grads: Tensor, padding: int | None) -> _Lookup:
    samples = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
    kept = torch.ones_like(tokens, dtype=torch.bool) if padding is None else tokens != padding
    return _Lookup(samples[kept], tokens[kept], grads[kept])


def add_squares_(total: Tensor, uses: Sequence[Use], count: int, memory: int) -> None:
    """total += sum over `count` samples of (the sum of a sample's gradients over `uses`) ** 2."""
    if all(isinstance(use, _Lookup) for use in uses):
        _add_sparse_squares_(total, [use for use in uses if isinstance(use, _Lookup)])
        return
    uses = sorted(uses, key=lambda use: isinstance(use, _Lookup))  # a lookup adds to what is there
    bytes_at_once = min(memory, _CACHED_BYTES) if total.device.type == "cpu" else memory
    size = min(count, max(1, bytes_at_once // max(1, 4 * total.numel())))
    buffer = total.new_empty(size, *total.shape)
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        out = buffer[: rows.stop - start]
        for index, use in enumerate(uses):
            use.put_(out, rows, beta=min(index, 1))
        if size <= _FEW:
            for gradient in out:  # few and large: one pass over each
                total.addcmul_(gradient, gradient)
        else:
            total += out.square_().sum(0)


def _add_sparse_squares_(total: Tensor, uses: Sequence[_Lookup]) -> None:
    """A matrix that is only looked up: no sample touches more rows than it has tokens."""
    keys = torch.cat([use.samples * total.shape[0] + use.tokens for use in uses])
    pairs, place = keys.unique(return_inverse=True)
    sums = total.new_zeros(len(pairs), total.shape[1]).index_add_(0, place, torch.cat([use.grads for use in uses]))
    total.index_add_(0, pairs % total.shape[0], sums.square_())


# Watching a forward pass -------------------------------------------------------------------------------------------


@dataclass
class _Call:
    """One call of a layer: the tensor that carries the samples, its first `lead` axes, and what the weight makes."""

    input: Tensor
    lead: int
    weight: Tensor | None
    bias: Tensor | None
    weight_use: Callable[[Tensor, Tensor], Use]

    def uses(self, name: str, parameters: Mapping[str, Tensor], grad: Tensor, axis: int) -> Iterator[Use]:
        """What this call is to parameter `name`, given the gradient of its output."""
        x, g = _by_sample(self.input.detach(), axis, self.lead), _by_sample(grad, axis, self.lead)
        if self.weight is parameters[name]:
            yield self.weight_use(x, g)
        if self.bias is parameters[name]:
            yield _Direct(g.sum(1))


def _by_sample(tensor: Tensor, axis: int, lead: int) -> Tensor:
    """(B, T, ...) of a tensor whose first `lead` axes hold samples (the one at `axis`) and positions."""
    tensor = tensor.movedim(axis, 0)
    return tensor.unsqueeze(1) if lead == 1 else tensor.flatten(1, lead - 1)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Call:
    return _Call(input, input.dim() - 1, weight, bias, _Outer)


def _embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any) -> _Call:
    padding = None if padding_idx is None else padding_idx % len(weight)
    return _Call(input, input.dim(), weight, None, lambda x, g: _lookup(x, g, padding))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> _Call:
    def weight_use(x: Tensor, g: Tensor) -> Use:
        return _Direct((F.layer_norm(x, list(normalized_shape), eps=eps) * g).sum(1))

    return _Call(input, input.dim() - len(normalized_shape), weight, bias, weight_use)


_LAYERS: Mapping[Any, Callable[..., _Call]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
}

Site = tuple[str, int]  # a parameter's name, and which use of it in the forward pass


class Watch(TorchFunctionMode):
    """Sees every call of a layer in one forward pass, and in the backward pass hands over a parameter's uses.

    `axes` says which axis holds the samples at each site; without it shapes are recorded only. A parameter is handed
    over when its last use has arrived, so that no more than needed is alive. Weights are replaced by detached ones:
    torch then neither makes the gradient of the whole batch nor keeps the input for it.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], others: Iterable[Tensor] = (), axes: Mapping[Site, int] | None = None
    ) -> None:
        super().__init__()
        self.parameters, self.others, self.axes = parameters, others, axes
        self.names = {parameter: name for name, parameter in parameters.items()}
        self.shapes: dict[Site, tuple[int, ...]] = {}
        self.waiting: Counter[str] = Counter()
        self.arrived: dict[str, list[Use]] = defaultdict(list)
        self.deliver: Callable[[str, list[Use]], None] = lambda name, uses: None
        self.seed: Tensor | None = None  # what every watched call depends on, so that the backward pass reaches all

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _LAYERS or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        call = _LAYERS[func](*args, **kwargs)
        names = [self.names[p] for p in (call.weight, call.bias) if p is not None and p in self.names]
        if not names:
            return func(*args, **kwargs)
        sites = []
        for name in names:
            sites.append((name, self.waiting[name]))
            self.waiting[name] += 1
            self.shapes[sites[-1]] = tuple(call.input.shape[: call.lead])
        if self.axes is None:
            return func(*args, **kwargs)
        axis = self.axes.get(sites[0])
        if axis is None:
            raise ValueError(
                f"{names[0]} is used more often for this batch than for the probe; give a probe of its kind"
            )
        out = func(*map(self._detached, args), **{key: self._detached(value) for key, value in kwargs.items()})
        if not out.requires_grad:
            if self.seed is None:
                self.seed = torch.zeros((), device=out.device, requires_grad=True)
            out = out + self.seed
        elif out._is_view():  # changed in place later (`q *= scaling`), a view would lose its hook
            out = out.clone()
        out.register_hook(lambda grad: self._arrive(call, names, axis, grad))
        return out

    def _detached(self, value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) and value in self.names else value

    def _arrive(self, call: _Call, names: Sequence[str], axis: int, grad: Tensor) -> None:
        for name in names:
            self.arrived[name].extend(call.uses(name, self.parameters, grad, axis))
            self.waiting[name] -= 1
            if self.waiting[name] == 0:
                self.deliver(name, self.arrived.pop(name))
        del call.input  # the graph holds this call until the pass is over

    def backward(self, total: Tensor, deliver: Callable[[str, list[Use]], None]) -> None:
        """Hand over the uses of every parameter that `total` depends on; `.grad` is left alone."""
        self.deliver = deliver
        # A layer whose input comes from other parameters alone is reached through these.
        inputs = [*self.parameters.values(), *self.others, *([] if self.seed is None else [self.seed])]
        if total.requires_grad:
            torch.autograd.grad(total, inputs, allow_unused=True)
        for name, uses in self.arrived.items():  # another use of it had no part in `total`
            deliver(name, uses)
        self.arrived.clear()
