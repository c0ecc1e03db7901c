"""Other libraries as programs (see `bench.programs`): same data, same number of factors, one thread.

Each is used as its documentation shows and keeps its own defaults, unless said otherwise here. A library
that is not installed, or does not import, is reported by `available` and left out.

    modern-fm    AdaGrad, after every row or after batches of 512 (its own advice for speed)
    PyTorch      one sparse Embedding whose rows hold v_j and w_j, AdaGrad, batches of 1024. Of the ways to
                 write a factorization machine with it this one was the fastest; EmbeddingBag has to look up
                 every row twice, as it adds up v_j but not v_j^2. AdaGrad takes no L2 with sparse gradients.
    myFM         Gibbs sampling: an epoch is one draw of all parameters, and needs hundreds of them; its
                 prediction is the mean over the later half of the draws so far
    scikit-learn SGDRegressor or SGDClassifier, the linear reference: no factors at all
"""

from __future__ import annotations

import importlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from bench.programs import FMFast, Program
from bench.timing import repeated, seconds
from bench.workloads import Workload

os.environ.setdefault("TQDM_DISABLE", "1")  # the progress bars of myFM

_EPSILON = 1e-15  # keeps probabilities of 0 and 1 finite as log-odds


class ModernFM:
    """`fit` with warm_start goes on where the last one ended; a turn is one `fit` of all its epochs."""

    def __init__(
        self,
        w: Workload,
        n_factors: int,
        learning_rate: float = 0.05,
        batch_size: int = 1,
        reg: float = 1e-5,
    ) -> None:
        import modern_fm

        kind = modern_fm.FMRegressor if w.task == "regression" else modern_fm.FMClassifier
        self._fm = kind(
            n_factors=n_factors, learning_rate=learning_rate, batch_size=batch_size,
            l2_linear=reg, l2_factors=reg, n_jobs=1, random_state=0, warm_start=True,
        )  # fmt: skip
        # As it wants them, so that no conversion is timed.
        self._X, self._y = w.X_train.astype(np.float64), w.y_train.astype(np.float64)
        self._is_classifier = w.task == "classification"

    def train(self, n_epochs: int) -> list[float]:
        self._fm.max_iter = n_epochs
        took = seconds(lambda: self._fm.fit(self._X, self._y))
        return [took / n_epochs] * n_epochs

    def raw_scores(self, X: Any) -> NDArray:
        return self._fm.decision_function(X) if self._is_classifier else self._fm.predict(X)


class Torch:
    """score = b + sum_j w_j x_j + 1/2 (|s|^2 - sum_j |v_j x_j|^2) with automatic differentiation."""

    BATCH = 1024

    def __init__(self, w: Workload, n_factors: int, learning_rate: float = 0.05) -> None:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self._torch, self._n_factors = torch, n_factors
        self._rows, self._y = self._batchable(w.X_train), torch.from_numpy(w.y_train.astype(np.float32))
        self._table = torch.nn.Embedding(w.X_train.shape[1], n_factors + 1, sparse=True)
        torch.nn.init.normal_(self._table.weight, 0.0, 0.02)
        with torch.no_grad():
            self._table.weight[:, n_factors] = 0.0
        self._bias = torch.nn.Parameter(torch.zeros(1))
        self._optimizer = torch.optim.Adagrad([self._table.weight, self._bias], lr=learning_rate)
        is_regression = w.task == "regression"
        self._loss = torch.nn.MSELoss() if is_regression else torch.nn.BCEWithLogitsLoss()
        self.train = repeated(self._run_epoch)

    def _batchable(self, X: sp.csr_array) -> tuple[Any, Any]:
        """Columns and values (n_rows, longest row); short rows are filled up with values of 0.

        Values are None if all of them are 1 and all rows equally long.
        """
        nnz = np.diff(X.indptr)
        longest = int(nnz.max())
        filled = np.arange(longest) < nnz[:, None]
        columns = np.zeros(filled.shape, dtype=np.int64)
        columns[filled] = X.indices
        if filled.all() and (X.data == 1).all():
            return self._torch.from_numpy(columns), None
        values = np.zeros(filled.shape, dtype=np.float32)
        values[filled] = X.data
        return self._torch.from_numpy(columns), self._torch.from_numpy(values)

    @staticmethod
    def _batch(rows: Any, columns: Any, values: Any) -> tuple[Any, Any]:
        return columns[rows], None if values is None else values[rows]

    def _score(self, columns: Any, values: Any) -> Any:
        rows = self._table(columns)
        if values is not None:
            rows = rows * values[:, :, None]
        v, linear = rows[..., : self._n_factors], rows[..., self._n_factors].sum(1)
        s = v.sum(1)
        return self._bias + linear + 0.5 * ((s * s).sum(1) - (v * v).sum((1, 2)))

    def _run_epoch(self) -> None:
        columns, values = self._rows
        for batch in self._torch.randperm(len(self._y)).split(self.BATCH):
            self._optimizer.zero_grad()
            score = self._score(*self._batch(batch, columns, values))
            self._loss(score, self._y[batch]).backward()
            self._optimizer.step()

    def raw_scores(self, X: Any) -> NDArray:
        columns, values = self._batchable(sp.csr_array(X))
        with self._torch.no_grad():
            parts = [
                self._score(
                    columns[i : i + self.BATCH], None if values is None else values[i : i + self.BATCH]
                )
                for i in range(0, len(columns), self.BATCH)
            ]
        return self._torch.cat(parts).numpy()


