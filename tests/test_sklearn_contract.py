"""The estimators among scikit-learn's tools: its own checks, clone, pipelines, searches, pickles."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import sklearn.exceptions
from numpy.testing import assert_array_equal
from problems import STOCHASTIC, train_on
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

import fmfast
from fmfast import FMClassifier, FMRegressor
from fmfast.solvers import SOLVERS

ESTIMATORS = [cls(solver=solver) for cls in (FMRegressor, FMClassifier) for solver in SOLVERS]
ESTIMATORS += [cls(solver="als", dtype="float64") for cls in (FMRegressor, FMClassifier)]


def expected_failures(estimator):
    """Weights are as good as repetitions where all samples count at once, up to rounding."""
    if estimator.solver in STOCHASTIC:
        why = "a stochastic solver visits a repeated sample twice, but a sample of weight 2 once"
    elif estimator.dtype == "float32":
        why = "equal up to the rounding of float32, where the check wants more"
    else:
        return {}
    return {f"check_sample_weight_equivalence_on_{kind}_data": why for kind in ("dense", "sparse")}


with warnings.catch_warnings():
    # The estimators have no base class of scikit-learn: fmfast does not depend on it.
    warnings.filterwarnings("ignore", "Estimator FM.* does not inherit from", UserWarning)

    @parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures, xfail_strict=True)
    def test_check_of_scikit_learn(estimator, check):
        check(estimator)


@pytest.fixture(scope="module")
def ratings():
    """(users and items, rating, whether it is high): strings, as a table of ratings holds them."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 20, 600), rng.integers(0, 15, 600)
    taste, style = rng.normal(size=(20, 2)), rng.normal(size=(15, 2))
    rating = 3.0 + (taste[user] * style[item]).sum(axis=1) + 0.1 * rng.normal(size=600)
    table = np.stack([np.char.add("u", user.astype(str)), np.char.add("i", item.astype(str))], axis=1)
    return table, rating, np.where(rating > 3.0, "high", "low")


def encoded(ratings):
    table, rating, high = ratings
    return OneHotEncoder(dtype=np.float32).fit_transform(table), rating, high


def small(cls, **params):
    return cls(n_factors=4, max_iter=20, random_state=0, **params)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_clone(estimator):
    estimator = clone(estimator)
    estimator.set_params(n_factors=3, callbacks=[print], scoring=max, random_state=np.random.default_rng(1))
    copied = clone(estimator)
    assert type(copied) is type(estimator)
    for name, value in estimator.get_params().items():
        if name == "random_state":  # cloned deeply
            assert copied.random_state.random() == value.random()
        else:
            assert getattr(copied, name) == value


def test_kind_of_estimator():
    assert is_regressor(FMRegressor())
    assert not is_classifier(FMRegressor())
    assert is_classifier(FMClassifier())
    assert not is_regressor(FMClassifier())


def test_exceptions_and_warnings_are_those_of_scikit_learn(ratings):
    X, y, _ = encoded(ratings)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        FMRegressor().predict(X)
    with pytest.raises(sklearn.exceptions.NotFittedError):
        check_is_fitted(FMRegressor())
    with pytest.warns(sklearn.exceptions.DataConversionWarning) as caught:
        fm = small(FMRegressor).fit(X, y[:, None])
    assert caught[0].filename == __file__
    check_is_fitted(fm)


def test_pipeline_learns_from_strings(ratings):
    table, rating, high = ratings
    pipeline = make_pipeline(OneHotEncoder(handle_unknown="ignore"), small(FMRegressor, reg_V=0.0))
    pipeline.fit(table[:450], rating[:450])
    assert pipeline.score(table[450:], rating[450:]) > 0.9
    # The pipeline adds nothing to the estimator.
    encoder = OneHotEncoder(handle_unknown="ignore").fit(table[:450])
    alone = small(FMRegressor, reg_V=0.0).fit(encoder.transform(table[:450]), rating[:450])
    assert_array_equal(pipeline.predict(table), alone.predict(encoder.transform(table)))

    pipeline = make_pipeline(OneHotEncoder(handle_unknown="ignore"), small(FMClassifier))
    pipeline.fit(table[:450], high[:450])
    assert pipeline.score(table[450:], high[450:]) > 0.8
    assert set(pipeline.predict(table)) == {"high", "low"}


