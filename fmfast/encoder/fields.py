"""Fields: what one column of a table becomes in the rows of a factorization machine.

A field is fitted to one column and owns a range of features, counted from 0 here; `rows_of` puts the ranges
side by side. `Vocabulary` and `Hashed` take categories, alone or several in a row; `Scaled` and `Binned` take
numbers. A field is plain data: `to_dict` gives it for a file, `field_from_dict` takes nothing else. This
module knows neither tables nor who decided what a column is used for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fmfast.encoder.dataframes import Column
from fmfast.encoder.values import Items, items_of, lookup, numbers_of, ragged_positions, text_of
from fmfast.validation import refuse_number

MAX_HASH_SIZE = 2**31 - 1


@dataclass(frozen=True)
class Entries:
    """What one field puts into the rows of a sparse matrix.

    Attributes
    ----------
    indices : integer ndarray of shape (nnz,)
        Features, counted from the first of the field; ascending and distinct within a row.
    data : float ndarray of shape (nnz,)
        Finite, not 0.
    row_counts : integer ndarray of shape (n_rows,) or None
        How many entries each row has; None: one in each.
    """

    indices: NDArray[np.intp]
    data: NDArray[Any]
    row_counts: NDArray[np.intp] | None = None


# -- fields -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field(ABC):
    """One column of a table, and the features that it becomes.

    Attributes
    ----------
    name : str
        Of the column.
    """

    name: str

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of features."""

    @abstractmethod
    def feature_names(self) -> list[str]:
        """One readable name for each feature."""

    @abstractmethod
    def values_of(self, column: Column) -> Any:
        """The column read as `encode` takes it."""

    @abstractmethod
    def encode(self, values: Any, dtype: np.dtype) -> Entries:
        """Entries of the rows that `values_of` has read."""

    def to_dict(self) -> dict[str, Any]:
        """All of the field as JSON can hold it."""
        entries = {entry.name: copy(getattr(self, entry.name)) for entry in dataclasses.fields(self)}
        return {"kind": type(self).__name__.lower(), **entries}


@dataclass(frozen=True)
class _Categories(Field):
    """What fields of categories share.

    Attributes
    ----------
    multi_valued : bool
        Whether a row may have any number of them.
    separator : str or None
        What stands between them in a string.
    normalize : bool
        Whether the entries of a row add up to 1.
    """

    multi_valued: bool
    separator: str | None
    normalize: bool

    @abstractmethod
    def _features_of(self, texts: list[str | None]) -> NDArray[np.intp]:
        """The feature of each category."""

    def values_of(self, column: Column) -> Items:
        return items_of(column, self.name, self.multi_valued, self.separator)

    def encode(self, values: Items, dtype: np.dtype) -> Entries:
        indices = self._features_of(values.texts)[values.codes]
        if values.row_counts is None:
            return Entries(indices, np.ones(len(indices), dtype))
        indptr = np.append(0, np.cumsum(values.row_counts))
        counts = sp.csr_array((np.ones(len(indices)), indices, indptr), shape=(len(indptr) - 1, self.width))
        counts.sum_duplicates()
        row_counts = np.diff(counts.indptr).astype(np.intp)
        data = counts.data
        if self.normalize:
            data = data / np.repeat(values.row_counts, row_counts)
        return Entries(counts.indices, data.astype(dtype), row_counts)


@dataclass(frozen=True)
class Vocabulary(_Categories):
    """Categories that are known; one more feature catches all others.

    Attributes
    ----------
    values : list of str
        The known categories, in the order of `text_order`.
    has_missing : bool
        Whether the missing value has a feature of its own, after those.
    """

    values: list[str]
    has_missing: bool

    @classmethod
    def fit(cls, items: Items, min_count: int, **settings: Any) -> Self:
        """Know what occurs at least `min_count` times; `settings` are those of all fields of categories."""
        counts = np.bincount(items.codes, minlength=len(items.texts))
        frequent = {items.texts[place] for place in np.flatnonzero(counts >= min_count)}
        values = sorted((text for text in frequent if text is not None), key=text_order)
        return cls(**settings, values=values, has_missing=None in frequent)

    @property
    def width(self) -> int:
        return len(self.values) + self.has_missing + 1

    def feature_names(self) -> list[str]:
        special = ["<missing>", "<rare>"] if self.has_missing else ["<rare>"]
        return [f"{self.name}={value}" for value in chain(self.values, special)]

    @cached_property
    def _places(self) -> dict[str | None, int]:
        values: Iterable[str | None] = [*self.values, None] if self.has_missing else self.values
        return {value: place for place, value in enumerate(values)}

    def _features_of(self, texts: list[str | None]) -> NDArray[np.intp]:
        places, rare = self._places, self.width - 1
        return lookup(lambda text: places.get(text, rare), texts)


