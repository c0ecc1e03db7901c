"""All that comes from outside becomes canonical arrays, or one clear error.

The caller's arrays are only read; what has to change is copied. Behind this module every row is
sorted, free of duplicates (Lemma 3.1 does not hold with them), finite, and within the columns of the
model: kernels check nothing. This module knows nothing of models, solvers or estimators.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fmfast import _csr
from fmfast._sklearn import conversion_warning

_FINDINGS = {code: name for name, code in _csr.FINDINGS.items()}


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

    data: NDArray
    indices: NDArray
    indptr: NDArray[np.int64]
    n_features: int

    @property
    def n_samples(self) -> int:
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        return len(self.indices)

    def largest_value(self) -> float:
        """Largest |value|, 0 without values."""
        if len(self.data):
            return float(max(self.data.max(), -self.data.min()))
        return 1.0 if self.nnz else 0.0

    def mean_row_norm(self) -> float:
        """Mean over the rows of sum_j |x_ij|."""
        if not len(self.data):
            return self.nnz / self.n_samples
        # In pieces, so that no copy of all values is made.
        pieces = range(0, self.nnz, 1 << 20)
        return sum(float(np.abs(self.data[p : p + (1 << 20)]).sum(dtype=np.float64)) for p in pieces) / self.n_samples

    def present_features(self) -> NDArray[np.intp]:
        """The columns that hold at least one value, ascending."""
        present = np.zeros(self.n_features, dtype=bool)
        present[self.indices] = True
        return np.flatnonzero(present)

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


def feature_names_of(X: Any) -> NDArray | None:
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


def check_X(X: Any, *, dtype: np.dtype, name: str = "X", min_samples: int = 1) -> SparseRows:
    """Rows from a scipy sparse matrix or array, a dense array, or a DataFrame of numbers.

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
        Wrong shape, malformed CSR, NaN, infinity, not numbers.
    TypeError
        Objects that cannot become numbers.
    """
    if sp.issparse(X):
        return _check_sparse(X, dtype, name, min_samples)
    if hasattr(X, "sparse") and hasattr(X, "columns"):
        try:
            return _check_sparse(X.sparse.to_coo(), dtype, name, min_samples)
        except AttributeError:
            pass  # an ordinary DataFrame: only one with sparse columns has the accessor
    dense = _numeric_array(X, name)
    if dense.ndim == 1:
        raise ValueError(
            f"Expected 2D array, got 1D array instead: {name} has shape {dense.shape}. Reshape your data with "
            "array.reshape(-1, 1) if it has a single feature or array.reshape(1, -1) if it is a single sample."
        )
    if dense.ndim != 2:
        raise ValueError(
            f"Found array with dim {dense.ndim}, expected <= 2: {name} must have shape "
            f"(n_samples, n_features), but has {dense.shape}."
        )
    _check_not_empty(dense.shape, name, min_samples)
    return _check_sparse(sp.csr_array(dense.astype(_float_type(dense.dtype, dtype), copy=False)), dtype, name, 0)


def check_n_features(rows: SparseRows, n_features: int, estimator_name: str) -> None:
    """Raise ValueError unless X has as many columns as the model."""
    if rows.n_features != n_features:
        raise ValueError(
            f"X has {rows.n_features} features, but {estimator_name} is expecting {n_features} features as "
            "input; give it the columns it was fitted on (encode unseen values as empty rows)."
        )


def check_feature_names(X: Any, fitted: NDArray | None, estimator_name: str) -> None:
    """Compare the column names of X with those seen by `fit`; warn or raise as scikit-learn does."""
    if fitted is None and not hasattr(X, "columns"):
        return
    names = feature_names_of(X)
    if fitted is None and names is not None:
        warnings.warn(
            f"X has feature names, but {estimator_name} was fitted without feature names", stacklevel=4
        )
        return
    if names is None:
        if fitted is not None and not sp.issparse(X):
            warnings.warn(
                f"X does not have valid feature names, but {estimator_name} was fitted with feature names",
                stacklevel=4,
            )
        return
    assert fitted is not None
    if len(names) == len(fitted) and (names == fitted).all():
        return
    unexpected = sorted(set(names) - set(fitted))
    missing = sorted(set(fitted) - set(names))
    message = "The feature names should match those that were passed during fit.\n"
    message += _name_list("Feature names unseen at fit time:\n", unexpected)
    message += _name_list("Feature names seen at fit time, yet now missing:\n", missing)
    if not unexpected and not missing:
        message += "Feature names must be in the same order as they were in fit.\n"
    raise ValueError(message)


def check_regression_target(y: Any, n_samples: int) -> NDArray[np.float64]:
    """Finite numbers of shape (n_samples,)."""
    if y is None:
        _missing_target()
    values = _column_to_1d(_numeric_array(y, "y"))
    _check_length(values, n_samples, "y")
    values = values.astype(np.float64)
    _check_finite_vector(values, "y")
    return values


def check_labels(y: Any, n_samples: int | None) -> NDArray:
    """Class labels of any type, shape (n_samples,) or any length (None), without missing values."""
    if y is None:
        _missing_target()
    labels = np.asarray(y)
    if labels.dtype.kind == "V" or np.iscomplexobj(labels):
        raise ValueError(f"Complex data not supported: y has dtype {labels.dtype}; give one label per sample.")
    labels = _column_to_1d(labels)
    if n_samples is not None:
        _check_length(labels, n_samples, "y")
    if labels.dtype.kind == "f":
        _check_finite_vector(labels, "y")
        if (labels != np.floor(labels)).any():
            raise ValueError(
                "Unknown label type: continuous. y holds fractions such as "
                f"{labels[labels != np.floor(labels)][0]}, but a classifier needs class labels; use a regressor, "
                "or turn y into classes."
            )
    if labels.dtype.kind == "O":
        missing = [i for i, label in enumerate(labels) if label is None or label != label]
        if missing:
            raise ValueError(f"Input y contains NaN: no label for sample {missing[0]}; drop such samples.")
    return labels


def find_classes(labels: NDArray) -> NDArray:
    """The distinct labels, sorted."""
    try:
        return np.unique(labels)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            f"y mixes labels of the types {', '.join(kinds)}, which cannot be sorted; give labels of one type."
        ) from error


def encode_labels(labels: NDArray, classes: NDArray) -> NDArray[np.intp]:
    """The position of each label in the sorted `classes`; ValueError for one that is not there."""
    try:
        codes = np.searchsorted(classes, labels)
        known = classes[np.minimum(codes, len(classes) - 1)] == labels
    except TypeError:
        codes, known = np.zeros(len(labels), dtype=np.intp), np.zeros(len(labels), dtype=bool)
    if not np.all(known):
        unseen = labels[~np.asarray(known, dtype=bool)][0]
        raise ValueError(
            f"y has the label {unseen!r}, but the known classes are {classes.tolist()!r}; name every class "
            "that may occur in `classes` at the first call of partial_fit, or fit again."
        )
    return codes


def check_sample_weight(sample_weight: Any, n_samples: int) -> NDArray[np.float64]:
    """Non-negative finite weights of shape (n_samples,), or an empty array if all are 1 (None)."""
    if sample_weight is None:
        return np.empty(0)
    weight = _numeric_array(sample_weight, "sample_weight").astype(np.float64)
    if weight.ndim == 0:
        weight = np.full(n_samples, float(weight))
    if weight.ndim != 1:
        raise ValueError(
            f"Sample weights must be 1D array or scalar, but sample_weight has shape {weight.shape}; give one "
            "weight per sample."
        )
    _check_length(weight, n_samples, "sample_weight")
    _check_finite_vector(weight, "sample_weight")
    if (weight < 0).any():
        i = int(np.flatnonzero(weight < 0)[0])
        raise ValueError(
            f"sample_weight has the negative value {weight[i]} at position {i}, expected numbers >= 0; drop "
            "the samples that should not count."
        )
    if n_samples and not weight.any():
        raise ValueError("sample_weight is zero for every sample; give at least one of them a positive weight.")
    return weight


# ---------------------------------------------------------------------------------------------


def _float_type(given: np.dtype, wanted: np.dtype) -> np.dtype:
    """The dtype in which values are kept: float32 and float64 as they are, all else as the model's."""
    return given if given in (np.float32, np.float64) and given.isnative else np.dtype(wanted)


