"""What does training on a cluster cost: in quality, in bytes, in time?

Quality: W2, k = 8, cut into 2 .. 64 parts, a worker each, simulated on this machine with the functions that
the workers of a cluster run (`bench.averaging`); test log loss over that of one machine after as many epochs,
for three rules of merging, and for more and fewer merges. (W2 is fitted in one epoch: from the second on one
machine overfits, and whatever learns more slowly has the lower test loss. The first epoch is the one to look
at.)

Time: a LocalCluster of two processes with one thread each against the local estimator with two threads, in
turns. What a larger cluster is to be expected to take is computed: see `epoch_seconds`.
"""

from __future__ import annotations

import math
import os
import signal
import tempfile
import threading
import time
from functools import reduce
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse as sp

from bench.averaging import Simulation
from bench.pictures import COLOURS, OTHERS, legend_below, new_figure
from bench.report import Row, Section, Table, Target, at_most
from bench.settings import Settings
from bench.workloads import Workload, load
from fmfast import FMClassifier
from fmfast.averaging import apply, combined, local_changes, merged, merges_of_epoch, train_share

N_FACTORS = 8
PARTS = (2, 4, 8, 16, 64)
RULES = ("uniform", "weighted", "default")
MERGES = (1, 4, 64)  # beside the default, for 8 parts
TOLERANCE = 1.005
CLUSTER_EPOCHS = 3
KILLED_AT = (0.2, 0.5, 0.8)  # parts of the time that a fit takes undisturbed

# The model: gigabits per second, workers, and how large the problem is: rows, features, k.
NETWORKS = (1, 10, 100)
WORKERS = (1, 2, 4, 8, 16, 32, 64)
PROBLEMS = ((1e7, 1e6, 16), (1e8, 1e7, 16), (1e9, 1e8, 16))
NNZ_PER_ROW = 39
THREADS = 8  # of a worker
THREAD_GAIN = 0.8  # of each thread but the first
SLICES, FAN_IN = 8, 4  # as in fmfast.dask.rounds


# -- quality ----------------------------------------------------------------------------------------


def quality(s: Simulation, one_machine: list[float]) -> tuple[list[Row], list[Target]]:
    rows, targets = [], []
    for n_parts in PARTS:
        n_epochs = 2 if n_parts <= 8 else 1  # many parts take long on one machine
        for rule in RULES if n_parts <= 16 else ("uniform", "default"):
            outcome = s.run(n_parts, rule, n_epochs)
            ratio = outcome.test_losses[0] / one_machine[0]
            rows.append(
                {
                    "parts": n_parts,
                    "merge": rule,
                    "merges, epoch 1": merges_of_epoch(0, n_parts),
                    "test log loss, epoch 1": outcome.test_losses[0],
                    "/ one machine": ratio,
                    "epoch 2 / one machine": outcome.test_losses[1] / one_machine[1]
                    if n_epochs > 1
                    else None,
                    "MB a worker sends per merge": outcome.sent[0],
                    "MB it gets back": outcome.received[0],
                }
            )
            if rule == "default" and n_parts <= 8:
                text = f"test log loss / one machine, {n_parts} parts, one epoch"
                targets.append(at_most(text, ratio, TOLERANCE))
    return rows, targets


def more_merges(s: Simulation, one_machine: list[float]) -> list[Row]:
    rows = []
    for merges in MERGES:
        for rule in ("weighted, state too", "default"):
            outcome = s.run(8, rule, 1, merges)
            rows.append(
                {
                    "parts": 8,
                    "merges": merges,
                    "merge": rule,
                    "test log loss": outcome.test_losses[0],
                    "/ one machine": outcome.test_losses[0] / one_machine[0],
                    "MB sent + got back per epoch": sum(outcome.sent) + sum(outcome.received),
                }
            )
    return rows


def ratings(scale: float) -> list[Row]:
    """W1 has few columns and all of them are frequent: the hardest to average."""
    s = Simulation(load("W1", scale), N_FACTORS)
    one_machine = s.local(2)
    rows = []
    for n_parts in (2, 8):
        for rule in RULES:
            losses = s.run(n_parts, rule, 2).test_losses
            rows.append(
                {
                    "parts": n_parts,
                    "merge": rule,
                    "test RMSE, epoch 2": losses[1],
                    "epoch 1 / one machine": losses[0] / one_machine[0],
                    "epoch 2 / one machine": losses[1] / one_machine[1],
                }
            )
    return rows


