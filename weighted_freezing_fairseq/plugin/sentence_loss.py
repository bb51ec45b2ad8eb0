"""The loss of tasks that predict a label of a sentence: fairseq's `sentence_prediction`, for one pass or K.

Classification compares distributions over its few classes, regression takes the squared difference of its outputs (Xu
et al. 2022, section 3.2 and eq. 9). Left out on purpose: the strength of the term that a row adds (`criterions.py`).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.criterions.sentence_prediction import SentencePredictionConfig, SentencePredictionCriterion
from omegaconf import DictConfig
from torch import Tensor, nn

from ..core.divergences import DIVERGENCES, mean_squared, teacher_divergence
from ..errors import UserError
from .passes import LossAndLog, Outputs, Sample, looped, unwrapped
from .teachers import Teachers


class SentenceLoss(SentencePredictionCriterion):
    settings = SentencePredictionConfig
    loss_names = ("ce_loss", "mse_loss")

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        super().__init__(cfg, task)

    @property
    def loss_name(self) -> str:
        """Its name in the log beside another term."""
        return "mse_loss" if self.regression_target else "ce_loss"

    def sizes(self, sample: Sample) -> dict[str, Any]:
        """The counts that sums over a batch are divided by; fairseq counts each regression target as a sentence."""
        count = sample["target"].numel()
        return {"ntokens": sample["ntokens"], "nsentences": count, "sample_size": count}

    def one_pass(self, model: nn.Module, sample: Sample, inputs: Mapping[str, Any]) -> Outputs:
        """The scores of the classification head, (rows, classes)."""
        *_, inner = unwrapped(model)
        if self.classification_head_name not in getattr(inner, "classification_heads", ()):
            raise UserError(
                f"{type(inner).__name__} has no classification head {self.classification_head_name!r}; "
                "use an encoder that has one, such as --arch roberta_base"
            )
        args = getattr(inner, "args", None)
        if any(getattr(args, f"{part}_reg_scale_factor", 0) for part in ("mha", "ffn")):
            raise UserError("AdaPrune is not supported; leave out --mha-reg-scale-factor and --ffn-reg-scale-factor")
        return model(**inputs, features_only=True, classification_head_name=self.classification_head_name)[0], None

    def of_passes(self, outputs: Outputs, sample: Sample, divergence: str, strength: float) -> LossAndLog:
        """The mean loss of K passes plus `strength` times their divergence (eq. 10)."""
        y = _exact(outputs[0])
        mean_loss, logged = self._mean_over_passes(y, sample)
        apart = (mean_squared(y) if self.regression_target else DIVERGENCES[divergence](y.log_softmax(-1))).sum()
        return mean_loss + strength * apart, {**logged, "divergence": apart.detach()}

    def with_teachers(self, model: nn.Module, sample: Sample, teachers: Teachers, weight: float) -> LossAndLog:
        """The loss of one pass plus `weight` times KL(teachers || student), or their squared difference."""
        of_teachers = torch.stack([_exact(outputs) for outputs, _ in teachers.outputs(sample, self.one_pass)])
        y = _exact(looped(model, sample, 1, self.one_pass)[0])
        loss, logged = self._mean_over_passes(y, sample)
        if self.regression_target:
            name, apart = "teacher_mse", (y[0] - of_teachers.mean(0)).square().sum()
        else:
            q = of_teachers.softmax(-1).mean(0)
            name, apart = "teacher_kl", teacher_divergence(y[0].log_softmax(-1), q).sum()
        return loss + weight * apart, {**logged, name: apart.detach()}

    def _mean_over_passes(self, y: Tensor, sample: Sample) -> LossAndLog:
        """The mean of fairseq's loss over K passes with outputs `y`, (K, sentences, outputs)."""
        passes = len(y)
        target = sample["target"].view(-1).repeat(passes)
        if self.regression_target:
            loss = F.mse_loss(y.view(-1), target.to(y.dtype), reduction="sum") / passes
            return loss, {self.loss_name: loss.detach()}
        scores = y.flatten(0, 1)
        loss = F.cross_entropy(scores, target, reduction="sum") / passes
        correct = (scores.argmax(-1) == target).sum() / passes
        return loss, {self.loss_name: loss.detach(), "ncorrect": correct}


def _exact(outputs: Tensor) -> Tensor:
    """In float32 at least."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
