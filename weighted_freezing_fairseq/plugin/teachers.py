"""Teachers of `self_distillation`: checkpoints with the student's architecture and dictionaries, in eval mode."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.tasks import TASK_REGISTRY
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from torch import Tensor, nn

from ..core.fused import Teacher
from ..errors import UserError
from . import checkpoints
from .passes import OnePass, Outputs, Sample, one_pass

logger = logging.getLogger(__name__)

# Entries of a model's state that are not weights, and that differ between versions of fairseq.
_NOT_WEIGHTS = ("version", "_float_tensor")


class Teachers:
    """One teacher, or an ensemble of which the probabilities are averaged."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = [model.eval().requires_grad_(False) for model in models]

    @classmethod
    def load(cls, paths: str, student: nn.Module, task: Any) -> "Teachers":
        """Load the checkpoints PATH[:PATH...], check that they fit the student, move them to its device and dtype."""
        models = [_load(Path(path), student, task) for path in paths.split(":")]
        weight = next(student.parameters())
        return cls([model.to(device=weight.device, dtype=weight.dtype) for model in models])

    @torch.no_grad()
    def outputs(self, sample: Sample, forward: OnePass = one_pass) -> list[Outputs]:
        """The outputs of each teacher for a batch."""
        return [forward(model, sample, sample["net_input"]) for model in self.models]

    def probabilities(self, sample: Sample, rows: Tensor) -> Teacher:
        """A function of (start, stop): the mean distributions of the teachers for the targets `rows[start:stop]`."""
        ensemble = [
            (outputs.reshape(-1, outputs.shape[-1]).index_select(0, rows), weight)
            for outputs, weight in self.outputs(sample)
        ]

        def mean_probabilities(start: int, stop: int) -> Tensor:
            mean: Tensor | None = None
            for outputs, weight in ensemble:
                scores = outputs[start:stop]
                if weight is not None:
                    scores = scores @ weight.to(scores.dtype).T
                p = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
                mean = p if mean is None else mean.add_(p)
            assert mean is not None
            return mean.div_(len(ensemble))

        return mean_probabilities


def _load(path: Path, student: nn.Module, task: Any) -> nn.Module:
    """Load one teacher; raises UserError, with the reason, if it does not fit the student."""
    remedy = "give --teacher the path of a checkpoint, or PATH:PATH for several"
    state = checkpoints.read(path, "teacher", remedy)
    if reason := _task_difference(state["cfg"].task, task) or _shape_difference(state["model"], student):
        raise UserError(
            f"{path} cannot teach this model: {reason}; "
            "give a checkpoint of the same architecture, trained on the same binarised data"
        )
    models, _ = checkpoint_utils.load_model_ensemble([str(path)], task=task, state=state)
    return models[0]


def _shape_difference(weights: Mapping[str, Tensor], student: nn.Module) -> str | None:
    """The first difference between the weights of a checkpoint and the student's in name or shape; None if equal."""
    students, teachers = (
        {name: tuple(t.shape) for name, t in state.items() if not name.endswith(_NOT_WEIGHTS)}
        for state in (student.state_dict(), weights)
    )
    for name, shape in students.items():
        if name not in teachers:
            return f"it has no {name}"
        if teachers[name] != shape:
            return f"{name} is {teachers[name]} there and {shape} here"
    extra = next((name for name in teachers if name not in students), None)
    return f"it has {extra}, which is missing here" if extra else None


def _task_difference(cfg: Any, task: Any) -> str | None:
    """The first difference between the task settings `cfg` of a checkpoint and this run's task; None if equal.

    Compares the type of the task, languages and dictionaries.
    """
    sentences = isinstance(task, SentencePredictionTask)
    if issubclass(TASK_REGISTRY.get(cfg._name, object), SentencePredictionTask) != sentences:
        return f"its task is {cfg._name}"
    dictionaries: list[tuple[str, str, Dictionary]] = []
    if sentences:
        if cfg.regression_target != task.cfg.regression_target:
            return f"--regression-target is {cfg.regression_target} there"
        dictionaries.append(("input", "input0/dict.txt", task.source_dictionary))
        if not task.cfg.regression_target:
            dictionaries.append(("label", "label/dict.txt", task.label_dictionary))
    else:
        for side, dictionary in (("source", task.source_dictionary), ("target", task.target_dictionary)):
            language, other = (getattr(settings, f"{side}_lang") for settings in (task.cfg, cfg))
            if other not in (None, language):  # None: fairseq took it from the names of the data files
                return f"its {side} language is {other} and not {language}"
            dictionaries.append((side, f"dict.{language}.txt", dictionary))
    folder = Path(str(cfg.data).split(":")[0])
    for side, name, dictionary in dictionaries:
        path = folder / name
        if not path.is_file():
            logger.info("the teacher's %s dictionary %s is missing: only its size is compared", side, path)
        elif task.load_dictionary(str(path)) != dictionary:
            return f"another dictionary: the words of {path} are not this run's"
    return None
