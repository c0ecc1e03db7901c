"""`FeatureEncoder`: tables as a whole, the interface of an estimator, and what is refused."""

from __future__ import annotations

import copy
import doctest
import pickle
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from encoder_tables import TABLE, assert_same_rows, named_rows, new
from numpy.testing import assert_array_equal

import fmfast
from fmfast import FeatureEncoder, FMClassifier, FMRegressor, encoder
from fmfast._sklearn import not_fitted_error

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
