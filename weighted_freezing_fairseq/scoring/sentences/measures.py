"""The measures of sentence-level tasks, by scikit-learn and scipy.

A measure is 0 where it would divide by zero (one class only, a constant prediction). Significance tests use vectorised
versions in numpy, which score many resampled sets at once; a test compares both versions.
"""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ...errors import UserError

Array = Any  # numpy array of predictions or labels, along the last axis


def _rows(predicted: Array, gold: Array) -> tuple[Array, Array]:
    return predicted, gold


@dataclass(frozen=True)
class Measure:
    """A measure of predictions against gold labels.

    Args:
        title: what the papers' tables call it.
        package: the package that computes it.
        score: of one set, from 1-dimensional arrays (predicted, gold).
        scores: of many sets, along the last axis.
        units: what is scored and resampled, from the labels of one set; here, its rows.
    """

    title: str
    package: str
    score: Callable[[Array, Array], float]
    scores: Callable[[Array, Array], Array]
    units: Callable[[Array, Array], tuple[Array, Array]] = _rows

    def of(self, predicted: Array, gold: Array) -> float:
        """The score of the labels of one set."""
        return self.score(*self.units(predicted, gold))

    @property
    def signature(self) -> str:
        """Title, package and version: what a score needs to be compared."""
        return f"{self.title}|{self.package}:{importlib.metadata.version(self.package)}"


def _accuracy(predicted: Array, gold: Array) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(gold, predicted))


def _accuracy_along(predicted: Array, gold: Array) -> Array:
    return (predicted == gold).mean(-1)


def _f1(predicted: Array, gold: Array) -> float:
    """F1 of class 1."""
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, labels=[1], average="micro", zero_division=0.0))


def _f1_along(predicted: Array, gold: Array) -> Array:
    true_positives = ((predicted == 1) & (gold == 1)).sum(-1)
    return _ratio(2 * true_positives, (predicted == 1).sum(-1) + (gold == 1).sum(-1))


def _macro_f1(predicted: Array, gold: Array) -> float:
    """The mean of F1 over the classes that are predicted or gold."""
    from sklearn.metrics import f1_score

    return float(f1_score(gold, predicted, average="macro", zero_division=0.0))


def _macro_f1_along(predicted: Array, gold: Array) -> Array:
    total, classes = 0.0, 0.0
    for number in range(int(max(predicted.max(), gold.max())) + 1):
        both = (predicted == number).sum(-1) + (gold == number).sum(-1)
        total = total + _ratio(2 * ((predicted == number) & (gold == number)).sum(-1), both)
        classes = classes + (both > 0)
    return total / classes


def _mcc(predicted: Array, gold: Array) -> float:
    from sklearn.metrics import matthews_corrcoef

    if _constant(predicted) or _constant(gold):
        return 0.0
    return float(matthews_corrcoef(gold, predicted))


def _pearson(predicted: Array, gold: Array) -> float:
    from scipy.stats import pearsonr

    return 0.0 if _constant(predicted) or _constant(gold) else float(pearsonr(predicted, gold).statistic)


def _pearson_along(predicted: Array, gold: Array) -> Array:
    import numpy as np

    x, y = (values - values.mean(-1, keepdims=True) for values in (predicted, gold))
    return _ratio((x * y).sum(-1), np.sqrt((x**2).sum(-1) * (y**2).sum(-1)))


def _spearman(predicted: Array, gold: Array) -> float:
    from scipy.stats import spearmanr

    return 0.0 if _constant(predicted) or _constant(gold) else float(spearmanr(predicted, gold).statistic)


def _spearman_along(predicted: Array, gold: Array) -> Array:
    from scipy.stats import rankdata

    return _pearson_along(rankdata(predicted, axis=-1), rankdata(gold, axis=-1))


def ndcg_of_queries(predicted: Array, gold: Array) -> tuple[Array, Array]:
    """The nDCG of each query with several rows, which are ranked by their predicted labels; and the best, 1 each.

    DCG = sum_i label_i / log2(1 + i) over the ranks i, of equal predictions the mean over their orders; nDCG = DCG
    over that of the order of the gold labels, 0 where all of them are 0. As in xglue_evaluate.py, which also leaves out
    queries with one row.

    Args:
        gold: two rows, the labels and the numbers of the queries; equal numbers follow each other.
    """
    import numpy as np
    from sklearn.metrics import ndcg_score

    labels, queries = gold
    starts = np.flatnonzero(np.diff(queries)) + 1
    rankings = zip(*(np.split(values, starts) for values in (predicted, labels)), strict=True)
    found = [ndcg_score([of_query], [ranking]) for ranking, of_query in rankings if len(of_query) > 1]
    return np.array(found), np.ones(len(found))


def _mean(values: Array, best: Array) -> float:
    return float(values.mean()) if len(values) else 0.0


def _mean_along(values: Array, best: Array) -> Array:
    return values.mean(-1)


def _constant(values: Array) -> bool:
    return bool((values == values[0]).all())


def _ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient, or 0 where the denominator is 0."""
    import numpy as np

    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=np.asarray(denominator) > 0)


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "accuracy": Measure("accuracy", "scikit-learn", _accuracy, _accuracy_along),
        "mcc": Measure("Matthews", "scikit-learn", _mcc, _pearson_along),  # correlation of classes 0 and 1
        "f1": Measure("F1", "scikit-learn", _f1, _f1_along),
        "macro_f1": Measure("macro F1", "scikit-learn", _macro_f1, _macro_f1_along),
        "pearson": Measure("Pearson", "scipy", _pearson, _pearson_along),
        "spearman": Measure("Spearman", "scipy", _spearman, _spearman_along),
        "ndcg": Measure("nDCG", "scikit-learn", _mean, _mean_along, ndcg_of_queries),
    }
)


def as_numbers(lines: Sequence[str], labels: Sequence[str], path: Any) -> Array:
    """Classes as their index in `labels`, or numbers where `labels` is empty; `path` is for error messages.

    Of the gold labels of a ranked task, a second row has the numbers of the queries.
    """
    import numpy as np

    texts, _, queries = zip(*(line.partition("\t") for line in lines), strict=True) if lines else ((), (), ())
    try:
        numbers = np.array([labels.index(text) for text in texts] if labels else [float(text) for text in texts])
        if any(queries):
            numbers = np.stack([numbers, np.array(list(map(int, queries)))])
    except ValueError:
        raise UserError(f"{path} has a label that is none of {', '.join(labels) or 'the numbers'}") from None
    if not np.isfinite(numbers).all():
        raise UserError(f"{path} has predictions that are not finite; the training diverged: try a lower learning rate")
    return numbers


def all_scores(predicted: Array, gold: Array, metrics: Sequence[str]) -> dict[str, float]:
    """The scores of one set by each metric, times 100 as the papers print them."""
    return {name: 100 * MEASURES[name].of(predicted, gold) for name in metrics}
