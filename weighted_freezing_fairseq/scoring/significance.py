"""Whether two systems differ by more than the choice of test sentences explains: sacreBLEU's own two tests of BLEU.

Paired bootstrap resampling (Koehn 2004) and paired approximate randomisation (Riezler and Maxwell 2005), as `sacrebleu
--paired-bs` and `--paired-ar` do them, with their defaults and their seed. Left out on purpose: statistics of our own.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ..files import write_atomically
from ..forms import NUMBER, read_json


@dataclass(frozen=True)
class PValues:
    """The probability of so large a difference between equal systems, by either test, each with its signature."""

    bootstrap: float
    bootstrap_signature: str
    randomisation: float
    randomisation_signature: str


_FORM = {
    "bootstrap": NUMBER, "bootstrap_signature": str, "randomisation": NUMBER, "randomisation_signature": str,
}  # fmt: skip


class Scorer(Protocol):
    """A measure of whole test sets, line by line: its signature where it is installed, its score, and its tests."""

    @property
    def package(self) -> str:
        """What computes it."""

    @property
    def signature(self) -> str: ...

    def score(self, system: Sequence[str], reference: Sequence[str]) -> float: ...

    def p_values(self, baseline: Sequence[str], system: Sequence[str], reference: Sequence[str]) -> PValues:
        """Both tests of one system against a baseline, line by line the outputs for the same sentences."""


@dataclass(frozen=True)
class Bleu:
    """sacreBLEU's. Memory of its tests grows with lines times samples: 120 MB a thousand lines."""

    lowercase: bool = False  # both sides
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

        p_values: dict[str, tuple[float, str]] = {}
        for kind in ("bs", "ar"):
            metric = {"BLEU": self._metric(reference)}
            systems = [("baseline", list(baseline)), ("system", list(system))]
            signatures, results = PairedTest(systems, metric, references=None, test_type=kind)()
            p_values[kind] = results["BLEU"][1].p_value, str(signatures["BLEU"])
        return PValues(*p_values["bs"], *p_values["ar"])


def kept_p_values(
    baseline: Sequence[str], system: Sequence[str], reference: Sequence[str], kept: Path, scorer: Scorer | None = None
) -> PValues:
    """The tests of a scorer (default: BLEU), looked up in the file `kept` where the same texts were tested before.

    20,000 lines take about a minute, and a matrix is reported again and again while it grows.
    """
    scorer = scorer or Bleu()
    seed = os.environ.get("SACREBLEU_SEED")  # sacreBLEU's way to choose another one
    content = json.dumps([scorer.signature, seed, baseline, system, reference])
    key = hashlib.sha256(content.encode()).hexdigest()
    known: dict[str, Any] = {}
    if kept.is_file():
        known = read_json(kept, {key: _FORM}, f"to test again, type: rm {shlex.quote(str(kept))}")
    if key not in known:
        known[key] = asdict(scorer.p_values(baseline, system, reference))
        write_atomically(kept, json.dumps(known, indent=2) + "\n")
    return PValues(**{name: known[key][name] for name in _FORM})
