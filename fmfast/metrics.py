"""Measures of a prediction's quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def r2_score(
    target: NDArray[np.float64], prediction: NDArray[np.float64], weight: NDArray[np.float64]
) -> float:
    """Coefficient of determination, 1 - sum c (y - p)^2 / sum c (y - mean)^2.

    Parameters
    ----------
    target, prediction : float64 ndarray of shape (n_samples,)
    weight : float64 ndarray of shape (n_samples,) or (0,)
        Empty if all weights are 1.

    Returns
    -------
    float
        1 for a perfect prediction; for a constant target, which has no variance to explain, 0 otherwise.
    """
    weights = weight if len(weight) else np.ones(len(target))
    residual = float(weights @ (target - prediction) ** 2)
    total = float(weights @ (target - np.average(target, weights=weights)) ** 2)
    if total == 0.0:
        return 1.0 if residual == 0.0 else 0.0
    return 1.0 - residual / total
