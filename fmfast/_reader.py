"""Text of libsvm or libffm to blocks of rows: one pass, bounded memory, several threads.

The formats stand in `text`. What is wrong with a line is said here, with its place; how lines are parsed
only the kernel knows. Nothing is kept of a block once it is yielded, but for the field of each column.
"""

from __future__ import annotations

import re
import reprlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmfast import _streams, _text
from fmfast.config import thread_count
from fmfast.exceptions import TextFormatError
from fmfast.parameters import CONSTRAINTS

CHUNK_SIZE = 1 << 20  # bytes of text that are parsed at a time, by each thread
_MAX_COLUMN = 2**63 - 2
_FREE_FIELD_COLUMNS = 1 << 24  # columns that a libffm file may name, whatever its size
_FINDINGS = {code: name for name, code in _text.FINDINGS.items()}

_A = TypeVar("_A")
_B = TypeVar("_B")


class Block(NamedTuple):
    """Consecutive rows as `TextReader` yields them, canonical but for columns counted as in the file."""

    data: NDArray[Any]
    indices: NDArray[Any]  # int32, or int64 where the block needs it
    indptr: NDArray[np.int64]
    y: NDArray[np.float64]  # empty without labels
    qid: NDArray[np.int64]  # empty without queries


class _Layout(NamedTuple):
    """What the lines of a file look like."""

    has_label: bool
    has_qid: bool
    has_field: bool


class _Piece(NamedTuple):
    """A block with what the reader needs to go on."""

    block: Block
    field: NDArray[np.int32]
    text: bytes
    n_lines: int
    smallest: int
    largest: int
    largest_at: int
    finding: str
    position: int


