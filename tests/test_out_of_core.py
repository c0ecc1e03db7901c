"""Training on data sets that are larger than the memory they may take."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from problems import STOCHASTIC, quantile_classes

import fmfast
from fmfast import paging
from fmfast.paging import Pages
from fmfast.solvers.windows import Windows
from fmfast.validation import check_X

MEMORY = 1 << 20
LENGTH = 12


def clicks(n_samples, seed=0, dtype=np.float32, values=False):
    """Rows of LENGTH fields, and the scores that a planted factorization machine gives them."""
    rng = np.random.default_rng(seed)
    columns = 20 * np.arange(LENGTH) + rng.integers(0, 20, (n_samples, LENGTH))
    data = rng.choice([0.5, 1.0, 1.5], columns.size) if values else np.ones(columns.size)
    indptr = np.arange(0, columns.size + 1, LENGTH, dtype=np.int32)
    X = sp.csr_array((data.astype(dtype), columns.ravel().astype(np.int32), indptr), shape=(n_samples, 240))
    planted = np.random.default_rng(7)
    w, V = planted.normal(size=240), 0.4 * planted.normal(size=(240, 3))
    return X, X @ w + 0.5 * ((X @ V) ** 2 - (X * X) @ (V * V)).sum(axis=1)


def with_labels(n_samples, seed=0, **options):
    X, score = clicks(n_samples, seed, **options)
    rng = np.random.default_rng(seed + 100)
    return X, (rng.random(n_samples) < 1 / (1 + np.exp(-score))).astype(float)


def log_loss(fm, X, y):
    p = np.clip(fm.predict_proba(X)[:, 1], 1e-12, 1 - 1e-12)
    return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))


def stored(path, X, *, memory=MEMORY, **columns):
    fmfast.convert(X, path, dtype=X.dtype, **columns)
    return fmfast.open_dataset(path, memory=memory)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train.fmd"


# -- the order ------------------------------------------------------------------------------------


def uneven(n_samples, rng):
    """Rows of 0 to 40 values, and long ones among them."""
    lengths = rng.integers(0, 40, n_samples)
    lengths[:: n_samples // 4] = 3000
    indptr = np.append(0, np.cumsum(lengths))
    columns = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    return sp.csr_array(
        (rng.normal(size=len(columns)).astype(np.float32), columns, indptr), shape=(n_samples, 3000)
    )


def windows_of(ds, run_length, weight=None):
    rows = check_X(ds.X, dtype=np.dtype(np.float32))
    weight = np.empty(0) if weight is None else weight
    return Windows(
        Pages(rows.indptr, (rows.indices, rows.data), (ds.y, weight)), rows, [ds.y], weight, run_length
    )


@pytest.mark.parametrize("run_length", [1, 7, 64])
@pytest.mark.parametrize("kind", ["ones", "values", "uneven"])
def test_an_epoch_holds_every_row_once(path, kind, run_length):
    n_samples = 30_011  # the last run is short
    if kind == "uneven":
        X = uneven(n_samples, np.random.default_rng(1))
    else:
        X, _ = clicks(n_samples, values=kind == "values")
    ds = stored(path, X, y=np.arange(n_samples), sample_weight=np.arange(n_samples) + 1.0)
    windows = windows_of(ds, run_length, ds.sample_weight)
    seen, sizes = [], []
    for window in windows.epoch(3, 0):
        rows, (targets,) = window.rows, window.targets
        numbers = targets.astype(int)  # which rows these are
        assert_array_equal(window.sample_weight, targets + 1.0)
        assert_array_equal(np.diff(rows.indptr), np.diff(X.indptr)[numbers])
        expected = X[numbers]
        assert_array_equal(rows.indices, expected.indices)
        assert_array_equal(rows.data, expected.data if kind != "ones" else [])
        # Runs of consecutive rows, once each; `last` is where the last one lies in all rows.
        assert_array_equal(np.sort(window.runs), np.arange(0, len(numbers), run_length))
        for run in window.runs[:50]:
            assert_array_equal(np.diff(numbers[run : run + run_length]), 1)
        assert window.last == numbers[window.runs[-1]]
        seen.append(numbers)
        sizes.append(rows.indices.nbytes + rows.data.nbytes + rows.indptr.nbytes + 2 * targets.nbytes)
    assert len(seen) > 2
    assert_array_equal(np.sort(np.concatenate(seen)), np.arange(n_samples))
    # Half of the memory, and a run for each block; the boundaries of rows are there in any case.
    assert max(sizes) < 1.2 * MEMORY / 2


def test_orders_are_random_and_reproducible(path):
    ds = stored(path, clicks(30_000)[0], y=np.arange(30_000))

    def order(seed, epoch):
        return np.concatenate([w.targets[0][w.runs] for w in windows_of(ds, 8).epoch(seed, epoch)])

    assert_array_equal(order(0, 0), order(0, 0))
    assert (order(0, 0) != order(0, 1)).mean() > 0.9
    assert (order(0, 0) != order(1, 0)).mean() > 0.9
    # Neighbours in the visit come from many blocks of the file.
    first = next(windows_of(ds, 8).epoch(0, 0)).targets[0]
    assert np.count_nonzero(np.diff(first) != 1) >= 40
    starts = windows_of(ds, 8).starts
    assert all(start % 8 == 0 for start in starts[:-1])
    assert starts[0] == 0
    assert starts[-1] == 30_000
    assert all(a < b for a, b in pairwise(starts))


# -- what is learned ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Rows larger than the memory, the same on disk, and others to test with."""
    X, y = with_labels(60_000)
    ds = stored(tmp_path_factory.mktemp("large") / "train.fmd", X, y=y)
    assert Pages(ds.X.indptr, (ds.X.indices, ds.X.data)).n_bytes > 3 * MEMORY
    return X, y, ds, *with_labels(20_000, seed=1)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_as_good_as_in_memory(large, solver, dtype, n_jobs):
    X, y, ds, X_test, y_test = large
    settings = {"solver": solver, "dtype": dtype, "n_jobs": n_jobs, "max_iter": 4, "random_state": 0}
    # Two threads never do the same twice: a mean of several fits says more than one.
    losses = []
    for _ in range(1 if n_jobs == 1 else 5):
        inside = fmfast.FMClassifier(4, **settings).fit(X, y)
        outside = fmfast.FMClassifier(4, **settings).fit(ds.X, ds.y)
        assert outside.history_[-1]["loss"] == pytest.approx(inside.history_[-1]["loss"], rel=0.01)
        losses.append([log_loss(fm, X_test, y_test) for fm in (outside, inside)])
    # No worse than by 0.5%; and not much better, since that would be another solver. Seeds differ by 0.4%.
    of_outside, of_inside = np.mean(losses, axis=0)
    assert 0.98 < of_outside / of_inside < 1.005
    assert not np.array_equal(inside.V_, outside.V_)  # another order: this was trained in windows
    if n_jobs == 1:
        assert_array_equal(fmfast.FMClassifier(4, **settings).fit(ds.X, ds.y).V_, outside.V_)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("values_dtype", [np.float32, np.float64])
