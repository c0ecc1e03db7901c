"""Measures of ranked lists against sparse ground truth: per context, as arrays. Knows no model.

A context without a relevant item has no recall; it gets NaN, and `average` leaves it out and counts it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from fmfast import validation as check

_BLOCK_SCORES = 1 << 20  # scores that are ranked at a time


class ContextMean(NamedTuple):
    """A mean over contexts, and over how many.

    Attributes
    ----------
    mean : float
        NaN if no context counts.
    n_contexts, n_skipped : int
        Contexts that count, and those left out since they have no relevant item.
    """

    mean: float
    n_contexts: int
    n_skipped: int

    def __str__(self) -> str:
        skipped = f", {self.n_skipped} without a relevant item left out" if self.n_skipped else ""
        return f"{self.mean:.4f} over {self.n_contexts} contexts{skipped}"


def average(values: ArrayLike) -> ContextMean:
    """Mean of what a measure of this module gives, over the contexts that have a value.

    Parameters
    ----------
    values : array-like of shape (n_contexts,)
        NaN where a context does not count.

    Returns
    -------
    ContextMean

    Examples
    --------
    >>> from fmfast import metrics
    >>> print(metrics.average([0.5, 1.0, float("nan")]))
    0.7500 over 2 contexts, 1 without a relevant item left out
    """
    values = np.asarray(values, dtype=np.float64)
    counted = values[~np.isnan(values)]
    mean = float(counted.mean()) if len(counted) else float("nan")
    return ContextMean(mean, len(counted), values.size - len(counted))


def recall_at(relevant: Any, recommended: ArrayLike, k: int | None = None) -> NDArray[np.float64]:
    """The part of the relevant items that stands among the first k recommended.

    Parameters
    ----------
    relevant : {array-like, sparse matrix} of shape (n_contexts, n_items)
        An item is relevant to a context if its value is positive.
    recommended : array-like of int of shape (n_contexts, n)
        Item numbers, best first, each at most once in a row; -1 where a place is empty.
    k : int or None, default=None
        How many of the n places count. None: all.

    Returns
    -------
    float64 ndarray of shape (n_contexts,)
        NaN for a context without relevant items; see `average`.

    Raises
    ------
    ValueError
        For arguments that do not fit each other.
    """
    hits, n_relevant = _hits(relevant, recommended, k)
    return _over(hits.sum(axis=1), n_relevant)


def precision_at(relevant: Any, recommended: ArrayLike, k: int | None = None) -> NDArray[np.float64]:
    """The part of the first k places that holds a relevant item; an empty place holds none.

    Parameters
    ----------
    relevant, recommended, k
        As for `recall_at`.

    Returns
    -------
    float64 ndarray of shape (n_contexts,)
        NaN for a context without relevant items.

    Raises
    ------
    ValueError
        For arguments that do not fit each other.
    """
    hits, n_relevant = _hits(relevant, recommended, k)
    return _if_relevant(hits.mean(axis=1), n_relevant)


def ndcg_at(relevant: Any, recommended: ArrayLike, k: int | None = None) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain of the first k places, every relevant item being worth 1.

        sum_{r <= k} hit_r / log2(r + 1)   divided by that of the best list, all hits first
                                                            (Jarvelin, Kekalainen 2002, gains 0 and 1)

    Parameters
    ----------
    relevant, recommended, k
        As for `recall_at`.

    Returns
    -------
    float64 ndarray of shape (n_contexts,)
        NaN for a context without relevant items.

    Raises
    ------
    ValueError
        For arguments that do not fit each other.
    """
    hits, n_relevant = _hits(relevant, recommended, k)
    discount = 1.0 / np.log2(np.arange(hits.shape[1]) + 2.0)
    best = np.append(0.0, np.cumsum(discount))[np.minimum(n_relevant, hits.shape[1])]
    return _over(hits @ discount, best)


def mrr(relevant: Any, recommended: ArrayLike, k: int | None = None) -> NDArray[np.float64]:
    """1 / rank of the first relevant item, 0 if there is none among the first k; its mean is the MRR.

    Parameters
    ----------
    relevant, recommended, k
        As for `recall_at`.

    Returns
    -------
    float64 ndarray of shape (n_contexts,)
        NaN for a context without relevant items.

    Raises
    ------
    ValueError
        For arguments that do not fit each other.
    """
    hits, n_relevant = _hits(relevant, recommended, k)
    reciprocal = np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1.0), 0.0)
    return _if_relevant(reciprocal, n_relevant)


