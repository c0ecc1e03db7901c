"""Ctrl-C is heard soon, and what it breaks off is put in order all the same.

Python looks at signals between two calls, and a kernel that runs is one call. So kernels are called for a
part of the work at a time, and threads are waited for where a signal ends the waiting. This module knows
numbers of entries and threads, nothing of what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType

import numpy as np

_ENTRIES = 1 << 22
_ORDINARY_WIDTH = 64


def entries_per_call(width: int) -> int:
    """Nonzeros for one call of a kernel that takes `width` factors: at most some tenths of a second."""
    return max(1, _ENTRIES * _ORDINARY_WIDTH // max(width, _ORDINARY_WIDTH))


def calls(start: int, stop: int, n_entries: int, width: int) -> Iterator[tuple[int, int]]:
    """Parts of the rows from `start` to `stop`, with `n_entries` in all, for one call of a kernel each."""
    n_calls = min(max(1, stop - start), 1 + (n_entries + stop - start) // entries_per_call(width))
    return pairwise(np.linspace(start, stop, n_calls + 1).astype(np.int64).tolist())


class Pool(ThreadPoolExecutor):
    """Threads; use it in a `with` statement.

    When its block ends, nothing runs any more, even if Ctrl-C is pressed again meanwhile. If it ends by an
    exception, jobs that have not begun are dropped.
    """

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        interrupted = uninterrupted(lambda: self.shutdown(wait=True, cancel_futures=kind is not None))
        if interrupted is not None and kind is None:
            raise interrupted
        return None


def uninterrupted(action: Callable[[], object]) -> KeyboardInterrupt | None:
    """Do something to its end; it is begun anew if Ctrl-C is pressed, so that it must bear to be done twice.

    Returns the interruption that came meanwhile.
    """
    interrupted = None
    while True:
        try:
            action()
            return interrupted
        except KeyboardInterrupt as error:
            interrupted = error
