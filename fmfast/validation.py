"""Rows from outside become canonical CSR arrays, or one clear error.

The caller's arrays are only read; what has to change is copied. Behind this module every row is
sorted, free of zeros and of duplicates (Lemma 3.1 does not hold with them), finite, and within the
columns of the model: kernels check nothing. This module knows nothing of models, solvers or estimators.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fmfast import _csr
from fmfast.exceptions import level_of_caller
from fmfast.paging import Pages, is_mapped, pieces

_FINDINGS = {code: name for name, code in _csr.FINDINGS.items()}


_NO_WEIGHT: NDArray[np.float64] = np.empty(0)


@dataclass(frozen=True)
class SparseRows:
    """A canonical CSR matrix as the kernels take it.

    Attributes
    ----------
    data : float32 or float64 ndarray of shape (nnz,) or (0,)
        The values; empty if all of them are 1.
    indices : int32 or int64 ndarray of shape (nnz,)
    indptr : int64 ndarray of shape (n_samples + 1,)
    n_features : int
    """

    data: NDArray[Any]
    indices: NDArray[Any]
    indptr: NDArray[np.int64]
    n_features: int

    @property
    def n_samples(self) -> int:
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        return len(self.indices)

    @property
    def pages(self) -> Pages:
        """What of it lies in mapped files."""
        return Pages(self.indptr, (self.indices, self.data))

    def largest_value(self) -> float:
        """Largest |value|, 0 without values."""
        if len(self.data):
            return max(float(np.abs(self.data[part]).max()) for part in pieces(self.data))
        return 1.0 if self.nnz else 0.0

    def mean_row_norm(self, power: int, weight: NDArray[np.float64] = _NO_WEIGHT) -> float:
        """Mean over the rows of sum_j |x_ij|^power; weighted, if there are weights."""
        sum_of_weights = sum(float(weight[part].sum()) for part in pieces(weight))
        return self.total_row_norm(power, weight) / (sum_of_weights if len(weight) else self.n_samples)

    def total_row_norm(self, power: int, weight: NDArray[np.float64] = _NO_WEIGHT) -> float:
        """The sum of which `mean_row_norm` is the mean."""
        weighted = len(weight) > 0
        if not (weighted or len(self.data)):
            return float(self.nnz)
        total = 0.0
        with np.errstate(over="ignore"):
            step = 1 << 16
            if is_mapped(self.indices):  # long rows are the reason to map them
                step = max(1, min(step, (1 << 22) * self.n_samples // max(1, self.nnz)))
            for start in range(0, self.n_samples, step):  # in pieces: no copy of all values
                part = self.part(start, min(start + step, self.n_samples))
                norms = part.data.astype(np.float64) if len(part.data) else np.ones(part.nnz)
                np.abs(norms, out=norms)
                norms **= power
                if weighted:
                    norms *= np.repeat(weight[start : start + part.n_samples], np.diff(part.indptr))
                total += float(norms.sum())
                self.pages.let_go(start, start + part.n_samples)
        return total

    def present_features(self) -> NDArray[np.intp]:
        """The columns that hold at least one value, ascending."""
        present = np.zeros(self.n_features, dtype=bool)
        for part in pieces(self.indices):
            present[self.indices[part]] = True
        return np.flatnonzero(present)

    def count_features(
        self, runs: NDArray[np.int64], run_length: int, counts: NDArray[np.uint32]
    ) -> NDArray[np.int64]:
        """Count, in place, the features of the rows of some runs; those that had no count yet, ascending."""
        found = np.empty(min(self.n_features, self.nnz), dtype=np.int64)
        n_found = _csr.count_columns(self.indices, self.indptr, runs, run_length, counts, found)
        return np.sort(found[:n_found])

    def part(self, start: int, stop: int) -> SparseRows:
        """Consecutive rows, without a copy of their entries."""
        indptr = self.indptr[start : stop + 1]
        entries = slice(indptr[0], indptr[-1])
        return SparseRows(
            self.data[entries] if len(self.data) else self.data,
            self.indices[entries],
            indptr - indptr[0],
            self.n_features,
        )

    def take(self, rows: NDArray[np.intp]) -> SparseRows:
        """The given rows, in the given order, as a copy."""
        data = self.data if len(self.data) else np.broadcast_to(np.float32(1), self.nnz)
        matrix = sp.csr_array((data, self.indices, self.indptr), shape=(self.n_samples, self.n_features))
        part = matrix[rows]
        return SparseRows(
            part.data if len(self.data) else self.data,
            part.indices,
            part.indptr.astype(np.int64, copy=False),
            self.n_features,
        )


@dataclass(frozen=True)
class Named:
    """What stands for an X of which nothing is at hand but the names of its columns."""

    columns: NDArray[Any] | None


def feature_names_of(X: Any) -> NDArray[Any] | None:
    """Column names of a DataFrame if all are strings, else None (an error if only some are)."""
    columns = getattr(X, "columns", None)
    if columns is None or sp.issparse(X):
        return None
    names = np.asarray(list(columns), dtype=object)
    n_strings = sum(isinstance(name, str) for name in names)
    if 0 < n_strings < len(names):
        raise TypeError(
            "Feature names are only supported if all input features have string names, but X has column "
            "names of several types; convert them with X.columns = X.columns.astype(str)."
        )
    return names if n_strings else None


def check_feature_names(X: Any, fitted: NDArray[Any] | None, estimator_name: str) -> None:
    """Compare the column names of X with those seen by `fit`; warn or raise as scikit-learn does."""
    names = feature_names_of(X)
    if names is None:
        # A sparse matrix cannot have names: no reason to warn.
        if fitted is not None and not sp.issparse(X):
            warnings.warn(
                f"X does not have valid feature names, but {estimator_name} was fitted with feature names",
                stacklevel=level_of_caller(),
            )
    elif fitted is None:
        warnings.warn(
            f"X has feature names, but {estimator_name} was fitted without feature names",
            stacklevel=level_of_caller(),
        )
    elif names.tolist() != fitted.tolist():
        unexpected = sorted(set(names) - set(fitted))
        missing = sorted(set(fitted) - set(names))
        message = "The feature names should match those that were passed during fit.\n"
        message += _name_list("Feature names unseen at fit time:\n", unexpected)
        message += _name_list("Feature names seen at fit time, yet now missing:\n", missing)
        if not unexpected and not missing:
            message += "Feature names must be in the same order as they were in fit.\n"
        raise ValueError(message)


def check_n_features(rows: SparseRows, n_features: int, estimator_name: str, name: str = "X") -> None:
    """Raise ValueError unless X has as many columns as the model."""
    if rows.n_features != n_features:
        raise ValueError(
            f"{name} has {rows.n_features} features, but {estimator_name} is expecting {n_features} features "
            "as input; give it the columns it was fitted on, and leave out values that it has never seen."
        )


# -- X -----------------------------------------------------------------------------------------


def check_X(X: Any, *, dtype: np.dtype, name: str = "X") -> SparseRows:
    """Rows from a scipy sparse matrix or array, a dense array, or a DataFrame of numbers.

    Duplicate entries of a sparse matrix are added up, in floating point, and stored zeros left out.

    Parameters
    ----------
    X : array-like or sparse of shape (n_samples, n_features)
    dtype : float32 or float64
        What the model computes in: values beyond its range are refused.
    name : str
        How messages call the argument.

    Raises
    ------
    ValueError
        Wrong shape, malformed sparse matrix, NaN, infinity, not numbers.
    TypeError
        Objects that cannot become numbers.
    """
    if not sp.issparse(X):
        frame = _sparse_frame(X, name)
        X = numeric_array(X, name) if frame is None else frame
    _check_numeric(X.dtype, name)
    _check_matrix_shape(X.shape, name)
    if not sp.issparse(X):
        X = sp.csr_array(_as_float(X, dtype))
    elif X.format != "csr":
        X = _to_csr(X, dtype, name)
    return _check_csr(X, dtype, name)


def _check_csr(X: Any, dtype: np.dtype, name: str) -> SparseRows:
    data, indices, indptr = _csr_arrays(X, name)
    n_features = X.shape[1]
    finding, position = _inspect_columns(indices, indptr, n_features)
    if finding in ("negative column", "column too large"):
        raise ValueError(
            f"{name} has the column index {indices[position]} in row {_row_of(position, indptr)}, expected 0 "
            f"to {n_features - 1} for its {n_features} columns; its indices are wrong, or its shape."
        )
    if data.strides == (0,) and len(data) and data[0] == 1 and finding == "canonical":
        # One 1 that stands for all of them, as in a data set on disk.
        return SparseRows(np.empty(0, dtype), indices, indptr, n_features)
    data = np.ascontiguousarray(_as_float(data, dtype))
    if finding == "not canonical":
        canonical = sp.csr_array((data, indices, indptr), shape=X.shape, copy=True)
        canonical.sum_duplicates()
        data, indices = canonical.data, canonical.indices
        indptr = canonical.indptr.astype(np.int64, copy=False)
    if any(np.count_nonzero(data[part]) < len(data[part]) for part in pieces(data)):
        # A stored zero would be penalised like a value: the same data written densely would differ.
        kept = data != 0
        data, indices, indptr = data[kept], indices[kept], np.append(0, np.cumsum(kept))[indptr]
    limit = float(np.finfo(dtype).max)
    position, all_ones = _inspect_values(data, limit)
    if position >= 0:
        where = f"in row {_row_of(position, indptr)}, column {indices[position]}"
        refuse_number(data[position], name, where, limit)
    return SparseRows(np.empty(0, dtype) if all_ones else data, indices, indptr, n_features)


def _inspect_columns(indices: NDArray[Any], indptr: NDArray[np.int64], n_features: int) -> tuple[str, int]:
    """(finding, position of the offending element), as `_csr.inspect_columns`."""
    found = "canonical"
    for start, stop in Pages(indptr, (indices,)).pieces():
        bounds = indptr[start : stop + 1]
        first, last = bounds[[0, -1]].tolist()
        code, position = _csr.inspect_columns(indices[first:last], bounds - first, n_features)
        if position >= 0:
            return _FINDINGS[code], first + position
        if _FINDINGS[code] != "canonical":
            found = _FINDINGS[code]
    return found, -1


def _inspect_values(data: NDArray[Any], limit: float) -> tuple[int, bool]:
    """(position of the first value that is not finite or beyond +-limit, or -1; whether all values are 1)."""
    all_ones = True
    for part in pieces(data):
        position, ones = _csr.inspect_values(data[part], limit)
        if position >= 0:
            return part.start + position, False
        all_ones = all_ones and ones
    return -1, all_ones


def _csr_arrays(X: Any, name: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """data, indices and indptr of a CSR matrix, checked to fit each other; no column index is looked at."""
    data, indices, indptr = np.asarray(X.data), np.asarray(X.indices), np.asarray(X.indptr)
    problem = _structure_problem(data, indices, indptr, X.shape[0])
    if problem:
        raise ValueError(f"{name} is a malformed sparse matrix: it has {problem}; build it anew.")
    if indices.dtype not in (np.int32, np.int64) or not indices.dtype.isnative:
        indices = indices.astype(np.int64)
    indptr = np.ascontiguousarray(indptr, dtype=np.int64)
    nnz = indptr[-1]
    return data[:nnz], np.ascontiguousarray(indices[:nnz]), indptr


def _structure_problem(
    data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], n_lists: int, kind: str = "row"
) -> str:
    """What is wrong with the arrays of a compressed matrix, "" if they fit each other.

    `n_lists` counts its rows (CSC: columns; BSR: rows of blocks), and `kind` is what one of them is called.
    """
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        return f"indices of dtype {indices.dtype} and indptr of dtype {indptr.dtype}, expected integers"
    if data.ndim != 1 or indices.ndim != 1 or indptr.ndim != 1:
        return "data, indices or indptr with several dimensions, expected one"
    if len(data) != len(indices):
        return f"{len(data)} values in data and {len(indices)} in indices, expected as many"
    if len(indptr) != n_lists + 1:
        return f"indptr of length {len(indptr)}, expected {n_lists + 1} for its {n_lists} {kind}s"
    if indptr[0] != 0:
        return f"indptr that starts at {indptr[0]}, expected 0"
    if indptr[-1] > len(indices):
        return f"indptr that ends at {indptr[-1]}, expected no more than its {len(indices)} stored values"
    starts = np.ascontiguousarray(indptr, dtype=np.int64)
    i = _first_decrease(starts)
    return "" if i < 0 else f"indptr that falls from {starts[i]} to {starts[i + 1]} in {kind} {i}"


def _first_decrease(indptr: NDArray[np.int64]) -> int:
    """First i with indptr[i + 1] < indptr[i], or -1."""
    for part in pieces(indptr):
        row = _csr.first_decrease(indptr[part.start : part.stop + 1])
        if row >= 0:
            return int(part.start + row)
    return -1


# What matrices of other formats are made of; LIL and DOK are made of Python objects.
_PARTS = {
    "bsr": ("data", "indices", "indptr"),
    "coo": ("data", "coords"),
    "csc": ("data", "indices", "indptr"),
    "dia": ("data", "offsets"),
}


def _to_csr(X: Any, dtype: np.dtype, name: str) -> Any:
    """Convert another sparse format.

    SciPy trusts the arrays of a matrix when it converts it, and crashes if they are wrong, but it checks them
    when it builds one. So the matrix is built anew, from the same arrays. It does not look at all of indptr,
    however, if that says that there are no entries.
    """
    try:
        if X.format in _PARTS:
            data, *structure = (getattr(X, part) for part in _PARTS[X.format])
            if X.format in ("bsr", "csc"):
                _check_lists(X, data, *structure)
            # As floats: duplicates of small integers would overflow when they are added up.
            X = type(X)((_as_float(data, dtype), *structure), shape=X.shape)
        elif X.format == "lil" and any(len(j) != len(x) for j, x in zip(X.rows, X.data, strict=True)):
            raise ValueError("a row has not as many column indices as values")
        if X.format in ("bsr", "csc"):
            X.check_format(full_check=True)
        return X.tocsr()
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(
            f"{name} is a malformed sparse matrix of shape {X.shape} in {X.format.upper()} format: {error}; "
            "build it anew."
        ) from error


def _check_lists(X: Any, data: Any, indices: Any, indptr: Any) -> None:
    """Raise ValueError unless the arrays of a CSC or BSR matrix fit each other."""
    data, indices, indptr = np.asarray(data), np.asarray(indices), np.asarray(indptr)
    n_lists, kind = X.shape[1], "column"
    if X.format == "bsr":
        if data.ndim != 3 or 0 in data.shape[1:]:
            raise ValueError(f"its data have the shape {data.shape}, expected (n_blocks, n_rows, n_columns)")
        n_lists, kind = X.shape[0] // data.shape[1], "block row"
        data = data[:, 0, 0]
    problem = _structure_problem(data, indices, indptr, n_lists, kind)
    if problem:
        raise ValueError(f"it has {problem}")


def _sparse_frame(X: Any, name: str) -> sp.coo_array | None:
    """A DataFrame of which all columns are sparse, without a dense copy; None for all else."""
    to_coo = getattr(getattr(X, "sparse", None), "to_coo", None)
    if to_coo is None or not hasattr(X, "columns"):
        return None
    try:
        coo = to_coo()
    except ValueError:  # most values are stored, as the common one is not 0: no better than dense
        return None
    # Boolean columns, or columns of several types, come as objects.
    return sp.coo_array((numeric_array(coo.data, name), coo.coords), shape=coo.shape)


def _check_matrix_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) == 1:
        raise ValueError(
            f"Expected 2D array, got 1D array instead: {name} has shape {shape} (Reshape your data with "
            "array.reshape(-1, 1) if it has a single feature, or array.reshape(1, -1) if it is one sample)."
        )
    if len(shape) != 2:
        raise ValueError(
            f"Found array with dim {len(shape)}, expected 2: {name} has shape {shape}; give it one row per "
            "sample and one column per feature."
        )
    if shape[0] < 1:
        raise ValueError(
            f"Found array with 0 sample(s) (shape={shape}) while a minimum of 1 is required; add rows to "
            f"{name}."
        )
    if shape[1] < 1:
        raise ValueError(
            f"Found array with 0 feature(s) (shape={shape}) while a minimum of 1 is required; add columns "
            f"to {name}."
        )


def _row_of(position: int, indptr: NDArray[np.int64]) -> int:
    return int(np.searchsorted(indptr, position, side="right")) - 1


# ---------------------------------------------------------------------------------------------


def numeric_array(values: Any, name: str) -> NDArray[Any]:
    """A real numeric array of any shape; strings and arbitrary objects are refused."""
    refuse_sparse(values, name)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{name} is a {type(values).__name__} whose parts differ in length, expected a regular array of "
            "numbers; fill up what is missing."
        ) from error
    if array.dtype.kind == "O":
        # Column by column types of a DataFrame end here; what is not a number raises.
        advice = "expected numbers; encode it as numeric columns (for example one-hot)"
        strings = [value for value in array.flat if isinstance(value, (str, bytes))]
        if strings:
            raise ValueError(f"{name} holds strings such as {strings[0]!r}, {advice}.")
        try:
            array = array.astype(np.float64)
        except TypeError as error:
            raise TypeError(f"{name} holds objects that are no numbers ({error}), {advice}.") from error
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{name} holds values that are no numbers ({error}), {advice}.") from error
    _check_numeric(array.dtype, name)
    return array


def refuse_sparse(values: Any, name: str) -> None:
    """Raise ValueError for a sparse matrix where a dense array belongs."""
    if sp.issparse(values):
        raise ValueError(
            f"{name} is a sparse matrix of shape {values.shape}, expected a dense array; convert it with "
            ".toarray().ravel()."
        )


def _check_numeric(dtype: np.dtype, name: str) -> None:
    if dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {dtype}, expected real numbers.")
    if dtype.kind not in "fiub":
        raise ValueError(
            f"{name} has dtype {dtype}, expected numbers; encode it as numeric columns (for example one-hot)."
        )


def _as_float(values: NDArray[Any], dtype: np.dtype) -> NDArray[Any]:
    """Native float32 or float64: those stay what they are, wider ones become float64, all else `dtype`."""
    given = values.dtype
    if given.kind == "f" and given.itemsize >= 4:
        dtype = np.dtype(np.float32 if given.itemsize == 4 else np.float64)
    if given == dtype:
        return values
    with np.errstate(over="ignore"):  # of long doubles: infinity is reported later
        return values.astype(dtype)


def refuse_number(value: float, name: str, where: str, limit: float) -> NoReturn:
    """Raise ValueError for a number that is not finite, or not within +-limit."""
    if np.isnan(value):
        what = "NaN"
    elif np.isinf(value):
        what = "infinity"
    else:
        what = f"the value {value:g} that is too large"
    within = f" within +-{limit:.3g}" if np.isfinite(limit) else ""
    raise ValueError(
        f"Input {name} contains {what} ({where}), expected finite numbers{within}; drop or rescale it."
    )


def _name_list(title: str, names: list[str]) -> str:
    if not names:
        return ""
    return title + "".join(f"- {name}\n" for name in names[:5]) + ("- ...\n" if len(names) > 5 else "")
