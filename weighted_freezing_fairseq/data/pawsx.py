"""PAWS-X (Yang et al. 2019): trained on the English of PAWS-Wiki, evaluated in seven languages.

Each language has a folder in x-final.tar.gz. Its translations of the training set are left out. In dev and test, the
text of a sentence that was not translated is "NS"; these rows count, as in the XTREME benchmark.
"""

from collections.abc import Sequence

from .sentences import Split, TableFile, Task
from .transfer import transfer_data, transfer_task

LANGUAGES = tuple("de en es fr ja ko zh".split())


def paws_task(languages: Sequence[str]) -> Task:
    """PAWS-X, evaluated in some of its languages."""
    return transfer_task(
        languages,
        Split("train", (_table("train", "en"),), 49_401),
        lambda subset, language: _table(f"{subset}_2k", language),
        {"dev": 2000, "test": 2000},
        name="PAWS-X",
        what="whether two sentences say the same",
        labels=("0", "1"),
        alpha=0.5,  # Xu et al. 2022, Table 6, has it for QQP
    )


def _table(file: str, language: str) -> TableFile:
    return TableFile(f"{language}/{file}.tsv", ("sentence1", "sentence2"), "label")


PAWSX = transfer_data(
    "pawsx", "English PAWS for training, PAWS-X's seven languages for evaluation", {"en": paws_task(LANGUAGES)}
)
