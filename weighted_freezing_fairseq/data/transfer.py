"""Cross-lingual transfer: a task that is trained on English and evaluated in many languages, by accuracy.

English dev chooses the checkpoint. The length of an example is that of Li et al. 2023, Table 8.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .sentences import SentenceData, Split, TableFile, Task


def transfer_data(
    name: str,
    what: str,
    languages: Sequence[str],
    train: Split,
    table: Callable[[str, str], TableFile],
    sizes: Mapping[str, int],
    /,
    **task: Any,
) -> SentenceData:
    """A data set with one task, `en`.

    Args:
        train: its training set, in English.
        table: the file of a subset and a language.
        sizes: number of rows of each subset in each language.
        task: the other attributes of the task, its own name among them.
    """
    subsets = {subset: {language: _split(subset, language) for language in languages} for subset in sizes}
    evaluated = (
        Split(split, (table(subset, language),), sizes[subset])
        for subset, splits in subsets.items()
        for language, split in splits.items()
    )
    english = Task(metrics=("accuracy",), splits=(train, *evaluated), subsets=subsets, **task)
    return SentenceData(name, what, MappingProxyType({"en": english}), ("xlmr", "roberta"), longest=256)


def _split(subset: str, language: str) -> str:
    """The name of a split; fairseq validates on `valid`, which is English dev."""
    return "valid" if (subset, language) == ("dev", "en") else f"{subset}.{language}"
