"""A cluster of two worker processes for the tests, and ways to disturb it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager, suppress

from fmfast.dask import rounds, worker


@contextmanager
def cluster_of_two():
    """A client of a LocalCluster with two processes of one thread; those that are killed start anew."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def wait_for_two(client):
    client.wait_for_workers(2, timeout=30)


def kill(client, address=None):
    """SIGKILL a worker process; returns its address."""
    address = address or sorted(client.nthreads())[0]
    pid = client.run(os.getpid, workers=[address])[address]
    os.kill(pid, signal.SIGKILL)
    return address


def die_in(function_name, on_call, monkeypatch_at=worker):
    """Run on a worker: its process kills itself in the given call of a function, after the work is done."""
    original = getattr(monkeypatch_at, function_name)
    calls = [0]

    def dying(*arguments):
        found = original(*arguments)
        calls[0] += 1
        if calls[0] == on_call:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(monkeypatch_at, function_name, dying)


def slots(client):
    """Tables of fits that the workers hold."""
    return sum(client.run(_n_slots).values())


def _n_slots():
    return len(worker._SLOTS)


def wait_until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            if condition():
                return True
        time.sleep(0.05)
    return False


__all__ = ["cluster_of_two", "die_in", "kill", "rounds", "slots", "wait_for_two", "wait_until"]
