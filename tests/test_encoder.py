"""FeatureEncoder: what each kind of column becomes, and what it refuses."""

from __future__ import annotations

import copy
import doctest
import hashlib
import os
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import fmfast
from fmfast import FeatureEncoder, FMClassifier, FMRegressor, encoder
from fmfast._sklearn import not_fitted_error

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


# -- categories ---------------------------------------------------------------------------------


def test_a_table_by_hand():
    fitted = new(numeric_encoding="passthrough", dtype="float64").fit(TABLE)
    assert fitted.feature_names_.tolist() == [
        *("user=7", "user=42", "user=100", "user=<rare>"),
        *("genre=Drama", "genre=War", "genre=<missing>", "genre=<rare>"),
        *("age", "age=<missing>"),
    ]
    assert fitted.fields_.tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert fitted.fields_.dtype == np.int32
    assert fitted.field_names_.tolist() == fitted.feature_names_in_.tolist() == ["user", "genre", "age"]
    assert (fitted.n_features_in_, fitted.n_features_out_) == (3, 10)
    assert named_rows(fitted, TABLE) == [
        {"user=42": 1, "genre=Drama": 0.5, "genre=War": 0.5, "age": 20.5},
        {"user=7": 1, "genre=Drama": 1, "age": 30},
        {"user=42": 1, "age=<missing>": 1},
        {"user=100": 1, "genre=<missing>": 1, "age": 40},
        {"user=7": 1, "genre=Drama": 0.5, "genre=War": 0.5, "age": 20.5},
    ]
    assert_same_rows(fitted.transform(TABLE), new(**fitted.get_params()).fit_transform(TABLE))


@pytest.mark.parametrize("dtype", ["float32", "float64", np.float32, np.float64])
def test_dtype(dtype):
    rows = new(dtype=dtype).fit_transform(TABLE)
    assert rows.dtype == dtype
    assert new(dtype=dtype).fit(TABLE).transform(TABLE).dtype == dtype


def test_rare_and_unseen_values_share_a_feature():
    table = {"c": ["a", "b", "a", "c", "b", "a"]}
    fitted = FeatureEncoder(min_count=2).fit(table)
    assert fitted.feature_names_.tolist() == ["c=a", "c=b", "c=<rare>"]
    assert named_rows(fitted, {"c": ["a", "c", "never", None, "b"]}) == [
        {"c=a": 1},
        {"c=<rare>": 1},
        {"c=<rare>": 1},
        {"c=<rare>": 1},
        {"c=b": 1},
    ]
    # A model learns from the rare values what unseen ones mean.
    y = np.where(np.array(table["c"]) == "c", 5.0, 0.0)
    fm = FMRegressor(n_factors=0, max_iter=300, reg_w=0.0, random_state=0).fit(fitted.transform(table), y)
    assert fm.predict(fitted.transform({"c": ["never"]}))[0] == pytest.approx(5.0, abs=0.3)


@pytest.mark.parametrize(("min_count", "names"), [(1, ["<missing>", "<rare>"]), (3, ["<rare>"])])
def test_a_missing_category_is_a_value_like_others(min_count, names):
    fitted = FeatureEncoder(min_count=min_count).fit({"c": ["a", None, "a", float("nan"), "a"]})
    assert fitted.feature_names_.tolist() == ["c=a", *(f"c={name}" for name in names)]
    assert named_rows(fitted, {"c": [None, "a"]}) == [{f"c={names[0]}": 1}, {"c=a": 1}]


def test_the_text_of_the_missing_value_is_another_value():
    fitted = FeatureEncoder().fit({"c": ["<missing>", None]})
    rows = fitted.transform({"c": ["<missing>", None, "None", "nan"]})
    assert rows.indices.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, 20, 3]),
        np.array([1, 20, 3], dtype=np.uint8),
        np.array([1.0, 20.0, 3.0], dtype=np.float32),
        np.array(["1", "20", "3"]),
        ["1", 20, 3.0],
        (np.int64(1), np.float32(20), "3"),
        np.array([1, 20, "3"], dtype=object),
    ],
    ids=repr,
)
def test_categories_are_compared_as_text(values):
    fitted = FeatureEncoder(categorical=["c"]).fit({"c": [20, 3, 1]})
    assert fitted.feature_names_.tolist() == ["c=1", "c=3", "c=20", "c=<rare>"]
    assert fitted.transform({"c": values}).indices.tolist() == [0, 2, 1]
    again = FeatureEncoder(categorical=["c"]).fit({"c": values})
    assert again.to_dict() == fitted.to_dict()


