"""Intra-Distillation as its equations read (Xu et al. 2022, eq. 8 to 10), for `wff bench` to measure ours against.

K forward passes one after the other to K sets of log-probabilities, a cross entropy of each, their mean distribution,
and divergences to and from it, all over whole float32 tensors of tokens x vocabulary with torch's autograd, as the
authors' code has it, written anew. Left out on purpose: everything that makes it cheaper. Importing this registers it.
"""

from typing import Any

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from torch import Tensor, nn
from torch.nn.functional import kl_div

from ..plugin.criterions import IntraDistillation, IntraDistillationConfig

NAME = "intra_distillation_plain"


@register_criterion(NAME, dataclass=IntraDistillationConfig)
class PlainIntraDistillation(IntraDistillation):
    """The loss and the gradients of `intra_distillation --pass-mode loop`, at the cost of the plain way."""

    def guided(self, model: nn.Module, sample: dict[str, Any], sample_size: Any) -> tuple[Tensor, dict[str, Any]]:
        passes, target = self.cfg.num_passes, sample["target"].view(-1, 1)
        padding = target.eq(self.padding_idx)
        log_p, losses, nlls = [], [], []
        for _ in range(passes):
            output = model(**sample["net_input"])
            log_p.append(model.get_normalized_probs(output, log_probs=True).view(len(target), -1))
            loss, nll = label_smoothed_nll_loss(log_p[-1], target, self.loss.eps, ignore_index=self.padding_idx)
            losses.append(loss)
            nlls.append(nll)
        p = [each.exp() for each in log_p]
        mean = torch.stack(p).mean(0)
        log_mean = mean.log()
        divergences = []
        for k in range(passes):  # KL(p_k || mean) and KL(mean || p_k)
            for log_q, q in ((log_mean, p[k]), (log_p[k], mean)):
                divergences.append(
                    kl_div(log_q, q, reduction="none").sum(-1, keepdim=True).masked_fill(padding, 0).sum()
                )
        cross_entropy = torch.stack(losses).mean()
        divergence = torch.stack(divergences).sum() / passes
        strength = self.strength
        logged = {"nll_loss": torch.stack(nlls).mean(), "ce_loss": cross_entropy, "divergence": divergence}
        logged = {name: value.detach() for name, value in logged.items()}
        return cross_entropy + strength * divergence, {**logged, "alpha": strength * sample_size}
