"""XNLI (Conneau et al. 2018): trained on the English of MultiNLI, evaluated in fifteen languages.

dev and test are one file each for all languages; English dev chooses the checkpoint. The length is that of Li et al.
2023, Table 8.
"""

from types import MappingProxyType

from .sentences import SentenceData, Split, TableFile, Task

LANGUAGES = tuple("ar bg de el en es fr hi ru sw th tr ur vi zh".split())
_PAIR = ("sentence1", "sentence2")


def _split(subset: str, language: str) -> str:
    """The name of a split; fairseq validates on `valid`, which is English dev."""
    return "valid" if (subset, language) == ("dev", "en") else f"{subset}.{language}"


def _evaluation_split(subset: str, language: str, count: int) -> Split:
    table = TableFile(f"xnli.{subset}.tsv", _PAIR, "gold_label", only=("language", language))
    return Split(_split(subset, language), (table,), count)


# The English side of XNLI's machine translations is MultiNLI, and so is GLUE's MNLI: any of the files will do.
_TRAIN = (
    TableFile("multinli.train.en.tsv", ("premise", "hypo"), "label"),
    TableFile("multinli_1.0_train.txt", _PAIR, "gold_label"),
    TableFile("MNLI/train.tsv", _PAIR, "gold_label"),
)

_TASK = Task(
    name="XNLI",
    what="entailment, neutrality or contradiction of two sentences",
    labels=("contradiction", "entailment", "neutral"),
    metrics=("accuracy",),
    alpha=0.5,  # Xu et al. 2022, Table 6, has it for MNLI
    splits=(
        Split("train", _TRAIN, 392_702),
        *(_evaluation_split("dev", language, 2490) for language in LANGUAGES),
        *(_evaluation_split("test", language, 5010) for language in LANGUAGES),
    ),
    subsets={subset: {language: _split(subset, language) for language in LANGUAGES} for subset in ("dev", "test")},
    spellings={"contradictory": "contradiction"},  # spelt so in XNLI-MT
)

XNLI = SentenceData(
    name="xnli",
    what="MultiNLI for training, XNLI's fifteen languages for evaluation",
    tasks=MappingProxyType({"en": _TASK}),
    recipes=("xlmr", "roberta"),
    longest=256,
)
