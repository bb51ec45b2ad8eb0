"""XNLI (Conneau et al. 2018): trained on the English of MultiNLI, evaluated in fifteen languages.

Its dev and test are one file each for all languages; English dev chooses the checkpoint. The length is that of Li et
al. 2023, Table 8. Left out on purpose: training on its translations.
"""

from types import MappingProxyType

from .sentences import SentenceData, Split, TableFile, Task

LANGUAGES = tuple("ar bg de el en es fr hi ru sw th tr ur vi zh".split())
_PAIR = ("sentence1", "sentence2")


def _split(subset: str, language: str) -> str:
    """English dev is what fairseq validates on, under the name that it asks for."""
    return "valid" if (subset, language) == ("dev", "en") else f"{subset}.{language}"


def _of(subset: str, language: str, count: int) -> Split:
    table = TableFile(f"xnli.{subset}.tsv", _PAIR, "gold_label", only=("language", language))
    return Split(_split(subset, language), (table,), count)


# Either of the archives: the English side of XNLI's machine translations is MultiNLI itself, and so is GLUE's MNLI.
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
        *(_of("dev", language, 2490) for language in LANGUAGES),
        *(_of("test", language, 5010) for language in LANGUAGES),
    ),
    subsets={subset: {language: _split(subset, language) for language in LANGUAGES} for subset in ("dev", "test")},
    spellings={"contradictory": "contradiction"},  # so in XNLI-MT
)

XNLI = SentenceData(
    name="xnli",
    what="MultiNLI for training, XNLI's fifteen languages for evaluation",
    tasks=MappingProxyType({"en": _TASK}),
    recipes=("xlmr", "roberta"),
    longest=256,
)
