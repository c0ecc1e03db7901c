"""Alternating least squares: each column's parameters at their exact optimum given all others.

Minimises what the stochastic solvers do (see `sgd.py`), but exactly, without a learning rate:

    sum_i c_i [ loss(score(x_i), y_i) + sum_{j in x_i} ( reg_w / 2 w_j^2 + reg_V / 2 |v_j|^2 ) ]

The penalty of a column counts once per sample, as in Zhou, Wilkinson, Schreiber, Pan (2008, "ALS-WR"). The
updates of columns stand in `_coordinate.pyx`. The squared loss is quadratic already. For the logistic loss,
every sweep minimises the quadratic that touches it from above at the present scores s_i (Jaakkola, Jordan
2000):

    log(1 + exp(s)) - y s  <=  const + a_i / 2 (s - z_i)^2,
    a_i = tanh(s_i / 2) / (2 s_i),     z_i = s_i - (sigmoid(s_i) - y_i) / a_i

so that no sweep ever increases the objective, and there is nothing to tune.

Deterministic: the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast.interruption import Pool
from fmfast.model import logistic_loss, sigmoid
from fmfast.solvers.sweep import REFRESH, Sweeper, starting_std
from fmfast.table import ParameterTable
from fmfast.validation import SparseRows


@dataclass(frozen=True)
class AlsKind:
    """What `SOLVERS` knows of this solver."""

    name: str = "als"
    unused: tuple[str, ...] = ("learning_rate", "learning_rate_decay", "l1_w")
    row_norm_power: int = 2

    def state_size(self, n_factors: int) -> int:
        return 0

    def starting_std(self, rows: SparseRows, weight: NDArray[np.float64], n_factors: int, task: str) -> float:
        """Standard deviation of V at the start unless told otherwise."""
        return starting_std(rows, weight, n_factors, task)

    def grown_table(
        self, table: ParameterTable, n_features: int, init_std: float, seed: int
    ) -> ParameterTable:
        """A table of more features; as the first epoch sets V to 0 where there is no sample, so does this."""
        grown = table.grown(n_features, 0.0, seed, np.empty(0))
        grown.V[:, table.n_features :] = 0  # rather than -0.0
        return grown

    def configured(
        self, task: str, row_norm: float, *, reg_w: float | None, reg_V: float | None, tol: float, **_: None
    ) -> AlsSolver:
        """The solver for "regression" or "classification", with defaults for what is None."""
        default_w, default_V = {"regression": (0.02, 0.1), "classification": (1e-3, 0.03)}[task]
        return AlsSolver(
            task=task,
            reg_w=float(default_w if reg_w is None else reg_w),
            reg_V=float(default_V if reg_V is None else reg_V),
            tol=tol,
        )


@dataclass(frozen=True)
class AlsSolver:
    """Alternating least squares with its settings.

    Parameters
    ----------
    task : {"regression", "classification"}
    reg_w, reg_V : float
        L2 strength on w and V, counted per sample.
    tol : float
        Converged once an epoch lowers the objective by no more than this part of it.
    """

    task: str
    reg_w: float
    reg_V: float
    tol: float = 0.0
    name: str = "als"

    @property
    def advice(self) -> str:
        """What may help if training diverges."""
        return "use a larger reg_w and reg_V, or scale the columns of X to about 1"

    def new_table(
        self, n_outputs: int, n_features: int, n_factors: int, dtype: np.dtype, init_std: float, seed: int
    ) -> ParameterTable:
        """An initialised table; this solver keeps no state."""
        table = ParameterTable(n_outputs, n_features, n_factors, 0, dtype)
        table.initialize(init_std, seed)
        return table

    def begin(
        self,
        table: ParameterTable,
        rows: SparseRows,
        targets: Sequence[NDArray[np.float64]],
        sample_weight: NDArray[np.float64],
        seed: int,
        n_threads: int = 1,
    ) -> AlsRun:
        """Make ready to train on these samples."""
        return AlsRun(self, table, rows, targets, sample_weight, n_threads)


class AlsRun:
    """Training on one data set; see `AlsSolver.begin`."""

    def __init__(
        self,
        solver: AlsSolver,
        table: ParameterTable,
        rows: SparseRows,
        targets: Sequence[NDArray[np.float64]],
        sample_weight: NDArray[np.float64],
        n_threads: int,
    ) -> None:
        self._executor = Pool(n_threads) if n_threads > 1 else None
        self._solver, self._table, self._targets = solver, table, targets
        self._sweeper = Sweeper(table, rows)
        self._weight_scale = float(sample_weight.max()) if len(sample_weight) else 1.0
        # The objective may be divided by any number; float32 does not hold every weight.
        self._weight = sample_weight / self._weight_scale
        self._counts = self._sweeper.columns.weighted_counts(self._weight)
        self._penalty = np.full(table.n_factors + 1, solver.reg_V)
        self._penalty[-1] = solver.reg_w
        self._one_group = np.zeros(table.n_features, dtype=np.int32)
        self._no_prior = np.zeros((1, table.n_factors + 1))
        # Residuals are score - latent: the target of a regression, z of a classification.
        self._latent = [np.zeros(rows.n_samples) for _ in targets] if self._is_logistic else list(targets)
        self._residuals = [np.zeros(rows.n_samples, table.dtype) for _ in targets]
        self._objective = np.full(1, np.nan)  # of the last epoch
        self.converged = False

    @property
    def _is_logistic(self) -> bool:
        return self._solver.task == "classification"

    def __enter__(self) -> AlsRun:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._executor is not None:
            self._executor.__exit__(*exception)

    @np.errstate(all="ignore")  # what diverges is found by its loss
    def run_epoch(self, epoch: int) -> float:
        """Update every parameter once; returns the sum of weight * loss after it."""
        table, sweeper, executor = self._table, self._sweeper, self._executor
        if epoch == 0:
            # Columns without a sample stay as they are: let them mean nothing, not noise.
            table.V[:, self._counts == 0] = 0
        is_first = bool(np.isnan(self._objective[0]))
        refresh = is_first or epoch % REFRESH == 0
        loss = 0.0
        for output, latent in enumerate(self._latent):
            if refresh:
                self._residuals[output][:] = sweeper.scores(output, executor) - latent
            residuals, weight = self._residuals[output], self._weight
            if self._is_logistic:
                weight = self._touch_from_above(output)
            kernel_weight = weight.astype(table.dtype)
            linear, _ = sweeper.sum_residuals(residuals, kernel_weight, executor)
            sweeper.shift(output, residuals, -linear / (weight.sum() if len(weight) else len(residuals)))
            sweeper.sweep(
                output, residuals, kernel_weight, alpha=1.0, groups=self._one_group,
                mean=self._no_prior, precision=self._no_prior, penalty=self._penalty, counts=self._counts,
                executor=executor,
            )  # fmt: skip
            loss += self._loss(output)
        objective = loss + self._penalties()
        if not is_first:
            before = float(self._objective[0])
            self.converged = before - objective <= self._solver.tol * abs(before)
        self._objective[0] = objective
        return loss * self._weight_scale

    def remembered(self) -> dict[str, NDArray[Any]]:
        """Residuals, which come from scratch only now and then, and the objective."""
        arrays = {f"residuals{output}": residuals for output, residuals in enumerate(self._residuals)}
        if self._is_logistic:
            arrays |= {f"latent{output}": latent for output, latent in enumerate(self._latent)}
        return arrays | {"objective": self._objective}

    def all_finite(self) -> bool:
        """Whether the scores of all samples are finite."""
        return all(bool(np.isfinite(residuals).all()) for residuals in self._residuals)

    def _touch_from_above(self, output: int) -> NDArray[np.float64]:
        """Set the residuals of the quadratic that bounds the logistic loss; returns its weights c_i a_i."""
        score = self._residuals[output] + self._latent[output]
        half = np.abs(score) / 2
        # tanh(x) / x -> 1 for x -> 0
        curvature = np.where(half > 1e-4, np.tanh(half) / np.maximum(half, 1e-4), 1.0) / 4
        residuals = (sigmoid(score) - self._targets[output]) / curvature
        self._residuals[output][:] = residuals
        self._latent[output][:] = score - residuals
        return curvature * self._weight if len(self._weight) else curvature

    def _loss(self, output: int) -> float:
        residuals = self._residuals[output].astype(np.float64)
        if self._is_logistic:
            losses = logistic_loss(residuals + self._latent[output], self._targets[output])
        else:
            losses = 0.5 * residuals * residuals
        return float(losses @ self._weight if len(self._weight) else losses.sum())

    def _penalties(self) -> float:
        """1/2 sum_j n_j (reg_w w_j^2 + reg_V |v_j|^2) of all outputs."""
        squares_V = np.einsum("j,ojf,ojf->", self._counts, self._table.V, self._table.V, dtype=np.float64)
        squares_w = np.einsum("j,oj,oj->", self._counts, self._table.w, self._table.w, dtype=np.float64)
        return float(self._solver.reg_V * squares_V + self._solver.reg_w * squares_w) / 2
