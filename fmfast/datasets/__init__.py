"""Data that ships with fmfast, ready to fit: one-hot rows, named columns, a fixed split.

Knows nothing of models; imports nothing else of fmfast.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["ChessEndgame", "load_chess_endgame"]

TASKS = ("depth", "win")

ATTRIBUTION = (
    "Chess (King-Rook vs. King) [Dataset], M. Bain and A. Hoff, 1994, UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C57W2S, CC BY 4.0"
)

# In the order of the file. Symmetry lets the white king stay on files a-d and ranks 1-4.
FIELDS = {
    "white_king_file": "abcd",
    "white_king_rank": "1234",
    "white_rook_file": "abcdefgh",
    "white_rook_rank": "12345678",
    "black_king_file": "abcdefgh",
    "black_king_rank": "12345678",
}
N_TEST = 5611
DRAW = -1


@dataclass(frozen=True)
class ChessEndgame:
    """Positions of the endgame king and rook against king, split into train and test rows.

    Attributes
    ----------
    X_train, X_test : csr_array of shape (n_samples, 40), float32
        One row per position, with a 1 in one column of each of the six fields.
    y_train, y_test : ndarray of shape (n_samples,)
        The target, see `load_chess_endgame`.
    feature_names : ndarray of shape (40,), str
        Name of each column, such as "white_king_file=c".
    field : ndarray of shape (40,), int32
        Number of the field of each column, 0 to 5.
    field_names : tuple of str
        Name of each field, such as "white_king_file".
    target_name : str
        What y is, in words.
    attribution : str
        Source and licence of the data; to be shown wherever the data is.
    """

    X_train: sp.csr_array
    y_train: NDArray[Any]
    X_test: sp.csr_array
    y_test: NDArray[Any]
    feature_names: NDArray[np.str_]
    field: NDArray[np.int32]
    field_names: tuple[str, ...]
    target_name: str
    attribution: str = ATTRIBUTION

    def describe(self, row: sp.csr_array) -> str:
        """Where the pieces stand in one row of X.

        Parameters
        ----------
        row : csr_array of shape (1, 40)

        Returns
        -------
        str
            Such as "white Kc2 Rd4, black Ka1".
        """
        squares = "".join(name[-1] for name in self.feature_names[np.sort(row.indices)])
        return f"white K{squares[:2]} R{squares[2:4]}, black K{squares[4:]}"


def load_chess_endgame(task: str = "depth") -> ChessEndgame:
    """White king and rook against the black king, Black to move: how does it end?

    The 28,056 positions that are left after removing those that are illegal or mirror images of
    others, each with the outcome under best play of both sides.

    Parameters
    ----------
    task : {"depth", "win"}
        "depth": y is the number of moves White needs to mate, 0 to 16, float64; positions that are
        drawn are left out (20,218 train and 5,042 test rows). "win": y is 1 if White wins and 0
        for a draw, int64 (22,445 train and 5,611 test rows, 90% of them won).

    Returns
    -------
    ChessEndgame

    Raises
    ------
    ValueError
        If the task is unknown.

    Notes
    -----
    The split is that of `numpy.random.default_rng(42).permutation(28056)`: the first 5,611 of it are
    the test rows; draws are removed afterwards.

    Data: Chess (King-Rook vs. King), M. Bain and A. Hoff, 1994, UCI Machine Learning Repository,
    doi 10.24432/C57W2S, licence CC BY 4.0. The copy in this package writes files and ranks as numbers
    and a draw as -1.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; expected one of {TASKS}.")
    squares, depth = _read_table()
    order = np.random.default_rng(42).permutation(len(depth))
    test, train = order[:N_TEST], order[N_TEST:]
    if task == "depth":
        test, train = test[depth[test] != DRAW], train[depth[train] != DRAW]
        y, target_name = depth.astype(np.float64), "moves White needs to mate"
    else:
        y, target_name = (depth != DRAW).astype(np.int64), "1 if White wins, 0 if it is a draw"
    sizes = [len(values) for values in FIELDS.values()]
    return ChessEndgame(
        X_train=_one_hot(squares[train], sizes),
        y_train=y[train],
        X_test=_one_hot(squares[test], sizes),
        y_test=y[test],
        feature_names=np.array([f"{name}={value}" for name, values in FIELDS.items() for value in values]),
        field=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        field_names=tuple(FIELDS),
        target_name=target_name,
    )


def _read_table() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Files and ranks (n, 6) counted from 0, and moves to mate (n,), -1 for a draw."""
    with files(__name__).joinpath("krkopt.csv.gz").open("rb") as raw, gzip.open(raw, "rt") as lines:
        table = np.loadtxt(lines, dtype=np.int32, delimiter=",", skiprows=1)
    return table[:, :-1] - 1, table[:, -1]


def _one_hot(values: NDArray[np.int32], sizes: list[int]) -> sp.csr_array:
    """A 1 per field in the column of its value; `values` (n_rows, n_fields) start at 0."""
    n_rows, n_fields = values.shape
    starts = np.cumsum([0, *sizes[:-1]], dtype=np.int32)
    indptr = np.arange(0, n_rows * n_fields + 1, n_fields, dtype=np.int32)
    data = np.ones(n_rows * n_fields, dtype=np.float32)
    return sp.csr_array((data, (values + starts).ravel(), indptr), shape=(n_rows, sum(sizes)))
