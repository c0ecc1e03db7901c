"""Data sets on disk: from every source, in bounded memory, complete or not at all, and safe to open."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from refusal import assert_one_sentence

import fmfast
from fmfast import _batches, text
from fmfast._reader import TextReader
from fmfast.validation import check_X

rng = np.random.default_rng(0)
X = sp.random_array((200, 30), density=0.2, rng=rng, format="csr", dtype=np.float32)
Y = rng.integers(0, 2, 200).astype(np.float64)
WEIGHT = rng.random(200)
FIELD = np.arange(30) // 7
ONES = sp.csr_array((np.ones_like(X.data), X.indices, X.indptr), shape=X.shape)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train.fmd"


def assert_same_matrix(a, b):
    assert a.shape == b.shape
    assert a.data.dtype == b.data.dtype
    for name in ("data", "indices", "indptr"):
        assert_array_equal(getattr(a, name), getattr(b, name))


def files_of(path):
    return sorted(os.listdir(path))


def bytes_of(path):
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


# -- sources --------------------------------------------------------------------------------------


def test_matrix(path):
    ds = fmfast.convert(X, path, y=Y, sample_weight=WEIGHT, field=FIELD)
    assert_same_matrix(ds.X, X)
    assert_array_equal(ds.y, Y, strict=False)
    assert_array_equal(ds.sample_weight, WEIGHT)
    assert_array_equal(ds.field, FIELD)
    assert ds.qid is None
    assert ds.feature_names is None
    assert (ds.n_samples, ds.n_features, ds.nnz) == (200, 30, X.nnz)
    assert [np.asarray(a).dtype for a in (ds.y, ds.sample_weight, ds.field)] == ["f8", "f8", "i4"]
    assert files_of(path) == ["data.npy", "field.npy", "indices.npy", "indptr.npy", "meta.json",
                              "sample_weight.npy", "y.npy"]  # fmt: skip
    assert_array_equal(np.load(path / "indices.npy", mmap_mode="r"), X.indices)
    assert files_of(path.parent) == ["train.fmd"]
    assert repr(ds).endswith("with ['y', 'sample_weight', 'field']>")


def test_nothing_but_X(path):
    ds = fmfast.convert(X, path)
    assert ds.y is None
    assert ds.sample_weight is None
    assert files_of(path) == ["data.npy", "indices.npy", "indptr.npy", "meta.json"]
    assert repr(ds) == f"<Dataset of 200 x 30, nnz={X.nnz}, with X only>"


def test_rows_become_canonical(path):
    dense = np.array([[1.0, 0, 2], [0, 0, 0], [5, 1e-300, 3]])
    messy = sp.csr_array(([2.0, 1, 0, 2, 5, 1e-300, 1], [2, 0, 1, 2, 0, 1, 2], [0, 3, 3, 7]), shape=(3, 3))
    expected = sp.csr_array(dense.astype(np.float32))
    expected.eliminate_zeros()
    assert_same_matrix(fmfast.convert(messy, path).X, expected)
    ds = fmfast.convert(dense, path, dtype="float64", overwrite=True)
    assert_array_equal(ds.X.toarray(), dense, strict=True)


def test_all_ones_are_not_stored(path):
    ds = fmfast.convert(ONES, path)
    assert files_of(path) == ["indices.npy", "indptr.npy", "meta.json"]
    assert_same_matrix(ds.X, ONES)
    assert_array_equal(ds.X[[5, 3, 5]].toarray(), ONES[[5, 3, 5]].toarray())
    assert_array_equal(ds.X @ np.arange(30), ONES @ np.arange(30))


@pytest.mark.parametrize("n_ones", [0, 1, 7, 99])
def test_ones_first_and_other_values_later(path, monkeypatch, n_ones):
    monkeypatch.setattr("fmfast.store._BLOCK", 16)
    monkeypatch.setattr(_batches, "_BLOCK_CELLS", 4)
    rows = sp.csr_array(np.where(np.arange(100) < n_ones, 1.0, 2.5)[:, None].astype(np.float32))
    content = "x,y\n" + "".join(f"{value},0\n" for value in rows.data)
    ds = fmfast.convert(io.BytesIO(content.encode()), path, format="csv", y="y")
    assert_same_matrix(ds.X, rows)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_libsvm(path, compress, n_jobs):
    source = path.with_name("rows")
    text.dump(source, X, Y, qid=np.arange(200))
    source.write_bytes(compress(source.read_bytes()))
    ds = fmfast.convert(source, path, n_features=30, n_jobs=n_jobs)
    assert_same_matrix(ds.X, X)
    assert_array_equal(ds.y, Y)
    assert_array_equal(ds.qid, np.arange(200))
    assert ds.field is None


def test_libffm(path):
    content = b"1 0:0:1 2:3:0.5\n0 1:1:1 2:3:1\n"
    ds = fmfast.convert(io.BytesIO(content), path)
    expected = text.load(io.BytesIO(content))
    assert_same_matrix(ds.X, expected.X)
    assert_array_equal(ds.field, expected.field)


@pytest.mark.parametrize("content", [
    b"1 5:1\n1 1:1\n1 0:1\n",  # a 0 after a block that looked as if counted from 1
    b"1 0:1\n1 1:1\n1 5:1\n",
    b"1 1:1\n1 5:1\n1 2:1\n",
    b"1 1:1\n1 4294967296:1\n1 0:1\n",  # wide indices after narrow ones
    b"1 1:1\n1 4294967296:1\n1 2:1\n",
    b"1\n1\n1 0:1\n",
    b"1 2147483647:1\n1 0:1\n",
])  # fmt: skip
def test_what_shows_late_in_a_text(path, monkeypatch, content):
    defaults = TextReader.__init__.__kwdefaults__
    monkeypatch.setattr(TextReader.__init__, "__kwdefaults__", {**defaults, "chunk_size": 4})
    monkeypatch.setattr("fmfast.store._BLOCK", 8)
    ds = fmfast.convert(io.BytesIO(content), path)
    expected = text.load(io.BytesIO(content)).X
    assert_same_matrix(ds.X, expected)
    assert files_of(path.parent) == ["train.fmd"]


def frame():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X.toarray(), columns=[f"c{j}" for j in range(30)])
    table.insert(3, "y", Y)
    table["w"] = WEIGHT
    table["name"] = "a, b"
    return table


FEATURES = [f"c{j}" for j in range(30)]


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.parquet"])
@pytest.mark.parametrize("cells", [1, 100, 1 << 18])
def test_tables(path, monkeypatch, name, cells):
    monkeypatch.setattr(_batches, "_BLOCK_CELLS", cells)
    source = path.with_name(name)
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
        frame().to_parquet(source)
    else:
        frame().to_csv(source, index=False)
    ds = fmfast.convert(source, path, y="y", sample_weight="w", columns=FEATURES, field=FIELD)
    assert_same_matrix(ds.X, X)
    assert_array_equal(ds.y, Y)
    assert_array_equal(ds.sample_weight, WEIGHT)
    assert_array_equal(ds.field, FIELD)
    assert ds.feature_names == FEATURES


def test_csv_as_others_write_it(path):
    content = '\ufeff"a","b ""c""",y\r\n1,-2.5e1,0\r\n\r\n"3",0,1'
    ds = fmfast.convert(io.BytesIO(content.encode()), path, format="csv", y="y")
    assert ds.feature_names == ["a", 'b "c"']
    assert_array_equal(ds.X.toarray(), [[1, -25], [3, 0]])
    assert_array_equal(ds.y, [0, 1])


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        ("a,y\n1,2\n3,x\n", {"y": "y"}, ["line 3", "'y'", "'x'", "a finite number"]),
        ("a,y\n1,2\n\n,4\n", {"y": "y"}, ["line 4", "'a'", "''"]),
        ("a,y\n1,nan\n", {"y": "y"}, ["line 2", "'y'", "'nan'"]),
        ("a,y\n1,2\n1,2,3\n", {"y": "y"}, ["line 3", "3 cells", "expected 2"]),
        ("a,b,y\n1,2,3\n1,2\n", {"columns": ["a"]}, ["line 3", "2 cells", "expected 3"]),
        ("a,y\n1,2\n", {"y": "z"}, ["0 columns named 'z'"]),
        ("a,a\n1,2\n", {}, ["2 columns named 'a'"]),
        ("a,y\n1,2\n", {"y": "y", "columns": ["y"]}, ["none twice"]),
        ("y\n1\n", {"y": "y"}, ["at least one for X"]),
        ("", {}, ["at least one for X"]),
        ("a,b\n", {}, ["no rows"]),
        ("a,b\n1,1e300\n", {}, ["too large", "from row 0 on", "column 1"]),
        ("a,w\n1,-1\n", {"sample_weight": "w"}, ["negative"]),
    ],
)
def test_bad_csv(path, content, arguments, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        fmfast.convert(io.BytesIO(content.encode()), path, format="csv", **arguments)
    for word in words:
        assert word in str(caught.value)
    assert files_of(path.parent) == []


def test_bad_parquet(path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    source = path.with_name("rows.parquet")
    for column, words in [(["a", "b"], "column 'x': .*string, expected numbers"),
                          ([1.0, None], "row 1, column 'x': nan")]:  # fmt: skip
        pandas.DataFrame({"x": column}).to_parquet(source)
        with pytest.raises(ValueError, match=words) as caught:
            fmfast.convert(source, path)
        assert_one_sentence(str(caught.value))
    source.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="no Parquet file"):
        fmfast.convert(source, path)
    assert files_of(path.parent) == ["rows.parquet"]


def test_parquet_without_pyarrow(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install fmfast\[data\]"):
        fmfast.convert("rows.parquet", path)


@pytest.mark.parametrize(
    ("source", "arguments", "words"),
    [(X, {"columns": ["a"]}, "belongs to"), (io.BytesIO(b"1 1:1"), {"y": Y}, "belongs to"),
     (X, {"y": Y[:5]}, "y"), (X, {"field": [1]}, "field has shape"), (X, {"dtype": "int8"}, "dtype"),
     (X, {"format": "xml"}, "format"), (io.BytesIO(b""), {}, "no rows"),
     (io.BytesIO(b"1 x"), {}, "line 1, column 3"), (sp.csr_array([[np.nan]]), {}, "NaN"),
     (sp.csr_array([[1e300]]), {}, "too large")],
)  # fmt: skip
def test_bad_arguments(path, source, arguments, words):
    with pytest.raises(ValueError, match=words):
        fmfast.convert(source, path, **arguments)
    assert files_of(path.parent) == []


# -- training -------------------------------------------------------------------------------------


def test_fit_takes_the_mapped_arrays_without_a_copy(path):
    ds = fmfast.convert(X, path, y=Y)
    rows = check_X(ds.X, dtype=np.dtype(np.float32))
    for name in ("data", "indices", "indptr"):
        assert np.shares_memory(getattr(rows, name), getattr(ds.X, name))
        assert isinstance(getattr(ds.X, name), np.memmap)
        assert not getattr(ds.X, name).flags.writeable
    one, other = (
        fmfast.FMClassifier(4, max_iter=2, random_state=0).fit(*data) for data in ((ds.X, ds.y), (X, Y))
    )
    assert_array_equal(one.V_, other.V_)
    assert_array_equal(one.predict(ds.X), other.predict(X))


def test_fit_on_ones(path):
    ds = fmfast.convert(ONES, path, y=Y)
    one, other = (
        fmfast.FMClassifier(4, max_iter=2, random_state=0).fit(*data) for data in ((ds.X, ds.y), (ONES, Y))
    )
    assert_array_equal(one.V_, other.V_)


# -- whole or not at all --------------------------------------------------------------------------


def test_overwrite(path):
    fmfast.convert(X, path, y=Y)
    before = bytes_of(path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fmfast.convert(ONES, path)
    assert bytes_of(path) == before
    old = fmfast.open_dataset(path)
    assert_same_matrix(fmfast.convert(ONES, path, overwrite=True).X, ONES)
    assert_same_matrix(old.X, X)  # what is open stays
    assert files_of(path.parent) == ["train.fmd"]
    with pytest.raises(fmfast.TextFormatError):
        fmfast.convert(io.BytesIO(b"1 1:1\n1 1:x\n"), path, overwrite=True)
    assert_same_matrix(fmfast.open_dataset(path).X, ONES)
    assert files_of(path.parent) == ["train.fmd"]


def test_only_data_sets_are_overwritten(path):
    def refused():
        with pytest.raises(FileExistsError, match="is not a data set"):
            fmfast.convert(X, path, overwrite=True)

    path.write_text("a file")
    refused()
    path.unlink()
    path.mkdir()
    refused()
    (path / "meta.json").write_text("{}")
    (path / "thesis.tex").write_text("years of work")
    refused()
    assert files_of(path) == ["meta.json", "thesis.tex"]
    assert files_of(path.parent) == ["train.fmd"]


def test_a_link_stays(path):
    real = path.with_name("real.fmd")
    fmfast.convert(X, real)
    path.symlink_to(real)
    fmfast.convert(ONES, path, overwrite=True)
    assert path.is_symlink()
    assert_same_matrix(fmfast.open_dataset(real).X, ONES)


CONVERT = """if True:
    import sys, fmfast
    print("ready", flush=True)
    source, path = sys.argv[1:]
    while True:
        fmfast.convert(source, path, overwrite=True)
        print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_at_any_moment(path):
    """Under the name there is a whole data set, or nothing before the first is done."""
    source = path.with_name("rows")
    big = sp.csr_array((np.arange(1, 300_001, dtype=np.float32), np.arange(300_000) % 1000,
                        np.arange(0, 300_001, 10)), shape=(30_000, 1000))  # fmt: skip
    text.dump(source, big, np.arange(30_000))
    expected = text.load(source).X
    moments = np.random.default_rng(3).uniform(0.001, 0.2, 8)
    n_whole = n_interrupted = 0
    for moment in moments:
        process = subprocess.Popen([sys.executable, "-c", CONVERT, source, path], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        if moment == moments[1]:  # surely there from now on, however slow the machine
            assert process.stdout.readline() == b"done\n"
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left = [name for name in files_of(path.parent) if name.startswith(".fmfast")]
        n_interrupted += any(name.endswith(".tmp") for name in left)
        if path.exists():
            n_whole += 1
            assert_same_matrix(fmfast.open_dataset(path).X, expected)
        else:  # never yet there, or killed between two renamings: then the old one is whole
            for name in left:
                if name.endswith(".old"):
                    assert_same_matrix(fmfast.open_dataset(path.with_name(name)).X, expected)
    assert n_whole
    assert n_interrupted


FULL_DISK = """if True:
    import resource, sys, fmfast, numpy as np
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        fmfast.convert(np.arange(1.0, 100_001.0).reshape(-1, 10), sys.argv[1], overwrite=True)
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize("limit", [0, 100, 5000, 300_000])
def test_full_disk(path, limit):
    fmfast.convert(X, path)
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path, str(limit)], capture_output=True, text=True)
    assert done.stdout == "OSError\n", done.stderr
    assert files_of(path.parent) == ["train.fmd"]
    assert_same_matrix(fmfast.open_dataset(path).X, X)


MEMORY = """if True:
    import resource, sys, fmfast
    warm, source, path = sys.argv[1:]
    fmfast.convert(warm, path + ".warm")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fmfast.convert(source, path)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in kilobytes")
@pytest.mark.parametrize("name", ["rows", "rows.gz", "rows.csv", "rows.parquet"])
def test_memory_is_bounded(path, name):
    """Of sources whose arrays take more than the budget; what any source takes is used up by a small one."""
    budget, n_rows = 24_000_000, 100_000
    source, warm = path.with_name(name), path.with_name("warm_" + name)
    values = np.round(np.random.default_rng(0).random((n_rows, 50)), 4).astype(np.float32) + 1
    for file, rows in ((source, values), (warm, values[:1000])):
        if name.endswith("csv"):
            np.savetxt(
                file, rows, fmt="%.4f", delimiter=",", header=",".join(map(str, range(50))), comments=""
            )
        elif name.endswith("parquet"):
            pandas = pytest.importorskip("pandas")
            pytest.importorskip("pyarrow")
            pandas.DataFrame(rows, columns=[str(j) for j in range(50)]).to_parquet(
                file, row_group_size=10_000
            )
        else:
            text.dump(file, rows, np.zeros(len(rows)))
    done = subprocess.run([sys.executable, "-c", MEMORY, warm, source, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert fmfast.open_dataset(path).nnz * 8 > 1.5 * budget
    assert int(done.stdout) * 1024 < budget


# -- directories from strangers -------------------------------------------------------------------


def refused(path, *words):
    with pytest.raises(fmfast.DatasetError) as caught:
        fmfast.open_dataset(path)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "\n" not in message
    assert len(message) < 800


def change_meta(path, **changes):
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, **changes}))


ARRAYS = {"indptr": "int64", "indices": "int32", "data": "float32"}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"}, {"format_version": 2}, {"format_version": True}, {"n_samples": 199},
        {"n_samples": 0}, {"n_samples": -1}, {"n_samples": 2**61}, {"n_samples": 2**70}, {"n_samples": 200.0},
        {"n_features": -1}, {"n_features": 29}, {"n_features": 2**61}, {"nnz": X.nnz + 1}, {"nnz": 2**62},
        {"nnz": 0}, {"dtype": "float16"}, {"dtype": None}, {"dtype": "float64"}, {"arrays": []},
        {"arrays": {}}, {"arrays": {"indptr": "int64"}}, {"arrays": {**ARRAYS, "indices": "object"}},
        {"arrays": {**ARRAYS, "indices": "int64"}}, {"arrays": {**ARRAYS, "../../y": "float64"}},
        {"arrays": {**ARRAYS, "indices": []}}, {"arrays": {**ARRAYS, "qid": "int64"}},
        {"feature_names": ["a"]}, {"feature_names": 3}, {"feature_names": [1] * 30}, {"fmfast_version": 1},
        {"unknown": 1}, {"\ud800": 1},
    ],
)  # fmt: skip
def test_wrong_meta(path, changes):
    fmfast.convert(X, path, y=Y, field=FIELD)
    change_meta(path, **changes)
    refused(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": NaN}',
        b"1" * 5000,
        b'{"format": 1e999}',
    ],
)
def test_meta_that_is_none(path, content):
    fmfast.convert(X, path)
    (path / "meta.json").write_bytes(content)
    refused(path)


def test_missing_and_foreign_files(path):
    with pytest.raises(FileNotFoundError):
        fmfast.open_dataset(path)
    path.write_text("")
    refused(path, "not a directory")
    path.unlink()
    path.mkdir()
    refused(path, "no file meta.json")


@pytest.mark.parametrize("name", ["indptr", "indices", "data", "y"])
def test_damaged_arrays(path, name):
    fmfast.convert(X, path, y=Y)
    file = path / f"{name}.npy"
    sound = file.read_bytes()
    other = io.BytesIO()
    np.save(other, np.array([None] * 10), allow_pickle=True)
    for damaged in (b"", sound[:50], sound[:-1], sound + b"\0", b"X" + sound[1:], other.getvalue(),
                    sound[:60] + b"9" + sound[61:]):  # fmt: skip
        file.write_bytes(damaged)
        refused(path, f"{name}.npy")
    file.unlink()
    refused(path, f"no file {name}.npy")
    file.mkdir()
    refused(path, "not an ordinary file")


def test_paths_stay_inside(path):
    """Links and devices could show any file, or never end."""
    fmfast.convert(X, path)
    for name in ("meta.json", "indices.npy"):
        file, elsewhere = path / name, path.with_name("elsewhere")
        file.rename(elsewhere)
        file.symlink_to(elsewhere)
        refused(path, f"its {name} is not an ordinary file")
        file.unlink()
        if hasattr(os, "mkfifo"):
            os.mkfifo(file)
            refused(path, f"its {name} is not an ordinary file")
            file.unlink()
        elsewhere.rename(file)
    fmfast.open_dataset(path)


@pytest.mark.parametrize(
    ("position", "value"), [(0, 1), (0, -1), (-1, X.nnz - 1), (-1, X.nnz + 1), (7, -5), (7, 2**60)]
)
def test_wrong_indptr(path, monkeypatch, position, value):
    monkeypatch.setattr("fmfast.store._BLOCK", 7)
    fmfast.convert(X, path)
    indptr = np.lib.format.open_memmap(path / "indptr.npy", mode="r+")
    indptr[position] = value
    indptr.flush()
    refused(path, "indptr")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("indices", 30, "column index 30"), ("indices", -1, "column index -1"), ("data", np.nan, "NaN"),
     ("y", np.inf, "infinity")],
)  # fmt: skip
def test_numbers_are_checked_by_fit(path, name, value, words):
    fmfast.convert(X, path, y=Y)
    array = np.lib.format.open_memmap(path / f"{name}.npy", mode="r+")
    array[5] = value
    array.flush()
    ds = fmfast.open_dataset(path)
    with pytest.raises(ValueError, match=words):
        fmfast.FMRegressor(2).fit(ds.X, ds.y)


def test_opening_takes_little_memory(path):
    """Whatever is promised, and however much is there."""
    fmfast.convert(sp.csr_array(np.ones((100_000, 20))), path, y=np.zeros(100_000))
    change_meta(path, n_features=2**61)
    tracemalloc.start()
    try:
        assert fmfast.open_dataset(path).X.shape == (100_000, 2**61)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
    (path / "meta.json").write_bytes(b" " * (1 << 26) + b"{}")
    refused(path, "meta.json has")