def test_regression_with_values_and_weights(path, values_dtype, wide):
    X, score = clicks(40_000, values=True, dtype=values_dtype)
    y = 3.0 + 10.0 * score
    weight = np.random.default_rng(5).uniform(0.5, 2.0, len(y))
    ds = stored(path, X, y=y, sample_weight=weight)
    if wide:
        np.save(path.with_name("wide.npy"), X.indices.astype(np.int64))
        ds.X.indices = np.load(path.with_name("wide.npy"), mmap_mode="r")
    X_test, score_test = clicks(10_000, seed=1, values=True)
    inside, outside = (
        fmfast.FMRegressor(4, max_iter=4, random_state=0).fit(*data)
        for data in ((X, y, weight), (ds.X, ds.y, ds.sample_weight))
    )
    errors = [np.mean((fm.predict(X_test) - 3.0 - 10.0 * score_test) ** 2) for fm in (inside, outside)]
    assert errors[0] < 0.1 * np.var(10.0 * score_test)
    assert np.sqrt(errors[1] / errors[0]) < 1.05  # there is no noise: what is left of the error is tiny


@pytest.mark.parametrize("labels", [[-1.0, 1.0], [0.0, 1.0, 2.0]])
def test_other_labels(path, labels):
    X, score = clicks(40_000)
    y = np.array(labels)[quantile_classes(score, len(labels))]
    ds = stored(path, X, y=y)
    inside, outside = (
        fmfast.FMClassifier(4, max_iter=3, random_state=0).fit(*data) for data in ((X, y), (ds.X, ds.y))
    )
    assert_array_equal(outside.classes_, labels)
    X_test, score_test = clicks(10_000, seed=1)
    y_test = np.array(labels)[quantile_classes(score_test, len(labels), of=score)]
    assert outside.score(X_test, y_test) == pytest.approx(inside.score(X_test, y_test), abs=0.01)
    assert outside.score(X_test, y_test) > 0.8