def _check_not_empty(shape: tuple[int, ...], name: str, min_samples: int) -> None:
    if shape[0] < min_samples:
        raise ValueError(
            f"Found array with {shape[0]} sample(s) (shape={shape}) while a minimum of {min_samples} is required: "
            f"{name} needs more rows."
        )
    if shape[1] < 1:
        raise ValueError(
            f"Found array with 0 feature(s) (shape={shape}) while a minimum of 1 is required: {name} needs columns."
        )


def _numeric_array(values: Any, name: str) -> NDArray:
    """A real numeric array; strings and arbitrary objects are refused."""
    array = np.asarray(values)
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {array.dtype}, expected real numbers.")
    if array.dtype.kind == "O":
        try:
            # Column by column types of a DataFrame end here; what is not a number raises.
            array = array.astype(np.float64)
        except TypeError as error:
            raise TypeError(
                f"{name} holds objects that are no numbers ({error}); encode them as numeric columns first."
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{name} holds values that are no numbers ({error}); encode them as numeric columns first."
            ) from error
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} has dtype {array.dtype}, expected numbers; encode it as numeric columns first (for example "
            "one-hot)."
        )
    return array


def _check_sparse(X: Any, dtype: np.dtype, name: str, min_samples: int) -> SparseRows:
    if X.ndim != 2:
        raise ValueError(f"{name} has shape {X.shape}, expected a sparse matrix of shape (n_samples, n_features).")
    if X.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {X.dtype}, expected real numbers.")
    if X.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {X.dtype}, expected real numbers; convert it with {name}.astype(float).")
    _check_not_empty(X.shape, name, min_samples)
    if X.format != "csr":
        X = _to_csr(X, name)
    n_samples, n_features = X.shape
    data, indices, indptr = _compressed_arrays(X, n_samples, name)
    finding, position = _csr.inspect_columns(indices, indptr, n_features)
    finding = _FINDINGS[finding]
    if finding in ("negative column", "column too large"):
        row = int(np.searchsorted(indptr, position, side="right")) - 1
        raise ValueError(
            f"{name} has the column index {indices[position]} in row {row}, expected 0 to {n_features - 1} for "
            f"its {n_features} columns; the matrix is damaged or its shape is too narrow."
        )
    data = np.ascontiguousarray(data, dtype=_float_type(data.dtype, dtype))
    if finding == "not canonical":
        canonical = sp.csr_array((data, indices, indptr), shape=X.shape, copy=True)
        canonical.has_canonical_format = False
        canonical.sum_duplicates()
        data, indices = canonical.data, canonical.indices
        indptr = canonical.indptr.astype(np.int64, copy=False)
    limit = float(np.finfo(dtype).max)
    position, all_ones = _csr.inspect_values(data, limit)
    if position >= 0:
        row = int(np.searchsorted(indptr, position, side="right")) - 1
        _bad_value(data[position], name, f"in row {row}, column {indices[position]}", dtype)
    if all_ones:
        data = np.empty(0, dtype=dtype)
    return SparseRows(data, indices, indptr, n_features)


