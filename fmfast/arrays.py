"""Parameters that come from outside become a model, or one clear error; and what a model may grow to.

Knows models, but no solver and no estimator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast.model import FMModel
from fmfast.parameters import CONSTRAINTS
from fmfast.table import ParameterTable
from fmfast.targets import check_labels, find_classes
from fmfast.validation import numeric_array


def model_of_arrays(w0: Any, w: Any, V: Any, classes: Any, feature_names: Any, dtype: Any) -> FMModel:
    """A model that can predict, with one output, or one per class if there are more than two.

    Parameters
    ----------
    w0, w, V, classes, feature_names
        As `FMClassifier.from_arrays` takes them; classes are None for a regression.
    dtype : dtype or None
        None: float32 if both w and V have it, else float64.
    """
    V, w, w0 = (numeric_array(array, name) for array, name in ((V, "V"), (w, "w"), (w0, "w0")))
    if dtype is None:
        dtype = "float32" if w.dtype == V.dtype == np.float32 else "float64"
    labels = None if classes is None else _ascending(classes)
    outputs = () if labels is None or len(labels) == 2 else (len(labels),)
    n_axes = len(outputs)
    if V.ndim != n_axes + 2 or V.shape[:n_axes] != outputs or 0 in V.shape[:-1]:
        symbols = ", ".join([*map(str, outputs), "n_features", "n_factors"])
        raise ValueError(f"V has the shape {V.shape}, expected ({symbols}); reshape it.")
    n_features, n_factors = V.shape[n_axes:]
    for name, array, shape in (("w", w, (*outputs, n_features)), ("w0", w0, outputs)):
        if array.shape != shape:
            raise ValueError(
                f"{name} has the shape {array.shape}, expected {shape} beside a V of {V.shape}; reshape it."
            )
    is_valid, expected = CONSTRAINTS["n_factors"]
    if not is_valid(n_factors):
        raise ValueError(f"V has n_factors={n_factors}, expected {expected}; leave columns out.")
    table = ParameterTable(
        len(labels) if outputs and labels is not None else 1, n_features, n_factors, 0, dtype
    )
    table.rows[:, :, n_factors:] = 0
    with np.errstate(over="ignore"):
        table.V[:] = V
        table.w[:] = w
    table.bias[:, 0] = w0
    if not table.all_finite():
        raise ValueError(
            f"w0, w or V holds NaN, infinity, or a value too large for {np.dtype(dtype)}, expected finite "
            "numbers; correct them."
        )
    names = None if feature_names is None else _feature_names(feature_names, n_features)
    task = "regression" if labels is None else "classification"
    return FMModel(table, task, classes=labels, feature_names=names)


def check_growth(model: FMModel, n_features: Any, feature_names: Any) -> NDArray[Any] | None:
    """The feature names of the model once it has grown to n_features, or ValueError if it cannot."""
    if model.training is None:
        raise ValueError(
            "The model was made from arrays, which do not say how new columns begin, so it cannot grow; pad "
            "the arrays and call from_arrays again."
        )
    if model.encoder is not None:
        raise ValueError(
            "The columns of the model are made by its encoder, so it cannot grow; fit anew, or use hash_size "
            "in the encoder, which leaves room for new values."
        )
    is_integer = isinstance(n_features, (int, np.integer)) and not isinstance(n_features, bool)
    if not is_integer or n_features < model.n_features:
        raise ValueError(
            f"n_features is {n_features!r}, expected an integer >= {model.n_features}, the features that the "
            "model has; columns cannot be taken away."
        )
    before = model.feature_names
    if before is None:
        if feature_names is not None:
            raise ValueError(
                "feature_names was passed, but the model was fitted without names; leave it out."
            )
        return None
    if feature_names is None:
        raise ValueError(
            "feature_names is None, but the model was fitted with names; pass the names of all "
            f"{n_features} columns."
        )
    names = _feature_names(feature_names, int(n_features))
    if names[: len(before)].tolist() != before.tolist():
        raise ValueError(
            f"The first {len(before)} of feature_names are not those of the model; begin with "
            "these, in their order."
        )
    return names


def _ascending(classes: Any) -> NDArray[Any]:
    labels = check_labels(classes, None, "classes")
    if labels.tolist() != find_classes(labels, "classes").tolist():
        raise ValueError(
            f"classes is {labels.tolist()!r:.200}, expected distinct labels in ascending order; sort "
            "them, and the parameters with them."
        )
    return labels


def _feature_names(given: Any, n_features: int) -> NDArray[Any]:
    names: NDArray[Any] = np.asarray(list(given), dtype=object)
    are_names = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    if names.shape != (n_features,) or not are_names:
        raise ValueError(
            f"feature_names has {len(names)} entries, expected {n_features} distinct strings, one per column."
        )
    return names
