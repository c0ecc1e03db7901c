"""What must hold of factorization machines whatever the numbers, searched by hypothesis."""

from __future__ import annotations

import numpy as np
import reference
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from fmfast import FMClassifier, FMModel, FMRegressor
from fmfast.solvers.sgd import visiting_order
from fmfast.table import ParameterTable
from fmfast.validation import check_X

# The same examples in every run.
searched = settings(derandomize=True, database=None, deadline=None, max_examples=60)
searched_by_fitting = settings(searched, max_examples=25)

numbers = st.floats(-4.0, 4.0, allow_subnormal=False)
sparse_numbers = st.just(0.0) | numbers
# Sums of these are exact.
quarters = st.integers(-16, 16).map(lambda n: n / 4)
seeds = st.integers(0, 2**31 - 1)


@st.composite
def problems(draw, max_samples=6, max_features=7):
    """(X dense, (w0, w, V))."""
    n_samples, n_features = draw(st.integers(1, max_samples)), draw(st.integers(1, max_features))
    n_factors = draw(st.sampled_from([0, 1, 2, 3, 8, 9]))
    X = draw(hnp.arrays(np.float64, (n_samples, n_features), elements=sparse_numbers))
    w = draw(hnp.arrays(np.float64, n_features, elements=numbers))
    V = draw(hnp.arrays(np.float64, (n_features, n_factors), elements=numbers))
    return X, (draw(numbers), w, V)


def score(X, w0, w, V, n_threads=1):
    """Scores of a model with the given parameters."""
    table = ParameterTable(1, *V.shape, state_size=0, dtype=np.float64)
    table.rows[:] = 0.0
    table.w0[0], table.w[0], table.V[0] = w0, w, V
    return FMModel(table, "regression").score(check_X(X, dtype=np.dtype("float64")), n_threads)


def assert_equal_scores(actual, expected, X, params):
    """Equal up to rounding, which is relative to the terms that a score is the sum of."""
    error = np.abs(actual - expected)
    assert (error <= 1e-14 * reference.magnitude(X, *params)).all()


# ---------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------


@searched
@given(problems())
def test_scores_are_those_of_the_definition(problem):
    X, params = problem
    assert_equal_scores(score(X, *params), reference.score(X, *params), X, params)


@searched
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_columns_means_nothing(problem, random):
    X, (w0, w, V) = problem
    order = random.sample(range(X.shape[1]), X.shape[1])
    assert_equal_scores(score(X[:, order], w0, w[order], V[order]), score(X, w0, w, V), X, (w0, w, V))


@searched
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_means_nothing(problem, random):
    X, params = problem
    order = random.sample(range(len(X)), len(X))
    assert_array_equal(score(X[order], *params), score(X, *params)[order])


@searched
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_factors_means_nothing(problem, random):
    X, (w0, w, V) = problem
    order = random.sample(range(V.shape[1]), V.shape[1])
    assert_equal_scores(score(X, w0, w, V[:, order]), score(X, w0, w, V), X, (w0, w, V))


@searched
@given(problems())
def test_the_sign_of_a_factor_means_nothing(problem):
    X, (w0, w, V) = problem
    signs = np.where(np.arange(V.shape[1]) % 2 == 0, -1.0, 1.0)
    assert_array_equal(score(X, w0, w, V * signs), score(X, w0, w, V))


@searched
@given(problems(), st.data())
def test_the_unit_of_a_column_means_nothing(problem, data):
    """x_j c with w_j / c and v_j / c is the same model."""
    X, (w0, w, V) = problem
    c = data.draw(hnp.arrays(np.float64, X.shape[1], elements=st.floats(0.01, 100.0)))
    scaled = score(X * c, w0, w / c, V / c[:, None])
    assert_equal_scores(scaled, score(X, w0, w, V), X, (w0, w, V))


@searched
@given(problems())
def test_dense_and_sparse_score_alike(problem):
    X, params = problem
    expected = score(X, *params)
    for form in (sp.csr_array, sp.csr_matrix, sp.csc_array, sp.coo_array, sp.lil_array):
        assert_array_equal(score(form(X), *params), expected)


@searched
@given(problems(max_samples=40), st.integers(2, 9))
def test_threads_score_alike(problem, n_threads):
    X, params = problem
    assert_array_equal(score(X, *params, n_threads=n_threads), score(X, *params))