def _compressed_arrays(X: Any, n_major: int, name: str) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """data, indices and indptr of a CSR (or, along the other axis, CSC) matrix that fit each other."""
    data, indices, indptr = (np.asarray(array) for array in (X.data, X.indices, X.indptr))
    problem = ""
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        problem = f"indices of dtype {indices.dtype} and indptr of dtype {indptr.dtype}, expected integers"
    elif data.ndim != 1 or indices.ndim != 1 or indptr.ndim != 1:
        problem = "data, indices or indptr that are not one-dimensional"
    elif len(data) != len(indices):
        problem = f"{len(data)} values in data but {len(indices)} in indices, expected as many"
    elif len(indptr) != n_major + 1:
        problem = f"indptr of length {len(indptr)}, expected {n_major + 1} for shape {X.shape}"
    elif indptr[0] != 0:
        problem = f"indptr that starts at {indptr[0]}, expected 0"
    elif indptr[-1] > len(indices):
        problem = f"indptr that ends at {indptr[-1]}, beyond the {len(indices)} stored values"
    if not problem:
        indptr = np.ascontiguousarray(indptr, dtype=np.int64)
        position = _csr.first_decrease(indptr)
        if position >= 0:
            problem = f"indptr that decreases from {indptr[position]} to {indptr[position + 1]} after row {position}"
    if problem:
        raise ValueError(f"{name} is a malformed sparse matrix: it has {problem}; build it again.")
    if indices.dtype not in (np.int32, np.int64) or not indices.dtype.isnative:
        indices = indices.astype(np.int64)
    nnz = indptr[-1]
    return data[:nnz], np.ascontiguousarray(indices[:nnz]), indptr


