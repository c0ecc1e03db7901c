"""Several threads: their own rows of frequent features, and that nothing is lost between them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.sparse as sp
from kernel_calls import Rows, random_rows, random_table, train
from numpy.testing import assert_allclose, assert_array_equal
from problems import STOCHASTIC

from fmfast import FMClassifier, FMRegressor
from fmfast.solvers import SOLVERS
from fmfast.solvers import threads as module
from fmfast.solvers.threads import MAX_FREQUENT, N_SLOTS, Threads, frequent_features
from fmfast.validation import check_X

SETTINGS = {
    "sgd": {"solver": "sgd", "learning_rate": 0.01, "reg_w": 0.02, "reg_V": 0.05},
    "adagrad": {"solver": "adagrad", "learning_rate": 0.05, "reg_w": 0.02, "reg_V": 0.05},
    "ftrl": {"solver": "ftrl", "learning_rate": 0.05, "reg_w": 0.02, "reg_V": 0.05, "l1_w": 0.1},
}


@pytest.fixture(autouse=True)
def _own_rows_on_small_data(monkeypatch):
    monkeypatch.setattr(module, "MIN_SAMPLES", 0)


def owners(core, table, features):
    owner = np.zeros(64, dtype=np.int64)
    core.own_slots(np.asarray(features, dtype=np.int64), table.rows.shape[2], owner)
    return owner


def own_arguments(table, owner, *, share=1.0, rows_per_merge=10_000, period=None):
    """What a thread gets that has just taken its rows."""
    slots = np.flatnonzero(owner >= 0)
    own_rows = np.full((2, len(owner), table.rows.shape[2]), np.nan, dtype=table.dtype)
    own_rows[:, slots] = table.rows[0][owner[slots] // table.rows.shape[2]]
    return {
        "owner": owner,
        "own_rows": own_rows,
        "period": np.ones(len(owner), dtype=np.int64) if period is None else period,
        "share": share,
        "rows_per_merge": rows_per_merge,
        "merge_lock": np.zeros(1, dtype=np.int32),
    }


def merge(core, table, own):
    core.merge_rows(table.rows[0], own["owner"], own["own_rows"], own["share"])


def checked(dense, dtype="float64"):
    return check_X(sp.csr_array(dense), dtype=np.dtype(dtype))


# ---------------------------------------------------------------------------------------------
# Slots
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [4, 12, 36, 64])
@pytest.mark.parametrize("distance", [1, 64, 512, 1 << 14])
def test_features_find_slots(core, stride, distance):
    """Also features at power-of-two distances; each has one slot at most, and the first come first."""
    features = np.arange(MAX_FREQUENT, dtype=np.int64) * distance
    owner = np.zeros(N_SLOTS, dtype=np.int64)
    core.own_slots(features, stride, owner)
    held = owner[owner >= 0] // stride
    assert len(np.unique(held)) == len(held) > 0.6 * MAX_FREQUENT
    assert np.isin(held, features).all()
    core.own_slots(features[:1], stride, owner)
    assert_array_equal(owner[owner >= 0], features[:1] * stride)


def test_of_features_with_the_same_slot_the_first_gets_it(core):
    owner = np.zeros(2, dtype=np.int64)
    core.own_slots(np.arange(5, 15, dtype=np.int64), 4, owner)
    first = owner.copy()
    assert 20 in first
    core.own_slots(np.arange(5, 1000, dtype=np.int64), 4, owner)
    assert_array_equal(owner, first)


# ---------------------------------------------------------------------------------------------
# Merging
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_merging_adds_a_share_of_the_change(core, dtype):
    rng = np.random.default_rng(0)
    table = random_table(rng, 30, 5, dtype)
    table.rows[:] = rng.normal(size=table.rows.shape)
    owner = owners(core, table, [3, 17, 29])
    own = own_arguments(table, owner, share=0.25)
    slots = np.flatnonzero(owner >= 0)
    features = owner[slots] // table.rows.shape[2]
    before = table.rows[0].copy()
    own["own_rows"][0, slots] += 1.0
    table.rows[0, features] += 0.5  # another thread has merged meanwhile
    merge(core, table, own)
    expected = before.copy()
    expected[features] += 0.75
    assert_allclose(table.rows[0], expected, rtol=1e-6)
    assert_array_equal(own["own_rows"][0, slots], table.rows[0, features])
    assert_array_equal(own["own_rows"][1, slots], table.rows[0, features])
    merged = table.rows.copy()
    merge(core, table, own)
    assert_array_equal(table.rows, merged)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("features", [[], [0, 1, 4, 21], range(22)], ids=["none", "some", "all"])
@pytest.mark.parametrize("n_factors", [0, 5, 8, 70])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", SETTINGS)
def test_two_threads_one_after_the_other(core, solver, dtype, n_factors, features, share):
    """Each sees what the other did to shared rows, and frequent ones as they were before both."""
    rng = np.random.default_rng(n_factors)
    rows = random_rows(rng, n_samples=40, dtype=dtype)
    y, weight = rng.normal(size=40), rng.uniform(0.5, 2.0, 40)
    table = random_table(rng, rows.n_features, n_factors, dtype, solver)
    table.rows[np.isnan(table.rows)] = 0.0  # the padding
    settings = {**SETTINGS[solver], "sample_weight": weight}
    halves = [np.arange(0, 20), np.arange(20, 40)]
    owner = owners(core, table, features)
    own_features = owner[owner >= 0] // table.rows.shape[2]

    expected = copy.deepcopy(table)
    before = expected.rows[0, own_features].copy()
    change = np.zeros_like(before)
    losses = []
    for half in halves:
        expected.rows[0, own_features] = before
        losses.append(train(core, rows, y, expected, runs=half, **settings))
        change += expected.rows[0, own_features] - before
    expected.rows[0, own_features] = before + share * change

    threads = [own_arguments(table, owner, share=share) for _ in halves]
    # The kernel merges once it has visited a chunk: a lock that is taken leaves that to the end.
    for own in threads:
        own["merge_lock"][0] = 1
    for half, own, loss in zip(halves, threads, losses, strict=True):
        assert_allclose(train(core, rows, y, table, runs=half, **settings, **own), loss, rtol=1e-6)
    for own in threads:
        merge(core, table, own)
        assert own["merge_lock"][0] == 1
    assert_allclose(table.rows, expected.rows, rtol=1e-5, atol=1e-6)
    assert_allclose(table.bias, expected.bias, rtol=1e-6)


@pytest.mark.parametrize("rows_per_merge", [1, 3, 1000])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("solver", SETTINGS)
def test_a_thread_alone_trains_as_without_own_rows(core, solver, index_dtype, rows_per_merge):
    rng = np.random.default_rng(1)
    rows = random_rows(rng, n_samples=50, index_dtype=index_dtype)
    y = rng.normal(size=50)
    table = random_table(rng, rows.n_features, 8, solver=solver)
    table.rows[np.isnan(table.rows)] = 0.0
    expected = copy.deepcopy(table)
    owner = owners(core, table, range(0, 22, 2))
    period = rng.choice([1, 2, 8], len(owner))
    own = own_arguments(table, owner, rows_per_merge=rows_per_merge, period=period)
    loss = train(core, rows, y, expected, **SETTINGS[solver])
    assert_allclose(train(core, rows, y, table, **SETTINGS[solver], **own), loss, rtol=1e-9)
    assert own["merge_lock"][0] == 0
    merge(core, table, own)
    assert_allclose(table.rows, expected.rows, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------------------------------------
# Frequent features
# ---------------------------------------------------------------------------------------------


def test_frequent_features_are_counted():
    dense = np.zeros((200, 6))
    dense[:, 4] = 1.0
    dense[::2, 1] = 2.0
    dense[7, 0] = 1.0
    features, frequency = frequent_features(checked(dense))
    assert_array_equal(features, [4, 1])
    assert_allclose(frequency, [1.0, 0.5])


@pytest.mark.parametrize("n_samples", [1, 5])
def test_rows_without_nonzeros(n_samples):
    features, frequency = frequent_features(checked(np.zeros((n_samples, 3))))
    assert len(features) == len(frequency) == 0


def test_large_data_is_counted_in_part(monkeypatch):
    rng = np.random.default_rng(0)
    p = np.concatenate([[0.9, 0.5, 0.1], np.full(2000, 0.001)])
    rows = checked(rng.random((4000, len(p))) < p)
    monkeypatch.setattr(module, "_N_DRAWN", 4096)
    monkeypatch.setattr(module, "_STRETCH", 64)
    features, frequency = frequent_features(rows)
    assert_array_equal(features[:3], [0, 1, 2])
    assert_allclose(frequency[:3], p[:3], rtol=0.4)


def test_no_more_than_fit_the_cache():
    features, frequency = frequent_features(checked(np.ones((30, 3 * MAX_FREQUENT))))
    assert len(features) == MAX_FREQUENT
    assert_allclose(frequency, 1.0)


@pytest.mark.parametrize(("n_threads", "n_own"), [(2, 0), (3, 2)])
def test_no_own_rows_where_they_do_not_pay(n_threads, n_own):
    """Two features that every sample has, a sixth of the nonzeros, the others rare."""
    rows = checked(np.hstack([np.ones((300, 2)), np.repeat(np.eye(300), 10, axis=1)]))
    with Threads(n_threads, rows) as threads:
        assert_array_equal(threads.frequent, np.arange(n_own))


def test_no_own_rows_on_small_data(monkeypatch):
    monkeypatch.setattr(module, "MIN_SAMPLES", 301)
    with Threads(2, checked(np.ones((300, 2)))) as threads:
        assert len(threads.frequent) == 0


# ---------------------------------------------------------------------------------------------
# Threads at work
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [2, 3, 5])
def test_no_update_is_lost(n_threads):
    """With steps of length next to nothing the gradients are known, and so is the sum of their squares."""
    rng = np.random.default_rng(2)
    n_samples, n_features, n_factors = 60_000, 30, 8
    indices = np.sort(np.argsort(rng.random((n_samples, n_features)), axis=1)[:, :4], axis=1)
    X = sp.csr_array(
        (np.ones(4 * n_samples), indices.ravel(), np.arange(0, 4 * n_samples + 1, 4)),
        shape=(n_samples, n_features),
    )
    rows, y = check_X(X, dtype=np.dtype("float64")), rng.normal(size=n_samples)
    kind = SOLVERS["adagrad"]
    solver = kind.configured("regression", 4.0, learning_rate=1e-12)
    tables = [solver.new_table(1, n_features, n_factors, np.dtype("float64"), 0.1, 0) for _ in range(2)]
    runs = np.arange(0, n_samples, 100)
    with Threads(n_threads, rows) as threads:
        assert len(threads.frequent) == n_features
        losses = [
            solver.run_epoch(table, 0, rows, y, np.empty(0), runs, 100, 0, team)
            for table, team in zip(tables, (None, threads), strict=True)
        ]
    assert losses[1] == pytest.approx(losses[0])
    owner = np.zeros(N_SLOTS, dtype=np.int64)
    module.core.own_slots(threads.frequent, tables[0].rows.shape[2], owner)
    own_features = owner[owner >= 0] // tables[0].rows.shape[2]
    assert len(own_features) > 0.6 * n_features
    assert_allclose(tables[1].state[0, own_features], tables[0].state[0, own_features], rtol=1e-6)
    assert tables[1].bias[0, 1] == pytest.approx(tables[0].bias[0, 1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_more_threads_than_rows(solver, dtype):
    dense = np.eye(3, 4, dtype=dtype)
    rows, y = checked(dense, dtype), np.array([1.0, -1.0, 2.0])
    fm = SOLVERS[solver].configured("regression", 1.0)
    table = fm.new_table(1, 4, 5, np.dtype(dtype), 0.1, 0)
    before = table.rows.copy()
    with Threads(7, rows) as threads:
        loss = fm.run_epoch(table, 0, rows, y, np.array([1.0, 2.0, 0.0]), np.arange(3), 1, 0, threads)
    assert np.isfinite(loss)
    assert table.all_finite()
    changed = (table.rows != before).any(axis=(0, 2))
    assert_array_equal(changed, [True, True, False, False])  # the third has no weight, the fourth no sample


@pytest.mark.parametrize("solver", STOCHASTIC)
@pytest.mark.parametrize("n_jobs", [2, 4])
def test_threads_learn_as_well_as_one(solver, n_jobs):
    """Two fields of few values: every row of the table is a frequent one."""
    rng = np.random.default_rng(3)
    n, sizes = 20_000, (7, 12)
    codes = rng.integers(0, sizes, (n, 2)) + np.array([0, sizes[0]])
    X = sp.csr_array((np.ones(2 * n), codes.ravel(), np.arange(0, 2 * n + 1, 2)), shape=(n, sum(sizes)))
    a, b = rng.normal(size=(sum(sizes), 2)), rng.normal(size=sum(sizes))
    score = (a[codes[:, 0]] * a[codes[:, 1]]).sum(axis=1) + b[codes].sum(axis=1)
    y = score + rng.normal(size=n)
    settings = {"solver": solver, "random_state": 0, "reg_w": 0.0, "reg_V": 0.0}
    one, several = (FMRegressor(4, n_jobs=jobs, **settings).fit(X, y) for jobs in (1, n_jobs))
    errors = [np.mean((fm.predict(X) - y) ** 2) for fm in (one, several)]
    assert errors[1] < 1.05 * errors[0]
    labels = FMClassifier(4, n_jobs=n_jobs, **settings).fit(X, score > 0)
    assert labels.score(X, score > 0) > 0.85


def test_values_other_than_one(core):
    """Own rows know addresses only; values, and rows that fill a chunk alone, are as everywhere."""
    rng = np.random.default_rng(4)
    stored = np.ones((3, 9_000), dtype=bool)
    rows = Rows(rng.normal(size=stored.shape), stored)
    y = rng.normal(size=3)
    table = random_table(rng, 9_000, 3, init_std=1e-3)
    table.rows[np.isnan(table.rows)] = 0.0
    table.w[:] *= 1e-3
    expected = copy.deepcopy(table)
    own = own_arguments(table, owners(core, table, range(0, 9_000, 7)), rows_per_merge=1)
    settings = {"solver": "sgd", "learning_rate": 1e-6}
    train(core, rows, y, expected, **settings)
    train(core, rows, y, table, **settings, **own)
    merge(core, table, own)
    assert_allclose(table.rows, expected.rows, rtol=1e-9, atol=1e-12)