def text_order(text: str) -> tuple[bool, int, str]:
    """Key of a category among others: numbers come first, by size (if without leading zeros)."""
    is_number = text.isdecimal()
    return not is_number, len(text) if is_number else 0, text


@dataclass(frozen=True)
class Hashed(_Categories):
    """Categories spread over a fixed number of features, without a vocabulary.

    The feature of a category is the BLAKE2b hash of 8 bytes of its text in UTF-8, as a little-endian integer,
    modulo `size`: the same everywhere and always. The missing value is hashed as the byte 0xff, which occurs
    in no text.
    """

    size: int

    @property
    def width(self) -> int:
        return self.size

    def feature_names(self) -> list[str]:
        return [f"{self.name}=<hash {place}>" for place in range(self.size)]

    def _features_of(self, texts: list[str | None]) -> NDArray[np.intp]:
        return lookup(self._feature_of, texts)

    def _feature_of(self, text: str | None) -> int:
        content = b"\xff" if text is None else text.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(content, digest_size=8, usedforsecurity=False).digest()
        return int.from_bytes(digest, "little") % self.size


@dataclass(frozen=True)
class _Numbers(Field):
    """What fields of numbers share.

    Attributes
    ----------
    has_missing : bool
        Whether missing values have a feature of their own, the last; otherwise they leave no entry.
    """

    has_missing: bool

    def values_of(self, column: Column) -> NDArray[np.float64]:
        return numbers_of(column, self.name)

    def _missing_name(self) -> list[str]:
        return [f"{self.name}=<missing>"] if self.has_missing else []


@dataclass(frozen=True)
class Scaled(_Numbers):
    """A number as (x - mean) / scale; with mean 0 and scale 1 as it is."""

    mean: float
    scale: float

    @classmethod
    def fit(cls, name: str, values: NDArray[np.float64], passthrough: bool) -> Self:
        """Mean and standard deviation of the values, so that those of the feature are 0 and 1."""
        missing = np.isnan(values)
        known = values[~missing]
        if passthrough or not len(known):
            mean, scale = 0.0, 1.0
        elif known.min() == known.max():  # rounding could give another mean, and a deviation above 0
            mean, scale = float(known[0]), 1.0
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                mean, scale = float(known.mean()), float(known.std())
            if not (math.isfinite(mean) and math.isfinite(scale) and scale > 0):
                raise ValueError(
                    f"Column {name!r} has the mean {mean:g} and the standard deviation {scale:g}, expected "
                    "finite ones above 0; rescale it, or use another numeric_encoding."
                )
        return cls(name, bool(missing.any()), mean, scale)

    @property
    def width(self) -> int:
        return 1 + self.has_missing

    def feature_names(self) -> list[str]:
        return [self.name, *self._missing_name()]

    def encode(self, values: NDArray[np.float64], dtype: np.dtype) -> Entries:
        missing = np.isnan(values)
        with np.errstate(over="ignore"):
            data = ((values - self.mean) / self.scale).astype(dtype)
        if np.isinf(data).any():
            row = int(np.isinf(data).argmax())
            limit = float(np.finfo(dtype).max)
            refuse_number(values[row], f"column {self.name!r}", f"in row {row}", limit)
        data[missing] = 1 if self.has_missing else 0
        return _where(data != 0, missing.astype(np.intp), data)


@dataclass(frozen=True)
class Binned(_Numbers):
    """A number as one feature for the interval in which it lies.

    Attributes
    ----------
    edges : list of float
        Ascending; an edge belongs to the interval above it. The outer intervals have no end.
    """

    edges: list[float]

    @classmethod
    def fit(cls, name: str, values: NDArray[np.float64], n_bins: int) -> Self:
        """About as many values in each interval; fewer intervals if values repeat."""
        missing = np.isnan(values)
        known = values[~missing]
        edges = np.empty(0)
        if len(known):
            # Edges are values that occur: readable, and no arithmetic that could overflow.
            edges = np.quantile(known, np.arange(1, n_bins) / n_bins, method="higher") + 0.0
            edges = np.unique(edges[edges > known.min()])  # no interval below the smallest value
        return cls(name, bool(missing.any()), edges.tolist())

    @property
    def width(self) -> int:
        return len(self.edges) + 1 + self.has_missing

    def feature_names(self) -> list[str]:
        bounds = pairwise(map(text_of, [-math.inf, *self.edges, math.inf]))
        return [f"{self.name} in [{low}, {high})" for low, high in bounds] + self._missing_name()

    def encode(self, values: NDArray[np.float64], dtype: np.dtype) -> Entries:
        missing = np.isnan(values)
        indices = np.searchsorted(self.edges, values, side="right")
        indices[missing] = len(self.edges) + 1
        kept = np.ones(len(values), dtype=bool) if self.has_missing else ~missing
        return _where(kept, indices, np.ones(len(values), dtype))