# -- time -------------------------------------------------------------------------------------------


def costs(s: Simulation) -> dict[str, float]:
    """Seconds of one thread: per nonzero of an epoch; per row of the table merged, and added."""
    (whole,), (a, b) = s.shards(1), s.shards(2)
    table, counts = s.new_table(), np.zeros(s.rows.n_features, np.uint32)

    def timed(run: Any) -> float:
        found = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
        return median(found)

    epoch = timed(lambda: train_share(s.new_table(), s.solver, [whole], 0))
    first, second = (local_changes(table, counts, s.solver, [shard], 0, (0, 4))[0] for shard in (a, b))
    together = merged(first, second)
    update = combined(together)
    n_touched = len(first.features) + len(second.features)
    bytes_per_row = first.nbytes / len(first.features)
    return {
        "train, per nonzero": epoch / s.rows.nnz,
        "merge, per row": timed(lambda: reduce(merged, [first, second])) / n_touched,
        "add, per row": timed(lambda: apply(table, update)) / len(update.features),
        "bytes per row": bytes_per_row,
    }


def expected_touched(n_rows: float, n_features: float) -> float:
    """How many features occur in so many rows of a click log like W2 with so many columns.

    Fields of geometrically growing size; the value of rank r has p ~ (r + 10)^-1.1, and is among n values
    drawn with probability 1 - (1 - p)^n.
    """
    sizes = np.geomspace(10, n_features / 4, NNZ_PER_ROW)
    sizes *= n_features / sizes.sum()
    total = 0.0
    for size in sizes:
        ranks = np.unique(np.geomspace(1, max(size, 2), 400).astype(np.int64)) - 1
        edges = np.append(ranks, max(int(size), 2))
        width = np.diff(edges)
        middle = (edges[:-1] + edges[1:] - 1) / 2
        p = (middle + 10.0) ** -1.1
        p /= (p * width).sum()
        total += float((width * -np.expm1(n_rows * np.log1p(-np.minimum(p, 1 - 1e-12)))).sum())
    return total


def epoch_seconds(c: dict[str, float], problem: tuple[float, float, int], n: int, gigabits: float) -> Row:
    """The model: seconds of an epoch with two merges, as later epochs have, on n workers.

        train    nnz / n / threads' speed
        reduce   per level of the tree, FAN_IN - 1 times the changes below it, in slices side by side
        return   the merged rows to every worker, from those that have them already
        rows     merging and adding them, one thread

    The network is full duplex, nobody else uses it, and each worker has the same.
    """
    n_rows, n_features, k = problem
    bytes_per_row = c["bytes per row"] + 4.0 * (k - N_FACTORS)
    per_row = (k + 4) / (N_FACTORS + 4)
    speed = 1 + (THREADS - 1) * THREAD_GAIN
    train = n_rows * NNZ_PER_ROW / n * c["train, per nonzero"] * per_row / speed
    merges = merges_of_epoch(99, n)
    network = merge = 0.0
    if n > 1:
        slices = min(n, SLICES)
        below = 1
        while below < n:
            rows = expected_touched(n_rows / n / merges * below, n_features)
            children = min(FAN_IN, math.ceil(n / below))
            network += (children - 1) * rows * bytes_per_row / slices / (gigabits * 1.25e8)
            merge += children * rows * c["merge, per row"] * per_row / slices
            below *= FAN_IN
        rows = expected_touched(n_rows / merges, n_features)
        hops = 1 + math.log2(max(1.0, n / slices))
        network += hops * rows * bytes_per_row / (gigabits * 1.25e8)
        merge += rows * c["add, per row"] * per_row
    return {
        "rows": n_rows,
        "features": n_features,
        "k": k,
        "workers": n,
        "Gbit/s": gigabits,
        "train s": train,
        "network s": network * merges,
        "merge s": merge * merges,
        "epoch s": train + (network + merge) * merges,
    }


