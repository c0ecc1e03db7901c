"""BayesianFMClassifier: probabilities. And both Bayesian machines among scikit-learn's tools."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import ndtr, ndtri
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_bayesian import BOTH, Planted, predictions, ratings, small, targets

from fmfast import BayesianFMClassifier, BayesianFMRegressor

__all__ = ["ratings"]  # a fixture

ESTIMATORS = [
    BayesianFMRegressor(n_iter=60),
    BayesianFMRegressor(dtype="float64", n_iter=60),
    BayesianFMClassifier(n_iter=30),
    BayesianFMClassifier(dtype="float64", n_iter=30, n_kept_samples=7),
]


def expected_failures(estimator):
    if isinstance(estimator, BayesianFMClassifier) or estimator.dtype == "float64":
        return {}
    why = "equal up to the rounding of float32, where the check wants more"
    return {f"check_sample_weight_equivalence_on_{kind}_data": why for kind in ("dense", "sparse")}


with warnings.catch_warnings():
    # The estimators have no base class of scikit-learn: fmfast does not depend on it.
    warnings.filterwarnings("ignore", "Estimator BayesianFM.* does not inherit from", UserWarning)

    @parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures, xfail_strict=True)
    def test_check_of_scikit_learn(estimator, check):
        check(estimator)


# -- probabilities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [["no", "yes"], [False, True], [3, 5, 9], ["a", "b", "c", "d"]], ids=str)
def test_probabilities_scores_and_classes_agree(labels, ratings):
    X, codes = ratings[0], targets(BayesianFMClassifier, ratings[1], len(labels))
    labels = np.array(labels)
    fm = small(BayesianFMClassifier, n_iter=30).fit(X, labels[codes])
    assert_array_equal(fm.classes_, labels)
    p, std = fm.predict_proba(X, return_std=True)
    assert p.shape == std.shape == (300, len(labels))
    assert_array_equal(p, fm.predict_proba(X))
    assert_allclose(p.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    assert (p > 0).all()
    assert (std > 0).all()
    assert (std < np.sqrt(p * (1 - p))).all()  # which a variable from 0 to 1 with this mean can reach
    assert_array_equal(fm.predict(X), labels[p.argmax(axis=1)])
    scores = fm.decision_function(X)
    if len(labels) == 2:
        assert_allclose(scores, ndtri(p[:, 1]), rtol=1e-9, atol=1e-9)
        assert_array_equal(fm.predict(X) == labels[1], scores > 0)
        assert_allclose(std[:, 0], std[:, 1], rtol=1e-9)
    else:
        assert_allclose(scores, ndtri(p), rtol=1e-9, atol=1e-9)
        assert_array_equal(labels[scores.argmax(axis=1)], fm.predict(X))
    assert fm.score(X, labels[codes]) == (fm.predict(X) == labels[codes]).mean() > 0.6
    shape = (36,) if len(labels) == 2 else (len(labels), 36)
    assert fm.w_.shape == shape
    assert np.shape(fm.w0_) == shape[:-1]


def test_the_order_of_two_classes_is_that_of_the_labels(ratings):
    X, codes = ratings[0], targets(BayesianFMClassifier, ratings[1])
    up = BayesianFMClassifier(n_factors=0, n_iter=300, random_state=0).fit(X, codes).predict_proba(X)
    down = BayesianFMClassifier(n_factors=0, n_iter=300, random_state=1).fit(X, 1 - codes).predict_proba(X)
    assert np.abs(up[:, ::-1] - down).mean() < 0.02


def test_probabilities_are_calibrated():
    planted = Planted(seed=5)
    X, score = planted.draw(12_000)
    y = score + planted.rng.normal(size=len(score)) > 0
    X_new, truth = planted.draw(40_000)
    fm = BayesianFMClassifier(n_factors=4, random_state=0, n_burn_in=50).fit(X, y)
    p, std = fm.predict_proba(X_new, return_std=True)
    p, std, truth = p[:, 1], std[:, 1], ndtr(truth)
    bins = np.digitize(p, np.linspace(0, 1, 11)[1:-1])
    for number in range(10):
        of_bin = bins == number
        assert of_bin.sum() > 500
        assert abs(p[of_bin].mean() - truth[of_bin].mean()) < 0.03
    # What the standard deviation says of the error is so.
    assert 0.7 < np.sqrt(np.mean((p - truth) ** 2) / np.mean(std**2)) < 1.3
    assert np.mean((p - truth) ** 2) < 0.15 * np.mean((truth.mean() - truth) ** 2)


@pytest.mark.parametrize("n_kept_samples", [1, 8])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_huge_scores_give_extreme_but_finite_numbers(n_classes, n_kept_samples, ratings):
    X, codes = ratings[0], targets(BayesianFMClassifier, ratings[1], n_classes)
    fm = small(BayesianFMClassifier, n_factors=2, n_kept_samples=n_kept_samples).fit(X, codes)
    for size in (1e2, 1e4, 1e9):
        p, std = fm.predict_proba(size * X, return_std=True)
        scores = fm.decision_function(size * X)
        for values in (p, std, scores):
            assert np.isfinite(values).all()
        assert ((p >= 0) & (p <= 1)).all()
        assert_allclose(p.sum(axis=1), 1.0, rtol=0, atol=1e-12)
    if n_kept_samples == 1:  # several draws need not agree
        assert p.max() > 1 - 1e-9
    assert np.abs(scores).max() < 40


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classes_of_very_different_size(n_classes):
    """Hardly any sample says what the rare class looks like."""
    rng = np.random.default_rng(0)
    X = sp.random_array((400, 12), density=0.3, rng=rng, format="csr")
    y = np.zeros(400, dtype=int)
    y[:2], y[2] = 1, n_classes - 1
    fm = BayesianFMClassifier(n_factors=2, n_iter=60, random_state=0).fit(X, y)
    p = fm.predict_proba(X)
    assert np.isfinite(p).all()
    assert_allclose(p.mean(axis=0), np.bincount(y) / 400, atol=0.02)


# -- settings and inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_factors", [0, 1, 8, 9])
@pytest.mark.parametrize("cls", BOTH)
def test_any_number_of_factors(cls, n_factors, ratings):
    X, y = ratings[0], targets(cls, ratings[1])
    fm = small(cls, n_factors=n_factors, n_iter=60).fit(X, y)
    assert fm.score(X, y) > (0.5 if n_factors == 0 else 0.6)
    assert fm.model_.draws[0].table.V.shape == (1, 36, n_factors)
    for draw in fm.model_.draws:  # the zeros behind the factors have stayed zeros
        assert (draw.table.rows[:, :, n_factors : draw.table.width] == 0).all()


def test_a_linear_model_is_bayesian_ridge():
    """With enough data and noise the posterior is that of least squares, whatever the prior."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 5))
    y = 3.0 + X @ [1.0, -2.0, 0.0, 0.5, 4.0] + 2.0 * rng.normal(size=500)
    fm = BayesianFMRegressor(0, n_iter=1000, n_kept_samples=1000, dtype="float64", random_state=0).fit(X, y)
    design = np.column_stack([np.ones(500), X])
    expected = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ expected
    standard_error = np.sqrt(residual.var() * np.diag(np.linalg.inv(design.T @ design)))
    assert (np.abs(np.append(fm.w0_, fm.w_) - expected) < 0.3 * standard_error).all()
    weights = fm.model_.scale * np.array([draw.table.w[0] for draw in fm.model_.draws])
    assert_allclose(weights.std(axis=0), standard_error[1:], rtol=0.1)
    assert fm.noise_std_ == pytest.approx(residual.std(), rel=0.03)


