"""Any source of rows becomes a data set on disk: text, tables, matrices.

One pass over the source and bounded memory. How the directory is laid out and completed `store` knows, what
the files look like their readers; this module brings them together, and knows nothing of models.
"""

from __future__ import annotations

import os
import reprlib
from contextlib import ExitStack
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, DTypeLike

from fmfast import _batches
from fmfast._reader import TextReader, check_argument
from fmfast.parameters import CONSTRAINTS
from fmfast.store import Dataset, DatasetWriter, open_dataset, replacing_directory
from fmfast.targets import check_regression_target, check_sample_weight
from fmfast.text import check_whole_numbers
from fmfast.validation import SparseRows, check_X


def convert(
    source: Any,
    path: str | os.PathLike[str],
    *,
    y: ArrayLike | str | None = None,
    sample_weight: ArrayLike | str | None = None,
    field: ArrayLike | None = None,
    columns: list[str] | None = None,
    format: str = "auto",
    n_features: int | None = None,
    zero_based: bool | str = "auto",
    dtype: DTypeLike = "float32",
    n_jobs: int | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Write a data set to disk, in one pass over its source and in bounded memory.

    Parameters
    ----------
    source : str, path-like, binary file, sparse matrix or array-like
        A libsvm or libffm file (see `fmfast.text`), a CSV or Parquet file, or a matrix. Of a CSV file the
        first line names the columns, and numbers pass through float64; text may be compressed. Parquet
        needs pyarrow (`pip install fmfast[data]`).
    path : str or path-like
        Name of the new directory, by custom with the ending .fmd.
    y, sample_weight : array-like of shape (n_samples,), or str, optional
        For a matrix, arrays; for CSV and Parquet, names of columns. A libsvm or libffm file has its labels
        itself.
    field : array-like of shape (n_features,), optional
        The field of each column, from 0 on; a libffm file has it itself.
    columns : list of str, optional
        CSV and Parquet: the columns of X, all but y and sample_weight by default. They must be numbers.
    format : {"auto", "libsvm", "libffm", "csv", "parquet"}, default="auto"
        Of a file: by its name (.csv, .csv.gz, .csv.zst, .parquet), else text.
    n_features, zero_based, n_jobs
        For a libsvm or libffm file, see `fmfast.text.load`.
    dtype : {"float32", "float64"}, default="float32"
        Of the values; a value that it rounds to 0 is not stored.
    overwrite : bool, default=False
        Whether a data set of that name is replaced, once the new one is complete. Nothing else ever is.

    Returns
    -------
    Dataset
        What `open_dataset(path)` gives.

    Raises
    ------
    FileExistsError
        If the path exists, unless it is a data set that may be overwritten.
    TextFormatError
        If a line of a libsvm or libffm file cannot be read.
    ValueError, TypeError
        If anything else in the source is not as described.
    OSError
        If the source cannot be read or the data set not written.
    """
    is_valid, expected = CONSTRAINTS["dtype"]
    check_argument("dtype", dtype, is_valid(dtype), expected)
    kinds = ("auto", "libsvm", "libffm", "csv", "parquet")
    check_argument("format", format, format in kinds, f"one of {', '.join(kinds)}")
    kind = _kind_of(source, format)
    unused = {"text": (y, sample_weight, field, columns), "matrix": (columns,)}.get(kind, ())
    if any(value is not None for value in unused):
        raise ValueError(
            f"The source is a {kind}, but one of y, sample_weight, field and columns was given that "
            "belongs to another kind; leave it out."
        )
    with replacing_directory(os.fsdecode(path), overwrite) as directory, ExitStack() as stack:
        writer = stack.enter_context(DatasetWriter(directory, np.dtype(dtype)))
        if kind == "text":
            reader = TextReader(
                source,
                format=format,
                n_features=n_features,
                zero_based=zero_based,
                dtype=dtype,
                n_jobs=n_jobs,
            )
            _write_text(writer, reader)
        elif kind == "matrix":
            _write_matrix(writer, source, y, sample_weight)
        else:
            _write_table(writer, source, kind, y, sample_weight, columns)
        if field is not None:
            writer.append("field", check_whole_numbers(field, writer.n_features, np.int32, "field"))
        writer.finish()
    return open_dataset(path)


def _kind_of(source: Any, format: str) -> str:
    if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
        return "matrix"
    if format in ("csv", "parquet"):
        return format
    name = os.fspath(source).lower() if isinstance(source, (str, os.PathLike)) else ""
    if format == "auto" and name.endswith((".csv", ".csv.gz", ".csv.zst")):
        return "csv"
    return "parquet" if format == "auto" and name.endswith((".parquet", ".pq")) else "text"


def _write_text(writer: DatasetWriter, reader: TextReader) -> None:
    guess = None  # of zero_based; it is seldom wrong for more than a block
    for block in reader:
        guess = reader.zero_based if guess is None else guess
        indices = block.indices if guess else block.indices - 1
        writer.append_rows(block.indptr, indices, block.data)
        for name, values in (("y", block.y), ("qid", block.qid)):
            if reader.has(name):
                writer.append(name, values)
    if guess is not None and guess != reader.zero_based:
        writer.shift_columns(1)  # a 0 came late
    writer.n_features = reader.n_features
    if reader.field is not None:
        writer.append("field", reader.field)


def _write_matrix(writer: DatasetWriter, X: Any, y: Any, sample_weight: Any) -> None:
    rows = _canonical(X, writer.dtype)
    if y is not None:
        writer.append("y", check_regression_target(y, rows.n_samples, dtype=np.float64))
    if sample_weight is not None:
        writer.append("sample_weight", check_sample_weight(sample_weight, rows.n_samples))
    writer.append_rows(rows.indptr, rows.indices, rows.data if len(rows.data) else None)
    writer.n_features = rows.n_features


def _write_table(
    writer: DatasetWriter, source: Any, kind: str, y: Any, sample_weight: Any, columns: list[str] | None
) -> None:
    targets = {
        name: column for name, column in (("y", y), ("sample_weight", sample_weight)) if column is not None
    }

    def choose(names: list[str]) -> list[str]:
        features = (
            [name for name in names if name not in targets.values()] if columns is None else list(columns)
        )
        wanted = [*features, *targets.values()]
        for column in wanted:
            if not isinstance(column, str) or names.count(column) != 1:
                raise ValueError(
                    f"The source has {names.count(column) if isinstance(column, str) else 0} columns named "
                    f"{reprlib.repr(column)}, expected one; it has {reprlib.repr(names)}."
                )
        if not features or len(set(wanted)) < len(wanted):
            raise ValueError(
                f"The columns are {reprlib.repr(wanted)}, expected at least one for X, and none twice; "
                "choose them with columns=[...], y and sample_weight."
            )
        writer.feature_names = features
        writer.n_features = len(features)
        return wanted

    read = _batches.read_csv if kind == "csv" else _batches.read_parquet
    for values in read(source, choose):
        if "sample_weight" in targets:
            check_sample_weight(np.append(values[:, -1], 1.0), len(values) + 1)  # a block may weigh nothing
        for i, name in enumerate(targets, writer.n_features):
            writer.append(name, values[:, i])
        X = values[:, : writer.n_features]
        rows = _canonical(X, writer.dtype, f"X, from row {writer.n_rows} on,")
        writer.append_rows(rows.indptr, rows.indices, rows.data if len(rows.data) else None)


def _canonical(X: Any, dtype: np.dtype, name: str = "X") -> SparseRows:
    """Checked rows with values of just this dtype; those that it rounds to 0 are left out."""
    rows = check_X(X, dtype=dtype, name=name)
    if not len(rows.data) or rows.data.dtype == dtype:
        return rows
    shape = (rows.n_samples, rows.n_features)
    rounded = sp.csr_array((rows.data.astype(dtype), rows.indices, rows.indptr), shape=shape)
    return check_X(rounded, dtype=dtype, name=name)
