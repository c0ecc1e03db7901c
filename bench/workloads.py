"""Synthetic workloads with the shapes of ratings, click logs, and a table larger than any cache.

| name | rows      | nnz per row | columns    | columns are drawn
|
|------|-----------|-------------|------------|------------------------------------------------------------|
| W1   | 1,000,000 | 5           | 100,000    | user p ~ (r+10)^-0.6, item ^-0.9, three contexts ^-0.5
| | W2   | 500,000   | 39          | 1,000,000  | 39 fields of 10 .. 250,000 values, p ~ (r+10)^-1.1
| | W3   | 300,000   | 39          | 10,000,000 | uniform: every row of the parameter table is a cache
miss  |

r is the rank of a value in its field; values are numbered in random order within their field. The
targets of W1 and W2 come from a planted factorization machine (rank 8 with noise, and rank 4 with
20% positives), those of W3 are random clicks. All values are 1. 90% of the rows train, the rest test.

Besides, `load` knows the chess data of the package, and reads files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from fmfast.datasets import load_chess_endgame
from fmfast.numpy_baseline import loss_value


@dataclass(frozen=True)
class Workload:
    """A train/test split with its task ("regression" or "classification", with labels 0 and 1)."""

    name: str
    task: str
    X_train: sp.csr_array
    y_train: np.ndarray
    X_test: sp.csr_array
    y_test: np.ndarray
    field: np.ndarray

    @property
    def metric(self) -> str:
        return "test RMSE" if self.task == "regression" else "test log loss"

    def test_loss(self, raw_scores: np.ndarray) -> float:
        """Root mean squared error, or log loss, of the test rows; lower is better."""
        raw = np.asarray(raw_scores, dtype=np.float64)
        if self.task == "regression":
            return float(np.sqrt(np.mean((raw - self.y_test) ** 2)))
        return float(np.mean(loss_value("logistic", raw, self.y_test)))


def _power_law_columns(rng, n_rows, size, exponent):
    """Values 0 .. size-1 with p ~ (rank + 10)^-exponent, ranks assigned to values at random."""
    p = (np.arange(size) + 10.0) ** -exponent
    cumulative = np.cumsum(p)
    ranks = np.searchsorted(cumulative, rng.random(n_rows) * cumulative[-1])
    return rng.permutation(size).astype(np.int32)[np.minimum(ranks, size - 1)]


def _one_hot_fields(rng, n_rows, sizes, exponents):
    columns = np.empty((n_rows, len(sizes)), dtype=np.int32)
    start = 0
    for f, (size, exponent) in enumerate(zip(sizes, exponents, strict=True)):
        columns[:, f] = start + _power_law_columns(rng, n_rows, size, exponent)
        start += size
    return columns


def _planted_scores(rng, columns, n_features, rank, w_std, v_std):
    w = (w_std * rng.standard_normal(n_features)).astype(np.float32)
    V = (v_std * rng.standard_normal((n_features, rank))).astype(np.float32)
    s = np.zeros((len(columns), rank), dtype=np.float32)
    q = np.zeros_like(s)
    score = np.zeros(len(columns))
    for f in range(columns.shape[1]):
        v = V[columns[:, f]]
        s += v
        q += v * v
        score += w[columns[:, f]]
    return score + 0.5 * (s * s - q).sum(axis=1)


def _one_hot_csr(columns, n_features):
    n_rows, nnz = columns.shape
    indptr = np.arange(0, n_rows * nnz + 1, nnz, dtype=np.int32)
    data = np.ones(n_rows * nnz, dtype=np.float32)
    return sp.csr_array((data, columns.ravel(), indptr), shape=(n_rows, n_features))


def _split(name, task, columns, y, n_features, sizes):
    n_train = int(0.9 * len(columns))
    X = _one_hot_csr(columns, n_features)
    field = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return Workload(name, task, X[:n_train], y[:n_train], X[n_train:], y[n_train:], field)


def _scaled(sizes, scale):
    return [max(2, round(size * scale)) for size in sizes]


def ratings(scale: float = 1.0, seed: int = 1) -> Workload:
    """W1."""
    rng = np.random.default_rng(seed)
    sizes = [*_scaled([69_900, 30_000], scale), 7, 24, 69]
    columns = _one_hot_fields(rng, round(1_000_000 * scale), sizes, [0.6, 0.9, 0.5, 0.5, 0.5])
    score = _planted_scores(rng, columns, sum(sizes), rank=8, w_std=0.3, v_std=0.35)
    y = 3.5 + score + 0.5 * rng.standard_normal(len(score))
    return _split("W1", "regression", columns, y, sum(sizes), sizes)


def ctr(scale: float = 1.0, seed: int = 2, n_rows: int = 500_000) -> Workload:
    """W2, or what is like it but for the number of rows."""
    rng = np.random.default_rng(seed)
    raw = np.geomspace(10, 250_000, 39)
    sizes = _scaled(raw * (1_000_000 / raw.sum()), scale)
    columns = _one_hot_fields(rng, round(n_rows * scale), sizes, [1.1] * 39)
    score = _planted_scores(rng, columns, sum(sizes), rank=4, w_std=0.3, v_std=0.15)
    probability = 1.0 / (1.0 + np.exp(-(score - np.quantile(score, 0.85))))
    y = (rng.random(len(score)) < probability).astype(np.int64)
    return _split("W2", "classification", columns, y, sum(sizes), sizes)


def big_table(scale: float = 1.0, seed: int = 3) -> Workload:
    """W3."""
    rng = np.random.default_rng(seed)
    n_rows, size = round(300_000 * scale), max(1, round(10_000_000 * scale) // 39)
    starts = size * np.arange(39, dtype=np.int32)
    columns = starts + rng.integers(0, size, (n_rows, 39), dtype=np.int32)
    y = rng.integers(0, 2, n_rows)
    return _split("W3", "classification", columns, y, 39 * size, [size] * 39)


WORKLOADS = {"W1": ratings, "W2": ctr, "W3": big_table}


def load(source: str | Path, scale: float = 1.0) -> Workload:
    """A workload by name ("W1", "W2", "W3", "chess") or path; a regression target is standardised.

    `scale` is for the synthetic ones. A file is an `.npz` of CSR arrays named train_data, train_indices,
    train_indptr, train_shape, train_y, and the same for test_; two different targets make a classification.
    """
    if isinstance(source, Path):
        return _standardised(_from_file(source))
    return _standardised(_chess() if source == "chess" else WORKLOADS[source](scale))


def _chess() -> Workload:
    c = load_chess_endgame()
    return Workload("chess", "regression", c.X_train, c.y_train, c.X_test, c.y_test, c.field)


def _from_file(path: Path) -> Workload:
    with np.load(path, allow_pickle=False) as arrays:
        X, y = {}, {}
        for part in ("train", "test"):
            data, *structure = (arrays[f"{part}_{name}"] for name in ("data", "indices", "indptr"))
            structure = [values.astype(np.int32) for values in structure]  # all that some peers take
            X[part] = sp.csr_array((data, *structure), shape=tuple(arrays[f"{part}_shape"]))
            y[part] = arrays[f"{part}_y"].astype(np.float64)
        field = arrays["field"] if "field" in arrays else np.zeros(X["train"].shape[1], dtype=np.int32)
    labels = np.unique(y["train"])
    task = "classification" if len(labels) == 2 else "regression"
    if task == "classification":
        y = {part: (values == labels[1]).astype(np.int64) for part, values in y.items()}
    return Workload(path.stem, task, X["train"], y["train"], X["test"], y["test"], field)


def _standardised(w: Workload) -> Workload:
    """A regression target in standard deviations from the mean of its training rows."""
    if w.task == "classification":
        return w
    mean, std = w.y_train.mean(), w.y_train.std()
    return replace(w, y_train=(w.y_train - mean) / std, y_test=(w.y_test - mean) / std)
