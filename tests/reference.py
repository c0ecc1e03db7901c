"""The factorization machine written down from its definition: the oracle of the tests.

    score(x) = w0 + sum_j w_j x_j + sum_{j<l} <v_j, v_l> x_j x_l                        (Rendle 2010, eq. 1)

Everything here follows from that double sum over pairs of columns, in float64, on dense rows. Lemma 3.1,
which makes it linear in the number of nonzeros, is what the compiled kernel has to prove, so it is not used;
nor is anything of fmfast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

# ---------------------------------------------------------------------------------------------
# Score
# ---------------------------------------------------------------------------------------------


def score(X: ArrayLike, w0: float, w: ArrayLike, V: ArrayLike) -> NDArray[np.float64]:
    """Raw scores (n_samples,) of dense rows X (n_samples, n_features)."""
    return np.array([score_row(x, w0, w, V) for x in np.asarray(X, dtype=np.float64)])


def score_row(x: ArrayLike, w0: float, w: ArrayLike, V: ArrayLike) -> float:
    """The double sum of one row: j over the columns, l over those behind it."""
    x, w, V = (np.asarray(array, dtype=np.float64) for array in (x, w, V))
    total = w0 + float(w @ x)
    for j in np.flatnonzero(x):
        total += x[j] * float(x[j + 1 :] @ (V[j + 1 :] @ V[j]))
    return total


def score_gradient(x: ArrayLike, V: ArrayLike) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """d score / d w0, d w (n_features,) and d V (n_features, n_factors), term by term of the double sum.

    d score / d w_j  = x_j
    d score / d V_jf = x_j sum_{l != j} V_lf x_l
    """
    x, V = np.asarray(x, dtype=np.float64), np.asarray(V, dtype=np.float64)
    dV = np.zeros(V.shape)
    for j in np.flatnonzero(x):
        others = x.copy()
        others[j] = 0.0
        dV[j] = x[j] * (others @ V)
    return 1.0, x.copy(), dV


def magnitude(X: ArrayLike, w0: float, w: ArrayLike, V: ArrayLike) -> NDArray[np.float64]:
    """Sum of the absolute values of everything the score is made of: what rounding errors are relative to."""
    X, w, V = (np.abs(np.asarray(array, dtype=np.float64)) for array in (X, w, V))
    return abs(w0) + X @ w + ((X @ V) ** 2).sum(axis=1)


# ---------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------

LOSSES = ("squared", "logistic")


def loss_value(loss: str, score: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """squared: 1/2 (score - y)^2;  logistic: log(1 + exp(score)) - y score, y in [0, 1]."""
    score, y = np.asarray(score, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return {
        "squared": lambda: 0.5 * (score - y) ** 2,
        "logistic": lambda: np.logaddexp(0.0, score) - y * score,
    }[loss]()


def loss_derivative(loss: str, score: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """d loss / d score. squared: score - y;  logistic: 1 / (1 + exp(-score)) - y."""
    score, y = np.asarray(score, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return {"squared": lambda: score - y, "logistic": lambda: expit(score) - y}[loss]()


# ---------------------------------------------------------------------------------------------
# Objective of one sample
# ---------------------------------------------------------------------------------------------


def objective(
    x: ArrayLike,
    stored: NDArray[np.bool_],
    y: float,
    weight: float,
    w0: float,
    w: NDArray,
    V: NDArray,
    *,
    loss: str,
    reg_w: float,
    reg_V: float,
) -> float:
    """weight * [ loss + sum_j (reg_w/2 w_j^2 + reg_V/2 |v_j|^2) ], j over the stored entries of the row.

    `stored` (n_features,) tells them apart: an explicit zero is stored, so its column is penalised.
    """
    w, V = np.asarray(w, dtype=np.float64), np.asarray(V, dtype=np.float64)
    penalty = 0.5 * reg_w * (w[stored] ** 2).sum() + 0.5 * reg_V * (V[stored] ** 2).sum()
    return weight * float(loss_value(loss, score_row(x, w0, w, V), y) + penalty)


def objective_gradient(
    x: ArrayLike,
    stored: NDArray[np.bool_],
    y: float,
    weight: float,
    w0: float,
    w: NDArray,
    V: NDArray,
    *,
    loss: str,
    reg_w: float,
    reg_V: float,
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Gradient of `objective` with respect to w0, w and V, of their shapes."""
    w, V = np.asarray(w, dtype=np.float64), np.asarray(V, dtype=np.float64)
    dloss = float(loss_derivative(loss, score_row(x, w0, w, V), y))
    d_w0, d_w, d_V = score_gradient(x, V)
    g_w = dloss * d_w + reg_w * np.where(stored, w, 0.0)
    g_V = dloss * d_V + reg_V * np.where(stored[:, None], V, 0.0)
    return weight * dloss * d_w0, weight * g_w, weight * g_V


