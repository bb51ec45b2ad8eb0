"""Worker processes that map a function over chunks of lines: in order, with only a few chunks in memory.

Workers are spawned, since a fork would copy locks that threads of this process hold. They end with the process that
started them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from types import TracebackType
from typing import Any, TypeVar

from ..errors import UserError
from ..workspace.processes import end_with_parent, refuse_when_stopping, without_interrupts

LINES = 1000  # in a chunk
_T, _U = TypeVar("_T"), TypeVar("_U")


class Workers:
    """A pool of `jobs` processes; with one job this process does the work itself."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self.jobs > 1:
            self._pool = ProcessPoolExecutor(self.jobs, get_context("spawn"), end_with_parent)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=error is not None)

    def call(self, work: Callable[..., _U], *args: Any) -> _U:
        """Returns the result of one call."""
        if self._pool is None:
            return work(*args)
        with _explaining_broken_pool():
            return self._submit(work, *args).result()

    def map(self, work: Callable[[_T], _U], chunks: Iterable[_T]) -> Iterator[_U]:
        """Yields the result of `work` for each chunk, in order."""
        return (result for _, result in self.map_with_input(work, chunks))

    def map_with_input(self, work: Callable[[_T], _U], chunks: Iterable[_T]) -> Iterator[tuple[_T, _U]]:
        """Yields each chunk and its result, in order."""
        if self._pool is None:
            for chunk in chunks:
                yield chunk, work(chunk)
            return
        pending: deque[tuple[_T, Future[_U]]] = deque()
        with _explaining_broken_pool():
            for chunk in chunks:
                pending.append((chunk, self._submit(work, chunk)))
                if len(pending) > 2 * self.jobs:
                    oldest, future = pending.popleft()
                    yield oldest, future.result()
            while pending:
                oldest, future = pending.popleft()
                yield oldest, future.result()

    def _submit(self, work: Callable[..., _U], *args: Any) -> "Future[_U]":
        """Submits a call; the first one starts the processes."""
        assert self._pool is not None
        with without_interrupts():
            return self._pool.submit(work, *args)


def chunks(items: Iterable[_T], size: int = LINES) -> Iterator[list[_T]]:
    """Yields lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


@contextmanager
def _explaining_broken_pool() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        refuse_when_stopping()
        raise UserError("a worker process was killed (out of memory?); type the same command with --jobs 1") from None
