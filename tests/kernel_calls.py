"""Rows, tables and calls of the compiled kernel, for the tests of the kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import reference
from numpy.typing import NDArray

from fmfast.table import ParameterTable, padded_width

CHUNK_NNZ, CHUNK_ROWS = 8192, 4096  # what the kernel gathers at a time, see _chunks.pxd


@dataclass
class Rows:
    """A CSR matrix as the kernel takes it, and the same as a dense matrix with a mask of what is stored."""

    dense: NDArray
    stored: NDArray[np.bool_]
    index_dtype: str = "int32"
    data: NDArray | None = None

    def __post_init__(self):
        if self.data is None:
            self.data = self.dense[self.stored]
        self.indices = np.nonzero(self.stored)[1].astype(self.index_dtype)
        self.indptr = np.concatenate([[0], np.cumsum(self.stored.sum(axis=1))]).astype(np.int64)

    @property
    def n_samples(self):
        return len(self.dense)

    @property
    def n_features(self):
        return self.dense.shape[1]

    @property
    def csr(self):
        return self.data, self.indices, self.indptr


def random_rows(rng, n_samples=14, n_features=22, dtype="float64", index_dtype="int32"):
    """Negative and non-binary values, an explicit zero, empty rows, a full row, an unused column."""
    stored = rng.random((n_samples, n_features)) < 0.4
    stored[0] = stored[n_samples // 2] = stored[-1] = False
    stored[1] = True
    stored[:, 5] = False
    dense = np.where(stored, rng.normal(size=stored.shape), 0.0).astype(dtype)
    dense[1, 3] = 0.0
    return Rows(dense, stored, index_dtype)


def long_rows(rng, lengths, n_features=9_200):
    """Rows with given numbers of nonzeros, all of them 1 or -1."""
    stored = np.zeros((len(lengths), n_features), dtype=bool)
    for row, length in zip(stored, lengths, strict=True):
        row[rng.choice(n_features, length, replace=False)] = True
    return Rows(np.where(stored, rng.choice([-1.0, 1.0], stored.shape), 0.0), stored)


def state_size(solver, n_factors):
    """adagrad: one number for w_j and one for v_j; ftrl: two for w_j and one for each factor."""
    return {"sgd": 0, "adagrad": 2, "ftrl": 2 + padded_width(n_factors)}[solver]


def random_table(rng, n_features, n_factors, dtype="float64", solver="sgd", init_std=None):
    """w0, w and V random; all state 0.25. The padding is NaN: whoever reads it is found out."""
    table = ParameterTable(1, n_features, n_factors, state_size(solver, n_factors), dtype)
    table.rows[:] = np.nan
    table.rows[:, :, n_factors : table.width] = 0.0
    table.state[:] = 0.25
    if solver == "ftrl":
        clear_state_of_zeros(table)
    table.bias[:] = [0.3, 0.25, 0.25]
    table.w[0] = rng.normal(size=n_features)
    # Pairwise terms of the size of the linear ones, however many factors share them.
    std = 0.5 / max(n_factors, 1) ** 0.25 if init_std is None else init_std
    table.V[0] = rng.normal(0.0, std, (n_features, n_factors))
    return table


def clear_state_of_zeros(table):
    """ftrl: n of the zeros behind the factors is 0, as it is in every table that was trained."""
    table.state[:, :, 2 + table.n_factors :] = 0.0


def parameters(table):
    """Copies of w0, w and V."""
    return float(table.w0[0]), table.w[0].copy(), table.V[0].copy()


def score(core, rows, table, first=0, stop=None, out=None):
    out = np.full(rows.n_samples, np.nan) if out is None else out
    stop = rows.n_samples if stop is None else stop
    core.score_rows(*rows.csr, first, stop, table.rows[0], table.bias[0, 0], table.width, out)
    return out


def train(
    core,
    rows,
    y,
    table,
    *,
    solver="sgd",
    loss="squared",
    sample_weight=None,
    runs=None,
    run_length=1,
    n_lanes=1,
    learning_rate=1.0,
    reg_w=0.0,
    reg_V=0.0,
    l1_w=0.0,
    **own,
):
    """One pass, over the rows as they stand unless told otherwise; `own` is for a thread with own rows."""
    return core.train_rows(
        *rows.csr,
        np.asarray(y, dtype=np.float64),
        np.empty(0) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64),
        np.arange(0, rows.n_samples, run_length) if runs is None else np.asarray(runs, dtype=np.int64),
        run_length,
        n_lanes,
        table.rows[0],
        table.bias[0],
        table.width,
        core.SOLVERS[solver],
        core.LOSSES[loss],
        learning_rate,
        reg_w,
        reg_V,
        l1_w,
        **own,
    )


def assert_scores(actual, X, table, rounding=8.0):
    """Equal to the definition, up to a few rounding errors of the table's dtype."""
    # The kernel computes in the dtype of the table, so that is the X it sees.
    X, params = X.astype(table.dtype), parameters(table)
    error = np.abs(actual - reference.score(X, *params))
    assert (error <= rounding * np.finfo(table.dtype).eps * reference.magnitude(X, *params)).all()