@pytest.mark.parametrize("cls", BOTH)
def test_kinds_of_input(cls, ratings):
    pd = pytest.importorskip("pandas")
    X, y = ratings[0], targets(cls, ratings[1])
    fm = small(cls).fit(X, y)
    expected = predictions(fm, X)
    dense = X.toarray()
    for other in (dense, dense.astype(np.float64), sp.coo_array(X), sp.csc_matrix(X), dense.tolist()):
        again = small(cls).fit(other, list(y))
        assert_array_equal(predictions(again, other), expected)
        assert not hasattr(again, "feature_names_in_")
    frame = pd.DataFrame(dense, columns=[f"c{j}" for j in range(36)])
    again.fit(frame, pd.Series(y), eval_set=(frame[:9], y[:9]))
    assert_array_equal(predictions(again, frame), expected)
    assert again.feature_names_in_.tolist() == list(frame)
    with pytest.raises(ValueError, match="same order as they were in fit"):
        again.predict(frame[frame.columns[::-1]])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        again.predict(dense)


# -- scikit-learn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", BOTH)
def test_clone_and_parameters(cls):
    groups = np.array([0, 1, 1])
    fm = cls(5, n_iter=7, groups=groups, callbacks=[print], random_state=np.random.default_rng(1))
    assert (is_regressor(fm), is_classifier(fm)) == (cls is BayesianFMRegressor, cls is BayesianFMClassifier)
    copied = clone(fm)
    assert copied.get_params().keys() == fm.get_params().keys() == cls().get_params().keys()
    assert_array_equal(copied.groups, groups)
    assert (copied.n_factors, copied.n_iter, copied.callbacks) == (5, 7, [print])
    assert "n_iter=7" in repr(fm)
    assert repr(cls()) == f"{cls.__name__}()"
    assert cls().set_params(n_kept_samples=3).n_kept_samples == 3
    with pytest.raises(ValueError, match="Invalid parameter 'max_iter'"):
        cls().set_params(max_iter=3)
    assert not hasattr(cls(), "partial_fit")


