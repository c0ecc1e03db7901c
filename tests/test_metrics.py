"""Measures of a prediction's quality, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fmfast import metrics

NONE = np.empty(0)
rng = np.random.default_rng(0)
WEIGHT = rng.uniform(size=200)
CODES = rng.integers(0, 3, 200)
P = rng.dirichlet(np.ones(3), 200)
TARGET, PREDICTION = rng.normal(size=(2, 200))
SCORE = rng.integers(0, 20, 200).astype(float)  # with many ties


@pytest.mark.parametrize("weight", [NONE, WEIGHT], ids=["unweighted", "weighted"])
def test_as_scikit_learn(weight):
    theirs = pytest.importorskip("sklearn.metrics")
    given = {"sample_weight": weight if len(weight) else None}
    positive = CODES == 1
    for ours, expected in (
        (
            metrics.root_mean_squared_error(TARGET, PREDICTION, weight),
            theirs.root_mean_squared_error(TARGET, PREDICTION, **given),
        ),
        (
            metrics.mean_absolute_error(TARGET, PREDICTION, weight),
            theirs.mean_absolute_error(TARGET, PREDICTION, **given),
        ),
        (metrics.r2_score(TARGET, PREDICTION, weight), theirs.r2_score(TARGET, PREDICTION, **given)),
        (metrics.log_loss(CODES, P, weight), theirs.log_loss(CODES, P, **given)),
        (metrics.accuracy(CODES, P, weight), theirs.accuracy_score(CODES, P.argmax(axis=1), **given)),
        (metrics.roc_auc(positive, SCORE, weight), theirs.roc_auc_score(positive, SCORE, **given)),
    ):
        assert ours == pytest.approx(expected, rel=1e-12)


def test_auc_by_hand():
    positive = np.array([True, False, True, False])
    assert metrics.roc_auc(positive, np.array([2.0, 1.0, 4.0, 3.0]), NONE) == 0.75
    assert metrics.roc_auc(positive, np.array([2.0, 2.0, 4.0, 3.0]), NONE) == 0.625  # a tie counts half
    assert np.isnan(metrics.roc_auc(np.ones(4, dtype=bool), np.arange(4.0), NONE))


def test_log_loss_of_a_certain_mistake_is_finite():
    loss = metrics.log_loss(np.array([0]), np.array([[0.0, 1.0]]), NONE)
    assert loss == pytest.approx(708.4, abs=0.1)
