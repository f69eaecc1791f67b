"""Worker processes and clusters."""

from __future__ import annotations

from pathlib import Path

import distributed


def local_cluster(workers: int = 2) -> distributed.LocalCluster:
    """On ports that are free: other tests may have a cluster at the same time."""
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
    )


def command_line(pid: str) -> bytes:
    """Of a process; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
