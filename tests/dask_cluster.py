"""Clusters of worker processes for the tests, and ways to disturb them."""

from __future__ import annotations

import gc
import os
import signal
import time
from contextlib import contextmanager, suppress

from fmfast.dask import rounds, worker


@contextmanager
def cluster_of(n_workers):
    """A client of a LocalCluster of processes with one thread each; those that are killed start anew."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def die_in(function_name, on_call, path):
    """Run on workers: the first process in its given call of a function kills itself, when the work is done.

    Only the one that makes the file does.
    """
    module = rounds if hasattr(rounds, function_name) and function_name == "merge_slices" else worker
    original = getattr(module, function_name)
    calls = [0]

    def dying(*arguments):
        found = original(*arguments)
        calls[0] += 1
        if calls[0] == on_call:
            with suppress(FileExistsError), open(path, "x"):
                os.kill(os.getpid(), signal.SIGKILL)
        return found

    dying.__name__ = function_name
    setattr(module, function_name, dying)


def all_answer(client, n_workers):
    """Whether there are so many workers, and none among them that is dead without anybody knowing yet."""
    found = client.run(os.getpid, on_error="return")
    return len(found) == n_workers and all(isinstance(pid, int) for pid in found.values())


def kill_all(client):
    """SIGKILL the processes of all workers."""
    for pid in client.run(os.getpid).values():
        os.kill(pid, signal.SIGKILL)


def spoil_table():
    """Run on a worker: its tables are no longer what they should be."""
    for slot in list(worker._SLOTS.values()):
        slot.state = None


def slots(client):
    """Tables of fits that the workers hold."""
    return sum(client.run(_n_slots).values())


def _n_slots():
    gc.collect()  # an error of a task that was lost may be part of a cycle
    return len(worker._SLOTS)


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
