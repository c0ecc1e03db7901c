"""Gibbs sampling of Bayesian factorization machines.

The model of Freudenthaler, Schmidt-Thieme, Rendle (2011) and Rendle (2012, "Factorization machines with
libFM", section 3.4), with the target standardised:

    y_i   ~ N(score(x_i), 1 / (c_i alpha))           regression; c_i is the sample weight
    z_i   ~ N(score(x_i), 1),  y_i = [z_i > 0]       classification (probit; Albert, Chib 1993)
    v_jf  ~ N(mu_gf, 1 / lambda_gf)                  g is the group of column j; likewise w_j
    mu_gf ~ N(0, 1 / (KAPPA lambda_gf)),   lambda_gf ~ Gamma(SHAPE / 2, rate / 2)
    alpha ~ Gamma(SHAPE / 2, RATE / 2),    w0 with a flat prior

An iteration draws, each given all else: z (or alpha), w0, all (mu, lambda) with mu integrated out of the
draw of lambda, and the parameters of every column, the factors of a block and w jointly
(`_coordinate.pyx`).

Columns without a sample are drawn from their prior, so that predictions for values never seen are as
uncertain as they should be; they do not count in the draw of the hyperparameters, which they would only slow
down.

Random numbers come from Philox streams (Salmon et al. 2011) numbered by seed, output, iteration and purpose:
neither the number of threads nor an interruption changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy  # whose `special` is loaded when it is first used: importing it takes as long as all of fmfast
from numpy.typing import NDArray

from fmfast._dispatch import coordinate
from fmfast.columns import Part, SparseColumns
from fmfast.solvers.sweep import BLOCK_SIZE, REFRESH, Sweeper, run_all
from fmfast.table import ParameterTable, output_seed
from fmfast.validation import SparseRows

SHAPE = 1.0
RATE = 1.0
KAPPA = 1.0

# V begins without any knowledge of the data. Were its precisions drawn at once, they could take that for a
# sign that there are no interactions, grow, and hold V at zero for good. So for the first iterations they are
# given: the variance of V's prior grows to `v_variance`, from this part of it.
_N_HELD = 30
_HELD_START = 1 / 8

# Whatever V starts with, its prior is neither a wall nor nothing.
_LEAST_VARIANCE = 1e-12

# Purposes of random numbers besides the blocks of factors, which are numbered from 0.
_LATENT, _PRIOR = 1 << 32, 1 << 33


@dataclass
class ChainState:
    """Where a chain stands: all that is needed to go on.

    Attributes
    ----------
    table : ParameterTable
        The present draw of w0, w, V, in solver units.
    groups : int32 ndarray of shape (n_features,)
        From 0 on, without gaps.
    alpha : float64 ndarray of shape (n_outputs,)
        Precision of the noise; 1 for a classification.
    mean, precision : float64 ndarray of shape (n_outputs, n_groups, n_factors + 1)
        mu and lambda of the factors and, last, of w.
    v_variance : float
        Expected square of an element of V before anything is known: the scale of its hyperprior.
    seed : int
    n_iterations : int
        Iterations so far.
    """

    table: ParameterTable
    groups: NDArray[np.int32]
    alpha: NDArray[np.float64]
    mean: NDArray[np.float64]
    precision: NDArray[np.float64]
    v_variance: float
    seed: int
    n_iterations: int = 0

    @classmethod
    def new(
        cls,
        n_outputs: int,
        n_factors: int,
        groups: NDArray[np.int32],
        dtype: np.dtype,
        init_std: float,
        seed: int,
    ) -> ChainState:
        """A chain before its first iteration: random V, all else 0."""
        table = ParameterTable(n_outputs, len(groups), n_factors, 0, dtype)
        table.initialize(init_std * np.sqrt(_HELD_START), seed)
        shape = (n_outputs, int(groups.max()) + 1, n_factors + 1)
        variance = float(np.clip(init_std * init_std, _LEAST_VARIANCE, 1.0 / _LEAST_VARIANCE))
        return cls(table, groups, np.ones(n_outputs), np.zeros(shape), np.ones(shape), variance, seed)

    @property
    def n_groups(self) -> int:
        return int(self.mean.shape[1])

    def copy(self) -> ChainState:
        """An independent chain at the same place."""
        return replace(
            self,
            table=self.table.copy(),
            alpha=self.alpha.copy(),
            mean=self.mean.copy(),
            precision=self.precision.copy(),
        )

    def is_finite(self) -> bool:
        """Whether the chain can go on: what is not finite in w or V shows in the hyperparameters."""
        parts = (self.table.bias, self.alpha, self.mean, self.precision)
        return all(bool(np.isfinite(part).all()) for part in parts)


class GibbsSampler:
    """Draws the next states of a chain.

    Parameters
    ----------
    chain : ChainState
        Changed in place.
    rows : SparseRows
    targets : sequence of float64 ndarray of shape (n_samples,), one per output
        Standardised numbers, or 0 and 1 for a classification.
    weight : float64 ndarray of shape (n_samples,) or (0,), positive
    is_probit : bool
    columns : SparseColumns or None
        The columns of `rows`, where they are known already.
    """

    def __init__(
        self,
        chain: ChainState,
        rows: SparseRows,
        targets: Sequence[NDArray[np.float64]],
        weight: NDArray[np.float64],
        is_probit: bool,
        columns: SparseColumns | None = None,
    ) -> None:
        self._chain, self._is_probit = chain, is_probit
        self._sweeper = Sweeper(chain.table, rows, columns)
        self._targets = targets
        self._weight = weight.astype(chain.table.dtype)
        self._n_counting = float(weight.sum()) if len(weight) else float(rows.n_samples)
        # z of a classification; the target itself of a regression.
        self._latent = [target.copy() if is_probit else target for target in targets]
        self._residuals = [np.zeros(rows.n_samples, chain.table.dtype) for _ in targets]
        self._is_begun = np.zeros(1)
        n_groups = chain.mean.shape[1]
        # Columns without a sample are counted in a group of their own, which nobody looks at.
        self._counted_groups = np.where(self._sweeper.columns.counts() > 0, chain.groups, n_groups)
        self._counted_groups = self._counted_groups.astype(np.int32)
        self._group_sizes = np.bincount(self._counted_groups, minlength=n_groups + 1)[:n_groups]

    def iterate(self, executor: ThreadPoolExecutor | None = None) -> None:
        """Draw the next state of every output."""
        chain, sweeper = self._chain, self._sweeper
        refresh = chain.n_iterations % REFRESH == 0 or not self._is_begun[0]
        self._is_begun[0] = 1.0
        for output in range(chain.table.n_outputs):
            if refresh:
                self._residuals[output][:] = sweeper.scores(output, executor) - self._latent[output]
            residuals = self._residuals[output]
            if self._is_probit:
                self._draw_latent(output, executor)
            linear, square = sweeper.sum_residuals(residuals, self._weight, executor)
            rng = self._rng(output, _PRIOR, 0)
            alpha = chain.alpha[output]
            if not self._is_probit:
                alpha = rng.gamma((SHAPE + self._n_counting) / 2) / ((RATE + square) / 2)
                chain.alpha[output] = alpha
            n = self._n_counting
            sweeper.shift(output, residuals, -linear / n + rng.standard_normal() / np.sqrt(alpha * n))
            self._draw_prior(output, rng)
            sweeper.sweep(
                output, residuals, self._weight, alpha=alpha, groups=chain.groups, mean=chain.mean[output],
                precision=chain.precision[output], noise=partial(self._noise, output), executor=executor,
            )  # fmt: skip
        chain.n_iterations += 1

    def _noise(self, output: int, block: int, part: Part) -> NDArray[np.float64]:
        return self._rng(output, block, part[0]).standard_normal((part[1] - part[0], BLOCK_SIZE + 1))

    def scores(self, output: int) -> NDArray[np.float64]:
        """(n_samples,) scores of the training data at the present state."""
        return self._residuals[output] + self._latent[output]

    def remembered(self) -> dict[str, NDArray[Any]]:
        """What the sampler remembers besides the chain, by name; filled in place, it goes on from there."""
        arrays = {f"residuals{output}": residuals for output, residuals in enumerate(self._residuals)}
        if self._is_probit:
            arrays |= {f"latent{output}": latent for output, latent in enumerate(self._latent)}
        return arrays | {"is_begun": self._is_begun}

    def _draw_latent(self, output: int, executor: ThreadPoolExecutor | None) -> None:
        """z given the scores: normal with mean score and variance 1, on the side of 0 that y says."""
        latent, residuals, target = self._latent[output], self._residuals[output], self._targets[output]

        def draw(part: Part) -> None:
            rows = slice(*part)
            rng = self._rng(output, _LATENT, part[0])
            score = residuals[rows] + latent[rows]
            sign = 2.0 * target[rows] - 1.0
            # sign z = sign score - d,  d = Phi^-1(u Phi(sign score)) < sign score; in logarithms, as Phi may
            # underflow. u is never 0.
            u = 1.0 - rng.random(len(score))
            d = scipy.special.ndtri_exp(np.log(u) + scipy.special.log_ndtr(sign * score))
            residuals[rows] = sign * d
            latent[rows] = score - sign * d

        run_all(executor, draw, self._sweeper.row_parts)

    def _draw_prior(self, output: int, rng: np.random.Generator) -> None:
        """mu and lambda of every group given its columns: normal-gamma (Rendle 2012, eq. 21-24)."""
        chain, table = self._chain, self._chain.table
        n_groups, size = chain.mean.shape[1:]
        linear, square = np.zeros((2, n_groups + 1, size))
        coordinate.sum_parameters(
            table.rows[output], table.n_factors, table.width, self._counted_groups, linear, square
        )
        linear, square = linear[:n_groups], square[:n_groups]
        n = self._group_sizes[:, None]
        rate = np.full(size, RATE)
        rate[:-1] *= chain.v_variance
        mean = linear / (n + KAPPA)
        scatter = np.maximum(square - linear * mean, 0.0)
        precision = rng.gamma((SHAPE + n) / 2, size=(n_groups, size)) / ((rate + scatter) / 2)
        mean += rng.standard_normal((n_groups, size)) / np.sqrt((n + KAPPA) * precision)
        if chain.n_iterations < _N_HELD:
            growth = _HELD_START ** (1.0 - chain.n_iterations / (_N_HELD - 1))
            mean[:, :-1] = 0.0
            precision[:, :-1] = 1.0 / (chain.v_variance * growth)
        chain.mean[output], chain.precision[output] = mean, precision

    def _rng(self, output: int, purpose: int, part: int) -> np.random.Generator:
        """An independent stream of random numbers for every use."""
        chain = self._chain
        key = np.array([chain.seed, output_seed(chain.seed, output)], dtype=np.uint64)
        counter = np.array([0, part, purpose, chain.n_iterations], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))
