"""Order, divergence and side effects of the compiled kernel, for every instruction set of this machine."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import reference
from kernel_calls import (
    CHUNK_ROWS,
    Rows,
    assert_scores,
    parameters,
    random_rows,
    random_table,
    score,
    train,
)
from numpy.testing import assert_allclose, assert_array_equal
from problems import STOCHASTIC

from fmfast._dispatch import available_levels, load_core
from fmfast.table import ParameterTable

LEVELS = available_levels()
FACTORS = [0, 1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 64, 65, 128, 200]


# ---------------------------------------------------------------------------------------------
# Order of the visit
# ---------------------------------------------------------------------------------------------


def visited(core, n_samples, runs, run_length, n_lanes):
    """The rows in the order in which the kernel visited them, as the parameters tell it.

    Row i has a column of its own and the target i + 1; the loss is squared and the rate 1. A visit then
    sets w0 to i + 1, whatever it was, and w_i to i + 1 minus what w0 was: the target of the row
    visited before, or 0 for the first one.
    """
    table = ParameterTable(1, n_samples, 0, 0, "float64")
    table.rows[:] = 0.0
    rows = Rows(np.empty((n_samples, 0)), np.empty((n_samples, 0), dtype=bool))
    rows.data, rows.indices, rows.indptr = (
        np.empty(0),
        np.arange(n_samples, dtype=np.int32),
        np.arange(n_samples + 1),
    )
    targets = np.arange(1.0, n_samples + 1.0)
    loss = train(core, rows, targets, table, runs=runs, run_length=run_length, n_lanes=n_lanes)
    previous = (targets - table.w[0]).astype(int) - 1  # row visited before each row, -1 for none
    following = {p: i for i, p in enumerate(previous.tolist()) if table.w[0, i] != 0.0}
    order, i = [], -1
    while (i := following.get(i)) is not None and len(order) < n_samples:
        order.append(i)
    assert order[-1] + 1 == table.w0[0]
    steps = np.diff(np.asarray(order) + 1.0, prepend=0.0)
    assert loss == 0.5 * steps @ steps  # hence no row was visited twice
    return order


@pytest.mark.parametrize(
    ("runs", "run_length", "n_lanes", "expected"),
    [
        # Lanes (6, 0), then (9, 3); the run at 9 is cut short by the end of X.
        ([6, 0, 9, 3], 3, 2, [6, 0, 7, 1, 8, 2, 9, 3, 10, 4, 5]),
        # Two lanes of three runs: the last one runs alone.
        ([4, 8, 0], 4, 2, [4, 8, 5, 9, 6, 10, 7, 0, 1, 2, 3]),
        ([8, 4, 0], 4, 3, [8, 4, 0, 9, 5, 1, 10, 6, 2, 7, 3]),
        ([8, 4, 0], 4, 1, [8, 9, 10, 4, 5, 6, 7, 0, 1, 2, 3]),
        # More lanes than runs.
        ([4, 8, 0], 4, 32, [4, 8, 0, 5, 9, 1, 6, 10, 2, 7, 3]),
        ([0], 11, 2, list(range(11))),
        # Some of the runs, as a thread or a segment has them.
        ([8, 2], 2, 1, [8, 9, 2, 3]),
        ([10, 2, 0, 8, 1, 7], 1, 4, [10, 2, 0, 8, 1, 7]),
    ],
)
def test_runs_are_interleaved_as_documented(core, runs, run_length, n_lanes, expected):
    assert visited(core, 11, runs, run_length, n_lanes) == expected


@pytest.mark.parametrize("n_lanes", [1, 5, 32])
@pytest.mark.parametrize("run_length", [1, 3, 64, 1000])
@pytest.mark.parametrize("n_samples", [1, 31, CHUNK_ROWS, 2 * CHUNK_ROWS + 100])
def test_every_row_is_visited_once(core, n_samples, run_length, n_lanes):
    rng = np.random.default_rng(14)
    runs = rng.permutation(-(-n_samples // run_length)) * run_length
    order = visited(core, n_samples, runs, run_length, n_lanes)
    assert_array_equal(np.sort(order), np.arange(n_samples))
    # A row's place: its group of lanes, then its place in the run, then its lane.
    place_of_run = np.empty(len(runs), dtype=int)
    place_of_run[runs // run_length] = np.arange(len(runs))
    place = place_of_run[np.arange(n_samples) // run_length]
    expected = np.lexsort((place % n_lanes, np.arange(n_samples) % run_length, place // n_lanes))
    assert_array_equal(order, expected)


def test_no_runs(core):
    rng = np.random.default_rng(15)
    rows = random_rows(rng)
    table = random_table(rng, rows.n_features, 2)
    before = table.rows.copy()
    assert train(core, rows, np.ones(rows.n_samples), table, runs=[]) == 0.0
    assert_array_equal(table.rows, before)


# ---------------------------------------------------------------------------------------------
# Divergence
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", STOCHASTIC)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_divergence_returns_infinity(core, dtype, solver):
    rng = np.random.default_rng(16)
    rows = random_rows(rng, n_samples=200)
    table = random_table(rng, rows.n_features, 4, dtype, solver)
    assert train(core, rows, rng.normal(size=200), table, solver=solver, learning_rate=1e12) == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e19, -1e19])
@pytest.mark.parametrize("where", ["w0", "w", "V"])
@pytest.mark.parametrize("loss", reference.LOSSES)
def test_bad_parameters_return_infinity(core, loss, where, bad):
    """Wherever the bad number stands, and though chunks of good rows come before and after."""
    rng = np.random.default_rng(17)
    n_samples = 3 * CHUNK_ROWS
    stored = np.zeros((n_samples, 4), dtype=bool)
    stored[:, 0] = True
    stored[CHUNK_ROWS + 10, 1:] = True
    rows = Rows(stored.astype(float), stored)
    table = random_table(rng, 4, 2)
    {"w0": table.w0, "w": table.w[0, 2:3], "V": table.V[0, 2:, 1]}[where][:] = bad
    assert train(core, rows, np.ones(n_samples), table, loss=loss, learning_rate=1e-9) == np.inf


def test_large_scores_are_no_divergence(core):
    rows = random_rows(np.random.default_rng(18))
    table = random_table(np.random.default_rng(18), rows.n_features, 2)
    table.bias[0, 0] = 1e12
    assert np.isfinite(train(core, rows, np.zeros(rows.n_samples), table, learning_rate=1e-16))


# ---------------------------------------------------------------------------------------------
# What the kernel leaves alone
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_factors", [0, 1, 8, 9, 64, 65])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_training_touches_nothing_but_its_features(core, solver, dtype, n_factors):
    """Not the padding, nor the rows of absent features, nor what lies before and behind the table."""
    rng = np.random.default_rng(19)
    rows = random_rows(rng)
    # Two rows more at either end, of which the kernel knows nothing.
    surroundings = random_table(rng, rows.n_features + 4, n_factors, dtype, solver)
    table = copy.copy(surroundings)
    table.rows = surroundings.rows[:, 2:-2]
    bytes_before, bias = surroundings.rows.view(np.uint8).copy(), table.bias.copy()
    train(core, rows, rng.normal(size=rows.n_samples), table, solver=solver, learning_rate=1e-3)

    # As bytes, since the padding is NaN.
    changed = (surroundings.rows.view(np.uint8) != bytes_before)[0]
    changed = changed.reshape(*surroundings.rows.shape[1:], -1).any(axis=2)
    used = np.concatenate([[False] * 2, rows.stored.any(axis=0), [False] * 2])
    moved = np.zeros(changed.shape[1], dtype=bool)
    is_factor = np.arange(table.width) < n_factors  # not the zeros behind them
    own = {"sgd": [True], "adagrad": [True, True, n_factors > 0], "ftrl": [True] * 3}[solver]
    parts = [is_factor, own] + ([is_factor] if solver == "ftrl" else [])
    moved[: sum(map(len, parts))] = np.concatenate(parts)
    assert_array_equal(changed[used][:, moved], True)
    assert_array_equal(changed[used][:, ~moved], False)
    assert_array_equal(changed[~used], False)
    n_bias = {"sgd": 1, "adagrad": 2, "ftrl": 3}[solver]
    assert_array_equal(table.bias[0] != bias[0], np.arange(3) < n_bias)


@pytest.mark.parametrize("x_dtype", ["float32", "float64"])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_read_only_arrays_are_accepted(core, index_dtype, x_dtype):
    rng = np.random.default_rng(20)
    rows = random_rows(rng, dtype=x_dtype, index_dtype=index_dtype)
    table = random_table(rng, rows.n_features, 3)
    inputs = *rows.csr, rng.normal(size=rows.n_samples), np.ones(rows.n_samples), np.arange(rows.n_samples)
    for array in inputs:
        array.flags.writeable = False
    kept = [array.copy() for array in inputs]
    y, weight, runs = inputs[3:]
    assert train(core, rows, y, table, sample_weight=weight, runs=runs, learning_rate=1e-3) > 0.0
    table.rows.flags.writeable = False
    assert_scores(score(core, rows, table), rows.dense, table)
    for array, expected in zip(inputs, kept, strict=True):
        assert_array_equal(array, expected)


# ---------------------------------------------------------------------------------------------
# Instruction sets
# ---------------------------------------------------------------------------------------------


def trained(level, n_factors, solver, dtype):
    """Parameters and scores after three passes at one level."""
    core, rng = load_core(level), np.random.default_rng(21)
    rows, y = random_rows(rng, n_samples=200), rng.normal(size=200)
    table = random_table(rng, rows.n_features, n_factors, dtype, solver, init_std=0.1)
    for _ in range(3):
        train(core, rows, y, table, solver=solver, n_lanes=32, learning_rate=0.01, reg_w=0.01, reg_V=0.01)
    return *parameters(table), score(core, rows, table)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-4), ("float64", 1e-11)])
@pytest.mark.parametrize("solver", STOCHASTIC)
@pytest.mark.parametrize("n_factors", [0, 5, 8, 16, 32, 64, 70])
@pytest.mark.parametrize("level", LEVELS[1:])
def test_levels_agree(level, n_factors, solver, dtype, rtol):
    for actual, expected in zip(
        trained(level, n_factors, solver, dtype), trained(LEVELS[0], n_factors, solver, dtype), strict=True
    ):
        assert_allclose(actual, expected, rtol=rtol, atol=rtol)


def test_the_same_call_gives_the_same_bytes():
    for level in LEVELS:
        first, second = (trained(level, 9, "adagrad", "float32") for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert_array_equal(a, b)