@searched
@given(problems())
def test_a_row_without_values_scores_w0(problem):
    X, (w0, w, V) = problem
    X = np.concatenate([np.zeros_like(X[:1]), X, np.zeros_like(X[:1])])
    assert_array_equal(score(X, w0, w, V)[[0, -1]], w0)


@searched
@given(problems())
def test_a_column_alone_is_linear(problem):
    """No pairs, so the factors do not show: a column does not meet itself."""
    X, (w0, w, V) = problem
    alone = np.where(np.arange(X.shape[1]) == X.shape[1] // 2, X, 0.0)
    assert_equal_scores(score(alone, w0, w, V), w0 + alone @ w, alone, (w0, w, V))


@searched
@given(problems(), st.data())
def test_duplicates_are_summed(problem, data):
    """In any order, with the parts of a value in any number."""
    X, params = problem
    n_samples, n_features = X.shape
    entries = data.draw(
        st.lists(st.tuples(st.integers(0, n_samples - 1), st.integers(0, n_features - 1), quarters))
    )
    summed = np.zeros(X.shape)
    for i, j, value in entries:
        summed[i, j] += value
    rows, columns, values = np.array(entries).reshape(-1, 3).T
    rows, columns = rows.astype(int), columns.astype(int)
    coo = sp.coo_array((values, (rows, columns)), shape=X.shape)
    order = np.argsort(rows, kind="stable")  # rows together, columns as they come
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_samples))])
    csr = sp.csr_array((values[order], columns[order], indptr), shape=X.shape)
    assert csr.nnz == len(entries)
    for form in (coo, csr):
        assert_array_equal(score(form, *params), score(summed, *params))
    assert csr.nnz == len(entries)  # summed on a copy


# ---------------------------------------------------------------------------------------------
# Other models as special cases
# ---------------------------------------------------------------------------------------------


