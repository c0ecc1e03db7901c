"""What a user may write, and the types that come out of it. Checked by mypy, never run."""

from collections.abc import Sequence
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import fmfast
from fmfast import (
    BayesianFMClassifier,
    BayesianFMRegressor,
    Checkpoint,
    FeatureEncoder,
    FMClassifier,
    FMModel,
    FMRegressor,
)
from fmfast.explain import Explanation, Interactions
from fmfast.retrieval import Recommendations, Vectors

Floats = NDArray[np.float64]

X = np.eye(4)
y = [0.0, 1.0, 0.5, 0.25]
labels = ["a", "b", "a", "b"]

# The two machines: fit returns the estimator itself, so that calls can be chained.
fm = FMRegressor(n_factors=8, max_iter=10, solver="als", random_state=np.random.default_rng(0), n_jobs=2)
assert_type(fm.fit(X, y), FMRegressor)
assert_type(fm.fit(X, y, [1, 2, 1, 1], eval_set=(X, y)).partial_fit(X, y), FMRegressor)
assert_type(fm.predict(X), Floats)
assert_type(fm.score(X, y), float)
assert_type(fm.w0_, float | Floats)
assert_type(fm.w_, NDArray[Any])
assert_type(fm.V_, NDArray[Any])
assert_type(fm.n_iter_, int)
assert_type(fm.history_, list[dict[str, Any]])
assert_type(fm.set_params(n_factors=4), FMRegressor)
assert_type(fm.get_params(), dict[str, Any])
assert_type(fm.grow(8), FMRegressor)
assert_type(FMRegressor.from_arrays(0.0, np.zeros(4), np.zeros((4, 2))), FMRegressor)
fm.save("model.npz")
FMRegressor(callbacks=[Checkpoint("fit")]).fit(X, y, resume_from="fit")


def stop(record: dict[str, Any]) -> bool:
    return bool(record["loss"] < 0.1)


FMRegressor(callbacks=[stop], encoder=FeatureEncoder(categorical=["user"], min_count=2))

classifier = FMClassifier(early_stopping=True).fit(X, labels)
assert_type(classifier, FMClassifier)
assert_type(classifier.predict(X), NDArray[Any])
assert_type(classifier.predict_proba(X), Floats)
assert_type(classifier.decision_function(X), Floats)
assert_type(classifier.classes_, NDArray[Any])

# A posterior has a deviation for who asks for it, and an array alone for who does not.
bayesian = BayesianFMRegressor(n_iter=20, groups=[0, 0, 1, 1]).fit(X, y)
assert_type(bayesian, BayesianFMRegressor)
assert_type(bayesian.predict(X), Floats)
assert_type(bayesian.predict(X, return_std=True), tuple[Floats, Floats])
assert_type(BayesianFMClassifier().fit(X, labels).predict_proba(X), Floats)

# Files, and what is known of a model.
assert_type(fmfast.load("model.npz"), Any)
assert_type(fmfast.open_dataset("rows.fmd").n_samples, int)
assert_type(fmfast.text.load("rows.svm").y, Floats | None)
fmfast.show_config()
assert_type(fmfast.show_config("dicts"), dict[str, Any])
assert_type(fm.explain(X[0]), Explanation)
assert_type(fm.top_interactions(10), Interactions)
assert_type(fmfast.retrieval.recommend(fm, X, X, 3), Recommendations)


def scale_of(model: FMModel) -> float:
    return model.scale


def vectors_of(found: Vectors) -> Sequence[NDArray[Any]]:
    return [found.Q, found.P]


def of_refusal() -> str:
    try:
        fm.predict(X)
    except (fmfast.NotFittedError, fmfast.DivergenceError) as error:
        return str(error)
    except fmfast.TextFormatError as error:
        return str(error)
    return ""
