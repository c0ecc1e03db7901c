"""Early stopping, callbacks, history, scoring, progress lines, and fits that are broken off."""

from __future__ import annotations

import pickle
import re
import signal

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from problems import CASES, IDS, STOCHASTIC, quantile_classes
from sklearn.metrics import log_loss, roc_auc_score

from fmfast import FMClassifier, FMRegressor
from fmfast.solvers import SOLVERS

rng = np.random.default_rng(0)
X, X_VALID = (sp.random_array((n, 30), density=0.3, rng=rng, format="csr") for n in (400, 200))
SIGNAL = rng.normal(size=30)
# More noise than signal: after a few epochs, a machine learns the noise by heart.
Y, Y_VALID = (rows @ SIGNAL + 2.0 * rng.normal(size=rows.shape[0]) for rows in (X, X_VALID))
# Overfits within a few epochs with any solver.
RATES = {"adagrad": 0.5, "sgd": 0.05, "ftrl": 0.5, "als": None}
LEARN_BY_HEART = {"reg_w": 0.0, "reg_V": 0.0, "max_iter": 300, "random_state": 0}


def labels(y, n_classes):
    return quantile_classes(y, n_classes, of=Y)


def scores_of(fm):
    return [record["validation_score"] for record in fm.history_]


def negative_loss(fm, X, y):
    """What scoring="loss" means, computed from the predictions."""
    if isinstance(fm, FMRegressor):
        return -np.mean((fm.predict(X) - y) ** 2)
    raw = fm.decision_function(X)
    if raw.ndim == 1:
        return -log_loss(y, fm.predict_proba(X), labels=fm.classes_)
    # One versus rest: the sum of the losses of all outputs.
    is_class = y[:, None] == fm.classes_
    return -np.mean(np.sum(np.logaddexp(0.0, raw) - is_class * raw, axis=1))


# -- early stopping ----------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_keeps_the_best_epoch_on_an_eval_set(cls, n_classes, solver):
    y, y_valid = labels(Y, n_classes), labels(Y_VALID, n_classes)
    fm = cls(solver=solver, learning_rate=RATES[solver], early_stopping=True, **LEARN_BY_HEART)
    fm.fit(X, y, eval_set=(X_VALID, y_valid))
    scores = scores_of(fm)
    best = int(np.argmax(scores)) + 1
    assert best < len(scores) < 300
    assert len(scores) == best + fm.n_iter_no_change
    assert fm.n_iter_ == len(scores)
    assert negative_loss(fm, X_VALID, y_valid) == pytest.approx(max(scores), rel=1e-10)
    # To the bit what a fit of so many epochs gives.
    short = cls(**{**fm.get_params(), "early_stopping": False, "max_iter": best}).fit(X, y)
    assert_array_equal(fm.V_, short.V_)
    assert_array_equal(fm.w_, short.w_)
    assert_array_equal(fm.w0_, short.w0_)


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_sets_a_part_of_the_training_data_apart(cls, n_classes):
    y = labels(Y, n_classes)
    seen = []

    def scoring(y_true, prediction):
        seen.append(np.array(y_true))
        return -len(seen) if len(seen) > 3 else len(seen)

    fm = cls(
        early_stopping=True, validation_fraction=0.25, scoring=scoring, n_iter_no_change=4, **LEARN_BY_HEART
    )
    fm.fit(X, y)
    assert scores_of(fm) == [1, 2, 3, -4, -5, -6, -7]
    assert all(len(part) == 100 for part in seen)
    for part in seen[1:]:
        assert_array_equal(part, seen[0])
    assert set(seen[0]) <= set(y)
    # Kept are the parameters of epoch 3, which any fit with the same split reaches.
    returned = iter(range(3))
    settings = {**fm.get_params(), "max_iter": 3, "scoring": lambda y, prediction: next(returned)}
    three = cls(**settings).fit(X, y)
    assert_array_equal(fm.V_, three.V_)
    # They were trained on the rest of the data alone.
    assert not np.array_equal(three.V_, cls(**{**three.get_params(), "early_stopping": False}).fit(X, y).V_)


def test_the_validation_part_is_not_trained_on():
    """One column per sample: the columns of the validation part stay at their start."""
    eye = sp.csr_array(np.eye(200))
    fm = FMRegressor(early_stopping=True, validation_fraction=0.3, max_iter=3, random_state=0).fit(
        eye, Y[:200]
    )
    assert (fm.w_ == 0).sum() == 60


