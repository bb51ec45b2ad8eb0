"""The loss of whole sentences: fairseq's `sentence_prediction`, of K passes, or beside a teacher.

Classification takes divergences of the distributions over its few classes, regression the squared difference of its
outputs (Xu et al. 2022, section 3.2 and eq. 9). Left out on purpose: what is added to it, which is the row's
(`criterions.py`).
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.criterions.sentence_prediction import SentencePredictionConfig, SentencePredictionCriterion
from omegaconf import DictConfig
from torch import Tensor, nn

from ..core.losses import DIVERGENCES, mean_squared, teacher_divergence
from ..errors import UserError
from .passes import Outputs, looped, unwrapped
from .teachers import Teachers


class SentenceLoss(SentencePredictionCriterion):
    settings = SentencePredictionConfig
    loss_names = ("ce_loss", "mse_loss")

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        super().__init__(cfg, task)

    @property
    def loss_name(self) -> str:
        """What its own loss is logged as."""
        return "mse_loss" if self.regression_target else "ce_loss"

    def sizes(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """What sums over one batch are divided by; fairseq counts every target of a regression as a sentence."""
        count = sample["target"].numel()
        return {"ntokens": sample["ntokens"], "nsentences": count, "sample_size": count}

    def one_pass(self, model: nn.Module, sample: Mapping[str, Any], inputs: Mapping[str, Any]) -> Outputs:
        """The scores of the classification head, (rows, classes)."""
        *_, inner = unwrapped(model)
        if self.classification_head_name not in getattr(inner, "classification_heads", ()):
            raise UserError(
                f"{type(inner).__name__} has no classification head {self.classification_head_name!r}; "
                "take an encoder that has one, such as --arch roberta_base"
            )
        args = getattr(inner, "args", None)
        if any(getattr(args, f"{part}_reg_scale_factor", 0) for part in ("mha", "ffn")):
            raise UserError("this criterion lacks AdaPrune's terms; leave out --mha- and --ffn-reg-scale-factor")
        return model(**inputs, features_only=True, classification_head_name=self.classification_head_name)[0], None

    def held_together(
        self, outputs: Outputs, sample: Mapping[str, Any], divergence: str, strength: float
    ) -> tuple[Tensor, dict[str, Any]]:
        """The mean loss of K passes and `strength` times what they differ by (eq. 10)."""
        made = _exact(outputs[0])
        own, logged = self._mean_over_passes(made, sample)
        apart = (mean_squared(made) if self.regression_target else DIVERGENCES[divergence](made.log_softmax(-1))).sum()
        return own + strength * apart, {**logged, "divergence": apart.detach()}

    def taught(
        self, model: nn.Module, sample: Mapping[str, Any], teachers: Teachers, weight: float
    ) -> tuple[Tensor, dict[str, Any]]:
        """The loss of one pass and `weight` times KL(teachers || student), or their squared difference."""
        told = [_exact(outputs) for outputs, _ in teachers.outputs(sample, self.one_pass)]
        made = _exact(looped(model, sample, 1, self.one_pass)[0])
        own, logged = self._mean_over_passes(made, sample)
        if self.regression_target:
            name, apart = "teacher_mse", (made[0] - torch.stack(told).mean(0)).square().sum()
        else:
            q = torch.stack(told).softmax(-1).mean(0)
            name, apart = "teacher_kl", teacher_divergence(made[0].log_softmax(-1), q).sum()
        return own + weight * apart, {**logged, name: apart.detach()}

    def _mean_over_passes(self, made: Tensor, sample: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """fairseq's loss of each of K passes, (K, sentences, outputs), and the mean of them."""
        passes = len(made)
        target = sample["target"].view(-1).repeat(passes)
        if self.regression_target:
            loss = F.mse_loss(made.view(-1), target.to(made.dtype), reduction="sum") / passes
            return loss, {self.loss_name: loss.detach()}
        scores = made.flatten(0, 1)
        loss = F.cross_entropy(scores, target, reduction="sum") / passes
        correct = (scores.argmax(-1) == target).sum() / passes
        return loss, {self.loss_name: loss.detach(), "ncorrect": correct}


def _exact(outputs: Tensor) -> Tensor:
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
