"""`wff prepare glue` and `wff prepare xnli`: files that the user has, in the subwords of an encoder, as fairseq reads.

Which tasks, which files; then `data/sentence_folder.py` makes each task's folder. Left out on purpose: downloads, since
these data sets and encoders have terms of their own.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...data import SENTENCES, prepared, sentence_folder
from ...data.encoders import Encoder
from ...data.sentences import SentenceData
from ...data.workers import Workers
from ...errors import UserError
from ...workspace.locks import alone_in
from ...workspace.progress import say

_MOST = 512  # positions that fairseq's encoders were trained with


def run(args: argparse.Namespace) -> int:
    """Every task that is not there yet; ends with a line for each on standard output."""
    data = SENTENCES[args.dataset]
    for name in ("langs", "pieces"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for translation; leave it out with {args.dataset}")
    tasks = tasks_of(data, args.pairs)
    if args.encoder is None:
        raise UserError(
            "give --encoder the folder of a pretrained model as fairseq publishes it: roberta.base, xlmr.base"
        )
    encoder = Encoder.of(args.encoder)
    if args.recipe not in (None, encoder.kind):
        raise UserError(f"{args.encoder} is of the kind {encoder.kind}; type --recipe {encoder.kind}, or leave it out")
    longest = data.longest if args.max_length is None else args.max_length
    if not 8 <= longest <= _MOST:
        raise UserError(f"--max-length {longest} is none of 8 to {_MOST}; type --max-length {data.longest}")
    if args.jobs < 1:
        raise UserError("--jobs must be at least 1; type --jobs 1, or leave it out")
    out = (args.out or Path("data") / data.name).resolve()
    jobs = [
        sentence_folder.TaskJob(
            data, data.tasks[key], encoder, prepared(out, encoder.kind, key), longest, any_counts=args.any_counts
        )
        for key in tasks
    ]
    if args.dry_run:
        print("\n".join(line for job in jobs for line in _plan(job)))
        return 0
    _prepare([job for job in jobs if not sentence_folder.is_done(job)], args.archive, args.jobs)
    for job in jobs:
        print(f"{job.task.name}: {sentence_folder.counted(job)} rows in {job.folder}")
    return 0


def tasks_of(data: SentenceData, words: str | None) -> list[str]:
    """The keys of the tasks asked for, each once, in any case of letters; none: all."""
    found = [word.lower() for word in words.split(",")] if words else list(data.tasks)
    for key in found:
        if key not in data.tasks:
            raise UserError(f"{data.name} has no task {key!r} here; type some of: {','.join(data.tasks)}")
    return list(dict.fromkeys(found))


def _prepare(jobs: Sequence[sentence_folder.TaskJob], given: Sequence[Path], processes: int) -> None:
    """One task after the other, each with all processes: a task that cannot be prepared does not stop the others."""
    if not jobs:
        return
    if not given:
        wanted = ", ".join(jobs[0].task.members)
        raise UserError(f"give --archive the files of {jobs[0].task.name}, a folder or a zip with: {wanted}")
    for path in given:
        if not path.exists():
            raise UserError(f"there is no {path}; give --archive files, folders or zips")
    failed = []
    with Workers(processes) as workers:
        for job in jobs:
            try:
                with alone_in(job.folder):
                    if not sentence_folder.is_done(job):  # by a process that had the folder until now
                        sentence_folder.make(job, given, workers)
            except UserError as error:
                say(f"{job.task.name} failed: {error}")
                failed.append(f"{job.task.name}: {error}" if len(jobs) > 1 else str(error))
    if failed:
        raise UserError("\n".join(failed))


def _plan(job: sentence_folder.TaskJob) -> list[str]:
    """What a call would do to one task."""
    if sentence_folder.is_done(job):
        return [f"{job.task.name}: {job.folder} is there already; nothing to do"]
    return [
        f"{job.task.name}: would make {job.folder}",
        f"  read {', '.join(job.task.members)}",
        f"  in the subwords of {job.encoder.folder} ({job.encoder.kind}), at most {job.longest} in one example",
    ]
