"""Processes that work on chunks of lines: order kept, and only a few chunks in memory at a time.

Fresh interpreters (spawn), since threads of this process hold locks that a fork would copy. They end with the process
that started them, however it ends. Left out on purpose: sharing anything; work and chunks are pickled.
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
    """`jobs` processes; where it is one, this process does the work itself."""

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
        """The result of one call."""
        if self._pool is None:
            return work(*args)
        with _told():
            return self._submit(work, *args).result()

    def map(self, work: Callable[[_T], _U], chunks: Iterable[_T]) -> Iterator[_U]:
        """`work` on each chunk, results in the order of the chunks."""
        return (result for _, result in self.each(work, chunks))

    def each(self, work: Callable[[_T], _U], chunks: Iterable[_T]) -> Iterator[tuple[_T, _U]]:
        """The same with the chunk beside its result."""
        if self._pool is None:
            for chunk in chunks:
                yield chunk, work(chunk)
            return
        waiting: deque[tuple[_T, Any]] = deque()
        with _told():
            for chunk in chunks:
                waiting.append((chunk, self._submit(work, chunk)))
                if len(waiting) > 2 * self.jobs:
                    first, done = waiting.popleft()
                    yield first, done.result()
            while waiting:
                first, done = waiting.popleft()
                yield first, done.result()

    def _submit(self, work: Callable[..., _U], *args: Any) -> "Future[_U]":
        """The first call starts the processes."""
        assert self._pool is not None
        with without_interrupts():
            return self._pool.submit(work, *args)


def chunks(items: Iterable[_T], size: int = LINES) -> Iterator[list[_T]]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        refuse_when_stopping()
        raise UserError("a process died at work, perhaps for want of memory; type the same with --jobs 1") from None
