"""libsvm and libffm files: what is written is read again, to the bit, whatever the chunks and threads."""

from __future__ import annotations

import bz2
import doctest
import gzip
import io
import sys
import types

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fmfast
from fmfast import text
from fmfast._reader import TextReader


def load(content, **more):
    return text.load(io.BytesIO(content), **more)


def dumped(X, y=None, **more):
    file = io.BytesIO()
    text.dump(file, X, y, **more)
    return file.getvalue()


def assert_same(a, b):
    assert a.X.shape == b.X.shape
    assert a.X.dtype == b.X.dtype
    for name in ("data", "indices", "indptr"):
        assert_array_equal(getattr(a.X, name), getattr(b.X, name), strict=True)
    for name in ("y", "qid", "field"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert_array_equal(one, other, strict=True)


# -- every feature of the format -----------------------------------------------------------------


def test_libsvm():
    data = load(b"1 1:0.5 3:2\n-1.5 2:1e1\n0\n")
    assert_array_equal(data.X.toarray(), np.array([[0.5, 0, 2], [0, 10, 0], [0, 0, 0]], dtype=np.float32))
    assert_array_equal(data.y, [1, -1.5, 0], strict=False)
    assert data.y.dtype == np.float64
    assert data.X.dtype == np.float32
    assert isinstance(data.X, sp.csr_array)
    assert data.X.has_canonical_format
    assert data.qid is None
    assert data.field is None


def test_libffm():
    data = load(b"1 0:0:1 2:3:0.5\n0 1:1:1 2:3:1\n")
    assert_array_equal(data.X.toarray(), [[1, 0, 0, 0.5], [0, 1, 0, 1]])
    assert_array_equal(
        data.field, np.array([0, 1, 0, 2], dtype=np.int32), strict=True
    )  # column 2 has no entry


def test_fields_of_one_based_indices_stay_as_they_are():
    data = load(b"1 0:1:1 7:4:1\n")
    assert_array_equal(data.field, [0, 0, 0, 7])
    assert_array_equal(load(b"1 0:1:1 7:4:1\n", zero_based=True).field, [0, 0, 0, 0, 7])
    assert_array_equal(load(b"1 0:1:1 7:4:1\n", n_features=6).field, [0, 0, 0, 7, 0, 0])


def test_comments_blank_lines_tabs_and_windows():
    content = b"# top 1:2\r\n\r\n1\t1:1  2:2 \t# qid:3 7:8\r\n   \r\n  -1 qid:1 1:3#x\r\n\t# end"
    with pytest.raises(fmfast.TextFormatError, match="line 5"):
        load(content)
    data = load(content.replace(b"qid:1 ", b""))
    assert_array_equal(data.X.toarray(), [[1, 2], [3, 0]])
    assert_array_equal(data.y, [1, -1])


def test_qid():
    data = load(b"1 qid:7 1:1\n2 qid:9223372036854775806\n")
    assert_array_equal(data.qid, np.array([7, 2**63 - 2]), strict=True)
    data = load(b"qid:3 1:1\nqid:4 2:1\n")
    assert data.y is None
    assert_array_equal(data.qid, [3, 4])


def test_no_labels():
    data = load(b"1:2 2:3\n2:1\n")
    assert data.y is None
    assert_array_equal(data.X.toarray(), [[2, 3], [0, 1]])


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" ", b"\n\n", b" # c"])
def test_the_last_line(end):
    assert_same(load(b"1 1:1\n2 2:3" + end), load(b"1 1:1\n2 2:3\n"))


@pytest.mark.parametrize(
    ("content", "zero_based", "n_features"),
    [(b"1 1:1 3:1", "auto", 3), (b"1 1:1 3:1\n1 0:1", "auto", 4), (b"1 1:1 3:1", True, 4),
     (b"1 1:1 3:1", False, 3), (b"1 0:0 3:1", "auto", 4), (b"1", "auto", 0), (b"1\n", True, 0)],
)  # fmt: skip
def test_zero_based(content, zero_based, n_features):
    data = load(content, zero_based=zero_based)
    assert data.X.shape[1] == n_features
    if n_features:
        assert data.X[0, n_features - 1] == 1


def test_n_features():
    assert load(b"1 1:1\n", n_features=7).X.shape == (1, 7)
    assert load(b"1 7:1\n", n_features=7).X.shape == (1, 7)
    with pytest.raises(
        fmfast.TextFormatError, match="line 1, column 3: '8:1', expected an index of at most 7"
    ):
        load(b"1 8:1\n", n_features=7)
    with pytest.raises(
        fmfast.TextFormatError, match="line 1, column 3: '7:1', expected an index of at most 6"
    ):
        load(b"1 7:1\n", n_features=7, zero_based=True)
    with pytest.raises(fmfast.TextFormatError, match="line 2: index 7, expected no more than 6") as caught:
        load(b"1 1:1\n1 7:1\n1 0:1", n_features=7)
    assert caught.value.line == 2


