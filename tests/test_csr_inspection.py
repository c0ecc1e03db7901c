"""The inspection of CSR arrays, on which the kernels rely: they check nothing themselves."""

from __future__ import annotations

import numpy as np
import pytest

from fmfast import _csr

FINDINGS = {code: name for name, code in _csr.FINDINGS.items()}
INDEX_DTYPES = ["int32", "int64"]
BLOCK = 4096  # values that `inspect_values` counts at a time


def inspect(rows, n_features, dtype="int32"):
    """(name of the finding, position) for a list of lists of column indices."""
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.concatenate([np.array(row, dtype=dtype) for row in rows])
    finding, position = _csr.inspect_columns(indices, indptr, n_features)
    return FINDINGS[finding], position


# ---------------------------------------------------------------------------------------------
# indptr
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INDEX_DTYPES)
@pytest.mark.parametrize(
    ("indptr", "expected"),
    [
        ([0], -1),
        ([0, 0, 0], -1),
        ([0, 2, 2, 5], -1),
        ([3, 2], 0),
        ([0, 4, 3, 5], 1),
        ([0, 1, 2, 1], 2),
        ([0, 5, 4, 3], 1),  # the first of several
        ([0, -1, 4], 0),
    ],
)
def test_first_decrease(indptr, expected, dtype):
    assert _csr.first_decrease(np.array(indptr, dtype=dtype)) == expected


def test_first_decrease_of_nothing():
    assert _csr.first_decrease(np.empty(0, dtype=np.int64)) == -1


def test_first_decrease_by_more_than_32_bits():
    assert _csr.first_decrease(np.array([0, 2**40, 2**33])) == 1
    assert _csr.first_decrease(np.array([0, 2**33, 2**40])) == -1


# ---------------------------------------------------------------------------------------------
# Column indices
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INDEX_DTYPES)
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[]], ("canonical", -1)),
        ([[], [0], []], ("canonical", -1)),
        ([[0, 1, 2, 9], [3], [0, 9]], ("canonical", -1)),
        ([[5], [4], [4], [3]], ("canonical", -1)),  # ascending within a row is all that counts
        ([[0, 1], [2, 2]], ("not canonical", -1)),
        ([[0, 1], [3, 2]], ("not canonical", -1)),
        ([[1, 0, 1]], ("not canonical", -1)),
        ([[0, 1], [-1, 3]], ("negative column", 2)),
        ([[0, 1], [3, -1]], ("negative column", 3)),
        ([[-7]], ("negative column", 0)),
        ([[0, 1], [], [2, 10]], ("column too large", 3)),
        ([[10]], ("column too large", 0)),
        ([[11, 10]], ("column too large", 0)),
        # Disorder is not worth telling of where an index is wrong, be it before or behind.
        ([[1, 0], [3, -1]], ("negative column", 3)),
        ([[1, 0], [3, 12]], ("column too large", 3)),
        ([[12, 3], [1, 0]], ("column too large", 0)),
        ([[2, 2, 10]], ("column too large", 2)),
        # Of several wrong indices, the first.
        ([[0, 12], [-1]], ("column too large", 1)),
        ([[0, -1], [12]], ("negative column", 1)),
    ],
)
def test_findings(rows, expected, dtype):
    assert inspect(rows, 10, dtype) == expected


@pytest.mark.parametrize("dtype", INDEX_DTYPES)
def test_extreme_indices(dtype):
    limits = np.iinfo(dtype)
    assert inspect([[0, limits.max]], 10, dtype) == ("column too large", 1)
    assert inspect([[limits.max]], 2**31 - 1, dtype) == ("column too large", 0)
    assert inspect([[limits.min]], 10, dtype) == ("negative column", 0)
    # Wider than int32: the number of columns is never truncated.
    assert inspect([[0, 2**31 - 1]], 2**31, dtype) == ("canonical", -1)
    assert inspect([[0, 5]], 2**32 + 3, dtype) == ("canonical", -1)


def test_indices_beyond_the_rows_are_not_read():
    """SciPy allows `indices` to be longer than indptr says."""
    finding, position = _csr.inspect_columns(np.array([0, 1, -5, 99]), np.array([0, 2]), 2)
    assert (FINDINGS[finding], position) == ("canonical", -1)


@pytest.mark.parametrize("dtype", INDEX_DTYPES)
def test_random_matrices(dtype):
    """Against the plain statement of what canonical means."""
    rng = np.random.default_rng(0)
    names = set()
    for _ in range(300):
        rows = [rng.integers(0, 12, rng.integers(0, 4)).tolist() for _ in range(rng.integers(1, 4))]
        name = "canonical" if all(row == sorted(set(row)) for row in rows) else "not canonical"
        assert inspect(rows, 12, dtype) == (name, -1)
        names.add(name)
    assert len(names) == 2


# ---------------------------------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
def test_one_bad_value_is_found_anywhere(length, dtype):
    limit = float(np.finfo(np.float32).max)
    positions = sorted({0, length // 2, length - 1, min(BLOCK, length - 1), min(BLOCK - 1, length - 1)})
    for position in positions:
        for bad in (np.nan, np.inf, -np.inf):
            data = np.ones(length, dtype=dtype)
            data[position] = bad
            assert _csr.inspect_values(data, limit) == (position, False)
    data = np.ones(length, dtype=dtype)
    data[positions] = np.nan
    assert _csr.inspect_values(data, limit) == (0, False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_limit(dtype):
    assert _csr.inspect_values(np.array([-2.0, 2.0, 0.0], dtype=dtype), 2.0) == (-1, False)
    assert _csr.inspect_values(np.array([0.0, 2.5, 3.0], dtype=dtype), 2.0) == (1, False)
    assert _csr.inspect_values(np.array([0.0, 2.0, -2.5], dtype=dtype), 2.0) == (2, False)


def test_values_beyond_float32():
    limit = float(np.finfo(np.float32).max)
    assert _csr.inspect_values(np.array([limit, -limit]), limit) == (-1, False)
    assert _csr.inspect_values(np.array([limit, -limit * 1.001]), limit) == (1, False)
    assert _csr.inspect_values(np.array([1e300]), float(np.finfo(np.float64).max)) == (-1, False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_all_ones(length, dtype):
    data = np.ones(length, dtype=dtype)
    assert _csr.inspect_values(data, 10.0) == (-1, True)
    for position in {0, length // 2, length - 1}:
        for other in (0.0, -1.0, np.nextafter(data.dtype.type(1), data.dtype.type(2))):
            data[position] = other
            assert _csr.inspect_values(data, 10.0) == (-1, False)
        data[position] = 1.0


def test_no_values_are_all_ones():
    assert _csr.inspect_values(np.empty(0), 1.0) == (-1, True)


# ---------------------------------------------------------------------------------------------


def test_arguments_are_only_read():
    indices, indptr, data = np.array([2, 1]), np.array([0, 2]), np.array([1.0, np.nan])
    for array in (indices, indptr, data):
        array.flags.writeable = False
    assert _csr.first_decrease(indptr) == -1
    assert FINDINGS[_csr.inspect_columns(indices, indptr, 3)[0]] == "not canonical"
    assert _csr.inspect_values(data, 1.0) == (1, False)
