"""Interactions, features, weights and numbers of contexts and items from outside become canonical arrays.

What `validation` is for rows of samples, this module is for `FMRanker`. It knows no model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fmfast import validation as check
from fmfast.solvers.ranking import Positives
from fmfast.validation import SparseRows

_MOST = np.iinfo(np.int32).max  # contexts and items, as the kernel counts them


def check_interactions(X: Any, name: str) -> SparseRows:
    """Pairs as canonical rows of ones."""
    rows = check.check_X(X, dtype=np.dtype(np.float64), name=name)
    if len(rows.data) and rows.data.min() < 0:
        raise ValueError(
            f"{name} has the negative value {rows.data.min():g}, expected positive values for observed pairs "
            f"and 0 for all others; keep only what counts, as in {name} > 0."
        )
    if max(rows.n_samples, rows.n_features) > _MOST:
        raise ValueError(
            f"{name} has shape {(rows.n_samples, rows.n_features)}, expected at most {_MOST} contexts and as "
            "many items; leave out those without interactions."
        )
    return SparseRows(np.empty(0), rows.indices, rows.indptr, rows.n_features)


def check_same_shape(X: Any, name: str, interactions: SparseRows) -> SparseRows:
    """Further pairs of the same contexts and items."""
    rows = check_interactions(X, name)
    check_shape(rows, name, (interactions.n_samples, interactions.n_features))
    return rows


def check_shape(rows: SparseRows, name: str, shape: tuple[int, int]) -> None:
    if (rows.n_samples, rows.n_features) != shape:
        raise ValueError(
            f"{name} has shape {(rows.n_samples, rows.n_features)}, expected {shape}: a row per context and "
            "a column per item; number both as in the interactions of fit."
        )


def check_entries(X: Any, name: str, shape: tuple[int, int]) -> sp.csr_array:
    """Pairs of any values, as a matrix of ones."""
    rows = check.check_X(X, dtype=np.dtype(np.float64), name=name)
    check_shape(rows, name, shape)
    return matrix_of(rows)


def check_features(X: Any, n: int, name: str, what: str, dtype: np.dtype) -> SparseRows | None:
    """Rows of features in arrays of their own, one for each of n contexts or items; None for None."""
    if X is None:
        return None
    rows = check.check_X(X, dtype=dtype, name=name)
    if rows.n_samples != n:
        raise ValueError(
            f"{name} has {rows.n_samples} rows, expected {n}, one for each of the {what} of interactions; "
            "give both in the same order."
        )
    if rows.n_features > _MOST:
        raise ValueError(
            f"{name} has {rows.n_features} columns, expected at most {_MOST}; leave out those without values."
        )
    # The model keeps them: what the caller does to his arrays later is none of its business.
    return SparseRows(
        rows.data.astype(dtype), rows.indices.astype(np.int32), rows.indptr.copy(), rows.n_features
    )


def check_columns(rows: SparseRows, known: SparseRows, name: str, fitted: str) -> None:
    if rows.n_features != known.n_features:
        raise ValueError(
            f"{name} has {rows.n_features} columns, but the ranker was fitted with {known.n_features} of "
            f"{fitted}, expected as many; give the same features, in the same order."
        )


def check_numbers(numbers: Any, n: int, name: str) -> NDArray[np.intp]:
    """Numbers of contexts or items."""
    given = check.numeric_array(numbers, name)
    if given.ndim != 1 or given.dtype.kind not in "iu" or not len(given):
        raise ValueError(
            f"{name} is an array of shape {given.shape} and dtype {given.dtype}, expected one or more whole "
            "numbers, or a matrix of features; from a mask, make numbers with np.flatnonzero."
        )
    wrong = (given < 0) | (given >= n)
    if wrong.any():
        raise ValueError(
            f"{name} has the number {given[np.argmax(wrong)]}, expected 0 to {n - 1}, as the last fit had "
            f"{n}; give others by their features."
        )
    return given.astype(np.intp)


def check_weight(weight: Any, positive: SparseRows) -> NDArray[np.float64]:
    """A weight for each positive, (n_positives,), or (0,) if all are 1."""
    if weight is None:
        return np.empty(0)
    shape = (positive.n_samples, positive.n_features)
    if sp.issparse(weight) or np.ndim(weight) == 2:
        rows = check.check_X(weight, dtype=np.dtype(np.float64), name="sample_weight")
        check_shape(rows, "sample_weight", shape)
        data = rows.data if len(rows.data) else np.ones(rows.nnz)
        values = _values_at(positive, rows, data)
    else:
        per_context = check.numeric_array(weight, "sample_weight").astype(np.float64)
        if per_context.shape != shape[:1]:
            raise ValueError(
                f"sample_weight has shape {per_context.shape}, expected {shape[:1]}, a weight per context, "
                f"or {shape}, one per pair; give either."
            )
        bad = ~np.isfinite(per_context)
        if bad.any():
            check.refuse_number(
                per_context[np.argmax(bad)], "sample_weight", f"context {np.argmax(bad)}", np.inf
            )
        values = np.repeat(per_context, np.diff(positive.indptr))
    if len(values) and values.min() < 0:
        raise ValueError(
            f"sample_weight has the negative value {values.min():g}, expected 0 or more; drop what should "
            "not count, or give it the weight 0."
        )
    if len(values) and not values.any():
        raise ValueError(
            "sample_weight is 0 for every positive pair, expected some of positive weight; give it values "
            "where interactions has them."
        )
    return values


def _values_at(positive: SparseRows, rows: SparseRows, data: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values of another matrix of the same shape at the positives, 0 where it has none."""
    known, wanted = _pair_numbers(rows), _pair_numbers(positive)
    places = np.searchsorted(known, wanted)
    is_there = np.append(known, -1)[places] == wanted
    return np.where(is_there, np.append(data, 0.0)[places], 0.0)


