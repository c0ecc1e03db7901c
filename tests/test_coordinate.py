"""The kernel of updates by column against dense algebra: least squares, and draws from a posterior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from kernel_calls import parameters, random_rows, random_table
from numpy.testing import assert_allclose, assert_array_equal

from fmfast.table import ParameterTable

BLOCK, SIZE = 8, 9
# Of what is compared, relative to the largest number of its kind.
ROUNDING = {"float32": 2e-4, "float64": 1e-11}
EMPTY = 4  # a column without samples


def assert_close(actual, expected, dtype):
    expected = np.asarray(expected)
    assert_allclose(actual, expected, rtol=0, atol=ROUNDING[dtype] * np.max(np.abs(expected), initial=1e-3))


@dataclass
class Problem:
    """A dense X whose nonzeros are what is stored, targets, a table, and the settings of an update.

    Of `mean`, `precision` (n_groups, n_factors + 1) and `penalty` (n_factors + 1,), w is the last.
    """

    X: np.ndarray
    y: np.ndarray
    table: ParameterTable
    weight: np.ndarray
    groups: np.ndarray
    mean: np.ndarray
    precision: np.ndarray
    penalty: np.ndarray
    counts: np.ndarray
    alpha: float = 1.0
    ones: bool = False
    index_dtype: str = "int32"

    @property
    def dtype(self):
        return self.table.dtype.name

    @property
    def c(self):
        return self.weight.astype(float) if len(self.weight) else np.ones(len(self.X))

    @property
    def blocks(self):
        return range(0, max(self.table.n_factors, 1), BLOCK)

    def prior_precision(self, j):
        return self.precision[self.groups[j]] + self.penalty * self.counts[j]

    def residuals(self):
        return reference.score_of_pairs(self.X, *self.float64()) - self.y

    def float64(self):
        return tuple(np.asarray(value, dtype=np.float64) for value in parameters(self.table))

    def sums(self, first_factor):
        """(n_samples, BLOCK) q, or no rows where there are no factors."""
        q = np.zeros((len(self.X) if self.table.n_factors else 0, BLOCK))
        if self.table.n_factors:
            V = self.float64()[2][:, first_factor : first_factor + BLOCK]
            q[:, : V.shape[1]] = self.X @ V
        return q

    def settings(self):
        names = ("alpha", "groups", "mean", "precision", "penalty", "counts")
        return {name: getattr(self, name) for name in names}


def random_problem(
    rng, n_samples=80, n_features=9, n_factors=3, dtype="float64", *, weighted=False, ones=False, density=0.4,
    index_dtype="int32", prior=False, alpha=1.0,
):  # fmt: skip
    stored = rng.random((n_samples, n_features)) < density
    stored[3] = False
    if n_features > EMPTY:
        stored[:, EMPTY] = False
    values = np.ones(stored.shape) if ones else rng.normal(size=stored.shape).astype(dtype).astype(float)
    weight = rng.uniform(0.2, 3.0, n_samples) * (rng.random(n_samples) < 0.8) if weighted else np.empty(0)
    n_groups = 3 if prior else 1
    shape = (n_groups, n_factors + 1)
    return Problem(
        np.where(stored, values, 0.0),
        rng.normal(size=n_samples).astype(dtype).astype(float),
        random_table(rng, n_features, n_factors, dtype),
        weight.astype(dtype),
        rng.integers(0, n_groups, n_features).astype(np.int32),
        rng.normal(size=shape) if prior else np.zeros(shape),
        rng.uniform(0.5, 5.0, shape) if prior else np.zeros(shape),
        rng.uniform(0.01, 0.2, n_factors + 1),
        np.where(stored.any(axis=0) | prior, rng.uniform(1.0, 30.0, n_features), 0.0),
        alpha,
        ones,
        index_dtype,
    )  # fmt: skip


def of_block(values, first_factor):
    """(n, n_factors + 1) -> (n, SIZE): the factors of a block, zeros behind them, and w."""
    block = np.zeros((len(values), SIZE))
    part = values[:, :-1][:, first_factor : first_factor + BLOCK]
    block[:, : part.shape[1]] = part
    block[:, -1] = values[:, -1]
    return block


def arrays_of(problem):
    """(data, rows, starts) of the columns."""
    columns = sp.csc_array(problem.X)
    data = np.empty(0) if problem.ones else columns.data
    rows = columns.indices.astype(problem.index_dtype)
    return data.astype(problem.dtype), rows, columns.indptr.astype("int64")


def update(coordinate, problem, q, e, *, first=0, stop=None, first_factor=0, noise=None):
    """One call of the kernel; q and e are changed."""
    coordinate.update_columns(
        *arrays_of(problem),
        first,
        problem.X.shape[1] if stop is None else stop,
        problem.table.rows[0],
        first_factor,
        problem.table.width,
        q,
        e,
        problem.weight,
        problem.alpha,
        problem.groups,
        of_block(problem.mean, first_factor),
        of_block(problem.precision, first_factor),
        of_block(problem.penalty[None], first_factor)[0],
        problem.counts,
        np.empty((0, SIZE)) if noise is None else noise,
    )


def begin(problem, first_factor=0):
    """q and e as an update takes them."""
    return problem.sums(first_factor).astype(problem.dtype), problem.residuals().astype(problem.dtype)


def update_all(coordinate, problem, noise=None):
    """All columns for every block, and what must hold after each: q and e follow from the table."""
    e = problem.residuals().astype(problem.dtype)
    for first_factor in problem.blocks:
        q = problem.sums(first_factor).astype(problem.dtype)
        block_noise = None if noise is None else of_block(noise, first_factor)
        update(coordinate, problem, q, e, first_factor=first_factor, noise=block_noise)
        assert_close(q, problem.sums(first_factor), problem.dtype)
        assert_close(e, problem.residuals(), problem.dtype)


def twin_of(problem, noise=None):
    """(w, V) after all columns of all blocks."""
    w0, w, V = problem.float64()
    for first_factor in problem.blocks:
        block = slice(first_factor, first_factor + BLOCK)
        block_noise = None if noise is None else np.column_stack([noise[:, :-1][:, block], noise[:, -1]])
        reference.update_columns(
            problem.X, problem.y, problem.c, w0, w, V, block=block, noise=block_noise, **problem.settings()
        )
    return w, V


def assert_padding_is_untouched(table):
    """Zeros between the factors and w, and NaN behind: exactly what was there before."""
    assert (table.rows[0][:, table.n_factors : table.width] == 0).all()
    assert np.isnan(table.rows[0][:, table.width + 1 :]).all()


# ---------------------------------------------------------------------------------------------
# Sums of factors
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("data", ["float32", "float64", "ones"])
def test_sum_factors(coordinate, dtype, data, index_dtype):
    rng = np.random.default_rng(0)
    table = random_table(rng, 22, 20, dtype)
    rows = random_rows(rng, dtype="float64" if data == "ones" else data, index_dtype=index_dtype)
    x, indices, indptr = rows.csr
    X = rows.stored.astype(float) if data == "ones" else rows.dense.astype(dtype).astype(float)
    for first_factor in (0, 8, 16):
        V = np.zeros((22, BLOCK))
        of_table = table.V[0][:, first_factor : first_factor + BLOCK]
        V[:, : of_table.shape[1]] = of_table
        for first, stop in ((0, rows.n_samples), (2, 9), (5, 6), (4, 4)):
            q = np.full((rows.n_samples, BLOCK), np.nan, dtype)
            values = np.empty(0, "float64") if data == "ones" else x
            coordinate.sum_factors(values, indices, indptr, first, stop, table.rows[0], first_factor, q)
            bound = 8 * np.finfo(dtype).eps * (np.abs(X) @ np.abs(V))
            assert (np.abs(q - X @ V) <= bound)[first:stop].all()
            assert np.isnan(q[:first]).all()
            assert np.isnan(q[stop:]).all()


# ---------------------------------------------------------------------------------------------
# Least squares
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("n_factors", [0, 3, 8])
def test_one_column_solves_its_system(coordinate, n_factors, prior, weighted, dtype):
    rng = np.random.default_rng(n_factors)
    problem = random_problem(rng, n_factors=n_factors, dtype=dtype, weighted=weighted, prior=prior, alpha=1.7)
    j = 6
    before = problem.table.rows.copy()
    _, w, V = problem.float64()
    A, b = reference.column_system(
        problem.X, j, problem.residuals(), problem.c, w, V, alpha=1.7,
        mean=problem.mean[problem.groups[j]], precision=problem.prior_precision(j),
    )  # fmt: skip
    update(coordinate, problem, *begin(problem), first=j, stop=j + 1)
    _, w_after, V_after = problem.float64()
    delta = np.append(V_after[j] - V[j], w_after[j] - w[j])
    assert_close(delta, np.linalg.solve(A, b), dtype)
    assert np.abs(delta).max() > 0.1
    others = np.arange(len(w)) != j
    assert_array_equal(problem.table.rows[0][others], before[0][others])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_factors", [0, 3, 8, 11, 16])
@pytest.mark.parametrize(
    "params",
    [{}, {"weighted": True}, {"ones": True, "index_dtype": "int64"}, {"weighted": True, "prior": True}],
    ids=str,
)
def test_columns_in_turn(coordinate, params, n_factors, dtype):
    """Blocks, weights, penalties and priors by group; columns without samples follow the prior alone."""
    rng = np.random.default_rng(1)
    problem = random_problem(rng, n_factors=n_factors, dtype=dtype, alpha=0.6, **params)
    before, (w, V) = problem.float64(), twin_of(problem)
    update_all(coordinate, problem)
    assert_close(problem.table.w[0], w, dtype)
    assert_close(problem.table.V[0], V, dtype)
    assert_padding_is_untouched(problem.table)
    if params.get("prior"):
        mean = problem.mean[problem.groups[EMPTY]]
        assert_close(np.append(problem.table.V[0, EMPTY], problem.table.w[0, EMPTY]), mean, dtype)
    else:
        assert_array_equal(problem.table.V[0, EMPTY], before[2][EMPTY])
        assert problem.table.w[0, EMPTY] == before[1][EMPTY]


@pytest.mark.parametrize("n_samples", [255, 256, 257, 1300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_factors", [0, 8])
def test_long_columns(coordinate, n_factors, dtype, n_samples):
    """Sums of products are cut into segments: none is lost, none is added twice."""
    rng = np.random.default_rng(2)
    problem = random_problem(
        rng, n_samples + 1, 3, n_factors, dtype, weighted=True, density=1.1, prior=True, alpha=2.0
    )
    assert (np.count_nonzero(problem.X, axis=0) == n_samples).all()
    w, V = twin_of(problem)
    update_all(coordinate, problem)
    assert_close(problem.table.w[0], w, dtype)
    assert_close(problem.table.V[0], V, dtype)


def test_long_columns_keep_their_digits(coordinate):
    """Summed up in float32 alone, a million ones would be off by far more than rounding of the result."""
    n = 1 << 20
    table = ParameterTable(1, 1, 0, 0, "float32")
    table.rows[:] = 0.0
    e = np.full(n, -0.1, np.float32)
    nothing = np.zeros((1, SIZE))
    coordinate.update_columns(
        np.empty(0, np.float32), np.arange(n, dtype=np.int32), np.array([0, n]), 0, 1, table.rows[0], 0,
        table.width, np.empty((0, BLOCK), np.float32), e, np.empty(0, np.float32), 1.0, np.zeros(1, np.int32),
        nothing, nothing, nothing[0], np.empty(0), np.empty((0, SIZE)),
    )  # fmt: skip
    assert_allclose(table.w[0, 0], np.float32(0.1), rtol=1e-6)
    assert_allclose(e, 0.0, atol=1e-7)


def test_columns_without_a_common_sample_come_in_any_order(coordinate):
    """To the bit; that is why threads may share them."""
    rng = np.random.default_rng(3)
    problem = random_problem(rng, 90, 6, 8, "float32", prior=True, density=1.1)
    problem.X *= np.arange(90)[:, None] % 6 == np.arange(6)
    before, outcomes = problem.table.rows.copy(), []
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 0, 4, 1, 3]):
        problem.table.rows[:] = before
        q, e = begin(problem)
        for j in order:
            update(coordinate, problem, q, e, first=j, stop=j + 1)
        outcomes.append((problem.table.rows.tobytes(), q.tobytes(), e.tobytes()))
    assert outcomes[0] == outcomes[1]


# ---------------------------------------------------------------------------------------------
# Draws
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_factors", [0, 3, 8])
def test_a_draw_has_the_mean_and_covariance_of_the_posterior(coordinate, n_factors, weighted):
    """A draw is linear in its normal numbers: unit vectors show all of its distribution.

    Given all else, theta_j is normal with the covariance A^-1, and its mean is the least squares solution.
    """
    rng = np.random.default_rng(4)
    problem = random_problem(rng, n_factors=n_factors, weighted=weighted, prior=True, alpha=1.3)
    j = 2
    before = problem.table.rows.copy()
    _, w, V = problem.float64()
    h, c = reference.column_gradient(problem.X, j, V), problem.c
    precision = problem.prior_precision(j)
    covariance = np.linalg.inv(1.3 * (h.T * c) @ h + np.diag(precision))
    # The posterior of a linear model y - rest = h theta + noise, written without the present theta.
    rest = reference.score_of_pairs(problem.X, *problem.float64()) - h @ np.append(V[j], w[j])
    information = 1.3 * (h.T * c) @ (problem.y - rest) + precision * problem.mean[problem.groups[j]]

    def drawn(z):
        problem.table.rows[:] = before
        q, e = begin(problem)
        update(coordinate, problem, q, e, first=j, stop=j + 1, noise=z[None])
        assert_close(q, problem.sums(0), "float64")
        assert_close(e, problem.residuals(), "float64")
        assert_padding_is_untouched(problem.table)
        return np.append(problem.table.V[0, j], problem.table.w[0, j])

    used = [*range(n_factors), BLOCK]
    mean = drawn(np.zeros(SIZE))
    shifts = np.stack([drawn(unit) - mean for unit in np.eye(SIZE)[used]])
    assert_close(mean, covariance @ information, "float64")
    assert_close(shifts.T @ shifts, covariance, "float64")
    # Numbers of the padding move nothing.
    padding = np.zeros(SIZE)
    padding[n_factors:BLOCK] = 5.0
    assert_array_equal(drawn(padding), mean)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_factors", [0, 3, 11])
def test_draws_in_turn(coordinate, n_factors, dtype):
    """Every column takes its own row of the noise, columns without samples draw from the prior."""
    rng = np.random.default_rng(5)
    problem = random_problem(rng, n_factors=n_factors, dtype=dtype, prior=True, alpha=1.5)
    noise = rng.normal(size=(problem.X.shape[1], n_factors + 1))
    w, V = twin_of(problem, noise)
    update_all(coordinate, problem, noise)
    assert_close(problem.table.w[0], w, dtype)
    assert_close(problem.table.V[0], V, dtype)
    precision = problem.prior_precision(EMPTY)
    from_prior = problem.mean[problem.groups[EMPTY]] + noise[EMPTY] / np.sqrt(precision)
    last_block = slice(BLOCK * (n_factors // BLOCK), None)
    assert_close(problem.table.V[0, EMPTY][last_block], from_prior[:-1][last_block], dtype)
    assert_close(problem.table.w[0, EMPTY], from_prior[-1], dtype)


def test_noise_of_some_of_the_columns(coordinate):
    """Its first row belongs to the first column of the call."""
    rng = np.random.default_rng(6)
    problem = random_problem(rng, n_factors=8, prior=True)
    noise, before = rng.normal(size=(9, SIZE)), problem.table.rows.copy()
    q, e = begin(problem)
    update(coordinate, problem, q, e, noise=noise)
    at_once = problem.table.rows.copy()
    problem.table.rows[:] = before
    q, e = begin(problem)
    for first, stop in ((0, 4), (4, 5), (5, 9)):
        update(coordinate, problem, q, e, first=first, stop=stop, noise=noise[first:stop])
    assert_array_equal(problem.table.rows, at_once)


# ---------------------------------------------------------------------------------------------
# Without a penalty
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_samples", [1, 2, 6, 60])
@pytest.mark.parametrize("kind", ["numbers", "repeated factor", "repeated rows", "zero factors", "all zero"])
def test_singular_systems_stay_finite(coordinate, kind, n_samples, dtype):
    """Fewer samples than parameters, or factors that say the same: solved as far as they are determined."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        problem = random_problem(rng, n_samples + 4, 9, 8, dtype, density=1.1)
        problem.penalty[:] = 0.0
        if kind == "repeated factor":
            problem.table.V[0, :, 5] = problem.table.V[0, :, 2]
        elif kind == "repeated rows":
            problem.X[:] = problem.X[0]
        elif kind == "zero factors":
            problem.table.V[0, :, 3:] = 0.0
        elif kind == "all zero":
            problem.table.V[0] = 0.0
        q, e = begin(problem)
        loss, terms = (problem.residuals() ** 2).sum(), 0.0
        for _ in range(3):
            update(coordinate, problem, q, e)
            terms = max(terms, reference.magnitude(problem.X, *problem.float64()).max())
        assert np.isfinite(problem.table.w[0]).all()
        assert np.isfinite(problem.table.V[0]).all()
        assert_padding_is_untouched(problem.table)
        assert (problem.residuals() ** 2).sum() <= loss * (1 + ROUNDING[dtype])
        # What is not determined may grow, and rounding errors with it.
        assert_allclose(e, problem.residuals(), rtol=0, atol=50 * np.finfo(dtype).eps * terms)