@pytest.mark.parametrize("n_rare", [10, 20, 50])
def test_validation_part_has_the_classes_in_proportion(n_rare):
    y = np.array(["common"] * (400 - n_rare) + ["rare"] * n_rare)
    found = []

    def scoring(y_true, p):
        found.append(int((y_true == "rare").sum()))
        return 0.0

    FMClassifier(early_stopping=True, validation_fraction=0.2, scoring=scoring, random_state=3).fit(X, y)
    assert set(found) == {n_rare // 5}


def test_samples_without_weight_do_not_validate():
    weight = np.where(np.arange(400) < 40, 1.0, 0.0)
    seen = []

    def scoring(y_true, prediction):
        seen.append(y_true.copy())
        return 0.0

    FMRegressor(early_stopping=True, scoring=scoring, random_state=0).fit(X, Y, sample_weight=weight)
    assert len(seen[0]) == 4
    assert set(seen[0]) <= set(Y[:40])


@pytest.mark.parametrize("n_iter_no_change", [1, 3])
@pytest.mark.parametrize("tol", [0.0, 1.0])
def test_tol_and_n_iter_no_change(n_iter_no_change, tol):
    returned = iter([1.0, 1.5, 1.5, 3.0, 3.9, 3.95, 3.95, 3.95, 3.95, 3.95, 3.95])
    fm = FMRegressor(
        early_stopping=True,
        scoring=lambda y, prediction: next(returned),
        tol=tol,
        n_iter_no_change=n_iter_no_change,
        max_iter=11,
    ).fit(X, Y)
    # Epochs after the last one that gained more than tol: number 1.5 at first, 3.95 or 3.0 at last.
    expected = {(1, 0.0): 3, (1, 1.0): 2, (3, 0.0): 9, (3, 1.0): 7}
    assert fm.n_iter_ == expected[n_iter_no_change, tol]


def test_stops_early_only_if_told_to():
    fm = FMRegressor(learning_rate=0.5, **{**LEARN_BY_HEART, "max_iter": 40}).fit(
        X, Y, eval_set=(X_VALID, Y_VALID)
    )
    assert fm.n_iter_ == 40
    scores = scores_of(fm)
    assert np.argmax(scores) < 20
    assert negative_loss(fm, X_VALID, Y_VALID) == pytest.approx(scores[-1], rel=1e-10)


def test_a_warm_start_goes_on_from_the_best_epoch():
    settings = {**LEARN_BY_HEART, "early_stopping": True, "learning_rate": 0.5, "warm_start": True}
    fm = FMRegressor(**settings).fit(X, Y, eval_set=(X_VALID, Y_VALID))
    first, best = fm.n_iter_, max(scores_of(fm))
    fm.set_params(learning_rate=1e-6).fit(X, Y, eval_set=(X_VALID, Y_VALID))
    assert [record["epoch"] for record in fm.history_] == list(range(1, first + fm.n_iter_ + 1))
    assert scores_of(fm)[first:] == pytest.approx([best] * fm.n_iter_, rel=1e-3)


# -- scoring -----------------------------------------------------------------------------------


def test_scoring_gets_labels_and_predictions():
    names = np.array(["no", "yes"])
    y, y_valid = names[labels(Y, 2)], names[labels(Y_VALID, 2)]
    calls = []

    def auc(y_true, p):
        calls.append((y_true, p))
        return roc_auc_score(y_true, p[:, 1])

    fm = FMClassifier(scoring=auc, early_stopping=True, **LEARN_BY_HEART).fit(
        X, y, eval_set=(X_VALID, y_valid)
    )
    assert len(calls) == fm.n_iter_
    for y_true, p in calls:
        assert_array_equal(y_true, y_valid)
        assert p.shape == (200, 2)
        assert p.sum(axis=1) == pytest.approx(np.ones(200))
    best = np.argmax(scores_of(fm))
    assert_array_equal(fm.predict_proba(X_VALID), calls[best][1])
    assert roc_auc_score(y_valid, fm.predict_proba(X_VALID)[:, 1]) == max(scores_of(fm))

    targets = []
    fm = FMRegressor(scoring=lambda y, prediction: targets.append((y, prediction)) or 1.0, random_state=0)
    fm.fit(X, Y, eval_set=(X_VALID, Y_VALID))
    assert_array_equal(targets[-1][0], Y_VALID)
    assert_array_equal(targets[-1][1], fm.predict(X_VALID))


# -- history, callbacks, progress --------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_history(cls, n_classes, solver):
    y = labels(Y, n_classes)
    weight = rng.uniform(0.5, 2.0, 400)
    # Without a penalty: alternating least squares lowers the penalised loss, the others mostly either.
    settings = {"solver": solver, "reg_w": 0.0, "reg_V": 0.0, "random_state": 0}
    fm = cls(max_iter=5, **settings).fit(X, y, sample_weight=weight)
    assert [list(record) for record in fm.history_] == [["epoch", "loss", "validation_score", "seconds"]] * 5
    assert [record["epoch"] for record in fm.history_] == [1, 2, 3, 4, 5]
    assert scores_of(fm) == [None] * 5
    assert all(0 < record["seconds"] < 10 for record in fm.history_)
    losses = [record["loss"] for record in fm.history_]
    assert losses[0] > losses[-1] > 0

    # The loss is the weighted mean over the training data: what a machine that stands still is worth, or
    # that learns from all samples at once.
    settings = {"solver": solver, "max_iter": 1, "random_state": 0}
    if solver in STOCHASTIC:
        settings["learning_rate"] = 1e-12
    still = cls(**settings).fit(X, y)
    repeated = np.repeat(np.arange(400), 1 + np.arange(400) % 3)
    fm = cls(**settings).fit(X, y, sample_weight=1 + np.arange(400) % 3)
    assert fm.history_[0]["loss"] == pytest.approx(-negative_loss(fm, X[repeated], y[repeated]), rel=1e-6)
    assert still.history_[0]["loss"] == pytest.approx(-negative_loss(still, X, y), rel=1e-6)


def test_callbacks_get_the_records():
    first, second = [], []
    fm = FMRegressor(max_iter=6, callbacks=[first.append, second.append]).fit(
        X, Y, eval_set=(X_VALID, Y_VALID)
    )
    assert first == second == fm.history_
    assert len(first) == 6
    # They are copies.
    first[0]["loss"] = None
    assert fm.history_[0]["loss"] > 0
    assert second[0]["loss"] > 0
    fm.partial_fit(X, Y)
    assert first[-1]["epoch"] == 7


@pytest.mark.parametrize("answer", [True, 1, "stop", np.bool_(True)])
def test_a_callback_stops_the_fit(answer):
    called = []
    callbacks = [
        lambda record: answer if record["epoch"] == 4 else None,
        lambda record: called.append(record["epoch"]),
    ]
    fm = FMRegressor(max_iter=20, callbacks=callbacks, random_state=0).fit(X, Y)
    assert fm.n_iter_ == 4
    assert called == [1, 2, 3, 4]  # the others still hear of the last epoch
    assert_array_equal(fm.V_, FMRegressor(max_iter=4, random_state=0).fit(X, Y).V_)


def test_progress_lines(capsys):
    FMRegressor(max_iter=2, verbose=0).fit(X, Y)
    assert capsys.readouterr() == ("", "")
    fm = FMRegressor(max_iter=2, verbose=1).fit(X, Y)
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) == 2
    for line, record in zip(lines, fm.history_, strict=True):
        epoch, loss = re.fullmatch(r"epoch +(\d+)  loss (\S+)  \S+ s", line).groups()
        assert (int(epoch), float(loss)) == (record["epoch"], pytest.approx(record["loss"], rel=1e-5))
    fm.set_params(verbose=True).fit(X, Y, eval_set=(X_VALID, Y_VALID))
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"validation score {fm.history_[-1]['validation_score']:.6g}" in line


