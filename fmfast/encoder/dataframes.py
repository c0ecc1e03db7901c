"""Tables from outside (pandas, polars, pyarrow, NumPy, dict) become columns of NumPy arrays.

One column has one of three forms, whichever library it came from: `Numbers`, `Coded` or `Lists`. The same
table therefore looks the same to all that stands above, whoever made it. No library is imported here: a
table can only come from one that is imported already. This module does not know what a column is used for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Numbers:
    """A column of numbers or booleans.

    Attributes
    ----------
    values : bool, integer or float64 ndarray of shape (n_rows,)
        Arbitrary, but not NaN, where missing.
    missing : bool ndarray of shape (n_rows,)
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_]

    @property
    def kind(self) -> str:
        return _kind_of_numbers(self.values[~self.missing], bool(self.missing.any()))

    def coded(self) -> Coded:
        """The same column with each distinct value held once."""
        distinct, codes = np.unique(self.values, return_inverse=True)
        return Coded(np.where(self.missing, -1, codes), distinct.tolist(), self.kind)

    def numbers(self) -> NDArray[np.float64]:
        """The values as floats, NaN where missing."""
        return np.where(self.missing, np.nan, self.values)


@dataclass(frozen=True)
class Coded:
    """A column in which each distinct value is held once.

    Attributes
    ----------
    codes : integer ndarray of shape (n_rows,)
        Positions in `values`; -1 where missing.
    values : list
        Strings, numbers or booleans, none of them missing; some may never occur.
    kind : {"text", "boolean", "integer", "float", "mixed", "empty"}
        What the values are; "text" also for what was declared a category, "empty" if that is not known.
    """

    codes: NDArray[np.intp]
    values: list[Any]
    kind: str = "text"

    def coded(self) -> Coded:
        return self

    def numbers(self) -> NDArray[np.float64]:
        """The values as floats, NaN where missing."""
        return np.array([*self.values, np.nan], dtype=np.float64)[self.codes]


@dataclass(frozen=True)
class Lists:
    """A column with several values in a row.

    Attributes
    ----------
    items : Numbers or Coded
        The values of all rows, one after the other.
    counts : integer ndarray of shape (n_rows,)
        How many belong to each row; 0 where missing.
    missing : bool ndarray of shape (n_rows,)
        Rows that have no list, which is not the same as an empty one.
    """

    items: Numbers | Coded
    counts: NDArray[np.intp]
    missing: NDArray[np.bool_]
    kind: str = "list"


Column = Numbers | Coded | Lists


class Table:
    """The columns of a table by name; each is looked at only when it is asked for.

    Attributes
    ----------
    names : list of str
    n_rows : int
    has_names : bool
        Whether the names came with the table; otherwise only the order tells the columns apart.
    """

    def __init__(self, columns: Mapping[str, Any], n_rows: int, has_names: bool) -> None:
        self.names = list(columns)
        self.n_rows = n_rows
        self.has_names = has_names
        self._columns = columns

    def column(self, name: str) -> Column:
        """One column; TypeError if it holds what is neither text nor number nor list of these."""
        try:
            return _column(self._columns[name])
        except _ForeignType as error:
            raise TypeError(
                f"Column {name!r} holds {error}, expected text, numbers, booleans, or lists of these; "
                "convert it, for example to text, or leave it out."
            ) from None


class _ForeignType(Exception):
    """A column of a type that is not known; the message names it."""


def read_table(table: Any) -> Table:
    """The columns of a table, which is only read.

    Parameters
    ----------
    table : pandas or polars DataFrame, pyarrow Table, dict of columns, or ndarray
        The array is structured, or has two dimensions; then its columns are called "x0", "x1" and so on.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If its columns differ in length, or their names are not distinct strings.
    """
    has_names = True
    if _is_from("pandas", "DataFrame", table) or _is_from("polars", "DataFrame", table):
        names, n_rows = list(table.columns), len(table)
        columns: Iterable[Any] = (table[name] for name in names)
    elif _is_from("pyarrow", "Table", table) or _is_from("pyarrow", "RecordBatch", table):
        names, n_rows, columns = table.schema.names, table.num_rows, table.columns
    elif isinstance(table, np.ndarray) and table.dtype.names and table.ndim == 1:
        names, n_rows = list(table.dtype.names), len(table)
        columns = (table[name] for name in names)
    elif isinstance(table, np.ndarray) and table.ndim == 2 and not table.dtype.names:
        has_names = False
        names, n_rows, columns = [f"x{j}" for j in range(table.shape[1])], len(table), table.T
    elif isinstance(table, Mapping):
        names, columns = list(table), list(table.values())
        lengths = [_length(column, name) for name, column in table.items()]
        n_rows = lengths[0] if lengths else 0
        if len(set(lengths)) > 1:
            raise ValueError(
                f"The columns of the table have {min(lengths)} to {max(lengths)} rows, expected as many in "
                "each; fill up what is missing with None."
            )
    else:
        raise TypeError(
            f"The table is a {type(table).__module__}.{type(table).__name__}, expected a pandas or polars "
            "DataFrame, a pyarrow Table, a dict of columns, or a structured or two-dimensional ndarray; "
            "convert it (a polars LazyFrame with .collect(), rows as a list with pandas.DataFrame)."
        )
    foreign = [name for name in names if not isinstance(name, str)]
    if foreign:
        raise ValueError(
            f"The table has the column name {foreign[0]!r} of type {type(foreign[0]).__name__}, expected "
            "strings; rename the columns, in pandas with table.columns = table.columns.astype(str)."
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"The table has several columns called {twice!r}, expected distinct names; rename one of them."
        )
    return Table(dict(zip(names, columns, strict=True)), n_rows, has_names)


