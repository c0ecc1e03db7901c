"""FeatureEncoder: the same table gives the same rows, whichever library it comes from."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmfast import FeatureEncoder

COLUMNS = {
    "name": ["b", "a", None, "ü", "a", ""],
    "flag": [True, None, False, True, True, False],
    "sure": [True, True, False, True, True, False],
    "user": [10, 9, 10, None, -3, 2**40],
    "item": [3, 1, 2, 3, 1, 2],
    "price": [1.5, None, 2.5, -0.0, 1e-3, 1.5],
    "tags": [["x", "y"], [], None, ["y"], ["z", "y", "z"], [None, "x"]],
    "bits": [[1], [2, 3], [], None, [1, 1], [3]],
    "genre": ["A|B", None, "", "B", "B | A", "C"],
}
ROLES = {"categorical": ["user", "item"], "multi_valued": ["genre"]}


def same(table):
    return table


def pandas(columns):
    return pytest.importorskip("pandas").DataFrame(columns)


def pandas_objects(columns):
    pd = pytest.importorskip("pandas")
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def pandas_nullable(columns):
    return pandas_objects(columns).convert_dtypes()


def pandas_arrow(columns):
    pd = pytest.importorskip("pandas")
    table = pyarrow(columns)
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def pandas_categories(columns):
    table = pandas(columns)
    names = [name for name in ("name", "flag", "user", "item", "genre") if name in columns]
    return table.astype(dict.fromkeys(names, "category"))


def polars(columns):
    return pytest.importorskip("polars").DataFrame(columns)


def polars_categories(columns):
    pl = pytest.importorskip("polars")
    table = polars(columns)
    if "name" in columns:
        table = table.with_columns(pl.col("name").cast(pl.Categorical))
    if "genre" in columns:
        values = sorted({value for value in columns["genre"] if value is not None})
        table = table.with_columns(pl.col("genre").cast(pl.Enum(values)))
    return table


def pyarrow(columns):
    return pytest.importorskip("pyarrow").table(columns)


def pyarrow_chunks(columns):
    pa = pytest.importorskip("pyarrow")
    table = pyarrow(columns)
    half = table.num_rows // 2
    return pa.concat_tables([table.slice(0, half), table.slice(half)])


def pyarrow_dictionaries(columns):
    pa = pytest.importorskip("pyarrow")
    table = pyarrow(columns)
    halves = []
    for start, stop in ((0, 2), (2, table.num_rows)):  # each with a dictionary of its own
        encoded = [
            column.dictionary_encode() if name in ("name", "user", "genre") else column
            for name, column in zip(table.column_names, table.slice(start, stop - start).columns, strict=True)
        ]
        halves.append(pa.table(encoded, names=table.column_names))
    return pa.concat_tables(halves)


def pyarrow_large(columns):
    pa = pytest.importorskip("pyarrow")
    table = pyarrow(columns)
    wide = {pa.string(): pa.large_string(), pa.list_(pa.string()): pa.large_list(pa.large_string())}
    return table.cast(
        pa.schema([field.with_type(wide.get(field.type, field.type)) for field in table.schema])
    )


def pyarrow_batch(columns):
    return pyarrow(columns).to_batches()[0]


def arrays(columns):
    return {name: np.array([*values, None], dtype=object)[:-1] for name, values in columns.items()}


KINDS = [
    *(same, arrays, pandas, pandas_objects, pandas_nullable, pandas_arrow, pandas_categories),
    *(polars, polars_categories),
    *(pyarrow, pyarrow_chunks, pyarrow_dictionaries, pyarrow_large, pyarrow_batch),
]


def content(encoder, rows):
    parts = (rows.data, rows.indices, rows.indptr)
    return rows.shape, [(part.dtype, part.tobytes()) for part in parts], encoder.to_dict()["fields"]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"min_count": 2, "numeric_encoding": "bin", "n_bins": 3, "normalize": False},
        {"hash_size": 16, "dtype": "float64", "numeric_encoding": "passthrough"},
    ],
    ids=["plain", "rare, bins", "hashed"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_table(kind, params):
    encoder = FeatureEncoder(**ROLES, **params)
    expected = content(encoder, encoder.fit_transform(COLUMNS))
    table = kind(COLUMNS)
    twin = FeatureEncoder(**ROLES, **params)
    assert content(twin, twin.fit_transform(table)) == expected
    # Fitted on one, used on another.
    assert content(encoder, encoder.transform(table)) == expected
    assert content(twin, twin.transform(COLUMNS)) == expected
    reordered = {name: COLUMNS[name] for name in reversed(COLUMNS)}
    assert content(twin, twin.transform(kind(reordered))) == expected


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "categories" not in kind.__name__])
def test_integers_must_be_named(kind):
    """Also where gaps have made floats of them."""
    table = kind({name: COLUMNS[name] for name in ("item", "bits", "user", "price")})
    if kind is pyarrow_dictionaries:  # a declared category needs no name
        match = "what it is: 'item' holds whole numbers; name each"
    else:
        match = "what it is: 'item' holds whole numbers, 'user' holds whole numbers; name each"
    with pytest.raises(ValueError, match=match):
        FeatureEncoder().fit(table)


def test_declared_categories_need_no_name():
    table = pandas_categories({name: COLUMNS[name] for name in ("item", "user", "price")})
    encoder = FeatureEncoder().fit(table)
    assert (
        encoder.to_dict()["fields"]
        == FeatureEncoder(**{**ROLES, "multi_valued": None})
        .fit({name: COLUMNS[name] for name in ("item", "user", "price")})
        .to_dict()["fields"]
    )


@pytest.mark.parametrize("kind", [pandas, pandas_nullable, polars, pyarrow])
def test_the_table_is_not_changed(kind):
    table = kind(COLUMNS)
    before = kind(copy.deepcopy(COLUMNS))
    FeatureEncoder(**ROLES).fit(table).transform(table)
    assert table.equals(before)


@pytest.mark.parametrize("kind", [pandas, polars, pyarrow])
def test_columns_without_any_value(kind):
    table = {"c": [None, None], "t": [None, None], "x": [None, None]}
    encoder = FeatureEncoder(categorical=["c"], multi_valued=["t"], numeric=["x"])
    expected = content(encoder, encoder.fit_transform(table))
    assert content(encoder, encoder.fit_transform(kind(table))) == expected
    with pytest.raises(ValueError, match="'c' holds no values, 't' holds no values, 'x' holds no values"):
        FeatureEncoder().fit(kind(table))


@pytest.mark.parametrize("kind", [pandas, pandas_arrow, polars, pyarrow])
def test_no_rows_to_transform(kind):
    encoder = FeatureEncoder(**ROLES).fit(kind(COLUMNS))
    empty = kind(COLUMNS)[:0]
    assert encoder.transform(empty).shape == (0, encoder.n_features_out_)
    with pytest.raises(ValueError, match="The table has 0 rows, expected one or more"):
        encoder.fit(empty)


@pytest.mark.parametrize("kind", [pandas, pandas_arrow, polars, pyarrow])
def test_dates_are_refused(kind):
    table = kind({"when": np.array(["2020-01-01", "2021-01-01"], dtype="M8[us]"), "name": ["a", "b"]})
    with pytest.raises(TypeError, match=r"Column 'when' holds values of type .*, expected text, numbers"):
        FeatureEncoder().fit(table)
    assert FeatureEncoder(categorical=["name"], remainder="drop").fit_transform(table).shape == (2, 3)


@pytest.mark.parametrize("kind", [pandas, polars, pyarrow])
def test_columns_of_a_dict_may_be_series(kind):
    table = kind(COLUMNS)
    encoder = FeatureEncoder(**ROLES)
    expected = content(encoder, encoder.fit_transform(table))
    assert content(encoder, encoder.fit_transform({name: table[name] for name in COLUMNS})) == expected


@pytest.mark.parametrize("width", ["float32", "float64", "int8", "uint32", "int64", "bool"])
@pytest.mark.parametrize("kind", [pandas, polars, pyarrow])
def test_types_of_numbers(kind, width):
    values = np.array([0, 1, 1, 3]).astype(width)
    for role in ("categorical", "numeric"):
        encoder = FeatureEncoder(**{role: ["x"]})
        expected = content(encoder, encoder.fit_transform({"x": values.tolist()}))
        assert content(encoder, encoder.fit_transform(kind({"x": values}))) == expected


def test_slices_of_lists():
    pa = pytest.importorskip("pyarrow")
    pl = pytest.importorskip("polars")
    lists = [["lost"], ["a"], None, [], ["b", "a"]]
    encoder = FeatureEncoder()
    expected = content(encoder, encoder.fit_transform({"t": lists[1:]}))
    for table in (pa.table({"t": lists})[1:], pl.DataFrame({"t": lists})[1:], pandas({"t": lists})[1:]):
        assert content(encoder, encoder.fit_transform(table)) == expected
    pairs = [[1, 2], None, [2, 2]]
    expected = content(encoder, encoder.fit_transform({"t": pairs}))
    fixed = pa.table({"t": pa.array(pairs, type=pa.list_(pa.int64(), 2))})
    array = pl.DataFrame({"t": pl.Series(pairs, dtype=pl.Array(pl.Int64, 2))})
    for table in (fixed, array):
        assert content(encoder, encoder.fit_transform(table)) == expected


def test_rows_chosen_from_a_pandas_table():
    table = pandas(COLUMNS)
    encoder = FeatureEncoder(**ROLES).fit(table)
    rows = encoder.transform(table)
    chosen = encoder.transform(table.iloc[[4, 0, 0]])
    assert (chosen != rows[[4, 0, 0]]).nnz == 0


def test_sparse_columns_of_pandas():
    pd = pytest.importorskip("pandas")
    values = [0.0, 1.5, 0.0, 2.5]
    encoder = FeatureEncoder()
    expected = content(encoder, encoder.fit_transform({"x": values}))
    sparse = pd.DataFrame({"x": pd.arrays.SparseArray(values, fill_value=0.0)})
    assert content(encoder, encoder.fit_transform(sparse)) == expected


def test_tables_of_polars_that_are_still_to_be_computed():
    with pytest.raises(TypeError, match=r"LazyFrame, expected a pandas or .* with .collect\(\)"):
        FeatureEncoder().fit(polars({"c": ["a"]}).lazy())


def test_names_of_pandas_columns():
    pd = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=r"column name 0 of type int, expected strings; .* = table.columns"):
        FeatureEncoder().fit(pd.DataFrame([["a", "b"]]))
    with pytest.raises(ValueError, match="several columns called 'a', expected distinct names"):
        FeatureEncoder().fit(pd.DataFrame([["x", "y"]], columns=["a", "a"]))


texts = st.none() | st.text(st.characters(codec="utf-8"), max_size=3)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            texts,
            st.none() | st.integers(-(2**53), 2**53),
            st.none() | st.floats(allow_infinity=False, width=32),
            st.none() | st.lists(texts, max_size=3),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 2),
    st.sampled_from(["scale", "bin", "passthrough"]),
)
def test_tables_by_chance(rows, min_count, encoding):
    pa = pytest.importorskip("pyarrow")
    pl = pytest.importorskip("polars")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(["c", "i", "x", "t"])}
    types = {"c": pa.string(), "i": pa.int64(), "x": pa.float64(), "t": pa.list_(pa.string())}
    arrow = pa.table({name: pa.array(values, type=types[name]) for name, values in columns.items()})
    params = {
        "categorical": ["c", "i"],
        "numeric": ["x"],
        "multi_valued": ["t"],
        "min_count": min_count,
        "numeric_encoding": encoding,
        "dtype": "float64",
    }
    encoder = FeatureEncoder(**params)
    expected = content(encoder, encoder.fit_transform(columns))
    for table in (arrow, pl.from_arrow(arrow), arrow.to_pandas()):
        assert content(encoder, encoder.fit_transform(table)) == expected
