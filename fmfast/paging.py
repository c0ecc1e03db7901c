"""Reads ahead and lets go of memory-mapped arrays, so that data larger than the memory passes through it.

Pages of a mapped file stay with the process that has read them until the system runs short of memory, and
count as its own until then. Who goes through an array once, or knows what comes next, can tell the system:
`will_need` starts to read pages in the background, `let_go` takes them from the process. They may well stay
in the system's cache of files, where they cost nobody anything; no data is ever lost.

All this is advice: where the platform has no `madvise`, or an array is not mapped, nothing happens. This
module knows arrays and rows, but neither solvers nor estimators.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT_MEMORY = 256 << 20
_PIECE = 1 << 18  # numbers that pass at a time
_FOLIO = 1 << 21  # bytes: with a page, Linux maps its neighbours in the cache, which are to be let go as well


@dataclass(frozen=True)
class _Mapping:
    """Where an array lies: `start` bytes from the beginning of a map."""

    map: mmap.mmap
    start: int
    memory: int


def _mapping(array: NDArray[Any]) -> _Mapping | None:
    """The mapped file in which a contiguous array lies, if it does."""
    root: np.ndarray = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    # Pages of mode "c" hold changes that exist nowhere else: they must not be let go.
    if not isinstance(root, np.memmap) or not isinstance(root.base, mmap.mmap) or root.mode == "c":
        return None
    if array.strides != (array.itemsize,):
        return None
    start = _address(array) - _address(np.frombuffer(root.base, dtype=np.uint8))
    return _Mapping(root.base, start, getattr(root, "memory", DEFAULT_MEMORY))


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether an array lies in a mapped file, so that the functions of this module do anything for it."""
    return _mapping(array) is not None


def set_memory(array: NDArray[Any], memory: int) -> None:
    """Say how many bytes of a `numpy.memmap`, and of what is mapped with it, may be in memory at a time."""
    if isinstance(array, np.memmap):
        array.memory = memory  # type: ignore[attr-defined]


def will_need(array: NDArray[Any], start: int, stop: int) -> None:
    """Start to read some elements from the disk."""
    _advise(array, start, stop, "MADV_WILLNEED")


def let_go(array: NDArray[Any], start: int, stop: int) -> None:
    """Take the pages of some elements from this process; they come back when they are used."""
    _advise(array, start, stop, "MADV_DONTNEED", _FOLIO)


def _advise(array: NDArray[Any], start: int, stop: int, advice: str, margin: int = 0) -> None:
    option = getattr(mmap, advice, None)
    mapping = _mapping(array)
    if option is None or mapping is None or start >= stop:
        return
    first = max(0, mapping.start + start * array.itemsize - margin) // mmap.PAGESIZE * mmap.PAGESIZE
    last = min(len(mapping.map), mapping.start + stop * array.itemsize + margin)
    with suppress(OSError):  # a file system may not take advice
        mapping.map.madvise(option, first, last - first)


def pieces(*arrays: NDArray[Any]) -> Iterator[slice]:
    """Slices that cover arrays of one length, each let go when the next is asked for.

    A single slice if none of the arrays is mapped: sums over the pieces are then those over the whole.
    """
    length = len(arrays[0])
    mapped = [array for array in arrays if is_mapped(array)]
    step = _PIECE if mapped else max(length, 1)
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield slice(start, stop)
        for array in mapped:
            let_go(array, start, stop)


class Pages:
    """What is mapped of some rows.

    Parameters
    ----------
    indptr : int64 ndarray of shape (n_samples + 1,)
    entries : sequence of ndarray of shape (nnz,) or (0,)
    columns : sequence of ndarray of shape (n_samples,) or (0,)
        Targets and the like.

    Attributes
    ----------
    n_bytes : int
    memory : int
        How much of it may be in memory at a time.
    """

    def __init__(
        self, indptr: NDArray[np.int64], entries: Sequence[NDArray[Any]], columns: Sequence[NDArray[Any]] = ()
    ):
        self._indptr = indptr
        self._entries = [array for array in entries if is_mapped(array)]
        self._columns = [array for array in (indptr, *columns) if is_mapped(array)]
        found = [mapping for array in self._entries if (mapping := _mapping(array)) is not None]
        self.memory = min((mapping.memory for mapping in found), default=DEFAULT_MEMORY)
        self.n_bytes = sum(array.nbytes for array in (*self._entries, *self._columns))

    @property
    def fit_memory(self) -> bool:
        """Whether there is no need to let anything go; entries that are not mapped are in memory anyway."""
        return not self._entries or self.n_bytes <= self.memory

    def bytes_before(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each of some rows begins, if all that belongs to a row lay in one place."""
        per_entry, per_row = (sum(a.itemsize for a in arrays) for arrays in (self._entries, self._columns))
        return self._indptr[rows] * per_entry + rows * per_row

    def will_need(self, start: int, stop: int) -> None:
        """Start to read the rows from `start` to `stop`."""
        for array, first, last in self._parts(start, stop):
            will_need(array, first, last)

    def let_go(self, start: int, stop: int) -> None:
        for array, first, last in self._parts(start, stop):
            let_go(array, first, last)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[NDArray[Any], int, int]]:
        first, last = int(self._indptr[start]), int(self._indptr[stop])
        yield from ((array, first, last) for array in self._entries)
        yield from ((array, start, stop) for array in self._columns)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of rows that cover all of them, each let go when the next is asked for.

        A single one if nothing is mapped.
        """
        n_samples = len(self._indptr) - 1
        step = n_samples
        if self._entries or self._columns:
            step = max(1, min(_PIECE, int(_PIECE * n_samples / max(int(self._indptr[-1]), 1))))
        for start in range(0, n_samples, step):
            stop = min(start + step, n_samples)
            yield start, stop
            self.let_go(start, stop)
