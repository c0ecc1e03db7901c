"""The compiled kernel against the definition, for every instruction set that this machine has."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import reference
from kernel_calls import (
    CHUNK_NNZ,
    CHUNK_ROWS,
    Rows,
    assert_scores,
    long_rows,
    parameters,
    random_rows,
    random_table,
    score,
    train,
)
from numpy.testing import assert_allclose, assert_array_equal
from problems import STOCHASTIC

from fmfast.table import ParameterTable

FACTORS = [0, 1, 2, 3, 7, 8, 9, 16, 24, 31, 32, 33, 48, 64, 65, 96, 128, 200, 300]  # 300: sums on the heap


# ---------------------------------------------------------------------------------------------
# Score
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_factors", FACTORS)
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_are_those_of_the_definition(core, dtype, index_dtype, n_factors):
    rng = np.random.default_rng(n_factors)
    for x_dtype in ("float32", "float64"):
        rows = random_rows(rng, dtype=x_dtype, index_dtype=index_dtype)
        table = random_table(rng, rows.n_features, n_factors, dtype)
        scores = score(core, rows, table)
        assert_scores(scores, rows.dense, table)
        assert_array_equal(scores[[0, 7, -1]], table.w0[0])  # the empty rows


def test_score_of_a_worked_example(core):
    table = random_table(np.random.default_rng(0), 3, 2)
    table.bias[0, 0] = 1.0
    table.w[0] = [2.0, 3.0, 4.0]
    table.V[0] = [[1.0, 0.0], [2.0, 1.0], [0.0, 5.0]]
    # 1 + (2 - 3 + 8) + [<v0,v1> 1 (-1) + <v0,v2> 1 2 + <v1,v2> (-1) 2] = 1 + 7 + [-2 + 0 - 10]
    X = np.array([[1.0, -1.0, 2.0]])
    assert_array_equal(score(core, Rows(X, X != 0), table), [-4.0])
    assert_array_equal(reference.score(X, *parameters(table)), [-4.0])


@pytest.mark.parametrize("n_samples", [1, 2])
def test_few_rows(core, n_samples):
    rng = np.random.default_rng(1)
    full = random_rows(rng)
    rows = Rows(full.dense[1 : 1 + n_samples], full.stored[1 : 1 + n_samples])
    table = random_table(rng, rows.n_features, 5)
    assert_scores(score(core, rows, table), rows.dense, table)


def test_nothing_but_empty_rows(core):
    rows = Rows(np.zeros((3, 4)), np.zeros((3, 4), dtype=bool))
    assert_array_equal(score(core, rows, random_table(np.random.default_rng(2), 4, 2)), [0.3, 0.3, 0.3])


def test_explicit_zeros_add_nothing(core):
    rng = np.random.default_rng(3)
    rows = random_rows(rng)
    without = Rows(rows.dense, rows.dense != 0)
    assert len(without.data) < len(rows.data)
    table = random_table(rng, rows.n_features, 8)
    assert_array_equal(score(core, rows, table), score(core, without, table))


@pytest.mark.parametrize("n_factors", [0, 4, 8, 70])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_values_mean_ones(core, dtype, n_factors):
    """For X with nothing but ones the kernel takes an empty array, in training and in scoring."""
    rng = np.random.default_rng(4)
    stored = random_rows(rng, n_samples=3 * CHUNK_NNZ // 22).stored  # several chunks
    ones = Rows(stored.astype(dtype), stored)
    implicit = replace(ones, data=np.empty(0, dtype))
    tables = [
        random_table(np.random.default_rng(5), ones.n_features, n_factors, dtype, "adagrad", init_std=0.1)
        for _ in range(2)
    ]
    y = rng.normal(size=ones.n_samples)
    before = tables[0].rows.copy()
    losses = [
        train(core, rows, y, table, solver="adagrad", learning_rate=0.1)
        for rows, table in zip((ones, implicit), tables, strict=True)
    ]
    assert losses[0] == losses[1]
    assert_array_equal(tables[0].rows, tables[1].rows)
    assert not np.array_equal(tables[0].rows, before, equal_nan=True)
    assert_array_equal(score(core, ones, tables[0]), score(core, implicit, tables[0]))
    assert_scores(score(core, implicit, tables[0])[:50], ones.dense[:50], tables[0])


def test_no_values_mean_ones_in_rows_as_long_as_the_buffer(core):
    stored = long_rows(np.random.default_rng(23), [CHUNK_NNZ, CHUNK_NNZ + 1, 9_000]).stored
    ones = Rows(stored.astype(float), stored)
    implicit = replace(ones, data=np.empty(0))
    table = random_table(np.random.default_rng(23), ones.n_features, 3)
    assert_array_equal(score(core, implicit, table), score(core, ones, table))
    tables = [copy.deepcopy(table) for _ in range(2)]
    for rows, changed in zip((ones, implicit), tables, strict=True):
        train(core, rows, np.zeros(3), changed, learning_rate=1e-6)
    assert_array_equal(tables[0].rows, tables[1].rows)


@pytest.fixture(scope="module")
def long():
    """Rows around the size of the kernel's buffer, a table, and the scores by the definition."""
    rng = np.random.default_rng(6)
    rows = long_rows(rng, [3, CHUNK_NNZ - 4, 1, CHUNK_NNZ, 0, CHUNK_NNZ + 1, 2, 9_100, 5])
    table = random_table(rng, rows.n_features, 3)
    return rows, table, reference.score(rows.dense, *parameters(table))


