"""Gradients of single samples from one forward and one backward pass of a batch, for `fisher.py`.

The input of a layer and the gradient of its output give the gradient of its weight for every sample: a product over the
positions of that sample, where autograd takes one product over all samples. Linear layers, embeddings and layer norms
are supported, anywhere in a model and with tied weights.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Per-sample gradients that fit into a CPU's cache are squared two to four times as fast.
_CACHED_BYTES = 4 << 20


# The gradients of one use of a parameter ---------------------------------------------------------------------------


class Use(Protocol):
    """One use of a parameter in a forward pass, with the gradient of its output."""

    def put_(self, out: Tensor, rows: slice, add: bool) -> None:
        """Write the gradients of the samples `rows` to `out`, (rows, *parameter), or add them to it."""


@dataclass
class _Matrix:
    """W of y = W x: sum over t of grad_y[t] x[t]^T, for inputs (B, T, in) and grads (B, T, out)."""

    inputs: Tensor
    grads: Tensor

    def put_(self, out: Tensor, rows: slice, add: bool) -> None:
        torch.baddbmm(out, self.grads[rows].transpose(1, 2), self.inputs[rows], beta=int(add), out=out)


@dataclass
class _Vector:
    """A bias or the weight of a norm: small enough to hold the gradients of all samples, (B, *parameter)."""

    grads: Tensor

    def put_(self, out: Tensor, rows: slice, add: bool) -> None:
        if add:
            out.add_(self.grads[rows])
        else:
            out.copy_(self.grads[rows])


@dataclass
class _Lookup:
    """An embedding: sample (n,), token (n,) and gradient (n, width) of each lookup, without padding."""

    samples: Tensor
    tokens: Tensor
    grads: Tensor

    @classmethod
    def of_batch(cls, tokens: Tensor, grads: Tensor, padding: int | None) -> "_Lookup":
        samples = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
        mask = torch.ones_like(tokens, dtype=torch.bool) if padding is None else tokens != padding
        return cls(samples[mask], tokens[mask], grads[mask])

    def put_(self, out: Tensor, rows: slice, add: bool) -> None:
        if not add:
            out.zero_()
        lookups = ((self.samples >= rows.start) & (self.samples < rows.stop)).nonzero().view(-1)
        indices = (self.samples[lookups] - rows.start) * out.shape[1] + self.tokens[lookups]
        out.view(-1, out.shape[2]).index_add_(0, indices, self.grads[lookups])


def add_squares_(total: Tensor, uses: Sequence[Use], count: int, memory: int) -> None:
    """total += sum over `count` samples of (the sum of a sample's gradients over `uses`) ** 2."""
    lookups = [use for use in uses if isinstance(use, _Lookup)]
    if len(lookups) == len(uses):
        _add_sparse_squares_(total, lookups)
        return
    uses = [*(use for use in uses if not isinstance(use, _Lookup)), *lookups]  # a lookup that adds touches few rows
    available = min(memory, _CACHED_BYTES) if total.device.type == "cpu" else memory
    size = min(count, max(1, available // max(1, 4 * total.numel())))
    buffer = total.new_empty(size, *total.shape)
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        out = buffer[: rows.stop - start]
        for index, use in enumerate(uses):
            use.put_(out, rows, add=index > 0)
        if size <= 8:
            for gradient in out:  # few and large: a single pass over each
                total.addcmul_(gradient, gradient)
        else:
            total += out.square_().sum(0)


def _add_sparse_squares_(total: Tensor, uses: Sequence[_Lookup]) -> None:
    """`add_squares_` for lookups only, where a sample touches no more rows than it has tokens."""
    keys = torch.cat([use.samples * total.shape[0] + use.tokens for use in uses])
    pairs, indices = keys.unique(return_inverse=True)
    sums = total.new_zeros(len(pairs), total.shape[1]).index_add_(0, indices, torch.cat([use.grads for use in uses]))
    total.index_add_(0, pairs % total.shape[0], sums.square_())


# Watching a forward pass -------------------------------------------------------------------------------------------


@dataclass
class _Call:
    """A call of a layer: its input, whose first `leading` axes are samples and positions, and the use of its weight."""

    input: Tensor
    leading: int
    weight: Tensor | None
    bias: Tensor | None
    weight_use: Callable[[Tensor, Tensor], Use]

    def uses(self, parameter: Tensor, grad: Tensor, axis: int) -> Iterator[Use]:
        """The uses of `parameter` in this call, from the gradient of its output and the axis of the samples."""
        x, g = (
            t.unsqueeze(1) if self.leading == 1 else t.flatten(1, self.leading - 1)  # (B, T, ...)
            for t in (self.input.detach().movedim(axis, 0), grad.movedim(axis, 0))
        )
        if self.weight is parameter:
            yield self.weight_use(x, g)
        if self.bias is parameter:
            yield _Vector(g.sum(1))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Call:
    return _Call(input, input.dim() - 1, weight, bias, _Matrix)


def _embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any) -> _Call:
    padding = None if padding_idx is None else padding_idx % len(weight)
    return _Call(input, input.dim(), weight, None, lambda x, g: _Lookup.of_batch(x, g, padding))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> _Call:
    shape = list(normalized_shape)
    leading = input.dim() - len(shape)
    return _Call(input, leading, weight, bias, lambda x, g: _Vector((F.layer_norm(x, shape, eps=eps) * g).sum(1)))


_LAYERS: Mapping[Any, Callable[..., _Call]] = {F.linear: _linear, F.embedding: _embedding, F.layer_norm: _layer_norm}

Site = tuple[str, int]  # the name of a parameter, and the index of its use in the forward pass


class Watch(TorchFunctionMode):
    """Records the calls of supported layers in one forward pass, and delivers a parameter's uses in the backward pass.

    `axes`: the axis of the samples at each site; without it only shapes are recorded. `looped`: the trainable
    parameters that are not watched. A parameter's uses are delivered as soon as the last one is complete, which bounds
    memory. Layers get detached weights, so that autograd neither computes the gradient of the whole batch nor keeps the
    input for it.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], looped: Iterable[Tensor] = (), axes: Mapping[Site, int] | None = None
    ) -> None:
        super().__init__()
        self.parameters, self.looped, self.axes = parameters, looped, axes
        self.names = {parameter: name for name, parameter in parameters.items()}
        self.shapes: dict[Site, tuple[int, ...]] = {}
        self.pending: Counter[str] = Counter()  # uses without a gradient so far
        self.complete: dict[str, list[Use]] = defaultdict(list)
        self.deliver: Callable[[str, list[Use]], None] = lambda name, uses: None
        self.root: Tensor | None = None  # added to outputs without a gradient, so that the backward pass reaches them

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _LAYERS or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        call = _LAYERS[func](*args, **kwargs)
        names = [self.names[p] for p in (call.weight, call.bias) if p is not None and p in self.names]
        if not names:
            return func(*args, **kwargs)
        site = names[0], self.pending[names[0]]  # its axis is that of the bias too
        for name in names:
            self.shapes[name, self.pending[name]] = tuple(call.input.shape[: call.leading])
            self.pending[name] += 1
        if self.axes is None:
            return func(*args, **kwargs)
        axis = self.axes.get(site)
        if axis is None:
            raise ValueError(
                f"{names[0]} is used more often for this batch than for the probe; give a probe of its kind"
            )
        out = func(*map(self._detached, args), **{key: self._detached(value) for key, value in kwargs.items()})
        if not out.requires_grad:
            if self.root is None:
                self.root = torch.zeros((), device=out.device, requires_grad=True)
            out = out + self.root
        elif out._is_view():  # a view that is changed in place later (`q *= scaling`) would lose its hook
            out = out.clone()
        out.register_hook(lambda grad: self._receive(call, names, axis, grad))
        return out

    def _detached(self, value: Any) -> Any:
        return value.detach() if isinstance(value, Tensor) and value in self.names else value

    def _receive(self, call: _Call, names: Sequence[str], axis: int, grad: Tensor) -> None:
        """Take the gradient of the output of `call`, which uses the parameters `names`."""
        for name in names:
            self.complete[name].extend(call.uses(self.parameters[name], grad, axis))
            self.pending[name] -= 1
            if self.pending[name] == 0:
                self.deliver(name, self.complete.pop(name))
        del call.input  # the graph holds the call until the backward pass is over

    def backward(self, total: Tensor, deliver: Callable[[str, list[Use]], None]) -> None:
        """Deliver the uses of every parameter that `total` depends on, without changing `.grad`."""
        self.deliver = deliver
        # The looped parameters too: they may be all that the input of a layer depends on.
        inputs = [*self.parameters.values(), *self.looped, *([] if self.root is None else [self.root])]
        if total.requires_grad:
            torch.autograd.grad(total, inputs, allow_unused=True)
        for name, uses in self.complete.items():  # parameters with another use that `total` does not depend on
            deliver(name, uses)
        self.complete.clear()