def _pair_numbers(rows: SparseRows) -> NDArray[np.int64]:
    """One number per pair, ascending."""
    of_row = np.repeat(np.arange(rows.n_samples, dtype=np.int64), np.diff(rows.indptr))
    return of_row * rows.n_features + rows.indices


def without(rows: SparseRows, others: SparseRows) -> SparseRows:
    """The pairs that are not among others."""
    return select(rows, _values_at(rows, others, np.ones(others.nnz)) == 0.0)


def select(rows: SparseRows, kept: NDArray[np.bool_]) -> SparseRows:
    """Some of the pairs."""
    indptr = np.append(0, np.cumsum(kept))[rows.indptr].astype(np.int64)
    return SparseRows(rows.data, rows.indices[kept], indptr, rows.n_features)


def matrix_of(rows: SparseRows) -> sp.csr_array:
    """Pairs as a boolean matrix."""
    shape = (rows.n_samples, rows.n_features)
    return sp.csr_array((np.ones(rows.nnz, dtype=bool), rows.indices, rows.indptr), shape=shape)


def positives_of(positive: SparseRows, weight: NDArray[np.float64]) -> tuple[Positives, int]:
    """What a ranker trains on, and how many contexts have nothing to learn an order from.

    Raises
    ------
    ValueError
        If there is no pair to train on.
    """
    counts = np.diff(positive.indptr)
    useless = (counts == 0) | (counts == positive.n_features)
    trained = np.repeat(~useless, counts)
    if len(weight):
        trained &= weight > 0
    chosen = np.flatnonzero(trained)
    if not len(chosen):
        raise ValueError(
            f"interactions of shape {(positive.n_samples, positive.n_features)} has {positive.nnz} positives "
            "and no context with some of positive weight and with other items, expected contexts that chose "
            "some of the items; without them there is no order to learn."
        )
    positives = Positives(
        positive.indptr,
        positive.indices.astype(np.int32),
        positive.n_features,
        chosen,
        weight[chosen] if len(weight) else weight,
    )
    return positives, int(useless.sum())
