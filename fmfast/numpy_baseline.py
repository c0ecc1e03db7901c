"""Factorization machines in plain NumPy and SciPy, for readers, for teaching, and as a yardstick.

The same algorithm as the compiled kernel, statement by statement, without its speed:

- `score_all_pairs` is the definition (Rendle 2010, eq. 1): every pair of nonzeros, O(nnz^2).
- `score` is the same number in O(nnz * n_factors) (Lemma 3.1), for all rows of X at once.
- `train_epoch` updates the parameters after every sample. It is the oracle of the kernel: in float64
  both agree to rounding.
- `train_epoch_mini_batch` updates them once per batch with whole-array operations: the fastest
  form that NumPy and SciPy reasonably allow, and so the fair opponent of the kernel.

    score(x) = w0 + sum_j w_j x_j + sum_{j<l} <v_j, v_l> x_j x_l                        (eq. 1)
             = w0 + <w, x> + 1/2 sum_f (s_f^2 - sum_j V_jf^2 x_j^2)                     (Lemma 3.1)
    s_f      = sum_j V_jf x_j

    d score / d w0 = 1,   d score / d w_j = x_j,   d score / d V_jf = x_j (s_f - V_jf x_j)      (eq. 4)

X is a CSR matrix or array in canonical form: a column that occurs twice in a row breaks Lemma 3.1.
Nothing here validates its input or looks for divergence; the estimators do. This module imports
nothing else of fmfast.

S. Rendle, "Factorization Machines", ICDM 2010, doi 10.1109/ICDM.2010.127.
J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization", JMLR 12, 2011.
H. B. McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013, doi 10.1145/2487575.2488200.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.special import expit

__all__ = [
    "LOSSES",
    "SOLVERS",
    "Parameters",
    "dloss",
    "loss_value",
    "score",
    "score_all_pairs",
    "train_epoch",
    "train_epoch_mini_batch",
]

LOSSES = ("squared", "logistic")
SOLVERS = ("sgd", "adagrad", "ftrl")
FTRL_BETA = 1.0


@dataclass
class Parameters:
    """Parameters of a factorization machine, and what the solver that moves them remembers of each.

    The state of w0, of w and of V is a tuple each, whose content depends on the solver (see `_step`):

        sgd      ()
        adagrad  (G,)     sum of squared gradients; for V one number per row, not one per element
        ftrl     (r, n)   the gradient that L1 holds back (V has none, only n); sum of squared gradients

    Numbers that belong to w0 are Python floats, that is double precision, whatever the dtype of the
    arrays.

    Attributes
    ----------
    w0 : float
        Global bias.
    w : ndarray of shape (n_features,), float32 or float64
        Weights.
    V : ndarray of shape (n_features, n_factors), same dtype
        Factors; row j is v_j.
    solver : {"sgd", "adagrad", "ftrl"}
    state_w0 : tuple of float
    state_w : tuple of ndarray of shape (n_features,), same dtype
    state_V : tuple of ndarray of shape (n_features,) ("adagrad") or (n_features, n_factors), same dtype
    """

    w0: float
    w: NDArray[Any]
    V: NDArray[Any]
    solver: str = "sgd"
    state_w0: tuple[float, ...] = ()
    state_w: tuple[NDArray[Any], ...] = ()
    state_V: tuple[NDArray[Any], ...] = ()

    @classmethod
    def create(
        cls,
        n_features: int,
        n_factors: int,
        rng: np.random.Generator,
        *,
        solver: str = "adagrad",
        init_std: float = 0.1,
        initial_accumulator: float = 1.0,
        dtype: DTypeLike = np.float64,
    ) -> Parameters:
        """Parameters before training: w0 = 0, w = 0, V ~ N(0, init_std^2).

        V must not start at zero: there, the gradient with respect to V is zero as well. Nor must the
        accumulators of AdaGrad, which divides by their root: they start at `initial_accumulator`.

        Parameters
        ----------
        n_features, n_factors : int
        rng : numpy Generator
        solver : {"sgd", "adagrad", "ftrl"}, default="adagrad"
        init_std, initial_accumulator : float, default=0.1 and 1.0
        dtype : dtype, default=float64

        Returns
        -------
        Parameters

        Raises
        ------
        ValueError
            For another solver.
        """
        w = np.zeros(n_features, dtype)
        V = rng.normal(0.0, init_std, (n_features, n_factors)).astype(dtype)
        if solver == "sgd":
            return cls(0.0, w, V, solver)
        if solver == "adagrad":
            G = np.full(n_features, initial_accumulator, dtype)
            return cls(0.0, w, V, solver, (initial_accumulator,), (G,), (G.copy(),))
        if solver == "ftrl":
            state_w, state_V = (np.zeros_like(w), np.zeros_like(w)), (np.zeros_like(V),)
            return cls(0.0, w, V, solver, (0.0, 0.0), state_w, state_V)
        raise ValueError(f"solver is {solver!r}; expected one of {SOLVERS}.")

    def copy(self) -> Parameters:
        """Parameters that share no memory with these.

        Returns
        -------
        Parameters
        """
        return deepcopy(self)


# ---------------------------------------------------------------------------------------------
# Score
# ---------------------------------------------------------------------------------------------


def score_all_pairs(X: Any, parameters: Parameters) -> NDArray[np.float64]:
    """Raw scores straight from the definition (Rendle 2010, eq. 1), one pair after another.

        score = w0 + sum_j w_j x_j + sum_{j<l} <v_j, v_l> x_j x_l

    Parameters
    ----------
    X : CSR matrix or array of shape (n_samples, n_features)
    parameters : Parameters

    Returns
    -------
    ndarray of shape (n_samples,), float64
    """
    w, V = parameters.w.astype(np.float64), parameters.V.astype(np.float64)
    scores = np.full(X.shape[0], parameters.w0)
    for i, (start, stop) in enumerate(pairwise(X.indptr.tolist())):
        row = list(zip(X.indices[start:stop].tolist(), X.data[start:stop].tolist(), strict=True))
        for j, x_j in row:
            scores[i] += w[j] * x_j
        for (j, x_j), (k, x_k) in combinations(row, 2):
            scores[i] += V[j] @ V[k] * x_j * x_k
    return scores


def score(X: Any, parameters: Parameters) -> NDArray[Any]:
    """Raw scores in linear time (Rendle 2010, Lemma 3.1), as three sparse products.

        score = w0 + X w + 1/2 sum_f [ (X V)^2 - X^2 V^2 ]

    The squares are of each element. Since the sum over f and the product with X^2 can change places,
    the last term needs only the squared length of each v_j, not all of V^2.

    Parameters
    ----------
    X : CSR matrix or array of shape (n_samples, n_features)
    parameters : Parameters

    Returns
    -------
    ndarray of shape (n_samples,), dtype of X and the parameters
    """
    X_squared = sp.csr_array((X.data * X.data, X.indices, X.indptr), shape=X.shape)
    return parameters.w0 + _score_without_bias(X, X_squared, parameters.w, parameters.V)[0]


def _score_without_bias(X: Any, X_squared: Any, w: NDArray[Any], V: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Scores less w0, shape (n_samples,), and the factor sums s, shape (n_samples, n_factors)."""
    s = X @ V
    return X @ w + 0.5 * (_row_dot(s, s) - X_squared @ _row_dot(V, V)), s


