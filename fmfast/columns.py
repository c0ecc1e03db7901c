"""The matrix by columns, for solvers that update one feature at a time.

Columns of one one-hot field never share a sample, so they can be updated by several threads at once, and the
result does not depend on who does what when. `fields` finds such columns, `stages` says what may run
together. This module knows nothing of models, solvers or estimators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fmfast._dispatch import coordinate
from fmfast.validation import SparseRows

# A part is what one thread does in one go: long enough to be worth a call, short enough to share out evenly.
_PART_NNZ = 1 << 16
_PART_COLUMNS = 1 << 12

Part = tuple[int, int]  # first column, and the one behind the last


@dataclass(frozen=True)
class SparseColumns:
    """A canonical CSC matrix as the kernels take it.

    Attributes
    ----------
    data : ndarray of shape (nnz,) or (0,)
        The values; empty if all of them are 1.
    rows : int32 or int64 ndarray of shape (nnz,)
    starts : int64 ndarray of shape (n_features + 1,)
    n_samples : int
    """

    data: NDArray[Any]
    rows: NDArray[Any]
    starts: NDArray[np.int64]
    n_samples: int

    @classmethod
    def of(cls, rows: SparseRows, dtype: np.dtype) -> SparseColumns:
        """The columns of canonical rows, their values in the given dtype."""
        binary = not len(rows.data)
        # SciPy wants values; bytes are the cheapest.
        data = np.ones(rows.nnz, dtype=np.int8) if binary else rows.data
        matrix = sp.csr_array((data, rows.indices, rows.indptr), shape=(rows.n_samples, rows.n_features))
        columns = matrix.tocsc()
        values = np.empty(0, dtype) if binary else columns.data.astype(dtype, copy=False)
        return cls(values, columns.indices, columns.indptr.astype(np.int64, copy=False), rows.n_samples)

    @property
    def n_features(self) -> int:
        return len(self.starts) - 1

    def counts(self) -> NDArray[np.int64]:
        """(n_features,) samples of each column."""
        return np.diff(self.starts)

    def weighted_counts(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_features,) sums of the weights of each column's samples; without weights, all are 1."""
        if not len(weight):
            return self.counts().astype(np.float64)
        sums = np.zeros(self.n_features)
        for first, stop in self._parts(0, self.n_features):  # in parts: no second array of nnz numbers
            begin, end = self.starts[first], self.starts[stop]
            column = np.repeat(np.arange(stop - first), np.diff(self.starts[first : stop + 1]))
            sums[first:stop] = np.bincount(column, weight[self.rows[begin:end]], minlength=stop - first)
        return sums

    def fields(self) -> NDArray[np.int32]:
        """(n_features,) numbers of fields: runs of columns of which no two share a sample."""
        field = np.empty(self.n_features, dtype=np.int32)
        coordinate.find_fields(self.rows, self.starts, np.full(self.n_samples, -1, dtype=np.int32), field)
        return field

    def groups(self, fields: NDArray[np.int32]) -> NDArray[np.int32]:
        """(n_features,) groups of columns that are alike: one per one-hot field, one for others in a row.

        A one-hot field has several columns, of which every sample has exactly one. What lies between such
        fields (numbers, multi-valued features that were split, rare columns) forms one group.
        """
        n_fields = int(fields[-1]) + 1
        n_columns = np.bincount(fields, minlength=n_fields)
        nnz = np.bincount(fields, weights=self.counts(), minlength=n_fields)
        is_one_hot = (n_columns > 1) & (nnz == self.n_samples)
        begins = np.ones(n_fields, dtype=bool)
        begins[1:] = is_one_hot[1:] | is_one_hot[:-1]
        return (np.cumsum(begins) - 1).astype(np.int32)[fields]

    def stages(self, fields: NDArray[np.int32]) -> list[list[Part]]:
        """The columns cut into parts: those of one stage may run together, stages follow each other.

        Depends on the data alone, not on the number of threads: random numbers are drawn by part.
        """
        bounds = np.flatnonzero(np.diff(fields, prepend=-1, append=-1))
        stages: list[list[Part]] = []
        first = 0  # of the small fields that are yet to be placed
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            parts = self._parts(start, stop)
            if len(parts) > 1:
                # Small fields are not worth a stage each: they go one after the other.
                stages += [[part] for part in self._parts(first, start)]
                stages.append(parts)
                first = stop
        return stages + [[part] for part in self._parts(first, self.n_features)]

    def _parts(self, first: int, stop: int) -> list[Part]:
        parts = []
        while first < stop:
            # At least one column, however many samples it has.
            by_nnz = int(np.searchsorted(self.starts, self.starts[first] + _PART_NNZ, side="right")) - 1
            end = min(stop, max(first + 1, by_nnz), first + _PART_COLUMNS)
            parts.append((first, end))
            first = end
        return parts