def model(c: dict[str, float]) -> list[Row]:
    rows = []
    for problem in PROBLEMS:
        alone = epoch_seconds(c, problem, 1, 1)["epoch s"]
        for gigabits in NETWORKS:
            for n in WORKERS:
                row = epoch_seconds(c, problem, n, gigabits)
                rows.append(row | {"speed-up": alone / row["epoch s"]})
    return rows


# -- a real cluster ---------------------------------------------------------------------------------


def _status() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: 1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM")}


def real_cluster(w: Workload, rounds: int) -> tuple[list[Row], list[Row]]:
    from dask import delayed
    from distributed import Client, LocalCluster

    from fmfast.dask import DaskFMClassifier

    settings = {"n_factors": N_FACTORS, "max_iter": CLUSTER_EPOCHS, "random_state": 0}
    half = w.X_train.shape[0] // 2
    halves = [slice(0, half), slice(half, None)]
    found: dict[str, list[Any]] = {}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        # On the workers already, as data of a cluster is.
        workers = list(client.nthreads())
        parts = [
            client.scatter((w.X_train[part], w.y_train[part]), workers=[worker], hash=False)
            for part, worker in zip(halves, workers, strict=True)
        ]
        before = client.run(_status)
        programs = {
            "local, 1 thread": lambda: FMClassifier(n_jobs=1, **settings).fit(w.X_train, w.y_train),
            "local, 2 threads": lambda: FMClassifier(n_jobs=2, **settings).fit(w.X_train, w.y_train),
            "two workers of 1 thread": lambda: DaskFMClassifier(client=client, **settings).fit(
                [delayed(part) for part in parts]
            ),
        }
        for turn in range(rounds + 1):
            for name, program in programs.items():
                start = time.perf_counter()
                fm = program()
                seconds = time.perf_counter() - start
                if turn:  # the first is a warm-up
                    found.setdefault(name, []).append((seconds, fm))
        after = client.run(_status)
    rows: list[Row] = []
    one = median(seconds for seconds, _ in found["local, 2 threads"])
    for name, results in found.items():
        epochs = [record["seconds"] for _, fm in results for record in fm.history_[1:]]
        rows.append(
            {
                "program": name,
                f"fit of {CLUSTER_EPOCHS} epochs, s": median(seconds for seconds, _ in results),
                "/ local, 2 threads": median(seconds for seconds, _ in results) / one,
                "later epochs, s": median(epochs),
                "test log loss": w.test_loss(results[-1][1].decision_function(w.X_test)),
            }
        )
    table_bytes = fm.model_.table.rows.nbytes
    part_bytes = sum(a.nbytes for a in (w.X_train.data, w.X_train.indices, w.X_train.indptr)) / 2 + 8 * half
    memory = [
        {
            "worker": number,
            "MB before fit (with its part)": before[worker]["VmRSS"] / 1e6,
            "MB at most": after[worker]["VmHWM"] / 1e6,
            "more": (after[worker]["VmHWM"] - before[worker]["VmRSS"]) / 1e6,
            "its part": part_bytes / 1e6,
            "one table": table_bytes / 1e6,
        }
        for number, worker in enumerate(workers)
    ]
    return rows, memory


def _stored(folder: str, number: int) -> tuple[Any, Any]:
    """A part as it is read again by whoever takes the place of a worker that is gone."""
    return sp.load_npz(f"{folder}/{number}.npz"), np.load(f"{folder}/{number}.npy")


