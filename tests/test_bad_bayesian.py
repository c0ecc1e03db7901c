"""Bayesian machines: bad settings and data get one clear sentence, and change nothing."""

from __future__ import annotations

import reprlib

import numpy as np
import pytest
import scipy.sparse as sp
from refusal import CODES, GOOD_X, INF, N_SAMPLES, NAN, NO_PAIRS, ONES, assert_refused, replaced

from fmfast import BayesianFMClassifier, BayesianFMRegressor, DivergenceError

BOTH = [BayesianFMRegressor, BayesianFMClassifier]
rng = np.random.default_rng(1)
GOOD_Y = {BayesianFMRegressor: rng.normal(size=N_SAMPLES), BayesianFMClassifier: np.arange(N_SAMPLES) % 2}
both = pytest.mark.parametrize("cls", BOTH)


def new(cls, **params):
    # A generator shows whether a refused call has drawn random numbers.
    settings = {"n_factors": 2, "n_iter": 6, "n_burn_in": 2, "random_state": np.random.default_rng(5)}
    return cls(**(settings | params))


def fitted(cls, **params):
    return new(cls, **params).fit(GOOD_X, GOOD_Y[cls])


def every_state(cls, **params):
    return new(cls, **params), fitted(cls, **params), fitted(cls, warm_start=True, **params)


# -- constructor arguments ---------------------------------------------------------------------------

BAD_PARAMS = [
    *[("n_factors", value, "an integer from 0 to 65536") for value in (-1, 2.0, "4", None, True)],
    *[("n_iter", value, "an integer >= 1") for value in (0, -3, 1.5, None, "10", True)],
    *[("n_burn_in", value, "an integer >= 0") for value in (-1, 0.0, None, NAN, False)],
    *[("n_kept_samples", value, "an integer >= 1") for value in (0, -1, 2.0, None, INF)],
    *[("init_std", value, "a finite number >= 0, or None") for value in (-0.1, NAN, INF, "0")],
    *[("n_jobs", value, "number of threads") for value in (0, 1.0, "2")],
    *[("random_state", value, "an integer >= 0") for value in (-1, 1.0, "seed", 2**63)],
    *[("warm_start", value, "True or False") for value in (1, None)],
    *[("callbacks", value, "a list of callables") for value in (print, [1])],
    *[("verbose", value, "a bool or an integer >= 0") for value in (-1, "yes")],
    *[("dtype", value, '"float32" or "float64"') for value in ("float16", None, int)],
]


@both
@pytest.mark.parametrize(("name", "value", "expected"), BAD_PARAMS)
def test_bad_parameter(name, value, expected, cls):
    for fm in (new(cls), fitted(cls), fitted(cls, warm_start=True)):
        fm.set_params(**{name: value})
        words = [f"The parameter {name} of {cls.__name__} is {reprlib.repr(value)}", expected]
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, GOOD_Y[cls]), [fm], *words)
        if name == "n_jobs" and hasattr(fm, "model_"):
            assert_refused(lambda fm=fm: fm.predict(GOOD_X), [fm], *words)


def test_every_parameter_has_a_bad_value():
    names = {name for name, _, _ in BAD_PARAMS} | {"groups", "encoder"}  # the encoder has tests of its own
    assert names >= set(BayesianFMRegressor().get_params()) == set(BayesianFMClassifier().get_params())


@both
@pytest.mark.parametrize("init_std", [1e-200, 1e-160, 1e200, 1e300])
def test_absurd_starting_values_are_refused_or_sampled_from(init_std, cls):
    for fm in (new(cls), fitted(cls)):
        fm.set_params(init_std=init_std, random_state=1)
        try:
            fm.fit(GOOD_X, GOOD_Y[cls])
        except (ValueError, DivergenceError):
            pass
        else:
            assert np.isfinite(fm.predict(GOOD_X).astype(float)).all()


@both
@pytest.mark.parametrize(("n_iter", "n_burn_in"), [(5, 5), (5, 9), (1, 1)])
def test_no_iteration_after_the_burn_in(n_iter, n_burn_in, cls):
    words = [f"n_iter={n_iter} with n_burn_in={n_burn_in}", "expected n_iter > n_burn_in", "raise n_iter"]
    for fm in (new(cls), fitted(cls), new(cls, warm_start=True)):
        fm.set_params(n_iter=n_iter, n_burn_in=n_burn_in)
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, GOOD_Y[cls]), [fm], *words)
    # A chain that has passed it can go on.
    fm = fitted(cls, warm_start=True).set_params(n_iter=n_iter, n_burn_in=n_burn_in)
    fm.fit(GOOD_X, GOOD_Y[cls])