def test_texts_of_numbers():
    values = [0.5, -0.0, 1e300, True, 2**70, -3, np.bool_(False), np.float64("inf"), 2**53]
    fitted = FeatureEncoder(categorical=["c"]).fit({"c": values})
    texts = [name.removeprefix("c=") for name in fitted.feature_names_]
    rest = sorted(["0.5", "1e+300", "True", "-3", "False", "inf"])
    assert texts == ["0", str(2**53), str(2**70), *rest, "<rare>"]
    # True and 1 are equal in Python, and different categories.
    both = FeatureEncoder(categorical=["c"]).fit({"c": [1, True, 1.0, "True"]})
    assert both.feature_names_.tolist() == ["c=1", "c=True", "c=<rare>"]


def test_booleans_are_categories():
    fitted = FeatureEncoder().fit({"c": np.array([True, False, True])})
    assert fitted.feature_names_.tolist() == ["c=False", "c=True", "c=<rare>"]
    assert fitted.transform({"c": [True, None, False]}).indices.tolist() == [1, 2, 0]


def test_strange_texts():
    texts = ["", " ", "=", "\ud800", "\0", "é", "\u0065\u0301", "007", "7", "٣"]
    for params in ({}, {"hash_size": 10**6}):
        fitted = FeatureEncoder(**params).fit({"c": texts})
        rows = fitted.transform({"c": texts})
        assert len(set(rows.indices.tolist())) == len(texts)


# -- several values in a row --------------------------------------------------------------------

LISTS = [["a", "b"], [], None, ["b"], ["c", "a", "b", "a"]]