def _row_dot(A: NDArray[Any], B: NDArray[Any]) -> NDArray[Any]:
    """sum_f A_if B_if, shape (n_rows,)."""
    dots: NDArray[Any] = np.einsum("if,if->i", A, B)
    return dots


# ---------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------


def loss_value(loss: str, score: ArrayLike, y: ArrayLike) -> Any:
    """Loss of each sample.

        squared    1/2 (score - y)^2
        logistic   log(1 + exp(score)) - y score,    y in [0, 1]

    `exp` is called with non-positive arguments only, so nothing overflows.

    Parameters
    ----------
    loss : {"squared", "logistic"}
    score, y : array-like, of shapes that broadcast

    Returns
    -------
    ndarray or float
    """
    if loss == "squared":
        return 0.5 * np.square(np.subtract(score, y))
    # log(1 + exp(score)) = max(score, 0) + log1p(exp(-|score|))
    return np.maximum(score, 0.0) - np.multiply(y, score) + np.log1p(np.exp(-np.abs(score)))


def dloss(loss: str, score: ArrayLike, y: ArrayLike) -> Any:
    """Derivative of `loss_value` with respect to the score.

        squared    score - y
        logistic   1 / (1 + exp(-score)) - y

    Parameters
    ----------
    loss : {"squared", "logistic"}
    score, y : array-like, of shapes that broadcast

    Returns
    -------
    ndarray or float
    """
    return np.subtract(score if loss == "squared" else expit(score), y)


