"""What column-wise solvers share: residuals, and a sweep over all columns. See `_coordinate.pyx`.

A sweep takes the factors in blocks of `BLOCK_SIZE`. For each block it sums up the factors of every sample
(q), and then updates all columns, keeping q and the residuals e up to date.

The work is cut into parts that depend on the data alone, and sums are added up in the order of the parts:
the result is the same to the bit for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast._dispatch import coordinate, core
from fmfast.columns import Part, SparseColumns
from fmfast.table import ParameterTable, aligned_empty
from fmfast.validation import SparseRows

BLOCK_SIZE: int = coordinate.BLOCK_SIZE
_PART_ROWS = 1 << 16
# Sweeps between two computations of the residuals from scratch: updates add up rounding errors.
REFRESH = 16
# Variance of the pairwise term that is expected of a machine, where the target of a regression has the
# variance 1, and the noise of the latent variable of a classification too.
_PAIRS_VARIANCE = {"regression": 1 / 8, "classification": 1.0}

_NO_COUNTS: NDArray[np.float64] = np.empty(0)

Noise = Callable[[int, Part], NDArray[np.float64]]


def no_noise(block: int, part: Part) -> NDArray[np.float64]:
    """Least squares: no random numbers."""
    return np.empty((0, BLOCK_SIZE + 1))


class Sweeper:
    """A data set and a table, ready for updates by column.

    Residuals are score - target in the units of the table, one array per output, held by the caller.

    Parameters
    ----------
    table : ParameterTable
        Changed in place.
    rows : SparseRows
    columns : SparseColumns or None
        The columns of `rows`, where they are known already.
    """

    def __init__(self, table: ParameterTable, rows: SparseRows, columns: SparseColumns | None = None) -> None:
        self._table, self._rows = table, rows
        self.columns = SparseColumns.of(rows, table.dtype) if columns is None else columns
        self._stages = self.columns.stages(self.columns.fields())
        bounds = [*range(0, rows.n_samples, _PART_ROWS), rows.n_samples]
        self.row_parts: list[Part] = list(pairwise(bounds))
        # One block of factor sums, whatever the number of factors: they are summed up anew for each block.
        n_sums = rows.n_samples if table.n_factors else 0
        self._q = aligned_empty((n_sums, BLOCK_SIZE), table.dtype)

    def scores(self, output: int, executor: ThreadPoolExecutor | None) -> NDArray[np.float64]:
        """(n_samples,) raw scores of one output."""
        table, rows = self._table, self._rows
        scores = np.empty(rows.n_samples)

        def score(part: Part) -> None:
            core.score_rows(
                rows.data, rows.indices, rows.indptr, *part,
                table.rows[output], table.bias[output, 0], table.width, scores,
            )  # fmt: skip

        run_all(executor, score, self.row_parts)
        return scores

    def sum_residuals(
        self, residuals: NDArray[Any], weight: NDArray[Any], executor: ThreadPoolExecutor | None
    ) -> tuple[float, float]:
        """(sum c e, sum c e^2)."""

        def add_up(part: Part) -> tuple[float, float]:
            sums: tuple[float, float] = coordinate.sum_residuals(residuals, weight, *part)
            return sums

        sums = run_all(executor, add_up, self.row_parts)
        return sum(linear for linear, _ in sums), sum(square for _, square in sums)

    def shift(self, output: int, residuals: NDArray[Any], delta: float) -> None:
        """Add delta to w0."""
        self._table.bias[output, 0] += delta
        residuals += residuals.dtype.type(delta)

    def sweep(
        self,
        output: int,
        residuals: NDArray[Any],
        weight: NDArray[Any],
        *,
        alpha: float,
        groups: NDArray[np.int32],
        mean: NDArray[np.float64],
        precision: NDArray[np.float64],
        penalty: NDArray[np.float64] | None = None,
        counts: NDArray[np.float64] = _NO_COUNTS,
        noise: Noise = no_noise,
        executor: ThreadPoolExecutor | None = None,
    ) -> None:
        """Update w and V of one output, and the residuals with them.

        Parameters
        ----------
        residuals : ndarray of shape (n_samples,), of the dtype of the table
        weight : ndarray of shape (n_samples,) or (0,), of the dtype of the table
        alpha : float
            Precision of the residuals.
        groups : int32 ndarray of shape (n_features,)
        mean, precision : ndarray of shape (n_groups, n_factors + 1)
            Of the prior of a column's factors and, last, its w.
        penalty : ndarray of shape (n_factors + 1,) or None
            Precision besides, times the count of the column.
        counts : float64 ndarray of shape (n_features,)
        noise : callable (number of block, part) -> float64 ndarray (n_columns, BLOCK_SIZE + 1) or (0, ...)
        """
        table, rows, columns = self._table, self._rows, self.columns
        parameters = table.rows[output]
        if penalty is None:
            penalty = np.zeros(table.n_factors + 1)
        for block, first_factor in enumerate(range(0, max(table.n_factors, 1), BLOCK_SIZE)):

            def sum_factors(part: Part, first_factor: int = first_factor) -> None:
                coordinate.sum_factors(
                    rows.data, rows.indices, rows.indptr, *part, parameters, first_factor, self._q
                )

            if table.n_factors:
                run_all(executor, sum_factors, self.row_parts)
            prior = [_of_block(values, first_factor) for values in (mean, precision, penalty[None, :])]

            def update(
                part: Part,
                block: int = block,
                first_factor: int = first_factor,
                prior: list[NDArray[np.float64]] = prior,
            ) -> None:
                coordinate.update_columns(
                    columns.data, columns.rows, columns.starts, *part,
                    parameters, first_factor, table.width, self._q, residuals, weight,
                    alpha, groups, prior[0], prior[1], prior[2][0], counts, noise(block, part),
                )  # fmt: skip

            for parts in self._stages:
                run_all(executor, update, parts)


def run_all(
    executor: ThreadPoolExecutor | None, function: Callable[[Any], Any], arguments: Sequence[Any]
) -> list[Any]:
    """The results of all calls, in order; on the threads of the executor, if there is one."""
    if executor is None or len(arguments) == 1:
        return [function(argument) for argument in arguments]
    return list(executor.map(function, arguments))


def _of_block(values: NDArray[np.float64], first_factor: int) -> NDArray[np.float64]:
    """(n, n_factors + 1) -> (n, BLOCK_SIZE + 1): the factors of a block, zeros if they are fewer, and w."""
    n_factors = values.shape[1] - 1
    block = np.zeros((len(values), BLOCK_SIZE + 1))
    stop = min(first_factor + BLOCK_SIZE, n_factors)
    block[:, : stop - first_factor] = values[:, first_factor:stop]
    block[:, -1] = values[:, -1]
    return block


def starting_std(rows: SparseRows, weight: NDArray[np.float64], n_factors: int, task: str) -> float:
    """A standard deviation s of V with which the pairs of a row have the variance `_PAIRS_VARIANCE`.

    That is chosen by trial: with much less, V takes long to leave zero, or never does; with much more, the
    first iterations fit the noise (`bench/README.md`). The pairwise term of row i has the variance
    k s^4 sum_{j<l} x_ij^2 x_il^2; the sum is ((sum_j x_ij^2)^2 - sum_j x_ij^4) / 2, here with the
    (weighted) means of both.
    """
    square, fourth = rows.mean_row_norm(2, weight), rows.mean_row_norm(4, weight)
    pairs = (square * square - fourth) / 2
    if not (n_factors and np.isfinite(pairs) and pairs > 0):
        return 0.1
    return float(np.clip((_PAIRS_VARIANCE[task] / (n_factors * pairs)) ** 0.25, 1e-6, 1.0))
