"""Every bad X gets one clear sentence, and leaves the estimator and the caller's data as they were."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from refusal import (
    CLASSES,
    DENSE,
    GOOD_X,
    GOOD_Y,
    INF,
    N_FEATURES,
    N_SAMPLES,
    NAN,
    assert_refused,
    every_way_in,
    fitted,
    new,
    replaced,
    state_of,
)

from fmfast import FMClassifier, FMRegressor, NotFittedError


def csr(**changed):
    """A CSR matrix with some of its arrays replaced, behind SciPy's back."""
    X = sp.csr_array(DENSE)
    for name, value in changed.items():
        setattr(X, name, value)
    return X


def tampered(format, change):
    X = sp.csr_array(DENSE).asformat(format)
    change(X)
    return X


def dense_with(value, dtype=np.float64):
    return replaced(DENSE.astype(dtype), (3, 2), value)


def csr_with(value, dtype=np.float64):
    X = sp.csr_array(DENSE.astype(dtype))
    X.data[X.indptr[3]] = value
    return X


def frame(**columns):
    pd = pytest.importorskip("pandas")
    return pd.DataFrame({**{f"c{j}": DENSE[:, j] for j in range(N_FEATURES - len(columns))}, **columns})


first_column = sp.csr_array(DENSE).indices[sp.csr_array(DENSE).indptr[3]]

