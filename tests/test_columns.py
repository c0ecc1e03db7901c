"""The matrix by columns, and which of them may be updated at the same time."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from problems import one_hot

from fmfast import columns as module
from fmfast.columns import SparseColumns
from fmfast.validation import check_X

searched = settings(derandomize=True, database=None, deadline=None, max_examples=150)
# Whether a sample has a value in a column.
patterns = hnp.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 12)), elements=st.booleans())
fields_of_integers = st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4)


def columns_of(X, dtype="float64"):
    return SparseColumns.of(check_X(X, dtype=np.dtype(dtype)), np.dtype(dtype))


def samples(columns, j):
    return set(columns.rows[columns.starts[j] : columns.starts[j + 1]].tolist())


# -- the matrix --------------------------------------------------------------------------------


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("x_dtype", ["float32", "float64"])
@pytest.mark.parametrize("binary", [False, True])
def test_columns_are_those_of_scipy(binary, x_dtype, dtype, index_dtype):
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(50, 20)) * (rng.random((50, 20)) < 0.3)
    dense[:, [0, 7, 19]] = 0.0
    dense[[0, 30]] = 0.0
    X = sp.csr_array((dense != 0 if binary else dense).astype(x_dtype))
    X.indices, X.indptr = X.indices.astype(index_dtype), X.indptr.astype(index_dtype)
    columns = SparseColumns.of(check_X(X, dtype=np.dtype(x_dtype)), np.dtype(dtype))
    expected = X.tocsc()
    assert columns.data.dtype == dtype
    assert_array_equal(columns.data, [] if binary else expected.data.astype(dtype))
    assert_array_equal(columns.rows, expected.indices)
    assert columns.starts.dtype == np.int64
    assert_array_equal(columns.starts, expected.indptr)
    assert (columns.n_samples, columns.n_features) == (50, 20)
    assert_array_equal(columns.counts(), (dense != 0).sum(axis=0))


@pytest.mark.parametrize("part_nnz", [1, 7, 1 << 16])
def test_weighted_counts(monkeypatch, part_nnz):
    monkeypatch.setattr(module, "_PART_NNZ", part_nnz)
    rng = np.random.default_rng(1)
    stored = rng.random((60, 15)) < 0.3
    stored[:, [0, 8, 14]] = False
    columns, weight = columns_of(stored), rng.uniform(0.0, 3.0, 60)
    assert_allclose(columns.weighted_counts(weight), weight @ stored, rtol=1e-14)
    unweighted = columns.weighted_counts(np.empty(0))
    assert unweighted.dtype == np.float64
    assert_array_equal(unweighted, stored.sum(axis=0))


# -- fields ------------------------------------------------------------------------------------


@searched
@given(patterns)
def test_columns_of_a_field_share_no_sample(stored):
    columns = columns_of(stored)
    fields = columns.fields()
    assert fields.dtype == np.int32
    assert fields[0] == 0
    assert set(np.diff(fields)) <= {0, 1}  # runs, numbered in order
    for field in range(fields[-1] + 1):
        (members,) = np.nonzero(fields == field)
        assert stored[:, members].sum(axis=1).max() <= 1
        # None is cut for nothing: the next column does share a sample with this field.
        if field < fields[-1]:
            assert (stored[:, members].any(axis=1) & stored[:, members[-1] + 1]).any()


@searched
@given(fields_of_integers)
def test_one_hot_fields_are_found(fields):
    """Every field of values that all occur, from the first to the last."""
    codes = [np.unique(field, return_inverse=True)[1] for field in fields]
    expected = np.repeat(np.arange(len(codes)), [code.max() + 1 for code in codes])
    assert_array_equal(columns_of(one_hot(*codes)).fields(), expected)


# -- groups ------------------------------------------------------------------------------------


def groups_of(*blocks):
    X = sp.hstack([sp.csr_array(np.asarray(block, dtype=float)) for block in blocks], format="csr")
    columns = columns_of(X)
    return columns.groups(columns.fields()).tolist()


def test_groups():
    rng = np.random.default_rng(2)
    user, item = np.eye(3)[rng.permutation(np.arange(30) % 3)], np.eye(4)[rng.permutation(np.arange(30) % 4)]
    numbers, tags = rng.normal(size=(30, 3)), rng.random((30, 4)) < 0.6
    assert groups_of(user, item) == [0] * 3 + [1] * 4
    assert groups_of(numbers) == [0, 0, 0]
    assert groups_of(user, numbers, tags, item) == [0] * 3 + [1] * 7 + [2] * 4
    assert groups_of(numbers, user, tags) == [0] * 3 + [1] * 3 + [2] * 4
    # A column that every sample has is a number, not a field of one value.
    assert groups_of(np.ones((30, 1)), user, np.ones((30, 2))) == [0, 1, 1, 1, 2, 2]
    # A field that some samples lack is not told from a column that few samples have.
    lacking = user.copy()
    lacking[4] = 0.0
    assert groups_of(lacking, numbers, item) == [0] * 6 + [1] * 4


@searched
@given(patterns)
def test_groups_are_numbered_without_gaps_and_hold_whole_fields(stored):
    columns = columns_of(stored)
    fields = columns.fields()
    groups = columns.groups(fields)
    assert groups.dtype == np.int32
    assert groups[0] == 0
    assert set(np.diff(groups)) <= {0, 1}
    assert (np.diff(groups) <= np.diff(fields)).all()
    # A one-hot field is never in a group with others.
    for field in range(fields[-1] + 1):
        members = fields == field
        is_one_hot = members.sum() > 1 and stored[:, members].any(axis=1).all()
        if is_one_hot:
            assert_array_equal(groups == groups[members][0], members)


# -- stages ------------------------------------------------------------------------------------


def assert_sound(columns, stages):
    """Every column once and in order; parts of one stage share no sample."""
    visited = [j for parts in stages for first, stop in parts for j in range(first, stop)]
    assert visited == list(range(columns.n_features))
    for parts in stages:
        held = [set().union(*(samples(columns, j) for j in range(*part))) for part in parts]
        assert sum(map(len, held)) == len(set().union(*held))


@searched
@given(patterns, st.integers(1, 6), st.integers(1, 4))
def test_stages(stored, part_nnz, part_columns):
    columns = columns_of(stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART_NNZ", part_nnz)
        patch.setattr(module, "_PART_COLUMNS", part_columns)
        stages = columns.stages(columns.fields())
    assert_sound(columns, stages)
    for first, stop in (part for parts in stages for part in parts):
        assert stop - first <= part_columns
        # One column, however long; several only if they are short together.
        assert stop - first == 1 or columns.starts[stop] - columns.starts[first] <= part_nnz


def test_large_fields_are_split_and_small_ones_are_not():
    rng = np.random.default_rng(3)
    sizes = (3, 5_000, 2, 40, 300)
    codes = [rng.permutation(np.arange(150_000) % size) for size in sizes]
    columns = columns_of(sp.hstack([sp.csr_array(one_hot_codes(code)) for code in codes], format="csr"))
    fields = columns.fields()
    assert_array_equal(np.bincount(fields), sizes)
    stages = columns.stages(fields)
    assert [j for parts in stages for part in parts for j in range(*part)] == list(range(sum(sizes)))
    several = [parts for parts in stages if len(parts) > 1]
    assert several  # there is something to share
    for parts in several:
        assert len(set(fields[parts[0][0] : parts[-1][1]])) == 1
    # Of parts of up to 65536 values, a field of 150,000 needs three; of its large columns, each is one.
    n_parts = [
        sum(fields[first] == field == fields[stop - 1] for parts in stages for first, stop in parts)
        for field in range(5)
    ]
    assert n_parts == [3, 3, 2, 3, 3]


def one_hot_codes(code):
    """Like `one_hot`, without a dense matrix."""
    return sp.csr_array((np.ones(len(code)), code, np.arange(len(code) + 1)))


def test_many_columns_without_samples_are_shared_out():
    columns = columns_of(sp.csr_array((np.ones(2), ([0, 1], [0, 99_999])), shape=(2, 100_000)))
    (parts,) = columns.stages(columns.fields())
    assert len(parts) == -(-100_000 // 4096)
    assert parts[0] == (0, 4096)
    assert parts[-1][1] == 100_000
