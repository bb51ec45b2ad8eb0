"""XGLUE (Liang et al. 2020): its tasks of sentences, trained on English and evaluated in three to fifteen languages.

The files are those of xglue_full_dataset.tar.gz as Hugging Face's `datasets` and Unicoder, the baseline of XGLUE's
authors, read them: without a header, and with labels in the tests, which the archive has since 26 November 2020. What
Unicoder has as one sentence is one here: a title and the text below it, after a query. Left out: NER, POS and MLQA,
which label words, and the two tasks of generation.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .pawsx import paws_task
from .sentences import ALPHA, Columns, Split, TableFile, Task
from .transfer import transfer_data, transfer_task
from .xnli import xnli_task

_SIZES = MappingProxyType({"dev": 10_000, "test": 10_000})


def _task(
    name: str,
    languages: str,
    inputs: Sequence[Columns],
    labels: str,
    train: int = 100_000,
    sizes: Mapping[str, int | Sequence[int]] = _SIZES,
    **task: Any,
) -> Task:
    """A task of XGLUE's own; `inputs`: the columns of each sentence, which are those of its files in order."""
    columns = [column for names in inputs for column in ([names] if isinstance(names, str) else names)]

    def table(subset: str, language: str) -> TableFile:
        file = f"xglue.{name.lower()}.{language}.{subset}"
        return TableFile(file, tuple(inputs), "label", names=(*columns, "label"))

    splits = languages.split(), Split("train", (table("train", "en"),), train), table, sizes
    return transfer_task(*splits, name=name, labels=tuple(labels.split()), alpha=ALPHA, **task)


def _xnli_table(subset: str, language: str) -> TableFile:
    return TableFile(f"XNLI/{language}.{subset}", ("premise", "hypo"), "label", names=("premise", "hypo", "label"))


XGLUE = transfer_data(
    "xglue",
    "six tasks of XGLUE, in English for training, in up to fifteen languages for evaluation",
    {
        "nc": _task(
            "NC",
            "de en es fr ru",
            ("title", "body"),
            "autos entertainment finance foodanddrink health lifestyle news sports travel video",
            what="the category of a news article",
        ),
        "qam": _task("QAM", "de en fr", ("question", "passage"), "0 1", what="whether a passage answers a question"),
        "qadsm": _task(
            "QADSM",
            "de en fr",
            ("query", ("title", "description")),
            "Bad Good",
            what="whether an advertisement is relevant to a query",
        ),
        "wpr": _task(
            "WPR",
            "de en es fr it pt zh",
            ("query", ("title", "snippet")),
            "0 1 2 3 4",
            99_997,
            {
                "dev": (10_004, 10_008, 10_004, 10_005, 10_003, 10_001, 10_002),
                "test": (9997, 10_004, 10_006, 10_020, 10_001, 10_015, 9999),
            },
            what="how relevant a web page is to a query, from 0 to 4",
            metrics=("ndcg",),
        ),
        "xnli": xnli_task(_xnli_table),
        "pawsx": paws_task(("de", "en", "es", "fr")),
    },
)
