"""The order of rows that are larger than the memory they may take.

Runs of rows all over a file cannot be read in random order: every run would cost a disk another access, and
nothing could be let go before the end of the epoch. So the rows are cut into *blocks* of about a megabyte. An
epoch takes all blocks in random order, as many at a time as fit: a *window*. The runs of a window are
visited in random order, while the blocks of the next one are read. Every epoch draws both orders anew.

Half of the memory holds the window, half is for what is read ahead. A window is a copy: of pages that are
mapped, the system decides how many come along with one that is touched. Knows rows and pages, no solver.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmfast.paging import Pages, let_go
from fmfast.validation import SparseRows

_BLOCK_BYTES = 1 << 20  # a disk reads so many bytes in the time of a few accesses
_MIN_BLOCKS = 64  # of a window, unless runs are longer, so that its rows come from many places


class Window(NamedTuple):
    """Rows to visit together, with their targets; `runs` as of `visiting_order`.

    `last` is where the run visited last begins in all of the rows.
    """

    rows: SparseRows
    targets: Sequence[NDArray[np.float64]]
    sample_weight: NDArray[np.float64]
    runs: NDArray[np.int64]
    last: int


class Windows:
    """The windows of each epoch; see above.

    Parameters
    ----------
    pages : Pages
        What is mapped of the rows, targets and weights.
    run_length : int
        Runs start at multiples of it; no block cuts one in two.

    Attributes
    ----------
    starts : int64 ndarray of shape (n_blocks + 1,)
        The first row of each block, and the number of rows.
    """

    def __init__(
        self,
        pages: Pages,
        rows: SparseRows,
        targets: Sequence[NDArray[np.float64]],
        sample_weight: NDArray[np.float64],
        run_length: int,
    ) -> None:
        self._pages, self._rows, self._run_length = pages, rows, run_length
        window_bytes = pages.memory // 2
        run_bytes = pages.n_bytes * run_length // rows.n_samples
        block_bytes = max(1, 4 * run_bytes, min(_BLOCK_BYTES, window_bytes // _MIN_BLOCKS))
        self._blocks_per_window = max(1, window_bytes // block_bytes)
        self.starts = _block_starts(pages, rows.n_samples, run_length, block_bytes)
        # Room for the largest blocks, should chance bring them together.
        n_rows, n_entries = (
            int(np.sort(np.diff(bounds))[-self._blocks_per_window :].sum())
            for bounds in (self.starts, rows.indptr[self.starts])
        )
        let_go(rows.indptr, 0, len(rows.indptr))
        self._indptr = np.zeros(n_rows + 1, dtype=np.int64)
        # What is read, and where it goes; no values or no weights stay none.
        self._entries = [(a, np.empty(min(n_entries, len(a)), a.dtype)) for a in (rows.data, rows.indices)]
        self._columns = [(a, np.empty(min(n_rows, len(a)), a.dtype)) for a in (*targets, sample_weight)]

    def epoch(self, seed: int, epoch: int, share: tuple[int, int] = (0, 1)) -> Iterator[Window]:
        """All rows, window by window; each is overwritten when the next is asked for.

        With `share` (i, n) only the i-th of n parts of the windows. The order is a function of the arguments,
        the rows and the memory alone.
        """
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
        blocks = rng.permutation(len(self.starts) - 1)
        windows = np.array_split(blocks, -(-len(blocks) // self._blocks_per_window))
        # Each as it lies on the disk; and the last rows of all, which may make a shorter run, come last.
        windows = [np.sort(window) for window in windows]
        i, n = share
        windows = windows[len(windows) * i // n : len(windows) * (i + 1) // n]
        if not windows:
            return
        self._read_ahead(windows[0])
        for window, following in zip(windows, [*windows[1:], blocks[:0]], strict=True):
            loaded = self._load(window, rng)
            self._read_ahead(following)
            yield loaded

    def _read_ahead(self, window: NDArray[np.intp]) -> None:
        for start, stop in self._bounds(window):
            self._pages.will_need(start, stop)
        let_go(self._rows.indptr, 0, len(self._rows.indptr))  # which told where the blocks lie

    def _load(self, window: NDArray[np.intp], rng: np.random.Generator) -> Window:
        n_rows = n_entries = 0
        firsts = []
        for start, stop in self._bounds(window):
            indptr = self._rows.indptr[start : stop + 1]
            first, last = indptr[[0, -1]].tolist()
            firsts.append(n_rows)
            for source, copy in self._entries:
                copy[n_entries : n_entries + last - first] = source[first:last]
            for source, copy in self._columns:
                copy[n_rows : n_rows + stop - start] = source[start:stop]
            np.subtract(indptr, first - n_entries, out=self._indptr[n_rows : n_rows + len(indptr)])
            n_rows += stop - start
            n_entries += last - first
            self._pages.let_go(start, stop)
        data, indices = (copy[:n_entries] for _, copy in self._entries)
        *targets, sample_weight = (copy[:n_rows] for _, copy in self._columns)
        rows = SparseRows(data, indices, self._indptr[: n_rows + 1], self._rows.n_features)
        # No block but the last ends within a run, so that here, too, runs start at multiples.
        runs = rng.permutation(-(-n_rows // self._run_length)).astype(np.int64) * self._run_length
        block = int(np.searchsorted(firsts, runs[-1], side="right")) - 1
        last_run = int(self.starts[window[block]] + runs[-1] - firsts[block])
        return Window(rows, targets, sample_weight, runs, last_run)

    def _bounds(self, window: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
        return zip(self.starts[window].tolist(), self.starts[window + 1].tolist(), strict=True)


def _block_starts(pages: Pages, n_samples: int, run_length: int, block_bytes: int) -> NDArray[np.int64]:
    """The first row of each block, and the end; rows may differ in length, so that indptr has to tell."""
    starts = []
    last = -1
    for start, stop in pages.pieces():
        # The runs that begin in this piece, and the block in which each of them begins.
        runs = np.arange(-(-start // run_length) * run_length, stop, run_length)
        if len(runs):
            block = pages.bytes_before(runs) // block_bytes
            starts.append(runs[np.diff(block, prepend=last) > 0])
            last = int(block[-1])
    return np.concatenate([*starts, [n_samples]])