# -- broken off --------------------------------------------------------------------------------


def interrupt(record):
    if record["epoch"] >= interrupt.at:
        signal.raise_signal(signal.SIGINT)


def fail(record):
    if record["epoch"] >= interrupt.at:
        raise RuntimeError("a callback failed")


def exhaust(y, prediction):
    raise MemoryError


def state_of(fm):
    return pickle.dumps(fm), {name: id(value) for name, value in vars(fm).items()}


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ({"callbacks": [interrupt]}, KeyboardInterrupt),
        ({"callbacks": [fail]}, RuntimeError),
        ({"scoring": exhaust}, MemoryError),
    ],
    ids=["Ctrl-C", "callback", "scoring"],
)
def test_a_fit_that_is_broken_off_leaves_all_as_it_was(cls, n_classes, solver, broken, error):
    y = labels(Y, n_classes)
    data = {"X": X, "y": y, "eval_set": (X_VALID, labels(Y_VALID, n_classes))}
    settings = {"solver": solver, "random_state": 0, "dtype": "float64"}
    new = cls(max_iter=5, **settings, **broken)
    interrupt.at = 2
    before = state_of(new)
    with pytest.raises(error):
        new.fit(**data)
    assert state_of(new) == before
    assert not hasattr(new, "model_")

    fm = cls(max_iter=3, **settings).fit(**data)
    interrupt.at = 5
    for more in ({}, {"warm_start": True}, {"warm_start": True, "early_stopping": True}):
        fm.set_params(max_iter=6, **more, **broken)
        before = state_of(fm)
        with pytest.raises(error):
            fm.fit(**data)
        assert state_of(fm) == before

    if "callbacks" in broken and solver in STOCHASTIC:
        interrupt.at = 4
        with pytest.raises(error):
            fm.partial_fit(X, y)
        assert state_of(fm) == before

    # It goes on as if it had never been broken off.
    fm.set_params(callbacks=None, scoring="loss", early_stopping=False, max_iter=2).fit(**data)
    straight = cls(max_iter=5, **settings).fit(**data)
    if solver in STOCHASTIC:
        assert_array_equal(fm.model_.table.rows, straight.model_.table.rows)
        assert_array_equal(fm.model_.table.bias, straight.model_.table.bias)
    # Alternating least squares computes its residuals anew when it goes on.
    assert_allclose(scores_of(fm), scores_of(straight), rtol=0 if solver in STOCHASTIC else 1e-9)
