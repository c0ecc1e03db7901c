"""The largest of many inner products, of which only blocks exist at a time.

A block comes from a matrix product, which is fast, but rounds one and the same pair differently depending on
where in the block it stands. So a product only says who may be among the largest, with a margin for rounding;
who is, is decided by `exact_dots`, which depends on the two vectors alone. The outcome is then the same for
all block sizes and numbers of threads, and equal vectors tie exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXACT_AT_ONCE = 1 << 15  # pairs whose vectors are gathered at a time


def exact_dots(
    A: NDArray[Any], B: NDArray[Any], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    """<A[rows[p]], B[columns[p]]> for each p, in float64: float32 products are exact in it."""
    dots = np.empty(len(rows))
    for start in range(0, len(rows), _EXACT_AT_ONCE):
        part = slice(start, start + _EXACT_AT_ONCE)
        # One row after the other along its contiguous axis: the order of the sum is that of the factors.
        left, right = A[rows[part]].astype(np.float64), B[columns[part]].astype(np.float64)
        np.einsum("pf,pf->p", left, right, out=dots[part])
    return dots


def rounding_margin(norms_a: Any, norms_b: Any, n_terms: int, dtype: np.dtype) -> Any:
    """By how much a product of blocks may differ from `exact_dots`.

    |fl(<a, b>) - <a, b>| <= gamma_n sum_f |a_f b_f| <= gamma_n |a| |b|,   gamma_n = n u / (1 - n u)
    (Higham 2002, eq. 3.5, for any order of the sum); `eps` is 2 u, which pays for all else.
    """
    return (n_terms + 2) * float(np.finfo(dtype).eps) * norms_a * norms_b


def norms_of(A: NDArray[Any]) -> NDArray[np.float64]:
    """Euclidean norms of the rows, accumulated in float64, without a float64 copy of A."""
    squares: NDArray[np.float64] = np.einsum("if,if->i", A, A, dtype=np.float64)
    return np.sqrt(squares)


def nth_largest(values: NDArray[Any], n: int) -> NDArray[np.float64]:
    """The n-th largest of each row, -inf where there are not so many."""
    if values.shape[1] < n:
        return np.full(len(values), -np.inf)
    place = values.shape[1] - n
    return np.partition(values, place, axis=1)[:, place].astype(np.float64)


def merged(
    items: NDArray[np.intp],
    scores: NDArray[np.float64],
    new_rows: NDArray[np.intp],
    new_items: NDArray[np.intp],
    new_scores: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The lists (n_rows, n) with new items worked in, best first.

    The new ones come ascending in each row, and behind all that are in the lists already: a stable sort puts
    the lower of two equal items first.
    """
    n_rows, n = items.shape
    rows = np.concatenate([np.repeat(np.arange(n_rows), n), new_rows])
    all_scores = np.concatenate([scores.ravel(), new_scores])
    order = np.lexsort((-all_scores, rows))
    sorted_rows = rows[order]
    ranks = np.arange(len(order)) - np.searchsorted(sorted_rows, sorted_rows, side="left")
    best = order[ranks < n]  # n of each row, since it has n already
    all_items = np.concatenate([items.ravel(), new_items])
    return all_items[best].reshape(n_rows, n), all_scores[best].reshape(n_rows, n)