def auc(relevant: Any, scores: ArrayLike, exclude: Any = None) -> NDArray[np.float64]:
    """The part of the pairs (relevant item, other item) that the scores put in the right order.

    Ties count half (the area under the ROC curve; Mann, Whitney 1947).

    Parameters
    ----------
    relevant : {array-like, sparse matrix} of shape (n_contexts, n_items)
        As for `recall_at`.
    scores : array-like of shape (n_contexts, n_items)
    exclude : {array-like, sparse matrix} of shape (n_contexts, n_items) or None
        Items that count neither as relevant nor as others, for example those known from training.

    Returns
    -------
    float64 ndarray of shape (n_contexts,)
        NaN for a context without relevant items, or without others.

    Raises
    ------
    ValueError
        For arguments that do not fit each other, or scores that are not finite.
    """
    positive = _relevant(relevant)
    values = check.numeric_array(scores, "scores")
    if values.shape != positive.shape:
        raise ValueError(
            f"scores has shape {values.shape}, expected {positive.shape} as relevant has; give one score for "
            "each context and item."
        )
    excluded = None if exclude is None else _entries(exclude, "exclude")
    if excluded is not None and excluded.shape != positive.shape:
        raise ValueError(
            f"exclude has shape {excluded.shape}, expected {positive.shape} as relevant has; give it a row "
            "per context and a column per item."
        )
    length = max(1, _BLOCK_SCORES // positive.shape[1])
    blocks = [slice(start, start + length) for start in range(0, positive.shape[0], length)]
    return np.concatenate(
        [_auc(positive[b], values[b], None if excluded is None else excluded[b]) for b in blocks]
    )


def _auc(positive: sp.csr_array, scores: NDArray[Any], excluded: sp.csr_array | None) -> NDArray[np.float64]:
    """U / (n_pos n_neg), U = sum of the ranks of the positive items - n_pos (n_pos + 1) / 2."""
    from scipy.stats import rankdata  # takes a third of a second to import: only who wants an AUC waits

    scores = scores.astype(np.float64)  # a copy
    if not np.isfinite(scores).all():
        row, item = np.argwhere(~np.isfinite(scores))[0]
        check.refuse_number(scores[row, item], "scores", f"item {item}", np.inf)
    is_positive = positive.toarray()
    n_excluded: Any = 0
    if excluded is not None:
        out = excluded.toarray()
        n_excluded = out.sum(axis=1)
        is_positive &= ~out
        scores[out] = -np.inf  # they take the lowest ranks, 1 to n_excluded
    n_positive = is_positive.sum(axis=1)
    n_negative = scores.shape[1] - n_excluded - n_positive
    ranks = rankdata(scores, axis=1) - np.reshape(n_excluded, (-1, 1))
    u = (ranks * is_positive).sum(axis=1) - n_positive * (n_positive + 1) / 2
    return _over(u, n_positive * n_negative)


# -- arguments -------------------------------------------------------------------------------------


def _hits(relevant: Any, recommended: Any, k: int | None) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Whether each of the first k places holds a relevant item, and the number of these per context."""
    positive = _relevant(relevant)
    n_contexts, n_items = positive.shape
    items = check.numeric_array(recommended, "recommended")
    if items.ndim != 2 or items.dtype.kind not in "iu" or len(items) != n_contexts or not items.shape[1]:
        raise ValueError(
            f"recommended has shape {items.shape} and dtype {items.dtype}, expected item numbers in "
            f"{n_contexts} rows, one for each context of relevant; give recommend's items."
        )
    if k is None:
        k = items.shape[1]
    elif not isinstance(k, (int, np.integer)) or isinstance(k, bool) or not 1 <= k <= items.shape[1]:
        raise ValueError(
            f"k is {k!r}, expected a whole number from 1 to {items.shape[1]}, the length of the recommended "
            "lists; recommend more items, or lower it."
        )
    items = items[:, :k].astype(np.int64)
    wrong = (items < -1) | (items >= n_items)
    if wrong.any():
        raise ValueError(
            f"recommended has the item number {items[wrong][0]}, expected 0 to {n_items - 1} as relevant has "
            f"{n_items} columns, or -1 for an empty place; count items from 0."
        )
    ascending = np.sort(items, axis=1)
    twice = (ascending[:, 1:] == ascending[:, :-1]) & (ascending[:, 1:] >= 0)
    if twice.any():
        context, place = np.argwhere(twice)[0]
        raise ValueError(
            f"recommended has item {ascending[context, place]} twice in row {context}, expected each item at "
            "most once; drop the later one."
        )
    # One number per pair: those of a CSR matrix ascend, so that all places are looked up at once.
    counts = np.diff(positive.indptr)
    known = np.repeat(np.arange(n_contexts, dtype=np.int64), counts) * n_items + positive.indices
    pairs = np.arange(n_contexts, dtype=np.int64)[:, None] * n_items + items
    places = np.searchsorted(known, pairs)
    found = np.append(known, -1)[places] == pairs  # behind the last one stands what no pair equals
    return found & (items >= 0), counts


def _relevant(relevant: Any) -> sp.csr_array:
    """The relevant pairs as a canonical boolean CSR matrix."""
    rows = check.check_X(relevant, dtype=np.dtype(np.float64), name="relevant")
    if len(rows.data) and rows.data.min() < 0:
        raise ValueError(
            f"relevant has the negative value {rows.data.min():g}, expected positive values for relevant "
            "items and 0 for all others; keep only what counts, as in relevant > 0."
        )
    return _matrix(rows)


def _entries(X: Any, name: str) -> sp.csr_array:
    return _matrix(check.check_X(X, dtype=np.dtype(np.float64), name=name))


def _matrix(rows: check.SparseRows) -> sp.csr_array:
    shape = (rows.n_samples, rows.n_features)
    return sp.csr_array((np.ones(rows.nnz, dtype=bool), rows.indices, rows.indptr), shape=shape)


def _over(value: NDArray[Any], of: NDArray[Any]) -> NDArray[np.float64]:
    """value / of, NaN where `of` is 0."""
    ratio: NDArray[np.float64] = np.divide(value, of, out=np.full(len(value), np.nan), where=of > 0)
    return ratio


def _if_relevant(value: NDArray[np.float64], n_relevant: NDArray[np.intp]) -> NDArray[np.float64]:
    return np.where(n_relevant > 0, value, np.nan)
