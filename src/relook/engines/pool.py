"""Threads that share the work of one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Pool:
    """A pool of threads, which are started when they are first needed.

    Threads may share a pool: together they get no more than its number of threads. A forked
    process starts threads of its own.

    >>> from relook.engines.pool import Pool
    >>> Pool(threads=2).map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._started: tuple[int, ThreadPoolExecutor] | None = None

    def map(self, call: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call a function with each item, and return the results in the order of the items.

        A single item is left to the calling thread. If a call fails, its exception is raised, and
        items whose turn has not come are dropped.
        """
        if len(items) == 1 or self._threads == 1:
            return [call(item) for item in items]
        return list(self._executor().map(call, items))

    def _executor(self) -> ThreadPoolExecutor:
        started = self._started
        if started is None or started[0] != os.getpid():  # a fork does not copy threads
            # Without a lock, two threads may make one each; that which is not kept ends by itself.
            started = (os.getpid(), ThreadPoolExecutor(self._threads, "relook"))
            self._started = started
        return started[1]
