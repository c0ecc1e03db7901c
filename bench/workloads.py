"""Synthetic workloads with the shapes of ratings, click logs, and a table larger than any cache.

| name | rows      | nnz per row | columns    | columns are drawn                                          |
|------|-----------|-------------|------------|------------------------------------------------------------|
| W1   | 1,000,000 | 5           | 100,000    | user p ~ (r+10)^-0.6, item ^-0.9, three contexts ^-0.5     |
| W2   | 500,000   | 39          | 1,000,000  | 39 fields of 10 .. 250,000 values, p ~ (r+10)^-1.1         |
| W3   | 300,000   | 39          | 10,000,000 | uniform: every row of the parameter table is a cache miss  |

r is the rank of a value in its field; values are numbered in random order within their field. The
targets of W1 and W2 come from a planted factorization machine (rank 8 with noise, and rank 4 with
20% positives), those of W3 are random clicks. All values are 1. 90% of the rows train, the rest test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class Workload:
    """A train/test split with its task ("regression" or "classification")."""

    name: str
    task: str
    X_train: sp.csr_array
    y_train: np.ndarray
    X_test: sp.csr_array
    y_test: np.ndarray
    field: np.ndarray


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


def ctr(scale: float = 1.0, seed: int = 2) -> Workload:
    """W2."""
    rng = np.random.default_rng(seed)
    raw = np.geomspace(10, 250_000, 39)
    sizes = _scaled(raw * (1_000_000 / raw.sum()), scale)
    columns = _one_hot_fields(rng, round(500_000 * scale), sizes, [1.1] * 39)
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
