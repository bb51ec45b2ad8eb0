"""Make several folders of prepared data in parallel; an error in one does not stop the others."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from ..data.workers import Workers
from ..errors import UserError
from ..workspace.locks import lock_folder
from ..workspace.processes import thread_pool
from ..workspace.progress import say


class _Job(Protocol):
    @property
    def folder(self) -> Path: ...


_J = TypeVar("_J", bound=_Job)


def make_folders(
    jobs: Mapping[str, _J],
    is_done: Callable[[_J], bool],
    make: Callable[[_J, Workers], None],
    processes: int,
    at_once: int,
) -> None:
    """Make the folder of each named job; raises one UserError with the errors of all that failed.

    Args:
        processes: number of processes, which all folders share.
        at_once: number of folders that are made at a time.
    """

    def error_of(name: str) -> str:
        job = jobs[name]
        try:
            with lock_folder(job.folder):
                if not is_done(job):  # another process may have made it while this one waited for the lock
                    make(job, workers)
        except UserError as error:
            say(f"{name} failed: {error}")
            return f"{name}: {error}" if len(jobs) > 1 else str(error)
        return ""

    # Exit order: the processes end before the threads that feed them.
    with thread_pool(at_once) as pool, Workers(processes) as workers:
        errors = [error for error in pool.map(error_of, jobs) if error]
    if errors:
        raise UserError("\n".join(errors))