# ---------------------------------------------------------------------------------------------
# Sums, fields
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sum_residuals(coordinate, dtype):
    rng = np.random.default_rng(7)
    e, c = rng.normal(size=500).astype(dtype), rng.uniform(0.0, 2.0, 500).astype(dtype)
    for weight, factor in ((c, c.astype(float)), (np.empty(0, dtype), np.ones(500))):
        for first, stop in ((0, 500), (7, 123), (9, 9)):
            part = slice(first, stop)
            linear, square = coordinate.sum_residuals(e, weight, first, stop)
            assert linear == pytest.approx(factor[part] @ e[part].astype(float), rel=1e-12)
            assert square == pytest.approx(factor[part] @ e[part].astype(float) ** 2, rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_factors", [0, 3, 16])
def test_sum_parameters(coordinate, n_factors, dtype):
    """Added to what the sums hold already; a group may have no column."""
    rng = np.random.default_rng(8)
    table = random_table(rng, 40, n_factors, dtype)
    groups = rng.choice([0, 1, 3], 40).astype(np.int32)
    linear, square = np.full((4, n_factors + 1), 2.0), np.full((4, n_factors + 1), -3.0)
    coordinate.sum_parameters(table.rows[0], n_factors, table.width, groups, linear, square)
    theta = np.column_stack([table.V[0], table.w[0]]).astype(float)
    for group in range(4):
        of_group = theta[groups == group]
        assert_allclose(linear[group], 2.0 + of_group.sum(axis=0), rtol=1e-12, atol=1e-12)
        assert_allclose(square[group], -3.0 + (of_group**2).sum(axis=0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([[0, 2], [1], [3]], [0, 0, 0]),  # a one-hot field
        ([[0, 2], [1, 3], [1, 2], [0, 3]], [0, 0, 1, 1]),
        ([[0, 1, 2, 3], [0, 1, 2, 3], [3]], [0, 1, 2]),
        ([[0, 1], [1, 2], [3], [2]], [0, 1, 1, 2]),  # overlapping
        ([[], [0], [], [0], []], [0, 0, 0, 1, 1]),  # columns without samples fit in anywhere
        ([[3], [0, 3], [1], [0]], [0, 1, 1, 2]),  # what an earlier field held does not matter
        ([[], []], [0, 0]),
    ],
)
def test_find_fields(coordinate, columns, expected, index_dtype):
    starts = np.cumsum([0, *map(len, columns)])
    rows = np.concatenate([np.array(column, dtype=index_dtype) for column in columns])
    field = np.full(len(columns), -7, dtype=np.int32)
    coordinate.find_fields(rows, starts, np.full(4, -1, dtype=np.int32), field)
    assert field.tolist() == expected
