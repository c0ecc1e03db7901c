"""Columns read as what fields are made of: categories, each distinct one once, or numbers.

All work is on distinct values or on whole arrays, never row by row in Python. This module knows one column at
a time, and neither the library that it came from nor what is learned from it.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast.encoder.dataframes import Coded, Column, Lists
from fmfast.validation import refuse_number


@dataclass(frozen=True)
class Items:
    """The categories of a column, each distinct one held once, as text.

    Attributes
    ----------
    codes : integer ndarray of shape (n_items,)
        Positions in `texts`, row after row.
    texts : list of str or None
        Distinct; None is the missing value. Some may never occur.
    row_counts : integer ndarray of shape (n_rows,) or None
        How many items each row has; None: one in each.
    """

    codes: NDArray[np.intp]
    texts: list[str | None]
    row_counts: NDArray[np.intp] | None = None


def items_of(column: Column, name: str, multi_valued: bool, separator: str | None) -> Items:
    """The categories of a column: ValueError for lists where one value belongs."""
    if isinstance(column, Lists):
        if not multi_valued:
            raise ValueError(
                f"Column {name!r} holds lists, expected one category in each row; name it in multi_valued."
            )
        items = _texts_of(column.items.coded())
        return _with_missing_rows(items, column.counts, column.missing)
    items = _texts_of(column.coded())
    return _split(items, separator) if multi_valued and separator else items


def numbers_of(column: Column, name: str) -> NDArray[np.float64]:
    """The numbers of a column, NaN where missing: ValueError for what is no finite number."""
    found = ""
    if isinstance(column, Lists):
        found = "lists"
    elif isinstance(column, Coded) and any(isinstance(value, str) for value in column.values):
        text = next(value for value in column.values if isinstance(value, str))
        found = f"text such as {reprlib.repr(text)}"
    if isinstance(column, Lists) or found:
        raise ValueError(
            f"Column {name!r} holds {found}, expected numbers; convert it, or name it in categorical or "
            "multi_valued."
        )
    try:
        values = column.numbers()
    except OverflowError as error:
        raise ValueError(
            f"Column {name!r} holds an integer beyond the range of floats, expected numbers within it; name "
            "it in categorical if it is an id."
        ) from error
    infinite = np.isinf(values)
    if infinite.any():
        row = int(infinite.argmax())
        refuse_number(values[row], f"column {name!r}", f"in row {row}", math.inf)
    return values


def text_of(value: Any) -> str:
    """What a category is called, whatever type it came in: 42, 42.0 and "42" are the same."""
    if isinstance(value, (float, np.floating)):
        return repr(float(value) + 0.0).removesuffix(".0")  # -0.0 + 0.0 is 0.0
    return str(value)


def _texts_of(column: Coded) -> Items:
    texts = [*map(text_of, column.values), None]
    return _merged(np.where(column.codes < 0, len(texts) - 1, column.codes), texts)


def _merged(codes: NDArray[Any], texts: list[str | None]) -> Items:
    """Items from texts of which several may be the same."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    if len(places) < len(texts):
        codes = lookup(places.__getitem__, texts)[codes]
    return Items(codes, list(places))


def lookup(place_of: Callable[[Any], int], texts: list[str | None]) -> NDArray[np.intp]:
    return np.fromiter(map(place_of, texts), np.intp, len(texts))


def _with_missing_rows(items: Items, counts: NDArray[Any], missing: NDArray[np.bool_]) -> Items:
    """Items of lists, with one missing value in each row that has no list."""
    row_counts = counts + missing
    codes = np.full(row_counts.sum(), items.texts.index(None))
    codes[np.repeat(~missing, row_counts)] = items.codes
    return Items(codes, items.texts, row_counts)


def _split(items: Items, separator: str) -> Items:
    """Items of strings that hold several, without the spaces around them; empty ones are none."""
    parts: list[list[str | None]] = [
        [None] if text is None else [part for part in map(str.strip, text.split(separator)) if part]
        for text in items.texts
    ]
    sizes = np.fromiter(map(len, parts), np.intp, len(parts))
    merged = _merged(np.arange(sizes.sum()), [*chain.from_iterable(parts)])
    row_counts = sizes[items.codes]
    starts = (np.cumsum(sizes) - sizes)[items.codes]
    texts = merged.texts if None in merged.texts else [*merged.texts, None]
    return Items(merged.codes[ragged_positions(starts, row_counts)], texts, row_counts)


def ragged_positions(starts: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.intp]:
    """start, start + 1, ..., start + count - 1 for each row, one row after the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
