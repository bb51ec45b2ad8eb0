"""Cross-lingual transfer: tasks that are trained on English and evaluated in many languages.

English dev chooses the checkpoint. The length of an example is that of Li et al. 2023, Table 8, and of O'Neill et al.
2022, section 4.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .sentences import SentenceData, Split, TableFile, Task


def transfer_task(
    languages: Sequence[str],
    train: Split,
    table: Callable[[str, str], TableFile],
    sizes: Mapping[str, int | Sequence[int]],
    /,
    metrics: Sequence[str] = ("accuracy",),
    **task: Any,
) -> Task:
    """A task.

    Args:
        train: its training set, in English.
        table: the file of a subset and a language.
        sizes: number of rows of each subset in each language; one number if all languages have as many.
        task: the other attributes of the task, its name among them.
    """
    subsets = {subset: {language: _split(subset, language) for language in languages} for subset in sizes}
    evaluated = (
        Split(split, (table(subset, language),), count)
        for subset, splits in subsets.items()
        for (language, split), count in zip(splits.items(), _counts(sizes[subset], len(languages)), strict=True)
    )
    return Task(metrics=tuple(metrics), splits=(train, *evaluated), subsets=subsets, **task)


def transfer_data(name: str, what: str, tasks: Mapping[str, Task]) -> SentenceData:
    """A data set of tasks by key."""
    return SentenceData(name, what, MappingProxyType(tasks), ("xlmr", "roberta"), longest=256)


def _split(subset: str, language: str) -> str:
    """The name of a split; fairseq validates on `valid`, which is English dev."""
    return "valid" if (subset, language) == ("dev", "en") else f"{subset}.{language}"


def _counts(size: int | Sequence[int], languages: int) -> Sequence[int]:
    return [size] * languages if isinstance(size, int) else size
