"""Rankers on disk: what a file claims of contexts and items is checked before it is believed."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from test_modelfile import assert_refused, change_array, contents, header_of, rewrite, with_header

import fmfast
from fmfast import FMRanker

rng = np.random.default_rng(0)
INTERACTIONS = sp.csr_array(np.kron(np.eye(3), np.ones((4, 3))))
CONTEXTS = sp.random_array((12, 4), density=0.6, rng=rng, format="csr")
ITEMS = sp.csr_array((np.ones(9), np.arange(9) % 3, np.arange(10)))


def saved(tmp_path, *features):
    path = tmp_path / "model.fm"
    ranker = FMRanker(n_factors=3, max_iter=2, random_state=0).fit(INTERACTIONS, *features)
    ranker.save(path)
    return ranker, path


def test_ids_take_no_room(tmp_path):
    _, path = saved(tmp_path)
    assert contents(path).keys() == {"header.npy", "bias.npy", "w.npy", "V.npy", "state.npy"}


def test_features_are_kept(tmp_path):
    ranker, path = saved(tmp_path, CONTEXTS, ITEMS)
    assert contents(path).keys() >= {"contexts_data.npy", "contexts_indices.npy", "items_indptr.npy"}
    loaded = fmfast.load(path)
    for side in ("contexts", "items"):
        a, b = getattr(loaded.model_, side), getattr(ranker.model_, side)
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.n_features == b.n_features
    assert len(loaded.model_.items.data) == 0  # all are 1


HEADERS = {
    "no sides": (lambda h: h.update(ranking=None), "its contexts and items are not those of a FMRanker"),
    "half": (lambda h: h["ranking"].pop("items"), "where null, or the sizes"),
    "a list": (lambda h: h.update(ranking=[1, 2]), "where null, or the sizes"),
    "columns that do not add up": (lambda h: h["ranking"]["items"].update(n_features=99), "columns besides"),
    "fewer rows": (lambda h: h["ranking"]["items"].update(n_rows=8), "items_indptr.npy is no int64 array"),
    "negative nnz": (lambda h: h["ranking"]["items"].update(nnz=-1), "where null, or the sizes"),
    "a huge nnz": (lambda h: h["ranking"]["items"].update(nnz=2**50), "its header promises"),
    "ids that are not square": (lambda h: h["ranking"]["items"].update(nnz=None), "where null, or the sizes"),
    "values that are missing": (
        lambda h: h["ranking"]["items"].update(all_ones=False),
        "items_data.npy is no",
    ),
    "a scale": (lambda h: h.update(scale=2.0), "it is a ranker with a scale"),
    "names": (lambda h: h.update(feature_names=[str(j) for j in range(7)]), "it has names"),
    "another class": (lambda h: h.update({"class": "FMRegressor", "params": {}}), "its task or its classes"),
}


@pytest.mark.parametrize(("change", "match"), HEADERS.values(), ids=HEADERS)
def test_headers_that_lie(tmp_path, change, match):
    _, path = saved(tmp_path, CONTEXTS, ITEMS)
    with_header(path, change)
    assert_refused(path, match)


def test_ids_beyond_what_the_file_holds(tmp_path):
    """A header of a few bytes must not make an array of 2^31 ids."""
    _, path = saved(tmp_path)
    huge = {"n_rows": 2**31 - 1, "n_features": 2**31 - 1, "nnz": None, "all_ones": True}
    with_header(path, lambda h: h["ranking"].update(items=huge))
    assert_refused(path, "columns besides")
    with_header(path, lambda h: h.update(n_features=2**31 - 1 + 12))
    assert_refused(path, "its header promises")


def test_a_regressor_with_sides(tmp_path):
    path = tmp_path / "model.fm"
    fmfast.FMRegressor(random_state=0).fit(np.eye(4), np.arange(4)).save(path)
    side = {"n_rows": 2, "n_features": 2, "nnz": None, "all_ones": True}
    with_header(path, lambda h: h.update(ranking={"contexts": side, "items": side}))
    assert_refused(path, "its contexts and items are not those of a FMRegressor")


ARRAYS = {
    "a column too far": ("contexts_indices", 0, 4),
    "a negative column": ("contexts_indices", 0, -1),
    "a row that ends early": ("contexts_indptr", 5, 0),
    "rows that end too far": ("contexts_indptr", 12, 10**12),
    "rows that start late": ("contexts_indptr", 0, 1),
    "NaN": ("contexts_data", 0, np.nan),
    "infinity": ("contexts_data", 0, np.inf),
    "a stored zero": ("contexts_data", 0, 0.0),
}


@pytest.mark.parametrize(("name", "position", "value"), ARRAYS.values(), ids=ARRAYS)
def test_rows_that_are_damaged(tmp_path, name, position, value):
    _, path = saved(tmp_path, CONTEXTS, ITEMS)

    def change(array):
        array[position] = value
        return array

    rewrite(path, change_array(name, change)(contents(path)))
    assert_refused(path, "Cannot load a model")


def test_duplicate_columns(tmp_path):
    _, path = saved(tmp_path, CONTEXTS, ITEMS)
    row = int(np.argmax(np.diff(CONTEXTS.indptr) > 1))
    first = CONTEXTS.indptr[row]

    def change(indices):
        indices[first + 1] = indices[first]
        return indices

    rewrite(path, change_array("contexts_indices", change)(contents(path)))
    assert_refused(path, "not sorted, or hold zeros or duplicates")
    assert header_of(contents(path))["class"] == "FMRanker"
