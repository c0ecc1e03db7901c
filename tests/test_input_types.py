"""Legal input of any kind gives the same bytes as plain canonical CSR, and is left as it was."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal

from fmfast import FMClassifier, FMRegressor

N_SAMPLES, N_FEATURES = 40, 12
FORMATS = ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"]


def make_dense():
    """Small integers, which every dtype holds exactly; empty rows, and a column that never occurs."""
    rng = np.random.default_rng(0)
    dense = rng.integers(1, 5, (N_SAMPLES, N_FEATURES)) * (rng.random((N_SAMPLES, N_FEATURES)) < 0.3)
    dense[[0, 17, N_SAMPLES - 1]] = 0
    dense[:, 5] = 0
    return dense


DENSE = make_dense()
CANONICAL = sp.csr_array(DENSE.astype(np.float32))
TARGET = np.random.default_rng(1).normal(size=N_SAMPLES)
LABELS = np.arange(N_SAMPLES) % 3
SETTINGS = {"n_factors": 4, "max_iter": 3, "random_state": 0}


def fit(X, dtype="float32"):
    return FMRegressor(dtype=dtype, **SETTINGS).fit(X, TARGET)


def assert_equivalent(X, canonical=CANONICAL, dtype="float32"):
    """Training and every prediction give the same bytes for X as for the canonical matrix."""
    before = pickle.dumps(X)
    expected, fm = fit(canonical, dtype), fit(X, dtype)
    assert_array_equal(fm.V_, expected.V_)
    assert_array_equal(fm.w_, expected.w_)
    assert fm.w0_ == expected.w0_
    assert_array_equal(fm.predict(X), expected.predict(canonical))
    assert fm.score(X, TARGET) == expected.score(canonical, TARGET)
    fm.partial_fit(X, TARGET)
    assert_array_equal(fm.V_, expected.partial_fit(canonical, TARGET).V_)

    classifier = FMClassifier(**SETTINGS).fit(canonical, LABELS, eval_set=(X, LABELS))
    assert (
        classifier.history_[-1]["validation_score"]
        == (
            FMClassifier(**SETTINGS)
            .fit(X, LABELS, eval_set=(canonical, LABELS))
            .history_[-1]["validation_score"]
        )
    )
    assert_array_equal(classifier.predict_proba(X), classifier.predict_proba(canonical))
    assert pickle.dumps(X) == before


def test_canonical_matrix_is_what_it_should_be():
    assert CANONICAL.has_canonical_format
    assert (CANONICAL.indices.dtype, CANONICAL.data.dtype) == (np.int32, np.float32)
    assert (np.diff(CANONICAL.indptr) == 0).sum() >= 3
    assert 5 not in CANONICAL.indices


# -- sparse ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32", "int64", "uint16", "longdouble"])
def test_formats_and_dtypes(format, kind, dtype):
    assert_equivalent(getattr(sp, f"{format}_{kind}")(DENSE.astype(dtype)))


@pytest.mark.parametrize("format", ["csr", "csc"])  # SciPy makes no other of these dtypes
@pytest.mark.parametrize("dtype", ["float16", ">f4", ">f8", ">i4"])
def test_dtypes_unknown_to_scipy(format, dtype):
    plain = sp.csr_array(DENSE).asformat(format)
    parts = (plain.data.astype(dtype), plain.indices, plain.indptr)
    X = type(plain)(parts, shape=plain.shape)
    assert X.dtype == dtype
    assert_equivalent(X)


@pytest.mark.parametrize("format", FORMATS)
def test_booleans(format):
    """Ones are the case that needs no values at all."""
    assert_equivalent(sp.csr_array(DENSE > 0).asformat(format), sp.csr_array((DENSE > 0).astype(np.float32)))
    assert_equivalent(DENSE > 0, sp.csr_array((DENSE > 0).astype(np.float32)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model_dtype", ["float32", "float64"])
def test_dtype_of_the_model(dtype, model_dtype):
    """What both hold exactly is the same to any model; a model of float64 uses all digits of float64."""
    assert_equivalent(CANONICAL.astype(dtype), dtype=model_dtype)
    fine = CANONICAL.astype(np.float64) * (1 + 1e-12)
    same = np.array_equal(fit(fine, model_dtype).V_, fit(CANONICAL, model_dtype).V_)
    assert same == (model_dtype == "float32")


@pytest.mark.parametrize("index_dtype", ["int32", "int64", "uint32", "uint8", ">i4", ">i8"])
@pytest.mark.parametrize("indptr_dtype", ["int32", "int64", "uint64"])
def test_index_dtypes(index_dtype, indptr_dtype):
    X = CANONICAL.copy()
    X.indices, X.indptr = X.indices.astype(index_dtype), X.indptr.astype(indptr_dtype)
    assert_equivalent(X)


def unsorted(X):
    X = X.copy()
    for start, stop in zip(X.indptr[:-1], X.indptr[1:], strict=True):
        X.indices[start:stop] = X.indices[start:stop][::-1].copy()
        X.data[start:stop] = X.data[start:stop][::-1].copy()
    return type(X)((X.data, X.indices, X.indptr), shape=X.shape)


def with_explicit_zeros(X):
    coo = X.tocoo()
    row, column = np.nonzero(DENSE == 0)
    coordinates = np.append(coo.coords[0], row[::3]), np.append(coo.coords[1], column[::3])
    return sp.csr_array((np.append(coo.data, np.zeros(len(row[::3]), X.dtype)), coordinates), shape=X.shape)


def split_in_duplicates(X):
    """Every value v as v + 10, -7 and -3, in several places of its row."""
    coo = X.tocoo()
    row, column = (np.concatenate([index] * 3) for index in coo.coords)
    data = np.concatenate([coo.data + 10, np.full_like(coo.data, -7), np.full_like(coo.data, -3)])
    order = np.argsort(row, kind="stable")
    indptr = np.append(0, np.cumsum(np.bincount(row, minlength=X.shape[0])))
    return sp.csr_array((data[order], column[order], indptr), shape=X.shape)


@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_unsorted_indices(index_dtype):
    X = unsorted(CANONICAL)
    X.indices = X.indices.astype(index_dtype)
    assert not X.has_sorted_indices
    assert_equivalent(X)
    # Whatever the matrix claims of itself.
    X.has_sorted_indices = X.has_canonical_format = True
    assert_equivalent(X)


def test_explicit_zeros():
    """They change nothing: not even the number of times that a feature is held back by its penalty."""
    X = with_explicit_zeros(CANONICAL)
    assert X.nnz > CANONICAL.nnz
    fm = FMRegressor(**SETTINGS).fit(CANONICAL, TARGET)
    assert_array_equal(fm.predict(X), fm.predict(CANONICAL))
    assert_equivalent(X)
    assert_equivalent(X.tocsc())
    assert_equivalent(X.tocoo())
    assert_equivalent(unsorted(X))


@pytest.mark.parametrize("format", ["csr", "csc", "coo"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int64"])
def test_duplicates_are_added_up(format, dtype):
    X = split_in_duplicates(CANONICAL.astype(dtype))
    assert X.nnz == 3 * CANONICAL.nnz
    if format == "coo":
        rows = np.repeat(np.arange(N_SAMPLES), np.diff(X.indptr))
        X = sp.coo_array((X.data, (rows, X.indices)), shape=X.shape)
    elif format == "csc":  # its arrays are those of the transposed matrix
        X = split_in_duplicates(sp.csr_array(CANONICAL.T.astype(dtype))).T
    assert X.format == format
    assert X.nnz == 3 * CANONICAL.nnz
    assert_equivalent(X)


@pytest.mark.parametrize("format", ["csr", "coo"])
def test_sums_of_small_integers_do_not_overflow(format):
    X = sp.coo_array((np.full(3, 100, np.int8), ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    if format == "csr":
        X = sp.csr_array((X.data, X.coords[1], np.array([0, 2, 3])), shape=(2, 2))
    fm = FMRegressor(**SETTINGS).fit(sp.csr_array([[0.0, 200.0], [100.0, 0.0]]), [1.0, 2.0])
    assert_array_equal(fm.predict(X), fm.predict([[0.0, 200.0], [100.0, 0.0]]))


def test_duplicates_in_every_row_of_a_model_that_trains_on_them():
    """Lemma 3.1 fails with duplicates: a model of them is that of their sums, not nearly so."""
    X = split_in_duplicates(CANONICAL)
    assert_array_equal(fit(X).V_, fit(CANONICAL).V_)
    assert not np.allclose(fit(2 * CANONICAL).V_, fit(CANONICAL).V_)


def test_more_stored_than_used():
    """SciPy allows arrays longer than indptr says."""
    X = CANONICAL.copy()
    X.data, X.indices = np.append(X.data, np.nan), np.append(X.indices, 99).astype(np.int32)
    assert_equivalent(X)


def test_values_of_a_slice():
    assert_equivalent(sp.vstack([CANONICAL, CANONICAL]).tocsr()[N_SAMPLES:])


# -- dense, frames -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "longdouble", "int8", "int64", "uint8", ">f8", ">i2", "object"]
)
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_dense(dtype, order):
    X = DENSE.astype(dtype)
    if order == "F":
        X = np.asfortranarray(X)
    elif order == "strided":
        wide = np.full((2 * N_SAMPLES, 3 * N_FEATURES), 7).astype(dtype)
        wide[::2, 1::3] = X
        X = wide[::2, 1::3]
        assert not X.flags.c_contiguous
    assert_equivalent(X)


def test_lists():
    assert_equivalent(DENSE.tolist())
    assert_equivalent([tuple(row) for row in DENSE.astype(float).tolist()])
    assert_equivalent(list(DENSE))


class Arrayable:
    """Anything that NumPy can make an array of."""

    def __array__(self, dtype=None, copy=None):
        return DENSE.astype(dtype or float)


def test_objects_that_become_arrays():
    assert_equivalent(Arrayable())


def test_numpy_matrix():
    with pytest.warns(PendingDeprecationWarning):
        X = np.matrix(DENSE)
    assert_equivalent(X)


def assert_frame_is_equivalent(X):
    """As `assert_equivalent`, but with names, which the canonical matrix does not have."""
    before = X.copy(deep=True)
    fm = fit(X)
    assert_array_equal(fm.V_, fit(CANONICAL).V_)
    assert_array_equal(fm.predict(X), fit(CANONICAL).predict(CANONICAL))
    assert fm.score(X, TARGET) == fit(CANONICAL).score(CANONICAL, TARGET)
    assert fm.feature_names_in_.tolist() == list(X.columns)
    assert X.equals(before)
    assert (X.dtypes == before.dtypes).all()


def test_data_frame():
    pd = pytest.importorskip("pandas")
    names = [f"c{j}" for j in range(N_FEATURES)]
    X = pd.DataFrame(DENSE, columns=names)
    assert_frame_is_equivalent(X)
    assert_frame_is_equivalent(X.astype({"c0": "int8", "c1": "float16", "c2": "Int64", "c3": "Float32"}))
    assert_frame_is_equivalent(X.rename(columns={"c0": "sparse", "c1": "columns"}))
    # Names that are not strings are no names.
    assert_equivalent(pd.DataFrame(DENSE))
    assert not hasattr(fit(pd.DataFrame(DENSE)), "feature_names_in_")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int8"])
def test_sparse_data_frame(dtype):
    pd = pytest.importorskip("pandas")
    names = [f"c{j}" for j in range(N_FEATURES)]
    X = pd.DataFrame.sparse.from_spmatrix(sp.csr_array(DENSE.astype(dtype)), columns=names)
    assert_frame_is_equivalent(X)
    # Columns of several types, of dense ones among sparse ones, and with another common value than 0.
    assert_frame_is_equivalent(X.astype({"c1": pd.SparseDtype("float64", 0.0)}))
    assert_frame_is_equivalent(X.assign(c3=DENSE[:, 3]))
    assert_frame_is_equivalent(X.astype(pd.SparseDtype("float64", 3.0)))


def test_sparse_dummies_of_pandas():
    pd = pytest.importorskip("pandas")
    words = pd.DataFrame({"a": list("xyzx") * 10, "b": list("pq") * 20})
    sparse, dense = pd.get_dummies(words, sparse=True), pd.get_dummies(words, dtype=float)
    assert hasattr(sparse, "sparse")
    assert_array_equal(fit(sparse).V_, fit(dense).V_)
    assert_array_equal(fit(dense).predict(sparse), fit(dense).predict(dense))


# -- memory ------------------------------------------------------------------------------------


def test_read_only_arrays():
    X, dense, y = CANONICAL.copy(), DENSE.astype(np.float32), TARGET.copy()
    weight = np.ones(N_SAMPLES)
    for array in (X.data, X.indices, X.indptr, dense, y, weight):
        array.flags.writeable = False
    assert_equivalent(X)
    assert_equivalent(dense)
    fm = FMRegressor(**SETTINGS).fit(X, y, sample_weight=weight, eval_set=(X, y))
    assert_array_equal(fm.V_, fit(CANONICAL).V_)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
def test_memory_mapped_arrays(tmp_path, dtype, index_dtype):
    parts = {
        "data": CANONICAL.data.astype(dtype),
        "indices": CANONICAL.indices.astype(index_dtype),
        "indptr": CANONICAL.indptr.astype(index_dtype),
    }
    for name, array in parts.items():
        np.save(tmp_path / f"{name}.npy", array)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in parts]
    X = sp.csr_array(tuple(maps), shape=CANONICAL.shape)
    expected, fm = fit(CANONICAL), fit(X)
    assert_array_equal(fm.V_, expected.V_)
    assert_array_equal(fm.predict(X), expected.predict(CANONICAL))
    for name, array in parts.items():
        assert_array_equal(np.load(tmp_path / f"{name}.npy"), array)

    np.save(tmp_path / "dense.npy", DENSE.astype(dtype))
    mapped = np.load(tmp_path / "dense.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert_array_equal(fit(mapped).V_, expected.V_)


def test_csr_is_used_without_a_copy():
    """As training from disk needs it: neither values nor indices are copied, whatever their widths."""
    from fmfast.validation import check_X

    for dtype in ("float32", "float64"):
        for index_dtype in ("int32", "int64"):
            X = CANONICAL.astype(dtype)
            X.indices, X.indptr = X.indices.astype(index_dtype), X.indptr.astype(np.int64)
            rows = check_X(X, dtype=np.dtype("float32"))
            assert np.shares_memory(rows.data, X.data)
            assert np.shares_memory(rows.indices, X.indices)
            assert np.shares_memory(rows.indptr, X.indptr)


# -- small and odd shapes ----------------------------------------------------------------------


def test_single_row():
    fm = fit(CANONICAL)
    at_once = fm.predict(CANONICAL)
    for i in range(N_SAMPLES):
        assert_array_equal(fm.predict(CANONICAL[[i]]), at_once[[i]])
        assert_array_equal(fm.predict(DENSE[[i]]), at_once[[i]])
        assert_array_equal(fm.predict(sp.csr_matrix(CANONICAL)[i]), at_once[[i]])
    fm = FMRegressor(**SETTINGS).fit(CANONICAL[[1]], [3.5])
    assert fm.predict(CANONICAL[[1]]) == pytest.approx([3.5], abs=0.05)
    fm = FMClassifier(**SETTINGS).partial_fit(CANONICAL[[1]], ["b"], classes=["a", "b"])
    assert fm.predict(CANONICAL[[1]]) == ["b"]


def test_single_column():
    x = np.linspace(-2.0, 2.0, 400)[:, None]
    fm = FMRegressor(n_factors=4, max_iter=100, reg_w=0.0, random_state=0).fit(x, 3.0 * x[:, 0] - 1.0)
    # One column has no pairs, so this is a straight line.
    assert fm.predict([[-1.0], [0.0], [1.0]]) == pytest.approx([-4.0, -1.0, 2.0], abs=0.02)
    assert fm.w_.shape == (1,)
    assert fm.V_.shape == (1, 4)


def test_rows_without_entries():
    fm = fit(CANONICAL)
    assert_array_equal(fm.predict(sp.csr_array((3, N_FEATURES))), np.full(3, fm.w0_))
    assert_array_equal(fm.predict(np.zeros((2, N_FEATURES))), np.full(2, fm.w0_))
    fm = FMRegressor(max_iter=200, random_state=0).fit(sp.csr_array((50, N_FEATURES)), np.full(50, 2.0))
    assert fm.predict(np.zeros((1, N_FEATURES))) == pytest.approx([2.0])


def test_column_that_never_occurs_keeps_its_start():
    fm = fit(CANONICAL)
    started = FMRegressor(**{**SETTINGS, "max_iter": 1}).fit(CANONICAL, TARGET)
    assert fm.w_[5] == 0.0
    # In the units of the target, the factors are multiplied by the root of its deviation.
    assert_array_equal(fm.V_[5], started.V_[5])
    assert fm.V_[5].any()
    assert not np.array_equal(fm.V_[4], started.V_[4])
    assert np.isfinite(fm.predict(np.eye(N_FEATURES))).all()