@pytest.mark.parametrize(
    "column",
    [
        LISTS,
        [value and tuple(value) for value in LISTS],
        [value if value is None else np.array(value, dtype=object) for value in LISTS],
        ["a|b", "", None, "b", "c|a|b|a"],
        [" a | b", " |", float("nan"), "b|", "c||a|b| a"],
    ],
    ids=["lists", "tuples", "arrays", "strings", "untidy strings"],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_multi_valued(column, normalize):
    fitted = FeatureEncoder(multi_valued=["tags"], normalize=normalize, dtype="float64")
    fitted.fit({"tags": column})
    assert fitted.feature_names_.tolist() == ["tags=a", "tags=b", "tags=c", "tags=<missing>", "tags=<rare>"]
    n = [2, 1, 1, 4] if normalize else [1, 1, 1, 1]
    assert named_rows(fitted, {"tags": column}) == [
        {"tags=a": 1 / n[0], "tags=b": 1 / n[0]},
        {},
        {"tags=<missing>": 1 / n[1]},
        {"tags=b": 1 / n[2]},
        {"tags=a": 2 / n[3], "tags=b": 1 / n[3], "tags=c": 1 / n[3]},
    ]


def test_unseen_values_of_a_row_add_up():
    fitted = FeatureEncoder(normalize=False).fit({"tags": [["a"], ["b"]]})
    assert named_rows(fitted, {"tags": [["x", "a", "y", None]]}) == [{"tags=a": 1, "tags=<rare>": 3}]


def test_a_missing_value_in_a_list_and_a_missing_list_are_the_same():
    fitted = FeatureEncoder().fit({"tags": [["a", None], None]})
    assert named_rows(fitted, {"tags": [["a", None], None]}) == [
        {"tags=a": 0.5, "tags=<missing>": 0.5},
        {"tags=<missing>": 1},
    ]


def test_separators():
    table = {"tags": ["a, b", "b|c"]}
    by_comma = FeatureEncoder(multi_valued=["tags"], separator=",").fit(table)
    assert by_comma.feature_names_.tolist()[:3] == ["tags=a", "tags=b", "tags=b|c"]
    whole = FeatureEncoder(multi_valued=["tags"], separator=None).fit(table)
    assert whole.feature_names_.tolist() == ["tags=a, b", "tags=b|c", "tags=<rare>"]
    # A fitted encoder goes on as it was fitted.
    rows = by_comma.transform(table)
    assert_same_rows(by_comma.set_params(separator="|", normalize=False).transform(table), rows)


def test_lists_of_numbers_and_sets():
    fitted = FeatureEncoder().fit({"tags": [[1, 2], [10]]})
    assert fitted.feature_names_.tolist() == ["tags=1", "tags=2", "tags=10", "tags=<rare>"]
    assert named_rows(fitted, {"tags": [{2, 1}, np.array([10.0])]}) == [
        {"tags=1": 0.5, "tags=2": 0.5},
        {"tags=10": 1},
    ]


# -- numbers ------------------------------------------------------------------------------------


def test_scaled():
    values = np.random.default_rng(0).normal(50, 7, 1000)
    table = {"x": values, "flag": np.arange(1000) < 500}
    fitted = FeatureEncoder(numeric=["x", "flag"], dtype="float64").fit(table)
    dense = fitted.transform(table).toarray()
    assert_allclose(dense.mean(axis=0), 0, atol=1e-12)
    assert_allclose(dense.std(axis=0), 1)
    assert_allclose(dense[:, 0], (values - values.mean()) / values.std())
    # New rows are scaled as those of fit; nothing was missing there, so a missing value is the mean.
    new_rows = fitted.transform({"x": [values.mean() + values.std(), None], "flag": [True, None]})
    assert_allclose(new_rows.toarray(), [[1, 1], [0, 0]], atol=1e-12)
    assert new_rows.nnz == 2


def test_missing_numbers():
    fitted = FeatureEncoder(numeric_encoding="passthrough").fit({"x": [1.5, None, 0.0]})
    assert fitted.feature_names_.tolist() == ["x", "x=<missing>"]
    assert named_rows(fitted, {"x": [0.0, float("nan"), 2.0]}) == [{}, {"x=<missing>": 1}, {"x": 2}]


@pytest.mark.parametrize("value", [0.1, 0.0, -7.0, 1e300])
def test_constant_numbers(value):
    fitted = FeatureEncoder().fit({"x": [value] * 7})
    assert fitted.transform({"x": [value] * 7}).nnz == 0


def test_binned():
    values = [18.0, 18.0, 20.0, 25.0, 25.5, 40.0, 41.0, 60.0]
    fitted = FeatureEncoder(numeric_encoding="bin", n_bins=4).fit({"age": values})
    assert fitted.feature_names_.tolist() == [
        *("age in [-inf, 20)", "age in [20, 25.5)", "age in [25.5, 41)", "age in [41, inf)")
    ]
    assert np.bincount(fitted.transform({"age": values}).indices).tolist() == [2, 2, 2, 2]
    assert fitted.transform({"age": [-1e9, 18.0, 19.9, 20.0, 25.4, 25.5, 1e9]}).indices.tolist() == [
        *(0, 0, 0, 1, 1, 2, 3)
    ]
    assert fitted.transform({"age": [None, 18.0]}).indptr.tolist() == [0, 0, 1]
    gaps = FeatureEncoder(numeric_encoding="bin", n_bins=4).fit({"age": [*values, None]})
    assert named_rows(gaps, {"age": [None]}) == [{"age=<missing>": 1}]


def test_bins_hold_about_as_many():
    values = np.random.default_rng(0).lognormal(size=10_000)
    rows = FeatureEncoder(numeric_encoding="bin", n_bins=20).fit_transform({"x": values})
    assert rows.shape == (10_000, 20)
    counts = np.bincount(rows.indices)
    assert counts.min() >= 499
    assert counts.max() <= 501


def test_bins_of_repeated_values_are_not_empty():
    values = np.array([0.0] * 90 + [1.0, 2.0, 3.0] * 3 + [4.0])
    fitted = FeatureEncoder(numeric_encoding="bin", n_bins=50)
    rows = fitted.fit_transform({"x": values})
    assert 1 < rows.shape[1] < 6
    assert (np.bincount(rows.indices, minlength=rows.shape[1]) > 0).all()
    constant = FeatureEncoder(numeric_encoding="bin").fit({"x": [3.5, 3.5]})
    assert constant.feature_names_.tolist() == ["x in [-inf, inf)"]


def test_encoding_of_each_column():
    table = {"a": [1.0, 2.5, 3.0], "b": [1.0, 2.5, 3.0], "c": [1.0, 2.5, 3.0]}
    fitted = FeatureEncoder(numeric_encoding={"a": "passthrough", "b": "bin"}, n_bins=3).fit(table)
    assert fitted.feature_names_.tolist() == [
        *("a", "b in [-inf, 2.5)", "b in [2.5, 3)", "b in [3, inf)", "c")
    ]
    assert_array_equal(fitted.transform(table)[:, [0]].toarray().ravel(), table["a"])


def test_columns_without_any_value():
    table = {"c": [None, None], "t": [None, None], "x": [None, None], "b": [None, None]}
    fitted = FeatureEncoder(
        categorical=["c"], multi_valued=["t"], numeric=["x", "b"], numeric_encoding={"b": "bin"}
    ).fit(table)
    assert named_rows(fitted, table) == 2 * [
        {"c=<missing>": 1, "t=<missing>": 1, "x=<missing>": 1, "b=<missing>": 1}
    ]


# -- hashing ------------------------------------------------------------------------------------

GOLDEN = {"": 756, "a": 928, "42": 983, "Zürich": 368, "\U0001f600": 805, None: 487}


def test_hashes_of_all_times():
    fitted = FeatureEncoder(categorical=["c"], hash_size=1000).fit({"c": ["x"]})
    assert fitted.transform({"c": list(GOLDEN)}).indices.tolist() == list(GOLDEN.values())


@given(st.lists(st.text() | st.none(), min_size=1), st.integers(1, 10**9))
def test_hash_is_what_the_documentation_says(values, size):
    def feature(text):
        content = b"\xff" if text is None else text.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") % size

    fitted = FeatureEncoder(categorical=["c"], hash_size=size).fit({"c": values})
    rows = fitted.transform({"c": values})
    assert rows.shape == (len(values), size)
    assert rows.indices.tolist() == [feature(value) for value in values]


def test_hashing_of_some_columns():
    table = {"user": [1, 2, 3], "item": ["a", "b", "c"], "tags": [["x"], ["y", "x"], []]}
    fitted = FeatureEncoder(categorical=["user"], hash_size={"user": 5, "tags": 3, "item": None})
    rows = fitted.fit_transform(table)
    assert rows.shape == (3, 5 + 4 + 3)
    assert fitted.feature_names_[:2].tolist() == ["user=<hash 0>", "user=<hash 1>"]
    assert_allclose(rows.sum(axis=1), [3, 3, 2])
    assert fitted.transform({"user": [9], "item": ["d"], "tags": [["never"]]}).nnz == 3


def test_hashes_are_spread_evenly():
    rows = FeatureEncoder(categorical=["id"], hash_size=100).fit_transform({"id": np.arange(100_000)})
    counts = np.bincount(rows.indices, minlength=100)
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)


