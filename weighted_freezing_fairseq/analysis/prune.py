"""Pruning of a checkpoint after training: its least important weights are set to zero (Xu et al. 2022, section 5.1).

The scores are those of `core/pruning.py`. `pruning_curve.py` measures how well a pruned checkpoint translates.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import fisher
from ..core.input_norms import InputNorms, NoInputsError
from ..core.pruning import Layer, Method, scores_of, select
from ..core.scope import Entry, catalogue
from ..core.tensor_files import refuse_bad_numbers
from ..errors import UserError
from ..files import atomic_file, refuse_to_overwrite
from ..workspace.checkpoints import OPTIMIZER_STATE, read_checkpoint, save
from ..workspace.progress import Progress
from .gradients import Sample, draw_batches, gradients_of


@dataclass(frozen=True)
class Dense:
    """A checkpoint before pruning: the tensors of its model, their entries in the catalogue, and its other content."""

    path: Path
    rest: dict[str, Any]
    tensors: dict[str, Tensor]
    entries: list[Entry]

    @classmethod
    def of(cls, path: Path, rest: dict[str, Any], tensors: dict[str, Tensor], data: Path | None) -> "Dense":
        """Validate that the checkpoint at `path`, with content `rest` and `tensors`, can be pruned."""
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
        """Save the checkpoint with zeros where `masks` are 0, also in tied weights, without the optimizer's state."""
        tensors = dict(self.tensors)
        for entry in self.prunable:
            pruned = tensors[entry.name].masked_fill(~masks[entry.name], 0)
            tensors.update((alias, pruned) for alias in entry.aliases if alias in tensors)
        content = {**self.rest, "model": copy.copy(self.rest["model"])}  # keeps the attributes that fairseq sets
        content["model"].update(tensors)
        content.pop(OPTIMIZER_STATE, None)
        with atomic_file(path) as part:
            save(content, part)


@dataclass(frozen=True)
class Pruned:
    """The result of `write_pruned`: numbers of weights, and the layers without any remaining weight."""

    method: str
    fraction: float
    pruned: int
    in_scope: int
    parameters: int
    emptied: list[str]
    without_optimizer_state: bool  # which the checkpoint had

    def counts(self) -> dict[str, Any]:
        """The output of `--json`."""
        return {name: value for name, value in asdict(self).items() if name != "without_optimizer_state"}


def write_pruned(path: Path, method: Method, fraction: float, sample: Sample, out: Path) -> Pruned:
    """Write the checkpoint at `path` to `out` with the least important `fraction` of its weights set to zero."""
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
    """The score of every prunable weight, by method and parameter name."""
    layers = [Layer(entry.name, dense.tensors[entry.name]) for entry in dense.prunable]
    scores = {method.name: scores_of(method, layers, sample.seed) for method in methods if not method.needs}
    measured = [method for method in methods if method.needs]
    if not measured:
        return scores
    from ..plugin.trained import Trained

    assert sample.data is not None
    trained = Trained.load(dense.path, sample.data, sample.split, sample.device)
    parameters = {
        entry.name: weight.requires_grad_() for entry, weight in catalogue(trained.model) if entry.within("linear")
    }
    batches = draw_batches(trained, sample)
    for needs, measure in {"gradient": _by_gradients, "inputs": _by_inputs}.items():
        if group := [method for method in measured if method.needs == needs]:
            for name, totals in measure(trained, parameters, group, batches, sample.seed).items():
                refuse_bad_numbers(totals, f"the importance, by {name}, of")
                scores[name] = {key: tensor.cpu() for key, tensor in totals.items()}
    return scores


def _by_gradients(
    trained: Any,
    parameters: Mapping[str, Tensor],
    methods: Sequence[Method],
    batches: Sequence[Sequence[int]],
    seed: int,
) -> dict[str, dict[str, Tensor]]:
    """The mean score over batches."""
    totals = {method.name: fisher.zeros(parameters) for method in methods}
    for grads in gradients_of(trained, parameters, batches):
        layers = [
            Layer(name, weight.detach(), grad) for (name, weight), grad in zip(parameters.items(), grads, strict=True)
        ]
        for method in methods:
            for name, score in scores_of(method, layers, seed).items():
                totals[method.name][name].add_(score, alpha=1 / len(batches))
    return totals


def _by_inputs(
    trained: Any,
    parameters: Mapping[str, Tensor],
    methods: Sequence[Method],
    batches: Sequence[Sequence[int]],
    seed: int,
) -> dict[str, dict[str, Tensor]]:
    """The score from the inputs of the layers in all batches together."""
    from ..plugin.trained import attention_by_layers

    try:
        inputs = InputNorms(trained.model, parameters)
        inputs.begin()
        with fisher.without_dropout(trained.model), attention_by_layers(trained.model), torch.no_grad():
            for ids in Progress(batches, unit="batch"):
                trained.log_likelihoods(trained.gold(ids))
        norms = inputs.norms()
    except NoInputsError as error:
        raise UserError(str(error)) from None
    layers = [Layer(name, weight.detach(), input_norms=norms[name]) for name, weight in parameters.items()]
    return {method.name: scores_of(method, layers, seed) for method in methods}
