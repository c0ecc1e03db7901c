"""Rows of contexts and items in model files: how they are described, checked, and laid out.

Everything from a file is taken for foreign: what is returned here has passed `validation`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fmfast.ranking_model import RankingModel, identity_rows, is_identity
from fmfast.validation import SparseRows, check_X

SIDES = ("contexts", "items")


def describe(model: RankingModel) -> dict[str, Any]:
    """What a header says of both sides; the nnz of ids is null."""
    return {side: _describe(getattr(model, side)) for side in SIDES}


def _describe(rows: SparseRows) -> dict[str, Any]:
    return {
        "n_rows": rows.n_samples,
        "n_features": rows.n_features,
        "nnz": None if is_identity(rows) else rows.nnz,
        "all_ones": not len(rows.data),
    }


def is_description(value: Any) -> bool:
    """Whether a value from a header is such a description."""
    return isinstance(value, dict) and value.keys() == set(SIDES) and all(map(_is_side, value.values()))


def _is_side(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"n_rows", "n_features", "nnz", "all_ones"}:
        return False
    counts = (value["n_rows"], value["n_features"])
    if not all(type(n) is int and 1 <= n < 2**31 for n in counts) or type(value["all_ones"]) is not bool:
        return False
    if value["nnz"] is None:
        return counts[0] == counts[1] and value["all_ones"]
    return type(value["nnz"]) is int and 0 <= value["nnz"] < 2**63


def size_of(side: dict[str, Any], dtype: np.dtype) -> int:
    """Bytes that a file holds of one side."""
    if side["nnz"] is None:
        return 0
    values = 0 if side["all_ones"] else dtype.itemsize
    return 8 * (side["n_rows"] + 1) + side["nnz"] * (np.dtype(np.int32).itemsize + values)


def empty_rows(side: dict[str, Any], dtype: np.dtype) -> SparseRows:
    """Rows of one side that wait for their entries; those of ids are complete."""
    if side["nnz"] is None:
        return identity_rows(side["n_rows"], dtype)
    data = np.empty(0 if side["all_ones"] else side["nnz"], dtype)
    indptr = np.empty(side["n_rows"] + 1, np.int64)
    return SparseRows(data, np.empty(side["nnz"], np.int32), indptr, side["n_features"])


def arrays_of(model: RankingModel) -> dict[str, NDArray]:
    """The members of a file that hold both sides: views of what the model holds, none of ids."""
    arrays: dict[str, NDArray] = {}
    for side in SIDES:
        rows: SparseRows = getattr(model, side)
        if not is_identity(rows):
            arrays |= {f"{side}_{name}": getattr(rows, name) for name in ("data", "indices", "indptr")}
    return arrays


def check_rows(model: RankingModel) -> None:
    """Refuse rows that `validation` would change, or refuse."""
    for side in SIDES:
        rows: SparseRows = getattr(model, side)
        data = rows.data if len(rows.data) else np.ones(rows.nnz, model.dtype)
        shape = (rows.n_samples, rows.n_features)
        matrix = sp.csr_array((data, rows.indices, rows.indptr), shape=shape)
        checked = check_X(matrix, dtype=model.dtype, name=side)
        same = np.array_equal(checked.indices, rows.indices) and np.array_equal(checked.indptr, rows.indptr)
        if not same or len(checked.data) != len(rows.data):
            raise ValueError(f"its rows of {side} are not sorted, or hold zeros or duplicates")
