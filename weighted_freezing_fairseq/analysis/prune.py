"""A checkpoint with its least important weights at zero.

Pruning after training and once, the least important weights first (Xu et al. 2022, section 5.1), by any score of
`core/pruning.py`. Left out on purpose: how well a pruned checkpoint translates (`pruning_curve.py`), and pruning during
training, which is the criterion alignreg's.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core import fisher
from ..core.pruning import METHODS, Layer, Method, scores_of, select
from ..core.scope import Entry, catalogue
from ..core.tensor_files import refuse_bad_numbers
from ..errors import UserError
from ..files import atomic_file
from ..workspace.checkpoints import OPTIMIZER_STATE, read_checkpoint, refuse_to_overwrite, save
from .gradients import Sample, draw_batches, of_batches

ONCE: Mapping[str, Method] = {name: method for name, method in METHODS.items() if not method.penalty}


@dataclass(frozen=True)
class Dense:
    """A checkpoint before it is pruned: the tensors of its model, the rest, and every parameter's names and owners."""

    path: Path
    rest: dict[str, Any]
    tensors: dict[str, Tensor]
    entries: list[Entry]

    @classmethod
    def of(cls, path: Path, rest: dict[str, Any], tensors: dict[str, Tensor], data: Path | None) -> "Dense":
        """`rest` and `tensors` of the checkpoint at `path`, if it can be pruned."""
        from ..plugin.trained import shape_of

        entries = [entry for entry, _ in catalogue(shape_of(path, data))]
        for entry in entries:
            if entry.name not in tensors or tensors[entry.name].shape != entry.shape:
                raise UserError(
                    f"{path} has no {entry.name} of shape {tuple(entry.shape)}, which its architecture has: another "
                    "fairseq saved it; let this one save it again, with fairseq-train --restore-file"
                )
        refuse_bad_numbers({entry.name: tensors[entry.name] for entry in entries}, f"{path}:")
        return cls(path, rest, tensors, entries)

    @property
    def prunable(self) -> list[Entry]:
        """Attention projections and feed-forward layers."""
        return [entry for entry in self.entries if entry.within("linear")]

    def save(self, masks: Mapping[str, Tensor], path: Path) -> None:
        """The checkpoint with zeros where `masks` are 0, tied weights together, and without an optimizer's state."""
        tensors = dict(self.tensors)
        for entry in self.prunable:
            pruned = tensors[entry.name].masked_fill(~masks[entry.name], 0)
            tensors.update((alias, pruned) for alias in entry.aliases if alias in tensors)
        content = {**self.rest, "model": copy.copy(self.rest["model"])}  # a container with fairseq's attributes
        content["model"].update(tensors)
        content.pop(OPTIMIZER_STATE, None)
        with atomic_file(path) as part:
            save(content, part)


@dataclass(frozen=True)
class Pruned:
    """What `write_pruned` wrote: numbers of weights, and the layers of which nothing is left."""

    method: str
    fraction: float
    pruned: int
    in_scope: int
    parameters: int
    emptied: list[str]
    without_optimizer_state: bool  # although the checkpoint had one

    def counts(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {name: value for name, value in asdict(self).items() if name != "without_optimizer_state"}


def write_pruned(path: Path, method: Method, fraction: float, sample: Sample, out: Path) -> Pruned:
    """Write the checkpoint at `path` to `out` with its least important `fraction` of weights at zero."""
    refuse_to_overwrite(out)
    dense = Dense.of(path, *read_checkpoint(path), sample.data)
    masks = select(method, importance(dense, [method], sample)[method.name], fraction)
    dense.save(masks, out)
    return Pruned(
        method=method.name,
        fraction=fraction,
        pruned=sum(int((~mask).sum()) for mask in masks.values()),
        in_scope=sum(mask.numel() for mask in masks.values()),
        parameters=sum(entry.shape.numel() for entry in dense.entries),
        emptied=[name for name, mask in masks.items() if not bool(mask.any())],
        without_optimizer_state=dense.rest.get(OPTIMIZER_STATE) is not None,
    )


def importance(dense: Dense, methods: Sequence[Method], sample: Sample) -> dict[str, dict[str, Tensor]]:
    """The score of every prunable weight, by the name of each method and of the parameter."""
    layers = [Layer(entry.name, dense.tensors[entry.name]) for entry in dense.prunable]
    scores = {method.name: scores_of(method, layers, sample.seed) for method in methods if not method.needs}
    measured = [method for method in methods if method.needs]
    return scores | (_importance_by_gradients(dense, measured, sample) if measured else {})


def _importance_by_gradients(dense: Dense, methods: Sequence[Method], sample: Sample) -> dict[str, dict[str, Tensor]]:
    """The mean score over batches, of their gradients."""
    from ..plugin.trained import Trained

    assert sample.data is not None
    trained = Trained.load(dense.path, sample.data, sample.split, sample.device)
    parameters = {
        entry.name: weight.requires_grad_() for entry, weight in catalogue(trained.model) if entry.within("linear")
    }
    batches = draw_batches(trained, sample)
    totals = {method.name: fisher.zeros(parameters) for method in methods}
    for grads in of_batches(trained, parameters, batches):
        layers = [
            Layer(name, weight.detach(), grad) for (name, weight), grad in zip(parameters.items(), grads, strict=True)
        ]
        for method in methods:
            for name, score in scores_of(method, layers, sample.seed).items():
                totals[method.name][name].add_(score, alpha=1 / len(batches))
    for method in methods:
        refuse_bad_numbers(totals[method.name], f"the importance, by {method.name}, of")
    return {method: {name: total.cpu() for name, total in scores.items()} for method, scores in totals.items()}
