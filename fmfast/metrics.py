"""Measures of a prediction's quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fmfast.ranking_metrics import ContextMean, auc, average, mrr, ndcg_at, precision_at, recall_at

__all__ = ["ContextMean", "auc", "average", "mrr", "ndcg_at", "precision_at", "r2_score", "recall_at"]


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


def root_mean_squared_error(
    target: NDArray[np.float64], prediction: NDArray[np.float64], weight: NDArray[np.float64]
) -> float:
    """sqrt(mean (y - p)^2); arguments as those of `r2_score`."""
    return float(np.sqrt(_mean((target - prediction) ** 2, weight)))


def mean_absolute_error(
    target: NDArray[np.float64], prediction: NDArray[np.float64], weight: NDArray[np.float64]
) -> float:
    """mean |y - p|; arguments as those of `r2_score`."""
    return _mean(np.abs(target - prediction), weight)


def log_loss(codes: NDArray[np.intp], p: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """mean -log p[y], with any number of classes.

    Parameters
    ----------
    codes : intp ndarray of shape (n_samples,)
        Positions of the true classes.
    p : float64 ndarray of shape (n_samples, n_classes)
        Probabilities; one of 0 counts as the smallest normal number, rather than as an infinite loss.
    weight : float64 ndarray of shape (n_samples,) or (0,)
        Empty if all weights are 1.
    """
    of_truth = np.take_along_axis(p, codes[:, None], axis=1)[:, 0]
    return _mean(-np.log(np.maximum(of_truth, np.finfo(np.float64).tiny)), weight)


def accuracy(codes: NDArray[np.intp], p: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """The share of samples whose class is the most probable one; arguments as those of `log_loss`."""
    return _mean((p.argmax(axis=1) == codes).astype(np.float64), weight)


def roc_auc(is_positive: NDArray[np.bool_], score: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """Area under the ROC curve: P(score of a positive sample > that of a negative one), ties count half.

    Parameters
    ----------
    is_positive : bool ndarray of shape (n_samples,)
    score : float64 ndarray of shape (n_samples,)
    weight : float64 ndarray of shape (n_samples,) or (0,)
        Empty if all weights are 1.

    Returns
    -------
    float
        NaN if there are not samples of both kinds.
    """
    weights = weight if len(weight) else np.ones(len(score))
    levels, level = np.unique(score, return_inverse=True)
    positive = np.bincount(level, weights * is_positive, len(levels))
    negative = np.bincount(level, weights * ~is_positive, len(levels))
    n_pairs = positive.sum() * negative.sum()
    if n_pairs == 0.0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float(positive @ (below + 0.5 * negative) / n_pairs)


def _mean(values: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    return float(np.average(values, weights=weight if len(weight) else None))