@pytest.mark.parametrize("params", ["", "hash_size=64"])
def test_nothing_depends_on_the_hash_seed_of_python(params):
    script = f"""if True:
        import fmfast, hashlib
        words = ["w%d" % (i * i % 97) for i in range(500)]
        table = {{"c": words, "t": [set(words[i : i + 3]) for i in range(500)]}}
        encoder = fmfast.FeatureEncoder({params})
        X = encoder.fit_transform(table)
        arrays = [array.tobytes() for array in (X.data, X.indices, X.indptr)]
        print(hashlib.sha256(b"".join([*arrays, repr(encoder.to_dict()).encode()])).hexdigest())
    """
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().strip()) == 64


# -- against a slow reference -------------------------------------------------------------------

words = st.sampled_from(["a", "b", "c", "dd", "10", "9"]) | st.none()


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(words, st.lists(words, max_size=4) | st.none()), min_size=1, max_size=20),
    others=st.lists(st.tuples(st.text(max_size=2), st.lists(st.text(max_size=2), max_size=4)), max_size=5),
    min_count=st.integers(1, 4),
    normalize=st.booleans(),
)
def test_agrees_with_a_slow_reference(rows, others, min_count, normalize):
    fitted = FeatureEncoder(
        categorical=["c"], multi_valued=["t"], min_count=min_count, normalize=normalize, dtype="float64"
    )
    fitted.fit({"c": [c for c, _ in rows], "t": [t for _, t in rows]})
    known = {"c": {}, "t": {}}
    for c, t in rows:
        for name, values in (("c", [c]), ("t", [None] if t is None else t)):
            for value in values:
                known[name][value] = known[name].get(value, 0) + 1
    expected = []
    for c, t in [*rows, *others]:
        row = {}
        for name, values in (("c", [c]), ("t", [None] if t is None else t)):
            for value in values:
                frequent = known[name].get(value, 0) >= min_count
                text = ("<missing>" if value is None else value) if frequent else "<rare>"
                step = 1 / len(values) if normalize and name == "t" else 1
                row[f"{name}={text}"] = row.get(f"{name}={text}", 0) + step
        expected.append(pytest.approx(row))
    table = {"c": [c for c, _ in [*rows, *others]], "t": [t for _, t in [*rows, *others]]}
    assert named_rows(fitted, table) == expected
    names = [name for column, counts in known.items() for name in [f"{column}={v}" for v in counts]]
    assert set(fitted.feature_names_) <= {*names, "c=<missing>", "t=<missing>", "c=<rare>", "t=<rare>"}