# ---------------------------------------------------------------------------------------------
# Updates by column
# ---------------------------------------------------------------------------------------------


def score_of_pairs(X: NDArray, w0: float, w: NDArray, V: NDArray) -> NDArray[np.float64]:
    """`score` with all pairs of columns at once: the strict upper triangle of V V^T."""
    return w0 + X @ w + np.einsum("ij,jl,il->i", X, np.triu(V @ V.T, 1), X, optimize=True)


def column_gradient(X: NDArray, j: int, V: NDArray) -> NDArray[np.float64]:
    """(n_samples, n_factors + 1) d score / d (v_j, w_j); the score is linear in these."""
    others = X.copy()
    others[:, j] = 0.0
    return X[:, [j]] * np.column_stack([others @ V, np.ones(len(X))])


def column_system(
    X: NDArray,
    j: int,
    e: NDArray,
    c: NDArray,
    w: NDArray,
    V: NDArray,
    *,
    alpha: float,
    mean: NDArray,
    precision: NDArray,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(A, b): A delta = b minimises, by the change delta of theta = (v_j, w_j),

        alpha / 2 sum_i c_i e_i^2 + 1/2 (theta - mean)^T P (theta - mean)

    e_i being the residuals, c_i the weights of the samples, and P the diagonal of the precision.
    """
    h, theta = column_gradient(X, j, V), np.append(V[j], w[j])
    return alpha * (h.T * c) @ h + np.diag(precision), -alpha * (h.T * c) @ e - precision * (theta - mean)


def update_columns(
    X: NDArray,
    y: NDArray,
    c: NDArray,
    w0: float,
    w: NDArray,
    V: NDArray,
    *,
    block: slice,
    groups: NDArray,
    mean: NDArray,
    precision: NDArray,
    penalty: NDArray,
    counts: NDArray,
    alpha: float = 1.0,
    noise: NDArray | None = None,
) -> None:
    """Every column in turn, in place: v_j of a block of factors, and w_j, at their optimum given all else.

    With noise, as many numbers per column as it has parameters: A = L L^T adds L^-T noise to delta. `mean`,
    `precision` (n_groups, n_factors + 1) and `penalty` (n_factors + 1,) are of all factors, and of w; the
    penalty is a precision that counts `counts` (n_features,) times.
    """
    of_block = [*range(V.shape[1])[block], V.shape[1]]
    for j in range(X.shape[1]):
        # From scratch for every column.
        e = score_of_pairs(X, w0, w, V) - y
        P = (precision[groups[j]] + penalty * counts[j])[of_block]
        mu = mean[groups[j], of_block]
        A, b = column_system(X, j, e, c, w, V[:, block], alpha=alpha, mean=mu, precision=P)
        delta = np.linalg.lstsq(A, b, rcond=None)[0]
        if noise is not None:
            delta += np.linalg.solve(np.linalg.cholesky(A).T, noise[j])
        V[j, block] += delta[:-1]
        w[j] += delta[-1]


def least_squares_epoch(
    loss: str,
    X: NDArray,
    y: NDArray,
    c: NDArray,
    w0: float,
    w: NDArray,
    V: NDArray,
    *,
    reg_w: float,
    reg_V: float,
) -> float:
    """One epoch of alternating least squares: w0, then all columns for each 8 factors; returns w0.

    For the logistic loss, the quadratic a / 2 (score - z)^2 takes the place of the loss. At the present score
    s it has the same slope, and the curvature a = (sigmoid(s) - 1/2) / s: the least with which it is nowhere
    below the loss.
    """
    counts = c @ (X != 0)
    if loss == "logistic":
        s = score_of_pairs(X, w0, w, V)
        a = np.divide(expit(s) - 0.5, s, out=np.full(len(s), 0.25), where=s != 0)
        y, c = s - loss_derivative(loss, s, y) / a, a * c
    w0 -= c @ (score_of_pairs(X, w0, w, V) - y) / c.sum()
    n_factors = V.shape[1]
    nothing, groups = np.zeros((1, n_factors + 1)), np.zeros(X.shape[1], dtype=int)
    penalty = np.append(np.full(n_factors, reg_V), reg_w)
    for first in range(0, max(n_factors, 1), 8):
        update_columns(
            X, y, c, w0, w, V, block=slice(first, first + 8),
            groups=groups, mean=nothing, precision=nothing, penalty=penalty, counts=counts,
        )  # fmt: skip
    return w0
