"""Pictures show the numbers they are given."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from refusal import NAN, assert_refused

from fmfast import (
    BayesianFMRegressor,
    FeatureEncoder,
    FMClassifier,
    FMRegressor,
    plot,
)
from fmfast._sklearn import not_fitted_error
from fmfast.datasets import load_chess_endgame

pytest.importorskip("matplotlib").use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

CHESS = load_chess_endgame()
X, Y = CHESS.X_train[:2000], CHESS.y_train[:2000]
X_TEST, Y_TEST = CHESS.X_test[:500], CHESS.y_test[:500]
FIELDS = {"fields": CHESS.field, "field_names": CHESS.field_names}


@pytest.fixture(scope="module")
def fm():
    return FMRegressor(8, max_iter=4, init_std=0.1, random_state=0).fit(X, Y, eval_set=(X_TEST, Y_TEST))


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def field_vectors(fm):
    return [fm.V_[CHESS.field == f].astype(np.float64) for f in range(6)]


DRAWN = [
    lambda fm, ax: plot.learning_curves(fm, ax=ax),
    lambda fm, ax: plot.interactions_heatmap(fm, **FIELDS, ax=ax),
    lambda fm, ax: plot.interactions_heatmap(fm, between=(range(3), range(8, 12)), ax=ax),
    lambda fm, ax: plot.vectors_2d(fm, **FIELDS, ax=ax),
    lambda fm, ax: plot.vectors_2d(fm, ax=ax),
    lambda fm, ax: plot.calibration([0, 1, 1, 0], [0.1, 0.9, 0.6, 0.5], n_bins=2, ax=ax),
    lambda fm, ax: plot.intervals(Y[:9], Y[:9] - 1, Y[:9] + 1, ax=ax),
]


@pytest.mark.parametrize("draw", DRAWN)
def test_axes_are_taken_and_returned(draw, fm):
    _, (left, right) = plt.subplots(1, 2)
    assert draw(fm, right) is right
    assert right.has_data()
    assert not left.has_data()
    new = draw(fm, None)
    assert new is not right
    new.figure.draw_without_rendering()


def test_learning_curves_are_those_of_the_history(fm):
    other = FMRegressor(2, max_iter=3, random_state=0).fit(X, Y)
    ax = plot.learning_curves(fm, other.history_, labels=["a", "b"])
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines.keys() == {"a, training", "a, validation", "b, training"}  # b had nothing to validate on
    for label, key, sign in (("a, training", "loss", 1), ("a, validation", "validation_score", -1)):
        np.testing.assert_array_equal(lines[label].get_ydata(), [sign * r[key] for r in fm.history_])
        np.testing.assert_array_equal(lines[label].get_xdata(), [1, 2, 3, 4])
    assert ax.get_xlabel() == "epoch"


def test_learning_curves_of_a_chain():
    chain = BayesianFMRegressor(2, n_iter=5, n_burn_in=2, random_state=0).fit(X, Y, eval_set=(X_TEST, Y_TEST))
    ax = plot.learning_curves(chain)
    np.testing.assert_array_equal(
        ax.get_lines()[1].get_ydata(), [r["validation_loss"] for r in chain.history_]
    )
    assert ax.get_xlabel() == "iteration"


def test_fields_interact_as_all_their_pairs_do(fm):
    ax = plot.interactions_heatmap(fm, **FIELDS)
    shown = ax.get_images()[0].get_array()
    V = field_vectors(fm)
    for f in range(6):
        for g in range(6):
            if f != g:
                assert shown[f, g] == pytest.approx(np.sqrt(((V[f] @ V[g].T) ** 2).mean()), rel=1e-5)
    assert np.diag(np.ma.getmaskarray(shown)).all()  # what never meets is not shown
    assert [label.get_text() for label in ax.get_xticklabels()] == list(CHESS.field_names)


def test_features_between_two_fields(fm):
    rows, columns = np.flatnonzero(CHESS.field == 3), np.flatnonzero(CHESS.field == 5)
    ax = plot.interactions_heatmap(fm, between=(rows, columns), feature_names=CHESS.feature_names)
    image = ax.get_images()[0]
    np.testing.assert_allclose(image.get_array(), fm.V_[rows] @ fm.V_[columns].T, rtol=1e-4, atol=1e-5)
    assert image.norm.vmin == -image.norm.vmax  # 0 is white
    assert ax.get_yticklabels()[0].get_text() == "white_rook_rank=1"


def test_an_encoder_knows_its_fields():
    table = {"a": ["x", "y", "x"], "b": ["u", "v", "w"]}
    fm = FMRegressor(2, max_iter=2, encoder=FeatureEncoder(), random_state=0).fit(table, [1.0, 2, 3])
    assert [t.get_text() for t in plot.interactions_heatmap(fm).get_xticklabels()] == ["a", "b"]
    assert plot.interactions_heatmap(fm, between=("a", "b")).get_images()[0].get_array().shape == (3, 4)
    ax = plot.vectors_2d(fm)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_vectors_in_two_dimensions_are_the_best_projection(fm):
    ax = plot.vectors_2d(fm, **FIELDS, feature_names=CHESS.feature_names)
    places = np.concatenate([np.asarray(points.get_offsets()) for points in ax.collections])
    assert places.shape == (40, 2)
    V = fm.V_.astype(np.float64)
    U, lengths, _ = np.linalg.svd(V, full_matrices=False)
    np.testing.assert_allclose(
        places @ places.T, (U[:, :2] * lengths[:2] ** 2) @ U[:, :2].T, rtol=1e-4, atol=1e-4
    )
    share = lengths[0] ** 2 / (lengths**2).sum()
    assert f"{share:.0%}" in ax.get_xlabel()
    assert "c" in {text.get_text() for text in ax.texts}


def test_one_factor_lies_on_a_line():
    fm = FMRegressor(1, max_iter=1, random_state=0).fit(X, Y)
    points = plot.vectors_2d(fm).collections[0].get_offsets()
    assert (points[:, 1] == 0).all()
    np.testing.assert_allclose(np.abs(points[:, 0]), np.abs(fm.V_[:, 0]), rtol=1e-5)


def test_calibration_by_hand():
    y = ["no", "no", "yes", "no", "yes", "yes", "yes"]
    ax = plot.calibration(y, [0.1, 0.2, 0.3, 0.76, 0.8, 0.84, 1.0], n_bins=4)
    points = ax.get_lines()[1]
    np.testing.assert_allclose(points.get_xdata(), [0.15, 0.3, 0.85])  # nothing between 0.5 and 0.75
    np.testing.assert_allclose(points.get_ydata(), [0.0, 1.0, 0.75])
    lower, upper = ax.collections[0].get_segments()[2][:, 1]
    assert upper - lower == pytest.approx(4 * np.sqrt(0.85 * 0.15 / 4))


def test_intervals_by_hand():
    ax = plot.intervals([1.0, 5.0, 9.0, 2.0], [0.0, 6.0, 8.0, 2.0], [2.0, 7.0, 10.0, 2.0])
    assert ax.get_title() == "75.0% of 4 targets lie within"
    inside, outside = ax.collections[1:]
    assert outside.get_offsets().tolist() == [[2, 5.0]]  # the third by the middle of its interval
    assert len(inside.get_offsets()) == 3
    few = plot.intervals(np.zeros(1000), np.full(1000, -1.0), np.ones(1000), max_shown=10)
    assert len(few.collections[0].get_segments()) == 10
    assert "1,000 targets" in few.get_title()


def test_bad_input_is_refused(fm):
    plain = FMClassifier(0, max_iter=1, random_state=0).fit(X, Y > 8)
    for call, *words in (
        (lambda: plot.learning_curves(), "0 runs"),
        (lambda: plot.learning_curves(fm, labels=["a", "b"]), "1 runs", "2 labels"),
        (lambda: plot.interactions_heatmap(fm), "no fields", "fields="),
        (lambda: plot.interactions_heatmap(fm, fields=[1, 2]), "fields", "(40,)"),
        (lambda: plot.interactions_heatmap(fm, fields=CHESS.field, field_names=["a"]), "1 names", "6"),
        (lambda: plot.interactions_heatmap(fm, between=([1], [40])), "column 40"),
        (lambda: plot.interactions_heatmap(fm, **FIELDS, class_=1), "no classes"),
        (lambda: plot.vectors_2d(plain), "n_factors=0"),
        (lambda: plot.calibration([0, 1], [0.5]), "y has 2 values"),
        (lambda: plot.calibration([0, 1], [0.5, 1.5]), "probability"),
        (lambda: plot.calibration([0, 1], [0.5, NAN]), "probability"),
        (lambda: plot.calibration([0, 1, 2], [0.5, 0.5, 0.5]), "3 classes"),
        (lambda: plot.calibration([0, 1], [0.5, 0.1], n_bins=0), "n_bins is 0"),
        (lambda: plot.intervals([1.0], [2.0], [1.0]), "lower <= upper"),
        (lambda: plot.intervals([1.0], [NAN], [1.0]), "lower <= upper"),
        (lambda: plot.intervals([1.0, 2.0], [0.0], [1.0]), "y has 2 values"),
        (lambda: plot.intervals([NAN], [0.0], [1.0]), "NaN"),
        (lambda: plot.intervals([1.0], [0.0], [1.0], max_shown=0), "max_shown is 0"),
    ):
        assert_refused(call, [fm], *words)
    big = FMRegressor(1, max_iter=1, random_state=0).fit(np.eye(300), np.zeros(300))
    refused = lambda: plot.interactions_heatmap(big, between=(range(201), [250]))  # noqa: E731
    assert_refused(refused, [big], "201 and 1 features", "200")
    for call in (plot.learning_curves, plot.interactions_heatmap, plot.vectors_2d):
        assert_refused(lambda call=call: call("fm"), [], "got a str", error=TypeError)
        assert_refused(lambda call=call: call(FMRegressor()), [], "not fitted", error=not_fitted_error())
    assert not plt.get_fignums()  # nothing was begun


def test_says_what_is_missing_without_matplotlib():
    script = """if True:
        import sys
        sys.modules["matplotlib"] = None
        from fmfast import plot
        try:
            plot.intervals([1.0], [0.0], [2.0])
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == (
        'Pictures need matplotlib, which is not installed; run pip install "fmfast[plot]".'
    ), done.stderr
