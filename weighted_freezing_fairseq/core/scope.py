"""Which tensors a method acts on, and under which name.

A `Slot` is one weight matrix as a method sees it: a stable name, and where its numbers lie in the parameter that the
optimizer holds, which is a slice of one long tensor where a trainer flattens parameters. Left out on purpose: how a
trainer's tensors are matched to names.
"""

import math
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Scope = Literal["linear", "all"]
SCOPES: tuple[Scope, ...] = ("linear", "all")

# 64 Ki numbers: the temporaries of one block stay in the second-level cache of a CPU core.
CPU_BLOCK = 1 << 16
# Modules behind the last layer, by the name they have in a model: the projection onto the vocabulary, and the heads
# that fine-tuning adds. None is attention or feed-forward. `pooler` is among them: models that were pretrained without
# a loss on sentences (RoBERTa, XLM-R, DeBERTa) get a new one in fine-tuning, and a name means the same in all models.
HEADS = frozenset(
    """
    output_projection lm_head classification_heads
    classifier pre_classifier pooler score cls qa_outputs qa_classifier sop_classifier classification_head
    logits_proj sequence_summary vocab_transform vocab_projector pred_layer embed_out
    generator_lm_head generator_predictions discriminator_predictions
    """.split()
)
# What modules that only wrap another one call it: torch.compile, DDP, activation checkpointing.
_WRAPPED = frozenset(("_orig_mod", "module", "_checkpoint_wrapped_module"))


@dataclass(frozen=True)
class Entry:
    """One parameter of a model: counted once however many names it has."""

    name: str
    aliases: tuple[str, ...]
    owners: tuple[type[nn.Module], ...]
    shape: torch.Size

    def within(self, scope: Scope, heads: Set[str] = HEADS) -> bool:
        """Whether `scope` holds this parameter.

        linear: weight matrices of attention projections and feed-forward layers; never embeddings, norms, biases, nor
        what is inside a module named in `heads`. all: every parameter.
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

    Names leave out wrappers: masks are drawn by name, and must be the same with and without torch.compile or DDP.
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
    """Every module with its name, without the parts of it that come from wrappers.

    A wrapper is a module with one child of a name in `_WRAPPED` and nothing else, so that two names stay two.
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
            raise ValueError(f"{self.name} has a sparse gradient; use scope='linear'")
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


def scope_of(model: nn.Module, scope: Scope = "linear", heads: Set[str] = HEADS) -> list[Slot]:
    """The slots of `model` that `scope` holds, ready for `GuidedOptimizer`.

    heads: names of modules that scope "linear" leaves out, with all that is inside; one of your own is added by
    `heads=HEADS | {"my_head"}`. Each is compared with whole parts of a dotted name: "score" is not "scored".

    >>> [slot.name for slot in scope_of(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)))]
    ['0.weight']
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; choose one of {', '.join(SCOPES)}")
    slots = [Slot(e.name, p, e.shape) for e, p in catalogue(model) if p.requires_grad and e.within(scope, heads)]
    return nonempty(slots, scope)


def nonempty(slots: Sequence[Slot], scope: Scope, remedy: str = "use scope='all'") -> list[Slot]:
    """`slots`, or an error that ends with `remedy`: a method without weights would silently do nothing."""
    if not slots:
        raise ValueError(f"no weight of this model is in scope {scope!r}; {remedy}")
    return list(slots)
