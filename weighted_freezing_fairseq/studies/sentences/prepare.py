"""`wff prepare glue` and `wff prepare xnli`: files that the user has, in the subwords of an encoder, as fairseq reads.

Which tasks, which files; then `data/sentence_folder.py` makes each task's folder. Left out on purpose: downloads, since
these data sets and encoders have terms of their own.
"""

from collections.abc import Sequence
from pathlib import Path

from ...data import prepared, sentence_folder
from ...data.encoders import Encoder
from ...data.sentence_folder import TaskJob
from ...data.sentences import SentenceData
from ...data.workers import Workers
from ...errors import UserError
from ..folders import make_folders

_MOST = 512  # positions that fairseq's encoders were trained with


def task_jobs(
    data: SentenceData,
    encoder: Path | None,
    tasks: Sequence[str] | None,
    out: Path,
    recipe: str | None = None,
    *,
    longest: int | None = None,
    any_counts: bool = False,
) -> list[TaskJob]:
    """What to prepare in `out`.

    Args:
        encoder: the folder of a pretrained model.
        tasks: their names, in any case of letters (None: all).
        recipe: the kind of the encoder, if the user named it.
        longest: pieces of one example (None: the papers').
        any_counts: accept files with more or fewer rows than they should have.
    """
    keys = tasks_of(data, tasks)
    if encoder is None:
        raise UserError(
            "give --encoder the folder of a pretrained model as fairseq publishes it: roberta.base, xlmr.base"
        )
    pretrained = Encoder.of(encoder)
    if recipe not in (None, pretrained.kind):
        raise UserError(f"{encoder} is of the kind {pretrained.kind}; type --recipe {pretrained.kind}, or leave it out")
    longest = data.longest if longest is None else longest
    if not 8 <= longest <= _MOST:
        raise UserError(f"--max-length must be between 8 and {_MOST}, got {longest}; type --max-length {data.longest}")
    return [
        TaskJob(data, data.tasks[key], pretrained, prepared(out, pretrained.kind, key), longest, any_counts)
        for key in keys
    ]


def tasks_of(data: SentenceData, words: Sequence[str] | None) -> list[str]:
    """The keys of the tasks asked for, each once; None: all."""
    keys = [word.lower() for word in words] if words else list(data.tasks)
    for key in keys:
        if key not in data.tasks:
            raise UserError(f"{data.name} has no task {key!r} here; type some of: {','.join(data.tasks)}")
    return list(dict.fromkeys(keys))


def plan_of_tasks(jobs: Sequence[TaskJob]) -> list[str]:
    """What `prepare_tasks` would do, in lines."""
    return [line for job in jobs for line in _plan(job)]


def prepare_tasks(jobs: Sequence[TaskJob], given: Sequence[Path], processes: int) -> list[str]:
    """Make every folder that is not there yet from the files that are `given`; returns a line about each.

    One task after the other, each with all processes: a task that cannot be prepared does not stop the others.
    """
    to_do = {job.task.name: job for job in jobs if not job.is_done()}
    if to_do:
        _refuse_missing(given, next(iter(to_do.values())))

        def make(job: TaskJob, workers: Workers) -> None:
            sentence_folder.make(job, given, workers)

        make_folders(to_do, TaskJob.is_done, make, processes, at_once=1)
    return [f"{job.task.name}: {job.summary()} rows in {job.folder}" for job in jobs]


def _refuse_missing(given: Sequence[Path], job: TaskJob) -> None:
    if not given:
        members = ", ".join(job.task.members)
        raise UserError(f"give --archive the files of {job.task.name}, a folder or a zip with: {members}")
    for path in given:
        if not path.exists():
            raise UserError(f"there is no {path}; give --archive files, folders or zips")


def _plan(job: TaskJob) -> list[str]:
    """What would be done to one task."""
    if job.is_done():
        return [f"{job.task.name}: {job.folder} is there already; nothing to do"]
    return [
        f"{job.task.name}: would make {job.folder}",
        f"  read {', '.join(job.task.members)}",
        f"  in the subwords of {job.encoder.folder} ({job.encoder.kind}), at most {job.longest} in one example",
    ]