def _is_from(library: str, name: str, value: Any) -> bool:
    """Whether a value is of a class of a library that may not be installed."""
    cls = getattr(sys.modules.get(library), name, None)
    return cls is not None and isinstance(value, cls)


def _length(column: Any, name: Any) -> int:
    if isinstance(column, (str, bytes)) or not hasattr(column, "__len__"):
        raise TypeError(
            f"The column {name!r} of the table is a {type(column).__name__}, expected a list, an array or a "
            "Series; put its values in a list."
        )
    return len(column)


# -- columns of each library --------------------------------------------------------------------


def _column(values: Any) -> Column:
    """A column in the form that its type asks for; `_ForeignType` for others."""
    if _is_from("pandas", "Series", values):
        return _pandas_column(values)
    if _is_from("polars", "Series", values):
        return _polars_column(values)
    if _is_from("pyarrow", "Array", values) or _is_from("pyarrow", "ChunkedArray", values):
        return _arrow_column(values)
    if not isinstance(values, np.ndarray):
        return _object_column(list(values))
    if values.ndim != 1:
        raise _ForeignType(f"an array with {values.ndim} dimensions")
    if values.dtype.kind in "biuf":
        return _numbers(np.ma.getdata(values), np.ma.getmaskarray(values).copy())
    if values.dtype.kind in "OUT":
        return _object_column(list(values.tolist()))
    raise _ForeignType(f"values of type {values.dtype}")


def _numbers(values: NDArray[Any], missing: NDArray[np.bool_]) -> Numbers:
    """A column of numbers in which NaN, too, is missing; `missing` may be changed."""
    values = np.ascontiguousarray(values)  # sums depend on the layout, and features on nothing but values
    if values.dtype.kind == "f":
        values = values.astype(np.float64, copy=False)
        missing |= np.isnan(values)
        if missing.any():
            values = np.where(missing, 0.0, values)
    return Numbers(values, missing)


def _kind_of_numbers(known: NDArray[Any], has_missing: bool) -> str:
    if not len(known):
        return "empty"
    if known.dtype.kind != "f":
        return "boolean" if known.dtype.kind == "b" else "integer"
    # pandas makes floats of integers with gaps and others do not: the same table must be of the same kind.
    return "integer" if has_missing and (known == np.rint(known)).all() else "float"


def _recoded(categories: list[Any], codes: NDArray[Any]) -> Coded:
    """A column that came as codes of categories; -1 where missing."""
    column = _object_column(categories)
    if isinstance(column, Lists):
        raise _ForeignType("categories that are lists")
    # The last place is that of -1.
    return Coded(np.append(column.codes, -1)[codes], column.values)


def _lists(items: Column, counts: NDArray[Any], missing: NDArray[np.bool_]) -> Lists:
    if isinstance(items, Lists):
        raise _ForeignType("lists of lists")
    return Lists(items, counts.astype(np.intp), missing)


def _pandas_column(series: Any) -> Column:
    pandas = sys.modules["pandas"]
    if isinstance(series.dtype, pandas.CategoricalDtype):
        return _recoded(series.cat.categories.tolist(), series.cat.codes.to_numpy())
    if isinstance(series.dtype, pandas.StringDtype):
        codes, strings = pandas.factorize(series)
        return Coded(codes, strings.tolist())
    if series.dtype.kind in "biuf":
        missing = series.isna().to_numpy()
        zero = False if series.dtype.kind == "b" else 0
        return _numbers(series.fillna(zero).to_numpy(), missing.copy())
    if series.dtype.kind in "OU":
        return _object_column(series.tolist())
    raise _ForeignType(f"values of type {series.dtype}")