# name: (what makes X, the words that the message must hold)
BAD_X = {
    # shapes
    "one-dimensional": (lambda: DENSE[0], ["got 1D array", "(6,)", "reshape(1, -1)"]),
    "one-dimensional sparse": (lambda: sp.coo_array(DENSE[0]), ["got 1D array", "(6,)"]),
    "three-dimensional": (lambda: DENSE[None], ["dim 3", "(1, 12, 6)", "one row per sample"]),
    "a number": (lambda: 3.0, ["dim 0", "one row per sample"]),
    "nothing": (lambda: None, ["dim 0", "one row per sample"]),
    "ragged": (lambda: [[1.0, 2.0], [3.0]], ["list", "differ in length", "expected a regular array"]),
    "no rows": (lambda: DENSE[:0], ["0 sample(s)", "(0, 6)", "minimum of 1"]),
    "no rows, sparse": (lambda: GOOD_X[:0], ["0 sample(s)", "(0, 6)", "minimum of 1"]),
    "no columns": (lambda: DENSE[:, :0], ["0 feature(s)", "(12, 0)", "minimum of 1"]),
    "no columns, sparse": (lambda: GOOD_X[:, :0], ["0 feature(s)", "(12, 0)", "minimum of 1"]),
    "empty list": (lambda: [], ["got 1D array", "(0,)"]),
    # dtypes
    "complex": (lambda: DENSE.astype(complex), ["Complex data not supported", "complex128", "real numbers"]),
    "complex sparse": (lambda: GOOD_X.astype(complex), ["Complex data not supported", "complex128"]),
    "strings": (lambda: DENSE.astype(str), ["dtype <U", "expected numbers", "one-hot"]),
    "digits as objects": (lambda: DENSE.astype(str).astype(object), ["strings such as", "expected numbers"]),
    "dates": (lambda: DENSE.astype("M8[s]"), ["datetime64", "expected numbers"]),
    "records": (lambda: np.zeros((12, 6), "f4,f4"), ["dtype [", "expected numbers"]),
    "huge integers": (
        lambda: replaced(DENSE.astype(object), (0, 0), 10**400),
        ["no numbers", "int too large"],
    ),
    "sparse objects": (
        lambda: csr(data=sp.csr_array(DENSE).data.astype(object)),
        ["dtype object", "numbers"],
    ),
    "frame with strings": (
        lambda: frame(c=list("abcdefghijkl")),
        ["strings such as 'a'", "expected numbers"],
    ),
    "frame with NaN": (
        lambda: frame(c=[NAN] * 12),
        ["contains NaN (in row 0, column 5)", "finite numbers"],
    ),
    # values
    "NaN": (lambda: dense_with(NAN), ["contains NaN (in row 3, column 2)", "expected finite numbers"]),
    "NaN float16": (lambda: dense_with(NAN, np.float16), ["contains NaN (in row 3, column 2)"]),
    "infinity": (lambda: dense_with(-INF), ["contains infinity (in row 3, column 2)", "finite numbers"]),
    "beyond float32": (
        lambda: dense_with(-1e39),
        ["-1e+39", "too large", "row 3, column 2", "within +-3.4e+38"],
    ),
    "beyond float64": (
        lambda: dense_with(np.longdouble("1e4000"), np.longdouble),
        ["contains infinity (in row 3, column 2)"],
    ),
    "big-endian beyond float32": (lambda: dense_with(1e39, ">f8"), ["1e+39", "too large", "row 3, column 2"]),
    "None": (lambda: dense_with(None, object), ["contains NaN (in row 3, column 2)", "finite numbers"]),
    "sparse NaN": (lambda: csr_with(NAN), [f"contains NaN (in row 3, column {first_column})"]),
    "sparse infinity": (lambda: csr_with(INF, np.float32), [f"infinity (in row 3, column {first_column})"]),
    "sparse beyond float32": (lambda: csr_with(1e39), ["1e+39", "too large", "within +-3.4e+38"]),
    # malformed CSR
    "negative column": (
        lambda: csr(indices=replaced(sp.csr_array(DENSE).indices, 0, -2)),
        ["column index -2 in row 0", "expected 0 to 5"],
    ),
    "column too large": (
        lambda: csr(indices=replaced(sp.csr_array(DENSE).indices, -1, 6)),
        ["column index 6 in row 11", "expected 0 to 5", "6 columns"],
    ),
    "column of uint64": (
        lambda: csr(indices=replaced(sp.csr_array(DENSE).indices.astype(np.uint64), 0, 2**64 - 1)),
        ["column index", "in row 0", "expected 0 to 5"],
    ),
    "indptr falls": (
        lambda: csr(indptr=replaced(sp.csr_array(DENSE).indptr, 5, 2)),
        ["indptr that falls from", "to 2 in row 4"],
    ),
    "indptr starts late": (lambda: csr(indptr=sp.csr_array(DENSE).indptr + 1), ["starts at 1, expected 0"]),
    "indptr ends late": (
        lambda: csr(indptr=replaced(sp.csr_array(DENSE).indptr, -1, 99)),
        ["indptr that ends at 99", "expected no more than"],
    ),
    "indptr negative": (
        lambda: csr(indptr=replaced(sp.csr_array(DENSE).indptr, 1, -3)),
        ["falls from 0 to -3"],
    ),
    "indptr too short": (lambda: csr(indptr=sp.csr_array(DENSE).indptr[:-1]), ["length 12, expected 13"]),
    "indptr empty": (lambda: csr(indptr=np.array([], dtype=np.int32)), ["length 0, expected 13"]),
    "data too short": (lambda: csr(data=np.ones(5)), ["5 values in data", "in indices, expected as many"]),
    "indices too short": (lambda: csr(indices=np.zeros(5, np.int32)), ["5 in indices, expected as many"]),
    "two-dimensional data": (lambda: csr(data=np.ones((5, 2))), ["several dimensions, expected one"]),
    "indices of floats": (
        lambda: csr(indices=sp.csr_array(DENSE).indices.astype(float)),
        ["indices of dtype float64", "expected integers"],
    ),
    # malformed matrices of other formats, which crash SciPy or make it write beyond its arrays
    "CSC, row too large": (
        lambda: tampered("csc", lambda X: X.indices.__setitem__(0, 10**6)),
        ["malformed sparse matrix", "CSC format", "must be < 12"],
    ),
    "CSC, negative row": (
        lambda: tampered("csc", lambda X: X.indices.__setitem__(0, -1)),
        ["malformed sparse matrix", "CSC format", "must be >= 0"],
    ),
    "CSC, indptr falls": (
        lambda: tampered("csc", lambda X: X.indptr.__setitem__(2, 0)),
        ["malformed sparse matrix", "CSC format", "falls", "in column 1"],
    ),
    "CSC, data too short": (
        lambda: tampered("csc", lambda X: setattr(X, "data", X.data[:3])),
        ["malformed sparse matrix", "CSC format", "3 values in data and", "expected as many"],
    ),
    "CSC, no entries at the end": (
        lambda: tampered("csc", lambda X: X.indptr.__setitem__(-1, 0)),
        ["malformed sparse matrix", "CSC format", "falls", "to 0 in column 5"],
    ),
    "CSC, indptr negative at the end": (
        lambda: tampered("csc", lambda X: X.indptr.__setitem__(-1, -(2**31))),
        ["malformed sparse matrix", "CSC format", "to -2147483648 in column 5"],
    ),
    "COO, row too large": (
        lambda: tampered("coo", lambda X: X.coords[0].__setitem__(0, 10**6)),
        ["malformed sparse matrix", "COO format", "1000000", "exceeds matrix dimension 12"],
    ),
    "COO, negative column": (
        lambda: tampered("coo", lambda X: X.coords[1].__setitem__(0, -1)),
        ["malformed sparse matrix", "COO format", "negative", "-1"],
    ),
    "COO, data too short": (
        lambda: tampered("coo", lambda X: setattr(X, "data", X.data[:3])),
        ["malformed sparse matrix", "COO format", "same length"],
    ),
    "BSR, column too large": (
        lambda: tampered("bsr", lambda X: X.indices.__setitem__(0, 10**6)),
        ["malformed sparse matrix", "BSR format", "column index values must be <"],
    ),
    "BSR, indptr falls": (
        lambda: tampered("bsr", lambda X: X.indptr.__setitem__(1, 10**6)),
        ["malformed sparse matrix", "BSR format"],
    ),
    "BSR, no entries at the end": (
        lambda: tampered("bsr", lambda X: X.indptr.__setitem__(slice(-2, None), [10**6, 0])),
        ["malformed sparse matrix", "BSR format", "from 1000000 to 0 in block row"],
    ),
    "BSR, indices of another range": (
        lambda: tampered("bsr", lambda X: setattr(X, "indices", X.indices.astype(np.uint64) + 2**63)),
        ["malformed sparse matrix", "BSR format"],
    ),
    "BSR, data of one dimension": (
        lambda: tampered("bsr", lambda X: setattr(X, "data", X.data.ravel())),
        ["malformed sparse matrix", "BSR format", "(n_blocks, n_rows, n_columns)"],
    ),
    "DIA, offsets too long": (
        lambda: tampered("dia", lambda X: setattr(X, "offsets", np.arange(99))),
        ["malformed sparse matrix", "DIA format", "number of diagonals"],
    ),
    "LIL, more values than columns": (
        lambda: tampered("lil", lambda X: X.data[0].extend([1.0] * 99)),
        ["malformed sparse matrix", "LIL format", "not as many column indices as values"],
    ),
    "LIL, column too large": (
        lambda: tampered("lil", lambda X: X.rows[2].__setitem__(-1, 99)),
        ["column index 99 in row 2", "expected 0 to 5"],
    ),
    "CSC with NaN": (lambda: csr_with(NAN).tocsc(), [f"contains NaN (in row 3, column {first_column})"]),
    "COO beyond float32": (lambda: csr_with(1e39).tocoo(), ["1e+39", "too large"]),
}

