"""Significance of the difference between two systems: over sentences, over seeds, and of several comparisons at once.

Over sentences: paired bootstrap resampling (Koehn 2004) and paired approximate randomisation (Riezler and Maxwell
2005), as `sacrebleu --paired-bs` and `--paired-ar` compute them, with their defaults and their seed.
"""

import hashlib
import json
import os
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ..files import write_atomically
from ..forms import NUMBER, read_json


@dataclass(frozen=True)
class PValues:
    """The p-value of a difference by each test, and the signatures of the tests ("": of no test)."""

    bootstrap: float
    bootstrap_signature: str
    randomisation: float
    randomisation_signature: str


_FORM = {
    "bootstrap": NUMBER, "bootstrap_signature": str, "randomisation": NUMBER, "randomisation_signature": str,
}  # fmt: skip


class Scorer(Protocol):
    """Scores and compares the outputs of systems; a text is a list of lines, one for each sentence."""

    @property
    def package(self) -> str:
        """The package that computes the score."""

    @property
    def signature(self) -> str:
        """The signature of scores by the installed version."""

    def score(self, system: Sequence[str], reference: Sequence[str]) -> float: ...

    def p_values(self, baseline: Sequence[str], system: Sequence[str], reference: Sequence[str]) -> PValues:
        """Both tests of a system against a baseline."""


@dataclass(frozen=True)
class Bleu:
    """BLEU by sacreBLEU. The memory of its tests grows with lines times samples: 120 MB for 1000 lines."""

    lowercase: bool = False
    package = "sacreBLEU"

    def _metric(self, reference: Sequence[str]) -> Any:
        from sacrebleu.metrics import BLEU

        return BLEU(lowercase=self.lowercase, references=[list(reference)])

    @property
    def signature(self) -> str:
        return str(self._metric([""]).get_signature())

    def score(self, system: Sequence[str], reference: Sequence[str]) -> float:
        score: float = self._metric(reference).corpus_score(list(system), None).score
        return score

    def p_values(self, baseline: Sequence[str], system: Sequence[str], reference: Sequence[str]) -> PValues:
        from sacrebleu.significance import PairedTest

        if list(baseline) == list(system):  # sacreBLEU's p-value is the smallest here
            return PValues(1.0, "", 1.0, "")
        p_values: dict[str, tuple[float, str]] = {}
        for kind in ("bs", "ar"):
            metric = {"BLEU": self._metric(reference)}
            systems = [("baseline", list(baseline)), ("system", list(system))]
            signatures, results = PairedTest(systems, metric, references=None, test_type=kind)()
            p_values[kind] = results["BLEU"][1].p_value, str(signatures["BLEU"])
        return PValues(*p_values["bs"], *p_values["ar"])


def cached_p_values(
    baseline: Sequence[str], system: Sequence[str], reference: Sequence[str], cache: Path, scorer: Scorer | None = None
) -> PValues:
    """Both tests of a scorer (default: BLEU); results are kept in the file `cache`, by a hash of the texts.

    20,000 lines take about a minute, and a growing matrix is reported many times.
    """
    scorer = scorer or Bleu()
    if baseline == system:  # no test, and no use of a value that an earlier version stored
        return scorer.p_values(baseline, system, reference)
    seed = os.environ.get("SACREBLEU_SEED")  # sacreBLEU takes its seed from here
    content = json.dumps([scorer.signature, seed, baseline, system, reference])
    key = hashlib.sha256(content.encode()).hexdigest()
    p_values: dict[str, Any] = {}
    if cache.is_file():
        p_values = read_json(cache, {key: _FORM}, f"to test again, type: rm {shlex.quote(str(cache))}")
    if key not in p_values:
        p_values[key] = asdict(scorer.p_values(baseline, system, reference))
        write_atomically(cache, json.dumps(p_values, indent=2) + "\n")
    return PValues(**{name: p_values[key][name] for name in _FORM})


def seed_p_value(baseline: Sequence[float], system: Sequence[float]) -> float | None:
    """Two-sided paired t test of scores of the same seeds: d = system - baseline, t = mean(d) / (sd(d) / sqrt(n)).

    None for fewer than two seeds, or if all differences are equal, because then there is no deviation to compare with.
    A permutation test cannot replace it: with n seeds its smallest p-value is 2 / 2^n, 0.0625 for five.
    """
    from scipy.stats import ttest_rel

    differences = [ours - theirs for ours, theirs in zip(system, baseline, strict=True)]
    rounding = 1e-9 * max(map(abs, (*baseline, *system)), default=0)
    if len(differences) < 2 or statistics.stdev(differences) <= rounding:
        return None
    return float(ttest_rel(system, baseline).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979), in the same order.

    With p_(1) <= ... <= p_(m): corrected p_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
