"""Significance of the difference between two systems' labels: paired tests by scipy, with a fixed seed.

Approximate randomisation swaps the labels of both systems for random sentences. The bootstrap resamples sentences; its
p-value is the share of samples whose difference is as far from the mean difference as the observed one is from 0, as in
sacreBLEU.
"""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..significance import PValues
from .measures import MEASURES, Measure, as_numbers

_SWAPS, _DRAWS, _SEED = 9999, 1000, 12345  # samples of randomisation and bootstrap
_MAX_NUMBERS = 1 << 22  # in memory at a time


@dataclass(frozen=True)
class Labels:
    """The `Scorer` of a task's labels by its first measure.

    Args:
        task: its name, for messages.
        classes: in order; empty: scores.
        measure: a key of `MEASURES`.
    """

    task: str
    classes: tuple[str, ...]
    measure: str

    @property
    def _measure(self) -> Measure:
        return MEASURES[self.measure]

    @property
    def package(self) -> str:
        return self._measure.package

    @property
    def signature(self) -> str:
        return self._measure.signature

    def score(self, system: Sequence[str], reference: Sequence[str]) -> float:
        return 100 * self._measure.of(*self._numbers(system, reference))

    def p_values(self, baseline: Sequence[str], system: Sequence[str], reference: Sequence[str]) -> PValues:
        import numpy as np
        from scipy import stats

        measure = self._measure.scores
        numbers = self._numbers(baseline, system, reference)
        (baseline_labels, gold), (labels, _) = (self._measure.units(labels, numbers[-1]) for labels in numbers[:2])
        signatures = [
            f"{self.signature}|{test}:{samples}|seed:{_SEED}|scipy:{importlib.metadata.version('scipy')}"
            for test, samples in (("bootstrap", _DRAWS), ("randomisation", _SWAPS))
        ]
        if (baseline_labels == labels).all():  # nothing to swap
            return PValues(1.0, signatures[0], 1.0, signatures[1])

        def gain(baseline_labels: Any, labels: Any, gold: Any = gold, axis: int = -1) -> Any:
            return measure(labels, gold) - measure(baseline_labels, gold)

        batch = max(1, _MAX_NUMBERS // len(gold))
        randomisation = stats.permutation_test(
            (baseline_labels, labels), gain, permutation_type="samples", vectorized=True, n_resamples=_SWAPS,
            batch=batch, rng=np.random.default_rng(_SEED),
        )  # fmt: skip
        gains = stats.bootstrap(
            (baseline_labels, labels, gold), gain, paired=True, vectorized=True, n_resamples=_DRAWS, batch=batch,
            method="percentile", rng=np.random.default_rng(_SEED),
        ).bootstrap_distribution  # fmt: skip
        extreme = (np.abs(gains - gains.mean()) >= abs(gain(baseline_labels, labels))).sum()
        bootstrap_p = float((extreme + 1) / (_DRAWS + 1))
        return PValues(bootstrap_p, signatures[0], float(randomisation.pvalue), signatures[1])

    def _numbers(self, *texts: Sequence[str]) -> list[Any]:
        return [as_numbers(lines, self.classes, self.task) for lines in texts]
