"""`wff prepare glue` and `wff prepare xnli`: from the user's files, in the subwords of an encoder, to fairseq's format.

Here: which tasks and files. `data/sentence_folder.py` makes the folder of each task. Nothing is downloaded, since these
data sets and encoders have terms of use.
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

_MAX_POSITIONS = 512  # of fairseq's encoders


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
    """The tasks to prepare in `out`.

    Args:
        encoder: the folder of a pretrained model.
        tasks: their names, in any case (None: all).
        recipe: the kind of the encoder, if the user named it.
        longest: maximum number of pieces of an example (None: the papers').
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
    if not 8 <= longest <= _MAX_POSITIONS:
        raise UserError(
            f"--max-length must be between 8 and {_MAX_POSITIONS}, got {longest}; type --max-length {data.longest}"
        )
    return [
        TaskJob(data, data.tasks[key], pretrained, prepared(out, pretrained.kind, key), longest, any_counts)
        for key in keys
    ]


def tasks_of(data: SentenceData, names: Sequence[str] | None) -> list[str]:
    """The keys of the tasks that the user named, without duplicates (None: all)."""
    keys = [name.lower() for name in names] if names else list(data.tasks)
    for key in keys:
        if key not in data.tasks:
            raise UserError(f"{data.name} has no task {key!r} here; type some of: {','.join(data.tasks)}")
    return list(dict.fromkeys(keys))


def plan_of_tasks(jobs: Sequence[TaskJob]) -> list[str]:
    """What `prepare_tasks` would do, as lines."""
    lines = []
    for job in jobs:
        if job.is_done():
            lines.append(f"{job.task.name}: {job.folder} is there already; nothing to do")
            continue
        lines += [
            f"{job.task.name}: would make {job.folder}",
            f"  read {', '.join(job.task.members)}",
            f"  in the subwords of {job.encoder.folder} ({job.encoder.kind}), at most {job.longest} in one example",
        ]
    return lines


def prepare_tasks(jobs: Sequence[TaskJob], files: Sequence[Path], processes: int) -> list[str]:
    """Make every folder that is missing from the user's `files`; returns a line about each.

    Tasks are prepared one by one, each with all processes; an error in one does not stop the others.
    """
    missing = {job.task.name: job for job in jobs if not job.is_done()}
    if missing:
        _refuse_missing(files, next(iter(missing.values())))

        def make(job: TaskJob, workers: Workers) -> None:
            sentence_folder.make(job, files, workers)

        make_folders(missing, TaskJob.is_done, make, processes, at_once=1)
    return [f"{job.task.name}: {job.summary()} rows in {job.folder}" for job in jobs]


def _refuse_missing(files: Sequence[Path], job: TaskJob) -> None:
    if not files:
        members = ", ".join(job.task.members)
        raise UserError(f"give --archive the files of {job.task.name}, a folder or a zip with: {members}")
    for path in files:
        if not path.exists():
            raise UserError(f"there is no {path}; give --archive files, folders or zips")