@settings(deadline=None)
@given(
    values=st.lists(
        st.floats(-1e150, 1e150).map(lambda x: x if abs(x) > 1e-100 else 0.0) | st.none(), min_size=1
    ),
    encoding=st.sampled_from(["scale", "bin", "passthrough"]),
    n_bins=st.integers(2, 8),
)
def test_numbers_by_chance(values, encoding, n_bins):
    fitted = FeatureEncoder(numeric=["x"], numeric_encoding=encoding, n_bins=n_bins, dtype="float64")
    fitted.fit({"x": values})
    rows = named_rows(fitted, {"x": values})
    missing = [value is None for value in values]
    assert [row == {"x=<missing>": 1} for row in rows] == missing
    if encoding == "bin":
        assert all(list(row.values()) == [1] for row in rows)
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                low, high = next(iter(row)).removeprefix("x in [").removesuffix(")").split(", ")
                assert float(low) <= value < float(high)
    elif encoding == "passthrough":
        assert [row.get("x", 0.0) for row in rows] == [value or 0.0 for value in values]


# -- tables as a whole --------------------------------------------------------------------------


def test_extra_columns_and_order_do_not_matter():
    fitted = new().fit(TABLE)
    shuffled = {"extra": [object()] * 5, "age": TABLE["age"], "genre": TABLE["genre"], "user": TABLE["user"]}
    assert_same_rows(fitted.transform(shuffled), fitted.transform(TABLE))


def test_remainder():
    table = {**TABLE, "when": np.array(["2020-01-01"] * 5, dtype="M8[D]")}
    fitted = new(remainder="drop").fit(table)
    assert fitted.field_names_.tolist() == ["user", "genre"]
    assert_same_rows(fitted.transform(TABLE), fitted.transform(table))


def test_arrays_without_names():
    table = np.array([["u1", "i1", 1.5], ["u2", "i1", 2.5], ["u1", None, 3.5]], dtype=object)
    fitted = FeatureEncoder()
    rows = fitted.fit_transform(table)
    assert fitted.feature_names_.tolist() == [
        *("x0=u1", "x0=u2", "x0=<rare>", "x1=i1", "x1=<missing>", "x1=<rare>", "x2")
    ]
    assert_same_rows(fitted.transform(table), rows)
    numbers = np.arange(12).reshape(4, 3)
    ids = FeatureEncoder(categorical=["x0", "x1"], numeric=["x2"]).fit(numbers)
    assert ids.transform(numbers).shape == (4, 11)
    for wrong in (numbers[:, :2], np.hstack([numbers, numbers])):
        with pytest.raises(ValueError, match=r"no column 'x2'|X has 6 features, but .* expecting 3 features"):
            ids.transform(wrong)