# what X is: TypeError, as scikit-learn has it
BAD_X_TYPES = {
    "a dict": (lambda: {"a": 1}, ["no numbers", "dict"]),
    "a dict in X": (lambda: dense_with({"a": 1}, object), ["no numbers", "dict"]),
    "a complex object": (lambda: dense_with(1j, object), ["no numbers", "complex"]),
}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("name", [*BAD_X, *BAD_X_TYPES])
def test_bad_X(name, cls):
    make, words = {**BAD_X, **BAD_X_TYPES}[name]
    error = TypeError if name in BAD_X_TYPES else ValueError
    X, y = make(), GOOD_Y[cls]
    for way, fm, call in every_way_in(cls, X, y):
        called = "the X of eval_set" if way.startswith("eval_set") else "X"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "X has feature names", UserWarning)  # and had none at fit
            assert_refused(call, [fm, X, y], *words, called, error=error)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("n_features", [1, N_FEATURES - 1, N_FEATURES + 1])
def test_other_number_of_columns(cls, n_features):
    X, y = sp.csr_array(np.ones((N_SAMPLES, n_features))), GOOD_Y[cls]
    n_refused = 0
    for way, fm, call in every_way_in(cls, X, y):
        if way in ("fit, new", "partial_fit, new", "fit, fitted"):  # a new model may have any width
            continue
        name = "the X of eval_set" if way.startswith("eval_set") else "X"
        expected = f"{name} has {n_features} features, but {cls.__name__} is expecting {N_FEATURES} features"
        assert_refused(call, [fm, X, y], expected)
        n_refused += 1
    assert n_refused >= 8


def test_limit_of_the_values_is_that_of_the_model():
    X = dense_with(1e39)
    assert_refused(lambda: FMRegressor().fit(X, GOOD_Y[FMRegressor]), [X], "within +-3.4e+38")
    # Within the range of float64, though nothing can be learned from such a number.
    fm = FMRegressor(dtype="float64", random_state=0).fit(GOOD_X, GOOD_Y[FMRegressor])
    assert np.isfinite(fm.predict(X)).all()


# -- not fitted, no memory------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_not_fitted(cls, tmp_path):
    fm = new(cls)
    calls = {
        "predict": lambda: fm.predict(GOOD_X),
        "save": lambda: fm.save(tmp_path / "m.npz"),
        "w0_": lambda: fm.w0_,
        "w_": lambda: fm.w_,
        "V_": lambda: fm.V_,
    }
    if cls is FMClassifier:
        calls["predict_proba"] = lambda: fm.predict_proba(GOOD_X)
        calls["decision_function"] = lambda: fm.decision_function(GOOD_X)
    for name, call in calls.items():
        words = [f"This {cls.__name__} instance is not fitted yet", name, "call fit first"]
        assert_refused(call, [fm], *words, error=(NotFittedError, ValueError))
        assert_refused(call, [fm], *words, error=AttributeError)
    assert_refused(lambda: fm.score(GOOD_X, GOOD_Y[cls]), [fm], "not fitted yet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cls", CLASSES)
def test_not_enough_memory(cls):
    """More bytes than an address has room for."""
    X = sp.csr_array((np.ones(1), np.zeros(1, np.int64), np.array([0, 1, 1])), shape=(2, 2**40))
    fm = fitted(cls).set_params(n_factors=65536, random_state=0)
    before = state_of(fm, X)
    with pytest.raises(MemoryError):
        fm.fit(X, [0, 1])
    assert state_of(fm, X) == before
