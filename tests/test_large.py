"""Sizes that 32 bits do not hold: more than 2^31 nonzeros, tables of more than 2^31 elements, 2^32 bytes.

Not run unless asked for: `pytest -m large`. What is large is mostly not there: files with holes, and one
piece of memory that is mapped many times over. CONTRIBUTING.md says what each test takes.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from kernel_calls import random_rows, random_table, score, train

import fmfast
from fmfast import FMClassifier, FMRegressor
from fmfast._files import npy_prefix
from fmfast.table import ParameterTable

pytestmark = [
    pytest.mark.large,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files with holes, and maps of Linux"),
]
LIMIT = 1 << 31


# -- more than 2^31 nonzeros -----------------------------------------------------------------------

N_COLUMNS, ROW_NNZ, PATTERN_ROWS = 8192, 4096, 256
PATTERN_NNZ = PATTERN_ROWS * ROW_NNZ
N_PATTERNS = LIMIT // PATTERN_NNZ + 2
N_ROWS = N_PATTERNS * PATTERN_ROWS
ONLY_AT_THE_END = N_COLUMNS - 1  # a column that only the last rows have


def pattern(with_last_column):
    """(PATTERN_ROWS, ROW_NNZ) columns of some rows."""
    rng = np.random.default_rng(1)
    rows = np.stack([np.sort(rng.choice(N_COLUMNS - 1, ROW_NNZ, replace=False)) for _ in range(PATTERN_ROWS)])
    if with_last_column:
        rows[:, -1] = ONLY_AT_THE_END
    return rows.astype(np.int32)


def few_rows(with_last_column):
    """The same as a matrix of its own: for a slice of the long one, SciPy would copy all its indices."""
    starts = np.arange(0, PATTERN_NNZ + 1, ROW_NNZ)
    columns = pattern(with_last_column).ravel()
    return sp.csr_array((np.ones(PATTERN_NNZ, np.float32), columns, starts), shape=(PATTERN_ROWS, N_COLUMNS))


def repeated(pieces):
    """One int32 array over files that are mapped side by side, some of them again and again."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    size = PATTERN_NNZ * 4
    room = mmap.mmap(-1, size * len(pieces), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    for i, file in enumerate(pieces):
        map_fixed = 0x10
        flags = mmap.MAP_PRIVATE | map_fixed
        where = libc.mmap(address + i * size, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, file.fileno(), 0)
        assert where == address + i * size, os.strerror(ctypes.get_errno())
    return np.frombuffer(room, dtype=np.int32)


@pytest.fixture(scope="module")
def long_matrix():
    """More than 2^31 ones in 8 MB of memory, a row in 4096 of 8192 columns; the last rows differ."""
    with tempfile.TemporaryFile() as common, tempfile.TemporaryFile() as last:
        for file, with_last in ((common, False), (last, True)):
            file.write(pattern(with_last).tobytes())
            file.flush()
        indices = repeated([common] * (N_PATTERNS - 1) + [last])
        assert len(indices) > LIMIT
        X = sp.csr_array((N_ROWS, N_COLUMNS), dtype=np.float32)
        X.indptr, X.indices = np.arange(N_ROWS + 1, dtype=np.int64) * ROW_NNZ, indices
        X.data = np.broadcast_to(np.float32(1), len(indices))
        yield X


def targets():
    y = np.tile(np.arange(PATTERN_ROWS) % 2, N_PATTERNS).astype(np.float64)
    y[-PATTERN_ROWS:] = 1.0
    return y


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_fit_visits_all_nonzeros(long_matrix, n_jobs):
    fm = FMClassifier(
        n_factors=8, max_iter=1, random_state=0, learning_rate=0.01, reg_w=0.0, reg_V=0.0, n_jobs=n_jobs
    )
    fm.fit(long_matrix, targets())
    assert fm.w_[ONLY_AT_THE_END] > 0
    scores = fm.decision_function(long_matrix)
    expected = fm.decision_function(few_rows(False))
    assert np.isfinite(scores).all()
    # Equal rows have equal scores, before position 2^31 and behind it.
    same = scores[:-PATTERN_ROWS].reshape(-1, PATTERN_ROWS) == expected
    assert same.all()
    assert (scores[-PATTERN_ROWS:] == fm.decision_function(few_rows(True))).all()


def test_what_is_wrong_behind_2_31_nonzeros_is_found(long_matrix):
    fm = FMRegressor(n_factors=0, max_iter=1)
    position = LIMIT + 12345
    right = long_matrix.indices[position]
    try:
        long_matrix.indices[position] = N_COLUMNS  # private to this map
        with pytest.raises(
            ValueError, match=f"column index {N_COLUMNS} in row {position // ROW_NNZ}, expected"
        ):
            fm.fit(long_matrix, targets())
        long_matrix.indices[position] = -1
        with pytest.raises(ValueError, match=f"column index -1 in row {position // ROW_NNZ}, expected"):
            fm.fit(long_matrix, targets())
    finally:
        long_matrix.indices[position] = right


@pytest.fixture
def directory():
    """One that is removed at once: pytest keeps those of several runs."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_a_data_set_on_disk_of_more_than_2_31_nonzeros(directory):
    """Out of core: visited window by window."""
    path = directory / "long.fmd"
    path.mkdir()
    nnz = N_PATTERNS * PATTERN_NNZ
    arrays = {"indptr": np.arange(N_ROWS + 1, dtype=np.int64) * ROW_NNZ, "y": targets()}
    for name, array in arrays.items():
        (path / f"{name}.npy").write_bytes(npy_prefix(array) + array.tobytes())
    with open(path / "indices.npy", "wb") as file:
        file.write(npy_prefix(np.broadcast_to(np.int32(0), nnz)))
        for _ in range(N_PATTERNS - 1):
            file.write(pattern_bytes)
        file.write(pattern(True).tobytes())
    meta = {
        "format": "fmfast data set", "format_version": 1, "fmfast_version": fmfast.__version__,
        "n_samples": N_ROWS, "n_features": N_COLUMNS, "nnz": nnz, "dtype": "float32",
        "arrays": {"indptr": "int64", "y": "float64", "indices": "int32"}, "feature_names": None,
    }  # fmt: skip
    (path / "meta.json").write_text(json.dumps(meta))
    ds = fmfast.open_dataset(path)
    assert ds.nnz == nnz > LIMIT
    fm = FMClassifier(n_factors=8, max_iter=1, random_state=0, learning_rate=0.01, reg_w=0.0, reg_V=0.0)
    fm.fit(ds.X, ds.y)
    assert fm.w_[ONLY_AT_THE_END] > 0
    scores = fm.decision_function(ds.X)
    expected = fm.decision_function(few_rows(False))
    assert (scores[:-PATTERN_ROWS].reshape(-1, PATTERN_ROWS) == expected).all()


pattern_bytes = pattern(False).tobytes()


# -- tables of more than 2^31 elements and 2^32 bytes ----------------------------------------------


def sparse_table(directory, n_features, small, columns):
    """A table in a file with holes, in which some rows are those of a small one."""
    stride = small.rows.shape[2]
    path = os.path.join(directory, "table")
    rows = np.memmap(path, small.dtype, "w+", shape=(1, n_features, stride))
    rows[0, columns] = small.rows[0]
    table = ParameterTable(1, 1, small.n_factors, small.state_size, small.dtype)
    table.rows, table.bias = rows, small.bias.copy()
    assert rows.size > LIMIT
    assert rows.nbytes > 1 << 32
    return table


def spread(columns, n_features):
    """Columns far from each other, the first and the last among them, in the same order as a few."""
    return np.linspace(0, n_features - 1, columns).astype(np.int64)


@pytest.mark.parametrize("solver", ["sgd", "adagrad", "ftrl"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("n_factors", [0, 8, 20])
def test_kernel_far_behind_in_a_table(core, tmp_path, solver, dtype, index_dtype, n_factors):
    rng = np.random.default_rng(3)
    rows = random_rows(rng, dtype=dtype)
    small = random_table(rng, rows.n_features, n_factors, dtype, solver, init_std=0.1)
    # Of int64 also columns that int32 does not hold.
    n_features = LIMIT - 1 if index_dtype == "int32" else LIMIT + LIMIT // 2
    columns = spread(rows.n_features, n_features)
    far = replace(rows)
    far.indices = columns[rows.indices].astype(index_dtype)
    large = sparse_table(tmp_path, n_features, small, columns)
    y = rng.normal(size=rows.n_samples)
    settings = {"solver": solver, "learning_rate": 0.05, "reg_w": 0.1, "reg_V": 0.2}
    assert score(core, far, large).tobytes() == score(core, rows, small).tobytes()
    loss = train(core, rows, y, small, **settings)
    assert train(core, far, y, large, **settings) == loss
    assert np.asarray(large.rows[0, columns]).tobytes() == small.rows[0].tobytes()
    assert large.bias.tobytes() == small.bias.tobytes()
    assert score(core, far, large).tobytes() == score(core, rows, small).tobytes()


def test_own_rows_of_threads_far_behind_in_a_table(core, tmp_path):
    rng = np.random.default_rng(4)
    rows = random_rows(rng, n_samples=40)
    small = random_table(rng, rows.n_features, 8, "float64", "adagrad", init_std=0.1)
    n_features = LIMIT // 4
    columns = spread(rows.n_features, n_features)
    large = sparse_table(tmp_path, n_features, small, columns)
    far = replace(rows)
    far.indices = columns[rows.indices].astype(np.int64)
    y = rng.normal(size=rows.n_samples)
    stride = small.rows.shape[2]
    outcomes = []
    for table, data, features in ((small, rows, np.arange(rows.n_features)), (large, far, columns)):
        owner = np.empty(512, dtype=np.int64)
        core.own_slots(features.astype(np.int64), stride, owner)
        assert set(owner[owner >= 0] // stride) <= set(features.tolist())
        assert (owner >= 0).sum() > rows.n_features // 2
        copies = np.zeros((2, 512, stride))
        slots = np.flatnonzero(owner >= 0)
        copies[:, slots] = table.rows[0, owner[slots] // stride]
        own = {
            "owner": owner, "own_rows": copies, "period": np.ones(512, dtype=np.int64), "share": 1.0,
            "rows_per_merge": 1, "merge_lock": np.zeros(1, dtype=np.int32),
        }  # fmt: skip
        train(core, data, y, table, solver="adagrad", learning_rate=0.05, **own)
        core.merge_rows(table.rows[0], owner, copies, 1.0)
        outcomes.append(np.asarray(table.rows[0, features])[:, : 8 + 3])
    # Where a row has its copy depends on its address, so that other rows have one; merges round.
    np.testing.assert_allclose(outcomes[1], outcomes[0], rtol=1e-9)


@pytest.mark.parametrize("n_factors", [0, 8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_far_behind_in_a_table(coordinate, tmp_path, n_factors, dtype):
    rng = np.random.default_rng(5)
    rows = random_rows(rng, n_samples=30, dtype=dtype)
    small = random_table(rng, rows.n_features, n_factors, dtype, init_std=0.1)
    stride = small.rows.shape[2]
    n_features = LIMIT // stride + 4096
    first = n_features - rows.n_features  # the last columns
    large = sparse_table(tmp_path, n_features, small, np.arange(first, n_features))
    columns = sp.csc_array(rows.dense)
    values = columns.data.astype(dtype)
    starts = np.memmap(tmp_path / "starts", np.int64, "w+", shape=(n_features + 1,))
    starts[first:] = columns.indptr
    groups = np.memmap(tmp_path / "groups", np.int32, "w+", shape=(n_features,))
    results = []
    for table, start, stop, begins, group in (
        (small, 0, rows.n_features, columns.indptr.astype(np.int64), np.zeros(rows.n_features, np.int32)),
        (large, first, n_features, starts, groups),
    ):
        q = np.zeros((rows.n_samples if n_factors else 0, 8), dtype)
        shifted = (rows.indices + start).astype(np.int64)
        if n_factors:
            data = rows.data.astype(dtype)
            coordinate.sum_factors(data, shifted, rows.indptr, 0, rows.n_samples, table.rows[0], 0, q)
        e = np.linspace(-1, 1, rows.n_samples).astype(dtype)
        coordinate.update_columns(
            values, columns.indices, begins, start, stop, table.rows[0], 0, table.width, q, e,
            np.empty(0, dtype), 1.0, group, np.zeros((1, 9)), np.ones((1, 9)), np.zeros(9), np.empty(0),
            np.empty((0, 9)),
        )  # fmt: skip
        results.append((q.tobytes(), e.tobytes(), np.asarray(table.rows[0, start:stop]).tobytes()))
    assert results[0] == results[1]


def test_a_machine_of_more_than_2_32_bytes(directory):
    """Fit, predict, go on, save and load; the whole table is in memory."""
    n_features = LIMIT // 12 + 1000
    columns = spread(200, n_features)
    rng = np.random.default_rng(6)
    X = sp.csr_array((rng.random((500, 200)) < 0.1).astype(np.float32))
    far = sp.csr_array((X.data, columns[X.indices].astype(np.int32), X.indptr), shape=(500, n_features))
    y = X @ rng.normal(size=200)
    fm = FMRegressor(n_factors=8, max_iter=3, random_state=0, solver="sgd").fit(far, y)
    table = fm.model_.table
    assert table.rows.size > LIMIT
    assert table.rows.nbytes > 1 << 32
    assert fm.history_[-1]["loss"] < 0.5 * fm.history_[0]["loss"]
    # The prediction from the few rows that it needs.
    few = FMRegressor.from_arrays(
        float(table.w0[0]), table.w[0, columns].astype(float), table.V[0, columns].astype(float)
    )
    prediction = fm.predict(far)
    expected = fm.model_.scale * few.predict(X) + fm.model_.offset
    np.testing.assert_allclose(prediction, expected, rtol=1e-4, atol=1e-4)
    assert table.rows[0, -2, :8].std() > 0  # initialised to the end
    fm.partial_fit(far, y)
    prediction = fm.predict(far)
    kept = table.rows[0, columns].copy()
    path = directory / "large.fm"
    fm.save(path)
    assert path.stat().st_size > 1 << 32
    del fm, table
    loaded = fmfast.load(path)
    assert loaded.predict(far).tobytes() == prediction.tobytes()
    assert loaded.model_.table.rows[0, columns].tobytes() == kept.tobytes()
