"""The factorization machine itself: its parameters, what they mean, and its score.

    score(x) = w0 + <w, x> + sum_{j<l} <v_j, v_l> x_j x_l                               (Rendle 2010, eq. 1)

This module knows no solver and no estimator. Solvers train in the model's parameter table, in
*solver units*: a regression target is standardised for them. The model keeps the scale and the offset and
presents everything in the units of the target:

    score = scale * score_of_table + offset     hence     w0 = scale * w0_t + offset,
                                                          w = scale * w_t,   V = sqrt(scale) * V_t
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast._dispatch import core
from fmfast.interruption import Pool, calls
from fmfast.paging import pieces
from fmfast.table import ParameterTable
from fmfast.validation import SparseRows


@dataclass
class TrainingState:
    """What is needed, besides the table, to go on training as if it had never stopped.

    Attributes
    ----------
    solver : str
    seed : int
        Of V and of the order of the samples.
    row_norm : float
        Size of the rows of the first training data, as the solver measures it: its default learning rate
        depends on it.
    init_std : float
        Standard deviation of V at the start, also for rows that are added later.
    n_epochs : int
        Epochs so far.
    """

    solver: str
    seed: int
    row_norm: float
    init_std: float
    n_epochs: int = 0


@dataclass
class FMModel:
    """A trained factorization machine.

    Attributes
    ----------
    table : ParameterTable
        The parameters in solver units, with the solver's state.
    task : {"regression", "classification"}
    scale, offset : float
        From solver units to the units of the target; 1 and 0 for classification.
    classes : ndarray of shape (n_classes,) or None
        The labels of a classifier, sorted.
    feature_names : object ndarray of shape (n_features,) or None
    encoder : FeatureEncoder or None
        What made the rows of the training data from tables, fitted.
    training : TrainingState or None
        None if the model cannot be trained further.
    """

    table: ParameterTable
    task: str
    scale: float = 1.0
    offset: float = 0.0
    classes: NDArray[Any] | None = None
    feature_names: NDArray[Any] | None = None
    encoder: Any = None  # this module does not import it
    training: TrainingState | None = None

    @property
    def n_features(self) -> int:
        return self.table.n_features

    @property
    def n_outputs(self) -> int:
        return self.table.n_outputs

    @property
    def n_factors(self) -> int:
        return self.table.n_factors

    @property
    def solver(self) -> str | None:
        """What trained it, None if nobody knows."""
        return None if self.training is None else self.training.solver

    @property
    def dtype(self) -> np.dtype:
        return self.table.dtype

    @property
    def w0(self) -> float | NDArray[np.float64]:
        """The intercept; of shape (n_classes,) with more than two classes."""
        w0 = self.scale * self.table.w0 + self.offset
        return float(w0[0]) if self.table.n_outputs == 1 else w0

    @property
    def w(self) -> NDArray[Any]:
        """Linear weights, (n_features,) or (n_classes, n_features).

        A view of the table for a classifier, computed for a regressor.
        """
        return self._in_target_units(self.table.w, self.scale)

    @property
    def V(self) -> NDArray[Any]:
        """Factors, (n_features, n_factors) or (n_classes, n_features, n_factors); like `w`."""
        return self._in_target_units(self.table.V, np.sqrt(self.scale))

    def _in_target_units(self, values: NDArray[Any], scale: float) -> NDArray[Any]:
        values = values[0] if self.table.n_outputs == 1 else values
        return values if scale == 1.0 else values * values.dtype.type(scale)

    def score(self, rows: SparseRows, n_threads: int = 1) -> NDArray[np.float64]:
        """Raw scores in the units of the target.

        Parameters
        ----------
        rows : SparseRows
            Canonical rows with as many columns as the model has features.
        n_threads : int
            Threads that share the rows; the result does not depend on it.

        Returns
        -------
        ndarray of shape (n_samples,), or (n_samples, n_classes) with more than two classes
        """
        scores = score_table(self.table, rows, n_threads)
        if self.scale != 1.0 or self.offset != 0.0:
            scores = self.scale * scores + self.offset
        return scores[0] if self.table.n_outputs == 1 else scores.T


def score_table(table: ParameterTable, rows: SparseRows, n_threads: int = 1) -> NDArray[np.float64]:
    """(n_outputs, n_samples) raw scores in solver units; the same for any number of threads."""
    scores = np.empty((table.n_outputs, rows.n_samples))

    def score_part(output: int, start: int, stop: int) -> None:
        core.score_rows(
            rows.data, rows.indices, rows.indptr, start, stop,
            table.rows[output], table.bias[output, 0], table.width, scores[output],
        )  # fmt: skip

    def parts_of(start: int, stop: int) -> Iterator[tuple[int, int]]:
        n_entries = int(rows.indptr[stop] - rows.indptr[start])
        return calls(start, stop, n_entries, table.width)

    if n_threads == 1:
        for piece in rows.pages.pieces():
            for part in parts_of(*piece):
                for output in range(table.n_outputs):
                    score_part(output, *part)
        return scores
    with Pool(n_threads) as pool:
        for piece in rows.pages.pieces():
            bounds = np.linspace(*piece, n_threads + 1).astype(int)
            jobs = [
                pool.submit(score_part, output, *part)
                for output in range(table.n_outputs)
                for share in pairwise(bounds.tolist())
                for part in parts_of(*share)
            ]
            for job in jobs:
                job.result()
    return scores


def scale_and_offset(target: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[float, float]:
    """Weighted standard deviation (1 if the target is constant) and mean of a regression target."""
    largest = largest_of(target)
    if largest == 0.0:
        return 1.0, 0.0
    mean = mean_of([moments(target, weight, largest)])
    return scale_of(mean_of([moments(target, weight, largest, mean)]), mean, largest)


# The steps of the above, so that others can take them over a target that lies in several places.


def largest_of(target: NDArray[np.float64]) -> float:
    """The largest |target|."""
    return max(float(np.abs(target[part]).max()) for part in pieces(target))


def moments(
    target: NDArray[np.float64], weight: NDArray[np.float64], largest: float, mean: float | None = None
) -> tuple[float, float]:
    """Sums of weight * t and of weight, t = target / largest; with a mean, (target / largest - mean)^2."""
    # Divided by the largest value first, so that squares of huge targets stay finite.
    total = sum_of_weights = 0.0
    for part in pieces(target, weight) if len(weight) else pieces(target):
        values = target[part] / largest
        if mean is not None:
            values = (values - mean) ** 2
        total += float((values * weight[part] if len(weight) else values).sum())
        sum_of_weights += float(weight[part].sum()) if len(weight) else len(values)
    return total, sum_of_weights


def mean_of(sums: Sequence[tuple[float, float]]) -> float:
    """The mean from the `moments` of all places."""
    return sum(total for total, _ in sums) / sum(weight for _, weight in sums)


def scale_of(variance: float, mean: float, largest: float) -> tuple[float, float]:
    """Scale and offset from variance and mean of target / largest."""
    deviation = float(np.sqrt(variance))
    # What rounding makes of a constant target is not a scale, and nothing can be divided by a denormal one.
    scale = deviation * largest
    is_scale = deviation > 1e-12 * abs(mean) and scale >= np.finfo(np.float64).tiny
    return (scale if is_scale else 1.0), mean * largest


def logistic_loss(score: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """log(1 + exp(score)) - y score without overflow, as in `_losses.pxd`."""
    return np.maximum(score, 0) - y * score + np.log1p(np.exp(-np.abs(score)))


def sigmoid(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-score)) without overflow."""
    # exp only of what is not positive: exp(-|score|) <= 1.
    e = np.exp(-np.abs(score))
    return np.where(score >= 0, 1.0, e) / (1.0 + e)