def test_structured_arrays():
    table = np.array([(1, "a", 0.5), (2, "b", 1.5)], dtype=[("id", "i4"), ("c", "U3"), ("x", "f4")])
    fitted = FeatureEncoder(categorical=["id"])
    as_dict = {"id": [1, 2], "c": ["a", "b"], "x": [0.5, 1.5]}
    assert_same_rows(fitted.fit_transform(table), FeatureEncoder(categorical=["id"]).fit_transform(as_dict))
    assert_same_rows(fitted.transform(table), fitted.transform(as_dict))


def test_masked_arrays():
    values = np.ma.array([1.5, 2.5, 9.0], mask=[False, False, True])
    fitted = FeatureEncoder(numeric_encoding="passthrough").fit({"x": values})
    assert named_rows(fitted, {"x": values}) == [{"x": 1.5}, {"x": 2.5}, {"x=<missing>": 1}]


def test_the_table_is_not_changed():
    table = {
        "a": np.array([1.5, np.nan, 2.5]),
        "m": np.ma.array([1.5, np.nan, 2.5], mask=[True, False, False]),
        "i": np.array([3, 1, 2]),
        "c": np.array(["x", None, "y"], dtype=object),
        "t": [["x"], None, ["y", "z"]],
    }
    before = copy.deepcopy(table)
    for name in "aimc":
        table[name].flags.writeable = False
    FeatureEncoder(categorical=["i"]).fit_transform(table)
    for name in "aimc":
        assert repr(table[name]) == repr(before[name])
    assert table["t"] == before["t"]


def test_no_rows_to_transform():
    fitted = new().fit(TABLE)
    rows = fitted.transform({name: [] for name in TABLE})
    assert rows.shape == (0, fitted.n_features_out_)


def test_nothing_of_size_samples_times_features():
    n = 20_000
    table = {
        "user": np.arange(n),
        "tags": [[f"t{i}", f"t{i * 7 % n}"] for i in range(n)],
        "x": np.random.default_rng(0).normal(size=n),
    }
    fitted = FeatureEncoder(categorical=["user"], numeric_encoding="bin", n_bins=1000)
    tracemalloc.start()
    rows = fitted.fit_transform(table)
    fitted.transform(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape[1] > 2 * n
    assert peak < 50 * 2**20 < rows.shape[0] * rows.shape[1] // 8  # not even one bit for each


def test_a_field_for_each_feature():
    fitted = new(numeric_encoding="bin", hash_size={"genre": 6}, min_count=2).fit(TABLE)
    names = fitted.feature_names_
    assert names.dtype == object
    assert len(fitted.fields_) == len(names) == fitted.n_features_out_ == fitted.transform(TABLE).shape[1]
    assert_array_equal(fitted.get_feature_names_out(), names)
    assert_array_equal(fitted.get_feature_names_out(["user", "genre", "age"]), names)
    for name, field in zip(names, fitted.fields_, strict=True):
        assert name.startswith(fitted.field_names_[field])
    assert (np.diff(fitted.fields_) >= 0).all()
    with pytest.raises(ValueError, match=r"input_features is \['genre'\], expected feature_names_in_"):
        fitted.get_feature_names_out(["genre"])


# -- as an estimator ----------------------------------------------------------------------------


def test_params_clone_and_copies():
    params = {"categorical": ("user",), "min_count": 2, "hash_size": {"genre": 5}, "dtype": np.float64}
    original = new(**params)
    assert original.get_params()["categorical"] is params["categorical"]
    assert original.set_params(min_count=1).min_count == 1
    assert repr(FeatureEncoder(n_bins=3)) == "FeatureEncoder(n_bins=3)"
    with pytest.raises(ValueError, match="Invalid parameter 'bins'"):
        original.set_params(bins=3)
    base = pytest.importorskip("sklearn.base")
    cloned = base.clone(original.fit(TABLE))
    assert cloned.get_params() == original.get_params()
    with pytest.raises(not_fitted_error()):
        cloned.transform(TABLE)
    for twin in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original)):
        assert_same_rows(twin.transform(TABLE), original.transform(TABLE))


