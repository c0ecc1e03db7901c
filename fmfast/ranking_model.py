"""What a ranker has learned: a factorization machine over contexts and items with columns of their own.

The columns of the contexts come first, those of the items behind them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fmfast.model import FMModel
from fmfast.validation import SparseRows


@dataclass(kw_only=True)
class RankingModel(FMModel):
    """`FMModel` that knows the rows of its contexts and items.

    Attributes
    ----------
    contexts : SparseRows of shape (n_contexts, n_context_features)
    items : SparseRows of shape (n_items, n_item_features)
        In columns of their own, counted from 0.
    """

    contexts: SparseRows
    items: SparseRows

    def context_rows(self, rows: SparseRows) -> SparseRows:
        """Rows of contexts in the columns of the model."""
        return replace(rows, n_features=self.n_features)

    def item_rows(self, rows: SparseRows) -> SparseRows:
        """Rows of items in the columns of the model."""
        first, dtype = self.contexts.n_features, rows.indices.dtype
        if self.n_features > np.iinfo(dtype).max:
            dtype = np.dtype(np.int64)
        indices = rows.indices.astype(dtype) + dtype.type(first)
        return replace(rows, indices=indices, n_features=self.n_features)


def identity_rows(n: int, dtype: np.dtype) -> SparseRows:
    """An id for each of n < 2^31 things: a matrix with ones on its diagonal."""
    columns = np.arange(n, dtype=np.int32)
    return SparseRows(np.empty(0, dtype), columns, np.arange(n + 1, dtype=np.int64), n)


def is_identity(rows: SparseRows) -> bool:
    """Whether rows are those of `identity_rows`."""
    n = rows.n_samples
    return (
        rows.n_features == n == rows.nnz
        and not len(rows.data)
        and bool((rows.indices == np.arange(n)).all() and (rows.indptr == np.arange(n + 1)).all())
    )


def pair_row(model: RankingModel, context: SparseRows, item: SparseRows) -> SparseRows:
    """One context and one item as a row of the model."""
    first, second = model.context_rows(context), model.item_rows(item)

    def values(rows: SparseRows) -> NDArray:
        return rows.data if len(rows.data) else np.ones(rows.nnz, model.dtype)

    indices = np.concatenate([first.indices, second.indices])
    data = np.concatenate([values(first), values(second)])
    return SparseRows(data, indices, np.array([0, len(indices)], dtype=np.int64), model.n_features)
