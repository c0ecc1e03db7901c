"""Where the commands get their rows from: text, tables and data sets on disk, whole or block by block.

In text, columns are counted from 1 unless --zero-based says otherwise. They are not guessed here: two files
of one kind, of which only one happens to have an index 0, would not fit each other, and nothing would tell.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fmfast import _batches, store, text
from fmfast._reader import TextReader
from fmfast.cli.options import usage_error
from fmfast.exceptions import TextFormatError

FORMATS = ("libsvm", "libffm", "csv", "parquet", "fmd")

# "auto" is libsvm or libffm, as the first entry tells. The first three may be compressed as well.
_FORMAT_OF_ENDING = {
    ".libsvm": "libsvm", ".svm": "libsvm", ".svmlight": "libsvm", ".txt": "auto",
    ".ffm": "libffm", ".libffm": "libffm",
    ".csv": "csv",
    ".parquet": "parquet", ".pq": "parquet",
    ".fmd": "fmd",
}  # fmt: skip
_BLOCK_ROWS = 1 << 16  # of a data set on disk


@dataclass(frozen=True)
class Data:
    """Rows, and what is known of them.

    Attributes
    ----------
    X : sparse matrix, NamedRows or table of shape (n_samples, n_columns)
        As the estimators take it.
    y : ndarray of shape (n_samples,), or None
    sample_weight : float64 ndarray of shape (n_samples,), or None
    field : int32 ndarray of shape (n_features,), or None
    """

    X: Any
    y: NDArray[Any] | None
    sample_weight: NDArray[Any] | None = None
    field: NDArray[Any] | None = None


class NamedRows:
    """Dense rows whose columns have names: as much of a DataFrame as the estimators need."""

    def __init__(self, values: NDArray[np.float64], columns: list[str]) -> None:
        self.values, self.columns = values, columns
        self.shape = values.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)


@dataclass(frozen=True)
class Source:
    """A file with rows, and how to read it: the options that all commands share."""

    path: str
    format: str
    target: str | None
    sample_weight: str | None
    zero_based: bool
    n_jobs: int | None

    @classmethod
    def of(cls, path: str, args: argparse.Namespace) -> Source:
        format = "fmd" if os.path.isdir(path) else args.format or format_of(path)
        if format not in ("csv", "parquet", "fmd") and (args.target or args.sample_weight):
            raise usage_error(
                f"--target and --sample-weight are for CSV and Parquet files, but {path!r} is none"
            )
        return cls(
            path,
            format,
            args.target,
            args.sample_weight,
            args.zero_based,
            getattr(args, "n_jobs", None),
        )

    @property
    def is_table(self) -> bool:
        return self.format in ("csv", "parquet")

    @property
    def text_options(self) -> dict[str, Any]:
        return {"format": self.format, "zero_based": self.zero_based, "n_jobs": self.n_jobs}


def add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how the data is read")
    group.add_argument("--format", choices=FORMATS, help="of the data (default: by the file's ending)")
    group.add_argument("--target", metavar="COLUMN", help="CSV and Parquet: the column to predict")
    group.add_argument("--sample-weight", metavar="COLUMN", help="CSV and Parquet: the column of weights")
    group.add_argument(
        "--zero-based", action="store_true", help="libsvm and libffm: columns are counted from 0, not from 1"
    )


def format_of(path: str) -> str:
    """By the ending of a name, which may be followed by .gz or .zst."""
    stem, ending = os.path.splitext(path.rstrip("/" + os.sep).lower())
    if ending in (".gz", ".zst"):
        ending = os.path.splitext(stem)[1]
    if ending not in _FORMAT_OF_ENDING:
        raise usage_error(
            f"the ending of {path!r} does not tell its format, expected one of "
            f"{', '.join(_FORMAT_OF_ENDING)}; give --format"
        )
    return _FORMAT_OF_ENDING[ending]


# -- whole ------------------------------------------------------------------------------------------


def read(
    source: Source,
    dtype: str,
    n_features: int | None = None,
    columns: list[str] | None = None,
    encoder: Any = None,
) -> Data:
    """All rows of a source, with labels.

    Parameters
    ----------
    n_features : int or None
        How many columns text or a data set has.
    columns : list of str or None
        Those of a table that make X; None takes all.
    encoder : FeatureEncoder or None
        The rows of a table are left to it; it need not be fitted.
    """
    if source.format == "fmd":
        return _mapped(source.path, n_features)
    if not source.is_table:
        with in_words_of_the_command("give a larger --n-features"):
            rows = text.load(source.path, n_features=n_features, dtype=dtype, **source.text_options)
        return Data(rows.X, rows.y, field=rows.field)
    _check_target(source)
    if encoder is not None:
        return _arrow_table(source, encoder)
    with in_words_of_the_command(""):
        blocks = list(_table_blocks(source, columns, with_labels=True))
    values = np.concatenate([block.X.values for block in blocks])
    parts: list[Any] = [np.concatenate([getattr(block, name) for block in blocks])
                        if getattr(blocks[0], name) is not None else None
                        for name in ("y", "sample_weight")]  # fmt: skip
    return Data(NamedRows(values, blocks[0].X.columns), *parts)


def _mapped(path: str, n_features: int | None) -> Data:
    data = store.open_dataset(path)
    X = data.X if n_features is None else _widened(data.X, n_features)
    return Data(X, data.y, data.sample_weight, data.field)


def _widened(X: sp.csr_array, n_features: int) -> sp.csr_array:
    """The same arrays with further columns, which are empty; too many columns stay for the estimator."""
    if X.shape[1] >= n_features:
        return X
    wide = sp.csr_array((X.shape[0], n_features), dtype=X.dtype)
    # Set, not passed to the constructor: that would copy indices to the width of indptr.
    wide.indptr, wide.indices, wide.data = X.indptr, X.indices, X.data
    return wide


# -- block by block ---------------------------------------------------------------------------------


def blocks(source: Source, machine: Any, *, with_labels: bool) -> Iterator[Data]:
    """The rows as a fitted estimator takes them, in bounded memory; a table for its encoder comes whole."""
    model = machine.model_
    if source.format == "fmd":
        yield from _mapped_blocks(_mapped(source.path, model.n_features), with_labels, source.path)
    elif source.is_table:
        if with_labels:
            _check_target(source)
        if model.encoder is not None:
            yield _arrow_table(source, model.encoder, with_labels)
        else:
            names = None if model.feature_names is None else model.feature_names.tolist()
            yield from _table_blocks(source, names, with_labels=with_labels)
    else:
        yield from _text_blocks(source, model, with_labels)


def _mapped_blocks(data: Data, with_labels: bool, path: str) -> Iterator[Data]:
    X, weight = data.X, data.sample_weight
    if with_labels and data.y is None:
        raise _no_labels(path)
    for start in range(0, X.shape[0], _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, X.shape[0]))
        entries = slice(X.indptr[rows.start], X.indptr[rows.stop])
        part = sp.csr_array((rows.stop - start, X.shape[1]), dtype=X.dtype)
        part.indptr = X.indptr[start : rows.stop + 1] - X.indptr[start]
        part.indices, part.data = X.indices[entries], X.data[entries]
        y = data.y[rows] if with_labels and data.y is not None else None
        yield Data(part, y, None if weight is None else weight[rows])


def _text_blocks(source: Source, model: Any, with_labels: bool) -> Iterator[Data]:
    reader = TextReader(
        source.path, n_features=model.n_features, dtype=model.dtype.name, **source.text_options
    )
    advice = "leave out columns that the model does not have, or train it with a larger --n-features"
    n_rows = 0
    with in_words_of_the_command(advice):
        for block in reader:
            if with_labels and not reader.has("y"):
                raise _no_labels(source.path)
            indices = block.indices if source.zero_based else block.indices - 1
            shape = (len(block.indptr) - 1, model.n_features)
            n_rows += shape[0]
            X = sp.csr_array((block.data, indices, block.indptr), shape=shape)
            yield Data(X, block.y if with_labels else None)
    if not n_rows:
        raise TextFormatError(f"{reader.name} has no rows, expected one at least; check what wrote it.")


@contextmanager
def in_words_of_the_command(wider: str) -> Iterator[None]:
    """What readers advise to do in Python, said as a command does it."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        for python, command in (
            ("pass a larger n_features", wider),
            ("pass zero_based=True", "give --zero-based"),
            ("encode the column as numbers, or choose others with columns=[...]", _ENCODE),
        ):
            message = message.replace(python, command)
        error.args = (message,)
        raise