def _to_csr(X: Any, name: str) -> sp.csr_array:
    """Convert another sparse format. SciPy trusts the arrays it converts, so they are checked first."""
    problem = ""
    if X.format == "csc":
        data, indices, indptr = _compressed_arrays(X, X.shape[1], name)
        if len(indices) and not (0 <= indices.min() and indices.max() < X.shape[0]):
            problem = f"row indices from {indices.min()} to {indices.max()}"
    elif X.format == "coo" and X.nnz:
        for axis, index in enumerate(X.coords):
            if len(index) != len(X.data):
                problem = f"{len(X.data)} values but {len(index)} indices"
            elif not (0 <= index.min() and index.max() < X.shape[axis]):
                problem = f"{('row', 'column')[axis]} indices from {index.min()} to {index.max()}"
    elif X.format == "bsr":
        try:
            X.check_format(full_check=True)
        except ValueError as error:
            problem = str(error)
    if problem:
        raise ValueError(f"{name} is a malformed sparse matrix of shape {X.shape}: {problem}; build it again.")
    if X.dtype == np.float16:  # which SciPy cannot convert
        X = X.astype(np.float32)
    return X.tocsr()


def _column_to_1d(y: NDArray) -> NDArray:
    """(n, 1) becomes (n,) with a warning; other shapes than (n,) are refused."""
    if y.ndim == 2 and y.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
            "(n_samples,), for example using ravel().",
            conversion_warning(),
            stacklevel=5,
        )
        return y.ravel()
    if y.ndim != 1:
        raise ValueError(f"y should be a 1d array, got an array of shape {y.shape} instead; fit one target at a time.")
    return y


def _check_length(values: NDArray, n_samples: int, name: str) -> None:
    if len(values) != n_samples:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {n_samples} rows, {name} has "
            f"{len(values)}; give one for each row."
        )


def _check_finite_vector(values: NDArray, name: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        i = int(np.flatnonzero(~finite)[0])
        _bad_value(values[i], name, f"at position {i}", values.dtype)


def _bad_value(value: float, name: str, where: str, dtype: np.dtype) -> NoReturn:
    if np.isnan(value):
        what = "contains NaN"
    elif np.isinf(value):
        what = "contains infinity"
    else:
        what = f"contains a value too large for {np.dtype(dtype).name}, {value}"
    raise ValueError(f"Input {name} {what} ({where}), expected finite numbers; impute, clip or drop it.")


def _missing_target() -> NoReturn:
    raise ValueError("This estimator requires y to be passed, but the target y is None; give one number per row.")


def _name_list(title: str, names: list[str]) -> str:
    if not names:
        return ""
    shown = [f"- {name}\n" for name in names[:5]]
    return title + "".join(shown) + ("- ...\n" if len(names) > 5 else "")
