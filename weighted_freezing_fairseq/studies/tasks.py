"""The task of a data set: language pairs that are translated, or sentences that are labelled.

`TranslationTask` and `SentenceTask` have the same methods: what the task decides of a training (`pair`, `languages`,
`prepare`, `starts_from_a_run`, `settings`), and how runs are scored (`scorings`, `refuse_early`, `score`).
"""

from pathlib import Path

from ..data import DATASETS, SENTENCES
from ..errors import UserError
from .sentences.task import SentenceTask
from .translation import TranslationTask

StudyTask = TranslationTask | SentenceTask


def task_of(dataset: str, encoder: Path | None = None) -> StudyTask:
    """The task of a data set by its name; `encoder`: the folder that fine-tuning starts from."""
    if dataset in SENTENCES:
        return SentenceTask(SENTENCES[dataset], encoder and encoder.resolve())
    if encoder:
        raise UserError(f"--encoder is for {' and '.join(SENTENCES)}; leave it out")
    return TranslationTask(DATASETS[dataset])
