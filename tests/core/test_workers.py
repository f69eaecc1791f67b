"""One function over many items: nothing is lost with a worker, and an error stays with its item."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxprune.core import workers
from onnxprune.core.workers import spread
from onnxprune.errors import ModelError, OptionError, WorkerError
from tests.helpers.processes import command_line, local_cluster

distributed = pytest.importorskip("distributed")


def double(item: int) -> int:
    if item == 13:
        raise ModelError("thirteen")
    return 2 * item


def killed_once(item: tuple[int, Path]) -> int:
    """Every item whose file is not there yet takes its own process down."""
    number, marker = item
    if number % 5 == 0 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def deadly(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


@pytest.fixture(scope="module")
def scheduler():
    with local_cluster() as cluster:
        yield cluster


def by_index(outcomes):
    found = list(outcomes)
    assert len({o.index for o in found}) == len(found)
    return {o.index: o for o in found}


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_stays_with_its_item(jobs):
    found = by_index(spread(double, range(20), jobs=jobs))
    assert {i: o.value for i, o in found.items() if o.error is None} == {i: 2 * i for i in range(20) if i != 13}
    assert isinstance(found[13].error, ModelError)
    assert str(found[13].error) == "thirteen"


def test_a_lost_process_loses_no_item(tmp_path):
    items = [(number, tmp_path / str(number)) for number in range(12)]
    found = by_index(spread(killed_once, items, jobs=2))
    assert {i: o.value for i, o in found.items()} == {i: 2 * i for i in range(12)}


def test_an_item_that_kills_its_process_is_one_error():
    found = by_index(spread(deadly, range(6), jobs=2))
    assert isinstance(found[3].error, WorkerError)
    assert {o.value for o in found.values() if o.error is None} == {0, 1, 2, 4, 5}


def test_on_a_cluster(scheduler, tmp_path):
    found = by_index(spread(double, range(50), cluster=scheduler.scheduler_address))
    assert {i: o.value for i, o in found.items() if o.error is None} == {i: 2 * i for i in range(50) if i != 13}
    assert isinstance(found[13].error, ModelError)
    items = [(number, tmp_path / str(number)) for number in range(12)]
    found = by_index(spread(killed_once, items, cluster=scheduler.scheduler_address))
    assert {i: o.value for i, o in found.items()} == {i: 2 * i for i in range(12)}


def test_what_kills_every_worker_of_a_cluster_is_one_error(scheduler):
    found = by_index(spread(deadly, range(6), cluster=scheduler.scheduler_address))
    assert isinstance(found[3].error, WorkerError)
    assert {o.value for o in found.values() if o.error is None} == {0, 1, 2, 4, 5}


def test_a_cluster_that_is_lost_is_one_error():
    with local_cluster(1) as cluster:
        outcomes = spread(time.sleep, [0, 60, 60], cluster=cluster.scheduler_address)
        assert next(outcomes).index == 0
        cluster.close()
        with pytest.raises(WorkerError, match=r"the cluster at tcp://.* was lost"):
            list(outcomes)


def add(item: int, shared: int) -> int:
    return item + shared


@pytest.mark.parametrize("lost", [1, 99])
def test_shared_data_reach_a_cluster_though_a_worker_has_just_died(scheduler, monkeypatch, lost):
    """Until the scheduler misses a worker it sends to it, and hears that nobody is there."""
    real, tries = distributed.Client.scatter, []

    def scatter(client, *args, **options):
        tries.append(args)
        if len(tries) <= lost:
            raise distributed.comm.core.CommClosedError("nobody is there")
        return real(client, *args, **options)

    monkeypatch.setattr(distributed.Client, "scatter", scatter)
    monkeypatch.setattr(workers, "_PAUSE", 0)
    outcomes = spread(add, range(4), cluster=scheduler.scheduler_address, shared=5)
    if lost == 1:
        assert {i: o.value for i, o in by_index(outcomes).items()} == {0: 5, 1: 6, 2: 7, 3: 8}
    else:
        with pytest.raises(WorkerError, match=r"the cluster at tcp://.* was lost"):
            list(outcomes)


def test_no_cluster_is_one_error():
    with pytest.raises(OptionError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        list(spread(double, range(3), cluster="tcp://127.0.0.1:9"))
    with pytest.raises(OptionError, match="jobs"):
        list(spread(double, range(3), jobs=0))


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
def test_workers_end_with_the_asker():
    script = (
        "import time\nfrom onnxprune.core.workers import spread\n"
        "if __name__ == '__main__':\n    list(spread(time.sleep, [60, 60], jobs=2))\n"
    )
    asker = subprocess.Popen([sys.executable, "-c", script], env=os.environ)
    group: set[str] = set()
    deadline = time.monotonic() + 30
    while len(group) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        group = {
            pid
            for pid in os.listdir("/proc")
            if pid.isdigit() and parent(pid) == asker.pid and b"spawn_main" in command_line(pid)
        }
    assert len(group) == 2
    time.sleep(1)
    asker.kill()
    asker.wait()
    while any("spawn_main" in command_line(pid).decode() for pid in group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(b"spawn_main" in command_line(pid) for pid in group)


def parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0
