"""What a Bayesian factorization machine has learned: draws from its posterior, and predictions from them.

A draw is a whole machine, w0, w and V. The prediction is the mean over the draws, not that of the mean
machine: V is known up to rotation only, so that its mean means nothing.

This module knows no estimator. As in `fmfast.model`, parameters are in solver units; `scale` and `offset`
bring scores to the units of the target.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import scipy  # whose `special` is loaded when it is first used: importing it takes as long as all of fmfast
from numpy.typing import NDArray

from fmfast.model import score_table
from fmfast.solvers.gibbs import ChainState
from fmfast.table import ParameterTable
from fmfast.validation import SparseRows

_BLOCK_SCORES = 1 << 20  # scores of all draws that are held at a time, per thread


@dataclass
class Draw:
    """One draw from the posterior.

    Attributes
    ----------
    table : ParameterTable
        w0, w and V of every output, without state.
    alpha : float64 ndarray of shape (n_outputs,)
        Precision of the noise, in solver units; 1 for a classification.
    """

    table: ParameterTable
    alpha: NDArray[np.float64]


@dataclass
class Posterior:
    """Draws from the posterior, and where the chain stands that made them.

    Attributes
    ----------
    chain : ChainState
    task : {"regression", "classification"}
    scale, offset : float
        From solver units to the units of the target; 1 and 0 for classification.
    classes : ndarray of shape (n_classes,) or None
    feature_names : object ndarray of shape (n_features,) or None
    encoder : FeatureEncoder or None
        What made the rows of the training data from tables, fitted.
    draws : list of Draw
        In the order in which they were made.
    thinning : int
        Iterations from one draw to the next.
    """

    chain: ChainState
    task: str
    scale: float = 1.0
    offset: float = 0.0
    classes: NDArray[Any] | None = None
    feature_names: NDArray[Any] | None = None
    encoder: Any = None  # this module does not import it
    draws: list[Draw] = field(default_factory=list)
    thinning: int = 1

    @property
    def n_features(self) -> int:
        return self.chain.table.n_features

    @property
    def n_factors(self) -> int:
        return self.chain.table.n_factors

    @property
    def n_outputs(self) -> int:
        return self.chain.table.n_outputs

    @property
    def solver(self) -> str:
        return "gibbs"

    @property
    def dtype(self) -> np.dtype:
        return self.chain.table.dtype

    @property
    def w0(self) -> float | NDArray[np.float64]:
        """Posterior mean of the intercept; of shape (n_classes,) with more than two classes."""
        w0 = self.scale * np.mean([draw.table.w0 for draw in self.draws], axis=0) + self.offset
        return float(w0[0]) if self.n_outputs == 1 else w0

    @property
    def w(self) -> NDArray[Any]:
        """Posterior mean of the linear weights, (n_features,) or (n_classes, n_features)."""
        w = np.zeros((self.n_outputs, self.n_features))
        for draw in self.draws:
            w += draw.table.w
        w = (w * (self.scale / len(self.draws))).astype(self.dtype)
        return w[0] if self.n_outputs == 1 else w

    def keep_draw(self, n_kept: int) -> None:
        """Add the present state of the chain; of more than n_kept draws, every second is dropped."""
        self.draws.append(Draw(self.chain.table.copy(), self.chain.alpha.copy()))
        while len(self.draws) > n_kept:
            self.draws = self.draws[::2]
            self.thinning *= 2

    def mean_and_std(self, rows: SparseRows, n_threads: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean and standard deviation of a new target of a regression, both of shape (n_samples,).

        The standard deviation is that of the noise and of what is not known of the machine.
        """
        noise = np.mean([1.0 / draw.alpha for draw in self.draws])

        def moments(scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
            return scores.mean(axis=1), np.sqrt(scores.var(axis=1) + noise)

        mean, std = self._by_row(rows, moments, n_threads)
        return self.scale * mean + self.offset, self.scale * std

    def probabilities(self, rows: SparseRows, n_threads: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean and standard deviation over the draws of the probabilities of the classes.

        Both of shape (n_samples, n_classes).
        """

        def moments(scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
            p = probit_probabilities(scores)
            return p.mean(axis=1), p.std(axis=1)

        return self._by_row(rows, moments, n_threads)

    def interval(
        self, rows: SparseRows, coverage: float, n_threads: int = 1
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(lower, upper) of shape (n_samples,): quantiles of a new target, with equal tails.

        Given the draws, a new target is a mixture of normal distributions, one per draw.
        """
        precision = np.sqrt([draw.alpha for draw in self.draws])
        tail = (1.0 - coverage) / 2

        def quantiles(scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
            # The upper one from below, too: 1 - tail may be 1.
            low = _mixture_quantile(scores[0], precision, tail)
            high = -_mixture_quantile(-scores[0], precision, tail)
            return low[None], high[None]

        lower, upper = self._by_row(rows, quantiles, n_threads)
        return self.scale * lower + self.offset, self.scale * upper + self.offset

    def _by_row(
        self,
        rows: SparseRows,
        summary: Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]],
        n_threads: int,
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Both summaries (n_values, n_rows) of the scores (n_outputs, n_draws, n_rows), block by block.

        Returned as (n_samples,) if there is one value, else as (n_samples, n_values).
        """
        length = max(1, _BLOCK_SCORES // (len(self.draws) * self.n_outputs))
        blocks = list(pairwise([*range(0, rows.n_samples, length), rows.n_samples]))

        def summarize(block: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
            part = rows.part(*block)
            return summary(np.stack([score_table(draw.table, part) for draw in self.draws], axis=1))

        if n_threads == 1:
            parts = [summarize(block) for block in blocks]
        else:
            with ThreadPoolExecutor(n_threads) as executor:
                parts = list(executor.map(summarize, blocks))
        first, second = (np.concatenate(values, axis=1) for values in zip(*parts, strict=True))
        return (first[0], second[0]) if len(first) == 1 else (first.T, second.T)


def probit_probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_classes, ...) probabilities from scores (n_outputs, ...).

    Phi(score) is that of the second class, or of each class against the rest, divided by their sum.
    """
    if len(scores) == 1:
        return np.concatenate([scipy.special.ndtr(-scores), scipy.special.ndtr(scores)])
    # In logarithms, so that tiny probabilities do not become 0 / 0.
    log_p = scipy.special.log_ndtr(scores)
    p = np.exp(log_p - log_p.max(axis=0))
    normalised: NDArray[np.float64] = p / p.sum(axis=0)
    return normalised


def probit_scores(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Phi^-1 of probabilities (n_samples, n_classes), finite even for 0 and 1."""
    p = probabilities
    # From the other side where p is near 1; what two classes have there is more precise than 1 - p.
    rest = p[:, ::-1] if p.shape[1] == 2 else 1.0 - p
    least = np.finfo(np.float64).tiny
    scores: NDArray[np.float64] = np.where(
        p < 0.5, scipy.special.ndtri(np.maximum(p, least)), -scipy.special.ndtri(np.maximum(rest, least))
    )
    return scores


def _mixture_quantile(mean: NDArray[Any], precision: NDArray[Any], probability: float) -> NDArray[Any]:
    """Where the mean over the draws of Phi((x - mean) precision) is `probability`, for each row.

    Parameters
    ----------
    mean : ndarray of shape (n_draws, n_rows)
    precision : ndarray of shape (n_draws, 1)
        One over the standard deviation.
    """
    # Between the smallest and the largest quantile of the parts: halved until a Newton step stays within.
    single = mean + scipy.special.ndtri(probability) / precision
    low, high = single.min(axis=0), single.max(axis=0)
    x: NDArray[Any] = single.mean(axis=0)
    for _ in range(60):
        z = (x - mean) * precision
        excess = scipy.special.ndtr(z).mean(axis=0) - probability
        density = (np.exp(-0.5 * z * z) * precision).mean(axis=0) / np.sqrt(2 * np.pi)
        low, high = np.where(excess < 0, x, low), np.where(excess < 0, high, x)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            newton = x - excess / density
        new = np.where((newton > low) & (newton < high), newton, (low + high) / 2)
        done = np.abs(new - x) <= 1e-9 * (1.0 + np.abs(x))
        x = new
        if done.all():
            break
    return x
