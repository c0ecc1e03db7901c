"""What does `fit` cost besides its epochs, in time and in memory?

Time: `fit` of the estimator (AdaGrad, k = 32, three epochs) less the seconds of its epochs by its own
history, that is validation, targets, the table and the last checks; compared with one epoch (which
holds the drawing of its order). Three parts of it are shown on their own.

Memory: the peak of a fresh process that loads the data and calls `fit` (`bench.peak_memory`), compared
with 1.25 x (CSR + table) + 200 MB, interpreter and libraries included.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.environment import ROOT
from bench.peak_memory import save_input
from bench.pictures import COLOURS, grouped_bars, legend_below, new_figure
from bench.report import Row, Section, Table, at_most
from bench.settings import Settings
from bench.timing import seconds
from bench.workloads import WORKLOADS, Workload, load
from fmfast import FMClassifier, FMRegressor
from fmfast.solvers import SOLVERS
from fmfast.validation import check_X

N_FACTORS = 32
EPOCHS = 3
MAX_ROUNDS = 3
FLOAT = np.dtype(np.float32)
MEGABYTE = 1e6


def fit_once(w: Workload) -> tuple[float, float, float]:
    """Seconds of `fit` without its epochs, of its median epoch, and its last training loss."""
    kind = FMRegressor if w.task == "regression" else FMClassifier
    fm = kind(N_FACTORS, max_iter=EPOCHS, random_state=0)
    total = seconds(lambda: fm.fit(w.X_train, w.y_train))
    epochs = [record["seconds"] for record in fm.history_]
    return total - sum(epochs), median(epochs), fm.history_[-1]["loss"]


def times(w: Workload, rounds: int) -> Row:
    n_features = w.X_train.shape[1]
    solver = SOLVERS["adagrad"].configured(w.task, 1.0)
    fit_once(w)  # warm-up
    fits, checks, tables, finite = [], [], [], []
    for _ in range(min(rounds, MAX_ROUNDS)):
        fits.append(fit_once(w))
        checks.append(seconds(lambda: check_X(w.X_train, dtype=FLOAT)))
        tables.append(seconds(lambda: solver.new_table(1, n_features, N_FACTORS, FLOAT, 0.02, 0)))
        table = solver.new_table(1, n_features, N_FACTORS, FLOAT, 0.02, 0)
        finite.append(seconds(table.all_finite))
        del table
    fixed, epoch = (median(values) for values in list(zip(*fits, strict=True))[:2])
    return {
        "workload": w.name,
        "epoch ms": 1e3 * epoch,
        "fixed ms": 1e3 * fixed,
        "of it validation of X": 1e3 * median(checks),
        "of it the table": 1e3 * median(tables),
        "of it its check in the end": 1e3 * median(finite),
        "fixed / epoch": fixed / epoch,
        "training loss": fits[-1][2],
    }


def memory(name: str, scale: float) -> Row:
    """In megabytes. The data goes by a file, and is not in this process while the other one runs."""
    with TemporaryDirectory() as folder:
        w = load(name, scale)
        path = save_input(w, folder)
        X = w.X_train
        csr = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
        table = SOLVERS["adagrad"].configured(w.task, 1.0).new_table(1, X.shape[1], N_FACTORS, FLOAT, 0.02, 0)
        table_bytes = table.rows.nbytes
        del w, X, table
        command = [sys.executable, "-m", "bench.peak_memory", str(path), str(N_FACTORS)]
        child = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = json.loads(child.stdout)
    allowed = 1.25 * (csr + table_bytes) + 200 * MEGABYTE
    return {
        "workload": name,
        "CSR MB": csr / MEGABYTE,
        "table MB": table_bytes / MEGABYTE,
        "before fit MB": found["before"] / MEGABYTE,
        "peak MB": found["peak"] / MEGABYTE,
        "allowed MB": allowed / MEGABYTE,
        "peak / allowed": found["peak"] / allowed,
    }


def run(settings: Settings) -> Section:
    by_time = [times(load(name, settings.scale), settings.rounds) for name in WORKLOADS]
    by_memory = [memory(name, settings.scale) for name in WORKLOADS]
    targets = [at_most(f"fixed / epoch, {row['workload']}", row["fixed / epoch"], 1.0) for row in by_time]
    targets += [
        at_most(f"peak / allowed, {row['workload']}", row["peak / allowed"], 1.0) for row in by_memory
    ]
    return Section(
        title="Fixed costs",
        about=f"`fit` besides its epochs, AdaGrad, k = {N_FACTORS}; peak memory of a process that calls it.",
        tables=[Table("Time", by_time), Table("Memory", by_memory)],
        targets=targets,
    )


def draw(section: Section) -> Any:
    figure, (left, right) = new_figure(2)
    by_time, by_memory = (table.rows for table in section.tables)
    colours = [COLOURS["fmfast"], COLOURS["fmfast light"]]
    series = {name: [row[f"{name} ms"] for row in by_time] for name in ("epoch", "fixed")}
    grouped_bars(left, [row["workload"] for row in by_time], series, colours)
    left.set(title="fit besides its epochs", ylabel="milliseconds")
    series = {name: [row[f"{name} MB"] for row in by_memory] for name in ("peak", "allowed")}
    grouped_bars(right, [row["workload"] for row in by_memory], series, [colours[0], COLOURS["reference"]])
    right.set(title="peak memory of a process that fits", ylabel="megabytes")
    for ax in (left, right):
        legend_below(ax)
    return figure
