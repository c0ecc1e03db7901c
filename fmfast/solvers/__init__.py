"""Ways to move the parameters, one module each. No solver knows an estimator.

A solver of `FMRegressor` and `FMClassifier` is an entry of `SOLVERS`: it makes its table (`new_table`) and
begins a `Run` on a data set, which does one epoch after the other. Gibbs sampling (`gibbs`) draws from a
posterior instead, and has its own loop (`fmfast.sampling`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmfast.solvers.als import AlsKind
from fmfast.solvers.sgd import STOCHASTIC_SOLVERS
from fmfast.table import ParameterTable
from fmfast.validation import SparseRows


class Run(Protocol):
    """Training on one data set; use it in a `with` statement, which ends its threads."""

    def __enter__(self) -> Run: ...

    def __exit__(self, *exception: object) -> None: ...

    @property
    def converged(self) -> bool:
        """Whether further epochs are not worth it."""

    def run_epoch(self, epoch: int) -> float:
        """Go through the data once; returns the sum of weight * loss, not finite if training diverged."""

    def remembered(self) -> dict[str, NDArray[Any]]:
        """What the run remembers besides the table, by name; filled in place, it goes on from there."""

    def all_finite(self) -> bool:
        """Whether the scores that the last epoch left are finite."""


class Advising(Protocol):
    """What an error has to say of a solver."""

    @property
    def name(self) -> str: ...

    @property
    def advice(self) -> str:
        """What may help if training diverges."""


class Solver(Advising, Protocol):
    """A solver with its settings."""

    def new_table(
        self, n_outputs: int, n_features: int, n_factors: int, dtype: np.dtype, init_std: float, seed: int
    ) -> ParameterTable:
        """An initialised table with room for this solver's state."""

    def begin(
        self,
        table: ParameterTable,
        rows: SparseRows,
        targets: Sequence[NDArray[np.float64]],
        sample_weight: NDArray[np.float64],
        seed: int,
        n_threads: int = 1,
    ) -> Run:
        """Make ready to train on these samples: `targets` has one array per output of the table."""


SOLVERS: dict[str, Any] = {kind.name: kind for kind in (*STOCHASTIC_SOLVERS, AlsKind())}

__all__ = ["SOLVERS", "Advising", "Run", "Solver"]