def test_what_fits_is_trained_as_in_memory(large, tmp_path):
    X, y, *_ = large
    ds = stored(tmp_path / "train.fmd", X, y=y, memory=paging.DEFAULT_MEMORY)
    one, other = (
        fmfast.FMClassifier(4, max_iter=2, random_state=0).fit(*data) for data in ((X, y), (ds.X, ds.y))
    )
    assert_array_equal(one.V_, other.V_)


def test_a_few_huge_rows(path):
    """Each is larger than a window."""
    rng = np.random.default_rng(0)
    X = sp.csr_array(rng.normal(size=(5, 300_000)).astype(np.float32))
    ds = stored(path, X, y=np.arange(5.0))
    fm = fmfast.FMRegressor(2, max_iter=2, random_state=0).fit(ds.X, ds.y)
    assert np.isfinite(fm.predict(ds.X)).all()


def test_more_epochs_later(large):
    _, _, ds, *_ = large
    whole = fmfast.FMClassifier(4, max_iter=3, random_state=0).fit(ds.X, ds.y)
    parts = fmfast.FMClassifier(4, max_iter=2, random_state=0, warm_start=True).fit(ds.X, ds.y)
    parts.set_params(max_iter=1).fit(ds.X, ds.y)
    assert_array_equal(parts.V_, whole.V_)


def test_evaluation_on_disk(large):
    X, y, ds, *_ = large
    fm = fmfast.FMClassifier(4, max_iter=3, early_stopping=True, random_state=0)
    fm.fit(ds.X, ds.y, eval_set=(ds.X, ds.y))
    inside = fmfast.FMClassifier(4, max_iter=3, early_stopping=True, random_state=0)
    inside.fit(ds.X, ds.y, eval_set=(X, y))
    assert [r["validation_score"] for r in fm.history_] == [r["validation_score"] for r in inside.history_]


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_predict(large, n_jobs, monkeypatch):
    monkeypatch.setattr(paging, "_PIECE", 1000)
    X, y, ds, *_ = large
    fm = fmfast.FMClassifier(4, max_iter=1, random_state=0, n_jobs=n_jobs).fit(X, y)
    assert_array_equal(fm.decision_function(ds.X), fm.decision_function(X))


def test_divergence(large):
    _, _, ds, *_ = large
    with pytest.raises(fmfast.DivergenceError, match="learning_rate"):
        fmfast.FMClassifier(4, learning_rate=1e12, random_state=0).fit(ds.X, ds.y)


