"""What the tests of bad input share: sound data, and what it means that a call is refused."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import scipy.sparse as sp

from fmfast import FMClassifier, FMRegressor

N_SAMPLES, N_FEATURES = 12, 6
rng = np.random.default_rng(0)
DENSE = rng.normal(size=(N_SAMPLES, N_FEATURES)) * (rng.random((N_SAMPLES, N_FEATURES)) < 0.6)
GOOD_X = sp.csr_array(DENSE.astype(np.float32))
GOOD_Y = {FMRegressor: rng.normal(size=N_SAMPLES), FMClassifier: np.arange(N_SAMPLES) % 2}
CLASSES = [FMRegressor, FMClassifier]
NAN, INF = float("nan"), float("inf")
CODES, ONES = GOOD_Y[FMClassifier], np.ones(N_SAMPLES)
# What is given for eval_set, and what the error calls it.
NO_PAIRS = [
    (GOOD_X, "a csr_array,"),
    (5, "a int,"),
    ((GOOD_X,), "a tuple of length 1"),
    ((GOOD_X, CODES, ONES), "a tuple of length 3"),
    ([], "a list of length 0"),
    ({"X": GOOD_X, "y": CODES}, "a dict,"),
]


def state_of(*things):
    """All bytes of some objects; of estimators also which objects they hold."""
    held = [
        {name: id(value) for name, value in vars(thing).items()} for thing in things if hasattr(thing, "fit")
    ]
    return [pickle.dumps(thing) for thing in things], held


def assert_one_sentence(message, *words):
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert "\n" not in message
    assert message.endswith("."), message
    assert not re.search(r"[.!?] [A-Z]", message), message
    assert len(message) < 400, message


def assert_refused(call, untouched, *words, error=ValueError):
    """`call` raises exactly this error, in one sentence that holds these words, and changes nothing."""
    before = state_of(*untouched)
    with pytest.raises(error) as caught:
        call()
    assert_one_sentence(str(caught.value), *words)
    assert state_of(*untouched) == before


def new(cls, **params):
    # A generator shows whether a refused call has drawn random numbers.
    return cls(n_factors=3, max_iter=2, random_state=np.random.default_rng(5), **params)


def fitted(cls, **params):
    return new(cls, **params).fit(GOOD_X, GOOD_Y[cls])


def partial_fit(fm, X, y, **more):
    if isinstance(fm, FMClassifier):
        more = {"classes": [0, 1], **more}
    return fm.partial_fit(X, y, **more)


def every_way_in(cls, X, y):
    """(name, estimator, call) for every method that takes X."""
    for name, fm in (("new", new(cls)), ("fitted", fitted(cls)), ("warm", fitted(cls, warm_start=True))):
        yield f"fit, {name}", fm, lambda fm=fm: fm.fit(X, y)
        yield f"partial_fit, {name}", fm, lambda fm=fm: partial_fit(fm, X, y)
        yield f"eval_set, {name}", fm, lambda fm=fm: fm.fit(GOOD_X, GOOD_Y[cls], eval_set=(X, y))
    fm = fitted(cls)
    yield "score", fm, lambda: fm.score(X, y)
    for method in ("predict", "predict_proba", "decision_function"):
        if hasattr(fm, method):
            yield method, fm, lambda method=method: getattr(fm, method)(X)


def replaced(array, position, value):
    """A copy of an array with one value replaced."""
    array = np.array(array)
    array[position] = value
    return array
