"""FeatureEncoder: a table of categories, lists and numbers becomes sparse rows with field numbers.

The encoder decides which column becomes which kind of field (`fmfast.encoder.fields`) and puts the entries of
all fields side by side. It never makes anything of size n_samples x n_features. It knows no model.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from fmfast._sklearn import not_fitted_error
from fmfast.encoder.dataframes import Column, Table, read_table
from fmfast.encoder.fields import (
    Binned,
    Field,
    Hashed,
    Scaled,
    Vocabulary,
    field_from_dict,
    rows_of,
)
from fmfast.encoder.values import items_of, numbers_of
from fmfast.parameters import BaseEstimator, check_params

_FORMAT = "fmfast feature encoder"
_FORMAT_VERSION = 1
_ROLES = ("categorical", "multi_valued", "numeric")

# What columns are used for if nothing but their type tells, and what those hold whose type does not.
_ROLE_OF_KIND = {"text": "categorical", "boolean": "categorical", "float": "numeric", "list": "multi_valued"}
_UNCLEAR = {"integer": "whole numbers", "mixed": "values of several types", "empty": "no values"}


class FeatureEncoder(BaseEstimator):
    """Turns a table into the sparse rows of a factorization machine.

    Each column of the table becomes a *field*: a range of features next to each other. A category becomes one
    feature of value 1; a column with several categories in a row becomes one for each of them; a number keeps
    its value or becomes the interval in which it lies. The same table gives the same rows, to the byte,
    whether it is of pandas, polars or pyarrow; none of them is needed.

    Columns that are not named are taken by their type: strings, categories and booleans as categorical, lists
    as multi-valued, floats as numeric. Integers must be named: they may be ids or quantities, and either
    mistake would go unnoticed (a user id scaled like a price still trains, badly). The same holds for floats
    that are all whole where some are missing, as this is how pandas reads integers with gaps.

    Parameters
    ----------
    categorical : list of str or None, default=None
        Columns with one category in a row. Categories are compared as text: 42, 42.0 and "42" are the same.
    multi_valued : list of str or None, default=None
        Columns with any number of categories in a row: lists, or strings that hold several (see `separator`).
    numeric : list of str or None, default=None
        Columns of numbers; True is 1.
    remainder : {"by_type", "drop"}, default="by_type"
        What becomes of the columns that no list names.
    min_count : int, default=1
        Categories that occur less often in `fit` have no feature of their own. They share the feature
        "column=<rare>", which also takes all values that `fit` has not seen. With 1, no row of `fit` lands
        there, so that a model cannot learn what unseen values mean: give 2 or more where they will come.
    hash_size : int, dict of int by column, or None, default=None
        Spread the categories of a column over that many features by a hash of their text, instead of
        keeping a vocabulary; `min_count` does not apply. A dict names the columns that are hashed.
    separator : str or None, default="|"
        What stands between the values of a multi-valued column given as strings; spaces around values are
        removed, and empty values left out. None takes each string as a single value.
    normalize : bool, default=True
        Divide the entries of a multi-valued column by the number of values in the row, so that they add up
        to 1. A value that occurs twice in a row counts twice.
    numeric_encoding : {"scale", "bin", "passthrough"} or dict of these by column, default="scale"
        "scale": (x - mean) / standard deviation over the rows of `fit`. "bin": one feature for each of
        `n_bins` intervals with about as many rows; the outer two have no end. "passthrough": x. Columns that
        a dict does not name are scaled.
    n_bins : int, default=10
        Intervals of "bin"; fewer where values repeat.
    dtype : {"float32", "float64"}, default="float32"
        Of the entries.

    Attributes
    ----------
    field_names_, feature_names_in_ : object ndarray of shape (n_fields,)
        The columns that became fields, in the order of the table of `fit`.
    fields_ : int32 ndarray of shape (n_features,)
        For each feature, the number of its field.
    feature_names_ : object ndarray of shape (n_features,)
        Such as "user=42", "genre=Drama", "user=<rare>", "age", "age in [18, 25)".
    n_features_in_, n_features_out_ : int
        Number of fields, and of features.

    Notes
    -----
    Missing values (None, NaN, NaT, NA) are no error. As a category, a missing value is one like any other: it
    has the feature "column=<missing>" if it occurred `min_count` times in `fit`, and is rare otherwise. A row
    that has no list is missing, too; an empty list leaves no entry. In a numeric column, a missing value has
    the feature "column=<missing>" if `fit` has seen one, and otherwise leaves no entry, which for scaled
    numbers means the mean.

    Further columns are ignored by `transform`, and their order does not matter, unless they have no names.

    Examples
    --------
    >>> from fmfast import FeatureEncoder
    >>> table = {"user": [7, 9, 7], "genre": ["Drama|War", "Comedy", None], "age": [31.0, 22.0, 40.0]}
    >>> encoder = FeatureEncoder(categorical=["user"], multi_valued=["genre"], numeric_encoding="passthrough")
    >>> X = encoder.fit_transform(table)
    >>> X.shape
    (3, 9)
    >>> encoder.feature_names_[X[[0]].indices].tolist()
    ['user=7', 'genre=Drama', 'genre=War', 'age']
    >>> X[[0]].data.tolist()
    [1.0, 0.5, 0.5, 31.0]
    >>> encoder.fields_.tolist()
    [0, 0, 0, 1, 1, 1, 1, 1, 2]
    """

    _kind = "transformer"

    # Set by fit; all else is derived from it.
    _fields: tuple[Field, ...]

    def __init__(
        self,
        *,
        categorical: Sequence[str] | None = None,
        multi_valued: Sequence[str] | None = None,
        numeric: Sequence[str] | None = None,
        remainder: str = "by_type",
        min_count: int = 1,
        hash_size: int | Mapping[str, int] | None = None,
        separator: str | None = "|",
        normalize: bool = True,
        numeric_encoding: str | Mapping[str, str] = "scale",
        n_bins: int = 10,
        dtype: str = "float32",
    ) -> None:
        self.categorical = categorical
        self.multi_valued = multi_valued
        self.numeric = numeric
        self.remainder = remainder
        self.min_count = min_count
        self.hash_size = hash_size
        self.separator = separator
        self.normalize = normalize
        self.numeric_encoding = numeric_encoding
        self.n_bins = n_bins
        self.dtype = dtype

    # -- fit and transform ---------------------------------------------------------------------

    def fit(self, X: Any, y: ArrayLike | None = None) -> Self:
        """Learn the categories, means and intervals of a table.

        Parameters
        ----------
        X : pandas or polars DataFrame, pyarrow Table, dict of columns, or ndarray
            Of shape (n_samples, n_columns). An ndarray is structured, or has two dimensions; then its columns
            are called "x0", "x1" and so on.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            For settings or a table that cannot be used; the encoder stays as it was.
        """
        fields, _, _ = self._learned(X)
        self._fields = tuple(fields)
        return self

    def fit_transform(self, X: Any, y: ArrayLike | None = None) -> sp.csr_array:
        """`fit`, then `transform` of the same table, which is read only once.

        Parameters
        ----------
        X : table of shape (n_samples, n_columns)
            As `fit` takes it.
        y : ignored

        Returns
        -------
        csr_array of shape (n_samples, n_features)

        Raises
        ------
        ValueError, TypeError
            As `fit`.
        """
        fields, values, n_rows = self._learned(X)
        rows = rows_of(fields, values, n_rows, np.dtype(self.dtype))
        self._fields = tuple(fields)
        return rows

    def transform(self, X: Any) -> sp.csr_array:
        """The rows of a table as a sparse matrix.

        Parameters
        ----------
        X : table of shape (n_samples, n_columns)
            With the columns that `fit` has used, in any order.

        Returns
        -------
        csr_array of shape (n_samples, n_features)
            Of `dtype`, with sorted indices and without duplicates or stored zeros.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError, TypeError
            For a table without these columns, or with values that their fields cannot take.
        """
        fields = self._fitted_fields("transform")
        check_params(self)
        table = read_table(X)
        for field in fields:
            if field.name not in table.names:
                raise ValueError(
                    f"The table has no column {field.name!r}, only {reprlib.repr(table.names)}, but "
                    f"{type(self).__name__} was fitted on one; add it, or fit anew without it."
                )
        if not table.has_names and self.remainder == "by_type" and len(table.names) != len(fields):
            raise ValueError(
                f"X has {len(table.names)} features, but {type(self).__name__} is expecting {len(fields)} "
                "features as input; give it the columns that it was fitted on, in their order."
            )
        values = [field.values_of(table.column(field.name)) for field in fields]
        return rows_of(fields, values, table.n_rows, np.dtype(self.dtype))

    def _learned(self, X: Any) -> tuple[list[Field], list[Any], int]:
        """A field for each column that is used, its values as `encode` takes them, number of rows."""
        check_params(self)
        table = read_table(X)
        if not table.n_rows:
            raise ValueError("The table has 0 rows, expected one or more to learn from; add rows.")
        columns, roles = self._columns_and_roles(table)
        fields: list[Field] = []
        values = []
        for name, column in columns.items():
            field, read = self._learned_field(name, column, roles[name])
            fields.append(field)
            values.append(read)
        return fields, values, table.n_rows

    def _learned_field(self, name: str, column: Column, role: str) -> tuple[Field, Any]:
        if role == "numeric":
            numbers = numbers_of(column, name)
            encoding = _each(self.numeric_encoding, name, "scale")
            if encoding == "bin":
                return Binned.fit(name, numbers, int(self.n_bins)), numbers
            return Scaled.fit(name, numbers, passthrough=encoding == "passthrough"), numbers
        settings: dict[str, Any] = {
            "name": name,
            "multi_valued": role == "multi_valued",
            "separator": self.separator,
            "normalize": bool(self.normalize),
        }
        items = items_of(column, name, role == "multi_valued", self.separator)
        hash_size = _each(self.hash_size, name, None)
        if hash_size is None:
            return Vocabulary.fit(items, int(self.min_count), **settings), items
        return Hashed(**settings, size=int(hash_size)), items

    def _columns_and_roles(self, table: Table) -> tuple[dict[str, Column], dict[str, str]]:
        """The columns that are used, in their order, and what they are used for."""
        roles = self._named_roles(table)
        columns, unclear = {}, []
        for name in table.names:
            if name not in roles and self.remainder == "drop":
                continue
            columns[name] = table.column(name)
            kind = columns[name].kind
            if name not in roles and kind in _UNCLEAR:
                unclear.append(f"{name!r} holds {_UNCLEAR[kind]}")
            elif name not in roles:
                roles[name] = _ROLE_OF_KIND[kind]
        if unclear:
            raise ValueError(
                f"The type of a column does not tell what it is: {', '.join(unclear)}; name each such column "
                "in categorical (as ids are), multi_valued or numeric, or leave it out."
            )
        if not columns:
            raise ValueError(
                "The table has no column to encode; give it some, and with remainder='drop' name them in "
                "categorical, multi_valued or numeric."
            )
        for parameter, wanted in (("hash_size", _ROLES[:2]), ("numeric_encoding", _ROLES[2:])):
            given = getattr(self, parameter)
            for name in given if isinstance(given, dict) else ():
                if roles.get(name) not in wanted:
                    raise ValueError(
                        f"The parameter {parameter} names the column {name!r}, expected one that is "
                        f"{' or '.join(wanted)}; correct the name, or change what the column is used for."
                    )
        return columns, roles

    def _named_roles(self, table: Table) -> dict[str, str]:
        roles: dict[str, str] = {}
        for role in _ROLES:
            for name in getattr(self, role) or ():
                if name not in table.names:
                    raise ValueError(
                        f"The parameter {role} names the column {name!r}, but the table has only "
                        f"{reprlib.repr(table.names)}; correct the name, or add the column."
                    )
                if name in roles:
                    raise ValueError(
                        f"The column {name!r} is named in both {roles[name]} and {role}, expected one; "
                        "to use it twice, give the table a copy of it under another name."
                    )
                roles[name] = role
        return roles

    # -- what was learned ----------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_fields")

    def _fitted_fields(self, what: str) -> tuple[Field, ...]:
        if not self.__sklearn_is_fitted__():
            raise not_fitted_error()(
                f"This {type(self).__name__} instance is not fitted yet, so {what} is not available; "
                "call fit first."
            )
        return self._fields

    @property
    def field_names_(self) -> NDArray[Any]:
        """The columns that became fields, an object ndarray of shape (n_fields,)."""
        return _objects([field.name for field in self._fitted_fields("field_names_")])

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """The same, under the name that scikit-learn gives it."""
        return _objects([field.name for field in self._fitted_fields("feature_names_in_")])

    @property
    def fields_(self) -> NDArray[np.int32]:
        """For each feature, the number of its field: an int32 ndarray of shape (n_features,)."""
        widths = [field.width for field in self._fitted_fields("fields_")]
        return np.repeat(np.arange(len(widths), dtype=np.int32), widths)

    @property
    def feature_names_(self) -> NDArray[Any]:
        """A readable name for each feature, an object ndarray of shape (n_features,), made when asked for."""
        fields = self._fitted_fields("feature_names_")
        return _objects([name for field in fields for name in field.feature_names()])

    @property
    def n_features_in_(self) -> int:
        """Number of fields."""
        return len(self._fitted_fields("n_features_in_"))

    @property
    def n_features_out_(self) -> int:
        """Number of features."""
        return sum(field.width for field in self._fitted_fields("n_features_out_"))

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[Any]:
        """`feature_names_`, under the name that scikit-learn gives it.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            If given, they must be `feature_names_in_`.

        Returns
        -------
        object ndarray of shape (n_features,)

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            For other input features.
        """
        names = self.feature_names_
        fitted = self.feature_names_in_.tolist()
        if input_features is not None and np.asarray(input_features, dtype=object).tolist() != fitted:
            raise ValueError(
                f"input_features is {reprlib.repr(input_features)}, expected feature_names_in_, which is "
                f"{reprlib.repr(fitted)}; leave it out."
            )
        return names

    # -- on disk -------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The fitted encoder as JSON can hold it: dicts, lists, strings, finite numbers, booleans and None.

        Returns
        -------
        dict
            From which `from_dict` makes the same encoder.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        fields = self._fitted_fields("to_dict")
        check_params(self)
        return {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "params": {name: _plain(name, value) for name, value in self.get_params().items()},
            "fields": [field.to_dict() for field in fields],
        }

    @classmethod
    def from_dict(cls, state: Any) -> Self:
        """A fitted encoder from what `to_dict` has made of one.

        The state may come from a source that is not trusted: nothing in it is executed, and it costs no more
        memory than it has itself.

        Parameters
        ----------
        state : dict

        Returns
        -------
        FeatureEncoder

        Raises
        ------
        ValueError
            For anything that `to_dict` does not make.
        """
        try:
            return cls._from_dict(state)
        except ValueError as error:
            raise ValueError(
                f"Cannot read a {cls.__name__}: {error}. Expected what to_dict has made of one; save it "
                "again, or upgrade fmfast if a newer one wrote it."
            ) from error

    @classmethod
    def _from_dict(cls, state: Any) -> Self:
        if not isinstance(state, dict):
            raise ValueError(f"it is a {type(state).__name__}")
        for name, expected in (("format", _FORMAT), ("format_version", _FORMAT_VERSION)):
            value = state.get(name)
            if type(value) is not type(expected) or value != expected:
                raise ValueError(f"it has {name} = {reprlib.repr(value)}, where {expected!r} belongs")
        if state.keys() != {"format", "format_version", "params", "fields"}:
            raise ValueError(f"it has the entries {reprlib.repr(sorted(state, key=str))}")
        params, fields = state["params"], state["fields"]
        if not isinstance(params, dict) or not params.keys() <= set(cls._parameter_names()):
            raise ValueError(f"it has the parameters {reprlib.repr(params)}")
        if not isinstance(fields, list) or not fields:
            raise ValueError(f"it has the fields {reprlib.repr(fields)}")
        encoder = cls(**{name: _plain(name, value) for name, value in params.items()})
        check_params(encoder)
        encoder._fields = tuple(map(field_from_dict, fields))
        if len({field.name for field in encoder._fields}) < len(fields):
            raise ValueError("it has several fields of the same name")
        return encoder


def _each(value: Any, name: str, otherwise: Any) -> Any:
    """A parameter that may be one value for all columns, or a dict of them by column."""
    return value.get(name, otherwise) if isinstance(value, dict) else value


def _plain(name: str, value: Any) -> Any:
    """A valid parameter as JSON can hold it, without anything that its owner could change."""
    if name == "dtype" and isinstance(value, type):
        return np.dtype(value).name
    if isinstance(value, (list, tuple)):
        return [_plain("", item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain("", item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value


def _objects(names: list[str]) -> NDArray[Any]:
    return np.array(names, dtype=object)
