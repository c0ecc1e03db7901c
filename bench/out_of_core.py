"""What does training from disk cost?

A click log like W2 with eight times its rows is written to disk, twice: rows in random order, and sorted by
their target, which is the worst for an order that is made of blocks. AdaGrad, k = 16, trains on each in
processes of their own, in turns: with the arrays read into memory, and as `open_dataset` gives them. The file
is in the cache of the system.

The processes that train from disk have a quarter of the size of the data set: so much is `memory` of
`open_dataset`, and so much, with the table, RLIMIT_DATA lets the process allocate beyond what it has before
`fit`. RLIMIT_DATA does not count mapped files: what of them is resident is sampled, and the peak of all
resident memory is what the system has recorded (VmHWM, set back before `fit`). Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse as sp

import fmfast
from bench.environment import ROOT
from bench.pictures import COLOURS, grouped_bars, legend_below, new_figure
from bench.report import Row, Section, Table, Target, at_least, at_most
from bench.settings import Settings
from bench.workloads import Workload, ctr
from fmfast.numpy_baseline import loss_value
from fmfast.solvers import SOLVERS

N_ROWS = 4_000_000
N_FACTORS = 16
EPOCHS = 3
LIMIT = 0.25  # of the size of the data set
TOLERANCE = 0.005  # of the test loss
SPEED = 0.6  # of that in memory
MAX_ROUNDS = 3
MEGABYTE = 1e6


def memory_now() -> dict[str, int]:
    """Bytes, as the system counts them for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: 1024 * int(fields[name].split()[0]) for name in ("VmData", "VmHWM", "RssAnon", "RssFile")}


@contextmanager
def sampled(peak: dict[str, int]) -> Iterator[None]:
    """Every few milliseconds, what of mapped files and of all else is resident; the most of each."""
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            for name, size in memory_now().items():
                peak[name] = max(peak.get(name, 0), size)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def fit_here(folder: str, where: str, memory: int, limit: int) -> dict[str, Any]:
    """Train in this process; `where` is "disk" or "memory". Sizes are beyond what there is before `fit`."""
    import resource

    ds, test = (fmfast.open_dataset(Path(folder, name), memory=memory) for name in ("train", "test"))
    X, y = ds.X, ds.y
    if where == "memory":
        X = sp.csr_array((X.data.copy(), X.indices.copy(), X.indptr.copy()), shape=X.shape)
        y = np.array(y)
    fmfast.FMClassifier(N_FACTORS).fit(np.eye(4), np.arange(4) % 2)  # loads what is loaded once
    peak: dict[str, int] = {}
    with sampled(peak):
        time.sleep(0.05)
        Path("/proc/self/clear_refs").write_text("5")
        before = memory_now()
        if where == "disk":
            allowed = before["VmData"] + limit
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
        fm = fmfast.FMClassifier(N_FACTORS, max_iter=EPOCHS, random_state=0)
        start = time.perf_counter()
        fm.fit(X, y)
        seconds = time.perf_counter() - start
        peak["VmHWM"] = memory_now()["VmHWM"]
    before["VmHWM"] = before["RssAnon"] + before["RssFile"]
    loss = float(np.mean(loss_value("logistic", fm.decision_function(test.X), np.array(test.y))))
    epochs = [record["seconds"] for record in fm.history_]
    return {"epoch": median(epochs), "fit": seconds, "loss": loss,
            **{name: size - before[name] for name, size in peak.items()}}  # fmt: skip


def fit_elsewhere(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.out_of_core", *map(str, arguments)]
    child = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout)


def write(w: Workload, folder: str, order: np.ndarray) -> int:
    """The data set, as large as on disk."""
    fmfast.convert(w.X_train[order], Path(folder, "train"), y=w.y_train[order])
    fmfast.convert(w.X_test, Path(folder, "test"), y=w.y_test)
    return sum(file.stat().st_size for file in Path(folder, "train").iterdir())


def compare(name: str, w: Workload, order: np.ndarray, rounds: int) -> Row:
    # Where the data of users lies: a temporary folder may be in memory.
    with TemporaryDirectory(dir=os.environ.get("TMPDIR", ROOT)) as folder:
        size = write(w, folder, order)
        limit = int(LIMIT * size)
        solver, n_features = SOLVERS["adagrad"].configured(w.task, 1.0), w.X_train.shape[1]
        table = solver.new_table(1, n_features, N_FACTORS, np.dtype(np.float32), 0.02, 0).rows.nbytes
        found: dict[str, list[dict[str, Any]]] = {"memory": [], "disk": []}
        for _ in range(min(rounds, MAX_ROUNDS)):
            for where, results in found.items():
                results.append(fit_elsewhere(folder, where, limit, table + limit))
    (inside, outside) = (
        {key: median(result[key] for result in results) for key in results[0]} for results in found.values()
    )
    return {
        "rows": name,
        "data set MB": size / MEGABYTE,
        "table MB": table / MEGABYTE,
        "limit beyond the table MB": limit / MEGABYTE,
        "peak beyond the table MB": (outside["VmHWM"] - table) / MEGABYTE,
        "of files MB": outside["RssFile"] / MEGABYTE,
        "anonymous beyond the table MB": (outside["RssAnon"] - table) / MEGABYTE,
        "epoch in memory s": inside["epoch"],
        "epoch from disk s": outside["epoch"],
        "speed / in memory": inside["epoch"] / outside["epoch"],
        "fit, speed / in memory": inside["fit"] / outside["fit"],
        "test loss in memory": inside["loss"],
        "test loss from disk": outside["loss"],
        "loss / in memory": outside["loss"] / inside["loss"],
    }


def run(settings: Settings) -> Section:
    w = ctr(settings.scale, n_rows=N_ROWS)
    n_train = len(w.y_train)
    orders = {"in random order": np.arange(n_train), "sorted by target": np.argsort(w.y_train, kind="stable")}
    rows = [compare(name, w, order, settings.rounds) for name, order in orders.items()]
    targets = list[Target]()
    for row in rows:
        name = row["rows"]
        limit = row["limit beyond the table MB"]
        targets += [
            at_least(f"speed / in memory, {name}", row["speed / in memory"], SPEED),
            at_most(f"test loss / in memory, {name}", row["loss / in memory"], 1.0 + TOLERANCE),
            at_most(f"peak beyond the table, MB, {name}", row["peak beyond the table MB"], limit),
        ]
    return Section(
        title="Training from disk",
        about=f"AdaGrad, k = {N_FACTORS}, {EPOCHS} epochs, on a data set four times larger than the limit.",
        tables=[Table("From disk against in memory", rows)],
        targets=targets,
        notes=["peaks: what `fit` adds to the process; VmHWM, RssFile and RssAnon of Linux"],
    )


def draw(section: Section) -> Any:
    figure, (left, right) = new_figure(2)
    rows = section.tables[0].rows
    names = [row["rows"] for row in rows]
    colours = [COLOURS["fmfast"], COLOURS["fmfast light"], COLOURS["reference"]]
    series = {name: [row[f"epoch {name} s"] for row in rows] for name in ("in memory", "from disk")}
    grouped_bars(left, names, series, colours[:2])
    left.set(title="an epoch", ylabel="seconds")
    series = {
        name: [row[f"{name} MB"] for row in rows]
        for name in ("peak beyond the table", "limit beyond the table", "data set")
    }
    grouped_bars(right, names, series, colours)
    right.set(title="memory", ylabel="megabytes")
    for ax in (left, right):
        legend_below(ax)
    return figure


if __name__ == "__main__":
    print(json.dumps(fit_here(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))))
