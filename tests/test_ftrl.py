"""FTRL-Proximal through the estimators: the algorithm of the paper, exact zeros, the start of the factors."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal

import fmfast
from fmfast import FMClassifier, FMRegressor

N_FEATURES, N_INFORMATIVE, RANK = 60, 12, 3


@pytest.fixture(scope="module")
def planted():
    """Rows of 10 numbers and their scores: 12 of 60 columns have a weight, 6 others have factors."""
    rng = np.random.default_rng(0)
    n_samples, nnz = 20_000, 10
    columns = np.argsort(rng.random((n_samples, N_FEATURES)), axis=1)[:, :nnz]
    indptr = np.arange(n_samples + 1) * nnz
    X = sp.csr_array((rng.normal(size=n_samples * nnz), columns.ravel(), indptr), (n_samples, N_FEATURES))
    X.sort_indices()
    w, V = np.zeros(N_FEATURES), np.zeros((N_FEATURES, RANK))
    w[:N_INFORMATIVE] = rng.choice([-1.0, 1.0], N_INFORMATIVE) * rng.uniform(0.5, 1.5, N_INFORMATIVE)
    V[N_INFORMATIVE : N_INFORMATIVE + 6] = rng.normal(size=(6, RANK))
    score = X @ w + 0.5 * ((X @ V) ** 2 - (X * X) @ V**2).sum(axis=1)
    return X, w, score


def labels(score, seed=1):
    """Drawn with the probabilities that the scores mean."""
    return (np.random.default_rng(seed).random(len(score)) < 1.0 / (1.0 + np.exp(-score))).astype(int)


def assert_same_model(first, second):
    """Parameters and solver state agree to the bit."""
    assert_array_equal(first.model_.table.rows, second.model_.table.rows)
    assert_array_equal(first.model_.table.bias, second.model_.table.bias)


# -- the algorithm -----------------------------------------------------------------------------


class PerCoordinate:
    """FTRL-Proximal with L1 for logistic regression (McMahan et al. 2013, algorithm 1), float64.

    The L2 penalty is part of the gradient; that of the paper only makes steps smaller. As in the paper, the
    weights are not stored but computed from z and n when a sample needs them. The last coordinate is the
    intercept: always 1, no penalty.
    """

    def __init__(self, n_features, alpha, l1, l2, beta=1.0):
        self.z, self.n = np.zeros(n_features + 1), np.zeros(n_features + 1)
        self.alpha, self.beta, self.l1, self.l2 = alpha, beta, l1, l2

    def weight(self, i):
        l1 = 0.0 if i == len(self.z) - 1 else self.l1
        if abs(self.z[i]) <= l1:
            return 0.0
        scale = (self.beta + np.sqrt(self.n[i])) / self.alpha
        return -(self.z[i] - np.sign(self.z[i]) * l1) / scale

    def weights(self):
        return np.array([self.weight(i) for i in range(len(self.z))])

    def learn(self, x, y):
        """One sample: a dict of its nonzeros, and its label."""
        x = {**x, len(self.z) - 1: 1.0}
        w = {i: self.weight(i) for i in x}
        p = 1.0 / (1.0 + np.exp(-sum(w[i] * x[i] for i in x)))
        for i in x:
            l2 = 0.0 if i == len(self.z) - 1 else self.l2
            g = (p - y) * x[i] + l2 * w[i]
            sigma = (np.sqrt(self.n[i] + g * g) - np.sqrt(self.n[i])) / self.alpha
            self.z[i] += g - sigma * w[i]
            self.n[i] += g * g


@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.0, 0.1), (1.0, 0.0), (1.0, 0.1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_a_linear_model_is_the_algorithm_of_the_paper(planted, dtype, tolerance, l1, l2):
    """Samples are given one by one, so that their order is known."""
    X, _, score = planted
    X, y = X[:400], labels(score[:400])
    fm = FMClassifier(0, solver="ftrl", learning_rate=0.3, l1_w=l1, reg_w=l2, dtype=dtype)
    expected = PerCoordinate(N_FEATURES, 0.3, l1, l2)
    for i in range(400):
        fm.partial_fit(X[[i]], y[[i]], classes=[0, 1])
        row = X[[i]]
        expected.learn(dict(zip(row.indices.tolist(), row.data.tolist(), strict=True)), y[i])
    w = expected.weights()
    assert np.abs(w).max() > 0.2
    assert (w == 0).any() == (l1 > 0)
    assert_allclose(fm.w_, w[:-1], rtol=tolerance, atol=tolerance)
    assert_allclose(fm.w0_, w[-1], rtol=tolerance)
    if dtype == "float64":
        assert_array_equal(fm.w_ == 0, w[:-1] == 0)


def test_without_l1_a_step_is_that_of_adagrad_with_a_larger_denominator(planted):
    """theta -= learning_rate / (1 + sqrt(n)) * g"""
    X, _, score = planted
    X, y = X[:300], labels(score[:300])
    rate, reg_w, reg_V = 0.3, 0.2, 0.5
    fm = FMClassifier(3, solver="ftrl", learning_rate=rate, reg_w=reg_w, reg_V=reg_V, init_std=0.3)
    fm.set_params(dtype="float64", random_state=0)
    w0, w, V = 0.0, np.zeros(N_FEATURES), random_start(fm)
    n_w0, n_w, n_V = 0.0, np.zeros(w.shape), np.zeros(V.shape)
    for i, x in enumerate(X.toarray()):
        fm.partial_fit(X[[i]], y[[i]], classes=[0, 1])
        s = x @ V
        g_w0 = 1.0 / (1.0 + np.exp(-w0 - x @ w - 0.5 * (s @ s - ((x[:, None] * V) ** 2).sum()))) - y[i]
        g_w, g_V = g_w0 * x, g_w0 * x[:, None] * (s - x[:, None] * V)
        g_w, g_V = g_w + reg_w * w * (x != 0), g_V + reg_V * V * (x != 0)[:, None]
        n_w0, n_w, n_V = n_w0 + g_w0**2, n_w + g_w**2, n_V + g_V**2
        w0 -= rate / (1.0 + np.sqrt(n_w0)) * g_w0
        w -= rate / (1.0 + np.sqrt(n_w)) * g_w
        V -= rate / (1.0 + np.sqrt(n_V)) * g_V
    assert_allclose(fm.w0_, w0, rtol=1e-10)
    assert_allclose(fm.w_, w, rtol=1e-10, atol=1e-13)
    assert_allclose(fm.V_, V, rtol=1e-10, atol=1e-13)


# -- zeros -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_l1_leaves_exact_zeros_and_more_of_them_the_larger_it_is(planted, dtype):
    X, _, score = planted
    y = labels(score)
    settings = {"n_factors": 4, "solver": "ftrl", "max_iter": 2, "random_state": 0, "dtype": dtype}
    fms = [FMClassifier(l1_w=l1_w, **settings).fit(X, y) for l1_w in (0.0, 10.0, 100.0, 1e6)]
    n_zeros = [int(np.sum(fm.w_ == 0.0)) for fm in fms]
    assert n_zeros[0] == 0
    assert n_zeros[0] < n_zeros[1] < n_zeros[2] < n_zeros[3] == N_FEATURES
    for fm in fms:
        assert fm.w_.dtype == dtype
        assert (fm.V_ != 0.0).all()  # l1_w is for w alone
        assert fm.w0_ != 0.0


def test_sparse_weights_are_all_that_a_prediction_needs(planted):
    X, _, score = planted
    fm = FMClassifier(4, solver="ftrl", l1_w=50.0, random_state=0).fit(X, labels(score))
    w = sp.csr_array(fm.w_[None, :])
    assert w.nnz == np.count_nonzero(fm.w_)
    assert 0 < w.nnz < N_FEATURES
    assert sp.csr_array(fm.w_).nnz == w.nnz  # as the documentation has it
    V = fm.V_.astype(np.float64)
    interactions = 0.5 * ((X @ V) ** 2 - (X * X) @ V**2).sum(axis=1)
    linear = (X @ w.astype(np.float64).T).toarray().ravel()
    assert_allclose(fm.decision_function(X), fm.w0_ + linear + interactions, rtol=1e-4, atol=1e-4)


def test_several_classes_have_zeros_of_their_own(planted):
    X, _, score = planted
    y = np.digitize(score, [-1.0, 1.0])
    fm = FMClassifier(2, solver="ftrl", l1_w=50.0, random_state=0, max_iter=3).fit(X, y)
    zeros = fm.w_ == 0.0
    assert zeros.shape == (3, N_FEATURES)
    assert zeros.any(axis=1).all()
    assert not zeros.all(axis=1).any()
    assert sp.csr_array(fm.w_).nnz == np.sum(~zeros)


@pytest.mark.parametrize(("cls", "correlation"), [(FMRegressor, 0.99), (FMClassifier, 0.95)])
def test_a_planted_model_with_few_weights_is_recovered(planted, cls, correlation):
    """Weights that are there are found, nearly all others are exactly 0, and the prediction is good."""
    X, w, score = planted
    train, test = slice(0, 16_000), slice(16_000, None)
    noisy = score + np.random.default_rng(2).normal(0.0, 0.1, len(score))
    y = labels(score) if cls is FMClassifier else noisy
    settings = {"solver": "ftrl", "l1_w": 300.0, "reg_w": 0.0, "reg_V": 0.0, "max_iter": 4, "random_state": 0}

    def correlation_of(fm):
        return np.corrcoef(getattr(fm, "decision_function", fm.predict)(X[test]), score[test])[0, 1]

    fm = cls(6, **settings).fit(X[train], y[train])
    informative = w != 0
    assert (fm.w_[informative] * w[informative] > 0).all()
    assert np.mean(fm.w_[~informative] == 0.0) > 0.9
    assert correlation_of(fm) > correlation
    # A linear model finds the same weights, and misses the interactions.
    linear = cls(0, **settings).fit(X[train], y[train])
    assert (linear.w_[informative] != 0.0).all()
    assert correlation_of(linear) < 0.9


# -- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("l1_w", [-1e-9, -1.0, np.nan, np.inf, "1", None, True])
def test_l1_must_be_a_finite_number_of_at_least_0(planted, l1_w):
    X, _, score = planted
    with pytest.raises(ValueError, match=r"^The parameter l1_w of .*, expected a finite number >= 0"):
        FMRegressor(solver="ftrl", l1_w=l1_w).fit(X[:20], score[:20])


# -- continued ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [FMRegressor, FMClassifier])
def test_training_goes_on_after_a_file_to_the_bit(planted, cls, tmp_path):
    X, _, score = planted
    X, score = X[:2000], score[:2000]
    y = labels(score) if cls is FMClassifier else score
    fm = cls(4, solver="ftrl", l1_w=5.0, max_iter=2, random_state=0, warm_start=True).fit(X, y)
    assert 0 < np.sum(fm.w_ == 0.0) < N_FEATURES
    fm.save(tmp_path / "fm.npz")
    copy = fmfast.load(tmp_path / "fm.npz")
    assert copy.l1_w == 5.0
    assert_same_model(copy, fm)
    for step in (lambda fm: fm.partial_fit(X[:50], y[:50]), lambda fm: fm.fit(X, y)):
        before = fm.w_.copy()
        step(fm)
        step(copy)
        assert_same_model(copy, fm)
        assert not np.array_equal(fm.w_, before)


def test_two_fits_of_two_epochs_are_one_of_four(planted):
    X, _, score = planted
    X, y = X[:2000], score[:2000]
    settings = {"n_factors": 4, "solver": "ftrl", "l1_w": 5.0, "random_state": 0}
    fm = FMRegressor(max_iter=2, warm_start=True, **settings).fit(X, y).fit(X, y)
    assert_same_model(fm, FMRegressor(max_iter=4, **settings).fit(X, y))


# -- the start of the factors ------------------------------------------------------------------


def random_start(fm):
    """V before training: it depends on the seed and the place in V alone, not on the data."""
    untrained = FMClassifier(**fm.get_params())
    return untrained.partial_fit(sp.csr_array((1, N_FEATURES)), [0], classes=[0, 1]).V_.copy()


def test_factors_stay_where_they_start_until_they_are_moved(planted):
    X, _, score = planted
    X, y = X[:1000].tolil(), labels(score[:1000])
    X[:, 7] = 0.0  # a column that never occurs
    X = X.tocsr()
    fm = FMClassifier(4, solver="ftrl", reg_V=0.0, init_std=0.1, random_state=0)
    start = random_start(fm)
    assert np.std(start) == pytest.approx(0.1, rel=0.2)
    fm.partial_fit(X, y, classes=[0, 1])
    assert_array_equal(fm.V_[7], start[7])
    assert np.delete(start != fm.V_, 7, axis=0).all()
    # Now it occurs, but alone in its rows, where its weight has a gradient and its factors have none.
    alone = sp.csr_array((np.ones(3), ([0, 1, 2], [7, 7, 7])), (3, N_FEATURES))
    fm.partial_fit(alone, [0, 1, 1])
    assert fm.w_[7] != 0.0
    assert_allclose(fm.V_[7], start[7], rtol=1e-6)


def test_the_first_step_leads_on_from_the_start(planted):
    """The algorithm of the paper starts at 0, where factors have no gradient."""
    X, _, score = planted
    fm = FMClassifier(4, solver="ftrl", learning_rate=1e-5, reg_V=3.0, init_std=0.1, random_state=0)
    start = random_start(fm)
    fm.fit(X[:1000], labels(score[:1000]))
    assert_allclose(fm.V_, start, atol=1e-3)
    assert (start != fm.V_).any()


def test_the_learning_rate_may_change(planted):
    """A parameter without gradient stays where it is, whatever the learning rate is now."""
    X, _, score = planted
    X, y = X[:1000], labels(score[:1000])
    fm = FMClassifier(4, solver="ftrl", learning_rate=0.2, l1_w=2.0, reg_w=0.0, reg_V=0.0, random_state=0)
    fm.fit(X, y)
    w, V = fm.w_.copy(), fm.V_.copy()
    assert 0 < np.sum(w == 0.0) < N_FEATURES
    # All rows without weight, and one with weight that is empty.
    X, weight = sp.vstack([X, sp.csr_array((1, N_FEATURES))]), np.append(np.zeros(1000), 1.0)
    fm.set_params(learning_rate=0.01).partial_fit(X, np.append(y, 0), sample_weight=weight)
    assert_array_equal(fm.V_, V)
    assert_array_equal(fm.w_ == 0.0, w == 0.0)
    assert_allclose(fm.w_, w, rtol=1e-6)
