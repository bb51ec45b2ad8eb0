"""Whether two systems' labels of the same sentences differ by more than chance: paired tests by scipy, with fixed seed.

Approximate randomisation swaps both systems' labels of a sentence; the bootstrap draws sentences anew, and asks how
often the difference is as far from its mean as the one that was found is from 0, as sacreBLEU does. Left out on
purpose: statistics of our own.
"""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...data.sentences import Task
from ..significance import PValues
from .measures import MEASURES, as_numbers

_SWAPS, _DRAWS, _SEED = 9999, 1000, 12345
_NUMBERS = 1 << 22  # in memory at once


@dataclass(frozen=True)
class Labels:
    """The score of a task's first measure, and its tests."""

    task: Task

    @property
    def package(self) -> str:
        return MEASURES[self.task.metrics[0]].package

    @property
    def signature(self) -> str:
        return MEASURES[self.task.metrics[0]].signature

    def score(self, system: Sequence[str], reference: Sequence[str]) -> float:
        return 100 * MEASURES[self.task.metrics[0]].of(*self._numbers(system, reference))

    def p_values(self, baseline: Sequence[str], system: Sequence[str], reference: Sequence[str]) -> PValues:
        import numpy as np
        from scipy import stats

        measure = MEASURES[self.task.metrics[0]].along
        theirs, mine, gold = self._numbers(baseline, system, reference)
        if (theirs == mine).all():  # nothing to swap
            return PValues(1.0, self._signed("bootstrap", _DRAWS), 1.0, self._signed("randomisation", _SWAPS))

        def gain(one: Any, other: Any, wanted: Any = gold, axis: int = -1) -> Any:
            return measure(other, wanted) - measure(one, wanted)

        at_once = max(1, _NUMBERS // len(gold))
        swapped = stats.permutation_test(
            (theirs, mine), gain, permutation_type="samples", vectorized=True, n_resamples=_SWAPS, batch=at_once,
            rng=np.random.default_rng(_SEED),
        )  # fmt: skip
        drawn = stats.bootstrap(
            (theirs, mine, gold), gain, paired=True, vectorized=True, n_resamples=_DRAWS, batch=at_once,
            method="percentile", rng=np.random.default_rng(_SEED),
        ).bootstrap_distribution  # fmt: skip
        far = (np.abs(drawn - drawn.mean()) >= abs(gain(theirs, mine))).sum()
        return PValues(
            float((far + 1) / (_DRAWS + 1)),
            self._signed("bootstrap", _DRAWS),
            float(swapped.pvalue),
            self._signed("randomisation", _SWAPS),
        )

    def _numbers(self, *texts: Sequence[str]) -> list[Any]:
        return [as_numbers(lines, self.task.labels, self.task.name) for lines in texts]

    def _signed(self, test: str, samples: int) -> str:
        return f"{self.signature}|{test}:{samples}|seed:{_SEED}|scipy:{importlib.metadata.version('scipy')}"
