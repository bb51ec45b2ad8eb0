"""The loss of tasks that predict words: fairseq's label-smoothed cross entropy, for one pass or K passes.

`core/fused.py` computes it over large vocabularies.
"""

from typing import Any

from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from omegaconf import DictConfig
from torch import nn

from ..core.fused import passes_loss
from .passes import LossAndLog, Outputs, Sample, looped, one_pass
from .teachers import Teachers


class TokenLoss(LabelSmoothedCrossEntropyCriterion):
    settings = LabelSmoothedCrossEntropyCriterionConfig
    loss_name = "ce_loss"  # its name in the log of a criterion that adds a term
    loss_names = ("ce_loss",)
    one_pass = staticmethod(one_pass)

    def __init__(self, task: Any, cfg: DictConfig) -> None:
        super().__init__(
            task,
            cfg.sentence_avg,
            cfg.label_smoothing,
            ignore_prefix_size=cfg.ignore_prefix_size,
            report_accuracy=cfg.report_accuracy,
        )

    def sizes(self, sample: Sample) -> dict[str, Any]:
        """The counts of a batch for averages."""
        nsentences = sample["target"].size(0)
        sample_size = nsentences if self.sentence_avg else sample["ntokens"]
        return {"ntokens": sample["ntokens"], "nsentences": nsentences, "sample_size": sample_size}

    def of_passes(self, outputs: Outputs, sample: Sample, divergence: str, strength: float) -> LossAndLog:
        """The mean loss of K passes plus `strength` times their divergence."""
        return self._fused(outputs, sample, "divergence", divergence, strength, None)

    def with_teachers(self, model: nn.Module, sample: Sample, teachers: Teachers, weight: float) -> LossAndLog:
        """The loss of one pass plus `weight` times KL(teachers || student)."""
        return self._fused(looped(model, sample, 1), sample, "teacher_kl", "teacher", weight, teachers)

    def _fused(
        self, outputs: Outputs, sample: Sample, term: str, divergence: str, strength: float, teachers: Teachers | None
    ) -> LossAndLog:
        """Cross entropy plus `strength` times a divergence, which is logged as `term`.

        Targets that are padding or in an ignored prefix are dropped first.
        """
        target = sample["target"]
        counts = target.ne(self.padding_idx)
        counts[:, : self.ignore_prefix_size] = False
        rows = counts.view(-1).nonzero().view(-1)
        teacher = None if teachers is None else teachers.probabilities(sample, rows)
        features, weight = outputs
        sums = passes_loss(
            features.index_select(1, rows),
            target.view(-1)[rows],
            weight,
            eps=self.eps,
            divergence=divergence,
            strength=strength,
            teacher=teacher,
            count_correct=self.report_accuracy,
        )
        logged = {"nll_loss": sums.nll, "ce_loss": sums.cross_entropy, term: sums.divergence}
        if self.report_accuracy:
            logged |= {"n_correct": sums.correct, "total": len(rows)}
        return sums.loss, logged
