"""Calls that must wait for a lock."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

_T = TypeVar("_T")


def waits_for(lock: AbstractContextManager[None], *calls: Callable[[], _T]) -> list[_T]:
    """The results of calls at once, none of which ends while `lock` is held here."""
    results: list[_T] = []
    threads = [threading.Thread(target=lambda call=call: results.append(call())) for call in calls]
    with lock:
        for thread in threads:
            thread.start()
        threads[0].join(0.7)
        assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join(60)
    assert len(results) == len(calls)
    return results
