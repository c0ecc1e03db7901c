"""Bad settings get one clear sentence, and change nothing: constructor arguments, eval_set, scoring."""

from __future__ import annotations

import reprlib

import numpy as np
import pytest
from problems import STOCHASTIC
from refusal import CLASSES, GOOD_X, GOOD_Y, INF, NAN, NO_PAIRS, assert_refused, fitted, new, partial_fit

from fmfast import FMRegressor

# -- constructor arguments ---------------------------------------------------------------------

BAD_PARAMS = [
    *[("n_factors", value, "an integer from 0 to 65536") for value in (-1, 2.0, "4", None, True, 65537, NAN)],
    *[("solver", value, "expected") for value in ("adam", "", None, 3, ["sgd"])],
    *[("max_iter", value, "an integer >= 1") for value in (0, -5, 1.5, None, "10", False)],
    *[
        (name, value, "a finite number > 0, or None")
        for name in ("learning_rate",)
        for value in (0, 0.0, -0.1, NAN, INF, "auto", True, 1j, 10**400)
    ],
    *[
        (name, value, "a finite number >= 0, or None")
        for name in ("learning_rate_decay", "reg_w", "reg_V", "init_std")
        for value in (-1e-9, NAN, INF, "0", [0.1])
    ],
    *[
        (name, value, "a finite number >= 0")
        for name in ("tol", "l1_w")
        for value in (-0.1, NAN, INF, None, "small")
    ],
    *[
        (name, value, "True or False")
        for name in ("early_stopping", "warm_start")
        for value in (1, 0, "yes", None, np.array([True, False]))
    ],
    *[
        ("validation_fraction", value, "between 0 and 1")
        for value in (0, 1, 0.0, 1.0, -0.1, 2, NAN, None, "0.1")
    ],
    *[("n_iter_no_change", value, "an integer >= 1") for value in (0, 2.5, None)],
    *[("scoring", value, '"loss" or a callable') for value in ("auc", None, 3)],
    *[("n_jobs", value, "number of threads") for value in (0, 1.0, "2", True, 10**6)],
    *[("random_state", value, "an integer >= 0") for value in (-1, 1.0, "seed", 2**63, True, [1])],
    *[("callbacks", value, "a list of callables") for value in (print, [1], "f", [print, None])],
    *[("encoder", value, "None or a FeatureEncoder") for value in ("one-hot", True, [], FMRegressor)],
    *[("verbose", value, "a bool or an integer >= 0") for value in (-1, 0.5, "yes", None)],
    *[("dtype", value, '"float32" or "float64"') for value in ("float16", "int32", None, int, 32, ">f4")],
]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("name", "value", "expected"), BAD_PARAMS)
def test_bad_parameter(name, value, expected, cls):
    y = GOOD_Y[cls]
    # The constructor only stores it.
    for fm in (new(cls), fitted(cls), fitted(cls, warm_start=True)):
        fm.set_params(**{name: value})
        words = [f"The parameter {name} of {cls.__name__} is {reprlib.repr(value)}", expected]
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, y), [fm], *words)
        assert_refused(lambda fm=fm: partial_fit(fm, GOOD_X, y), [fm], *words)
        if name == "n_jobs" and hasattr(fm, "model_"):
            assert_refused(lambda fm=fm: fm.predict(GOOD_X), [fm], *words)


def test_every_parameter_has_a_bad_value():
    assert {name for name, _, _ in BAD_PARAMS} == set(FMRegressor().get_params())


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(
    ("solver", "name", "value", "users"),
    [
        ("als", "learning_rate", 0.1, STOCHASTIC),
        ("als", "learning_rate_decay", 0.0, STOCHASTIC),
        *[(solver, "l1_w", 0.1, ["ftrl"]) for solver in ("als", "sgd", "adagrad")],
    ],
)
def test_parameter_that_the_solver_does_not_know(solver, name, value, users, cls):
    y = GOOD_Y[cls]
    for fm in (new(cls, solver=solver), fitted(cls, solver=solver), fitted(cls, warm_start=True)):
        fm.set_params(**{"solver": solver, name: value})
        words = [f"The parameter {name} of {cls.__name__} is {value} with solver={solver!r}"]
        words += [repr(user) for user in users]
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, y), [fm], *words)
        if solver in STOCHASTIC:
            assert_refused(lambda fm=fm: partial_fit(fm, GOOD_X, y), [fm], *words)
        # Leaving it out, as the message says, is all that is needed.
        unset = type(fm)().get_params()[name]
        fm.set_params(**{name: unset, "warm_start": False}).fit(GOOD_X, y)