def test_order_duplicates_and_zeros():
    data = load(b"1 9:9 2:2 9:0.5 4:0 2:-2 3:1 11:0\n1 3:-0\n")
    assert_array_equal(data.X.indices, [2, 8])
    assert_array_equal(data.X.data, [1, 9.5])
    assert_array_equal(data.X.indptr, [0, 2, 2])
    assert data.X.shape == (2, 11)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-3, 3)), max_size=120))
def test_any_row_becomes_canonical(entries):
    content = "1 0:0 " + " ".join(f"{j}:{x}" for j, x in entries)
    X = load(content.encode(), n_features=51).X
    expected = np.zeros(51)
    for j, x in entries:
        expected[j] += x
    assert_array_equal(X.toarray()[0], expected)
    assert (np.diff(X.indices) > 0).all()
    assert (X.data != 0).all()


def test_a_long_row_in_the_worst_order_is_no_trouble():
    n = 200_000
    X = load(b"1 " + b" ".join(b"%d:1" % j for j in range(n, 0, -1))).X
    assert_array_equal(X.indices, np.arange(n))


def test_sums_are_of_doubles():
    X = load(b"1 1:16777216 1:1 1:1\n").X
    assert X.data[0] == 16777218


def test_wide_indices():
    data = load(b"1 1:1 2147483647:1\n")
    assert_array_equal(data.X.indices, [0, 2**31 - 2])
    data = load(b"1 1:1 4294967297:1\n2 5:1\n")
    assert data.X.shape == (2, 2**32 + 1)
    assert_array_equal(data.X.indices, np.array([0, 2**32, 4]), strict=True)
    data = load(b"1 1:1 9223372036854775806:1\n", zero_based=True)
    assert data.X.shape == (1, 2**63 - 1)


def test_values_are_rounded_once():
    content = b"1 1:1.00000005960464477539062500000001\n"
    assert load(content).X.data[0] == np.nextafter(np.float32(1), np.float32(2))
    assert load(content, dtype="float64").X.data[0] == float("1.000000059604644775390625")


# -- files ----------------------------------------------------------------------------------------

CONTENT = b"".join(b"%d %d:1 %d:0.%d\n" % (i % 2, i % 7 + 1, i % 11 + 9, i + 1) for i in range(500))


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, lambda b: gzip.compress(b[:99]) + gzip.compress(b[99:])]
)
def test_paths_and_files(tmp_path, compress):
    path = tmp_path / "rows"
    path.write_bytes(compress(CONTENT))
    expected = load(CONTENT)
    assert_same(text.load(path), expected)
    assert_same(text.load(str(path)), expected)
    with open(path, "rb") as file:
        assert_same(text.load(file), expected)
    with bz2.open(io.BytesIO(bz2.compress(CONTENT))) as file:  # any object that reads bytes
        assert_same(text.load(file), expected)


def test_zstd(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    compress = zstandard.ZstdCompressor().compress
    expected = load(CONTENT)
    assert_same(load(compress(CONTENT)), expected)
    assert_same(load(compress(CONTENT[:99]) + compress(CONTENT[99:])), expected)
    for cut in (5, 20, len(compress(CONTENT)) - 1):
        with pytest.raises(fmfast.TextFormatError, match="damaged"):
            load(compress(CONTENT)[:cut])
    text.dump(tmp_path / "rows.zst", expected.X, expected.y)
    assert (tmp_path / "rows.zst").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    assert_same(text.load(tmp_path / "rows.zst"), expected)


def test_zstd_of_python_comes_first(monkeypatch):
    """`compression.zstd` has no `decompressobj`: its decompressors are such objects."""
    zstandard = pytest.importorskip("zstandard")
    used = []

    def decompressor():
        used.append(True)
        return zstandard.ZstdDecompressor().decompressobj()

    module = types.ModuleType("zstd")
    module.ZstdDecompressor, module.ZstdError = decompressor, zstandard.ZstdError
    package = types.ModuleType("compression")
    package.zstd = module
    monkeypatch.setitem(sys.modules, "compression", package)
    monkeypatch.setitem(sys.modules, "compression.zstd", module)
    assert_same(load(zstandard.ZstdCompressor().compress(CONTENT)), load(CONTENT))
    assert used


def test_zstd_without_a_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ModuleNotFoundError, match="pip install zstandard"):
        load(b"\x28\xb5\x2f\xfdrest")