BAD_GROUPS = {
    "too few": (np.zeros(5, int), "groups has shape (5,), expected (6,)"),
    "too many": ([0] * 7, "groups has shape (7,), expected (6,)"),
    "none": ([], "groups has shape (0,), expected (6,)"),
    "a number": (3, "groups has shape (), expected (6,)"),
    "a table": (np.zeros((6, 1), int), "groups has shape (6, 1), expected (6,)"),
    "fractions": ([0, 0, 0.5, 1, 1, 1], "fractions or NaN, expected whole numbers"),
    "NaN": ([0, 0, NAN, 1, 1, 1], "fractions or NaN, expected whole numbers"),
    "infinity": ([0, 0, INF, 1, 1, 1], "expected whole numbers"),
    "missing": ([0, 0, None, 1, 1, 1], "expected whole numbers"),
    "names": (["user"] * 3 + ["item"] * 3, "expected numbers"),
    "a name": ("fields", "expected numbers"),
    "complex": (np.zeros(6, complex), "expected real numbers"),
    "sparse": (sp.csr_array(np.ones((1, 6))), "expected a dense array"),
}


@both
@pytest.mark.parametrize(("groups", "expected"), BAD_GROUPS.values(), ids=BAD_GROUPS)
def test_bad_groups(groups, expected, cls):
    for fm in every_state(cls):
        fm.set_params(groups=groups)
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, GOOD_Y[cls]), [fm], "groups", expected)


@both
def test_groups_of_another_kind(cls):
    for fm in every_state(cls):
        fm.set_params(groups={})
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, GOOD_Y[cls]), [fm], "groups", error=TypeError)


# -- warm_start ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"n_factors": 7}, ["n_factors is now 7", "n_factors=2", "set it back"]),
        ({"dtype": "float64"}, ["dtype is now float64", "dtype=float32", "set it back"]),
        ({"groups": [0, 0, 0, 0, 0, 1]}, ["other groups", "set them back"]),
    ],
)
def test_settings_that_a_chain_cannot_continue_with(changed, words, cls):
    fm = fitted(cls, groups=[0, 0, 0, 1, 1, 1], warm_start=True).set_params(**changed)
    assert_refused(lambda: fm.fit(GOOD_X, GOOD_Y[cls]), [fm], "warm_start=True", *words)
    # Without warm_start it is just another fit.
    fm.set_params(warm_start=False).fit(GOOD_X, GOOD_Y[cls])


@both
def test_data_that_a_chain_cannot_continue_with(cls):
    fm, y = fitted(cls, warm_start=True), GOOD_Y[cls]
    assert_refused(lambda: fm.fit(GOOD_X[:, :5], y), [fm], "X has 5 features", "expecting 6 features")
    wider = sp.csr_array(np.ones((N_SAMPLES, 7)))
    assert_refused(lambda: fm.fit(wider, y), [fm], "X has 7 features", "expecting 6 features")
    if cls is BayesianFMClassifier:
        assert_refused(lambda: fm.fit(GOOD_X, y + 1), [fm], "unknown label 2")


# -- X, y, weights, eval_set -----------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("value", "word"), [(NAN, "NaN"), (INF, "infinity"), (1e39, "too large")])
def test_bad_numbers_in_X(value, word, cls):
    bad = replaced(GOOD_X.toarray().astype(float), (2, 3), value)
    y = GOOD_Y[cls]
    for fm in every_state(cls):
        assert_refused(lambda fm=fm: fm.fit(bad, y), [fm], "X", word)
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, y, eval_set=(bad, y)), [fm], "X of eval_set", word)
    for method in ("predict", "predict_interval", "predict_proba", "decision_function"):
        if hasattr(fm, method):
            assert_refused(lambda method=method: getattr(fm, method)(bad), [fm], "X", word)
            assert_refused(lambda method=method: getattr(fm, method)(GOOD_X[:, :5]), [fm], "X has 5 features")


@both
def test_bad_targets(cls):
    y = GOOD_Y[cls]
    for fm in every_state(cls):
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, None), [fm], "requires y")
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, y[:-1]), [fm], "11 values for 12 rows")
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, np.ones((12, 2))), [fm], "1d array")
        assert_refused(
            lambda fm=fm: fm.fit(GOOD_X, replaced(y.astype(float), 4, NAN)), [fm], "y contains NaN"
        )


@pytest.mark.parametrize("value", [INF, -INF, 1e19])
def test_numbers_too_large_for_a_regression(value):
    for fm in every_state(BayesianFMRegressor):
        bad = replaced(GOOD_Y[BayesianFMRegressor], 4, value)
        assert_refused(lambda fm=fm, bad=bad: fm.fit(GOOD_X, bad), [fm], "y", "at position 4")


def test_bad_labels():
    mixed = np.array([1, "a"] * 6, dtype=object)
    for fm in every_state(BayesianFMClassifier):
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, CODES + 0.5), [fm], "continuous")
        if not fm.warm_start:
            assert_refused(lambda fm=fm: fm.fit(GOOD_X, 0 * CODES), [fm], "only one class")
            assert_refused(lambda fm=fm: fm.fit(GOOD_X, mixed), [fm], "cannot be sorted", error=TypeError)
    with pytest.raises(TypeError, match="sample_weight"):
        new(BayesianFMClassifier).fit(GOOD_X, CODES, sample_weight=ONES)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (-ONES, ["negative value -1"]),
        (0 * ONES, ["zero for every sample"]),
        (replaced(ONES, 3, NAN), ["sample_weight contains NaN"]),
        (ONES[:-1], ["sample_weight has 11 values for 12 rows"]),
        (np.ones((12, 1)), ["sample_weight has shape (12, 1)"]),
    ],
)
def test_bad_sample_weight(weight, words):
    y = GOOD_Y[BayesianFMRegressor]
    for fm in every_state(BayesianFMRegressor):
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, y, sample_weight=weight), [fm], *words)