# ---------------------------------------------------------------------------------------------
# One step
# ---------------------------------------------------------------------------------------------


def _step(
    solver: str,
    theta: Any,
    state: Sequence[Any],
    g: Any,
    learning_rate: float,
    l1: float = 0.0,
) -> tuple[Any, ...]:
    """theta and its state after a step against the gradient g; theta is w0, some of w, or some rows of V.

    sgd      theta -= learning_rate * g

    adagrad  G += g^2;  theta -= learning_rate / sqrt(G) * g                (Duchi, Hazan, Singer 2011)
             A row of V has one G, and so one rate: G_j += sum_f g_jf^2

    ftrl     n += g^2;  D = (beta + sqrt(n)) / learning_rate;  z = r + g - D theta
             r = clip(z, -l1, l1);  theta = (r - z) / D
             The paper (McMahan et al. 2013, algorithm 1) stores z, and computes theta from it. What z
             says beyond theta is r: gradients too small, so far, to move a weight away from 0. Without
             L1 this is theta -= g / D.
    """
    if solver == "sgd":
        return (theta - learning_rate * g,)
    if solver == "adagrad":
        (G,) = state
        if isinstance(g, np.ndarray) and g.ndim == 2:  # rows of V
            G = G + _row_dot(g, g)
            return theta - (learning_rate / np.sqrt(G))[:, None] * g, G
        G = G + g * g
        return theta - learning_rate / np.sqrt(G) * g, G
    *held, n = state
    n = n + g * g
    D = (FTRL_BETA + np.sqrt(n)) / learning_rate
    if not held:  # V
        return theta - g / D, n
    z = held[0] + g - D * theta
    r = np.clip(z, -l1, l1)
    return (r - z) / D, r, n


def _step_bias(p: Parameters, g: float, learning_rate: float) -> None:
    """Move w0, which has no penalty."""
    w0, *state = _step(p.solver, p.w0, p.state_w0, g, learning_rate)
    # Plain floats: a NumPy double would turn float32 arrays that meet it into float64.
    p.w0, p.state_w0 = float(w0), tuple(map(float, state))


def _step_columns(
    p: Parameters,
    columns: NDArray[Any],
    w: NDArray[Any],
    V: NDArray[Any],
    g_w: NDArray[Any],
    g_V: NDArray[Any],
    learning_rate: float,
    l1_w: float,
) -> None:
    """Move the parameters of some columns, given their present values and their gradients."""
    state = [array[columns] for array in p.state_w]
    p.w[columns], *state = _step(p.solver, w, state, g_w, learning_rate, l1_w)
    _put(p.state_w, columns, state)
    if V.shape[1]:
        state = [array.take(columns, axis=0) for array in p.state_V]
        p.V[columns], *state = _step(p.solver, V, state, g_V, learning_rate)
        _put(p.state_V, columns, state)


