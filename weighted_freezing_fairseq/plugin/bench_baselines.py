"""Baselines of `wff bench`: torch's fused AdamW, and Intra-Distillation without fused kernels.

They are for measurements only. Importing this module registers them, which only `wff bench` does.
"""

from collections.abc import Iterable
from typing import Any

import torch
from fairseq.criterions import CRITERION_REGISTRY, register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor, nn
from torch.nn.functional import kl_div

from .criterions import IntraDistillation, IntraDistillationConfig


def has_criterion(name: str) -> bool:
    """Whether a criterion is registered in fairseq."""
    return name in CRITERION_REGISTRY


@register_optimizer("adamw_of_torch", dataclass=FairseqAdamConfig)
class FusedAdamW(FairseqAdam):
    """`--optimizer adam` with torch's fused step.

    fairseq has a fused step only on a GPU, by apex.
    """

    def __init__(self, cfg: Any, params: Iterable[torch.Tensor]) -> None:
        FairseqOptimizer.__init__(self, cfg)
        self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)


@register_criterion("intra_distillation_plain", dataclass=IntraDistillationConfig)
class PlainIntraDistillation(IntraDistillation):
    """The loss and gradients of `--pass-mode loop`, computed directly by Xu et al. 2022, eq. 8 to 10.

    Like the authors' code, it stores the log-probabilities of K passes, their mean distribution and the divergences to
    and from the mean as full float32 tensors of tokens x vocabulary.
    """

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
        p = [log_probabilities.exp() for log_probabilities in log_p]
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
