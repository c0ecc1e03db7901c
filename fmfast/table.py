"""The parameter table: every number that training moves, one place in memory per feature.

A row of the table belongs to one feature (column of X):

    V_j (n_factors, then zeros up to `width`) | w_j | state of w_j | state of V_j | padding

Kernels are compiled for a few widths and compute the zeros along: they stay zero, add nothing, and cost less
than a loop whose length the compiler does not know.
The state is what a solver remembers of a feature. Keeping it beside the parameters means that a
feature costs one stretch of memory per sample, whatever the solver. Rows start at multiples of 16
bytes, the table at a cache line.

This module knows the layout and nothing of solvers, losses or estimators.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast._dispatch import table as kernel
from fmfast.interruption import calls

_ROW_ALIGNMENT = 16  # bytes
_TABLE_ALIGNMENT = 64  # bytes: a cache line
_WIDTHS = (0, 8, 16, 24, 32, 48, 64, 96, 128)  # as in `_widths.pxd`
_NO_STATE: NDArray[np.float64] = np.empty(0)
BIAS_SIZE = 3  # w0 and up to two numbers of state, always float64


class ParameterTable:
    """Parameters and solver state of one or more outputs (classes) over the same features.

    Parameters
    ----------
    n_outputs, n_features, n_factors : int
        Sizes; `n_factors` may be 0.
    state_size : int
        Numbers of solver state per feature.
    dtype : numpy dtype
        float32 or float64.

    Attributes
    ----------
    width : int
        `n_factors` and the zeros behind them: what kernels take for the number of factors.
    rows : ndarray of shape (n_outputs, n_features, stride)
        The table itself. Not initialised: see `initialize`.
    bias : float64 ndarray of shape (n_outputs, BIAS_SIZE)
        w0 and its state, per output.
    """

    def __init__(
        self, n_outputs: int, n_features: int, n_factors: int, state_size: int, dtype: np.dtype
    ) -> None:
        self.n_factors = n_factors
        self.width = padded_width(n_factors)
        self.state_size = state_size
        dtype = np.dtype(dtype)
        stride = _round_up(self.width + 1 + state_size, _ROW_ALIGNMENT // dtype.itemsize)
        self.rows = aligned_empty((n_outputs, n_features, stride), dtype)
        self.bias: NDArray[np.float64] = np.zeros((n_outputs, BIAS_SIZE))

    @property
    def dtype(self) -> np.dtype:
        return self.rows.dtype

    @property
    def n_outputs(self) -> int:
        return int(self.rows.shape[0])

    @property
    def n_features(self) -> int:
        return int(self.rows.shape[1])

    @property
    def w0(self) -> NDArray[np.float64]:
        """(n_outputs,), a view."""
        return self.bias[:, 0]

    @property
    def w(self) -> NDArray[Any]:
        """(n_outputs, n_features), a view."""
        return self.rows[:, :, self.width]

    @property
    def V(self) -> NDArray[Any]:
        """(n_outputs, n_features, n_factors), a view."""
        return self.rows[:, :, : self.n_factors]

    @property
    def state(self) -> NDArray[Any]:
        """(n_outputs, n_features, state_size), a view."""
        start = self.width + 1
        return self.rows[:, :, start : start + self.state_size]

    def initialize(
        self,
        init_std: float,
        seed: int,
        state: NDArray[Any] = _NO_STATE,
        bias_state: NDArray[Any] | float = 0.0,
    ) -> None:
        """Random V, zero w and w0, and the given initial state.

        Parameters
        ----------
        init_std : float
            Standard deviation of the elements of V; each depends on (seed, output, feature, factor) only.
        seed : int
            0 <= seed < 2^63.
        state : float64 ndarray of shape (state_size,)
            State of every feature.
        bias_state : float64 ndarray of shape (BIAS_SIZE - 1,), or one number for all of it
            State of w0.
        """
        self.bias[:, 0] = 0.0
        self.bias[:, 1:] = bias_state
        self._initialize_rows(0, init_std, seed, state)

    def _initialize_rows(self, first: int, init_std: float, seed: int, state: NDArray[Any]) -> None:
        behind_V = np.zeros(self.rows.shape[2] - self.n_factors)
        start = self.width + 1 - self.n_factors
        behind_V[start : start + self.state_size] = state
        for output, rows in enumerate(self.rows):
            of_output = output_seed(seed, output)
            for start, stop in self._calls(first):
                kernel.fill_rows(rows[start:stop], start, self.n_factors, init_std, of_output, behind_V)

    def grown(self, n_features: int, init_std: float, seed: int, state: NDArray[Any]) -> ParameterTable:
        """A table of more features: those of before as they are, new ones as `initialize` makes them."""
        other = ParameterTable(self.n_outputs, n_features, self.n_factors, self.state_size, self.dtype)
        other.bias[:] = self.bias
        other.rows[:, : self.n_features] = self.rows
        other._initialize_rows(self.n_features, init_std, seed, state)
        return other

    def all_finite(self) -> bool:
        return bool(np.isfinite(self.bias).all()) and all(
            kernel.all_finite(rows[start:stop]) for rows in self.rows for start, stop in self._calls()
        )

    def _calls(self, first: int = 0) -> Iterator[tuple[int, int]]:
        """Parts of the features from `first` on, for one call of a kernel each."""
        return calls(first, self.n_features, self.n_features - first, self.rows.shape[2])

    def copy(self) -> ParameterTable:
        """An independent table of the same content."""
        other = ParameterTable(self.n_outputs, self.n_features, self.n_factors, self.state_size, self.dtype)
        other.rows[:] = self.rows
        other.bias[:] = self.bias
        return other

    def __getstate__(self) -> dict[str, Any]:
        # Without the padding, and aligned again after unpickling.
        return {
            "n_factors": self.n_factors,
            "bias": self.bias,
            "content": self.rows[:, :, : self.width + 1 + self.state_size],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        content = state["content"]
        n_outputs, n_features, n_used = content.shape
        self.__init__(  # type: ignore[misc]
            n_outputs,
            n_features,
            state["n_factors"],
            n_used - padded_width(state["n_factors"]) - 1,
            content.dtype,
        )
        self.rows[:, :, n_used:] = 0
        self.rows[:, :, :n_used] = content
        self.bias[:] = state["bias"]


class TableBackup:
    """What a table held in the rows that training may touch, so that training can be undone.

    Costs as much memory as these rows, however large the table is.

    Attributes
    ----------
    rows, bias : ndarray
        What is kept.
    """

    def __init__(self, table: ParameterTable, features: NDArray[np.intp]) -> None:
        self._table = table
        # A slice copies faster than a list of all rows.
        self._features = slice(None) if len(features) == table.n_features else features
        self.update()

    def update(self) -> None:
        """Keep what the table holds now."""
        rows = self._table.rows[:, self._features]
        self.rows = rows.copy() if rows.base is not None else rows
        self.bias = self._table.bias.copy()

    def restore(self) -> None:
        """Put back what was kept."""
        self._table.rows[:, self._features] = self.rows
        self._table.bias[:] = self.bias


def padded_width(n_factors: int) -> int:
    """The least width that kernels are compiled for and that holds n_factors; above 128, multiples of 16."""
    return next((width for width in _WIDTHS if width >= n_factors), _round_up(n_factors, 16))


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def output_seed(seed: int, output: int) -> int:
    """The seed of the rows of one output; neighbouring seeds do not share rows of neighbouring outputs."""
    return int(np.random.SeedSequence(seed, spawn_key=(output,)).generate_state(1, np.uint64)[0])


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> NDArray[Any]:
    """An uninitialised array that starts at a cache line."""
    n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    buffer = np.empty(n_bytes + _TABLE_ALIGNMENT, dtype=np.uint8)
    start = -buffer.ctypes.data % _TABLE_ALIGNMENT
    return buffer[start : start + n_bytes].view(dtype).reshape(shape)
