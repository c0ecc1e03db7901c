"""Does it learn? Planted models, a problem without linear solution, and the chess data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from problems import STOCHASTIC
from scipy.stats import rankdata

from fmfast import FMClassifier, FMRegressor
from fmfast.datasets import load_chess_endgame
from fmfast.solvers import SOLVERS

SIZES = (60, 40, 10)  # columns of the one-hot fields
N_TRAIN, N_TEST = 25_000, 5_000
NOISE = 0.1


def rmse(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


def auc(positive, score):
    """Probability that a positive sample scores higher than a negative one."""
    ranks = rankdata(score)
    n_positive = positive.sum()
    below = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(below / (n_positive * (len(positive) - n_positive)))


@dataclass
class Planted:
    """Rows with three one-hot fields and two columns of numbers, and the FM of rank 4 that scores them."""

    X: sp.csr_array
    V: np.ndarray
    score: np.ndarray


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    n = N_TRAIN + N_TEST
    fields = [np.eye(size)[rng.integers(0, size, n)] for size in SIZES]
    X = np.concatenate([*fields, rng.normal(size=(n, 2))], axis=1)
    w, V = rng.normal(0.0, 0.5, X.shape[1]), rng.normal(0.0, 0.6, (X.shape[1], 4))
    # All pairs of columns at once: the strict upper triangle of V V^T, as in the definition.
    score = 0.5 + X @ w + np.einsum("ij,jl,il->i", X, np.triu(V @ V.T, 1), X, optimize=True)
    np.testing.assert_allclose(score[:20], reference.score(X[:20], 0.5, w, V))
    return Planted(sp.csr_array(X), V, score)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_planted_regression_is_recovered(planted, solver):
    y = planted.score + np.random.default_rng(1).normal(0.0, NOISE, len(planted.score))
    train, test = slice(0, N_TRAIN), slice(N_TRAIN, None)
    settings = {"solver": solver, "max_iter": 30, "reg_w": 0.0, "reg_V": 0.0, "random_state": 0}
    fm = FMRegressor(4, **settings).fit(planted.X[train], y[train])
    linear = FMRegressor(0, **settings).fit(planted.X[train], y[train])
    assert rmse(fm.predict(planted.X[test]), y[test]) < 1.1 * NOISE
    assert rmse(linear.predict(planted.X[test]), y[test]) > 10 * NOISE

    # The factors themselves are free up to a rotation, and what all items add to a user could as well be
    # that user's weight; what is left of <v_u, v_i> after that is determined by the data.
    def interactions(V):
        A = V[:60] @ V[60:100].T
        return A - A.mean(axis=0) - A.mean(axis=1, keepdims=True) + A.mean()

    expected = interactions(planted.V)
    assert rmse(interactions(fm.V_), expected) < 0.05 * expected.std()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_planted_classification_is_recovered(planted, solver):
    """Close to the AUC of the true model, less than 1 since labels are drawn from its probabilities."""
    probability = 1.0 / (1.0 + np.exp(-planted.score))
    positive = np.random.default_rng(2).random(len(probability)) < probability
    train, test = slice(0, N_TRAIN), slice(N_TRAIN, None)
    settings = {"solver": solver, "max_iter": 15, "random_state": 0}
    fm = FMClassifier(4, **settings).fit(planted.X[train], positive[train])
    linear = FMClassifier(0, **settings).fit(planted.X[train], positive[train])
    best = auc(positive[test], planted.score[test])
    assert auc(positive[test], fm.decision_function(planted.X[test])) > best - 0.015
    assert auc(positive[test], linear.decision_function(planted.X[test])) < best - 0.08
    # Probabilities, not only an order.
    assert rmse(fm.predict_proba(planted.X[test])[:, 1], probability[test]) < 0.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_exclusive_or_needs_factors(solver):
    """Whether two letters are of the same kind: neither of them alone says anything."""
    a, b = (field.ravel() for field in np.meshgrid(np.arange(8), np.arange(8)))
    X = sp.csr_array(np.concatenate([np.eye(8)[a], np.eye(8)[b]], axis=1))
    same = (a + b) % 2 == 0
    settings = {"solver": solver, "max_iter": 500, "reg_w": 0.0, "reg_V": 0.0}
    settings |= {"init_std": 0.1, "random_state": 0}
    if solver in STOCHASTIC:
        settings |= {"learning_rate": 0.1, "learning_rate_decay": 0.0}
    fm, linear = (FMClassifier(n_factors, **settings).fit(X, same) for n_factors in (2, 0))
    assert (fm.predict(X) == same).all()
    assert 0.4 < linear.score(X, same) < 0.65
    fm, linear = (FMRegressor(n_factors, **settings).fit(X, same) for n_factors in (2, 0))
    assert fm.score(X, same) > 0.99
    assert linear.score(X, same) < 0.05


def test_chess():
    """Real data where the linear model fails: how the pieces stand to each other is what counts."""
    chess = load_chess_endgame()
    fm, linear = (
        FMRegressor(n_factors, reg_w=0, reg_V=0, max_iter=5, random_state=0).fit(chess.X_train, chess.y_train)
        for n_factors in (16, 0)
    )
    assert rmse(fm.predict(chess.X_test), chess.y_test) < 1.05
    assert 1.45 < rmse(linear.predict(chess.X_test), chess.y_test) < 1.6