def _put(arrays: tuple[NDArray[Any], ...], columns: NDArray[Any], values: list[NDArray[Any]]) -> None:
    """Write some columns of each array."""
    for array, new in zip(arrays, values, strict=True):
        array[columns] = new


def _check(solver: str, loss: str, l1_w: float) -> None:
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; expected one of {SOLVERS}.")
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; expected one of {LOSSES}.")
    if l1_w and solver != "ftrl":
        raise ValueError(f"l1_w is {l1_w!r} with solver {solver!r}; expected 0, or solver 'ftrl'.")


# ---------------------------------------------------------------------------------------------
# Epochs
# ---------------------------------------------------------------------------------------------


def train_epoch(
    X: Any,
    y: ArrayLike,
    parameters: Parameters,
    *,
    loss: str = "squared",
    learning_rate: float = 0.1,
    reg_w: float = 0.0,
    reg_V: float = 0.0,
    l1_w: float = 0.0,
    sample_weight: ArrayLike | None = None,
    order: ArrayLike | None = None,
) -> float:
    """One epoch of per-sample updates, in place: the algorithm of the compiled kernel.

    A sample with weight c adds to the objective

        c * [ loss(score, y) + reg_w/2 sum_j w_j^2 + reg_V/2 sum_{j,f} V_jf^2 ]

    where j runs over the nonzeros of the sample only; w0 is not regularised. Its gradient is

        w0    c dloss
        w_j   c dloss x_j + c reg_w w_j
        V_jf  c dloss x_j (s_f - V_jf x_j) + c reg_V V_jf

    with all parameters, and so s, taken from before the update. The penalty l1_w sum_j |w_j| of "ftrl"
    is no part of the samples nor of these gradients: it stands in its closed form (see `_step`).

    Parameters
    ----------
    X : CSR matrix or array of shape (n_samples, n_features)
        No column twice in a row.
    y : array of shape (n_samples,)
        Targets; in [0, 1] for the logistic loss.
    parameters : Parameters
        Changed in place, by the solver that they were created for.
    loss : {"squared", "logistic"}
    learning_rate, reg_w, reg_V : float
    l1_w : float
        For "ftrl" only.
    sample_weight : array of shape (n_samples,), optional
        All 1 by default.
    order : integer array, optional
        The samples in the order of their visit; 0, 1, ..., n_samples - 1 by default.

    Returns
    -------
    float
        Sum of weight * loss, each loss taken before the update of its sample.
    """
    p = parameters
    _check(p.solver, loss, l1_w)
    data, indices, indptr = X.data.astype(p.w.dtype, copy=False), X.indices, X.indptr.tolist()
    targets = np.asarray(y, dtype=np.float64).tolist()
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64).tolist()
    loss_sum = 0.0
    for i in range(X.shape[0]) if order is None else np.asarray(order).tolist():
        columns, x = indices[indptr[i] : indptr[i + 1]], data[indptr[i] : indptr[i + 1]]
        weight = 1.0 if weights is None else weights[i]
        w, V = p.w[columns], p.V.take(columns, axis=0)

        vx = V * x[:, None]
        s = vx.sum(axis=0)
        y_hat = p.w0 + float(w @ x) + 0.5 * float(s @ s - np.vdot(vx, vx))
        loss_sum += weight * float(loss_value(loss, y_hat, targets[i]))

        g_0 = weight * float(dloss(loss, y_hat, targets[i]))
        g_x = g_0 * x
        g_w = g_x + (weight * reg_w) * w
        g_V = g_x[:, None] * s + (weight * reg_V - g_x * x)[:, None] * V
        _step_bias(p, g_0, learning_rate)
        _step_columns(p, columns, w, V, g_w, g_V, learning_rate, l1_w)
    return loss_sum


