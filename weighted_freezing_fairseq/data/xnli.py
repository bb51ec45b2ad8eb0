"""XNLI (Conneau et al. 2018): trained on the English of MultiNLI, evaluated in fifteen languages.

dev and test are one file each for all languages.
"""

from collections.abc import Callable

from .sentences import Split, TableFile, Task
from .transfer import transfer_data, transfer_task

LANGUAGES = tuple("ar bg de el en es fr hi ru sw th tr ur vi zh".split())
_PAIR = ("sentence1", "sentence2")

# The English side of XNLI's machine translations is MultiNLI, and so is GLUE's MNLI: any of the files will do.
_TRAIN = (
    TableFile("multinli.train.en.tsv", ("premise", "hypo"), "label"),
    TableFile("multinli_1.0_train.txt", _PAIR, "gold_label"),
    TableFile("MNLI/train.tsv", _PAIR, "gold_label"),
)


def xnli_task(table: Callable[[str, str], TableFile]) -> Task:
    """XNLI; `table`: the file of a subset and a language."""
    return transfer_task(
        LANGUAGES,
        Split("train", _TRAIN, 392_702),
        table,
        {"dev": 2490, "test": 5010},
        name="XNLI",
        what="entailment, neutrality or contradiction of two sentences",
        labels=("contradiction", "entailment", "neutral"),
        alpha=0.5,  # Xu et al. 2022, Table 6, has it for MNLI
        spellings={"contradictory": "contradiction"},  # spelt so in XNLI-MT
    )


def _table(subset: str, language: str) -> TableFile:
    return TableFile(f"xnli.{subset}.tsv", _PAIR, "gold_label", only=("language", language))


XNLI = transfer_data(
    "xnli", "MultiNLI for training, XNLI's fifteen languages for evaluation", {"en": xnli_task(_table)}
)
