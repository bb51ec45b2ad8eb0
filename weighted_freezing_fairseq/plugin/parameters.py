"""Names for the tensors of an optimizer.

fairseq passes an optimizer tensors without names: the model's parameters (fp32, --amp, memory-efficient modes), float32
copies (--bf16, --fp16-no-flatten-grads), or one flat tensor (--fp16). While a trainer builds its optimizer, this module
has the names of its parameters (`trainer_events.py`), and the optimizer matches its tensors with them by identity, by
order and shape, or by offset. Sharded training, where no process has a whole weight, is refused.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from ..core.rules import Scope
from ..core.scope import Entry, Slot, catalogue, nonempty

OF_CRITERION = "criterion."  # prefix of the names of the criterion's parameters
CLASSIFIERS = r"(^|\.)classification_heads\."  # matches the names of parameters of fairseq's heads for sentences

Catalogue = list[tuple[Entry, nn.Parameter]]
_published: ContextVar[Catalogue | None] = ContextVar("catalogue of the trainer's parameters", default=None)


@contextmanager
def published(model: nn.Module, criterion: nn.Module | None = None) -> Iterator[None]:
    """Within this context, an optimizer that is built can look up the names of these modules' parameters."""
    entries = catalogue(model)
    ids_of_model = {id(parameter) for _, parameter in entries}
    for entry, parameter in catalogue(criterion) if criterion is not None else []:
        if id(parameter) not in ids_of_model:
            names = tuple(OF_CRITERION + alias for alias in entry.aliases)
            entries.append((Entry(names[0], names, entry.owners, entry.shape), parameter))
    token = _published.set([(entry, p) for entry, p in entries if p.requires_grad])
    try:
        yield
    finally:
        _published.reset(token)


def classifiers_in(names: Iterable[str]) -> str:
    """`CLASSIFIERS` if it matches the name of a parameter, else an empty expression."""
    return CLASSIFIERS if any(re.search(CLASSIFIERS, name) for name in names) else ""


def match(params: Sequence[Tensor], scope: Scope) -> list[Slot]:
    """Match the tensors of an optimizer with names; return the slots of the weights in `scope`."""
    slots = [slot for entry, slot in match_all(params) if entry.within(scope)]
    return nonempty(slots, scope, "use --importance-scope all")


def match_all(params: Sequence[Tensor]) -> list[tuple[Entry, Slot]]:
    """Match the tensors of an optimizer with names; return the entry and the slot of every weight."""
    entries = _published.get()
    if entries is None:
        raise RuntimeError(
            "the optimizer is built without the names of its parameters: let fairseq's Trainer build it, "
            "or build it within `with plugin.parameters.published(model)`"
        )
    params = list(params)
    by_id = {id(parameter): entry for entry, parameter in entries}
    if all(id(p) in by_id for p in params):
        pairs = [(by_id[id(p)], Slot(by_id[id(p)].name, p, p.shape)) for p in params]
    elif [tuple(p.shape) for p in params] == [tuple(entry.shape) for entry, _ in entries]:
        pairs = [(entry, Slot(entry.name, p, entry.shape)) for (entry, _), p in zip(entries, params, strict=True)]
    elif len(params) == 1 and params[0].numel() == sum(entry.shape.numel() for entry, _ in entries):
        pairs, start = [], 0
        for entry, _ in entries:
            pairs.append((entry, Slot(entry.name, params[0], entry.shape, start)))
            start += entry.shape.numel()
    else:
        raise RuntimeError(
            "in this training mode the optimizer's tensors do not match the model's weights; "
            "with --fp16 add --fp16-no-flatten-grads, and use --ddp-backend legacy_ddp or c10d"
        )
    return pairs


def refuse_sharding(cfg: Any, method: str) -> None:
    """Raise ValueError for settings with which a process has only shards of the weights."""
    if cfg.distributed_training.ddp_backend == "fully_sharded":
        raise ValueError(f"{method} needs whole weights; replace --ddp-backend fully_sharded by legacy_ddp or c10d")
    if cfg.distributed_training.zero_sharding != "none":
        raise ValueError(f"{method} needs whole weights; leave out --zero-sharding")


def by_name() -> dict[str, nn.Parameter]:
    """The published parameters, the criterion's included under `OF_CRITERION`."""
    return {entry.name: parameter for entry, parameter in _published.get() or []}