@pytest.mark.parametrize(
    "use",
    [
        lambda e: e.transform(TABLE),
        lambda e: e.get_feature_names_out(),
        lambda e: e.to_dict(),
        *(
            lambda e, name=name: getattr(e, name)
            for name in ("fields_", "field_names_", "feature_names_in_", "n_features_in_", "n_features_out_")
        ),
    ],
)
def test_not_fitted(use):
    with pytest.raises(not_fitted_error(), match=r"FeatureEncoder instance is not fitted yet, so \w+ is not"):
        use(FeatureEncoder())


def test_pipelines_of_scikit_learn():
    pytest.importorskip("sklearn")
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.utils.validation import check_is_fitted

    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 20, 900), rng.integers(0, 15, 900)
    taste, style = rng.normal(size=(20, 2)), rng.normal(size=(15, 2))
    rating = 3.0 + (taste[user] * style[item]).sum(axis=1) + 0.1 * rng.normal(size=900)
    table = pd.DataFrame({"user": user, "item": item})
    encoder = FeatureEncoder(categorical=["user", "item"])
    model = {"n_factors": 4, "max_iter": 30, "random_state": 0}
    pipeline = make_pipeline(encoder, FMRegressor(reg_V=0.0, **model))
    pipeline.fit(table[:700], rating[:700])
    check_is_fitted(pipeline)
    assert pipeline.score(table[700:], rating[700:]) > 0.9
    assert pipeline[:-1].get_feature_names_out().tolist()[0] == "user=0"
    high = np.where(rating > 3, "high", "low")
    pipeline = make_pipeline(encoder, FMClassifier(**model))
    search = GridSearchCV(pipeline, {"featureencoder__hash_size": [1, 1000]}, cv=3).fit(table, high)
    assert search.best_params_ == {"featureencoder__hash_size": 1000}
    assert search.score(table, high) > 0.8


def test_tags_of_a_transformer():
    utils = pytest.importorskip("sklearn.utils")
    tags = utils.get_tags(FeatureEncoder())
    assert tags.transformer_tags is not None
    assert not tags.target_tags.required
    assert tags.input_tags.categorical
    assert tags.input_tags.allow_nan
    assert not tags.input_tags.sparse


def test_examples_of_docstrings():
    result = doctest.testmod(encoder)
    assert result.failed == 0
    assert result.attempted > 5


def test_every_constructor_argument_is_documented():
    for name in FeatureEncoder().get_params():
        assert f"\n    {name} : " in FeatureEncoder.__doc__


# -- what is refused ----------------------------------------------------------------------------

BAD_PARAMS = {
    "categorical": ["user", ["user", "user"], [1]],
    "multi_valued": ["genre", {"genre"}],
    "numeric": [("age", "age"), 1],
    "remainder": ["passthrough", None],
    "min_count": [0, True, 1.5, None],
    "hash_size": [0, 2**31, True, "8", {"user": 0}, {1: 5}],
    "separator": ["", 1],
    "normalize": [1, None],
    "numeric_encoding": ["standard", None, {"age": "log"}],
    "n_bins": [1, 10**6, 2.0],
    "dtype": ["float16", None, int],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD_PARAMS.items() for v in values])
def test_bad_params(name, value):
    with pytest.raises(
        ValueError, match=f"The parameter {name} of FeatureEncoder is .*, expected .*; set it"
    ):
        new(**{name: value}).fit(TABLE)


