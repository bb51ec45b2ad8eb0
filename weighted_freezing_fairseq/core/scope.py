"""Which tensors a method acts on, and under which name.

A `Slot` is one weight matrix as a method sees it: a stable name, and where its numbers lie in the parameter that the
optimizer holds, which under fairseq's flat --fp16 is a slice of one long tensor. Left out on purpose: fairseq itself,
whose wrappers are matched to these names in `plugin/parameters.py`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Scope = Literal["linear", "all"]
SCOPES: tuple[Scope, ...] = ("linear", "all")

# 64 Ki numbers: the temporaries of one block stay in the second-level cache of a CPU core.
CPU_BLOCK = 1 << 16
# fairseq's names for what follows the layers, tied or not: the projection onto the vocabulary, the head of a masked
# language model, and the heads for classes of sentences, new in every fine-tuning. None is attention or feed-forward.
_HEADS = {"output_projection", "lm_head", "classification_heads"}
CLASSIFIERS = r"(^|\.)classification_heads\."  # finds the names of the parameters of these heads


@dataclass(frozen=True)
class Entry:
    """One parameter of a model: counted once however many names it has."""

    name: str
    aliases: tuple[str, ...]
    owners: tuple[type[nn.Module], ...]
    shape: torch.Size

    def within(self, scope: Scope) -> bool:
        """Whether `scope` holds this parameter.

        linear: weight matrices of attention projections and feed-forward layers; never embeddings, norms, biases, nor
        an output projection or another head. all: every parameter.
        """
        if scope == "all":
            return True
        return (
            len(self.shape) == 2
            and any(issubclass(owner, nn.Linear | nn.MultiheadAttention) for owner in self.owners)
            and not any(issubclass(owner, nn.Embedding) for owner in self.owners)
            and not any(_HEADS & set(alias.split(".")) for alias in self.aliases)
        )


def catalogue(model: nn.Module) -> list[tuple[Entry, nn.Parameter]]:
    """Every parameter of `model` with all its names and owners, in the order of `model.parameters()`."""
    names: dict[nn.Parameter, list[str]] = {}
    owners: dict[nn.Parameter, list[type[nn.Module]]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            names.setdefault(parameter, []).append(name)
            owners.setdefault(parameter, []).append(type(module))
    return [
        (Entry(names[p][0], tuple(names[p]), tuple(owners[p]), p.shape), p)
        for p in model.parameters()  # named_modules() and parameters() agree on the order
    ]


@dataclass(frozen=True)
class Slot:
    """The numbers of one named weight inside the tensor that the optimizer holds."""

    name: str
    parameter: Tensor
    shape: torch.Size
    start: int | None = None  # offset in a flat parameter; None where the parameter is the weight itself

    def __len__(self) -> int:
        return math.prod(self.shape)

    @property
    def weight(self) -> Tensor:
        """The weight: a view, so that a change of it is a change of the model."""
        return self.part(self.parameter.detach())

    @property
    def grad(self) -> Tensor | None:
        """Its gradient likewise, or None."""
        if self.parameter.grad is None:
            return None
        if self.parameter.grad.is_sparse:
            raise ValueError(f"{self.name} has a sparse gradient; use --importance-scope linear (scope='linear')")
        return self.part(self.parameter.grad)

    def part(self, tensor: Tensor) -> Tensor:
        """Its numbers in a tensor of the parameter's shape."""
        return tensor if self.start is None else tensor[self.start : self.start + len(self)].view(self.shape)


def block_size(tensor: Tensor) -> int:
    """How many numbers of `tensor` to work on at a time: what stays in a CPU's cache, all on other devices."""
    return CPU_BLOCK if tensor.device.type == "cpu" else tensor.numel()


def blocks(count: int, size: int, *tensors: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Views of `tensors`, all of `count` numbers, `size` numbers at a time, each with the position of its first.

    Elementwise work on short blocks stays in the cache and needs no copy of a whole weight. A tensor that is not
    contiguous cannot be cut without a copy: then all come whole, and positions still count in logical order.
    """
    if size >= count or not all(t.is_contiguous() for t in tensors):
        yield 0, tensors
        return
    flat = [t.view(-1) for t in tensors]
    for start in range(0, count, size):
        yield start, tuple(t[start : start + size] for t in flat)


def scope_of(model: nn.Module, scope: Scope = "linear") -> list[Slot]:
    """The slots of `model` that `scope` holds, ready for `GuidedOptimizer`.

    >>> [slot.name for slot in scope_of(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))]
    ['0.weight']
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; choose one of {', '.join(SCOPES)}")
    slots = [Slot(e.name, p, e.shape) for e, p in catalogue(model) if p.requires_grad and e.within(scope)]
    return nonempty(slots, scope)


def nonempty(slots: Sequence[Slot], scope: Scope) -> list[Slot]:
    """`slots`, or an error that says what to type: a method without weights would silently do nothing."""
    if not slots:
        raise ValueError(f"no weight of this model is in scope {scope!r}; use --importance-scope all (scope='all')")
    return list(slots)
