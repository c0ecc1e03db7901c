"""What FMRanker refuses, in one sentence, with the estimator and the data as they were."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from refusal import INF, NAN, assert_refused

from fmfast import Checkpoint, DivergenceError, FMRanker

N_CONTEXTS, N_ITEMS = 12, 9
rng = np.random.default_rng(0)
GOOD = sp.csr_array((rng.random((N_CONTEXTS, N_ITEMS)) < 0.4) * (np.arange(N_ITEMS) != 8))
GOOD = sp.csr_array(GOOD.astype(float) + sp.csr_array(np.eye(N_CONTEXTS, N_ITEMS, k=-4)))
C = sp.random_array((N_CONTEXTS, 4), density=0.6, rng=rng, format="csr")
ITEMS = sp.random_array((N_ITEMS, 3), density=0.6, rng=rng, format="csr")


def new(**params):
    return FMRanker(n_factors=3, max_iter=2, random_state=np.random.default_rng(5), **params)


pytestmark = pytest.mark.filterwarnings("ignore:interactions has .* contexts without a positive")


def fitted(**params):
    return new(**params).fit(GOOD, C, ITEMS)


def with_entry(matrix, value):
    changed = matrix.copy()
    changed.data[0] = value
    return changed


INTERACTIONS = {
    "negative": (with_entry(GOOD, -1.0), "interactions has the negative value -1"),
    "NaN": (with_entry(GOOD, NAN), "interactions"),
    "infinite": (with_entry(GOOD, INF), "interactions"),
    "nothing": (sp.csr_array((12, 9)), "has 0 positives"),
    "everything": (np.ones((12, 9)), "no context with some of positive weight and with other items"),
    "one item": (np.ones((12, 1)), "no context with some"),
    "no rows": (np.empty((0, 9)), "interactions"),
    "a vector": (np.ones(9), "interactions"),
    "words": (np.array([["a", "b"]]), "interactions"),
}


@pytest.mark.parametrize(("interactions", "words"), INTERACTIONS.values(), ids=INTERACTIONS.keys())
def test_interactions(interactions, words):
    for fm in (new(), fitted()):
        assert_refused(lambda fm=fm: fm.fit(interactions), (fm, interactions), words)


ARGUMENTS = {
    "context_features of other contexts": (
        {"context_features": C[:5]},
        "context_features has 5 rows, expected 12",
    ),
    "item_features of other items": ({"item_features": ITEMS[:5]}, "item_features has 5 rows, expected 9"),
    "NaN in context_features": ({"context_features": with_entry(C, NAN)}, "context_features"),
    "infinity in item_features": ({"item_features": with_entry(ITEMS, INF)}, "item_features"),
    "weights of other contexts": (
        {"sample_weight": np.ones(9)},
        "sample_weight has shape (9,), expected (12,)",
    ),
    "weights of other pairs": ({"sample_weight": np.ones((9, 12))}, "sample_weight has shape (9, 12)"),
    "negative weights": ({"sample_weight": -np.ones(12)}, "sample_weight has the negative value -1"),
    "negative weight of a pair": ({"sample_weight": -GOOD}, "sample_weight has the negative value -"),
    "NaN weight": ({"sample_weight": np.full(12, NAN)}, "sample_weight"),
    "NaN weight of a pair": ({"sample_weight": with_entry(GOOD, NAN)}, "sample_weight"),
    "weights of 0": ({"sample_weight": np.zeros(12)}, "sample_weight is 0 for every positive pair"),
    "eval_set of another shape": ({"eval_set": GOOD[:5]}, "eval_set has shape (5, 9), expected (12, 9)"),
    "eval_set that is known": (
        {"eval_set": GOOD},
        "eval_set has no positive that interactions does not have",
    ),
    "negative eval_set": ({"eval_set": -GOOD}, "eval_set has the negative value"),
}


@pytest.mark.parametrize(("arguments", "words"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_arguments_of_fit(arguments, words):
    for fm in (new(), fitted()):
        untouched = (fm, GOOD, *arguments.values())
        assert_refused(lambda fm=fm: fm.fit(GOOD, **arguments), untouched, words)


SETTINGS = {
    "loss": ("hinge", 'expected "warp" or "bpr"'),
    "max_trials": (0, "an integer from 1"),
    "popularity_power": (-1.0, "a finite number >= 0"),
    "metric": ("auc", '"ndcg" or "recall"'),
    "k": (0, "an integer >= 1"),
    "n_factors": (-1, "an integer from 0"),
    "learning_rate": (0.0, "> 0"),
    "callbacks": ([Checkpoint("nowhere")], "callbacks of FMRanker holds a Checkpoint"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name):
    value, words = SETTINGS[name]
    fm = fitted().set_params(**{name: value})
    assert_refused(lambda: fm.fit(GOOD), (fm,), name, words)


def test_too_little_to_hold_out():
    fm = new(early_stopping=True, validation_fraction=0.001)
    assert_refused(lambda: fm.fit(GOOD), (fm,), "sets 0 of", "interactions apart")


CONTINUED = {
    "other features": ({}, (GOOD, C[:, :3], ITEMS), "columns of context_features: 4, but now it is 3"),
    "ids instead of features": ({}, (GOOD, C), "columns of item_features: 3, but now it is 9"),
    "n_factors": ({"n_factors": 4}, (GOOD, C, ITEMS), "n_factors: 3, but now it is 4"),
    "dtype": ({"dtype": "float64"}, (GOOD, C, ITEMS), "dtype: float32, but now it is float64"),
}


@pytest.mark.parametrize(("params", "data", "words"), CONTINUED.values(), ids=CONTINUED.keys())
def test_continued(params, data, words):
    fm = fitted(warm_start=True).set_params(**params)
    assert_refused(lambda: fm.fit(*data), (fm,), "warm_start=True", words)


def test_divergence_leaves_the_estimator_as_it_was():
    fm = fitted()
    fm.set_params(learning_rate=1e20, warm_start=True, max_iter=50)
    assert_refused(lambda: fm.fit(GOOD, C, ITEMS), (fm,), "diverged", error=DivergenceError)


CALLS = {
    "unknown context": (lambda fm: fm.recommend([12]), "contexts has the number 12, expected 0 to 11"),
    "negative context": (lambda fm: fm.recommend([-1]), "contexts has the number -1"),
    "no context": (lambda fm: fm.recommend([]), "contexts is an array of shape (0,)"),
    "contexts by halves": (lambda fm: fm.recommend([0.5]), "expected one or more whole numbers"),
    "features of another width": (lambda fm: fm.recommend(C[:, :2]), "contexts has 2 columns", "with 4"),
    "items of another width": (
        lambda fm: fm.recommend(item_features=ITEMS[:, :2]),
        "has 2 columns",
        "with 3",
    ),
    "NaN features": (lambda fm: fm.recommend(with_entry(C, NAN)), "contexts"),
    "exclude of some contexts": (lambda fm: fm.recommend([1], exclude=GOOD[[1]]), "exclude has shape (1, 9)"),
    "exclude of other rows": (lambda fm: fm.recommend(C[:2], exclude=GOOD), "exclude has shape (12, 9)"),
    "unknown candidate": (lambda fm: fm.recommend(candidates=[9]), "candidates has the item number 9"),
    "no items": (lambda fm: fm.recommend(n=0), "n is 0"),
    "pairs of unlike length": (lambda fm: fm.predict([1, 2], [3]), "contexts has 2 numbers and items 1"),
    "unknown item": (lambda fm: fm.predict([1], [9]), "items has the number 9, expected 0 to 8"),
    "score of another shape": (lambda fm: fm.score(GOOD[:3]), "interactions has shape (3, 9)"),
    "exclude of another shape": (lambda fm: fm.score(GOOD, exclude=GOOD[:3]), "exclude has shape (3, 9)"),
    "explain several": (lambda fm: fm.explain(C[:2], 1), "context has 2 rows, expected one"),
    "explain unknown": (lambda fm: fm.explain(1, 9), "item has the number 9"),
    "names of another length": (
        lambda fm: fm.explain(1, 1, feature_names=["a"]),
        "feature_names has 1 names",
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_calls(call):
    fm = fitted()
    function, *words = call
    assert_refused(lambda: function(fm), (fm, GOOD, C, ITEMS), *words)