@pytest.mark.parametrize("cls", CLASSES)
def test_least_squares_has_no_partial_fit(cls):
    """It would forget all batches but the last."""
    fm = fitted(cls, solver="als")
    assert not hasattr(fm, "partial_fit")
    assert hasattr(fm.set_params(solver="sgd"), "partial_fit")
    fm = fitted(cls).set_params(solver="als")
    words = [f"This {cls.__name__} has no partial_fit with solver='als'", "use another solver, or fit"]
    assert_refused(lambda: partial_fit(fm, GOOD_X, GOOD_Y[cls]), [fm], *words, error=AttributeError)


def test_unknown_parameter():
    fm = fitted(FMRegressor)
    assert_refused(
        lambda: fm.set_params(n_factors=2, k=3),
        [fm],
        "Invalid parameter 'k'",
        "expected one of n_factors, solver",
    )
    with pytest.raises(TypeError, match="unexpected keyword argument 'k'"):
        FMRegressor(k=3)


@pytest.mark.parametrize(
    ("changed", "came", "expected"),
    [
        ({"n_factors": 7}, "n_factors is now 7", "n_factors=3"),
        ({"dtype": "float64"}, "dtype is now float64", "dtype=float32"),
        ({"solver": "sgd"}, "solver is now 'sgd'", "solver='adagrad'"),
    ],
)
@pytest.mark.parametrize("cls", CLASSES)
def test_settings_that_a_model_cannot_continue_with(changed, came, expected, cls):
    fm = fitted(cls, warm_start=True).set_params(**changed)
    y = GOOD_Y[cls]
    assert_refused(lambda: fm.fit(GOOD_X, y), [fm], "warm_start=True", came, expected, "set it back")
    assert_refused(lambda: partial_fit(fm, GOOD_X, y), [fm], "partial_fit", came, expected, "set it back")


# -- eval_set, scoring -------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("eval_set", "came"), NO_PAIRS)
def test_eval_set_is_no_pair(eval_set, came, cls):
    for fm in (new(cls), fitted(cls)):
        assert_refused(
            lambda fm=fm: fm.fit(GOOD_X, GOOD_Y[cls], eval_set=eval_set),
            [fm, eval_set],
            f"eval_set is {came}",
            "expected a pair (X, y)",
        )


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("fraction", "n"), [(0.01, 0), (0.99, 12)])
def test_too_few_samples_for_early_stopping(fraction, n, cls):
    fm = fitted(cls).set_params(early_stopping=True, validation_fraction=fraction)
    assert_refused(
        lambda: fm.fit(GOOD_X, GOOD_Y[cls]), [fm], f"sets {n} of 12 samples apart", f"{fraction}", "eval_set"
    )


def nan_score(y, prediction):
    return NAN


def no_score(y, prediction):
    return None


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize(("scoring", "came"), [(nan_score, "nan"), (no_score, "None")])
def test_scoring_that_returns_no_number(scoring, came, cls):
    for fm in (new(cls, scoring=scoring), fitted(cls, warm_start=True).set_params(scoring=scoring)):
        fm.set_params(random_state=3)  # a generator would have been asked for the seed by then
        assert_refused(
            lambda fm=fm: fm.fit(GOOD_X, GOOD_Y[cls], eval_set=(GOOD_X, GOOD_Y[cls])),
            [fm],
            f"scoring function returned {came}",
            "expected a number",
        )
