"""`wff prepare` of labelled sentences: from the user's files, in the subwords of an encoder, to fairseq's format.

Here: which tasks and files. `data/sentence_folder.py` makes the folder of each task. Nothing is downloaded, since these
data sets and encoders have terms of use.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from ...data import prepared, sentence_folder
from ...data.encoders import Encoder
from ...data.own import TABLE_NAMES, is_table
from ...data.own_sentences import OwnTables, read_task
from ...data.recipe import OWN
from ...data.sentence_folder import TaskJob
from ...data.sentences import OWN_SENTENCES, SentenceData
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
    pretrained = pretrained_encoder(encoder)
    if recipe not in (None, pretrained.kind):
        raise UserError(f"{encoder} is of the kind {pretrained.kind}; type --recipe {pretrained.kind}, or leave it out")
    longest = longest_example(data, longest)
    return [
        TaskJob(data, data.tasks[key], pretrained, prepared(out, pretrained.kind, key), longest, any_counts)
        for key in keys
    ]


def pretrained_encoder(folder: Path | None) -> Encoder:
    """The encoder in the folder that the user must give."""
    if folder is None:
        raise UserError(
            "give --encoder the folder of a pretrained model as fairseq publishes it: roberta.base, xlmr.base"
        )
    return Encoder.of(folder)


def longest_example(data: SentenceData, pieces: int | None) -> int:
    """The maximum number of pieces of an example (None: that of the data set)."""
    longest = data.longest if pieces is None else pieces
    if not 8 <= longest <= _MAX_POSITIONS:
        raise UserError(
            f"--max-length must be between 8 and {_MAX_POSITIONS}, got {longest}; type --max-length {data.longest}"
        )
    return longest


def tasks_of(data: SentenceData, names: Sequence[str] | None) -> list[str]:
    """The keys of the tasks that the user named, without duplicates (None: all); of one's own tables, any name."""
    if data is OWN_SENTENCES:
        return list(dict.fromkeys(names or [OWN]))
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


def own_job(tables: OwnTables, encoder: Path | None, out: Path, name: str = OWN, longest: int | None = None) -> TaskJob:
    """The job that prepares the user's own tables in OUT/ENCODER/NAME; reads the tables once."""
    pretrained = pretrained_encoder(encoder)
    longest = longest_example(OWN_SENTENCES, longest)
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"--name must be a name for a folder, got {name!r}; type --name {OWN}")
    _refuse_invalid(tables)
    own = read_task(name, tables)
    return TaskJob(OWN_SENTENCES, own.task, pretrained, prepared(out, pretrained.kind, name), longest, own=own)


def _refuse_invalid(tables: OwnTables) -> None:
    """Raise UserError for files and columns that cannot be what they should be."""
    columns = [*tables.text, tables.label]
    for column in columns:
        if columns.count(column) > 1:
            raise UserError(f"column {column!r} is given {columns.count(column)} times; give each column once")
    paths = [path for files in tables.files.values() for path in files]
    for path in paths:
        if not path.is_file():
            raise UserError(f"there is no file {path}; give a table whose name ends in {TABLE_NAMES}")
        if not is_table(path):
            raise UserError(f"{path} is not a table; give one whose name ends in {TABLE_NAMES}")
        if paths.count(path) > 1:
            raise UserError(f"{path} is given {paths.count(path)} times; give each file to one split only")
    for split in tables.files:
        if split in ("dev", *tables.held_out) or not re.fullmatch(r"\w[\w.-]*", split):
            raise UserError(f"a test set cannot be called {split!r}; type --test NAME=FILE with another name")


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