_ENCODE = "name it in --categorical, --multi-valued or --numeric when training, or leave it out"


# -- tables -----------------------------------------------------------------------------------------


def _table_blocks(source: Source, names: list[str] | None, *, with_labels: bool) -> Iterator[Data]:
    """Numbers with their names, or plain numbers if the names to look for are not known."""
    features: list[str] = []
    extra = [source.target] if with_labels else []
    if with_labels and source.sample_weight is not None:
        extra.append(source.sample_weight)
    choose = _chooser(source, names, extra, features)
    reader = _batches.read_csv if source.format == "csv" else _batches.read_parquet
    is_new = with_labels and names is None
    n_rows = 0
    for values in reader(source.path, choose):
        n_rows += len(values)
        n = len(features)
        X = NamedRows(values[:, :n], features) if names is not None or is_new else values[:, :n]
        y = values[:, n] if with_labels else None
        yield Data(X, y, values[:, n + 1] if len(extra) > 1 else None)
    if not n_rows:
        raise ValueError(f"{source.path!r} has no rows, expected one at least; check what wrote it.")


def _chooser(
    source: Source, names: list[str] | None, extra: list[Any], features: list[str]
) -> Callable[[list[str]], list[str]]:
    """From the columns of a table to those that are wanted; the ones of X are put in `features`."""

    def choose(found: list[str]) -> list[str]:
        others = (source.target, source.sample_weight)
        features[:] = [name for name in found if name not in others] if names is None else names
        for name in (*features, *extra):
            if found.count(name) != 1:
                raise _wrong_column(source, name, found)
        if not features:
            raise ValueError(f"{source.path!r} has no column for X, expected one at least; add some.")
        return [*features, *extra]

    return choose