def test_gzip_that_is_cut_off_or_altered():
    compressed = gzip.compress(CONTENT)
    for cut in (3, 30, len(compressed) - 1):
        with pytest.raises(fmfast.TextFormatError, match="damaged"):
            load(compressed[:cut])
    with pytest.raises(fmfast.TextFormatError, match="damaged"):
        load(compressed[:-6] + b"xxxxxx")
    with pytest.raises(fmfast.TextFormatError, match="damaged"):
        load(compressed + b"garbage")


def test_other_sources_are_refused(tmp_path):
    with pytest.raises(TypeError, match="binary"):
        text.load(io.StringIO("1 1:1"))
    with pytest.raises(TypeError, match="a path or a file object"):
        text.load([1, 2])
    with pytest.raises(FileNotFoundError):
        text.load(tmp_path / "none")


# -- chunks and threads ---------------------------------------------------------------------------

MIXED = b"# c\n" + b"".join(
    b"%d qid:%d %s%s" % (i, i // 5, b" ".join(b"%d:%d:%d.5" % (j % 4, j, i) for j in range(i % 9)), end)
    for i, end in enumerate([b"\n", b"\r\n", b" # x\n", b"\n\n"] * 20)
)


@pytest.mark.parametrize("n_jobs", [1, 2, 4, -1])
@pytest.mark.parametrize("chunk_size", [1, 2, 7, 64, 1 << 20])
def test_chunks_and_threads_make_no_difference(monkeypatch, chunk_size, n_jobs):
    expected = load(MIXED)
    assert expected.X.shape == (80, 8)
    monkeypatch.setattr(TextReader.__init__, "__kwdefaults__",
                        {**TextReader.__init__.__kwdefaults__, "chunk_size": chunk_size})  # fmt: skip
    assert len(list(TextReader(io.BytesIO(MIXED)))) == 80 or chunk_size > 7
    assert_same(load(MIXED, n_jobs=n_jobs), expected)


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_the_first_error_of_the_file_is_told(monkeypatch, n_jobs):
    monkeypatch.setattr(TextReader.__init__, "__kwdefaults__",
                        {**TextReader.__init__.__kwdefaults__, "chunk_size": 16})  # fmt: skip
    content = b"1 1:1\n" * 50 + b"1 1:x\n" + b"1 1:1\n" * 50 + b"y\n"
    with pytest.raises(fmfast.TextFormatError, match="line 51, column 3: '1:x'"):
        load(content, n_jobs=n_jobs)


def test_threads_run_only_a_little_ahead():
    """Else a file that is read faster than its blocks are used would end up in memory."""
    content = io.BytesIO(b"1 1:1\n" * 10_000)
    blocks = iter(TextReader(content, n_jobs=2, chunk_size=60))
    next(blocks)
    assert content.tell() <= 5 * 60
    blocks.close()


def test_a_format_that_shows_late(monkeypatch):
    """The first entry tells the format, wherever it stands."""
    monkeypatch.setattr(TextReader.__init__, "__kwdefaults__",
                        {**TextReader.__init__.__kwdefaults__, "chunk_size": 8})  # fmt: skip
    assert_array_equal(load(b"1 # 1:1\n" * 20 + b"1 5:1:1\n").field, [5])
    assert load(b"1\n" * 20 + b"1 5:1\n").X.shape == (21, 5)


# -- round trips ----------------------------------------------------------------------------------


@st.composite
def data_sets(draw):
    n_rows, n_columns = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    width = draw(st.sampled_from([32, 64]))
    value = st.floats(allow_nan=False, allow_infinity=False, width=width).filter(lambda x: abs(x) < 1e300)
    dense = draw(st.lists(st.lists(st.one_of(st.just(0.0), st.just(1.0), value), min_size=n_columns,
                                   max_size=n_columns), min_size=n_rows, max_size=n_rows))  # fmt: skip
    X = sp.csr_array(np.array(dense, dtype=f"float{width}"))
    y = draw(st.none() | st.lists(st.floats(-1e30, 1e30), min_size=n_rows, max_size=n_rows))
    qid = draw(st.none() | st.lists(st.integers(0, 2**63 - 2), min_size=n_rows, max_size=n_rows))
    field = draw(st.none() | st.lists(st.integers(0, 2**31 - 2), min_size=n_columns, max_size=n_columns))
    return X, y, qid, field


@settings(deadline=None, max_examples=300)
@given(data_sets(), st.booleans())
def test_round_trip(given_data, zero_based):
    X, y, qid, field = given_data
    content = dumped(X, y, qid=qid, field=field, zero_based=zero_based, comment="rows\nof numbers")
    form = "libsvm" if field is None else "libffm"
    back = load(content, n_features=X.shape[1], zero_based=zero_based, dtype=X.dtype, format=form)
    assert_array_equal(back.X.toarray(), X.toarray(), strict=True)
    for values, loaded in ((y, back.y), (qid, back.qid)):
        assert (values is None) == (loaded is None)
        if values is not None:
            assert_array_equal(loaded, values)
    if field is not None:
        used = np.unique(back.X.indices)
        assert_array_equal(back.field[used], np.array(field)[used])
    if not zero_based and back.X.nnz:
        assert_array_equal(load(content, n_features=X.shape[1], dtype=X.dtype).X.toarray(), X.toarray())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_of_random_bits(dtype):
    rng = np.random.default_rng(0)
    bits = rng.integers(
        0, 2**32 if dtype is np.float32 else 2**64, 100_000, dtype=f"uint{8 * dtype().itemsize}"
    )
    values = bits.view(dtype)
    values = values[np.isfinite(values) & (values != 0)]
    X = sp.csr_array((values, np.arange(len(values)) % 50, np.arange(0, len(values) + 1, 1)),
                     shape=(len(values), 50))  # fmt: skip
    back = load(dumped(X), n_features=50, dtype=dtype).X
    assert_array_equal(back.data.view(bits.dtype), values.view(bits.dtype), strict=True)


def test_files_larger_than_the_buffer(tmp_path):
    rng = np.random.default_rng(0)
    X = sp.random_array((300, 40_000), density=0.05, rng=rng, format="csr", dtype=np.float32)
    y = rng.normal(size=300)
    for name in ("rows", "rows.gz"):
        text.dump(tmp_path / name, X, y)
        back = text.load(tmp_path / name, n_features=40_000, n_jobs=2)
        assert_array_equal(back.X.indices, X.indices)
        assert_array_equal(back.X.data, X.data)
        assert_array_equal(back.y, y)
    assert (tmp_path / "rows").stat().st_size > 3 * (1 << 20)
    assert gzip.decompress((tmp_path / "rows.gz").read_bytes()) == (tmp_path / "rows").read_bytes()


def test_scikit_learn_reads_the_same(tmp_path):
    datasets = pytest.importorskip("sklearn.datasets")
    X = sp.random_array((50, 30), density=0.2, rng=np.random.default_rng(1), format="csr")
    y = np.arange(50) / 7
    text.dump(tmp_path / "rows", X, y, qid=np.arange(50) // 10)
    theirs_X, theirs_y, theirs_qid = datasets.load_svmlight_file(
        str(tmp_path / "rows"), query_id=True, n_features=30
    )
    assert_array_equal(theirs_X.toarray(), X.toarray())
    assert_array_equal(theirs_y, y)
    assert_array_equal(theirs_qid, np.arange(50) // 10)
    datasets.dump_svmlight_file(X, y, str(tmp_path / "theirs"), comment="theirs")
    theirs_X, _ = datasets.load_svmlight_file(str(tmp_path / "theirs"), n_features=30)  # of 16 digits
    ours = text.load(tmp_path / "theirs", dtype="float64", n_features=30)
    assert_array_equal(ours.X.toarray(), theirs_X.toarray())


def test_what_is_written():
    X = np.array([[1, 0, 0.5], [0, 0, 0]])
    assert dumped(X) == b"1:1 3:0.5\n1:0\n"
    assert dumped(X, [1, -2]) == b"1 1:1 3:0.5\n-2\n"
    assert dumped(X, [1, 2], zero_based=True, comment="c\nd") == b"# c\n# d\n1 0:1 2:0.5\n2\n"
    assert dumped(X, qid=[3, 4], field=[5, 5, 0]) == b"qid:3 5:1:1 0:3:0.5\nqid:4\n"
    assert dumped(X, field=[5, 5, 0], zero_based=True) == b"5:0:1 0:2:0.5\n5:0:0\n"


def test_dump_refuses(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"old")
    X = np.eye(2)
    for arguments, words in [
        ({"y": [1]}, "y"),
        ({"y": [1, np.nan]}, "y"),
        ({"qid": [1, -2]}, "qid is -2 at position 1"),
        ({"qid": [1.5, 2]}, "qid is 1.5 at position 0"),
        ({"field": [1]}, "field has shape"),
        ({"field": [1, 2**31 - 1]}, "field is 2147483647"),
        ({"dtype": "int8"}, "dtype"),
    ]:
        with pytest.raises(ValueError, match=words):
            text.dump(path, X, **arguments)
    with pytest.raises(ValueError, match="NaN"):
        text.dump(path, [[np.nan]])
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["rows"]


def test_the_example_of_the_docstring():
    failed, tried = doctest.testmod(text)
    assert (failed, tried > 0) == (0, True)
