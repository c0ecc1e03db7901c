"""Gibbs sampling of a Bayesian factorization machine, written plainly: the oracle of the tests.

One number at a time (Rendle 2012, "Factorization machines with libFM", section 3.4), every conditional
distribution given all else, on dense rows in float64:

    y_i   ~ N(score(x_i), 1 / (c_i alpha))           or  z_i ~ N(score(x_i), 1), y_i = [z_i > 0]
    theta_j ~ N(mu_g, 1 / lambda_g)                  theta is w or a factor of V, g the group of column j
    mu_g  ~ N(0, 1 / lambda_g),   lambda_g ~ Gamma(1/2, rate / 2)
    alpha ~ Gamma(1/2, 1/2),      w0 with a flat prior

The rate is 1 for w and `v_variance` for V. Neither mu nor lambda is integrated out of anything, nothing is
drawn jointly, and the score is the sum over pairs of columns: what fmfast does otherwise has to lead to the
same posterior. Many chains run beside each other, the first axis of every array: their means are
independent, and tell how far chance goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri


@dataclass
class Draws:
    """What the chains went through.

    Attributes
    ----------
    scores : float64 ndarray of shape (n_chains, n_iterations, n_rows)
    alpha : float64 ndarray of shape (n_chains, n_iterations)
    """

    scores: NDArray[np.float64]
    alpha: NDArray[np.float64]


def run_chains(
    X: NDArray,
    y: NDArray,
    c: NDArray,
    n_factors: int,
    groups: NDArray,
    *,
    v_variance: float,
    is_probit: bool,
    X_new: NDArray,
    n_chains: int,
    n_burn_in: int,
    n_iterations: int,
    seed: int,
) -> Draws:
    """Draws of the scores of X_new, and of alpha, given the rows X with targets y and weights c."""
    rng = np.random.default_rng(seed)
    n, p = X.shape
    n_groups = groups.max() + 1
    w0, w = np.zeros(n_chains), np.zeros((n_chains, p))
    V = np.sqrt(v_variance) * rng.normal(size=(n_chains, p, n_factors))
    mu = np.zeros((n_chains, n_groups, n_factors + 1))
    lam = np.ones((n_chains, n_groups, n_factors + 1))
    alpha = np.ones(n_chains)
    kept = Draws(np.empty((n_chains, n_iterations, len(X_new))), np.empty((n_chains, n_iterations)))
    for iteration in range(n_burn_in + n_iterations):
        scores = score(X, w0, w, V)
        if is_probit:
            e = scores - draw_latent(scores, y, rng)
        else:
            e = scores - y
            rate = (1.0 + (c * e**2).sum(axis=1)) / 2
            alpha = rng.gamma((1.0 + c.sum()) / 2, 1.0 / rate)
        new = w0 - (c * e).sum(axis=1) / c.sum() + rng.normal(size=n_chains) / np.sqrt(alpha * c.sum())
        e += (new - w0)[:, None]
        w0 = new
        for g in range(n_groups):
            of_group = groups == g
            for f in range(n_factors + 1):
                theta = (V[:, :, f] if f < n_factors else w)[:, of_group]
                rate = v_variance if f < n_factors else 1.0
                m = mu[:, g, f]
                rate = rate + m**2 + ((theta - m[:, None]) ** 2).sum(axis=1)
                lam[:, g, f] = rng.gamma((1.0 + of_group.sum() + 1.0) / 2, 2.0 / rate)
                n_and_prior = of_group.sum() + 1.0
                sd = 1.0 / np.sqrt(n_and_prior * lam[:, g, f])
                mu[:, g, f] = theta.sum(axis=1) / n_and_prior + sd * rng.normal(size=n_chains)
        for j, g in enumerate(groups):
            for f in range(n_factors + 1):
                theta = V[:, j, f] if f < n_factors else w[:, j]
                h = np.broadcast_to(X[:, j], (n_chains, n))
                if f < n_factors:
                    h = h * (V[:, :, f] @ X.T - V[:, j, f, None] * X[:, j])
                A = alpha * (c * h**2).sum(axis=1) + lam[:, g, f]
                b = alpha * (c * h * (h * theta[:, None] - e)).sum(axis=1) + lam[:, g, f] * mu[:, g, f]
                new = b / A + rng.normal(size=n_chains) / np.sqrt(A)
                e += h * (new - theta)[:, None]
                theta[:] = new
        if iteration >= n_burn_in:
            kept.scores[:, iteration - n_burn_in] = score(X_new, w0, w, V)
            kept.alpha[:, iteration - n_burn_in] = alpha
    return kept


def score(X: NDArray, w0: NDArray, w: NDArray, V: NDArray) -> NDArray[np.float64]:
    """(n_chains, n_rows): the double sum over the pairs of columns."""
    total = w0[:, None] + w @ X.T
    for j in range(X.shape[1]):
        for other in range(j + 1, X.shape[1]):
            total += (V[:, j] * V[:, other]).sum(axis=1)[:, None] * (X[:, j] * X[:, other])
    return total


def draw_latent(scores: NDArray, y: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
    """z ~ N(score, 1) on the side of 0 that y says; for scores down to -37 on the wrong side."""
    sign = np.where(y > 0, 1.0, -1.0)
    # The part of the distribution of sign (score - z) below sign score, by inversion.
    u = 1.0 - rng.random(scores.shape)
    return scores - sign * ndtri(u * ndtr(sign * scores))


def mean_and_error(batches: NDArray) -> tuple[NDArray, NDArray]:
    """Mean over all of (n_batches, n_iterations, ...), and its standard error from the batches."""
    means = batches.mean(axis=1)
    return means.mean(axis=0), means.std(axis=0, ddof=1) / np.sqrt(len(means))