BAD_TABLES = {
    "unclear": (
        {},
        {"id": [1, 2], "c": ["a", "b"]},
        "does not tell what it is: 'id' holds whole numbers; na",
    ),
    "several unclear": (
        {},
        {"id": [1.0, None], "m": ["a", 1], "e": [None, None]},
        "'id' holds whole numbers, 'm' holds values of several types, 'e' holds no values",
    ),
    "no column": ({}, {}, "has 0 rows|has no column to encode"),
    "nothing named": ({"remainder": "drop"}, {"c": ["a"]}, "The table has no column to encode"),
    "no rows": ({}, {"c": []}, "has 0 rows, expected one or more"),
    "unknown name": ({"categorical": ["usr"]}, {"user": ["a"]}, r"'usr', but the table has only \['user'\]"),
    "two roles": ({"categorical": ["c"], "numeric": ["c"]}, {"c": [1]}, "named in both categorical and num"),
    "hash of a number": ({"hash_size": {"x": 5}}, {"x": [1.5]}, "hash_size names the column 'x', expected"),
    "hash of no column": ({"hash_size": {"y": 5}}, {"c": ["a"]}, "hash_size names the column 'y', expected"),
    "bins of text": (
        {"numeric_encoding": {"c": "bin"}},
        {"c": ["a"]},
        "names the column 'c', expected one th",
    ),
    "infinity": ({}, {"x": [1.5, float("inf")]}, r"column 'x' contains infinity \(in row 1\)"),
    "text for numbers": ({"numeric": ["x"]}, {"x": [1.5, "many"]}, "holds text such as 'many', expected num"),
    "lists for numbers": ({"numeric": ["x"]}, {"x": [[1.5]]}, "Column 'x' holds lists, expected numbers"),
    "lists for categories": ({"categorical": ["c"]}, {"c": [["a"]]}, "holds lists, expected one category"),
    "integer beyond floats": ({"numeric": ["x"]}, {"x": [10**400]}, "beyond the range of floats"),
    "too large": (
        {"numeric_encoding": "passthrough"},
        {"x": [1e300]},
        r"1e\+300 that is too large \(in row 0",
    ),
    "too large to scale": ({}, {"x": [1.7e308, -1.7e308]}, "'x' has the mean .* and the standard deviation"),
    "lengths": ({}, {"a": ["x"], "b": ["x", "y"]}, "have 1 to 2 rows, expected as many in each"),
    "foreign names": ({}, {1: ["a"]}, "the column name 1 of type int, expected strings"),
}


@pytest.mark.parametrize(("params", "table", "match"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables(params, table, match):
    fitted = new().fit(TABLE)
    state = fitted.to_dict()["fields"]
    fitted.set_params(categorical=None, multi_valued=None).set_params(**params)
    with pytest.raises(ValueError, match=match):
        fitted.fit_transform(table)
    assert fitted.set_params(**new().get_params()).to_dict()["fields"] == state  # as it was


@pytest.mark.parametrize(
    ("column", "match"),
    [
        ([b"bytes"], "values of type bytes"),
        (np.array([b"bytes"]), r"values of type \|S5"),
        ([{"a": 1}], "values of type dict"),
        ([1j], "values of type complex"),
        (np.array([1j]), "values of type complex128"),
        (np.array(["2020-01-01"], dtype="M8[D]"), r"values of type datetime64\[D\]"),
        ([["a"], "b"], "lists, but also values of type str"),
        ([[["a"]]], "lists of lists"),
        (np.zeros((2, 2)), "an array with 2 dimensions"),
    ],
)
def test_bad_columns(column, match):
    with pytest.raises(
        TypeError, match=f"Column 'c' holds {match}, expected text, numbers, booleans, or list"
    ):
        FeatureEncoder(categorical=["c"]).fit({"c": column})


@pytest.mark.parametrize("table", [None, 3, "table", [["a"]], np.array(["a"]), sp.csr_array([[1.0]])])
def test_no_tables(table):
    with pytest.raises(TypeError, match=r"The table is a .*, expected a pandas or polars DataFrame"):
        FeatureEncoder().fit(table)


@pytest.mark.parametrize("column", ["text", 5, iter([1])])
def test_no_columns(column):
    with pytest.raises(TypeError, match=r"The column 'c' of the table is a .*, expected a list, an array"):
        FeatureEncoder().fit({"c": column})


def test_columns_missing_at_transform():
    fitted = new().fit(TABLE)
    with pytest.raises(
        ValueError, match=r"no column 'genre', only \['age', 'user'\], but FeatureEncoder was fit"
    ):
        fitted.transform({"age": [1.0], "user": [1]})
    with pytest.raises(ValueError, match="Column 'age' holds text such as 'old', expected numbers"):
        fitted.transform({**TABLE, "age": ["old"] * 5})
    with pytest.raises(ValueError, match="Column 'user' holds lists"):
        fitted.transform({**TABLE, "user": [[1]] * 5})


def test_the_public_name():
    assert fmfast.FeatureEncoder is FeatureEncoder
    assert "FeatureEncoder" in fmfast.__all__
