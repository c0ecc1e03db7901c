"""From a fitted factorization machine to ranked lists of items, and to vectors for a search engine.

A row of the machine is a context (who, when, where) plus an item, each with columns of its own. What the
score says about the pair is then a single inner product:

    score(c + i) = score(c) + [score(i) - w0] + <s_c, s_i>,     s = V^T x
                 = const_c  + <q_c, p_i>,      q_c = (s_c, 1),  p_i = (s_i, score(i) - w0)

since the pairs of Rendle (2010), eq. 1 lie within c, within i, or have one column in each; the latter sum to
<s_c, s_i>. So n_contexts + n_items rows are scored instead of n_contexts * n_items.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from fmfast import validation as check
from fmfast._selection import exact_dots, merged, norms_of, nth_largest, rounding_margin
from fmfast.base import Machine
from fmfast.config import thread_count
from fmfast.encoder.partial import encode_some
from fmfast.machine import FactorizationMachine
from fmfast.model import FMModel, score_table
from fmfast.validation import SparseRows

__all__ = ["Recommendations", "Vectors", "for_cosine", "recommend", "top_n", "vectors"]

# Scores that a thread holds at a time are the product of the two: 4 MB in float32, which caches hold.
_BLOCK_CONTEXTS = 128
_BLOCK_ITEMS = 8192
_BLOCK_ROWS = 1 << 16  # rows whose factor sums are held in float64


@dataclass(frozen=True)
class Vectors:
    """Scores as inner products: score(context c with item i) = const[c] + Q[c] @ P[i].

    Attributes
    ----------
    Q : ndarray of shape (n_contexts, n_factors + 1), C-contiguous
        V^T x of the context, and 1.
    P : ndarray of shape (n_items, n_factors + 1), C-contiguous
        V^T x of the item, and w^T x + 1/2 (|V^T x|^2 - sum_jf V_jf^2 x_j^2).
    const : float64 ndarray of shape (n_contexts,)
        The score of the context alone, w0 included. The same for all items: no ranking needs it.
    """

    Q: NDArray[Any]
    P: NDArray[Any]
    const: NDArray[np.float64]


class Recommendations(NamedTuple):
    """Ranked items of each context.

    Attributes
    ----------
    items : intp ndarray of shape (n_contexts, n)
        Item numbers, best first; -1 where no more are left.
    scores : float64 ndarray of shape (n_contexts, n)
        Predicted targets of a regressor, log-odds of a classifier; -inf where no item is left.
    """

    items: NDArray[np.intp]
    scores: NDArray[np.float64]


def vectors(est: FactorizationMachine, context_X: Any, item_X: Any) -> Vectors:
    """Vectors of contexts and items whose inner products are the scores of a fitted machine.

    Neither contexts nor items need to be those of the training data: a new item that has only its features,
    and not the column of an id, has a vector like any other.

    Parameters
    ----------
    est : FMRegressor or FMClassifier
        Fitted; a classifier has two classes.
    context_X : {array-like, sparse matrix} of shape (n_contexts, n_features)
        Rows with values in the columns of the context only.
    item_X : {array-like, sparse matrix} of shape (n_items, n_features)
        Rows with values in the columns of the item only. If est has an `encoder`, either may be a table with
        some of its columns, such as those of the user, and those of the item.

    Returns
    -------
    Vectors
        Q and P in float32, as search engines take them, for predicted targets of a regressor and log-odds of
        a classifier.

    Raises
    ------
    NotFittedError
        If est is not fitted.
    ValueError
        If contexts and items share a column, if rows do not fit the model, or if a score is no inner product:
        with several classes, and with Bayesian machines, which average over many.
    TypeError
        If est is no machine of fmfast.
    """
    return in_float32(_vectors(est, context_X, item_X, "vectors"))


def in_float32(found: Vectors) -> Vectors:
    """The vectors as search engines take them; ValueError if they do not fit."""
    with np.errstate(over="ignore"):  # told below
        Q, P = (np.ascontiguousarray(part, dtype=np.float32) for part in (found.Q, found.P))
    if not (np.isfinite(Q).all() and np.isfinite(P).all()):
        raise ValueError(
            "The vectors of this float64 model do not fit in float32, expected values within +-3e38; rescale "
            "the rows, or use recommend, which needs no float32."
        )
    return Vectors(Q, P, found.const)


def for_cosine(found: Vectors, norm: float | None = None) -> Vectors:
    """Vectors for engines that search by cosine or by Euclidean distance.

    One more coordinate gives all items the same norm, so that the largest inner product is the largest cosine
    and the smallest distance, with the inner products unchanged (Bachrach et al. 2014, theorem 1):

        p' = (p, sqrt(norm^2 - |p|^2)),   q' = (q, 0)
        <q', p'> = <q, p> = |q| norm cos(q', p') = (|q|^2 + norm^2 - |q' - p'|^2) / 2

    Parameters
    ----------
    found : Vectors
    norm : float or None, default=None
        The norm of all items, at least the largest |p|. None: the largest |p|. Give a larger one where longer
        items may be added later.

    Returns
    -------
    Vectors
        Of the same dtype, one column wider.

    Raises
    ------
    ValueError
        If an item is longer than `norm`.
    """
    lengths = norms_of(found.P)
    longest = float(lengths.max(initial=0.0))
    if norm is None:
        norm = longest
    elif not (isinstance(norm, numbers.Real) and np.isfinite(norm) and norm >= longest):
        raise ValueError(
            f"norm is {norm!r}, expected a number not below the length of the longest item, {longest:.6g}; "
            "raise it, or leave it out."
        )
    rest = np.sqrt(np.maximum(float(norm) ** 2 - lengths**2, 0.0)).astype(found.P.dtype)
    Q = np.hstack([found.Q, np.zeros((len(found.Q), 1), found.Q.dtype)])
    return Vectors(Q, np.hstack([found.P, rest[:, None]]), found.const)


def recommend(
    est: FactorizationMachine,
    context_X: Any,
    item_X: Any,
    n: int = 10,
    *,
    exclude: Any = None,
    candidates: ArrayLike | None = None,
    n_jobs: int | None = None,
) -> Recommendations:
    """The n items with the highest scores for each context, exactly.

    Parameters
    ----------
    est, context_X, item_X
        As for `vectors`.
    n : int, default=10
        Length of the lists.
    exclude : {array-like, sparse matrix} of shape (n_contexts, n_items) or None
        Pairs that are not wanted, for example known interactions: all whose value is not 0.
    candidates : array-like of int or None, default=None
        The items that may be recommended, as row numbers of item_X. None: all.
    n_jobs : int or None, default=None
        Threads that share the contexts: None is 1, -1 all cores. The matrix products use in addition the
        threads that the BLAS of NumPy is set to. The result does not depend on either.

    Returns
    -------
    Recommendations
        items and scores, both of shape (n_contexts, n). Of equal scores, the lower item number comes first.
        Where fewer than n items are left, the list ends with -1 and -inf.

    Raises
    ------
    NotFittedError, ValueError, TypeError
        As `vectors`; also for other arguments that do not fit.

    Notes
    -----
    Beyond the vectors and the result, memory for a block of scores per thread is needed (a few MB), never for
    n_contexts * n_items.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from fmfast import FMRegressor, retrieval
    >>> user, item = np.repeat(np.arange(6), 6), np.tile(np.arange(6), 6)
    >>> X = sp.csr_array(np.hstack([np.eye(6)[user], np.eye(6)[item]]))
    >>> fm = FMRegressor(n_factors=4, random_state=0).fit(X, 3.0 + item)  # item 5 is the best
    >>> users, items = sp.eye_array(6, 12, format="csr"), sp.eye_array(6, 12, k=6, format="csr")
    >>> retrieval.recommend(fm, users, items, n=2).items[0].tolist()
    [5, 4]
    """
    n = _check_n(n)
    found = _vectors(est, context_X, item_X, "recommend")
    return top_n(found, n, exclude=exclude, candidates=candidates, n_jobs=n_jobs)


def top_n(
    found: Vectors,
    n: int = 10,
    *,
    exclude: Any = None,
    candidates: ArrayLike | None = None,
    n_jobs: int | None = None,
) -> Recommendations:
    """`recommend` from vectors that are already there.

    Parameters
    ----------
    found : Vectors
    n, exclude, candidates, n_jobs
        As for `recommend`.

    Returns
    -------
    Recommendations

    Raises
    ------
    ValueError
        For arguments that do not fit.
    """
    n = _check_n(n)
    n_threads = _check_n_jobs(n_jobs)
    n_contexts, n_items = len(found.Q), len(found.P)
    numbers_of = _check_candidates(candidates, n_items)
    excluded = _excluded_positions(exclude, (n_contexts, n_items), numbers_of)
    search = _Search(found, n, numbers_of, excluded)
    blocks = list(pairwise([*range(0, n_contexts, _BLOCK_CONTEXTS), n_contexts]))
    if n_threads == 1:
        parts = [search.best_of(*block) for block in blocks]
    else:
        with ThreadPoolExecutor(n_threads) as executor:
            parts = list(executor.map(lambda block: search.best_of(*block), blocks))
    items, scores = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Recommendations(items, scores)


class _Search:
    """Top n of blocks of contexts. Items are counted as positions among the candidates, ascending."""

    def __init__(
        self,
        found: Vectors,
        n: int,
        numbers_of: NDArray[np.intp] | None,
        excluded: sp.csr_array | None,
    ) -> None:
        self._Q, self._const, self._n = found.Q, found.const, n
        self._P = found.P if numbers_of is None else found.P[numbers_of]
        self._numbers_of = numbers_of
        self._excluded = excluded
        self._q_norms = norms_of(found.Q)
        self._p_norm = float(norms_of(self._P).max())

    def best_of(self, start: int, stop: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """items and scores (stop - start, n) of some contexts."""
        Q, const = self._Q[start:stop], self._const[start:stop]
        # What rounding may do, once more for adding const: the order is that of the scores with it.
        margin = rounding_margin(self._q_norms[start:stop], self._p_norm, Q.shape[1], Q.dtype)
        margin += 4 * np.finfo(np.float64).eps * (np.abs(const) + self._q_norms[start:stop] * self._p_norm)
        items = np.full((len(Q), self._n), -1, dtype=np.intp)
        scores = np.full((len(Q), self._n), -np.inf)
        for first, products in self._blocks(start, stop):
            # Only what reaches the last of the best so far can become one of them.
            least = scores[:, -1] - const
            if (items[:, -1] < 0).any():
                least = np.maximum(least, nth_largest(products, self._n) - margin)
            # In the dtype of the products, rounded down by the second margin; -inf is never reached.
            floor = np.maximum(least - margin, np.finfo(products.dtype).min).astype(products.dtype)
            hits = np.flatnonzero(products >= floor[:, None])
            rows, columns = np.divmod(hits, products.shape[1])
            columns += first
            found = const[rows] + exact_dots(Q, self._P, rows, columns)
            items, scores = merged(items, scores, rows, columns, found)
        if self._numbers_of is not None:
            items = np.where(items < 0, -1, self._numbers_of[items])
        return items, scores

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """(position of the first item, products (stop - start, some items)); -inf where excluded."""
        Q, P = self._Q[start:stop], self._P
        buffer = np.empty(len(Q) * min(_BLOCK_ITEMS, len(P)), dtype=Q.dtype)
        rows = columns = np.empty(0, dtype=np.intp)
        if self._excluded is not None:
            by_item = self._excluded[start:stop].tocoo()
            order = np.argsort(by_item.col, kind="stable")
            rows, columns = by_item.row[order], by_item.col[order]
        for first, last in pairwise([*range(0, len(P), _BLOCK_ITEMS), len(P)]):
            products = buffer[: len(Q) * (last - first)].reshape(len(Q), last - first)
            np.matmul(Q, P[first:last].T, out=products)
            here = slice(*np.searchsorted(columns, (first, last)))
            products[rows[here], columns[here] - first] = -np.inf
            yield first, products


# -- vectors ---------------------------------------------------------------------------------------


def _vectors(est: Any, context_X: Any, item_X: Any, what: str) -> Vectors:
    """Vectors in the dtype of the model."""
    model = _pairwise_model(est, what)
    contexts = _check_rows(est, model, context_X, "context_X")
    items = _check_rows(est, model, item_X, "item_X")
    shared = np.intersect1d(contexts.present_features(), items.present_features())
    if len(shared):
        raise ValueError(
            f"context_X and item_X both have values in column {shared[0]} ({len(shared)} columns in all), "
            "expected columns of their own; leave those of the item out of context_X, and the reverse."
        )
    return vectors_of(model, contexts, items)


def vectors_of(model: FMModel, contexts: SparseRows, items: SparseRows) -> Vectors:
    """Vectors in the dtype of the model, from rows that share no column; ValueError if a score overflows."""
    ones = np.ones((contexts.n_samples, 1))
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        of_item = _scores_without_w0(model, items)[:, None]
        Q = np.hstack([_factor_sums(model, contexts), ones], dtype=model.dtype, casting="same_kind")
        P = np.hstack([_factor_sums(model, items), of_item], dtype=model.dtype, casting="same_kind")
        found = Vectors(Q, P, model.score(contexts))
        largest = norms_of(Q).max(initial=0.0) * norms_of(P).max(initial=0.0)
    if not (np.isfinite(largest) and np.isfinite(found.const).all()):
        raise ValueError(
            f"Scores of this {model.dtype} model with these rows overflow, expected finite ones to rank by; "
            "rescale the rows, or fit anew with a larger reg_V or a smaller learning_rate."
        )
    return found


def _pairwise_model(est: Any, what: str) -> FMModel:
    """The model of an estimator whose score of a pair is one inner product."""
    if not isinstance(est, Machine):
        raise TypeError(
            f"{what} got a {type(est).__name__}, expected a fitted FMRegressor or FMClassifier; give one as "
            "the first argument."
        )
    name = type(est).__name__
    if not isinstance(est, FactorizationMachine):
        raise ValueError(
            f"{what} got a {name}, whose score is no single inner product but a mean over the draws from the "
            "posterior; use FMRegressor or FMClassifier, or predict the pairs one by one."
        )
    model: FMModel = est._fitted_model(what)
    if model.n_outputs > 1:
        raise ValueError(
            f"{what} got a {name} of {model.n_outputs} classes, which has a score for each, expected a "
            "single score to rank by; use a regressor or a classifier of two classes."
        )
    return model


def _check_rows(est: FactorizationMachine, model: FMModel, X: Any, name: str) -> SparseRows:
    if model.encoder is not None and not sp.issparse(X):
        X = encode_some(model.encoder, X, name)
    rows = check.check_X(X, dtype=model.dtype, name=name)
    check.check_n_features(rows, model.n_features, type(est).__name__, name)
    return rows


def _scores_without_w0(model: FMModel, rows: SparseRows) -> NDArray[np.float64]:
    """w^T x + 1/2 (|V^T x|^2 - sum_jf V_jf^2 x_j^2), from the compiled kernel."""
    scores: NDArray[np.float64] = model.scale * (score_table(model.table, rows)[0] - model.table.w0[0])
    return scores


def _factor_sums(model: FMModel, rows: SparseRows) -> NDArray[Any]:
    """V^T x (n_rows, n_factors), in the dtype of the model, each sum in float64."""
    features, places = np.unique(rows.indices, return_inverse=True)
    # Only the vectors that occur: a table may be much larger than these rows need.
    V = model.table.V[0][features].astype(np.float64) * np.sqrt(model.scale)
    data = rows.data if len(rows.data) else np.ones(rows.nnz)
    X = sp.csr_array((data.astype(np.float64), places, rows.indptr), shape=(rows.n_samples, len(features)))
    sums = np.empty((rows.n_samples, model.n_factors), dtype=model.dtype)
    for start in range(0, rows.n_samples, _BLOCK_ROWS):
        sums[start : start + _BLOCK_ROWS] = X[start : start + _BLOCK_ROWS] @ V
    return sums


# -- arguments -------------------------------------------------------------------------------------


def _check_n(n: Any) -> int:
    if not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n is {n!r}, expected a whole number of items, 1 or more; give for example 10.")
    return int(n)


def _check_n_jobs(n_jobs: Any) -> int:
    is_number = isinstance(n_jobs, (int, np.integer)) and not isinstance(n_jobs, bool)
    if n_jobs is not None and not (is_number and n_jobs != 0):
        raise ValueError(f"n_jobs is {n_jobs!r}, expected a number of threads, -1 or None; give one of them.")
    return thread_count(n_jobs)


def _check_candidates(candidates: Any, n_items: int) -> NDArray[np.intp] | None:
    """Item numbers, ascending."""
    if candidates is None:
        return None
    given = check.numeric_array(candidates, "candidates")
    if given.ndim != 1 or given.dtype.kind not in "iu" or not len(given):
        raise ValueError(
            f"candidates is an array of shape {given.shape} and dtype {given.dtype}, expected one or more "
            "item numbers; from a mask, make them with np.flatnonzero."
        )
    wrong = (given < 0) | (given >= n_items)
    if wrong.any():
        raise ValueError(
            f"candidates has the item number {given[np.argmax(wrong)]}, expected 0 to {n_items - 1} for the "
            f"{n_items} items; count the rows of the items from 0."
        )
    return np.unique(given).astype(np.intp)


def _excluded_positions(
    exclude: Any, shape: tuple[int, int], numbers_of: NDArray[np.intp] | None
) -> sp.csr_array | None:
    """(n_contexts, n_candidates) matrix whose entries are excluded."""
    if exclude is None:
        return None
    rows = check.check_X(exclude, dtype=np.dtype(np.float64), name="exclude")
    if (rows.n_samples, rows.n_features) != shape:
        raise ValueError(
            f"exclude has shape {(rows.n_samples, rows.n_features)}, expected {shape}: a row per context and "
            "a column per item; number both as the rows of context_X and item_X are."
        )
    entries = np.ones(rows.nnz, dtype=bool)
    excluded = sp.csr_array((entries, rows.indices, rows.indptr), shape=shape)
    return excluded if numbers_of is None else excluded[:, numbers_of]
