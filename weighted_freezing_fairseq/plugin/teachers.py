"""Teachers of `self_distillation`: checkpoints of the student's own architecture and dictionaries, in eval mode.

Left out on purpose: teachers of another shape, which is knowledge distillation and no self-distillation.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
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
from .passes import OnePass, Outputs, one_pass

logger = logging.getLogger(__name__)

# Entries of a model's state that are no weights, and that versions of fairseq differ in.
_NO_WEIGHTS = ("version", "_float_tensor")


class Teachers:
    """One teacher or an ensemble, whose probabilities are averaged."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = [model.eval().requires_grad_(False) for model in models]

    @classmethod
    def load(cls, paths: str, student: nn.Module, task: Any) -> "Teachers":
        """The checkpoints PATH[:PATH...], each compared with the student, moved to its device and precision."""
        models = [_load(Path(path), student, task) for path in paths.split(":")]
        own = next(student.parameters())
        return cls([model.to(device=own.device, dtype=own.dtype) for model in models])

    @torch.no_grad()
    def outputs(self, sample: Mapping[str, Any], once: OnePass = one_pass) -> list[Outputs]:
        """What each teacher makes of a batch."""
        return [once(model, sample, sample["net_input"]) for model in self.models]

    def probabilities(self, sample: Mapping[str, Any], rows: Tensor) -> Teacher:
        """What the teachers think of the targets `rows` of a batch, made a few rows at a time when it is asked for."""
        made = [
            (outputs.reshape(-1, outputs.shape[-1]).index_select(0, rows), weight)
            for outputs, weight in self.outputs(sample)
        ]

        def of(start: int, stop: int) -> Tensor:
            mean: Tensor | None = None
            for outputs, weight in made:
                scores = outputs[start:stop]
                if weight is not None:
                    scores = scores @ weight.to(scores.dtype).T
                p = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
                mean = p if mean is None else mean.add_(p)
            assert mean is not None
            return mean.div_(len(made))

        return of


def _load(path: Path, student: nn.Module, task: Any) -> nn.Module:
    """One teacher; one that cannot teach this student is refused with the reason."""
    remedy = "give --teacher the path of a checkpoint, or PATH:PATH for several"
    state = checkpoints.read(path, "teacher", remedy)
    if (reason := _other_task(state["cfg"].task, task)) or (reason := _other_shape(state["model"], student)):
        raise UserError(
            f"{path} cannot teach this model: {reason}; "
            "give a checkpoint of the same architecture, trained on the same binarised data"
        )
    models, _ = checkpoint_utils.load_model_ensemble([str(path)], task=task, state=state)
    return models[0]


def _other_shape(weights: Mapping[str, Tensor], student: nn.Module) -> str | None:
    """How the weights of a checkpoint are not those of the student."""
    mine = _shapes(student.state_dict().items())
    its = _shapes(weights.items())
    for name, shape in mine.items():
        if name not in its:
            return f"it has no {name}"
        if its[name] != shape:
            return f"{name} is {its[name]} there and {shape} here"
    more = next((name for name in its if name not in mine), None)
    return f"it has {more}, which is missing here" if more else None


def _shapes(weights: Iterable[tuple[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in weights if not name.endswith(_NO_WEIGHTS)}


def _other_task(its: Any, task: Any) -> str | None:
    """How the task that a checkpoint was trained for differs from this run's: kind, dictionaries if still there."""
    sentences = isinstance(task, SentencePredictionTask)
    if issubclass(TASK_REGISTRY.get(its._name, object), SentencePredictionTask) != sentences:
        return f"its task is {its._name}"
    if sentences:
        if its.regression_target != task.cfg.regression_target:
            return f"--regression-target is {its.regression_target} there"
        words = [("input", "input0/dict.txt", task.source_dictionary)]
        if not task.cfg.regression_target:
            words.append(("label", "label/dict.txt", task.label_dictionary))
        return _other_dictionary(its, words, task)
    words = []
    for side, mine in (("source", task.source_dictionary), ("target", task.target_dictionary)):
        language, other = (getattr(cfg, f"{side}_lang") for cfg in (task.cfg, its))
        if other not in (None, language):  # None: fairseq found it out from the folder
            return f"its {side} language is {other} and not {language}"
        words.append((side, f"dict.{language}.txt", mine))
    return _other_dictionary(its, words, task)


def _other_dictionary(its: Any, words: Iterable[tuple[str, str, Dictionary]], task: Any) -> str | None:
    folder = Path(str(its.data).split(":")[0])
    for side, name, mine in words:
        file = folder / name
        if not file.is_file():
            logger.info("the teacher's %s dictionary %s is gone: only its size is compared", side, file)
        elif task.load_dictionary(str(file)) != mine:
            return f"another dictionary: the words of {file} are not this run's"
    return None
