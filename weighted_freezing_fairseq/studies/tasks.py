"""The task of a data set: language pairs to translate, or sentences to label.

`TranslationTask` and `SentenceTask` have the same methods: what depends on the task in training (`pair`, `languages`,
`prepare`, `needs_parent`, `parent_methods`, `mask_density`, `settings`), and in scoring (`scoring_steps`,
`checked_data`, `score`).
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
        raise UserError(f"--encoder is for {', '.join(SENTENCES)}; leave it out")
    return TranslationTask(DATASETS[dataset])
