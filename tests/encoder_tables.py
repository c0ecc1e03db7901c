"""Tables and encoders for the tests of `FeatureEncoder`."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from fmfast import FeatureEncoder

TABLE = {
    "user": [42, 7, 42, 100, 7],
    "genre": ["Drama|War", "Drama", "", None, "War|Drama"],
    "age": [20.5, 30.0, None, 40.0, 20.5],
}


def new(**params):
    return FeatureEncoder(**{"categorical": ["user"], "multi_valued": ["genre"], **params})


def named_rows(fitted, table):
    """Each row as {name of the feature: its value}, read from the parts of the CSR matrix."""
    rows = fitted.transform(table)
    assert_canonical(rows, fitted)
    names = fitted.feature_names_
    bounds = zip(rows.indptr, rows.indptr[1:], strict=False)
    return [dict(zip(names[rows.indices[a:b]], rows.data[a:b].tolist(), strict=True)) for a, b in bounds]


def assert_canonical(rows, fitted):
    assert isinstance(rows, sp.csr_array)
    assert rows.dtype == np.dtype(fitted.dtype)
    assert rows.indices.dtype == rows.indptr.dtype == np.int32
    assert rows.shape[1] == fitted.n_features_out_
    assert (rows.data != 0).all()
    fresh = sp.csr_array((rows.data, rows.indices, rows.indptr), shape=rows.shape)
    assert fresh.has_canonical_format  # found out by looking, where ours is claimed
    fresh.check_format(full_check=True)


def assert_same_rows(X, Y):
    assert X.shape == Y.shape
    for part in ("data", "indices", "indptr"):
        a, b = getattr(X, part), getattr(Y, part)
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
