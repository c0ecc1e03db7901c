"""Alternating least squares: exact, monotone, the same for any number of threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from problems import CASES, IDS, one_hot, planted, quantile_classes

import fmfast
from fmfast import DivergenceError, FMClassifier, FMRegressor
from fmfast.solvers import sweep
from fmfast.table import ParameterTable

N_SAMPLES, N_FEATURES = 120, 10
rng = np.random.default_rng(0)
X = np.where(rng.random((N_SAMPLES, N_FEATURES)) < 0.4, rng.normal(size=(N_SAMPLES, N_FEATURES)), 0.0)
X[:, 7] = 0.0  # a column without samples
W, V = rng.normal(size=N_FEATURES), rng.normal(size=(N_FEATURES, 2))
Y = 40.0 + 3.0 * (reference.score_of_pairs(X, 0.0, W, V) + 0.5 * rng.normal(size=N_SAMPLES))
WEIGHT = rng.integers(0, 4, N_SAMPLES).astype(float)
REPEATED = np.repeat(np.arange(N_SAMPLES), WEIGHT.astype(int))
REG = {"reg_w": 0.05, "reg_V": 0.02}


def als(cls, **params):
    return cls(**{"n_factors": 4, "solver": "als", "dtype": "float64", "random_state": 0, **params})


def labels(n_classes):
    return quantile_classes(Y, n_classes)


def raw(fm, X=X):
    return fm.predict(X) if isinstance(fm, FMRegressor) else fm.decision_function(X)


def table_targets(fm, y):
    """(n_outputs, n_samples) targets as the solver has them."""
    if isinstance(fm, FMRegressor):
        return ((y - fm.model_.offset) / fm.model_.scale)[None]
    classes = fm.classes_[1:] if len(fm.classes_) == 2 else fm.classes_
    return np.stack([(y == label).astype(float) for label in classes])


def objective_of(fm, y, weight=None):
    """The documented objective in solver units: sum_i c_i [loss_i + penalties of the row's columns]."""
    weight = np.ones(len(y)) if weight is None else weight
    table, loss = fm.model_.table, "squared" if isinstance(fm, FMRegressor) else "logistic"
    counts = weight @ (X != 0)
    total = 0.0
    for output, target in enumerate(table_targets(fm, y)):
        w, V = table.w[output].astype(float), table.V[output].astype(float)
        score = reference.score_of_pairs(X, table.w0[output], w, V)
        total += weight @ reference.loss_value(loss, score, target)
        total += 0.5 * counts @ (fm.reg_w * w**2 + fm.reg_V * (V**2).sum(axis=1))
    return total


def gradient_of(fm, y, weight):
    """Largest element of the gradient of that objective."""
    table, loss = fm.model_.table, "squared" if isinstance(fm, FMRegressor) else "logistic"
    largest = 0.0
    for output, target in enumerate(table_targets(fm, y)):
        parameters = table.w0[output], table.w[output], table.V[output]
        terms = [
            reference.objective_gradient(x, x != 0, t, c, *parameters, loss=loss, **REG)
            for x, t, c in zip(X, target, weight, strict=True)
        ]
        largest = max(largest, *(np.abs(sum(part)).max() for part in zip(*terms, strict=True)))
    return largest


# -- least squares -----------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_without_factors_it_is_ridge_regression(weighted):
    """The penalty of a column counts once per sample that has it; that the solver standardises means nothing.

    In the units of the target both terms of the objective grow with the square of the scale.
    """
    c = WEIGHT if weighted else np.ones(N_SAMPLES)
    fm = als(FMRegressor, n_factors=0, max_iter=1000, reg_w=0.05).fit(X, Y, c if weighted else None)
    mean_x, mean_y = c @ X / c.sum(), c @ Y / c.sum()
    centred = X - mean_x
    counts = c @ (X != 0)
    A = (centred.T * c) @ centred + np.diag(0.05 * counts)
    used = counts > 0
    w = np.zeros(N_FEATURES)
    w[used] = np.linalg.solve(A[np.ix_(used, used)], ((centred.T * c) @ (Y - mean_y))[used])
    assert_allclose(fm.w_, w, rtol=0, atol=1e-8 * np.abs(w).max())
    assert fm.w0_ == pytest.approx(mean_y - mean_x @ w, rel=1e-8)
    assert fm.n_iter_ < 1000


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_factors", [0, 1, 8, 11])
def test_epochs_of_a_slow_twin(cls, n_classes, n_factors, weighted, monkeypatch):
    monkeypatch.setattr(sweep, "_PART_ROWS", 50)  # sums are added up over several parts
    y, c = labels(n_classes), WEIGHT if weighted else np.ones(N_SAMPLES)
    fm = als(cls, n_factors=n_factors, max_iter=3, init_std=0.3, **REG).fit(
        X, y, WEIGHT if weighted else None
    )
    found, n_outputs = fm.model_.table, len(fm.model_.table.rows)
    start = ParameterTable(n_outputs, N_FEATURES, n_factors, 0, np.float64)
    start.initialize(0.3, 0, np.empty(0), np.zeros(2))
    for output, target in enumerate(table_targets(fm, y)):
        w0, w, V = 0.0, np.zeros(N_FEATURES), start.V[output].copy()
        V[c @ (X != 0) == 0] = 0.0
        loss = "squared" if cls is FMRegressor else "logistic"
        for _ in range(3):
            w0 = reference.least_squares_epoch(loss, X, target, c, w0, w, V, **REG)
        assert_allclose(found.w0[output], w0, rtol=0, atol=1e-9)
        assert_allclose(found.w[output], w, rtol=0, atol=1e-9)
        assert_allclose(found.V[output], V, rtol=0, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_targets_are_standardised(weighted):
    c = WEIGHT if weighted else np.ones(N_SAMPLES)
    model = als(FMRegressor, max_iter=1).fit(X, Y, WEIGHT if weighted else None).model_
    assert model.offset == pytest.approx(np.average(Y, weights=c))
    assert model.scale == pytest.approx(np.sqrt(np.cov(Y, aweights=c, ddof=0)))


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("init_std", [None, 1.0])
@pytest.mark.parametrize("reg", [REG, {"reg_w": 0.0, "reg_V": 0.0}], ids=["penalty", "none"])
def test_no_epoch_increases_the_objective(cls, n_classes, init_std, reg):
    y, weight = labels(n_classes), WEIGHT + 0.25
    fm = als(cls, max_iter=1, warm_start=True, init_std=init_std, **reg)
    objectives = [objective_of(fm.fit(X, y, weight), y, weight) for _ in range(25)]
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(objectives))
    assert objectives[-1] < objectives[0]
    # The loss that is reported is the one after the epoch.
    score = raw(fm).reshape(N_SAMPLES, -1).T
    if cls is FMRegressor:
        losses = (score - y) ** 2
    else:
        losses = reference.loss_value("logistic", score, table_targets(fm, y))
    expected = np.average(losses.sum(axis=0), weights=weight)
    assert fm.history_[-1]["loss"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_the_gradient_vanishes_where_it_converges(cls, n_classes, weighted):
    y, weight = labels(n_classes), WEIGHT if weighted else np.ones(N_SAMPLES)
    fm = als(cls, max_iter=3000, **REG).fit(X, y, weight if weighted else None)
    early = als(cls, max_iter=3, **REG).fit(X, y, weight if weighted else None)
    assert fm.n_iter_ < 3000
    assert gradient_of(fm, y, weight) < 2e-5
    assert gradient_of(early, y, weight) > 1e-2
    assert np.abs(fm.V_).max() > 0.1  # not the stationary point without factors


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_both_dtypes_find_the_same_optimum(cls, n_classes):
    y = labels(n_classes)
    single, double = (
        als(cls, max_iter=200, dtype=dtype, **REG).fit(X, y) for dtype in ("float32", "float64")
    )
    assert single.V_.dtype == np.float32
    assert objective_of(single, y) == pytest.approx(objective_of(double, y), rel=1e-5)
    # What they predict: numbers in units of the target, or probabilities.
    if cls is FMRegressor:
        assert_allclose(single.predict(X), double.predict(X), rtol=0, atol=1e-3 * Y.std())
    else:
        assert_allclose(single.predict_proba(X), double.predict_proba(X), rtol=0, atol=1e-3)


# -- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_integer_weights_are_repetitions(cls, n_classes):
    """Zero among them: such samples might as well not be there."""
    y = labels(n_classes)
    weighted = als(cls).fit(X, y, WEIGHT)
    repeated = als(cls).fit(X[REPEATED], y[REPEATED])
    assert_allclose(raw(weighted), raw(repeated), rtol=0, atol=1e-7 * raw(repeated).std())
    losses = [record["loss"] for record in repeated.history_]
    assert_allclose([record["loss"] for record in weighted.history_], losses, rtol=1e-7)
    assert np.abs(raw(als(cls).fit(X, y)) - raw(repeated)).max() > 1e-2 * raw(repeated).std()


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_unit_of_the_weights_means_nothing(cls, n_classes, dtype):
    y = labels(n_classes)
    plain = als(cls, dtype=dtype).fit(X, y, WEIGHT)
    for unit in (1e30, 1e-30):
        scaled = als(cls, dtype=dtype).fit(X, y, unit * WEIGHT)
        assert_allclose(
            raw(scaled), raw(plain), rtol=0, atol=(1e-3 if dtype == "float32" else 1e-7) * raw(plain).std()
        )
        losses = [record["loss"] for record in plain.history_]
        assert_allclose(
            [record["loss"] for record in scaled.history_], losses, rtol=1e-4 if dtype == "float32" else 1e-7
        )


# -- the loop ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_stops_by_tol(cls, n_classes):
    """After the first epoch that lowers the objective by no more than this part of it."""
    y = labels(n_classes)
    whole = als(cls, max_iter=1, warm_start=True, **REG)
    objectives = [objective_of(whole.fit(X, y), y) for _ in range(120)]
    gains = -np.diff(objectives) / objectives[:-1]
    n_iters = []
    for tol in (1e-1, 1e-3, 1e-5):
        fm = als(cls, max_iter=300, tol=tol, **REG).fit(X, y)
        assert fm.n_iter_ == 2 + np.argmax(gains <= tol)
        assert [record["epoch"] for record in fm.history_] == list(range(1, fm.n_iter_ + 1))
        n_iters.append(fm.n_iter_)
    assert n_iters == sorted(set(n_iters))


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_a_warm_start_goes_on(cls, n_classes):
    """Up to rounding: a fit computes its residuals anew."""
    y = labels(n_classes)
    whole = als(cls, max_iter=20).fit(X, y)
    parts = als(cls, max_iter=10, warm_start=True).fit(X, y)
    assert np.abs(raw(parts) - raw(whole)).max() > 1e-6 * raw(whole).std()
    parts.fit(X, y)
    assert_allclose(raw(parts), raw(whole), rtol=0, atol=1e-8 * raw(whole).std())
    assert [record["epoch"] for record in parts.history_] == list(range(1, 21))
    losses = [record["loss"] for record in whole.history_]
    assert_allclose([record["loss"] for record in parts.history_], losses, rtol=1e-9)


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_a_model_from_a_file_goes_on(cls, n_classes, tmp_path):
    y = labels(n_classes)
    fm = als(cls, max_iter=3, warm_start=True).fit(X, y)
    fm.save(tmp_path / "model.npz")
    loaded = fmfast.load(tmp_path / "model.npz")
    assert loaded.get_params() == fm.get_params()
    assert_array_equal(raw(loaded), raw(fm))
    assert_array_equal(raw(loaded.fit(X, y)), raw(fm.fit(X, y)))
    assert loaded.n_iter_ == 3
    assert [record["epoch"] for record in loaded.history_] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_columns_without_samples_mean_nothing(cls, n_classes):
    """Also those whose samples all have weight 0, and until a warm start brings samples."""
    y = labels(n_classes)
    weight = np.where(X[:, 2] != 0, 0.0, 1.0)
    fm = als(cls, warm_start=True).fit(X, y, weight)
    for j in (2, 7):
        assert (fm.w_[..., j] == 0).all()
        assert (fm.V_[..., j, :] == 0).all()
    unseen = X.copy()
    unseen[:, [2, 7]] = 0.0
    assert_array_equal(raw(fm, np.where(np.arange(N_FEATURES) == 7, 5.0, unseen)), raw(fm, unseen))
    fm.fit(X, y)
    assert (fm.w_[..., 2] != 0).all()
    assert (fm.V_[..., 2, :] != 0).any()
    assert (fm.V_[..., 7, :] == 0).all()


def test_early_stopping_keeps_the_best_epoch():
    """With next to no penalty, it learns the noise by heart after a while."""
    X, y = planted(600, noise=3.0)
    X_valid, y_valid = planted(300, seed=1)
    settings = {"n_factors": 16, "reg_w": 0.0, "reg_V": 0.01}
    fm = als(FMRegressor, max_iter=60, early_stopping=True, **settings)
    fm.fit(X, y, eval_set=(X_valid, y_valid))
    scores = [record["validation_score"] for record in fm.history_]
    best = int(np.argmax(scores)) + 1
    assert best > 1
    assert fm.n_iter_ == best + fm.n_iter_no_change < 60
    assert -np.mean((fm.predict(X_valid) - y_valid) ** 2) == pytest.approx(max(scores), rel=1e-10)
    short = als(FMRegressor, max_iter=best, **settings).fit(X, y)
    assert_array_equal(fm.V_, short.V_)


def test_callbacks_stop_it():
    seen = []
    fm = als(FMRegressor, callbacks=[lambda record: seen.append(record) or record["epoch"] == 3]).fit(X, Y)
    assert fm.n_iter_ == 3
    assert seen == fm.history_


# -- threads -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large():
    """Enough rows and values for several parts of either; all three fields are split."""
    rng = np.random.default_rng(1)
    fields = [rng.integers(0, size, 150_000) for size in (50, 30)]
    X = sp.hstack(
        [
            one_hot(*fields),
            sp.csr_array((np.ones(150_000, "float32"), rng.integers(0, 9_000, 150_000), np.arange(150_001))),
        ]
    )
    y = rng.normal(size=50)[fields[0]] * rng.normal(size=30)[fields[1]] + rng.normal(size=150_000)
    return sp.csr_array(X), y


@pytest.mark.parametrize(
    ("cls", "n_classes"), [(FMRegressor, None), (FMClassifier, 2)], ids=["regressor", "classifier"]
)
def test_threads_change_no_byte(cls, n_classes, large):
    X, y = large
    y = quantile_classes(y, n_classes)
    weight = np.random.default_rng(2).uniform(0.5, 1.5, len(y))

    def fit(**params):
        fm = als(cls, n_factors=8, max_iter=2, dtype="float32", **params).fit(X, y, weight)
        return fm.model_.table.rows.tobytes() + fm.model_.table.bias.tobytes(), [
            record["loss"] for record in fm.history_
        ]

    one = fit(n_jobs=1)
    assert fit(n_jobs=2) == one
    assert fit(n_jobs=3) == one
    assert fit(random_state=1, n_jobs=2) != one


# -- failure -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reg", [{}, {"reg_w": 0.0, "reg_V": 0.0}], ids=["penalty", "none"])
@pytest.mark.parametrize("size", [1e5, 1e10, 1e20, 1e35])
@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_huge_values_diverge_or_give_finite_numbers(cls, n_classes, size, reg, dtype):
    """An error that changes nothing, or a model whose parameters and training scores are finite."""
    y = labels(n_classes)
    fm = als(cls, dtype=dtype, **reg).fit(X, y)
    for huge in (size * X, np.where(np.arange(N_FEATURES) == 3, size * X, X)):
        before = dict(vars(fm)), fm.model_.table.rows.tobytes(), fm.model_.table.bias.tobytes()
        try:
            fm.fit(huge, y)
        except DivergenceError:
            assert (dict(vars(fm)), fm.model_.table.rows.tobytes(), fm.model_.table.bias.tobytes()) == before
        else:
            assert np.isfinite(fm.V_).all()
            assert np.isfinite(fm.w_).all()
            assert np.isfinite(raw(fm, huge)).all()
            assert np.isfinite([record["loss"] for record in fm.history_]).all()


def test_divergence_says_what_helps():
    """Also to a model that goes on, which is put back as it was."""
    fm = als(FMRegressor, dtype="float32", max_iter=3, warm_start=True).fit(X, Y)
    state = [fm.model_.table.rows.copy(), fm.model_.table.bias.copy(), fm.model_.training.n_epochs]
    with pytest.raises(DivergenceError, match=r"'als' diverged in epoch 4 .* use a larger reg_w and reg_V"):
        fm.fit(1e35 * X, Y)
    assert_array_equal(fm.model_.table.rows, state[0])
    assert_array_equal(fm.model_.table.bias, state[1])
    assert fm.model_.training.n_epochs == state[2] == 3


@pytest.mark.parametrize("size", [1e-90, 1e30, 1e90])
def test_the_size_of_the_target_means_nothing(size):
    plain, sized = (als(FMRegressor).fit(X, y).predict(X) for y in (Y, size * Y))
    assert_allclose(sized / size, plain, rtol=1e-9)
