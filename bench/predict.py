"""How fast is prediction?

Rows per second with one thread: the kernel on checked rows (`FMModel.score`), `predict` of the
estimator, which checks them first, and the vectorised NumPy scorer (`numpy_baseline.score`, float32),
in turns on the training rows. And the time of `predict` for a single row: a canonical CSR array, as a
server would have it, each of many rows once per round, the median over all of them.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np

from bench.pictures import COLOURS, grouped_bars, legend_below, new_figure, plain_log_scale
from bench.report import Row, Section, Table, Target, at_least, at_most
from bench.settings import Settings
from bench.timing import medians, repeated, take_turns
from bench.workloads import Workload, load
from fmfast import FMClassifier, FMRegressor, numpy_baseline
from fmfast.numpy_baseline import Parameters
from fmfast.validation import check_X

# Workload, number of factors, and how many times the rows per second of NumPy are wanted.
CASES = (("W1", 8, 2.0), ("W2", 8, 4.0), ("W2", 32, 10.0))
SINGLE_ROWS = 200  # different ones


def estimator_for(w: Workload, n_factors: int) -> FMRegressor | FMClassifier:
    """Fitted for one epoch."""
    kind = FMRegressor if w.task == "regression" else FMClassifier
    return kind(n_factors, max_iter=1, random_state=0).fit(w.X_train, w.y_train)


def compare(w: Workload, n_factors: int, rounds: int) -> Row:
    fm = estimator_for(w, n_factors)
    X, rows = w.X_train, check_X(w.X_train, dtype=np.dtype(np.float32))
    parameters = Parameters(float(fm.w0_), np.ascontiguousarray(fm.w_), np.ascontiguousarray(fm.V_))
    single = cycle([X[i : i + 1] for i in range(SINGLE_ROWS)])
    fast = {
        "kernel": repeated(lambda: fm.model_.score(rows)),
        "predict": repeated(lambda: fm.predict(X)),
        "NumPy": repeated(lambda: numpy_baseline.score(X, parameters)),
    }
    t = medians(take_turns(fast, rounds, per_turn=2))
    one = medians(take_turns({"one": repeated(lambda: fm.predict(next(single)))}, rounds, SINGLE_ROWS))["one"]
    difference = np.abs(fm.model_.score(rows) - numpy_baseline.score(X, parameters)).max()
    n = X.shape[0]
    return {
        "workload": w.name,
        "k": n_factors,
        "kernel, million rows/s": 1e-6 * n / t["kernel"],
        "predict, million rows/s": 1e-6 * n / t["predict"],
        "NumPy, million rows/s": 1e-6 * n / t["NumPy"],
        "kernel / NumPy": t["NumPy"] / t["kernel"],
        "predict / NumPy": t["NumPy"] / t["predict"],
        "one row, us": 1e6 * one,
        "largest difference": float(difference),
    }


def run(settings: Settings) -> Section:
    rows, targets = [], list[Target]()
    for name, n_factors, wanted in CASES:
        row = compare(load(name, settings.scale), n_factors, settings.rounds)
        rows.append(row)
        case = f"{name} k={n_factors}"
        targets.append(at_least(f"kernel / NumPy, rows per second, {case}", row["kernel / NumPy"], wanted))
        targets.append(at_most(f"predict of one row, microseconds, {case}", row["one row, us"], 50.0))
    return Section(
        title="Prediction",
        about="Rows per second with one thread, and the time of `predict` for one row.",
        tables=[Table("Rows per second", rows)],
        targets=targets,
        notes=[
            "largest difference: between the scores of the kernel and of NumPy, both from float32 parameters"
        ],
    )


def draw(section: Section) -> Any:
    figure, (ax,) = new_figure(1, width=6.5)
    rows = section.tables[0].rows
    groups = [f"{row['workload']}, k = {row['k']}" for row in rows]
    names = {"kernel": "fmfast, checked rows", "predict": "fmfast predict", "NumPy": "NumPy"}
    series = {label: [row[f"{name}, million rows/s"] for row in rows] for name, label in names.items()}
    grouped_bars(ax, groups, series, [COLOURS["fmfast"], COLOURS["fmfast light"], COLOURS["numpy"]])
    plain_log_scale(ax)
    ax.set(title="Prediction with one thread", ylabel="million rows per second")
    legend_below(ax, 3)
    return figure