class MyFM:
    """A Gibbs chain in a thread of its own, which stands still in a callback between turns."""

    def __init__(self, w: Workload, n_factors: int) -> None:
        import myfm

        kind = myfm.MyFMRegressor if w.task == "regression" else myfm.MyFMClassifier
        self._fm = kind(rank=n_factors, random_seed=0)
        self._data = sp.csr_matrix(w.X_train.astype(np.float64)), w.y_train
        self._X_test = sp.csr_matrix(w.X_test.astype(np.float64))
        self._is_classifier = w.task == "classification"
        self._predictions: list[NDArray] = []
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._started = 0.0
        self._seconds = 0.0
        self._chain: threading.Thread | None = None
        self._closed = False

    def train(self, n_epochs: int) -> list[float]:
        times = []
        for _ in range(n_epochs):
            self._started = time.perf_counter()
            if self._chain is None:  # the first draw is charged with the preparations
                self._chain = threading.Thread(target=self._run_chain, daemon=True)
                self._chain.start()
            else:
                self._go.release()
            self._done.acquire()
            times.append(self._seconds)
        return times

    def _run_chain(self) -> None:
        self._fm.fit(*self._data, n_iter=1 << 20, n_kept_samples=1, callback=self._between_draws)

    def _between_draws(self, i: int, fm: Any, hyper: Any, history: Any) -> tuple[bool, None]:
        self._seconds = time.perf_counter() - self._started
        score = fm.predict_score(self._X_test, [])
        if self._is_classifier:
            from scipy.special import ndtr  # a probit model

            score = ndtr(score)
        self._predictions.append(score)
        self._done.release()
        self._go.acquire()
        return self._closed, None  # true ends the chain

    def raw_scores(self, X: Any) -> NDArray:
        """Of the test rows, whatever X is."""
        mean = np.mean(self._predictions[len(self._predictions) // 2 :], axis=0)
        if not self._is_classifier:
            return mean
        p = np.clip(mean, _EPSILON, 1.0 - _EPSILON)
        return np.log(p) - np.log1p(-p)

    def close(self) -> None:
        """End the chain: its thread holds the data."""
        self._closed = True
        self._go.release()
        if self._chain is not None:
            self._chain.join()


class Linear:
    """scikit-learn's SGD, one `partial_fit` per epoch."""

    def __init__(self, w: Workload) -> None:
        from sklearn.linear_model import SGDClassifier, SGDRegressor

        self._is_classifier = w.task == "classification"
        common = {"alpha": 1e-6, "learning_rate": "constant", "eta0": 0.01, "random_state": 0}
        self._model = SGDClassifier("log_loss", **common) if self._is_classifier else SGDRegressor(**common)
        self._X, self._y, self._epoch = w.X_train.astype(np.float64), w.y_train, 0
        self.train = repeated(self._run_epoch)

    def _run_epoch(self) -> None:
        # partial_fit shuffles by random_state, which therefore has to change.
        self._model.set_params(random_state=self._epoch)
        self._epoch += 1
        if self._is_classifier:
            self._model.partial_fit(self._X, self._y, classes=[0, 1])
        else:
            self._model.partial_fit(self._X, self._y)

    def raw_scores(self, X: Any) -> NDArray:
        return self._model.decision_function(X) if self._is_classifier else self._model.predict(X)


Maker = Callable[[Workload, int], Program]  # from the number of factors

FMFAST = "fmfast AdaGrad"
MODERN_FM = "modern-fm AdaGrad"
MODERN_FM_BATCHES = "modern-fm AdaGrad, batches"
TORCH = "PyTorch AdaGrad"
MYFM = "myFM Gibbs"
LINEAR = "scikit-learn SGD, linear"

# What a program needs to import, and how it is made.
_PEERS: dict[str, tuple[str, Maker]] = {
    MODERN_FM: ("modern_fm", ModernFM),
    MODERN_FM_BATCHES: ("modern_fm", lambda w, k: ModernFM(w, k, batch_size=512)),
    TORCH: ("torch", Torch),
    MYFM: ("myfm", MyFM),
    LINEAR: ("sklearn", lambda w, k: Linear(w)),
}


def close(programs: Iterable[Program]) -> None:
    """Give back what garbage collection cannot."""
    for program in programs:
        if isinstance(program, MyFM):
            program.close()


def available() -> tuple[dict[str, Maker], list[str]]:
    """fmfast and the peers that import here, and notes about the others."""
    makers: dict[str, Maker] = {FMFAST: FMFast}
    notes = []
    for name, (module, maker) in _PEERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        except ImportError as error:
            notes.append(f"{name}: skipped, {error}")
        else:
            makers[name] = maker
    return makers, notes
