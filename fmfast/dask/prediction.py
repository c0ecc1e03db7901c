"""Lazy predictions, block by block. Knows Dask's collections and fitted local estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast.dask.parts import blocks_of, is_path, read_part


def score_block(X: Any, plain: Any, method: str) -> NDArray[Any]:
    """The prediction of one block; a part may be a tuple (X, y)."""
    if isinstance(X, (tuple, list)):
        X = X[0]
    if X.shape[0] == 0:
        return np.empty((0, *_columns(plain, method)), _dtype(plain, method))
    return getattr(plain, method)(X)


def _score_path(path: str, plain: Any, method: str) -> NDArray[Any]:
    return score_block(read_part(path)[0], plain, method)


def _columns(plain: Any, method: str) -> tuple[int, ...]:
    """The shape of the prediction of a row."""
    n_classes = len(getattr(plain, "classes_", ()))
    is_wide = method == "predict_proba" or (method == "decision_function" and n_classes > 2)
    return (n_classes,) if is_wide else ()


def _dtype(plain: Any, method: str) -> np.dtype:
    classes = getattr(plain, "classes_", None)
    return classes.dtype if method == "predict" and classes is not None else np.dtype(np.float64)


def lazy_scores(X: Any, plain: Any, sent: Any, method: str) -> Any:
    """A Dask array of predictions, in blocks like those of X.

    Parameters
    ----------
    X
        Anything that `fit` takes but rows that are here.
    plain : FMRegressor or FMClassifier
        Fitted.
    sent : future or Delayed
        The same on the workers.
    method : {"predict", "predict_proba", "decision_function"}
    """
    import dask.array as da
    from dask import delayed

    if is_path(X):
        X = [X]
    if isinstance(X, (list, tuple)) and all(is_path(path) for path in X):
        lazy = [delayed(_score_path, pure=False)(str(path), sent, method) for path in X]
    else:
        lazy = [delayed(score_block, pure=False)(block, sent, method) for block in blocks_of(X, "X")]
    lengths = X.chunks[0] if hasattr(X, "chunks") else [np.nan] * len(lazy)
    columns, dtype = _columns(plain, method), _dtype(plain, method)
    arrays = [
        da.from_delayed(one, shape=(length, *columns), dtype=dtype)
        for one, length in zip(lazy, lengths, strict=True)
    ]
    return da.concatenate(arrays, axis=0, allow_unknown_chunksizes=True)


def computed(values: Any) -> NDArray[Any]:
    """A column that may lie in parts, here."""
    if isinstance(values, (list, tuple)) and any(hasattr(value, "__dask_graph__") for value in values):
        import dask

        return np.concatenate(dask.compute(*values))
    return np.asarray(values.compute() if hasattr(values, "compute") else values)