class TextReader:
    """Iterates once over the blocks of a text file, in bounded memory. Parameters as those of `load`.

    Attributes
    ----------
    zero_based : bool
        So far; like the next two it is known for sure at the end.
    n_features : int
    field : int32 ndarray of shape (n_features,), or None
    """

    def __init__(
        self,
        source: Any,
        *,
        format: str = "auto",
        n_features: int | None = None,
        zero_based: bool | str = "auto",
        dtype: DTypeLike = "float32",
        n_jobs: int | None = None,
        chunk_size: int = CHUNK_SIZE,
    ) -> None:
        check_argument(
            "format", format, format in ("auto", "libsvm", "libffm"), '"auto", "libsvm" or "libffm"'
        )
        check_argument(
            "zero_based",
            zero_based,
            isinstance(zero_based, bool) or zero_based == "auto",
            'True, False or "auto"',
        )
        is_count = n_features is None or (
            isinstance(n_features, (int, np.integer)) and 0 < n_features <= _MAX_COLUMN
        )
        check_argument("n_features", n_features, is_count, "None or an integer from 1 to 2^63 - 2")
        for name, value in (("dtype", dtype), ("n_jobs", n_jobs)):
            is_valid, expected = CONSTRAINTS[name]
            check_argument(name, value, is_valid(value), expected)
        self.name = _streams.name_of(source)
        self._source = source
        self._format = format
        self._wanted = None if n_features is None else int(n_features)
        self._base = zero_based
        self._dtype = np.dtype(dtype)
        self._n_threads = thread_count(n_jobs)
        self._chunk_size = chunk_size
        self._layout: _Layout | None = None
        self._smallest, self._largest = _MAX_COLUMN, -1
        self._largest_line = 0
        self._n_entries = 0
        self._n_lines = 0
        self._field_of = np.zeros(0, dtype=np.int32)  # field + 1, by columns as in the file; 0: none so far

    @property
    def zero_based(self) -> bool:
        return self._smallest == 0 if self._base == "auto" else bool(self._base)

    @property
    def n_features(self) -> int:
        if self._wanted is not None:
            return self._wanted
        return self._largest + self.zero_based if self._largest >= 0 else 0

    @property
    def field(self) -> NDArray[np.int32] | None:
        if self._layout is None or not self._layout.has_field:
            return None
        first = not self.zero_based
        field = np.zeros(self.n_features, dtype=np.int32)
        known = self._field_of[first : first + self.n_features]
        np.maximum(known - 1, 0, out=field[: len(known)])
        return field

    def has(self, name: str) -> bool:
        """Whether the rows have "y" or "qid"."""
        layout = self._layout
        return layout is not None and (layout.has_label if name == "y" else layout.has_qid)

    def __iter__(self) -> Iterator[Block]:
        with _streams.opened(self._source) as file:
            for piece in _in_order(self._parse, self._chunks(file), self._n_threads):
                self._take(piece)
                if len(piece.block.indptr) > 1:
                    yield piece.block
        if self._wanted is not None and self._largest >= self._wanted + (not self.zero_based):
            raise TextFormatError(
                f"{self.name}, line {self._largest_line}: index {self._largest}, expected no more than "
                f"{self._wanted - 1} for {self._wanted} features counted from 0, as the index 0 occurs; pass "
                "a larger n_features.",
                self._largest_line,
            )

    def _chunks(self, file: Any) -> Iterator[tuple[bytes, _Layout]]:
        """Whole lines with their layout, as far as the first line of the file and the first entry tell it."""
        rest: list[bytes] = []  # of a line that is not at its end yet
        while True:
            try:
                read = file.read(self._chunk_size)
            except _streams.DAMAGE as error:
                raise TextFormatError(
                    f"{self.name} is damaged: {str(error) or type(error).__name__}; copy it again."
                ) from error
            end = read.rfind(b"\n") + 1
            if read and not end:
                rest.append(read)
                continue
            chunk = b"".join([*rest, read[:end]]) if read else b"".join([*rest, b"\n"])
            rest = [read[end:]]
            yield chunk, self._layout_of(chunk)
            if not read:
                return

    def _layout_of(self, chunk: bytes) -> _Layout:
        """Learn what lines look like; without an entry so far, any format fits."""
        if self._layout is None:
            first = _FIRST_LINE.search(chunk)
            if first is None:
                return _Layout(False, False, False)
            tokens = _TOKENS.findall(first.group().partition(b"#")[0])
            has_label = b":" not in tokens[0]
            has_qid = len(tokens) > has_label and tokens[has_label].startswith(b"qid:")
            self._layout = _Layout(has_label, has_qid, self._format == "libffm")
        if self._format == "auto":
            entry = _FIRST_ENTRY.search(chunk)
            if entry is not None:
                self._format = "libffm" if entry.group(1).count(b":") > 1 else "libsvm"
                self._layout = self._layout._replace(has_field=self._format == "libffm")
        return self._layout

    def _parse(self, chunk: tuple[bytes, _Layout]) -> _Piece:
        """Runs in any thread: reads nothing that changes."""
        text, layout = chunk
        n_rows, nnz = len(text) // 2 + 1, len(text) // 4 + 1  # at most
        lowest = 0 if self._base == "auto" else int(not self._base)
        highest = _MAX_COLUMN if self._wanted is None else self._wanted - (self._base is True)
        y = np.empty(n_rows if layout.has_label else 0)
        qid = np.empty(n_rows if layout.has_qid else 0, dtype=np.int64)
        indptr = np.empty(n_rows + 1, dtype=np.int64)
        data = np.empty(nnz, dtype=self._dtype)
        field = np.empty(nnz if layout.has_field else 0, dtype=np.int32)
        for index_dtype in (np.int32, np.int64):
            indices = np.empty(nnz, dtype=index_dtype)
            code, position, n_rows, nnz, *facts, largest_at = _text.parse(
                text, *layout, lowest, highest, y, qid, indptr, data, indices, field
            )
            if _FINDINGS[code] != "index is wide":
                break
            nnz = len(data)
        n_lines, smallest, largest = facts
        # Copies of just the size: the room for the worst case goes back at once.
        block = Block(
            data[:nnz].copy(),
            indices[:nnz].copy(),
            indptr[: n_rows + 1].copy(),
            y[:n_rows].copy(),
            qid[:n_rows].copy(),
        )
        return _Piece(
            block, field[:nnz], text, n_lines, smallest, largest, largest_at, _FINDINGS[code], position
        )

    def _take(self, piece: _Piece) -> None:
        """Go on behind a piece, in the order of the file; raise what is wrong in it."""
        self._smallest = min(self._smallest, piece.smallest)
        self._n_entries += len(piece.block.indices)
        if piece.largest > self._largest:
            self._largest = piece.largest
            self._largest_line = self._line_of(piece, piece.largest_at)
        if len(piece.field):
            self._note_fields(piece)  # also of the rows before a fault: the first one of the file is told
        if piece.finding != "sound":
            self._refuse(piece)
        self._n_lines += piece.n_lines

    def _line_of(self, piece: _Piece, position: int) -> int:
        return self._n_lines + piece.text.count(b"\n", 0, position) + 1

    def _note_fields(self, piece: _Piece) -> None:
        n_columns = self._largest + 1
        if n_columns > max(_FREE_FIELD_COLUMNS, 64 * self._n_entries, (self._wanted or 0) + 1):
            raise TextFormatError(
                f"{self.name}, line {self._largest_line}: index {self._largest}, expected smaller ones for "
                f"the {self._n_entries} entries so far, as each column has a field; renumber the columns, or "
                "pass n_features if there are so many.",
                self._largest_line,
            )
        if n_columns > len(self._field_of):
            grown = np.zeros(max(n_columns, 2 * len(self._field_of)), dtype=np.int32)
            grown[: len(self._field_of)] = self._field_of
            self._field_of = grown
        block = piece.block
        position = _text.merge_fields(piece.field, block.indices, self._field_of)
        if position >= 0:
            row = int(np.searchsorted(block.indptr, position, side="right")) - 1
            lines = (
                i
                for i, line in enumerate(piece.text.split(b"\n"), 1)
                if line.partition(b"#")[0].strip(b" \t\r")
            )
            line = self._n_lines + next(number for i, number in enumerate(lines) if i == row)
            index = block.indices[position]
            raise TextFormatError(
                f"{self.name}, line {line}: index {index} has field {piece.field[position]}, but field "
                f"{self._field_of[index] - 1} before; give each index one field.",
                line,
            )

    def _refuse(self, piece: _Piece) -> NoReturn:
        text, position = piece.text, piece.position
        line = self._line_of(piece, position)
        column = position - text.rfind(b"\n", 0, position)
        token = _TOKEN.match(text, position, position + 200)
        shown = token.group() if token else b""
        what = reprlib.repr(shown.decode("ascii", "backslashreplace")) if shown else "the end of the line"
        raise TextFormatError(
            f"{self.name}, line {line}, column {column}: {what}, {self._expectation(piece.finding, shown)}.",
            line,
            column,
        )

    def _expectation(self, finding: str, token: bytes) -> str:
        assert self._layout is not None
        entry = "field:index:value" if self._layout.has_field else "index:value"
        number = token.rpartition(b":")[2].lstrip(b"+-").lower()
        if finding == "not finite" or (
            number[:3] in (b"inf", b"nan") and finding in ("no label", "no entry")
        ):
            dtype = "float64" if b":" not in token else self._dtype.name
            return f"expected finite numbers in the range of {dtype}, also as sums; drop or rescale it"
        if finding == "no label":
            if b"," in token:
                return "expected one label; several of them are not supported"
            has_none = b":" in token or not token
            return (
                "expected a label, as the first row has one"
                if has_none
                else "expected a label that is a number"
            )
        if finding == "no qid":
            return "expected qid: and a whole number, as the first row has a qid"
        if finding == "index too small":
            return "expected indices from 1 on; pass zero_based=True if they start at 0"
        if finding == "index too large":
            highest = self._wanted - (self._base is True) if self._wanted is not None else _MAX_COLUMN
            return f"expected an index of at most {highest}; pass a larger n_features"
        if finding == "number too large":
            return "expected whole numbers below 2^63 - 1, and fields below 2^31 - 1"
        if finding == "two fields":
            return "expected one field for each index, but the line gives an index two"
        if token.startswith(b"qid:"):
            return f"expected {entry}, as the first row has no qid"
        if b":" not in token and not self._layout.has_label:
            return f"expected {entry}; if it is a label, all rows must have one, but the first has none"
        return f"expected {entry}, with whole numbers before the colons"


# What is blank is the same here and in the kernel.
_FIRST_LINE = re.compile(rb"^[ \t\r]*[^ \t\r\n#][^\n]*", re.MULTILINE)
_FIRST_ENTRY = re.compile(rb"^[^#\n]*?(?<![^ \t\r\n])(\d+:[^ \t\r\n#]*)", re.MULTILINE)
_TOKEN = re.compile(rb"[^ \t\r\n#]*")
_TOKENS = re.compile(rb"[^ \t\r\n]+")


def check_argument(name: str, value: Any, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise ValueError(f"{name} is {reprlib.repr(value)}, expected {expected}.")


def _in_order(function: Callable[[_A], _B], items: Iterable[_A], n_threads: int) -> Iterator[_B]:
    """The results in the order of the items, computed by threads that run a little ahead."""
    if n_threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(n_threads) as executor:
        waiting: deque[Future[_B]] = deque()
        try:
            for item in items:
                waiting.append(executor.submit(function, item))
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