def _where(kept: NDArray[np.bool_], indices: NDArray[np.intp], data: NDArray[Any]) -> Entries:
    """Entries of rows that have one or none."""
    if kept.all():
        return Entries(indices, data)
    return Entries(indices[kept], data[kept], kept.astype(np.intp))


# -- rows ----------------------------------------------------------------------------------------


def rows_of(fields: Sequence[Field], values: Sequence[Any], n_rows: int, dtype: np.dtype) -> sp.csr_array:
    """The entries of all fields side by side, in canonical CSR."""
    parts = [field.encode(read, dtype) for field, read in zip(fields, values, strict=True)]
    row_counts = np.zeros(n_rows, dtype=np.int64)
    for part in parts:
        row_counts += 1 if part.row_counts is None else part.row_counts
    indptr = np.append(0, np.cumsum(row_counts))
    *offsets, n_features = accumulate((field.width for field in fields), initial=0)
    index_dtype = np.int32 if max(indptr[-1], n_features) < 2**31 else np.int64
    indices, data = np.empty(indptr[-1], index_dtype), np.empty(indptr[-1], dtype)
    starts = indptr[:-1]
    for part, offset in zip(parts, offsets, strict=True):
        places = starts if part.row_counts is None else ragged_positions(starts, part.row_counts)
        indices[places] = part.indices + offset
        data[places] = part.data
        starts = starts + (1 if part.row_counts is None else part.row_counts)
    rows = sp.csr_array((data, indices, indptr.astype(index_dtype)), shape=(n_rows, n_features))
    rows.has_canonical_format = True  # fields follow each other, and each is sorted
    return rows


# -- from files ---------------------------------------------------------------------------------


def _is_vocabulary(values: Any) -> bool:
    return (
        isinstance(values, list)
        and all(isinstance(value, str) for value in values)
        and all(a < b for a, b in pairwise(map(text_order, values)))
    )


def _is_float(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _is_edges(values: Any) -> bool:
    return (
        isinstance(values, list) and all(map(_is_float, values)) and all(a < b for a, b in pairwise(values))
    )


_IS_BOOL: tuple[Callable[[Any], bool], str] = (lambda v: isinstance(v, bool), "true or false")

# One line per entry of a field in a file: what makes a value valid, and how to say so.
_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda v: isinstance(v, str), "the name of a column"),
    "multi_valued": _IS_BOOL,
    "separator": (lambda v: v is None or (isinstance(v, str) and v != ""), "null or a string"),
    "normalize": _IS_BOOL,
    "values": (_is_vocabulary, "a sorted list of distinct strings"),
    "has_missing": _IS_BOOL,
    "size": (lambda v: type(v) is int and 1 <= v <= MAX_HASH_SIZE, f"an integer from 1 to {MAX_HASH_SIZE}"),
    "mean": (_is_float, "a finite number"),
    "scale": (lambda v: _is_float(v) and v > 0, "a finite number > 0"),
    "edges": (_is_edges, "an ascending list of finite numbers"),
}
_KINDS: dict[str, type[Field]] = {cls.__name__.lower(): cls for cls in (Vocabulary, Hashed, Scaled, Binned)}


def field_from_dict(entries: Any) -> Field:
    """A field from what `to_dict` made of it; ValueError for anything else."""
    kind = entries.get("kind") if isinstance(entries, dict) else None
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ValueError(
            f"a field has the kind {reprlib.repr(kind)}, where one of {', '.join(_KINDS)} belongs"
        )
    names = [entry.name for entry in dataclasses.fields(cls)]
    if entries.keys() != {"kind", *names}:
        found = reprlib.repr(sorted(entries, key=str))
        raise ValueError(f"a field has the entries {found}, where {sorted(['kind', *names])} belong")
    for name in names:
        is_valid, expected = _ENTRIES[name]
        if not is_valid(entries[name]):
            raise ValueError(f"a field has {name} = {reprlib.repr(entries[name])}, where {expected} belongs")
    return cls(**{name: copy(entries[name]) for name in names})