def _wrong_column(source: Source, name: str, found: list[str]) -> ValueError:
    shown = ", ".join(map(repr, found[:10])) + (", ..." if len(found) > 10 else "")
    return ValueError(
        f"{source.path!r} has {found.count(name)} columns named {name!r}, expected one; it has {shown}."
    )


def _arrow_table(source: Source, encoder: Any, with_labels: bool = True) -> Data:
    """The table as an encoder takes it; categories are text, whatever they look like in this file."""
    try:
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Tables of categories need the package pyarrow; install it with pip install fmfast[data]."
        ) from error
    try:
        if source.format == "parquet":
            table = pyarrow.parquet.read_table(source.path)
        else:
            categories = [*(encoder.categorical or ()), *(encoder.multi_valued or ())]
            options = pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in categories},
                null_values=[""],
                strings_can_be_null=True,
            )
            table = pyarrow.csv.read_csv(source.path, convert_options=options)
    except pa.ArrowException as error:
        raise ValueError(f"{source.path!r} cannot be read: {error}; check what wrote it.") from error
    found = table.column_names
    taken: dict[str, NDArray[Any]] = {}
    for name in (source.target, source.sample_weight):
        if name is None or (not with_labels and name not in found):
            continue
        if found.count(name) != 1:
            raise _wrong_column(source, name, found)
        taken[name] = np.asarray(table.column(name).to_pylist())
    X = table.drop_columns(list(taken))
    if not with_labels:
        return Data(X, None)
    weight = None if source.sample_weight is None else taken[source.sample_weight]
    return Data(X, taken[source.target or ""], weight)


def _check_target(source: Source) -> None:
    if source.target is None:
        raise usage_error(f"{source.path!r} is a table; give the column to predict with --target")


def _no_labels(path: str) -> ValueError:
    return ValueError(f"{path!r} has no labels, expected one for each row; give data whose truth is known.")


# -- labels -----------------------------------------------------------------------------------------


def require_labels(data: Data, path: str) -> NDArray[Any]:
    if data.y is None:
        raise _no_labels(path)
    return data.y


def as_written(labels: NDArray[Any]) -> NDArray[Any]:
    """Class labels for people to read: 1, not 1.0, which all labels in text are to the estimators."""
    is_whole = labels.dtype.kind == "f" and bool((np.abs(labels) < 2**53).all())
    return labels.astype(np.int64) if is_whole else labels
