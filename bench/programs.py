"""Programs that train a factorization machine epoch by epoch: fmfast and its NumPy twins.

A program has `train(n)`, which trains n more epochs and returns the seconds of each, and
`raw_scores(X)`: predictions of a regression, log-odds of a classification.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bench.numpy_baseline import MiniBatch, PerSample
from bench.timing import repeated
from bench.workloads import Workload
from fmfast import _dispatch, numpy_baseline
from fmfast.model import FMModel
from fmfast.numpy_baseline import Parameters
from fmfast.solvers import SOLVERS, sgd
from fmfast.solvers.threads import Threads
from fmfast.validation import check_X

FLOAT = np.dtype(np.float32)
INIT_STD = 0.02  # as the estimators
NEVER = 1 << 60  # nonzeros ahead that no prefetch reaches

Order = Callable[[int, int, int, int], tuple[NDArray[np.int64], int]]  # as `sgd.visiting_order`


class Program(Protocol):
    """Something that can be trained further."""

    def train(self, n_epochs: int) -> list[float]: ...

    def raw_scores(self, X: Any) -> NDArray: ...


class FMFast:
    """A solver of fmfast on a workload, float32, in the way the estimators train: their default settings,
    the visiting order of `fmfast.solvers`, one call of the compiled kernel per epoch.
    """

    def __init__(
        self,
        w: Workload,
        n_factors: int,
        solver: str = "adagrad",
        *,
        seed: int = 0,
        order: Order = sgd.visiting_order,
        **settings: float | None,
    ) -> None:
        self.rows = check_X(w.X_train, dtype=FLOAT)
        self.y = w.y_train.astype(np.float64)
        self.task, self.seed, self.order = w.task, seed, order
        kind = SOLVERS[solver]
        self.solver = kind.configured(w.task, self.rows.mean_row_norm(kind.row_norm_power), **settings)
        self.table = self.solver.new_table(1, self.rows.n_features, n_factors, FLOAT, INIT_STD, seed)
        self.epoch = 0
        self.loss = np.nan  # mean training loss of the last epoch, each sample scored before its update

    def train(
        self,
        n_epochs: int,
        core: ModuleType | SimpleNamespace = _dispatch.core,
        threads: Threads | None = None,
    ) -> list[float]:
        """`core` is the build of the kernels to train with, see also `without_prefetch`; `threads` None: the
        calling thread, as in the estimators."""
        with patch.object(sgd, "core", core):
            return repeated(lambda: self._run_epoch(threads))(n_epochs)

    def _run_epoch(self, threads: Threads | None) -> None:
        runs, run_length = self.order(self.rows.n_samples, self.rows.nnz, self.seed, self.epoch)
        loss_sum = self.solver.run_epoch(
            self.table, 0, self.rows, self.y, np.empty(0), runs, run_length, self.epoch, threads
        )
        self.epoch += 1
        self.loss = loss_sum / self.rows.n_samples
        if not np.isfinite(loss_sum):
            raise RuntimeError(f"{self.solver.name} diverged in epoch {self.epoch}")

    def model(self) -> FMModel:
        return FMModel(self.table, self.task)

    def raw_scores(self, X: Any) -> NDArray:
        return self.model().score(check_X(X, dtype=FLOAT))

    def parameters(self) -> Parameters:
        """A copy of w0, w and V for NumPy, with the state that training starts with."""
        n_features, n_factors = self.table.n_features, self.table.n_factors
        rng = np.random.default_rng(self.seed)
        p = Parameters.create(n_features, n_factors, rng, solver=self.solver.name, dtype=FLOAT)
        p.w0, p.w[:], p.V[:] = float(self.table.w0[0]), self.table.w[0], self.table.V[0]
        return p


def without_prefetch(core: ModuleType) -> SimpleNamespace:
    """The same kernels, told to prefetch rows of the table so early that they never do."""
    return SimpleNamespace(**{**vars(core), "train_rows": partial(core.train_rows, prefetch_nnz=NEVER)})


class NumPy:
    """The mini-batch or the per-sample baseline, from the parameters and settings of an `FMFast`."""

    def __init__(self, baseline: MiniBatch | PerSample) -> None:
        self._baseline = baseline
        self.train = repeated(baseline.run_epoch)

    @classmethod
    def mini_batch(cls, w: Workload, like: FMFast) -> NumPy:
        return cls(MiniBatch(w, like.parameters(), like.solver))

    @classmethod
    def per_sample(cls, w: Workload, like: FMFast, n_rows: int) -> NumPy:
        return cls(PerSample(w, like.parameters(), like.solver, n_rows))

    def raw_scores(self, X: Any) -> NDArray:
        return numpy_baseline.score(X, self._baseline.trained())