@searched
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 4, 8]), seeds)
def test_one_hot_user_and_item_is_matrix_factorization(n_users, n_items, n_factors, seed):
    """score = w0 + w_u + w_i + <v_u, v_i>: biased matrix factorization (Rendle 2010, section V.A)."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, n_users, 20), rng.integers(0, n_items, 20)
    X = sp.hstack([sp.csr_array(np.eye(n_users)[users]), sp.csr_array(np.eye(n_items)[items])], format="csr")
    w0, w = rng.normal(), rng.normal(size=n_users + n_items)
    V = rng.normal(size=(n_users + n_items, n_factors))
    user_factors, item_factors = V[:n_users], V[n_users:]
    expected = w0 + w[:n_users][users] + w[n_users:][items]
    expected += (user_factors @ item_factors.T)[users, items]
    assert_allclose(score(X, w0, w, V), expected, rtol=1e-12, atol=1e-12)


def linear_model_by_sgd(X, y, weight, loss, seed, *, max_iter, learning_rate, learning_rate_decay, reg_w):
    """(w0, w) of a linear model, sample by sample in the documented order."""
    w0, w = 0.0, np.zeros(X.shape[1])
    for epoch in range(max_iter):
        rate = learning_rate / (1.0 + learning_rate_decay * epoch)
        order, run_length = visiting_order(len(X), np.count_nonzero(X), seed, epoch)
        assert run_length == 1  # so few rows that the order is that of the runs
        for i in order:
            x = X[i]
            gradient = weight[i] * float(reference.loss_derivative(loss, w0 + x @ w, y[i]))
            w0 -= rate * gradient
            w = w - rate * (gradient * x + weight[i] * reg_w * np.where(x != 0.0, w, 0.0))
    return w0, w


@st.composite
def linear_problems(draw):
    """(X, weights, settings, seed)"""
    n_samples, n_features = draw(st.integers(2, 50)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(seeds))
    X = np.where(rng.random((n_samples, n_features)) < 0.5, rng.normal(size=(n_samples, n_features)), 0.0)
    sgd = {
        "max_iter": draw(st.integers(1, 5)),
        "learning_rate": draw(st.floats(1e-3, 0.05)),
        "learning_rate_decay": draw(st.floats(0.0, 1.0)),
        "reg_w": draw(st.sampled_from([0.0, 0.1])),
    }
    return X, rng.uniform(0.1, 2.0, n_samples), sgd, draw(seeds)


@searched_by_fitting
@given(linear_problems())
def test_a_regressor_without_factors_is_a_linear_model(problem):
    X, weight, sgd, seed = problem
    y = 5.0 + 3.0 * X[:, 0] + np.cos(np.arange(len(X)))
    fm = FMRegressor(0, solver="sgd", random_state=seed, dtype="float64", **sgd).fit(X, y, weight)
    mean = np.average(y, weights=weight)
    scale = np.sqrt(np.average((y - mean) ** 2, weights=weight))
    w0, w = linear_model_by_sgd(X, (y - mean) / scale, weight, "squared", seed, **sgd)
    assert_allclose(fm.w0_, scale * w0 + mean, rtol=1e-9)
    assert_allclose(fm.w_, scale * w, rtol=1e-9, atol=1e-9)
    assert_allclose(fm.predict(X), fm.w0_ + X @ fm.w_, rtol=1e-12)


@searched_by_fitting
@given(linear_problems())
def test_a_classifier_without_factors_is_a_logistic_regression(problem):
    X, weight, sgd, seed = problem
    y = np.arange(len(X)) % 2
    fm = FMClassifier(0, solver="sgd", random_state=seed, dtype="float64", **sgd).fit(X, y, weight)
    w0, w = linear_model_by_sgd(X, y, weight, "logistic", seed, **sgd)
    assert_allclose(fm.w0_, w0, rtol=1e-9, atol=1e-12)
    assert_allclose(fm.w_, w, rtol=1e-9, atol=1e-12)
    assert_allclose(fm.predict_proba(X)[:, 1], 1.0 / (1.0 + np.exp(-(w0 + X @ w))), rtol=1e-9)


# ---------------------------------------------------------------------------------------------
# Fits
# ---------------------------------------------------------------------------------------------


@st.composite
def training_data(draw):
    """(X dense, of numbers whose sums are exact; y of two classes; an estimator to fit)"""
    n_samples, n_features = draw(st.integers(2, 20)), draw(st.integers(1, 6))
    X = draw(hnp.arrays(np.float64, (n_samples, n_features), elements=quarters))
    kind = draw(st.sampled_from([FMRegressor, FMClassifier]))
    solver = draw(st.sampled_from(["sgd", "adagrad", "als"]))
    estimator = kind(
        draw(st.sampled_from([0, 3, 8])),
        solver=solver,
        max_iter=2,
        learning_rate=None if solver == "als" else 1e-3,
        random_state=draw(seeds),
    )
    return X, np.arange(n_samples) % 2, estimator


def published(estimator):
    """The bytes of all that was learned."""
    return estimator.w0_, estimator.w_.tobytes(), estimator.V_.tobytes()


@searched_by_fitting
@given(training_data())
def test_dense_and_sparse_train_alike(problem):
    X, y, estimator = problem
    expected = published(estimator.fit(X, y))
    for form in (sp.csr_array, sp.csr_matrix, sp.csc_array, sp.coo_array):
        assert published(estimator.fit(form(X), y)) == expected


@searched_by_fitting
@given(training_data())
def test_duplicates_are_summed_in_training(problem):
    """Every value as three parts, far from each other."""
    X, y, estimator = problem
    whole = sp.coo_array(X)
    values = np.concatenate([whole.data * share for share in (0.25, 0.5, 0.25)])
    parts = sp.coo_array((values, (np.tile(whole.row, 3), np.tile(whole.col, 3))), shape=X.shape)
    assert parts.nnz == 3 * whole.nnz
    assert published(estimator.fit(parts, y)) == published(estimator.fit(X, y))


@searched_by_fitting
@given(training_data(), st.randoms(use_true_random=False))
def test_predictions_do_not_depend_on_the_other_rows(problem, random):
    X, y, estimator = problem
    estimator.fit(X, y)
    predict = estimator.predict if isinstance(estimator, FMRegressor) else estimator.decision_function
    expected = predict(X)
    order = random.sample(range(len(X)), len(X))
    assert_array_equal(predict(X[order]), expected[order])
    assert_array_equal([predict(x[None])[0] for x in X], expected)