def _polars_column(series: Any) -> Column:
    polars = sys.modules["polars"]
    dtype = series.dtype
    if dtype.is_integer() or dtype.is_float() or dtype == polars.Boolean:
        missing = series.is_null().to_numpy()
        zero = False if dtype == polars.Boolean else 0
        return _numbers(series.fill_null(zero).to_numpy(), missing.copy())
    if dtype in (polars.String, polars.Categorical, polars.Enum):
        strings = series.cast(polars.String)
        distinct = strings.drop_nulls().unique()
        codes = strings.replace_strict(
            distinct, np.arange(len(distinct)), default=-1, return_dtype=polars.Int64
        )
        return Coded(codes.to_numpy(), distinct.to_list())
    if dtype in (polars.List, polars.Array):
        lists = series.cast(polars.List(dtype.inner))
        counts = lists.list.len().fill_null(0).to_numpy()
        full = lists.filter(counts > 0)  # to explode an empty list would leave a null behind
        return _lists(_polars_column(full.explode()), counts, series.is_null().to_numpy())
    if dtype == polars.Null:
        return Coded(np.full(len(series), -1), [], "empty")
    if dtype == polars.Object:
        return _object_column(series.to_list())
    raise _ForeignType(f"values of type {dtype}")


def _arrow_column(values: Any) -> Column:
    arrow = sys.modules["pyarrow"]
    types = arrow.types
    if not isinstance(values, arrow.ChunkedArray):
        values = arrow.chunked_array([values])
    dtype = values.type
    if types.is_integer(dtype) or types.is_floating(dtype) or types.is_boolean(dtype):
        missing = values.is_null().to_numpy()
        zero = False if types.is_boolean(dtype) else 0
        return _numbers(values.fill_null(zero).to_numpy(), missing.copy())
    if types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype):
        values = values.cast(arrow.large_string()).dictionary_encode()
        dtype = values.type
    if types.is_dictionary(dtype):
        array = values.unify_dictionaries().combine_chunks()
        codes = array.indices.cast(arrow.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        return _recoded(array.dictionary.to_pylist(), codes)
    if types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype):
        array = values.combine_chunks()
        missing = array.is_null().to_numpy(zero_copy_only=False)
        counts = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        # The length of a fixed-size list is that of its type, also where there is none.
        return _lists(_arrow_column(array.flatten()), np.where(missing, 0, counts), missing)
    if types.is_null(dtype):
        return Coded(np.full(len(values), -1), [], "empty")
    raise _ForeignType(f"values of type {dtype}")


# -- columns of Python objects ------------------------------------------------------------------

_BOOLEANS = (bool, np.bool_)
_INTEGERS = (int, np.integer)
_FLOATS = (float, np.floating)
_LISTS = (list, tuple, set, frozenset, np.ndarray)
_MISSING_TYPES = ("NoneType", "NAType", "NaTType")  # the latter two are those of pandas


def _object_column(values: list[Any]) -> Coded | Lists:
    """A column of Python objects, by what they are."""
    types = {type_ for type_ in set(map(type, values)) if type_.__name__ not in _MISSING_TYPES}
    if any(issubclass(type_, _LISTS) for type_ in types):
        return _column_of_lists(values)
    foreign = [t.__name__ for t in types if not issubclass(t, (str, *_BOOLEANS, *_INTEGERS, *_FLOATS))]
    if foreign:
        raise _ForeignType(f"values of type {min(foreign)}")
    if any(issubclass(type_, _BOOLEANS) for type_ in types) and len(types) > 1:
        # As keys of a dict, True and 1 are the same.
        values = [str(value) if isinstance(value, _BOOLEANS) else value for value in values]
    distinct = list(dict.fromkeys(values))
    is_missing = [type(value).__name__ in _MISSING_TYPES or value != value for value in distinct]
    known = [value for value, missing in zip(distinct, is_missing, strict=True) if not missing]
    codes = np.cumsum(np.logical_not(is_missing), dtype=np.intp) - 1
    codes[is_missing] = -1
    places = dict(zip(distinct, codes.tolist(), strict=True))
    return Coded(
        np.fromiter(map(places.__getitem__, values), np.intp, len(values)),
        known,
        _kind_of_objects(known, any(is_missing)),
    )


def _kind_of_objects(known: list[Any], has_missing: bool) -> str:
    """The kind of a column from its distinct values."""
    types = set(map(type, known))
    for kind, classes in (("text", (str,)), ("boolean", _BOOLEANS), ("integer", _INTEGERS)):
        if types and all(issubclass(type_, classes) for type_ in types):
            return kind
    if any(issubclass(type_, str) for type_ in types):
        return "mixed"
    floats = np.array([value for value in known if isinstance(value, _FLOATS)], dtype=np.float64)
    return _kind_of_numbers(floats, has_missing)


def _column_of_lists(values: list[Any]) -> Lists:
    lists = [value if isinstance(value, _LISTS) else () for value in values]
    missing = np.array([not isinstance(value, _LISTS) for value in values], dtype=bool)
    for row in np.flatnonzero(missing):
        value = values[row]
        if type(value).__name__ not in _MISSING_TYPES and value == value:
            raise _ForeignType(f"lists, but also values of type {type(value).__name__}")
    counts = np.fromiter(map(len, lists), np.intp, len(lists))
    return _lists(_object_column(list(chain.from_iterable(lists))), counts, missing)