# -- checks, piece by piece -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "position", "value", "words"),
    [
        ("indices", 120_003, 240, "column index 240 in row 10000"),
        ("indices", 120_003, -1, "column index -1 in row 10000"),
        ("data", 120_003, np.nan, "NaN .in row 10000"),
        ("indptr", 10_001, 5, "falls from 120000 to 5 in row 10000"),
        ("y", 10_001, np.nan, "y, from position 10000 on, contains NaN .at position 1"),
        ("sample_weight", 10_001, np.inf, "infinity .at position 10001"),
        ("sample_weight", 10_001, -1.0, "-1 .at position 10001"),
    ],
)
def test_what_is_wrong_is_found_where_it_is(path, monkeypatch, name, position, value, words):
    monkeypatch.setattr(paging, "_PIECE", 1000)
    X, y = with_labels(20_000, values=True)
    ds = stored(path, X, y=y, sample_weight=np.ones(20_000))
    array = np.lib.format.open_memmap(path / f"{name}.npy", mode="r+")
    array[position] = value
    array.flush()
    with pytest.raises(ValueError, match=words):
        fmfast.FMClassifier(2).fit(ds.X, ds.y, ds.sample_weight)


def test_unsorted_rows_in_a_late_piece(path, monkeypatch):
    monkeypatch.setattr(paging, "_PIECE", 1000)
    X, _ = clicks(20_000, values=True)
    ds = stored(path, X)
    indices = np.lib.format.open_memmap(path / "indices.npy", mode="r+")
    indices[150_000:150_002] = indices[[150_001, 150_000]]
    indices.flush()
    rows = check_X(ds.X, dtype=np.dtype(np.float32))
    assert (np.diff(rows.indices[rows.indptr[12_500] : rows.indptr[12_501]]) > 0).all()
    assert not np.shares_memory(rows.indices, ds.X.indices)


def test_zeros_in_a_late_piece(path, monkeypatch):
    monkeypatch.setattr(paging, "_PIECE", 1000)
    X, _ = clicks(20_000, values=True)
    ds = stored(path, X)
    data = np.lib.format.open_memmap(path / "data.npy", mode="r+")
    data[150_000] = 0.0
    data.flush()
    assert check_X(ds.X, dtype=np.dtype(np.float32)).nnz == X.nnz - 1


@pytest.mark.parametrize("values", [False, True])
def test_checks_copy_nothing(path, values):
    X, y = with_labels(200_000, values=values)
    ds = stored(path, X, y=y)
    estimator = fmfast.FMClassifier(2)
    tracemalloc.start()
    try:
        examples, _ = estimator._check_data(ds.X, ds.y, None, "")
        examples.rows.mean_row_norm(1) if not values else None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.shares_memory(examples.rows.indices, ds.X.indices)
    assert np.shares_memory(examples.target, ds.y)
    assert len(examples.rows.data) == (X.nnz if values else 0)
    assert peak < 8_000_000 < X.nnz * 4


# -- pages ----------------------------------------------------------------------------------------


def test_changes_of_a_private_map_stay(tmp_path):
    """Its pages hold what exists nowhere else, so that letting them go would lose it."""
    np.save(tmp_path / "a.npy", np.zeros(100_000))
    private = np.load(tmp_path / "a.npy", mmap_mode="c")
    private[:] = 1.0
    paging.let_go(private, 0, len(private))
    for _ in paging.pieces(private):
        pass
    assert (private == 1.0).all()
    assert not paging.is_mapped(private)


def test_changes_of_a_shared_map_stay(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(100_000))
    shared = np.load(tmp_path / "a.npy", mmap_mode="r+")
    shared[:] = 1.0
    assert paging.is_mapped(shared)
    paging.let_go(shared, 0, len(shared))
    assert (shared == 1.0).all()


def test_views_of_maps_are_found(path):
    ds = stored(path, clicks(1000)[0])
    view = np.asarray(ds.X.indices)[100:][5:]
    assert paging.is_mapped(view)
    assert Pages(ds.X.indptr[:11], (view,)).memory == MEMORY
    assert not paging.is_mapped(view.copy())
    assert not paging.is_mapped(view[::2])


