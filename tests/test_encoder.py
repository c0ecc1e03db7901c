"""`FeatureEncoder`: what becomes of categories, lists, numbers and hashes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from encoder_tables import TABLE, assert_same_rows, named_rows, new
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fmfast import FeatureEncoder, FMRegressor

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