@both
@pytest.mark.parametrize(("eval_set", "came"), NO_PAIRS)
def test_eval_set_is_no_pair(eval_set, came, cls):
    for fm in every_state(cls):
        assert_refused(
            lambda fm=fm: fm.fit(GOOD_X, GOOD_Y[cls], eval_set=eval_set),
            [fm],
            f"eval_set is {came}",
            "expected a pair (X, y)",
        )


@both
def test_eval_set_that_does_not_fit(cls):
    y = GOOD_Y[cls]
    for fm in every_state(cls):
        call = lambda X, target, fm=fm: fm.fit(GOOD_X, y, eval_set=(X, target))  # noqa: E731
        assert_refused(lambda call=call: call(GOOD_X[:, :5], y), [fm], "X of eval_set", "5 features")
        assert_refused(lambda call=call: call(GOOD_X, y[:-1]), [fm], "y of eval_set", "11 values for 12 rows")
        bad = replaced(y.astype(float), 4, NAN)
        assert_refused(lambda call=call, bad=bad: call(GOOD_X, bad), [fm], "y of eval_set", "NaN")
        if cls is BayesianFMClassifier:
            words = ["y of eval_set", "the unknown label 2"]
            assert_refused(lambda call=call, words=words: call(GOOD_X, y + 1), [fm], *words)


# -- methods of what is fitted ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "coverage",
    [0, 1, 0.0, 1.0, -0.1, 1.5, NAN, INF, True, "a", "0.9", None, [0.5], np.array([0.5, 0.9]), 1j],
    ids=repr,
)
def test_bad_coverage(coverage):
    fm = fitted(BayesianFMRegressor)
    before = fm.predict(GOOD_X)
    try:
        assert_refused(
            lambda: fm.predict_interval(GOOD_X, coverage=coverage), [fm], "coverage is ", "between 0 and 1"
        )
    finally:
        assert (fm.predict(GOOD_X) == before).all()


@both
def test_methods_need_a_fit(cls):
    fm = new(cls)
    for method in ("predict", "predict_interval", "predict_proba", "decision_function"):
        if hasattr(fm, method):
            with pytest.raises(
                ValueError, match=f"not fitted yet, so {method} is not available; call fit first"
            ):
                getattr(fm, method)(GOOD_X)
    with pytest.raises(ValueError, match="not fitted yet, so save is not available"):
        fm.save("never")


# -- divergence ------------------------------------------------------------------------------------------


def numbers_of(fm, X):
    if isinstance(fm, BayesianFMRegressor):
        return np.stack([*fm.predict(X, return_std=True), *fm.predict_interval(X)])
    return np.stack(fm.predict_proba(X, return_std=True))


@both
@pytest.mark.parametrize("size", [1e5, 1e10, 1e15, 1e20, 1e30])
@pytest.mark.parametrize("where", ["everywhere", "one column", "one value"])
@pytest.mark.parametrize("n_factors", [0, 2])
def test_huge_values_diverge_or_give_numbers(size, where, n_factors, cls):
    X = GOOD_X.toarray().astype(float)
    if where == "everywhere":
        X *= size
    else:
        X[:, 1 if where == "one column" else 2] *= size if where == "one column" else 1.0
        X[0, 0] = size if where == "one value" else X[0, 0]
    for fm in every_state(cls, n_factors=n_factors):
        fm.set_params(n_iter=40, random_state=3)
        before = None if not hasattr(fm, "model_") else numbers_of(fm, GOOD_X)
        history = list(getattr(fm, "history_", []))
        try:
            fm.fit(X, GOOD_Y[cls])
        except DivergenceError as error:
            message = str(error)
            assert message.endswith("scale the columns of X to about 1.")
            assert f"{np.abs(X).max():g}"[:4] in message
            assert getattr(fm, "history_", []) == history
            assert (before is None) == (not hasattr(fm, "model_"))
            if before is not None:
                assert (numbers_of(fm, GOOD_X) == before).all()
        else:
            assert np.isfinite(numbers_of(fm, X)).all()
            losses = [record["loss"] for record in fm.history_]
            assert np.isfinite(losses).all()


@both
def test_divergence_changes_nothing(cls):
    X = 1e20 * GOOD_X
    for fm in every_state(cls):
        fm.set_params(random_state=3)
        assert_refused(
            lambda fm=fm: fm.fit(X, GOOD_Y[cls]), [fm], "The Markov chain diverged in iteration",
            "nothing was changed", "scale the columns of X", error=DivergenceError,
        )  # fmt: skip