@pytest.mark.parametrize("cls", BOTH)
def test_grid_search(cls):
    planted = Planted(20, 15)
    X, score = planted.draw(800)
    y = targets(cls, score + 0.2 * planted.rng.normal(size=800))
    fm = cls(n_iter=60, n_burn_in=30, random_state=0)
    search = GridSearchCV(fm, {"n_factors": [0, 4]}, cv=2).fit(X, y)
    # The target holds products of two factors, which a linear model cannot learn.
    assert search.best_params_ == {"n_factors": 4}


@pytest.mark.parametrize(
    "copied", [lambda fm: pickle.loads(pickle.dumps(fm)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_copies_predict_and_train_alike(copied, n_classes, ratings):
    cls = BayesianFMClassifier if n_classes else BayesianFMRegressor
    X, y = ratings[0], targets(cls, ratings[1], n_classes)
    fm = small(cls, warm_start=True).fit(X, y)
    twin = copied(fm)
    assert twin.get_params() == fm.get_params()
    assert twin.history_ == fm.history_
    before = predictions(fm, X)
    assert_array_equal(predictions(twin, X), before)
    twin.fit(X, y)
    # The copy shares no memory with its original...
    assert_array_equal(predictions(fm, X), before)
    assert not np.array_equal(predictions(twin, X), before)
    # ... and goes on exactly as the original would.
    assert_array_equal(predictions(fm.fit(X, y), X), predictions(twin, X))


def test_attributes_of_what_is_not_fitted():
    for name in ("w0_", "w_", "groups_", "n_kept_samples_", "noise_std_"):
        with pytest.raises(ValueError, match=f"not fitted yet, so {name} is not available"):
            getattr(BayesianFMRegressor(), name)
    assert not hasattr(BayesianFMClassifier(), "noise_std_")
    assert not hasattr(BayesianFMClassifier(), "predict_interval")
    assert not hasattr(BayesianFMRegressor(), "V_")
