"""What the estimators do beyond the mathematics: reproducible, continuable, fair to weights and units."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from problems import CASES, IDS, STOCHASTIC, planted, quantile_classes
from sklearn.metrics import accuracy_score, r2_score

from fmfast import FMClassifier, FMRegressor
from fmfast.solvers import SOLVERS

X, Y = planted(1500, noise=0.1)
X_TEST, Y_TEST = planted(600, seed=1)


def labels(y, n_classes):
    return quantile_classes(y, n_classes, of=Y)


def assert_same_model(first, second):
    """Parameters, solver state and the count of epochs agree to the bit."""
    assert_array_equal(first.model_.table.rows, second.model_.table.rows)
    assert_array_equal(first.model_.table.bias, second.model_.table.bias)
    assert first.model_.training == second.model_.training


def differ(first, second):
    return not np.array_equal(first.V_, second.V_)


# -- reproducible ------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_seed_determines_every_byte(cls, n_classes, solver):
    y = labels(Y, n_classes)
    fm = cls(solver=solver, max_iter=3, random_state=7).fit(X, y)
    assert_same_model(cls(solver=solver, max_iter=3, random_state=7, n_jobs=1).fit(X, y), fm)
    assert differ(cls(solver=solver, max_iter=3, random_state=8).fit(X, y), fm)
    assert differ(cls(solver=solver, max_iter=3).fit(X, y), cls(solver=solver, max_iter=3).fit(X, y))
    # A second fit starts anew.
    assert_same_model(fm.fit(X_TEST, labels(Y_TEST, n_classes)).fit(X, y), cls(**fm.get_params()).fit(X, y))


def test_generators_as_seeds():
    for make in (np.random.default_rng, np.random.RandomState):
        first, second = (FMRegressor(max_iter=2, random_state=make(3)) for _ in range(2))
        assert_same_model(first.fit(X, Y), second.fit(X, Y))
        # A generator goes on, so that a second fit is another one, and again the same for both.
        V = first.V_
        assert not np.array_equal(first.fit(X, Y).V_, V)
        assert_same_model(first, second.fit(X, Y))
    assert_same_model(
        FMRegressor(max_iter=2, random_state=np.int64(5)).fit(X, Y),
        FMRegressor(max_iter=2, random_state=5).fit(X, Y),
    )


def test_another_process_gives_the_same_bytes():
    script = """if True:
        import hashlib, numpy as np, scipy.sparse as sp, sys
        import fmfast
        rng = np.random.default_rng(0)
        X = sp.random_array((500, 50), density=0.1, rng=rng, format="csr")
        digest = hashlib.sha256()
        for fm in (fmfast.FMRegressor(random_state=1), fmfast.FMClassifier(random_state=1)):
            y = rng.normal(size=500)
            fm.fit(X, y if isinstance(fm, fmfast.FMRegressor) else y > 0)
            digest.update(fm.V_.tobytes() + fm.w_.tobytes() + repr(fm.w0_).encode() + fm.predict(X).tobytes())
        print(digest.hexdigest())
    """
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 65


# -- continuable -------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("solver", STOCHASTIC)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fit_in_parts_equals_one_fit(cls, n_classes, solver, dtype):
    """To the bit; test_als.py has the same up to rounding, as residuals are computed anew by every fit."""
    y = labels(Y, n_classes)
    settings = {"solver": solver, "dtype": dtype, "random_state": 0}
    whole = cls(max_iter=6, **settings).fit(X, y)

    warm = cls(max_iter=2, warm_start=True, **settings).fit(X, y).fit(X, y)
    assert differ(warm, whole)
    warm.set_params(max_iter=2).fit(X, y)
    assert_same_model(warm, whole)
    assert warm.n_iter_ == 2

    batches = cls(max_iter=99, **settings)
    for _ in range(6):
        if n_classes is None:
            batches.partial_fit(X, y)
        else:
            batches.partial_fit(X, y, classes=np.arange(n_classes))
    assert_same_model(batches, whole)
    assert batches.n_iter_ == 1

    mixed = cls(max_iter=4, **settings).fit(X, y).partial_fit(X, y).partial_fit(X, y)
    assert_same_model(mixed, whole)

    losses = [record["loss"] for record in whole.history_]
    for fm in (warm, batches, mixed):
        assert [record["loss"] for record in fm.history_] == losses
        assert [record["epoch"] for record in fm.history_] == [1, 2, 3, 4, 5, 6]
        assert_array_equal(fm.predict(X_TEST), whole.predict(X_TEST))

    # Without warm_start, a fit begins anew.
    assert_same_model(mixed.set_params(max_iter=6).fit(X, y), whole)


def test_partial_fit_learns_from_a_stream():
    fm = FMRegressor(random_state=0)
    for start in range(0, 60_000, 1000):
        fm.partial_fit(*planted(1000, seed=start))
    assert fm.score(X_TEST, Y_TEST) > 0.9
    fm = FMClassifier(random_state=0)
    for start in range(0, 60_000, 1000):
        X_batch, y_batch = planted(1000, seed=start)
        fm.partial_fit(X_batch, labels(y_batch, 2), classes=[1, 0])
    assert fm.score(X_TEST, labels(Y_TEST, 2)) > 0.9


def test_partial_fit_takes_batches_of_one_class():
    fm = FMClassifier(random_state=0, max_iter=1)
    y = labels(Y, 2)
    for _ in range(5):
        for code in (0, 1):
            fm.partial_fit(X[y == code], y[y == code], classes=[0, 1])
    assert fm.classes_.tolist() == [0, 1]
    assert fm.history_[-1]["epoch"] == 10


# -- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_recovers_a_planted_model(solver):
    """One-hot data of a planted machine: the pairs are learned, which no linear model can do."""
    X, y = planted(20_000, noise=0.1)
    settings = {"solver": solver, "max_iter": 60, "reg_w": 1e-4, "reg_V": 1e-4, "random_state": 0}
    assert FMRegressor(n_factors=2, **settings).fit(X, y).score(X_TEST, Y_TEST) > 0.98
    assert FMRegressor(n_factors=0, **settings).fit(X, y).score(X_TEST, Y_TEST) < 0.7


def test_published_parameters_are_the_model():
    """score = w0 + <w, x> + sum of pairs, in the units of the target."""
    for n_factors in (0, 1, 5, 16):
        for cls, n_classes in CASES:
            fm = cls(n_factors=n_factors, max_iter=3, random_state=0).fit(
                X, 100.0 * labels(Y, n_classes) // 1
            )
            n_outputs = 1 if n_classes in (None, 2) else n_classes
            w0, w = np.reshape(fm.w0_, n_outputs), np.reshape(fm.w_, (n_outputs, -1))
            V = np.reshape(fm.V_, (n_outputs, X.shape[1], n_factors)).astype(float)
            scores = [
                w0[c] + X_TEST @ w[c] + 0.5 * ((X_TEST @ V[c]) ** 2 - X_TEST**2 @ V[c] ** 2).sum(axis=1)
                for c in range(n_outputs)
            ]
            expected = scores[0] if n_outputs == 1 else np.stack(scores, axis=1)
            raw = fm.predict(X_TEST) if cls is FMRegressor else fm.decision_function(X_TEST)
            assert_allclose(raw, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_shapes_and_dtypes_of_what_is_published():
    n = X.shape[1]
    for dtype in ("float32", "float64"):
        fm = FMRegressor(n_factors=3, max_iter=1, dtype=dtype).fit(X, Y)
        assert (fm.V_.shape, fm.w_.shape) == ((n, 3), (n,))
        assert fm.V_.dtype == fm.w_.dtype == dtype
        assert type(fm.w0_) is float
        assert fm.predict(X).dtype == np.float64
        fm = FMClassifier(n_factors=3, max_iter=1, dtype=dtype).fit(X, labels(Y, 4))
        assert (fm.V_.shape, fm.w_.shape, fm.w0_.shape) == ((4, n, 3), (4, n), (4,))
        assert fm.V_.dtype == fm.w_.dtype == dtype
    assert fm.n_features_in_ == n
    assert fm.n_iter_ == 1


# -- classes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_probabilities(n_classes):
    y = labels(Y, n_classes)
    fm = FMClassifier(random_state=0).fit(X, y)
    p, raw = fm.predict_proba(X_TEST), fm.decision_function(X_TEST)
    assert p.shape == (600, n_classes)
    assert raw.shape == ((600,) if n_classes == 2 else (600, n_classes))
    assert ((p >= 0) & (p <= 1)).all()
    assert_allclose(p.sum(axis=1), 1.0, rtol=1e-12)
    assert_array_equal(p.argmax(axis=1), fm.predict(X_TEST))
    one_vs_rest = 1 / (1 + np.exp(-raw.reshape(600, -1)))
    if n_classes == 2:
        assert_allclose(p[:, 1], one_vs_rest[:, 0], rtol=1e-12)
    else:
        assert_allclose(p, one_vs_rest / one_vs_rest.sum(axis=1, keepdims=True), rtol=1e-10)
    assert fm.score(X_TEST, labels(Y_TEST, n_classes)) > 1.5 / n_classes


def test_probabilities_of_extreme_scores():
    """They stay finite and sum to 1 where exp would overflow, and where all classes are unlikely."""
    for n_classes in (2, 3):
        fm = FMClassifier(n_factors=0, random_state=0).fit(np.eye(n_classes), np.arange(n_classes))
        for size in (1e3, 1e5, 1e8, -1e3, -1e5):
            p = fm.predict_proba(np.full((1, n_classes), size))
            assert np.isfinite(p).all()
            assert p.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "names",
    [
        ["no", "yes"],
        [False, True],
        [-1, 1],
        [2.0, 5.0],
        [b"a", b"bc"],
        ["cat", "dog", "owl"],
        [10, 20, 30],
        np.array([2**62, 2**62 + 1]),
        np.array(["2020-01-01", "2021-01-01"], dtype="M8[D]"),
        np.array([("a",), ("b",)], dtype=[("f", "U1")])["f"],
    ],
    ids=str,
)
@pytest.mark.parametrize("container", ["array", "object array", "list", "series", "category"])
def test_labels_of_any_type(names, container):
    names = np.asarray(names)
    codes = labels(Y, len(names))
    y = names[codes]
    if container == "object array":
        y = y.astype(object)
    elif container == "list":
        y = y.tolist()
    elif container in ("series", "category"):
        pd = pytest.importorskip("pandas")
        y = pd.Series(y.tolist() if names.dtype.kind != "M" else y)
        y = y.astype("category") if container == "category" else y
    fm = FMClassifier(max_iter=5, random_state=0).fit(X, y)
    reference = FMClassifier(max_iter=5, random_state=0).fit(X, codes)
    assert_same_model(fm, reference)
    assert len(fm.classes_) == len(names)
    predicted = fm.predict(X_TEST)
    assert predicted.dtype == fm.classes_.dtype
    assert_array_equal(predicted, fm.classes_[reference.predict(X_TEST)])
    if container in ("array", "object array"):
        assert fm.classes_.dtype == y.dtype
        assert fm.classes_.tolist() == names.tolist()
    assert fm.score(X, y) == reference.score(X, codes)


def test_order_of_labels_and_classes_does_not_matter():
    y = labels(Y, 3)
    fm = FMClassifier(random_state=0).partial_fit(X, y, classes=[2, 0, 1, 0])
    assert fm.classes_.tolist() == [0, 1, 2]
    assert_same_model(fm, FMClassifier(random_state=0, max_iter=1).fit(X, y))


def test_classes_may_be_missing_from_a_batch():
    y = labels(Y, 2)
    fm = FMClassifier(random_state=0, max_iter=1).partial_fit(X, y, classes=[0, 1, 2])
    for _ in range(5):
        fm.partial_fit(X, y)
    assert fm.predict_proba(X).shape == (1500, 3)
    assert set(fm.predict(X)) == {0, 1}


# -- units of the target -----------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("a", "b"), [(1e-6, 0.0), (1e9, 0.0), (1.0, 1000.0), (0.01, -50.0)])
def test_unit_and_offset_of_the_target_do_not_matter(solver, a, b):
    settings = {"solver": solver, "random_state": 0, "dtype": "float64"}
    plain = FMRegressor(**settings).fit(X, Y)
    fm = FMRegressor(**settings).fit(X, a * Y + b)
    assert_allclose(fm.predict(X_TEST), a * plain.predict(X_TEST) + b, rtol=0, atol=1e-6 * a * Y.std())
    losses = [a * a * record["loss"] for record in plain.history_]
    assert_allclose([record["loss"] for record in fm.history_], losses, rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_doubling_the_target_doubles_every_prediction_to_the_bit(solver):
    settings = {"solver": solver, "random_state": 0, "max_iter": 3}
    plain, doubled = FMRegressor(**settings).fit(X, Y), FMRegressor(**settings).fit(X, 2 * Y)
    assert_array_equal(doubled.model_.table.rows, plain.model_.table.rows)
    assert_array_equal(doubled.predict(X_TEST), 2 * plain.predict(X_TEST))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("constant", [0.0, 5.0, -1e6, 1e-8])
def test_constant_target(solver, constant):
    fm = FMRegressor(solver=solver, random_state=0, max_iter=30).fit(X, np.full(1500, constant))
    assert_allclose(fm.predict(X_TEST), constant, rtol=0, atol=0.05)
    assert np.isfinite(fm.history_[-1]["loss"])
    assert fm.score(X, np.full(1500, constant)) <= 1.0


# -- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_of_weight_0_counts_for_nothing(cls, n_classes, solver):
    y = labels(Y, n_classes)
    weight = np.where(np.arange(1500) % 3 == 0, 0.0, 1.0)
    fm = cls(solver=solver, random_state=0).fit(X, y, sample_weight=weight)
    # Whatever its target is, to the bit.
    other = np.where(weight == 0, y[::-1], y)
    assert not np.array_equal(other, y)
    assert_same_model(cls(solver=solver, random_state=0).fit(X, other, sample_weight=weight), fm)
    assert differ(cls(solver=solver, random_state=0).fit(X, other), fm)
    # It is as good as absent from what is learned, but for the order of the visits.
    absent = cls(solver=solver, random_state=0).fit(X[weight > 0], y[weight > 0])
    y_test = labels(Y_TEST, n_classes)
    assert fm.score(X_TEST, y_test) == pytest.approx(absent.score(X_TEST, y_test), abs=0.05)


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_a_sample_of_weight_0_does_not_count_in_the_loss(cls, n_classes, solver):
    """The loss depends on the order of the visits only as far as steps are taken: here none are."""
    y = labels(Y, n_classes)
    weight = np.where(np.arange(1500) % 3 == 0, 0.0, 1.0)
    still = {"solver": solver, "random_state": 0, "max_iter": 1, "learning_rate": 1e-12}
    with_it = cls(**still).fit(X, y, sample_weight=weight).history_[0]["loss"]
    assert with_it == pytest.approx(cls(**still).fit(X[weight > 0], y[weight > 0]).history_[0]["loss"])


def test_weights_of_one_are_no_weights():
    fm = FMRegressor(random_state=0).fit(X, Y)
    for weight in (np.ones(1500), 1, np.ones(1500, dtype=bool), [1] * 1500):
        weighted = FMRegressor(random_state=0).fit(X, Y, sample_weight=weight)
        assert_allclose(weighted.predict(X), fm.predict(X), rtol=1e-5, atol=1e-5)
        assert_allclose(weighted.history_[-1]["loss"], fm.history_[-1]["loss"], rtol=1e-5)


def test_weight_is_a_factor_of_the_step():
    """Plain SGD with twice the weights takes the steps of twice the learning rate."""
    y = labels(Y, 2)
    fm = FMClassifier(solver="sgd", learning_rate=0.02, random_state=0).fit(X, y)
    weighted = FMClassifier(solver="sgd", learning_rate=0.01, random_state=0)
    assert_same_model(weighted.fit(X, y, sample_weight=np.full(1500, 2.0)), fm)


@pytest.mark.parametrize(("solver", "learning_rate"), [("adagrad", 0.2), ("sgd", 0.01), ("ftrl", 0.1)])
def test_integer_weights_are_as_good_as_repetitions(solver, learning_rate):
    """On the average over the orders of visits, and for a linear model, which has one optimum."""
    weight = 1 + 3 * (np.arange(1500) % 2)
    repeated = np.repeat(np.arange(1500), weight)
    settings = {"n_factors": 0, "solver": solver, "learning_rate": learning_rate, "max_iter": 50}
    settings["learning_rate_decay"] = 0.2 if solver == "sgd" else 0.0

    def mean_prediction(X, y, weight=None):
        fits = [
            FMRegressor(**settings, random_state=seed).fit(X, y, sample_weight=weight) for seed in range(8)
        ]
        return np.mean([fm.predict(X_TEST) for fm in fits], axis=0)

    twin = mean_prediction(X[repeated], Y[repeated])
    assert np.abs(mean_prediction(X, Y, weight) - twin).mean() < 0.015 * Y.std()
    assert np.abs(mean_prediction(X, Y) - twin).mean() > 0.06 * Y.std()


def test_score_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    weight = rng.uniform(size=600) * np.exp(Y_TEST - Y_TEST.max())
    fm = FMRegressor(random_state=0).fit(X, Y)
    assert fm.score(X_TEST, Y_TEST) == pytest.approx(r2_score(Y_TEST, fm.predict(X_TEST)))
    assert fm.score(X_TEST, Y_TEST, weight) == pytest.approx(
        r2_score(Y_TEST, fm.predict(X_TEST), sample_weight=weight)
    )
    y, y_test = labels(Y, 3), labels(Y_TEST, 3)
    fm = FMClassifier(random_state=0).fit(X, y)
    assert fm.score(X_TEST, y_test) == pytest.approx(accuracy_score(y_test, fm.predict(X_TEST)))
    assert fm.score(X_TEST, y_test, weight) == pytest.approx(
        accuracy_score(y_test, fm.predict(X_TEST), sample_weight=weight)
    )


# -- threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_threads(cls, n_classes):
    X, y = planted(20_000, noise=0.1)
    y, y_test = labels(y, n_classes), labels(Y_TEST, n_classes)
    one, two = (cls(random_state=0, n_jobs=n_jobs).fit(X, y) for n_jobs in (1, 2))
    assert two.history_[-1]["loss"] == pytest.approx(one.history_[-1]["loss"], rel=0.1)
    assert two.score(X_TEST, y_test) == pytest.approx(one.score(X_TEST, y_test), abs=0.03)
    # Prediction does not depend on the number of threads at all.
    expected = one.predict(X)
    raw = one.predict if n_classes is None else one.predict_proba
    expected_raw = raw(X)
    for n_jobs in (None, 2, 3, 7, -1, -100):
        one.set_params(n_jobs=n_jobs)
        assert_array_equal(one.predict(X), expected)
        assert_array_equal(raw(X), expected_raw)
        assert_array_equal(raw(X[:3]), expected_raw[:3])


# -- parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [FMRegressor, FMClassifier])
def test_get_and_set_params(cls):
    fm = cls(5, solver="sgd")
    params = fm.get_params()
    assert list(params) == list(inspect.signature(cls).parameters)
    assert params == {**cls().get_params(), "n_factors": 5, "solver": "sgd"}
    assert fm.get_params(deep=False) == params
    assert fm.set_params(n_factors=2, reg_V=0.5) is fm
    assert (fm.n_factors, fm.reg_V) == (2, 0.5)
    assert vars(cls(**params)) == params  # stored as they came, and nothing else


def test_repr():
    assert repr(FMRegressor()) == "FMRegressor()"
    assert repr(FMClassifier(n_factors=4, dtype="float64")) == "FMClassifier(n_factors=4, dtype='float64')"
    fm = FMRegressor(2, reg_w=0.25, warm_start=True).fit(X, Y)
    assert repr(eval(repr(fm))) == repr(fm)
    long = repr(FMRegressor(callbacks=[print] * 200))
    assert len(long) == 700
    assert long.endswith("...")


def test_fit_returns_the_estimator():
    for fm, y in ((FMRegressor(max_iter=1), Y), (FMClassifier(max_iter=1), labels(Y, 2))):
        assert fm.fit(X, y) is fm
        assert fm.partial_fit(X, y) is fm
