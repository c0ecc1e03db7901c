"""The NumPy baseline against the definition, and the compiled kernel against the baseline."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from kernel_calls import train
from numpy.testing import assert_allclose, assert_array_equal

from fmfast import numpy_baseline
from fmfast._dispatch import available_levels, load_core
from fmfast.numpy_baseline import LOSSES, SOLVERS, Parameters
from fmfast.table import ParameterTable, padded_width


def random_rows(rng, n_samples=60, n_features=25, dtype="float64", index_dtype="int32"):
    """CSR with negative and non-binary values, an explicit zero, empty rows, and an unused column."""
    dense = rng.normal(size=(n_samples, n_features)) * (rng.random((n_samples, n_features)) < 0.25)
    dense[[0, n_samples // 2, n_samples - 1]] = 0.0
    dense[:, 3] = 0.0
    X = sp.csr_array(dense.astype(dtype))
    X.data[5] = 0.0
    X.indices, X.indptr = X.indices.astype(index_dtype), X.indptr.astype(index_dtype)
    return X


def random_parameters(rng, n_features=25, n_factors=4, dtype="float64", solver="adagrad"):
    p = Parameters.create(
        n_features, n_factors, rng, solver=solver, init_std=0.3, initial_accumulator=0.1, dtype=dtype
    )
    p.w0 = 0.3
    p.w += rng.normal(0.0, 0.3, n_features).astype(dtype)
    return p


def random_targets(rng, loss, n_samples=60):
    return rng.normal(size=n_samples) if loss == "squared" else rng.integers(0, 2, n_samples).astype(float)


def assert_same(actual, expected, rtol):
    """Every number of two `Parameters` agrees, relative to the largest of its kind."""
    assert actual.solver == expected.solver
    for name in ("w0", "w", "V", "state_w0", "state_w", "state_V"):
        a, e = getattr(actual, name), getattr(expected, name)
        pairs = zip(a, e, strict=True) if isinstance(e, tuple) else [(a, e)]
        for a, e in pairs:
            assert_allclose(a, e, rtol=rtol, atol=rtol * np.max(np.abs(e), initial=1e-3), err_msg=name)


# ---------------------------------------------------------------------------------------------
# Score
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_factors", [0, 1, 5])
def test_linear_time_score_equals_the_definition(n_factors):
    rng = np.random.default_rng(0)
    X, p = random_rows(rng), random_parameters(rng, n_factors=n_factors)
    assert_allclose(numpy_baseline.score(X, p), numpy_baseline.score_all_pairs(X, p), rtol=1e-12, atol=1e-12)


def test_score_of_a_worked_example():
    p = Parameters(1.0, np.array([2.0, 3.0, 4.0]), np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 5.0]]))
    X = sp.csr_array(np.array([[1.0, -1.0, 2.0], [0.0, 0.0, 0.0]]))
    # 1 + (2 - 3 + 8) + [<v0,v1> 1 (-1) + <v0,v2> 1 2 + <v1,v2> (-1) 2] = 1 + 7 + [-2 + 0 - 10]
    assert_array_equal(numpy_baseline.score_all_pairs(X, p), [-4.0, 1.0])
    assert_array_equal(numpy_baseline.score(X, p), [-4.0, 1.0])


# ---------------------------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_dloss_is_the_derivative(loss, y):
    score, h = np.linspace(-20.0, 20.0, 41), 1e-5
    difference = numpy_baseline.loss_value(loss, score + h, y) - numpy_baseline.loss_value(loss, score - h, y)
    assert_allclose(numpy_baseline.dloss(loss, score, y), difference / (2 * h), rtol=1e-5, atol=1e-9)


def test_logistic_loss_at_large_scores():
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        scores = np.array([-1e4, 1e4])
        assert_array_equal(numpy_baseline.loss_value("logistic", scores, 0.0), [0.0, 1e4])
        assert_array_equal(numpy_baseline.loss_value("logistic", scores, 1.0), [1e4, 0.0])
        assert_array_equal(numpy_baseline.dloss("logistic", scores, 1.0), [-1.0, 0.0])
        # A loss far below the rounding error of 1 keeps its digits.
        assert_allclose(numpy_baseline.loss_value("logistic", 50.0, 1.0), np.exp(-50.0), rtol=1e-12)


# ---------------------------------------------------------------------------------------------
# Gradients
# ---------------------------------------------------------------------------------------------


def objective(X, y, p, loss, reg_w, reg_V, weights):
    """sum_i weight_i [loss_i + reg_w/2 sum_j w_j^2 + reg_V/2 sum_jf V_jf^2], j over the entries of row i."""
    entries = sp.csr_array((np.ones(X.nnz), X.indices, X.indptr), shape=X.shape)
    penalty = entries @ (0.5 * reg_w * p.w**2 + 0.5 * reg_V * (p.V**2).sum(axis=1))
    return float(
        weights @ (numpy_baseline.loss_value(loss, numpy_baseline.score_all_pairs(X, p), y) + penalty)
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_of_sgd_is_the_gradient_by_finite_differences(loss):
    rng = np.random.default_rng(1)
    X, y, p = (
        random_rows(rng, 12, 8),
        random_targets(rng, loss, 12),
        random_parameters(rng, 8, 3, solver="sgd"),
    )
    weights = rng.uniform(0.5, 2.0, 12)
    settings = {"loss": loss, "reg_w": 0.2, "reg_V": 0.3}

    after = p.copy()
    numpy_baseline.train_epoch_mini_batch(
        X, y, after, learning_rate=1.0, sample_weight=weights, batch_size=12, **settings
    )

    def derivative(change):
        h, values = 1e-6, []
        for sign in (1.0, -1.0):
            moved = p.copy()
            change(moved, sign * h)
            values.append(objective(X, y, moved, weights=weights, **settings))
        return (values[0] - values[1]) / (2 * h)

    def move_w0(q, h):
        q.w0 += h

    assert_allclose(p.w0 - after.w0, derivative(move_w0), rtol=1e-6)
    for j in range(8):

        def move_w(q, h, j=j):
            q.w[j] += h

        assert_allclose(p.w[j] - after.w[j], derivative(move_w), rtol=1e-6, atol=1e-8)
        for f in range(3):

            def move_V(q, h, j=j, f=f):
                q.V[j, f] += h

            assert_allclose(p.V[j, f] - after.V[j, f], derivative(move_V), rtol=1e-6, atol=1e-8)


def test_a_step_of_adagrad_by_hand():
    """One sample x = (2, -1), one factor pair: every number written out."""
    w, V = np.array([0.1, -0.2]), np.array([[1.0, 2.0], [3.0, -1.0]])
    p = Parameters(0.5, w, V, "adagrad", (1.0,), (np.ones(2),), (np.ones(2),))
    X = sp.csr_array(np.array([[2.0, -1.0]]))
    # score = 0.5 + 0.2 + 0.2 + (3 - 2) 2 (-1) = -1.1;  y = 0, so dloss = -1.1;  s = (-1, 5)
    loss = numpy_baseline.train_epoch(X, np.zeros(1), p, loss="squared", learning_rate=0.1)
    assert_allclose(loss, 0.5 * 1.1**2)
    g_w = -1.1 * np.array([2.0, -1.0])
    # g_V = dloss x_j (s_f - v_f x_j):  -2.2 (-3, 1) and 1.1 (2, 4)
    g_V = np.array([[6.6, -2.2], [2.2, 4.4]])
    (G_w0,), (G_w,), (G_V,) = p.state_w0, p.state_w, p.state_V
    assert_allclose(G_w0, 1.0 + 1.1**2)
    assert_allclose(p.w0, 0.5 + 0.1 / np.sqrt(G_w0) * 1.1)
    assert_allclose(G_w, 1.0 + g_w**2)
    assert_allclose(p.w, [0.1, -0.2] - 0.1 / np.sqrt(G_w) * g_w)
    assert_allclose(G_V, 1.0 + (g_V**2).sum(axis=1))
    assert_allclose(p.V, [[1.0, 2.0], [3.0, -1.0]] - 0.1 / np.sqrt(G_V)[:, None] * g_V)


def test_two_steps_of_ftrl_by_hand():
    """The sample x = (2, -1) of a linear model twice: every number written out; learning rate 1/2."""
    p = Parameters.create(2, 0, np.random.default_rng(0), solver="ftrl")
    X = sp.csr_array(np.array([[2.0, -1.0]]))
    settings = {"loss": "squared", "learning_rate": 0.5, "reg_w": 3.0, "l1_w": 2.5}
    # score = 0;  y = 2, so dloss = -2;  g_w0 = -2, g_w = (-4, 2);  all parameters are 0, so z = g, n = g^2
    assert_allclose(numpy_baseline.train_epoch(X, [2.0], p, **settings), 2.0)
    assert_allclose(p.state_w0, [0.0, 4.0])
    assert_allclose(p.w0, 2.0 / ((1.0 + 2.0) / 0.5))
    assert_allclose(p.state_w, [[-2.5, 2.0], [16.0, 4.0]])
    assert_allclose(p.w, [(4.0 - 2.5) / ((1.0 + 4.0) / 0.5), 0.0])  # |z_1| = 2 < l1_w
    # score = 1/3 + 2 * 0.15, so dloss = -41/30;  now in the terms of the paper
    w0, w, dloss = 1 / 3, np.array([0.15, 0.0]), -41 / 30
    assert_allclose(numpy_baseline.train_epoch(X, [2.0], p, **settings), 0.5 * dloss**2)
    g_w = dloss * np.array([2.0, -1.0]) + 3.0 * w
    n_0, n = 4.0 + dloss**2, [16.0, 4.0] + g_w**2
    z_0 = -2.0 + dloss - (np.sqrt(n_0) - 2.0) / 0.5 * w0
    z = np.array([-4.0, 2.0]) + g_w - (np.sqrt(n) - [4.0, 2.0]) / 0.5 * w
    assert_allclose(p.state_w0, [0.0, n_0])
    assert_allclose(p.w0, -z_0 / ((1.0 + np.sqrt(n_0)) / 0.5))
    assert_allclose(p.state_w, [[-2.5, 2.5], n])
    assert_allclose(p.w, -(z - [-2.5, 2.5]) / ((1.0 + np.sqrt(n)) / 0.5))


@pytest.mark.parametrize("train", [numpy_baseline.train_epoch, numpy_baseline.train_epoch_mini_batch])
def test_ftrl_goes_on_when_the_learning_rate_changes(train):
    """A parameter without gradient stays where it is, whatever the learning rate is now."""
    rng = np.random.default_rng(10)
    X, y, p = random_rows(rng), rng.normal(size=60), random_parameters(rng, solver="ftrl")
    train(X, y, p, learning_rate=0.2)
    before = p.copy()
    train(X, y, p, learning_rate=0.01, sample_weight=np.zeros(60))
    assert_array_equal(p.V, before.V)
    assert_allclose(p.w, before.w, rtol=1e-14)


# ---------------------------------------------------------------------------------------------
# Epochs
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_factors", [0, 3])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_batches_of_one_are_the_per_sample_algorithm(solver, loss, n_factors):
    rng = np.random.default_rng(2)
    X, y = random_rows(rng), random_targets(rng, loss)
    p = random_parameters(rng, n_factors=n_factors, solver=solver)
    q, weights = p.copy(), rng.uniform(0.5, 2.0, 60)
    settings = {
        "loss": loss,
        "learning_rate": 0.05,
        "reg_w": 0.01,
        "reg_V": 0.02,
        "l1_w": 0.5 if solver == "ftrl" else 0.0,
        "sample_weight": weights,
    }
    for _ in range(3):
        loss_p = numpy_baseline.train_epoch(X, y, p, **settings)
        loss_q = numpy_baseline.train_epoch_mini_batch(X, y, q, batch_size=1, **settings)
        assert_allclose(loss_q, loss_p, rtol=1e-10)
    assert_same(q, p, rtol=1e-10)


@pytest.mark.parametrize("train", [numpy_baseline.train_epoch, numpy_baseline.train_epoch_mini_batch])
@pytest.mark.parametrize("solver", SOLVERS)
def test_float32_stays_float32(train, solver):
    rng = np.random.default_rng(3)
    X, p = random_rows(rng, dtype="float64"), random_parameters(rng, dtype="float32", solver=solver)
    train(X, random_targets(rng, "logistic"), p, loss="logistic", reg_w=0.1, reg_V=0.1)
    for number in (p.w0, *p.state_w0):
        assert type(number) is float
    for array in (p.w, p.V, *p.state_w, *p.state_V):
        assert array.dtype == np.float32


@pytest.mark.parametrize(("solver", "learning_rate"), [("sgd", 5e-3), ("adagrad", 0.1), ("ftrl", 0.1)])
def test_mini_batches_learn(solver, learning_rate):
    rng = np.random.default_rng(4)
    X, truth = random_rows(rng, 2000), random_parameters(rng)
    y = numpy_baseline.score(X, truth)
    p = Parameters.create(25, 8, rng, solver=solver, init_std=0.1)
    losses = [
        numpy_baseline.train_epoch_mini_batch(X, y, p, learning_rate=learning_rate, batch_size=64)
        for _ in range(40)
    ]
    assert losses[-1] < 0.1 * losses[0]


def test_order_is_the_order_of_the_visit():
    rng = np.random.default_rng(5)
    X, y, p = random_rows(rng), random_targets(rng, "squared"), random_parameters(rng)
    q, order = p.copy(), rng.permutation(60)[:40]
    numpy_baseline.train_epoch(X, y, p, order=order)
    numpy_baseline.train_epoch(X[order], y[order], q)
    assert_same(p, q, rtol=1e-14)


@pytest.mark.parametrize("train", [numpy_baseline.train_epoch, numpy_baseline.train_epoch_mini_batch])
def test_unknown_names_are_refused(train):
    rng = np.random.default_rng(6)
    X, y, p = random_rows(rng), random_targets(rng, "squared"), random_parameters(rng)
    with pytest.raises(ValueError, match="solver is 'adam'; expected one of"):
        Parameters.create(25, 4, rng, solver="adam")
    with pytest.raises(ValueError, match="solver is 'adam'; expected one of"):
        train(X, y, Parameters(p.w0, p.w, p.V, solver="adam"))
    with pytest.raises(ValueError, match="loss is 'hinge'; expected one of"):
        train(X, y, p, loss="hinge")
    with pytest.raises(ValueError, match=r"l1_w is 0\.1 with solver 'adagrad'; expected 0, or"):
        train(X, y, p, l1_w=0.1)


# ---------------------------------------------------------------------------------------------
# The kernel
# ---------------------------------------------------------------------------------------------


CORES = {level: load_core(level) for level in available_levels()}


def pack(p):
    """The parameters in the layout of the kernel."""
    n_features, n_factors = p.V.shape
    zeros = [(0, 0), (0, padded_width(n_factors) - n_factors)]
    columns = [a[:, None] if a.ndim == 1 else np.pad(a, zeros) for a in (*p.state_w, *p.state_V)]
    state = np.concatenate([np.empty((n_features, 0)), *columns], axis=1)
    table = ParameterTable(1, n_features, n_factors, state.shape[1], p.w.dtype)
    table.rows[:] = 0.0
    table.bias[0, : 1 + len(p.state_w0)] = p.w0, *p.state_w0
    table.w[0], table.V[0], table.state[0] = p.w, p.V, state
    return table


def unpack(table, p):
    """The inverse of `pack`; p has the shapes."""
    arrays = (*p.state_w, *p.state_V)
    ends = np.cumsum([1 if a.ndim == 1 else table.width for a in arrays], dtype=int)
    columns = np.split(table.state[0], ends[:-1], axis=1) if arrays else []
    state = tuple(c[:, : a[0].size].reshape(a.shape) for c, a in zip(columns, arrays, strict=True))
    w0, *state_w0 = table.bias[0, : 1 + len(p.state_w0)]
    n_w = len(p.state_w)
    return Parameters(w0, table.w[0], table.V[0], p.solver, tuple(state_w0), state[:n_w], state[n_w:])


def train_kernel(core, X, y, table, *, order, data=None, **settings):
    """One epoch that visits the samples in the given order: runs of one row, one at a time."""
    csr = (X.data if data is None else data, X.indices, X.indptr.astype(np.int64))
    return train(core, SimpleNamespace(csr=csr), y, table, runs=order, **settings)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_factors", [0, 1, 3, 8, 16, 32, 64, 70])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-10), ("float32", 1e-4)])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("solver", "l1_w"), [("sgd", 0.0), ("adagrad", 0.0), ("ftrl", 0.0), ("ftrl", 6.0)])
def test_kernel_agrees_with_baseline(solver, l1_w, loss, dtype, rtol, index_dtype, n_factors, weighted):
    rng = np.random.default_rng(7)
    X, y = random_rows(rng, dtype=dtype, index_dtype=index_dtype), random_targets(rng, loss)
    p = random_parameters(rng, n_factors=n_factors, dtype=dtype, solver=solver)
    p.V *= 1.0 / np.sqrt(max(n_factors, 1))  # keeps the pairwise term, and so the steps, of equal size
    initial = p.copy()
    tables = {level: pack(p) for level in CORES}
    settings = {
        "loss": loss,
        "learning_rate": 0.02 if solver == "sgd" else 0.05,
        "reg_w": 0.02,
        "reg_V": 0.05,
        "l1_w": l1_w,
        "sample_weight": rng.uniform(0.5, 2.0, 60) if weighted else None,
    }
    for _ in range(4):
        order = rng.permutation(60)
        expected = numpy_baseline.train_epoch(X, y, p, order=order, **settings)
        for level, core in CORES.items():
            actual = train_kernel(core, X, y, tables[level], solver=solver, order=order, **settings)
            assert_allclose(actual, expected, rtol=rtol, err_msg=level)
    for table in tables.values():
        # A weight next to the threshold of l1_w may be 0 here and almost 0 there: the step is continuous.
        assert_same(unpack(table, p), p, rtol)
    assert np.max(np.abs(p.w - initial.w)) > 0.01  # the epochs did something
    if l1_w:
        assert 0 < np.sum(p.w == 0.0) < len(p.w)


@pytest.mark.parametrize(
    "nnz_per_row",
    [
        np.full(2500, 10),  # more nonzeros than the kernel gathers at a time
        np.arange(9000) % 2,  # more rows than it gathers at a time, half of them empty
        np.array([3, 9000, 0, 9500, 2]),  # rows that fill its buffer alone
    ],
    ids=["many nonzeros", "many rows", "long rows"],
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_kernel_agrees_across_its_buffers(solver, nnz_per_row):
    """All values are 1, so the kernel is given no values at all."""
    rng = np.random.default_rng(8)
    n_samples, n_features = len(nnz_per_row), 10_000
    indices = np.concatenate([rng.choice(n_features, nnz, replace=False) for nnz in nnz_per_row])
    indptr = np.concatenate([[0], np.cumsum(nnz_per_row)])
    X = sp.csr_array((np.ones(len(indices)), indices, indptr), shape=(n_samples, n_features))
    y, order = rng.normal(size=n_samples), rng.permutation(n_samples)
    p = Parameters.create(n_features, 4, rng, solver=solver, init_std=0.01)
    tables = {level: pack(p) for level in CORES}
    settings = {"loss": "squared", "learning_rate": 1e-4, "reg_w": 0.02, "reg_V": 0.05, "order": order}
    for _ in range(2):
        expected = numpy_baseline.train_epoch(X, y, p, **settings)
        for level, core in CORES.items():
            actual = train_kernel(core, X, y, tables[level], solver=solver, data=np.empty(0), **settings)
            assert_allclose(actual, expected, rtol=1e-10, err_msg=level)
    for table in tables.values():
        assert_same(unpack(table, p), p, 1e-10)
