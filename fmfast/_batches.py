"""Tables of numbers, CSV or Parquet, as dense blocks of rows in bounded memory.

The first line of a CSV file names its columns; it is UTF-8, separated by commas, and may be compressed.
Which columns are wanted is for the caller to choose; all of these must be numbers, without gaps. This
module knows nothing of what becomes of them.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast import _streams

_BLOCK_CELLS = 1 << 18  # numbers, or texts, in memory at a time
_READ_SIZE = 1 << 16
_CARRIAGE_RETURN = re.compile(r"\r$", re.MULTILINE)

# From the names of all columns to those that are wanted, in their order.
Choose = Callable[[list[str]], list[str]]


def read_csv(source: Any, choose: Choose) -> Iterator[NDArray[np.float64]]:
    """Blocks of shape (n_rows, n_wanted); blank lines are no rows."""
    name = _streams.name_of(source)
    with _streams.opened(source) as file:
        lines = _lines(file, name)
        names = next(csv.reader(islice(lines, 1)), [])
        wanted = choose(names)
        columns = [names.index(column) for column in wanted]
        first_line = 2
        while block := list(islice(lines, max(1, _BLOCK_CELLS // len(names)))):
            if any(line.strip() for line in block):  # of nothing, NumPy warns
                yield _csv_block(block, columns, names, f"{name}, line", first_line)
            first_line += len(block)


def _csv_block(
    lines: list[str], columns: list[int], names: list[str], where: str, first_line: int
) -> NDArray[np.float64]:
    n_commas = len(names) - 1
    try:
        values = np.loadtxt(lines, delimiter=",", usecols=columns, ndmin=2, comments=None, quotechar='"')
    except ValueError:
        values = np.full((1, 1), np.nan)
    if np.isfinite(values).all() and all(
        line.count(",") == n_commas or '"' in line or not line.strip() for line in lines
    ):
        return values
    # Something is wrong: read it again, slowly, to find where.
    for i, line in enumerate(lines, first_line):
        cells = next(csv.reader([line]), [])
        if not cells:
            continue
        if len(cells) != len(names):
            raise ValueError(
                f"{where} {i} has {len(cells)} cells, expected {len(names)} as in the first line; mend it."
            )
        for column in columns:
            if not _is_number(cells[column]):
                raise ValueError(
                    f"{where} {i}, column {names[column]!r}: {cells[column][:40]!r}, expected a finite "
                    "number; encode the column as numbers, or choose others with columns=[...]."
                )
    raise ValueError(f"{where} {first_line} or one of the next {len(lines)} is not CSV; mend it.")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def _lines(file: Any, name: str) -> Iterator[str]:
    """Lines of UTF-8, a byte order mark left out; other bytes become characters that are no digits."""
    parts = [file.read(3).removeprefix(b"\xef\xbb\xbf")]
    while True:
        try:
            read = file.read(_READ_SIZE)
        except _streams.DAMAGE as error:
            raise ValueError(f"{name} is damaged: {error}; copy it again.") from error
        end = read.rfind(b"\n") + 1
        if read and not end:
            parts.append(read)
            continue
        whole = b"".join([*parts, read[:end]])
        parts = [read[end:]]
        yield from _CARRIAGE_RETURN.sub("", whole.decode(errors="replace")).removesuffix("\n").split("\n")
        if not read:
            return


def read_parquet(source: Any, choose: Choose) -> Iterator[NDArray[np.float64]]:
    """Blocks of shape (n_rows, n_wanted)."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Parquet needs the package pyarrow; install it with pip install fmfast[data]."
        ) from error
    name = _streams.name_of(source)
    try:
        with pq.ParquetFile(os.fspath(source) if isinstance(source, os.PathLike) else source) as file:
            schema = file.schema_arrow
            wanted = choose(schema.names)
            for column in wanted:
                kind = schema.field(column).type
                if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                    raise ValueError(
                        f"{name}, column {column!r}: {kind}, expected numbers; encode the column as numbers, "
                        "or choose others with columns=[...]."
                    )
            n_rows = 0
            for batch in file.iter_batches(max(1, _BLOCK_CELLS // len(wanted)), columns=wanted):
                values = np.empty((len(batch), len(wanted)))
                for i, column in enumerate(wanted):
                    values[:, i] = batch.column(column).to_numpy(zero_copy_only=False)  # a gap becomes NaN
                good = np.isfinite(values)
                if not good.all():
                    row, i = (int(position) for position in np.argwhere(~good)[0])
                    raise ValueError(
                        f"{name}, row {n_rows + row}, column {wanted[i]!r}: {values[row, i]}, expected a "
                        "finite number; fill it up, or choose other columns with columns=[...]."
                    )
                n_rows += len(batch)
                yield values
    except pa.ArrowException as error:
        raise ValueError(f"{name} is no Parquet file that can be read ({error}); write it again.") from error
