"""Selects the weights that a method acts on.

A `Slot` is one named weight: the whole parameter that the optimizer holds, or a slice of it if a trainer flattens
parameters into one tensor.
"""

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .rules import SCOPES, Scope

# 64 Ki numbers: the temporaries of a block fit into the L2 cache of a CPU core.
CPU_BLOCK = 1 << 16
HEADS = frozenset(
    """
    output_projection lm_head classification_heads
    classifier pre_classifier pooler score cls qa_outputs qa_classifier sop_classifier classification_head
    logits_proj sequence_summary vocab_transform vocab_projector pred_layer embed_out
    generator_lm_head generator_predictions discriminator_predictions
    """.split()
)
"""Names of modules after the last layer: the output projection, and the heads that fine-tuning adds. `pooler` is one,
because fine-tuning initializes it anew in models that were pretrained without a loss on sentences (RoBERTa, XLM-R,
DeBERTa), and a name means the same in all models."""
# Attributes in which wrappers hold the wrapped module: torch.compile, DDP, activation checkpointing.
_WRAPPED = frozenset(("_orig_mod", "module", "_checkpoint_wrapped_module"))


@dataclass(frozen=True)
class Entry:
    """A parameter of a model. A tied parameter is one entry with several names."""

    name: str
    aliases: tuple[str, ...]
    owners: tuple[type[nn.Module], ...]
    shape: torch.Size

    def within(self, scope: Scope, heads: Set[str] = HEADS) -> bool:
        """Whether this parameter is in `scope`.

        linear: weight matrices of attention projections and feed-forward layers, without embeddings, norms, biases and
        parameters inside a module named in `heads`. all: every parameter.
        """
        if scope == "all":
            return True
        return (
            len(self.shape) == 2
            and any(issubclass(owner, nn.Linear | nn.MultiheadAttention) for owner in self.owners)
            and not any(issubclass(owner, nn.Embedding) for owner in self.owners)
            and not any(heads & set(alias.split(".")) for alias in self.aliases)
        )


def catalogue(model: nn.Module) -> list[tuple[Entry, nn.Parameter]]:
    """Every parameter of `model` with all its names and owners, in the order of `model.parameters()`.

    Names do not contain wrappers: masks are drawn by name, and must not depend on torch.compile or DDP.
    """
    names: dict[nn.Parameter, list[str]] = {}
    owners: dict[nn.Parameter, list[type[nn.Module]]] = {}
    for prefix, module in _named_modules(model):
        for name, parameter in module.named_parameters(prefix, recurse=False):
            names.setdefault(parameter, []).append(name)
            owners.setdefault(parameter, []).append(type(module))
    return [
        (Entry(names[p][0], tuple(names[p]), tuple(owners[p]), p.shape), p)
        for p in model.parameters()  # named_modules() and parameters() agree on the order
    ]


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module with its name, without the parts of the name that come from wrappers.

    A wrapper has a child named in `_WRAPPED` and no other children or parameters, so that names stay unique.
    """
    modules = dict(model.named_modules())
    names: dict[str, str] = {}
    for path, module in modules.items():
        parent, _, child = path.rpartition(".")
        wrapper = child in _WRAPPED and len(modules[parent]._modules) == 1 and not modules[parent]._parameters
        names[path] = names[parent] if wrapper else ".".join(filter(None, (names.get(parent), child)))
        yield names[path], module


@dataclass(frozen=True)
class Slot:
    """A named weight, and its position inside the parameter that the optimizer holds."""

    name: str
    parameter: Tensor
    shape: torch.Size
    start: int | None = None  # offset in a flat parameter; None if the parameter is the weight itself

    def __len__(self) -> int:
        return math.prod(self.shape)

    @property
    def weight(self) -> Tensor:
        """The weight, as a view of the parameter."""
        return self.part(self.parameter.detach())

    @property
    def grad(self) -> Tensor | None:
        """The gradient, as a view, or None."""
        if self.parameter.grad is None:
            return None
        if self.parameter.grad.is_sparse:
            raise ValueError(f"{self.name} has a sparse gradient; use scope='linear'")
        return self.part(self.parameter.grad)

    def part(self, tensor: Tensor) -> Tensor:
        """The part of a tensor of the parameter's shape that belongs to this weight."""
        return tensor if self.start is None else tensor[self.start : self.start + len(self)].view(self.shape)


def block_size(tensor: Tensor) -> int:
    """How many numbers of `tensor` to process at a time: a block that fits a CPU's cache, all on other devices."""
    return CPU_BLOCK if tensor.device.type == "cpu" else tensor.numel()


def blocks(count: int, size: int, *tensors: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Split `tensors`, each of `count` numbers, into views of `size` numbers; yields the position of each block too.

    Elementwise operations on blocks stay in the cache, and their temporaries are small. If a tensor is not contiguous,
    the tensors are yielded whole, since views of its blocks do not exist.
    """
    if size >= count or not all(t.is_contiguous() for t in tensors):
        yield 0, tensors
        return
    flat = [t.view(-1) for t in tensors]
    for start in range(0, count, size):
        yield start, tuple(t[start : start + size] for t in flat)


def scope_of(model: nn.Module, scope: Scope = "linear", heads: Set[str] = HEADS) -> list[Slot]:
    """The slots of the trainable parameters of `model` in `scope`, for `GuidedOptimizer`.

    Args:
        model: the model, or a wrapper around it (torch.compile, DistributedDataParallel).
        scope: `linear`, the weight matrices of attention and feed-forward layers without embeddings, norms, biases and
            heads; or `all`, every parameter.
        heads: names of modules that `linear` excludes with everything inside them. To exclude another module, give
            `heads=HEADS | {"my_head"}`. A name is compared with whole parts of a dotted name: "score" does not match
            "scored".

    Returns:
        One slot for each parameter, with its `name`, `shape` and `weight`, in the order of `model.parameters()`.

    Raises:
        ValueError: if there is no such scope, or no parameter in it.

    Examples:
        >>> from torch import nn
        >>> from weighted_freezing_fairseq import scope_of
        >>> [slot.name for slot in scope_of(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))]
        ['0.weight']
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; choose one of: {', '.join(SCOPES)}")
    slots = [Slot(e.name, p, e.shape) for e, p in catalogue(model) if p.requires_grad and e.within(scope, heads)]
    return nonempty(slots, scope)


def nonempty(slots: Sequence[Slot], scope: Scope, remedy: str = "use scope='all'") -> list[Slot]:
    """Return `slots`, or raise an error that ends with `remedy`: a method without weights would have no effect."""
    if not slots:
        raise ValueError(f"no weight of this model is in scope {scope!r}; {remedy}")
    return list(slots)