def test_grid_search_finds_the_better_setting(ratings):
    table, rating, high = ratings
    pipeline = Pipeline([("encode", OneHotEncoder(handle_unknown="ignore")), ("fm", small(FMRegressor))])
    search = GridSearchCV(pipeline, {"fm__n_factors": [0, 2], "fm__reg_V": [0.0, 100.0]}, cv=3)
    search.fit(table, rating)
    # The ratings are products of two factors: a linear model, or one held at zero, cannot learn them.
    assert search.best_params_ == {"fm__n_factors": 2, "fm__reg_V": 0.0}
    assert search.best_score_ > 0.8
    assert search.cv_results_["mean_test_score"][0] < 0.5

    for scoring in ("roc_auc", "neg_log_loss", "accuracy"):
        search = GridSearchCV(
            pipeline.set_params(fm=small(FMClassifier)), {"fm__n_factors": [0, 2]}, scoring=scoring
        )
        assert search.fit(table, high).best_params_ == {"fm__n_factors": 2}


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_cross_val_score(estimator, ratings):
    X, rating, high = encoded(ratings)
    y = high if is_classifier(estimator) else rating
    estimator = clone(estimator).set_params(random_state=0, n_factors=4, max_iter=60)
    if estimator.solver in STOCHASTIC:
        # They stop long before the optimum; exact least squares would learn the noise by heart.
        estimator.set_params(reg_V=0.0)
    if estimator.solver == "sgd":
        estimator.set_params(learning_rate=0.1, init_std=0.1)  # 400 samples are few for the default
    scores = cross_val_score(estimator, X, y, cv=3)
    assert scores.min() > (0.8 if is_classifier(estimator) else 0.7)
    half = X.shape[0] // 2
    by_hand = clone(estimator).fit(X[:half], y[:half]).score(X[half:], y[half:])
    given_splits = cross_val_score(estimator, X, y, cv=[(np.arange(half), np.arange(half, X.shape[0]))])
    assert given_splits == [by_hand]


def test_sample_weight_goes_through_a_search(ratings):
    X, rating, _ = encoded(ratings)
    weight = np.random.default_rng(0).uniform(0.1, 2.0, len(rating))
    search = GridSearchCV(small(FMRegressor), {"n_factors": [4]}, cv=3).fit(X, rating, sample_weight=weight)
    weighted = small(FMRegressor).fit(X, rating, sample_weight=weight)
    assert_array_equal(search.predict(X), weighted.predict(X))
    assert not np.array_equal(search.predict(X), small(FMRegressor).fit(X, rating).predict(X))


def test_meta_estimators(ratings):
    X, rating, high = encoded(ratings)
    transformed = TransformedTargetRegressor(small(FMRegressor), func=np.negative, inverse_func=np.negative)
    assert transformed.fit(X, rating).score(X, rating) > 0.7
    three = np.where(rating > 4, "great", high)
    one_vs_rest = OneVsRestClassifier(small(FMClassifier)).fit(X, three)
    assert one_vs_rest.score(X, three) > 0.8


@pytest.mark.parametrize(
    "copied", [lambda fm: pickle.loads(pickle.dumps(fm)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
@pytest.mark.parametrize("labels", [None, 2, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_copies_predict_and_train_alike(copied, labels, solver, ratings):
    X, rating, _ = encoded(ratings)
    if labels is None:
        fm, y = small(FMRegressor, solver=solver), rating
    else:
        fm, y = small(FMClassifier, solver=solver), np.digitize(rating, [3, 4][: labels - 1])
    fm.fit(X, y)
    twin = copied(fm)
    assert twin.get_params() == fm.get_params()
    assert twin.history_ == fm.history_
    assert_array_equal(twin.predict(X), fm.predict(X))
    assert_array_equal(twin.V_, fm.V_)

    before = fm.predict(X)
    train_on(twin, X, y)
    # The copy shares no memory with its original...
    assert_array_equal(fm.predict(X), before)
    assert not np.array_equal(twin.V_, fm.V_)
    # ... and goes on exactly as the original would.
    train_on(fm, X, y)
    assert_array_equal(twin.V_, fm.V_)
    assert_array_equal(twin.w_, fm.w_)
    assert_array_equal(twin.w0_, fm.w0_)


def test_feature_names_of_a_data_frame():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame({"a": [1, 0, 1, 0], "b": [0.0, 1.0, 1.0, 0.0]})
    fm = FMRegressor(random_state=0).fit(X, [1, 2, 3, 0])
    assert fm.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="same order as they were in fit"):
        fm.predict(X[["b", "a"]])
    with pytest.raises(ValueError, match="unseen at fit time:\n- c\n"):
        fm.predict(X.rename(columns={"b": "c"}))
    with pytest.raises(ValueError, match="yet now missing:\n- b\n"):
        fm.predict(X[["a"]])
    with pytest.warns(UserWarning, match="X does not have valid feature names") as caught:
        without_names = fm.predict(X.to_numpy())
    assert caught[0].filename == __file__
    assert_array_equal(without_names, fm.predict(X))
    # A sparse matrix cannot have names, and so is no cause for a warning.
    assert_array_equal(fm.predict(sp.csr_array(X.to_numpy())), without_names)
    for bad in (X[["b", "a"]], X.rename(columns={"b": "c"})):
        with pytest.raises(ValueError, match="The feature names should match"):
            FMRegressor().fit(X, [1, 2, 3, 0], eval_set=(bad, [1, 2, 3, 0]))
        with pytest.raises(ValueError, match="The feature names should match"):
            fm.partial_fit(bad, [1, 2, 3, 0])
    with pytest.raises(TypeError, match="names of several types"):
        fm.fit(X.rename(columns={"b": 1}), [1, 2, 3, 0])
    # A fit without names forgets them.
    fm.fit(X.to_numpy(), [1, 2, 3, 0])
    assert not hasattr(fm, "feature_names_in_")
    with pytest.warns(UserWarning, match="X has feature names, but FMRegressor was fitted without"):
        fm.predict(X)


def test_version_is_that_of_the_package():
    from importlib.metadata import version

    assert fmfast.__version__ == version("fmfast")
