"""Training that diverges raises DivergenceError and changes nothing; what is fitted is always finite."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse as sp
from refusal import CLASSES, assert_refused, partial_fit

from fmfast import DivergenceError, FMClassifier, FMRegressor

rng = np.random.default_rng(0)
ROWS = sp.random_array((300, 20), density=0.3, rng=1, dtype=np.float32, format="csr")
TARGETS = {FMRegressor: rng.normal(size=300), FMClassifier: rng.integers(0, 2, 300)}


def assert_diverges(call, untouched, *words):
    assert_refused(
        call, untouched, "diverged in epoch", "smaller learning_rate", *words, error=DivergenceError
    )


def test_kind_of_error():
    assert issubclass(DivergenceError, FloatingPointError)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("learning_rate", [1e5, 1e20, 1e300])
@pytest.mark.parametrize(
    "params", [{}, {"early_stopping": True}, {"dtype": "float64"}, {"n_jobs": 2}, {"n_factors": 70}], ids=str
)
def test_divergence_of_a_new_model(cls, learning_rate, params):
    fm = cls(solver="sgd", learning_rate=learning_rate, random_state=0, max_iter=100, **params)
    words = [
        f"learning_rate (it was {learning_rate:g})",
        f"largest |x| is {ROWS.data.max():g}",
        "solver 'sgd'",
    ]
    y = TARGETS[cls]
    assert_diverges(lambda: fm.fit(ROWS, y), [fm, ROWS, y], *words)
    assert not hasattr(fm, "model_")
    # A model that is there already stays.
    fm.set_params(learning_rate=0.01, max_iter=3, n_jobs=1).fit(ROWS, y)
    fm.set_params(learning_rate=learning_rate, max_iter=100)
    assert_diverges(lambda: fm.fit(ROWS, y), [fm, ROWS, y], *words)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("learning_rate", [1e5, 1e20, 1e300])
def test_divergence_of_a_model_that_goes_on(cls, learning_rate):
    """Parameters, solver state and the count of epochs are put back: training goes on as if it had not."""
    sound = {"solver": "sgd", "learning_rate": 0.01, "random_state": 0}
    y = TARGETS[cls]
    fm = cls(max_iter=3, warm_start=True, **sound).fit(ROWS, y)

    fm.set_params(learning_rate=learning_rate, max_iter=100)
    assert_diverges(lambda: fm.fit(ROWS, y), [fm, ROWS, y], f"(it was {learning_rate:g})")
    # Of a batch, only the rows of the table that it touches are kept and put back.
    batch, batch_y = ROWS[:9, :], y[:9]
    batch.data[:] = 1e30
    assert len(np.unique(batch.indices)) < ROWS.shape[1]
    assert_diverges(lambda: partial_fit(fm, batch, batch_y), [fm, batch], "epoch 4 ", "largest |x| is 1e+30")

    fm.set_params(learning_rate=0.01, max_iter=2).fit(ROWS, y)
    straight = cls(max_iter=5, **sound).fit(ROWS, y)
    assert np.array_equal(fm.V_, straight.V_)
    assert np.array_equal(fm.w_, straight.w_)
    assert fm.w0_ == straight.w0_
    assert [record["epoch"] for record in fm.history_] == [1, 2, 3, 4, 5]


def test_divergence_of_a_linear_model():
    fm = FMRegressor(n_factors=0, solver="sgd", learning_rate=10.0, random_state=0)
    assert_diverges(lambda: fm.fit(ROWS, TARGETS[FMRegressor]), [fm], "(it was 10) ")


@pytest.mark.parametrize("learning_rate", [0.5, 1.0, 2.0])
def test_epoch_of_the_divergence(learning_rate):
    """It is counted from the first epoch of the model, also when epochs come one by one."""
    y = TARGETS[FMRegressor]
    at_once = FMRegressor(solver="sgd", learning_rate=learning_rate, random_state=0, max_iter=100)
    with pytest.raises(DivergenceError) as error:
        at_once.fit(ROWS, y)
    n_sound = int(re.search(r"in epoch (\d+) ", str(error.value))[1]) - 1
    one_by_one = FMRegressor(solver="sgd", learning_rate=learning_rate, random_state=0)
    for _ in range(n_sound):
        one_by_one.partial_fit(ROWS, y)
    assert_diverges(lambda: one_by_one.partial_fit(ROWS, y), [one_by_one], f"epoch {n_sound + 1} ")


@pytest.mark.parametrize("solver", ["sgd", "adagrad"])
@pytest.mark.parametrize("cls", CLASSES)
def test_divergence_by_huge_values(cls, solver):
    X = ROWS.copy()
    X.data[7] = 3e38
    y = TARGETS[cls]
    fm = cls(solver=solver, random_state=0)
    assert_diverges(lambda: fm.fit(X, y), [fm, X, y], "epoch 1 ", "largest |x| is 3e+38", "scale the columns")
    fm.fit(ROWS, y)
    assert_diverges(lambda: partial_fit(fm, X, y), [fm, X, y], "epoch 11 ", "largest |x| is 3e+38")


@pytest.mark.parametrize("solver", ["sgd", "adagrad"])
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("learning_rate", 10.0 ** np.arange(-1, 39, 3))
def test_what_is_fitted_is_finite(cls, solver, learning_rate):
    """Whatever one epoch does: an error, or finite parameters and finite scores of the training data."""
    fm = cls(solver=solver, learning_rate=learning_rate, random_state=0)
    for n_samples in (1, 2, 300):
        try:
            partial_fit(fm, ROWS[:n_samples], TARGETS[cls][:n_samples])
        except FloatingPointError:
            continue
        assert np.isfinite(fm.w0_)
        assert np.isfinite(fm.w_).all()
        assert np.isfinite(fm.V_).all()
        scores = fm.predict(ROWS) if cls is FMRegressor else fm.decision_function(ROWS)
        assert np.isfinite(scores[:n_samples]).all()
