"""The parameter table: layout, random start, finding what is not finite, backups, pickling."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fmfast._dispatch import available_levels, load_kernel
from fmfast.table import BIAS_SIZE, ParameterTable, TableBackup, output_seed, padded_width

SIZES = [(1, 1, 0, 0), (1, 7, 0, 2), (2, 5, 1, 0), (1, 9, 8, 2), (3, 4, 16, 2), (1, 3, 33, 2), (2, 3, 63, 0)]
DTYPES = ["float32", "float64"]


@pytest.fixture(params=available_levels())
def kernel(request, monkeypatch):
    """The kernels of each instruction set in turn."""
    module = load_kernel("_table", request.param)
    monkeypatch.setattr("fmfast.table.kernel", module)
    return module


def filled_table(n_outputs=2, n_features=5, n_factors=3, state_size=2, dtype="float32", seed=0, init_std=1.0):
    table = ParameterTable(n_outputs, n_features, n_factors, state_size, dtype)
    table.initialize(init_std, seed, np.full(state_size, 0.5), np.full(BIAS_SIZE - 1, 0.25))
    return table


# ---------------------------------------------------------------------------------------------
# Layout
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_outputs", "n_features", "n_factors", "state_size"), SIZES)
def test_layout(n_outputs, n_features, n_factors, state_size, dtype):
    table = ParameterTable(n_outputs, n_features, n_factors, state_size, np.dtype(dtype))
    assert (table.n_outputs, table.n_features, table.dtype) == (n_outputs, n_features, dtype)
    assert table.V.shape == (n_outputs, n_features, n_factors)
    assert table.w.shape == (n_outputs, n_features)
    assert table.state.shape == (n_outputs, n_features, state_size)
    assert table.w0.shape == (n_outputs,)
    assert (table.bias.shape, table.bias.dtype) == ((n_outputs, BIAS_SIZE), np.float64)

    # V_j, zeros up to a width | w_j | state, in one row; all are views of it.
    assert n_factors <= table.width
    table.rows[:] = np.arange(table.rows.size).reshape(table.rows.shape)
    row = table.rows[-1, -1]
    assert_array_equal(table.V[-1, -1], row[:n_factors])
    assert table.w[-1, -1] == row[table.width]
    assert_array_equal(table.state[-1, -1], row[table.width + 1 : table.width + 1 + state_size])
    table.w0[-1] = 7.0
    assert table.bias[-1, 0] == 7.0

    # No more padding than the alignment needs.
    assert table.rows.flags.c_contiguous
    assert table.rows.strides[1] % 16 == 0
    assert 0 <= table.rows.shape[2] - (table.width + 1 + state_size) < 16 / table.dtype.itemsize


@pytest.mark.parametrize(
    ("n_factors", "width"),
    [
        *((0, 0), (1, 8), (8, 8), (9, 16), (17, 24), (32, 32), (33, 48), (50, 64), (64, 64)),
        *((65, 96), (97, 128), (128, 128), (129, 144), (200, 208)),
    ],
)
def test_widths_are_those_of_the_kernels(n_factors, width):
    assert padded_width(n_factors) == width


@pytest.mark.parametrize("dtype", DTYPES)
def test_tables_start_at_a_cache_line(dtype):
    # Several at once, of odd sizes, so that chance does not align them all.
    tables = [ParameterTable(1, n, n, 0, dtype) for n in range(1, 40)]
    assert all(table.rows.ctypes.data % 64 == 0 for table in tables)


# ---------------------------------------------------------------------------------------------
# Random start
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_outputs", "n_features", "n_factors", "state_size"), SIZES)
def test_everything_is_initialised(kernel, n_outputs, n_features, n_factors, state_size, dtype):
    table = ParameterTable(n_outputs, n_features, n_factors, state_size, dtype)
    table.rows[:] = np.nan
    table.bias[:] = np.nan
    state, bias_state = np.arange(1.0, 1.0 + state_size), np.arange(5.0, 4.0 + BIAS_SIZE)
    table.initialize(0.1, 3, state, bias_state)
    assert (table.w == 0.0).all()
    assert (table.w0 == 0.0).all()
    assert (table.state == state).all()
    assert (table.bias[:, 1:] == bias_state).all()
    assert (table.rows[:, :, n_factors : table.width] == 0.0).all()
    assert (table.rows[:, :, table.width + 1 + state_size :] == 0.0).all()
    assert np.isfinite(table.V).all()
    # Each element is one of 262141 values, so a few of them may coincide; not many.
    assert len(np.unique(table.V)) >= 0.99 * table.V.size
    assert table.all_finite()


@pytest.mark.parametrize("init_std", [0.02, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_of_the_start(dtype, init_std):
    """A sum of four uniform numbers: kurtosis 3 - 1.2 / 4, nothing beyond sqrt(12) standard deviations."""
    V = filled_table(1, 100_000, 16, dtype=dtype, init_std=init_std).V[0].astype(np.float64) / init_std
    n = V.size
    assert abs(V.mean()) < 4 / np.sqrt(n)
    assert_allclose(V.std(), 1.0, atol=4 * np.sqrt(1.7 / (4 * n)))
    assert_allclose((V**4).mean(), 2.7, atol=0.02)
    assert abs((V**3).mean()) < 4 * np.sqrt(15 / n)
    assert 3.2 < np.abs(V).max() <= np.sqrt(12.0) * (1 + 1e-6)
    # Each column and the first rows, too: not only the whole.
    assert_allclose(V.std(axis=0), 1.0, atol=0.015)
    assert (np.abs(V.mean(axis=0)) < 4.5 / np.sqrt(len(V))).all()


def test_elements_of_the_start_are_uncorrelated():
    n_features, n_factors = 100_000, 8
    table = filled_table(2, n_features, n_factors, dtype="float64")
    V, limit = table.V[0], 4.5 / np.sqrt(n_features)
    between_factors = np.corrcoef(V.T) - np.eye(n_factors)
    between_squares = np.corrcoef((V**2).T) - np.eye(n_factors)
    assert np.abs(between_factors).max() < limit
    assert np.abs(between_squares).max() < limit
    for other in [*(np.roll(V, shift, axis=0) for shift in (1, 2, 64)), table.V[1]]:
        assert np.abs((V.T @ other) / n_features).max() < limit


def test_no_two_features_start_alike():
    V = filled_table(1, 100_000, 4, dtype="float32").V[0]
    assert len(np.unique(V, axis=0)) == len(V)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_start_does_not_depend_on_the_size_of_the_table(kernel, dtype):
    """Element (feature, factor) of an output is a function of the seed and of these alone."""
    small, large = (filled_table(*size, dtype=dtype, seed=5) for size in ((1, 50, 4, 0), (3, 1000, 11, 2)))
    assert_array_equal(small.V[0], large.V[0, :50, :4])
    assert_array_equal(small.V, filled_table(1, 50, 4, 0, dtype=dtype, seed=5).V)
    other_dtype = filled_table(1, 50, 4, dtype="float64" if dtype == "float32" else "float32", seed=5)
    assert_allclose(small.V, other_dtype.V, rtol=1e-6)
    twice_as_wide = filled_table(1, 50, 4, dtype=dtype, seed=5, init_std=2.0)
    assert_array_equal(2.0 * small.V, twice_as_wide.V)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_can_be_filled_in_any_order(kernel, dtype):
    expected = filled_table(1, 100, 6, dtype=dtype, seed=11)
    table = ParameterTable(1, 100, 6, 2, dtype)
    rows = table.rows[0]
    behind_V = np.zeros(rows.shape[1] - 6)
    behind_V[3:5] = 0.5  # behind two zeros and w_j
    for start, stop in [(60, 100), (0, 1), (17, 60), (1, 17)]:
        kernel.fill_rows(rows[start:stop], start, 6, 1.0, output_seed(11, 0), behind_V)
    assert_array_equal(rows, expected.rows[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_start_alike(kernel, monkeypatch, dtype):
    """To the bit: a seed means the same on every machine."""
    rows = filled_table(2, 300, 19, dtype=dtype, seed=4).rows
    monkeypatch.undo()
    assert_array_equal(rows, filled_table(2, 300, 19, dtype=dtype, seed=4).rows)


def test_seeds_and_outputs_differ():
    starts = [filled_table(2, 2000, 8, dtype="float64", seed=seed).V for seed in (0, 10, 2**32, 2**63 - 10)]
    flat = np.stack([V.reshape(2, -1) for V in starts]).reshape(8, -1)
    correlations = np.corrcoef(flat) - np.eye(len(flat))
    assert np.abs(correlations).max() < 5 / np.sqrt(flat.shape[1])


def test_a_start_without_variation():
    assert (filled_table(init_std=0.0).V == 0.0).all()


# ---------------------------------------------------------------------------------------------
# Finding what is not finite
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_factors", [0, 1, 21])
def test_all_finite_finds_one_bad_element_anywhere(kernel, dtype, n_factors, bad):
    table = filled_table(2, 5, n_factors, dtype=dtype)
    assert table.all_finite()
    n_used = n_factors + 3
    for array in (table.rows[:, :, :n_used], table.bias):
        for position in np.ndindex(array.shape):
            kept, array[position] = array[position], bad
            assert not table.all_finite(), position
            array[position] = kept
    assert table.all_finite()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_are_finite(kernel, dtype):
    table = filled_table(dtype=dtype)
    limits = np.finfo(dtype)
    table.w[:] = [limits.max, limits.min, limits.tiny, limits.smallest_subnormal, -0.0]
    assert table.all_finite()


# ---------------------------------------------------------------------------------------------
# Backups
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [[0, 1, 2, 3, 4], [1], [0, 3, 4], []])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_backup_restores_to_the_bit(dtype, features):
    features = np.array(features, dtype=np.intp)
    table = filled_table(dtype=dtype)
    # Numbers that compare unequal to themselves, or equal to others, come back as they were.
    table.rows[:, :, 1] = np.nan
    table.rows[:, :, 2] = -0.0
    table.bias[0] = [1.0, np.nan, -0.0]
    rows, bias = table.rows.tobytes(), table.bias.tobytes()
    backup = TableBackup(table, features)
    for _ in range(2):  # it can be used again
        table.rows[:, features] = 5.0
        table.bias[:] = 6.0
        backup.restore()
        assert table.rows.tobytes() == rows
        assert table.bias.tobytes() == bias


@pytest.mark.parametrize("features", [[0, 1, 2, 3, 4], [0, 3]])
def test_a_backup_keeps_what_it_saw_last(features):
    features = np.array(features, dtype=np.intp)
    table = filled_table()
    backup = TableBackup(table, features)
    table.rows[:, features] = 1.0
    table.bias[:] = 2.0
    backup.update()
    table.rows[:, features] = 3.0
    table.bias[:] = 4.0
    backup.restore()
    assert (table.rows[:, features] == 1.0).all()
    assert (table.bias == 2.0).all()


def test_a_backup_leaves_other_features_alone():
    table = filled_table()
    backup = TableBackup(table, np.array([0, 3]))
    table.rows[:] = 9.0
    backup.restore()
    assert (table.rows[:, [1, 2, 4]] == 9.0).all()
    assert (table.V[:, [0, 3]] != 9.0).all()


# ---------------------------------------------------------------------------------------------
# Pickling
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table))])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_outputs", "n_features", "n_factors", "state_size"), SIZES)
def test_copies_by_pickle(n_outputs, n_features, n_factors, state_size, dtype, duplicate):
    table = filled_table(n_outputs, n_features, n_factors, state_size, dtype)
    table.bias[:] = np.arange(table.bias.size).reshape(table.bias.shape)
    other = duplicate(table)
    assert (other.n_factors, other.state_size, other.dtype) == (n_factors, state_size, dtype)
    assert_array_equal(other.rows, table.rows)
    assert_array_equal(other.bias, table.bias)
    assert other.rows.ctypes.data % 64 == 0
    assert other.rows.flags.writeable
    other.rows[:] = 1e9
    other.bias[:] = 1e9
    assert not (table.rows == 1e9).any()
    assert not (table.bias == 1e9).any()