def train_epoch_mini_batch(
    X: Any,
    y: ArrayLike,
    parameters: Parameters,
    *,
    loss: str = "squared",
    learning_rate: float = 0.1,
    reg_w: float = 0.0,
    reg_V: float = 0.0,
    l1_w: float = 0.0,
    sample_weight: ArrayLike | None = None,
    batch_size: int = 1024,
) -> float:
    """One epoch with one step per batch of consecutive rows, in place; no Python loop over samples.

    The gradient of a batch is the *sum* of the gradients of its samples (see `train_epoch`, whose
    arguments these are). So `batch_size=1` is the per-sample algorithm, and SGD needs a learning
    rate that falls as the batch grows; AdaGrad and FTRL, which divide by the size of past gradients,
    hardly do. Shuffle the rows of X and y beforehand if their order means something.

    Only the columns that occur in a batch are touched, so that the time does not depend on
    n_features.

    Parameters
    ----------
    X, y, parameters, loss, learning_rate, reg_w, reg_V, l1_w, sample_weight
        As in `train_epoch`.
    batch_size : int
        Rows per step; the last batch may be smaller.

    Returns
    -------
    float
        Sum of weight * loss, each loss taken before the update of its batch.
    """
    p = parameters
    _check(p.solver, loss, l1_w)
    data = X.data.astype(p.w.dtype, copy=False)
    y = np.asarray(y, dtype=np.float64)
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    numbering = np.empty(X.shape[1], dtype=X.indices.dtype)  # for _local_columns
    loss_sum = 0.0
    for first in range(0, X.shape[0], batch_size):
        last = min(first + batch_size, X.shape[0])
        start, stop = X.indptr[first], X.indptr[last]
        columns, local = _local_columns(X.indices[start:stop], numbering)
        x, indptr = data[start:stop], X.indptr[first : last + 1] - start
        B = sp.csr_array((x, local, indptr), shape=(last - first, len(columns)))
        B_squared = sp.csr_array((x * x, local, indptr), shape=B.shape)
        w, V = p.w[columns], p.V.take(columns, axis=0)  # take: several times faster than V[columns]

        y_hat, s = _score_without_bias(B, B_squared, w, V)
        y_hat = p.w0 + y_hat.astype(np.float64)
        batch_loss, g = loss_value(loss, y_hat, y[first:last]), dloss(loss, y_hat, y[first:last])
        if weights is not None:
            batch_loss, g = weights[first:last] * batch_loss, weights[first:last] * g
        loss_sum += float(batch_loss.sum())

        g_0 = float(g.sum())
        g = g.astype(p.w.dtype)
        # sum_i g_i x_ij s_if and sum_i g_i x_ij^2, over the samples i of the batch
        g_w, g_s, g_xx = B.T @ g, B.T @ (g[:, None] * s), B_squared.T @ g
        # Regularisation counts a column once for each sample that has it.
        repeated = None if weights is None else np.repeat(weights[first:last], np.diff(indptr))
        counts = np.bincount(local, weights=repeated, minlength=len(columns)).astype(p.w.dtype)
        g_w = g_w + (reg_w * counts) * w
        g_V = g_s + (reg_V * counts - g_xx)[:, None] * V
        _step_bias(p, g_0, learning_rate)
        _step_columns(p, columns, w, V, g_w, g_V, learning_rate, l1_w)
    return loss_sum


def _local_columns(indices: NDArray[Any], numbering: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The distinct columns among `indices`, and `indices` as positions in them.

    Like `numpy.unique(indices, return_inverse=True)`, but unsorted and in linear time. `numbering`
    (n_features,) is scratch space whose content does not matter.
    """
    positions = np.arange(len(indices), dtype=numbering.dtype)
    numbering[indices] = positions  # of equal columns, one position stays
    columns = indices[numbering[indices] == positions]
    numbering[columns] = positions[: len(columns)]
    return columns, numbering[indices]
