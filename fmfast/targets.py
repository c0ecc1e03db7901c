"""Targets, labels and sample weights from outside become checked arrays, or one clear error.

The twin of `validation`, which does the same for X. This module knows nothing of models, solvers or
estimators.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmfast._sklearn import conversion_warning
from fmfast.exceptions import level_of_caller
from fmfast.paging import is_mapped, pieces
from fmfast.validation import numeric_array, refuse_number, refuse_sparse

# The parameters in the units of the target must stay finite, and so must sums of squares in float64.
_LARGEST_TARGET = {np.dtype(np.float32): 1e18, np.dtype(np.float64): 1e100}
_LARGEST_WEIGHT = 1e100


def check_regression_target(
    y: Any, n_samples: int, *, dtype: DTypeLike, name: str = "y"
) -> NDArray[np.float64]:
    """Finite numbers of shape (n_samples,), small enough for a model of `dtype`."""
    _check_given(y, name)
    values = _column_to_1d(numeric_array(y, name), name)
    _check_length(values, n_samples, name)
    return _check_numbers(values, name, limit=_LARGEST_TARGET[np.dtype(dtype)])


def check_sample_weight(sample_weight: Any, n_samples: int) -> NDArray[np.float64]:
    """Non-negative finite weights of shape (n_samples,), or an empty array if all are 1 (None)."""
    if sample_weight is None:
        return np.empty(0)
    weight = numeric_array(sample_weight, "sample_weight")
    if weight.ndim == 0:
        weight = np.broadcast_to(weight, n_samples)
    if weight.ndim != 1:
        raise ValueError(
            f"Sample weights must be 1D array or scalar, but sample_weight has shape {weight.shape}; give "
            "one weight per sample."
        )
    _check_length(weight, n_samples, "sample_weight")
    weight = _check_numbers(weight, "sample_weight", limit=_LARGEST_WEIGHT)
    for part in pieces(weight):
        if (weight[part] < 0).any():
            i = part.start + int(np.argmax(weight[part] < 0))
            raise ValueError(
                f"sample_weight has the negative value {weight[i]:g} (at position {i}), expected numbers >= "
                "0; drop the samples that should not count."
            )
    if not any(weight[part].any() for part in pieces(weight)):
        raise ValueError(
            "sample_weight is zero for every sample, expected a positive number somewhere; add one."
        )
    return weight


def check_groups(groups: Any, n_features: int) -> NDArray[np.int32] | None:
    """Group numbers of shape (n_features,), renumbered from 0 without gaps; None stays None."""
    if groups is None:
        return None
    values = numeric_array(groups, "groups")
    if values.shape != (n_features,):
        raise ValueError(
            f"groups has shape {values.shape}, expected ({n_features},): one number per column of X; give "
            "all columns of a field the same number."
        )
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise ValueError("groups holds fractions or NaN, expected whole numbers; number the groups.")
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def check_labels(y: Any, n_samples: int | None, name: str = "y") -> NDArray[Any]:
    """Class labels of any type, of shape (n_samples,) or any length (None), without missing ones."""
    _check_given(y, name)
    refuse_sparse(y, name)
    labels = np.asarray(y)
    if (
        labels.dtype.kind in "US"
        and not hasattr(y, "dtype")
        and not all(isinstance(v, str | bytes) for v in y)
    ):
        labels = np.asarray(y, dtype=object)  # NumPy has made strings of numbers that stand among strings
    if labels.dtype.kind in "cV":
        problem = "Complex data not supported" if labels.dtype.kind == "c" else "Records are no labels"
        raise ValueError(
            f"{problem}: {name} has dtype {labels.dtype}, expected class labels; give one number or "
            "string per sample."
        )
    labels = _column_to_1d(labels, name)
    if n_samples is not None:
        _check_length(labels, n_samples, name)
    if is_mapped(labels):
        for part in pieces(labels):
            which = f"{name}, from position {part.start} on," if part.start else name
            check_labels(np.array(labels[part]), None, which)
        return labels
    missing = _is_missing(labels)
    if missing.any():
        raise ValueError(
            f"Input {name} contains NaN (at position {np.argmax(missing)}), expected class labels; drop such "
            "samples."
        )
    if labels.dtype.kind == "f":
        fractions = labels[_check_numbers(labels, name) != np.floor(labels)]
        if len(fractions):
            raise ValueError(
                f"Unknown label type: continuous, as {name} holds fractions such as {fractions[0]:g}, "
                f"expected class labels; use a regressor, or turn {name} into classes."
            )
    return labels


def find_classes(labels: NDArray[Any], name: str = "y") -> NDArray[Any]:
    """The distinct labels, sorted; at least two."""
    try:
        if is_mapped(labels):
            labels = np.concatenate([np.unique(labels[part]) for part in pieces(labels)])
        classes = np.unique(labels)
    except (TypeError, ValueError) as error:
        types = ", ".join(sorted({type(label).__name__ for label in labels}))
        raise TypeError(
            f"{name} has labels of type {types}, which cannot be sorted, expected labels of one type; give "
            "numbers or strings."
        ) from error
    if len(classes) < 2:
        raise ValueError(
            f"{name} has only one class, {_shown(classes)}, expected at least two classes; add samples of "
            "another."
        )
    return classes


def encode_labels(labels: NDArray[Any], classes: NDArray[Any], name: str = "y") -> NDArray[np.intp]:
    """The position of each label in the sorted `classes`; ValueError for one that is not there."""
    try:
        codes = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
        known = np.asarray(classes[codes] == labels)
    except TypeError:  # labels that cannot be compared with the classes
        known = np.array([label in classes.tolist() for label in labels.tolist()])
    if not known.all():
        raise ValueError(
            f"{name} has the unknown label {_shown(labels[~known][:1])}, expected one of the classes "
            f"{_shown(classes)}; drop such samples, or fit anew with them (partial_fit: with all `classes`)."
        )
    return codes


def class_codes(labels: NDArray[Any], classes: NDArray[Any], name: str = "y") -> NDArray[np.float64]:
    """`encode_labels` as float64; mapped labels that are their own codes are returned as they are."""
    if not is_mapped(labels):
        return encode_labels(labels, classes, name).astype(np.float64)
    are_codes = labels.dtype == np.float64 and np.array_equal(classes, np.arange(len(classes)))
    codes = labels if are_codes else np.empty(len(labels))
    for part in pieces(labels):
        found = encode_labels(labels[part], classes, name)
        if not are_codes:
            codes[part] = found
    return codes


def check_comparable(labels: NDArray[Any], classes: NDArray[Any], name: str = "y") -> None:
    """Refuse numbers where the classes are strings, and the reverse: none would ever be equal."""
    kinds = {labels.dtype.kind in "USTO", classes.dtype.kind in "USTO"}
    if len(kinds) == 2 and "O" not in (labels.dtype.kind, classes.dtype.kind):
        raise ValueError(
            f"{name} has labels of dtype {labels.dtype} such as {_shown(labels[:1])}, expected labels like "
            f"the classes {_shown(classes)}; convert {name}."
        )


# ---------------------------------------------------------------------------------------------


def _check_given(y: Any, name: str) -> None:
    if y is None:
        raise ValueError(
            f"This estimator requires y to be passed, but the target {name} is None; give one value per row "
            "of X."
        )


def _column_to_1d(y: NDArray[Any], name: str) -> NDArray[Any]:
    """(n, 1) becomes (n,) with a warning; other shapes than (n,) are refused."""
    if y.ndim == 2 and y.shape[1] == 1:
        warnings.warn(
            f"A column-vector {name} was passed when a 1d array was expected; change its shape to "
            "(n_samples,), for example with ravel().",
            conversion_warning(),
            stacklevel=level_of_caller(),
        )
        return y.ravel()
    if y.ndim != 1:
        raise ValueError(
            f"{name} should be a 1d array, got an array of shape {y.shape} instead; give one value per row "
            "of X."
        )
    return y


def _check_length(values: NDArray[Any], n_samples: int, name: str) -> None:
    if len(values) != n_samples:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {name} has {len(values)} values "
            f"for {n_samples} rows of X; give one for each row."
        )


def _check_numbers(
    values: NDArray[Any], name: str, limit: float = np.inf, first: int = 0
) -> NDArray[np.float64]:
    """The values as float64, all of them finite and within +-limit; a copy unless they are mapped.

    `first` is the position of the first one.
    """
    if values.dtype == np.float64 and is_mapped(values):
        for part in pieces(values):
            _check_numbers(np.array(values[part]), name, limit, part.start)
        return values
    with np.errstate(over="ignore"):
        values = values.astype(np.float64)
    bad = ~(np.abs(values) <= limit) | np.isinf(values)
    if bad.any():
        i = int(np.argmax(bad))
        refuse_number(values[i], name, f"at position {first + i}", limit)
    return values


def _is_missing(labels: NDArray[Any]) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = np.zeros(len(labels), dtype=bool)
    if labels.dtype.kind == "f":
        missing = np.isnan(labels)
    elif labels.dtype.kind in "mM":
        missing = np.isnat(labels)
    elif labels.dtype.kind == "O":
        missing = np.array([_is_missing_object(label) for label in labels], dtype=bool)
    return missing


def _is_missing_object(label: Any) -> bool:
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas.NA has no truth value
        return True
    except ValueError:  # nor has an array; whether it can be a label is found out later
        return False


def _shown(labels: NDArray[Any]) -> str:
    """The first few labels, as Python writes them."""
    shown = ", ".join(repr(label) for label in labels[:10].tolist())
    return shown + (", ..." if len(labels) > 10 else "")