@pytest.mark.parametrize(("dtype", "precision"), [("float32", 1e-5), ("float64", 1e-14)])
def test_rows_longer_than_the_buffer(core, long, dtype, precision):
    rows, exact, expected = long
    table = random_table(np.random.default_rng(0), rows.n_features, 3, dtype)
    table.w[:], table.V[:] = exact.w, exact.V
    # Errors are relative to sum_jf V_jf^2 x_j^2, which Lemma 3.1 adds and subtracts; all x_j^2 are 1 here.
    assert_allclose(score(core, rows, table), expected, rtol=0.0, atol=precision * (exact.V**2).sum())


@pytest.mark.parametrize("n_factors", [0, 2, 16])
def test_more_rows_than_the_buffer_holds(core, n_factors):
    rng = np.random.default_rng(7)
    few = random_rows(rng, n_features=6)
    repeats = 2 * CHUNK_ROWS // few.n_samples + 7
    table = random_table(rng, few.n_features, n_factors)
    rows = Rows(np.tile(few.dense, (repeats, 1)), np.tile(few.stored, (repeats, 1)))
    scores = score(core, rows, table)
    assert_array_equal(scores, np.tile(scores[: few.n_samples], repeats))
    assert_scores(scores[: few.n_samples], few.dense, table)


@pytest.mark.parametrize("n_samples", [14, 2 * CHUNK_ROWS + 5])
def test_part_of_the_rows(core, n_samples):
    """Scores of rows first .. stop - 1 are the same as those of all, and no others are written."""
    rng = np.random.default_rng(8)
    rows = random_rows(rng, n_samples=n_samples, n_features=6)
    table = random_table(rng, rows.n_features, 8)
    everything = score(core, rows, table)
    middle = n_samples // 2
    for first, stop in [(0, 1), (1, middle), (middle, n_samples), (n_samples - 1, n_samples), (4, 4)]:
        expected = np.full(n_samples, np.nan)
        expected[first:stop] = everything[first:stop]
        assert_array_equal(score(core, rows, table, first, stop), expected)
    assert_array_equal(score(core, rows, table, n_samples, n_samples), np.full(n_samples, np.nan))


# ---------------------------------------------------------------------------------------------
# Gradients
# ---------------------------------------------------------------------------------------------


def gradient_by_differences(x, stored, y, weight, params, settings):
    """Central differences of the objective, in the shapes of w0, w, V."""
    h = 1e-5
    flat = np.concatenate([np.ravel(array) for array in params])
    gradient = np.empty(len(flat))
    n = len(params[1])
    for i in range(len(flat)):
        values = []
        for sign in (1.0, -1.0):
            moved = flat.copy()
            moved[i] += sign * h
            moved = moved[0], moved[1 : 1 + n], moved[1 + n :].reshape(params[2].shape)
            values.append(reference.objective(x, stored, y, weight, *moved, **settings))
        gradient[i] = (values[0] - values[1]) / (2 * h)
    return gradient[0], gradient[1 : 1 + n], gradient[1 + n :].reshape(params[2].shape)


