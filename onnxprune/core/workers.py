"""One function over many items: here, in parallel processes, or on a dask cluster; a lost worker loses nothing."""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from onnxprune.core.threads import cores
from onnxprune.errors import OptionError, WorkerError

Item = TypeVar("Item")
Value = TypeVar("Value")
_ALONE = 2  # processes that one item gets for itself before it is given up
_HANDED, _PAUSE = 5, 0.5  # times that shared data are sent to a cluster, and the seconds between
_AHEAD = 3  # items that a cluster holds per thread, so that none waits for the next


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """What became of one item: the value, or the exception that the function raised."""

    index: int
    value: Value | None = None
    error: Exception | None = None


def spread(
    function: Callable[..., Value],
    items: Sequence[Item],
    *,
    jobs: int = 1,
    cluster: str | None = None,
    apart: bool = False,
    shared: Any = None,
) -> Generator[Outcome[Value], None, None]:
    """Call the function on every item; outcomes come as they finish. Function, items and values must be picklable.

    Args:
        function: a function of a module. It may be called again on an item whose worker was lost.
        items: what it is called on.
        jobs: processes; 1 calls it here.
        apart: a single job gets a process as well, so that what kills it does not kill the asker.
        cluster: the address of a dask scheduler, which takes the place of processes.
        shared: what every call needs, if any: it goes to each worker once, and `function` takes (item, shared).

    Raises:
        OptionError: jobs is below 1, or the cluster cannot be reached.
        WorkerError: the cluster was lost.
    """
    if jobs < 1:
        raise OptionError(f"jobs must be at least 1, not {jobs}")
    if cluster is not None:
        yield from _on_cluster(function, items, cluster, shared)
    elif jobs == 1 and not apart:
        given = function if shared is None else partial(_with, function, shared)
        yield from (_called(given, index, item) for index, item in enumerate(items))
    else:
        given = function if shared is None else partial(_with_held, function)
        yield from _in_processes(given, items, partial(_pool, shared), jobs)


def _with(function: Callable[..., Value], shared: Any, item: Item) -> Value:
    return function(item, shared)


_held: Any = None  # in a worker process: what all calls share


def _with_held(function: Callable[..., Value], item: Item) -> Value:
    return function(item, _held)


def _called(function: Callable[[Item], Value], index: int, item: Item) -> Outcome[Value]:
    try:
        return Outcome(index, function(item))
    except Exception as error:  # handed on: whose items they are knows what to do about it
        return Outcome(index, error=error)


Pool = Callable[[int], contextlib.AbstractContextManager[Executor]]


def _in_processes(
    function: Callable[[Item], Value], items: Sequence[Item], pool_of: Pool, jobs: int
) -> Iterator[Outcome[Value]]:
    """A dead process breaks the whole pool and nothing says whose it was: what was at work then runs again alone."""
    waiting = list(range(len(items)))[::-1]
    while waiting:
        suspects: list[int] = []
        with pool_of(jobs) as pool:
            futures: dict[Future[Value], int] = {}
            while futures or (waiting and not suspects):
                while waiting and not suspects and len(futures) < jobs:
                    index = waiting.pop()
                    try:
                        with _uninterrupted():
                            futures[pool.submit(function, items[index])] = index
                    except BrokenExecutor:
                        suspects.append(index)
                for future in wait(futures, return_when=FIRST_COMPLETED).done:
                    index = futures.pop(future)
                    if isinstance(future.exception(), BrokenExecutor):
                        suspects.append(index)
                    else:
                        yield _outcome(index, future)
        for index in suspects:
            yield _alone(function, index, items[index], pool_of)


def _alone(function: Callable[[Item], Value], index: int, item: Item, pool_of: Pool) -> Outcome[Value]:
    """In a process of its own, more than once: the first may have been killed by somebody who is not there any more."""
    for _ in range(_ALONE):
        with pool_of(1) as pool:
            with _uninterrupted():
                future = pool.submit(function, item)
            if not isinstance(future.exception(), BrokenExecutor):
                return _outcome(index, future)
    return _given_up(index)


def _given_up(index: int) -> Outcome[Value]:
    return Outcome(index, error=WorkerError("its process was killed each time (is there enough memory?)"))


def _outcome(index: int, future: Future[Value]) -> Outcome[Value]:
    error = future.exception()
    if error is None:
        return Outcome(index, future.result())
    if isinstance(error, Exception):
        return Outcome(index, error=error)
    raise error


@contextlib.contextmanager
def _pool(shared: Any, jobs: int) -> Iterator[Executor]:
    """Processes that end with this one, however it ends."""
    known = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (max(1, cores() // jobs), shared))
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - known:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that are begun here never see Ctrl-C, not even while they start: it is the asker's, who ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(threads: int, shared: Any) -> None:
    """In a new process: numpy, not imported yet, gets its share of the cores; it does not outlive the asker."""
    global _held
    _held = shared
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _on_cluster(
    function: Callable[..., Value], items: Sequence[Item], address: str, shared: Any
) -> Iterator[Outcome[Value]]:
    """Through dask's standard executor; its scheduler gives what a lost worker held to another, a few times.

    It then blames all that the worker held, most of it only waiting: that runs again alone, after the others.
    """
    with _client(address) as client, client.get_executor(pure=False) as pool:
        from distributed import KilledWorker

        more = () if shared is None else (_handed_out(client, shared, address),)
        suspects: list[int] = []
        width = _AHEAD * max(1, sum(client.ncores().values()))
        for index, future in _submitted(pool, function, items, more, range(len(items)), width):
            if isinstance(_error(future, address), KilledWorker):
                suspects.append(index)
            else:
                yield _outcome(index, future)
        for index, future in _submitted(pool, function, items, more, suspects, 1):
            killed = isinstance(_error(future, address), KilledWorker)
            yield _given_up(index) if killed else _outcome(index, future)


def _handed_out(client: Any, shared: Any, address: str) -> Any:
    """What all calls share, at every worker: one that has just died is asked until the scheduler misses it."""
    for _ in range(_HANDED):
        with contextlib.suppress(OSError):
            return client.scatter(shared, broadcast=True, hash=False)
        time.sleep(_PAUSE)
    raise WorkerError(f"the cluster at {address} was lost")


def _submitted(
    pool: Executor,
    function: Callable[..., Value],
    items: Sequence[Item],
    more: tuple[Any, ...],
    indices: Sequence[int],
    width: int,
) -> Iterator[tuple[int, Future[Value]]]:
    """The futures of some items as they finish, at most `width` of them at a time."""
    waiting = iter(indices)
    futures: dict[Future[Value], int] = {}
    try:
        while True:
            for index in itertools.islice(waiting, width - len(futures)):
                futures[pool.submit(function, items[index], *more)] = index
            if not futures:
                return
            for future in wait(futures, return_when=FIRST_COMPLETED).done:
                yield futures.pop(future), future
    finally:
        for future in futures:
            future.cancel()


def _error(future: Future[Value], address: str) -> BaseException | None:
    if future.cancelled():
        raise WorkerError(f"the cluster at {address} was lost")
    return future.exception()


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise OptionError("--cluster needs dask: pip install 'onnxprune[cluster]'") from error
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise OptionError(f"no dask scheduler answers at {address}: {error}") from error
    told = logging.getLogger("distributed.client")
    level = told.level
    told.setLevel(logging.CRITICAL + 1)  # what is lost is an error here, and needs no traceback besides
    try:
        with client:
            yield client
    finally:
        told.setLevel(level)
