"""The measures of sentence-level tasks, in hundredths as the papers print them, by scikit-learn and scipy.

A score is defined for every input: where a measure divides by nothing (one class only, a constant prediction), it is 0.
The same measures in numpy, over many resampled sets at once, are for significance alone; a test holds both equal. Left
out on purpose: measures that no table of the papers has.
"""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...errors import UserError

Array = Any  # numpy's, of predictions or labels along the last axis


@dataclass(frozen=True)
class Measure:
    """What a paper's table calls it; the score of one set; and that of sets along the last axis."""

    title: str
    package: str
    of: Callable[[Array, Array], float]
    along: Callable[[Array, Array], Array]

    @property
    def signature(self) -> str:
        """With what it takes to compare it."""
        return f"{self.title}|{self.package}:{importlib.metadata.version(self.package)}"


def _accuracy(predicted: Array, gold: Array) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(gold, predicted))


def _accuracy_along(predicted: Array, gold: Array) -> Array:
    return (predicted == gold).mean(-1)


def _f1(predicted: Array, gold: Array) -> float:
    """Of class 1."""
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, labels=[1], average="micro", zero_division=0.0))


def _f1_along(predicted: Array, gold: Array) -> Array:
    both = ((predicted == 1) & (gold == 1)).sum(-1)
    return _ratio(2 * both, (predicted == 1).sum(-1) + (gold == 1).sum(-1))


def _mcc(predicted: Array, gold: Array) -> float:
    from sklearn.metrics import matthews_corrcoef

    if _constant(predicted) or _constant(gold):
        return 0.0
    return float(matthews_corrcoef(gold, predicted))


def _mcc_along(predicted: Array, gold: Array) -> Array:
    """Of two classes, 0 and 1: their correlation."""
    return _pearson_along(predicted, gold)


def _pearson(predicted: Array, gold: Array) -> float:
    from scipy.stats import pearsonr

    return 0.0 if _constant(predicted) or _constant(gold) else float(pearsonr(predicted, gold).statistic)


def _pearson_along(predicted: Array, gold: Array) -> Array:
    import numpy as np

    one, other = (values - values.mean(-1, keepdims=True) for values in (predicted, gold))
    return _ratio((one * other).sum(-1), np.sqrt((one**2).sum(-1) * (other**2).sum(-1)))


def _spearman(predicted: Array, gold: Array) -> float:
    from scipy.stats import spearmanr

    return 0.0 if _constant(predicted) or _constant(gold) else float(spearmanr(predicted, gold).statistic)


def _spearman_along(predicted: Array, gold: Array) -> Array:
    from scipy.stats import rankdata

    return _pearson_along(rankdata(predicted, axis=-1), rankdata(gold, axis=-1))


def _constant(values: Array) -> bool:
    return bool((values == values[0]).all())


def _ratio(above: Array, below: Array) -> Array:
    """0 where there is nothing to divide by."""
    import numpy as np

    return np.divide(above, below, out=np.zeros(np.shape(below)), where=np.asarray(below) > 0)


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "accuracy": Measure("accuracy", "scikit-learn", _accuracy, _accuracy_along),
        "mcc": Measure("Matthews", "scikit-learn", _mcc, _mcc_along),
        "f1": Measure("F1", "scikit-learn", _f1, _f1_along),
        "pearson": Measure("Pearson", "scipy", _pearson, _pearson_along),
        "spearman": Measure("Spearman", "scipy", _spearman, _spearman_along),
    }
)


def as_numbers(lines: Sequence[str], labels: Sequence[str], path: Any) -> Array:
    """Classes by their place in `labels`, or numbers where there are none."""
    import numpy as np

    try:
        found = np.array([labels.index(line) for line in lines] if labels else [float(line) for line in lines])
    except ValueError:
        raise UserError(f"{path} holds a label that is none of {', '.join(labels) or 'the numbers'}") from None
    if not np.isfinite(found).all():
        raise UserError(
            f"{path} holds predictions that are no numbers; the training diverged: try a lower learning rate"
        )
    return found


def all_scores(predicted: Array, gold: Array, metrics: Sequence[str]) -> dict[str, float]:
    """Of one set, in hundredths."""
    return {name: 100 * MEASURES[name].of(predicted, gold) for name in metrics}