def test_advice_names_the_pages_of_the_elements(path, monkeypatch):
    ds = stored(path, clicks(100_000)[0])
    asked = []

    class Map:
        def __len__(self):
            return 1 << 30

        def madvise(self, *arguments):
            asked.append(arguments)

    monkeypatch.setattr(paging, "_mapping", lambda array: paging._Mapping(Map(), 128, MEMORY))
    paging.will_need(ds.X.indices, 10_000, 20_000)
    ((_, start, length),) = asked
    assert start % mmap.PAGESIZE == 0
    assert start <= 128 + 40_000 < start + mmap.PAGESIZE
    assert start + length == 128 + 80_000


def test_without_advice(large, monkeypatch):
    _, _, ds, *_ = large
    before = fmfast.FMClassifier(4, max_iter=1, random_state=0).fit(ds.X, ds.y)
    for advice in ("MADV_WILLNEED", "MADV_DONTNEED"):
        monkeypatch.delattr(mmap, advice, raising=False)
    after = fmfast.FMClassifier(4, max_iter=1, random_state=0).fit(ds.X, ds.y)
    assert_array_equal(before.V_, after.V_)


@pytest.mark.parametrize("memory", [0, -1, MEMORY - 1, 1.5e9, "1GB", None])
def test_bad_memory(path, memory):
    fmfast.convert(np.eye(3), path)
    with pytest.raises(ValueError, match=r"memory is .*, expected a whole number of bytes, 1048576 at least"):
        fmfast.open_dataset(path, memory=memory)


# -- in a process that may not take more ----------------------------------------------------------

LIMITED = """if True:
    import json, resource, sys
    import numpy as np, fmfast
    from pathlib import Path
    path, where, n_jobs, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

    def status():
        lines = Path("/proc/self/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return {name: 1024 * int(fields[name].split()[0]) for name in ("VmData", "VmHWM", "VmRSS")}

    ds = fmfast.open_dataset(path, memory=limit // 2)
    # What is loaded once, threads included.
    fmfast.FMClassifier(4, max_iter=1, n_jobs=n_jobs).fit(np.eye(4000), np.arange(4000) % 2)
    stacks = n_jobs * (8 << 20) if n_jobs > 1 else 0  # reserved, not used
    before = status()
    allowed = before["VmData"] + limit + stacks
    unlimited = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, unlimited[1]))
    try:
        X, y = ds.X, ds.y
        if where == "memory":
            X = X.copy()
        peaks = []
        for use in ("fit", "predict"):
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
            if use == "fit":
                fm = fmfast.FMClassifier(4, max_iter=2, random_state=0, n_jobs=n_jobs).fit(X, y)
            else:
                scores = fm.decision_function(X)
            peaks.append(status()["VmHWM"] - before["VmRSS"])
    except MemoryError:
        print(json.dumps("MemoryError"))
    else:
        resource.setrlimit(resource.RLIMIT_DATA, unlimited)
        loss = float(np.mean(np.logaddexp(0, scores) - y * scores))
        print(json.dumps({"peaks": peaks, "loss": loss}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and RLIMIT_DATA")
@pytest.mark.skipif("FMFAST_SANITIZE" in os.environ, reason="sanitizers need memory of their own")
def test_four_times_the_limit(path):
    X, y = with_labels(2_400_000)
    ds = stored(path, X, y=y)
    n_bytes = sum(file.stat().st_size for file in path.iterdir())
    limit = n_bytes // 4
    inside = fmfast.FMClassifier(4, max_iter=2, random_state=0).fit(X, y)
    scores = inside.decision_function(X)
    expected = float(np.mean(np.logaddexp(0, scores) - y * scores))
    del ds

    def run(where, n_jobs):
        command = [sys.executable, "-c", LIMITED, str(path), where, str(n_jobs), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert run("memory", 1) == "MemoryError"  # the limit is one
    for n_jobs in (1, 2):
        found = run("disk", n_jobs)
        assert found["loss"] == pytest.approx(expected, rel=0.005)
        # Of anonymous memory and mapped files together; the predictions are 8 bytes a row.
        training, prediction = found["peaks"]
        assert training < limit
        assert prediction < limit + 8 * len(y)