def one_row(rng, n_features=9):
    stored = np.arange(n_features) % 4 != 2
    dense = np.where(stored, rng.normal(size=n_features), 0.0)
    dense[1] = 0.0  # explicit
    return Rows(dense[None], stored[None])


SETTINGS = [
    ({"reg_w": 0.0, "reg_V": 0.0}, None),
    ({"reg_w": 0.3, "reg_V": 0.0}, None),
    ({"reg_w": 0.0, "reg_V": 0.7}, None),
    ({"reg_w": 0.3, "reg_V": 0.7}, 2.5),
    ({"reg_w": 0.3, "reg_V": 0.7}, 0.0),
]


@pytest.mark.parametrize(("reg", "weight"), SETTINGS)
@pytest.mark.parametrize("n_factors", [0, 1, 3, 8, 16, 24, 32, 48, 64, 65, 96, 128, 300])
@pytest.mark.parametrize("loss", reference.LOSSES)
def test_a_step_of_sgd_is_the_gradient(core, loss, n_factors, reg, weight):
    """A step of SGD is linear in its rate: at rate 1 it is the gradient itself."""
    rng = np.random.default_rng(9)
    rows, y, settings = one_row(rng), 1.0, {"loss": loss, **reg}
    table = random_table(rng, rows.n_features, n_factors)
    before = parameters(table)
    sample = rows.dense[0], rows.stored[0], y, 1.0 if weight is None else weight

    loss_sum = train(core, rows, [y], table, sample_weight=None if weight is None else [weight], **settings)
    step = [b - a for b, a in zip(before, parameters(table), strict=True)]

    expected_loss = reference.objective(*sample, *before, loss=loss, reg_w=0.0, reg_V=0.0)
    assert_allclose(loss_sum, expected_loss, rtol=1e-12)
    for actual, gradient in zip(
        step, reference.objective_gradient(*sample, *before, **settings), strict=True
    ):
        assert_allclose(actual, gradient, rtol=1e-10, atol=1e-13)
    for actual, gradient in zip(step, gradient_by_differences(*sample, before, settings), strict=True):
        assert_allclose(actual, gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("solver", STOCHASTIC)
@pytest.mark.parametrize("loss", reference.LOSSES)
def test_a_step_of_float32(core, loss, solver):
    """The same step as in float64, to the precision of float32."""
    steps = []
    for dtype in ("float32", "float64"):
        rng = np.random.default_rng(10)
        rows = one_row(rng)
        rows = replace(rows, data=rows.data.astype("float32"))
        table = random_table(rng, rows.n_features, 8, dtype, solver)
        before = parameters(table)
        train(core, rows, [1.0], table, solver=solver, loss=loss, reg_w=0.1, reg_V=0.2)
        steps.append([b - a for b, a in zip(before, parameters(table), strict=True)])
    for single, double in zip(*steps, strict=True):
        assert_allclose(single, double, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_factors", [0, 1, 8, 65])
@pytest.mark.parametrize("loss", reference.LOSSES)
def test_a_step_of_adagrad(core, loss, n_factors):
    """G += g^2 (one G for a row of V), then theta -= rate / sqrt(G) g."""
    rng = np.random.default_rng(11)
    rows, y, weight, settings = one_row(rng), 1.0, 1.5, {"loss": loss, "reg_w": 0.3, "reg_V": 0.7}
    table = random_table(rng, rows.n_features, n_factors, solver="adagrad")
    w0, w, V = parameters(table)
    train(core, rows, [y], table, sample_weight=[weight], solver="adagrad", learning_rate=0.1, **settings)

    g_w0, g_w, g_V = reference.objective_gradient(
        rows.dense[0], rows.stored[0], y, weight, w0, w, V, **settings
    )
    G_w0, G_w, G_V = 0.25 + g_w0**2, 0.25 + g_w**2, 0.25 + (g_V**2).sum(axis=1)
    assert_allclose(table.bias[0, :2], [w0 - 0.1 / np.sqrt(G_w0) * g_w0, G_w0], rtol=1e-12)
    assert_allclose(table.w[0], w - 0.1 / np.sqrt(G_w) * g_w, rtol=1e-12)
    assert_allclose(table.V[0], V - 0.1 / np.sqrt(G_V)[:, None] * g_V, rtol=1e-11)
    assert_allclose(table.state[0], np.stack([G_w, G_V], axis=1), rtol=1e-12)


def ftrl_step(theta, r, n, g, rate, l1):
    """FTRL-Proximal for one coordinate (McMahan et al. 2013, algorithm 1, with beta = 1): (theta, r, n).

    In the terms of the paper; the kernel keeps theta and r = clip(z, -l1, l1), and these make z.
    """
    z = r - theta * (1.0 + np.sqrt(n)) / rate
    z += g - (np.sqrt(n + g * g) - np.sqrt(n)) / rate * theta
    n += g * g
    if abs(z) <= l1:
        return 0.0, z, n
    return -(z - np.sign(z) * l1) / ((1.0 + np.sqrt(n)) / rate), np.sign(z) * l1, n


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("n_factors", [0, 1, 8, 65])
@pytest.mark.parametrize("loss", reference.LOSSES)
def test_a_step_of_ftrl(core, loss, n_factors, fresh):
    """Coordinate by coordinate."""
    rng = np.random.default_rng(22)
    rows, y, weight, rate = one_row(rng), 1.0, 1.5, 0.1
    table = random_table(rng, rows.n_features, n_factors, solver="ftrl")
    table.state[:] = 0.0 if fresh else rng.uniform(0.0, 2.0, table.state.shape)
    table.bias[0, 1:] = 0.0 if fresh else [0.0, 0.9]
    table.w[0, 1] = 0.0 if fresh else 0.001
    if not fresh:
        table.state[0, 1, 0] = -0.5  # l1_w holds it no longer, but it has hardly moved: back to 0
    w0, w, V = parameters(table)
    r_w, n_w, n_V = np.split(table.state[0], [1, 2], axis=1)
    settings = {"loss": loss, "reg_w": 0.3, "reg_V": 0.7}
    g_w0, g_w, g_V = reference.objective_gradient(
        rows.dense[0], rows.stored[0], y, weight, w0, w, V, **settings
    )
    expected = copy.deepcopy(table)
    expected.bias[0] = ftrl_step(w0, *table.bias[0, 1:], g_w0, rate, 0.0)
    for j in np.flatnonzero(rows.stored[0]):
        expected.w[0, j], *expected.state[0, j, :2] = ftrl_step(w[j], r_w[j, 0], n_w[j, 0], g_w[j], rate, 0.5)
        for f in range(n_factors):
            expected.V[0, j, f], _, expected.state[0, j, 2 + f] = ftrl_step(
                V[j, f], 0.0, n_V[j, f], g_V[j, f], rate, 0.0
            )
    train(
        core, rows, [y], table,
        sample_weight=[weight], solver="ftrl", learning_rate=rate, l1_w=0.5, **settings,
    )  # fmt: skip
    assert_allclose(table.bias, expected.bias, rtol=1e-12, atol=1e-13)
    used = table.width + 1 + table.state_size
    assert_allclose(table.rows[0, :, :used], expected.rows[0, :, :used], rtol=1e-10, atol=1e-13)
    assert (table.w[0, 1] == 0.0) == (expected.w[0, 1] == 0.0)  # exactly


@pytest.fixture(scope="module")
def long_step():
    """One row longer than the kernel's buffer, a table, and the gradient by the definition."""
    rng = np.random.default_rng(12)
    rows = long_rows(rng, [9_100])
    table = random_table(rng, rows.n_features, 2, solver="adagrad", init_std=0.01)
    gradient = reference.objective_gradient(
        rows.dense[0], rows.stored[0], 1.0, 1.0, *parameters(table), loss="squared", reg_w=0.0, reg_V=0.0
    )
    return rows, table, gradient


@pytest.mark.parametrize("solver", ["sgd", "adagrad"])
def test_a_step_over_a_row_longer_than_the_buffer(core, long_step, solver):
    rows, initial, (g_w0, g_w, g_V) = long_step
    table = copy.deepcopy(initial)
    train(core, rows, [1.0], table, solver=solver, learning_rate=1e-3)
    if solver == "adagrad":
        g_w0, g_w = g_w0 / np.sqrt(0.25 + g_w0**2), g_w / np.sqrt(0.25 + g_w**2)
        g_V = g_V / np.sqrt(0.25 + (g_V**2).sum(axis=1))[:, None]
    for before, after, g in zip(parameters(initial), parameters(table), (g_w0, g_w, g_V), strict=True):
        assert_allclose(before - after, 1e-3 * g, rtol=1e-8, atol=1e-12)


def test_the_loss_of_a_pass_is_the_sum_over_the_samples(core):
    """With a rate of 0 the parameters stand still, and the loss is that of the initial model."""
    rng = np.random.default_rng(13)
    rows = random_rows(rng, n_samples=40)
    y, weight = rng.integers(0, 2, 40).astype(float), rng.uniform(0.0, 2.0, 40)
    table = random_table(rng, rows.n_features, 4)
    before = table.rows.copy()
    scores = reference.score(rows.dense, *parameters(table))
    for loss in reference.LOSSES:
        actual = train(core, rows, y, table, loss=loss, sample_weight=weight, learning_rate=0.0, n_lanes=3)
        assert_allclose(actual, weight @ reference.loss_value(loss, scores, y), rtol=1e-12)
        assert_array_equal(table.rows, before)


# ---------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------

# loss, score, y, value, derivative; those of the logistic loss from log(1 + e^s) = s + log(1 + e^-s)
EXTREMES = [
    ("squared", 1e4, 1.0, 0.5 * 9999.0**2, 9999.0),
    ("squared", -1e4, 1.0, 0.5 * 10001.0**2, -10001.0),
    ("logistic", 1e4, 0.0, 1e4, 1.0),
    ("logistic", 1e4, 1.0, 0.0, 0.0),
    ("logistic", -1e4, 0.0, 0.0, 0.0),
    ("logistic", -1e4, 1.0, 1e4, -1.0),
    ("logistic", 1e17, 0.0, 1e17, 1.0),
    ("logistic", -1e17, 0.0, 0.0, 0.0),
    ("logistic", 710.0, 0.0, 710.0, 1.0),
    ("logistic", 40.0, 1.0, math.exp(-40.0), 0.0),
    ("logistic", -40.0, 0.0, math.exp(-40.0), math.exp(-40.0)),
    ("logistic", 0.0, 0.0, math.log(2.0), 0.5),
    ("logistic", 0.0, 1.0, math.log(2.0), -0.5),
    ("logistic", 2.0, 0.25, math.log1p(math.exp(2.0)) - 0.5, 1.0 / (1.0 + math.exp(-2.0)) - 0.25),
    ("logistic", -2.0, 0.25, math.log1p(math.exp(-2.0)) + 0.5, 1.0 / (1.0 + math.exp(2.0)) - 0.25),
]


@pytest.mark.parametrize(("loss", "score", "y", "value", "derivative"), EXTREMES)
def test_loss_and_derivative_at_extreme_scores(core, loss, score, y, value, derivative):
    """The score is w0 alone; with one weight that starts at 0, SGD at rate 1 leaves -dloss in it."""
    table = ParameterTable(1, 1, 0, 0, "float64")
    table.rows[:] = 0.0
    table.bias[0] = [score, 0.0, 0.0]
    one = np.ones((1, 1))
    assert_allclose(train(core, Rows(one, one > 0), [y], table, loss=loss), value, rtol=1e-14, atol=0.0)
    # Where the derivative is nearly 0 at y = 1, it is a difference of two numbers near 1.
    assert_allclose(-table.w[0, 0], derivative, rtol=1e-14, atol=1e-16 if y == 1.0 else 0.0)


@pytest.mark.parametrize("loss", reference.LOSSES)
def test_the_derivative_is_that_of_the_loss(core, loss):
    """By finite differences, over scores where they are meaningful."""
    one, h = np.ones((1, 1)), 1e-5

    def run(score, y):
        table = ParameterTable(1, 1, 0, 0, "float64")
        table.rows[:] = 0.0
        table.bias[0] = [score, 0.0, 0.0]
        return train(core, Rows(one, one > 0), [y], table, loss=loss), -table.w[0, 0]

    for y in (0.0, 0.3, 1.0):
        for at in np.linspace(-15.0, 15.0, 31):
            difference = (run(at + h, y)[0] - run(at - h, y)[0]) / (2 * h)
            assert_allclose(run(at, y)[1], difference, rtol=1e-6, atol=1e-9)
