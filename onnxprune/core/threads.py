"""A few threads that work on chunks of weights side by side: numpy releases the lock in its heavy calls.

Results come in the order of the items whatever the number of threads, and so does everything that is made of
them. Only a few chunks are in flight at a time, so that memory does not grow with the weights.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

from onnxprune.errors import OptionError

Item = TypeVar("Item")
Made = TypeVar("Made")

MAX_THREADS = 4  # threads by default: each takes some 100 MB, and reading is what more of them wait for

_pool: ContextVar[tuple[ThreadPoolExecutor, int] | None] = ContextVar("pool", default=None)
_inside = threading.local()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def using(jobs: int | None) -> Iterator[None]:
    """Let `run` use so many threads; 1 works in the caller's own, None is one for each core, up to `MAX_THREADS`.

    Raises:
        OptionError: jobs is below 1.
    """
    jobs = min(cores(), MAX_THREADS) if jobs is None else jobs
    if jobs < 1:
        raise OptionError(f"jobs must be at least 1, not {jobs}")
    if jobs == 1:
        yield
        return
    with ThreadPoolExecutor(jobs, "onnxprune", lambda: setattr(_inside, "worker", True)) as pool:
        token = _pool.set((pool, jobs))
        try:
            yield
        finally:
            _pool.reset(token)


def run(work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """`map`, by the threads of `using`; a single item is done by the caller, and what a worker starts by itself."""
    alone = getattr(_inside, "worker", False) or (isinstance(items, Sequence) and len(items) == 1)
    held = None if alone else _pool.get()
    if held is None:
        yield from map(work, items)
        return
    pool, jobs = held
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            if len(waiting) > jobs:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