def faults(w: Workload) -> list[Row]:
    """One of two workers is killed at several moments of a fit: does it end, when, and how good is it?"""
    from dask import delayed
    from distributed import Client, LocalCluster

    from fmfast.dask import DaskFMClassifier

    half = w.X_train.shape[0] // 2
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        for number, part in enumerate((slice(0, half), slice(half, None))):
            sp.save_npz(f"{folder}/{number}.npz", sp.csr_matrix(w.X_train[part]), compressed=False)
            np.save(f"{folder}/{number}.npy", w.y_train[part])
        parts = [delayed(_stored)(folder, number) for number in range(2)]
        for when in (None, None, *KILLED_AT):  # twice undisturbed, for the noise
            client.wait_for_workers(2)
            timer = None
            if when is not None:
                victim = next(iter(client.run(os.getpid).values()))
                timer = threading.Timer(when * rows[0]["fit, s"], os.kill, [victim, signal.SIGKILL])
                timer.start()
            start = time.perf_counter()
            fm = DaskFMClassifier(
                client=client, n_factors=N_FACTORS, max_iter=CLUSTER_EPOCHS, random_state=0
            ).fit(parts)
            seconds = time.perf_counter() - start
            if timer is not None:
                timer.join()
            loss = w.test_loss(fm.decision_function(w.X_test))
            rows.append(
                {
                    "a worker is killed after": "never" if when is None else f"{when:.0%} of that time",
                    "fit, s": seconds,
                    "epochs": len(fm.history_),
                    "test log loss": loss,
                    "/ undisturbed": loss / rows[0]["test log loss"] if rows else 1.0,
                }
            )
    return rows


def run(settings: Settings) -> Section:
    w = load("W2", settings.scale)
    cluster, memory = real_cluster(w, settings.rounds)
    disturbed = faults(w)
    s = Simulation(w, N_FACTORS)
    measured = costs(s)
    expected = model(measured)
    one_machine = s.local(2)
    merging, targets = quality(s, one_machine)
    return Section(
        title="A cluster",
        about=f"Local SGD with averaging, AdaGrad, k = {N_FACTORS}; W2 unless it says otherwise.",
        tables=[
            Table("W2 in parts, a worker each, simulated", merging),
            Table("More and fewer merges", more_merges(s, one_machine)),
            Table("W1 in parts", ratings(settings.scale)),
            Table("A LocalCluster of two processes on this machine", cluster),
            Table("The same, one of its processes killed (SIGKILL) in the middle of a fit", disturbed),
            Table("Memory of its workers", memory),
            Table("Costs, one thread", [{"what": name, "value": value} for name, value in measured.items()]),
            Table("Expected: an epoch on clusters", expected),
        ],
        targets=targets,
        notes=[
            "one machine: test log loss {:.5f} after one epoch, {:.5f} after two".format(*one_machine),
            f"expected: workers of {THREADS} threads, {NNZ_PER_ROW} nonzeros per row, columns like those of "
            "W2; two merges per epoch; see bench/dask.py for the model",
        ],
    )


def draw(section: Section) -> Any:
    figure, (left, right) = new_figure(2, width=6.0)
    merging, expected = section.tables[0].rows, section.tables[-1].rows
    colours = dict(zip(RULES, (OTHERS[2], COLOURS["numpy"], COLOURS["fmfast"]), strict=True))
    for rule in RULES:
        rows = [row for row in merging if row["merge"] == rule]
        left.plot([row["parts"] for row in rows], [row["/ one machine"] for row in rows], "o-",
                  color=colours[rule], label=rule)  # fmt: skip
    left.axhline(1.0, color=COLOURS["reference"], linewidth=0.8)
    left.set_xscale("log", base=2)
    left.set_xticks(PARTS, [str(n) for n in PARTS])
    left.set(title="W2, one epoch", xlabel="parts", ylabel="test log loss / one machine")
    for (n_rows, n_features, _), style in zip(PROBLEMS, ("o:", "s--", "D-"), strict=True):
        for gigabits, colour in zip(NETWORKS, OTHERS, strict=False):
            rows = [row for row in expected if row["rows"] == n_rows and row["Gbit/s"] == gigabits]
            label = f"{n_rows:.0e} rows, {n_features:.0e} columns, {gigabits} Gbit/s"
            right.plot([row["workers"] for row in rows], [row["speed-up"] for row in rows], style,
                       color=colour, markersize=4, label=label)  # fmt: skip
    right.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_formatter("{x:g}")
    right.plot(WORKERS, WORKERS, color=COLOURS["reference"], linewidth=0.8, label="ideal")
    right.set(title="expected", xlabel="workers", ylabel="epochs per second / one worker")
    legend_below(left, 3)
    legend_below(right, 2)
    return figure
