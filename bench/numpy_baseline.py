"""The compiled kernel against the same algorithm in NumPy, on the same data, in one run.

    python -m bench.numpy_baseline [--workloads chess W1] [--n-factors 8 32] [--solver adagrad]
                                   [--scale 1.0] [--epochs 10] [--rounds 5]

The NumPy clone itself is `fmfast.numpy_baseline`. It lives in the package and not here because the
demo of an installed wheel trains it too (`fmfast demo`), and the tests of the kernel take it as their
oracle.

Three programs are timed, float32, with the default settings of the estimators, same parameters at the
start, one thread each (SciPy's sparse products have one, and the dot products of a few numbers are
too short for the threads of a BLAS):

    kernel       one call of the compiled kernel through `fmfast.solvers`, per-sample updates
    per-sample   `numpy_baseline.train_epoch`: the same updates
    mini-batch   `numpy_baseline.train_epoch_mini_batch`: one update per 1024 rows

Time is that of one epoch: the median over rounds in which the programs take turns of a few epochs, so
that a machine that slows down slows all of them. Per-sample NumPy takes half a minute per epoch on
large data; there it visits the first rows only, and its time is scaled up to all rows.

The score is that of the test rows after the same number of epochs (--epochs): root mean squared
error of a target with standard deviation 1, or log loss. Per-sample NumPy reaches that of the kernel
and is only trained to show it where this takes seconds.

An epoch of mini-batches is cheaper than one of single samples, but learns less. So the last column is
the time to a common score, the best that all of them reach within --epochs: number of epochs needed
times the median time of one.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import scipy

from bench.workloads import WORKLOADS, Workload
from fmfast import _dispatch, numpy_baseline
from fmfast.datasets import load_chess_endgame
from fmfast.numpy_baseline import Parameters
from fmfast.solvers import SOLVERS
from fmfast.solvers.sgd import StochasticSolver, visiting_order
from fmfast.validation import check_X

TURN = 3  # epochs in a row, as in training
MAX_PER_SAMPLE = 3  # epochs of per-sample NumPy in all
SUBSET_ROWS = 21_000  # of the rows, for per-sample NumPy
INIT_STD = 0.1
# A batch of SGD adds up 1024 gradients; at the rate of single samples it diverges.
BATCH_RATE_FACTOR = {"adagrad": 1.0, "sgd": 0.03, "ftrl": 1.0}


def load(name: str, scale: float) -> Workload:
    """One workload; a regression target is standardised by its training rows."""
    if name == "chess":
        chess = load_chess_endgame()
        w = Workload(
            "chess", "regression", chess.X_train, chess.y_train, chess.X_test, chess.y_test, chess.field
        )
    else:
        w = WORKLOADS[name](scale)
    if w.task == "classification":
        return w
    mean, std = w.y_train.mean(), w.y_train.std()
    y_train, y_test = (w.y_train - mean) / std, (w.y_test - mean) / std
    return Workload(w.name, w.task, w.X_train, y_train, w.X_test, y_test, w.field)


class Kernel:
    """Epochs of the compiled kernel."""

    def __init__(self, w: Workload, start: Parameters, solver: StochasticSolver) -> None:
        self.rows = check_X(w.X_train, dtype=np.dtype(np.float32))
        self.y, self.epoch = w.y_train.astype(np.float64), 0
        self.solver = solver
        n_features, n_factors = start.V.shape
        self.table = solver.new_table(1, n_features, n_factors, np.dtype(np.float32), INIT_STD, 0)
        self.table.V[0] = start.V

    def run_epoch(self) -> None:
        runs, run_length = visiting_order(self.rows.n_samples, self.rows.nnz, 0, self.epoch)
        self.solver.run_epoch(self.table, 0, self.rows, self.y, np.empty(0), runs, run_length, self.epoch)
        self.epoch += 1

    def trained(self) -> Parameters:
        return Parameters(float(self.table.w0[0]), self.table.w[0], self.table.V[0])


class PerSample:
    """Epochs of per-sample NumPy, on the first n_rows rows."""

    def __init__(self, w: Workload, start: Parameters, solver: StochasticSolver, n_rows: int) -> None:
        self.X, self.y, self.parameters = w.X_train[:n_rows], w.y_train[:n_rows], start
        self.solver, self.epoch = solver, 0

    def settings(self) -> dict[str, Any]:
        """Those of the kernel, for this epoch."""
        s = self.solver
        rate = s.learning_rate / (1.0 + s.learning_rate_decay * self.epoch)
        self.epoch += 1
        return {"loss": s.loss, "learning_rate": rate, "reg_w": s.reg_w, "reg_V": s.reg_V, "l1_w": s.l1_w}

    def run_epoch(self) -> None:
        order = np.random.default_rng(self.epoch).permutation(self.X.shape[0])
        numpy_baseline.train_epoch(self.X, self.y, self.parameters, order=order, **self.settings())

    def trained(self) -> Parameters:
        return self.parameters


class MiniBatch(PerSample):
    """Epochs of mini-batch NumPy."""

    def __init__(self, w: Workload, start: Parameters, solver: StochasticSolver) -> None:
        rate = solver.learning_rate * BATCH_RATE_FACTOR[solver.name]
        super().__init__(w, start, replace(solver, learning_rate=rate), w.X_train.shape[0])

    def run_epoch(self) -> None:
        numpy_baseline.train_epoch_mini_batch(self.X, self.y, self.parameters, **self.settings())


def test_score(w: Workload, p: Parameters) -> float:
    """Root mean squared error, or log loss, of the test rows; lower is better."""
    score = numpy_baseline.score(w.X_test, p).astype(np.float64)
    if w.task == "regression":
        return float(np.sqrt(np.mean((score - w.y_test) ** 2)))
    return float(np.mean(numpy_baseline.loss_value("logistic", score, w.y_test)))


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(w: Workload, n_factors: int, solver: str, epochs: int, rounds: int) -> None:
    """Train and time the three programs on one workload; print one line for each."""
    n_rows, n_columns = w.X_train.shape
    n_subset = min(n_rows, SUBSET_ROWS)
    whole = n_subset == n_rows
    configured = SOLVERS[solver].configured(w.task, row_norm=abs(w.X_train).sum() / n_rows)
    rng = np.random.default_rng(0)
    start = Parameters.create(n_columns, n_factors, rng, solver=solver, init_std=INIT_STD, dtype="float32")
    programs: dict[str, Kernel | PerSample] = {
        "kernel": Kernel(w, start.copy(), configured),
        "mini-batch": MiniBatch(w, start.copy(), configured),
        "per-sample": PerSample(w, start.copy(), configured, n_subset),
    }
    scores: dict[str, list[float]] = {name: [] for name in programs}
    for name, program in programs.items():
        if name != "per-sample" or whole:
            for _ in range(epochs):
                program.run_epoch()
                scores[name].append(test_score(w, program.trained()))

    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            if name != "per-sample":
                times[name] += [seconds(program.run_epoch) for _ in range(TURN)]
            elif len(times[name]) < MAX_PER_SAMPLE:
                times[name].append(n_rows / n_subset * seconds(program.run_epoch))

    common = max(min(of_epochs) for of_epochs in scores.values() if of_epochs)
    metric = "RMSE" if w.task == "regression" else "log loss"
    for name, of_epochs in scores.items():
        t = median(times[name])
        line = f"{w.name:6} k={n_factors:<3} {solver:8} {name:11} {1e3 * t:10.2f} ms/epoch"
        line += f"{t / median(times['kernel']):7.1f} x kernel"
        if of_epochs:
            n_epochs = 1 + next(i for i, score in enumerate(of_epochs) if score <= common)
            line += f"   {metric} {of_epochs[-1]:.4f}"
            line += f"   {n_epochs:3} epochs, {n_epochs * t:7.3f} s to {common:.4f}"
        else:
            line += f"   (timed on {n_subset:,} rows, scaled)"
        print(line, flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workloads", nargs="+", default=["chess", "W1"], choices=["chess", *WORKLOADS])
    parser.add_argument("--n-factors", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--solver", nargs="+", default=["adagrad"], choices=numpy_baseline.SOLVERS)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the synthetic workloads")
    parser.add_argument("--epochs", type=int, default=10, help="epochs before the score is taken")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program")
    args = parser.parse_args(argv)
    print(
        f"{platform.machine()}, kernel build {_dispatch.level}, 1 thread, float32, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    )
    for name in args.workloads:
        w = load(name, args.scale)
        print(f"{name}: {w.X_train.shape[0]:,} training rows, {w.X_train.shape[1]:,} columns, {w.task}")
        for n_factors in args.n_factors:
            for solver in args.solver:
                compare(w, n_factors, solver, args.epochs, args.rounds)


if __name__ == "__main__":
    main()
