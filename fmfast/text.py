"""Rows of numbers in text: the formats of libsvm (also svmlight) and libffm, read and written.

A line is one row:

    [label] [qid:n] index:value index:value ...  # comment          libsvm
    [label] [qid:n] field:index:value ...        # comment          libffm

Blank lines, and lines of a comment only, hold no row. All rows have a label or none has, and so for qid.
Numbers are decimal and finite, `[+-]digits[.digits][e[+-]digits]`, and the nearest number of the dtype is
taken. Indices need no order; duplicates within a row are added up, and zeros are not stored, so that
matrices are as `fit` wants them. Files may be compressed by gzip or zstd, whatever their name.

A file may come from anywhere: reading it takes memory in proportion to its size, whatever it says. This
module knows nothing of models.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse as sp
from numpy.typing import DTypeLike, NDArray

from fmfast import _streams, _text
from fmfast._files import replacing
from fmfast._reader import Block, TextReader, check_argument
from fmfast.exceptions import TextFormatError
from fmfast.parameters import CONSTRAINTS
from fmfast.targets import check_regression_target
from fmfast.validation import SparseRows, check_X, numeric_array

__all__ = ["TextData", "dump", "load"]

_BUFFER_SIZE = 1 << 20


@dataclass(frozen=True)
class TextData:
    """What a text file holds.

    Attributes
    ----------
    X : scipy.sparse.csr_array of shape (n_samples, n_features), float32 or float64
        Columns sorted, no duplicates, no stored zeros.
    y : float64 ndarray of shape (n_samples,), or None
        The labels, None if no line has one.
    qid : int64 ndarray of shape (n_samples,), or None
        The query of each row, None if no line has one.
    field : int32 ndarray of shape (n_features,), or None
        libffm: the field of each column, 0 for columns without an entry. None for libsvm.
    """

    X: sp.csr_array
    y: NDArray[np.float64] | None
    qid: NDArray[np.int64] | None
    field: NDArray[np.int32] | None


def load(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    format: str = "auto",
    n_features: int | None = None,
    zero_based: bool | str = "auto",
    dtype: DTypeLike = "float32",
    n_jobs: int | None = None,
) -> TextData:
    """Read a libsvm, svmlight or libffm file.

    Parameters
    ----------
    source : str, path-like or binary file
        Plain text, or compressed by gzip or zstd (which needs Python 3.14, or the package zstandard). A file
        object is read to its end.
    format : {"auto", "libsvm", "libffm"}, default="auto"
        By default what the first entry looks like.
    n_features : int, optional
        Columns of X; by default as many as the largest index needs. Test data may need those of the training
        data. An index beyond them is an error.
    zero_based : bool or "auto", default="auto"
        Whether the first column has the index 0 or 1; by default 0 if that index occurs in the file, else 1.
        Fields of libffm are taken as they are.
    dtype : {"float32", "float64"}, default="float32"
        Of the values; labels are float64.
    n_jobs : int, optional
        Threads that parse: None is 1, -1 all cores. The result does not depend on it.

    Returns
    -------
    TextData
        With X, y, qid and field.

    Raises
    ------
    TextFormatError
        If a line cannot be read: the message, and its attributes, say where. Nothing is skipped.
    OSError
        If the file cannot be read.
    ModuleNotFoundError
        For zstd without a module that reads it.

    Examples
    --------
    >>> import io
    >>> from fmfast import text
    >>> data = text.load(io.BytesIO(b"1 1:0.5 3:1 # the first row\\n-1 2:1\\n"))
    >>> data.X.toarray().tolist(), data.y.tolist()
    ([[0.5, 0.0, 1.0], [0.0, 1.0, 0.0]], [1.0, -1.0])
    """
    reader = TextReader(
        source, format=format, n_features=n_features, zero_based=zero_based, dtype=dtype, n_jobs=n_jobs
    )
    blocks = list(reader)
    if not blocks:
        raise TextFormatError(f"{reader.name} has no rows, expected one at least; check what wrote it.")
    parts = {name: [getattr(block, name) for block in blocks] for name in Block._fields}
    del blocks
    # One after the other, and the parts let go: not all of it is in memory twice.
    lengths = [np.diff(indptr) for indptr in parts.pop("indptr")]
    indptr = np.append(0, np.cumsum(np.concatenate(lengths)))
    indices = np.concatenate(parts.pop("indices"))
    if not reader.zero_based:
        indices -= 1
    data = np.concatenate(parts.pop("data"))
    y, qid = (np.concatenate(parts[name]) if reader.has(name) else None for name in ("y", "qid"))
    X = sp.csr_array((data, indices, indptr), shape=(len(indptr) - 1, reader.n_features))
    return TextData(X, y, qid, reader.field)


# -- writing --------------------------------------------------------------------------------------


def dump(
    target: str | os.PathLike[str] | BinaryIO,
    X: Any,
    y: Any = None,
    *,
    field: Any = None,
    qid: Any = None,
    zero_based: bool = False,
    dtype: DTypeLike = "float64",
    comment: str | None = None,
) -> None:
    """Write a libsvm file, or with `field` a libffm file.

    Every number is written with the fewest digits from which `load` gets it back to the bit, float32 values
    those of a float32. Without y, qid and entries a row gets an entry of value 0: a blank line is no row.

    Parameters
    ----------
    target : str, path-like or binary file
        A path ending with .gz or .zst is compressed. An existing file is replaced once all is written.
    X : array-like or sparse of shape (n_samples, n_features)
        As for `fit`. The number of features is not written: pass it to `load` if the last columns may
        be empty.
    y : array-like of shape (n_samples,), optional
        Labels, finite numbers.
    field : array-like of shape (n_features,), optional
        The field of each column, from 0 on.
    qid : array-like of shape (n_samples,), optional
        The query of each row, from 0 on.
    zero_based : bool, default=False
        Whether the first column gets index 0 instead of 1. `load` finds out by itself only if the first
        column has an entry.
    dtype : {"float32", "float64"}, default="float64"
        For values that are neither: integers, for example.
    comment : str, optional
        Lines for the top of the file.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described. Nothing is written then.
    OSError
        If the file cannot be written; a path is left as it was.
    """
    is_valid, expected = CONSTRAINTS["dtype"]
    check_argument("dtype", dtype, is_valid(dtype), expected)
    rows = check_X(X, dtype=np.dtype(dtype))
    labels = np.empty(0)
    if y is not None:
        labels = check_regression_target(y, rows.n_samples, dtype=np.float64)
    queries = check_whole_numbers(qid, rows.n_samples, np.int64, "qid")
    fields = check_whole_numbers(field, rows.n_features, np.int32, "field")
    lines = [f"# {line}\n".encode() for line in (comment or "").splitlines()]
    if isinstance(target, (str, os.PathLike)):
        path = os.fsdecode(target)
        with replacing(path) as file, _streams.compressing(file, path) as out:
            _write(out, lines, rows, labels, queries, fields, zero_based)
    else:
        _write(target, lines, rows, labels, queries, fields, zero_based)


def _write(
    out: Any,
    lines: list[bytes],
    rows: SparseRows,
    y: NDArray[np.float64],
    qid: NDArray[np.int64],
    field: NDArray[np.int32],
    zero_based: bool,
) -> None:
    for line in lines:
        out.write(line)
    text = bytearray(_BUFFER_SIZE)
    row = entry = 0
    while row < rows.n_samples:
        n_bytes, row, entry = _text.write(
            y, qid, field, rows.data, rows.indices, rows.indptr, int(not zero_based), row, entry, text
        )
        out.write(text[:n_bytes])


def check_whole_numbers(values: Any, length: int, dtype: DTypeLike, name: str) -> NDArray[Any]:
    """Of shape (length,), or empty for None."""
    if values is None:
        return np.empty(0, dtype=dtype)
    array = numeric_array(values, name)
    limit = np.iinfo(dtype).max - 1  # the largest that is read
    if array.shape != (length,):
        raise ValueError(f"{name} has shape {array.shape}, expected ({length},); check what it belongs to.")
    with np.errstate(invalid="ignore"):
        whole = array.astype(dtype)
    wrong = (whole != array) | (array < 0) | (array > limit)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(f"{name} is {array[i]} at position {i}, expected whole numbers from 0 to {limit}.")
    return whole
