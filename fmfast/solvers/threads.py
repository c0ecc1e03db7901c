"""Several threads that train one table.

Updates go to the shared table without locks (Hogwild; Niu, Recht, Re, Wright 2011). That is cheap as
long as threads seldom write the same rows; but a cache line that two cores write in every sample travels
between them in every sample. So each thread has *its own* w0, and its own copies of the rows of frequent
features:

    row += share * (own - taken);  own = taken = row            every few samples

and w0 = mean of the threads' w0 once they are done.

How often? Until it merges, a thread does not see what the others do to a row: all of them may take the
same step, and together go too far. Few such updates do no harm, many do (sums diverge), and their mean
learns slowly. Hence

    (n_threads - 1) * updates between two merges * share <= STALE_UPDATES

with share = 1, unless that would ask for a merge after less than MIN_UPDATES. The share is one of the whole
row, state included: as if only so many of the samples had been seen.

This module knows threads, the table and which features are frequent; what is done to a row, it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast._dispatch import core
from fmfast.interruption import Pool
from fmfast.paging import let_go
from fmfast.table import aligned_empty
from fmfast.validation import SparseRows

STALE_UPDATES = 64
MIN_UPDATES = 16
N_SLOTS = 512  # a power of two; four for each feature, so that most find theirs free
MAX_FREQUENT = 128  # their rows fit the second-level cache
MIN_FREQUENCY = 0.01  # share of the samples: rarer rows are seldom written by two threads at once
MIN_SHARE = 0.25  # of the nonzeros, per other thread: looking for own rows and merging them costs 5 to 9%
MIN_SAMPLES = 100_000  # small data takes no time, and on it what other threads did matters most
_N_DRAWN = 1 << 17  # nonzeros that are counted,
_STRETCH = 512  # so many from one place


class Threads:
    """Threads that share the runs of an epoch; use it in a `with` statement.

    Parameters
    ----------
    n_threads : int
        At least 2.
    rows : SparseRows
        What they will be trained on.

    Attributes
    ----------
    frequent : int64 ndarray
        The features with own rows, the most frequent first; empty where these would not pay.
    """

    def __init__(self, n_threads: int, rows: SparseRows) -> None:
        self.n_threads = n_threads
        self.frequent, self.frequency = frequent_features(rows)
        share = self.frequency.sum() * rows.n_samples / max(rows.nnz, 1)
        if (n_threads - 1) * share < MIN_SHARE or rows.n_samples < MIN_SAMPLES:
            self.frequent = self.frequent[:0]
        self._executor = Pool(n_threads)

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._executor.__exit__(*exception)

    def visit(
        self,
        train: Callable[..., float],
        runs: NDArray[np.int64],
        table: NDArray[Any],
        bias: NDArray[np.float64],
    ) -> float:
        """Train on all runs; returns the sum of what the calls of `train` return.

        Parameters
        ----------
        train : callable (runs, bias, **own)
            Called by each thread for its part of the runs; `own` are further arguments of the kernel.
        table : ndarray of shape (n_features, stride)
        bias : float64 ndarray of shape (BIAS_SIZE,)
            Changed in place, as is the table.
        """
        parts = np.array_split(runs, self.n_threads)
        biases = [_on_its_own_cache_line(bias) for _ in parts]
        own = self._own_rows(table) if len(self.frequent) else [{} for _ in parts]
        jobs = [
            self._executor.submit(train, part, own_bias, **arguments)
            for part, own_bias, arguments in zip(parts, biases, own, strict=True)
        ]
        loss_sum = sum(job.result() for job in jobs)
        if len(self.frequent):
            for arguments in own:
                core.merge_rows(table, arguments["owner"], arguments["own_rows"], arguments["share"])
        bias[:] = _merged(bias, biases)
        return loss_sum

    def _own_rows(self, table: NDArray[Any]) -> list[dict[str, Any]]:
        """What the kernel must know of the own rows of each thread, as arguments of `train_rows`."""
        stride = table.shape[1]
        owner = np.empty(N_SLOTS, dtype=np.int64)
        core.own_slots(self.frequent, stride, owner)
        slots = np.flatnonzero(owner >= 0)
        features = owner[slots] // stride
        n_others = self.n_threads - 1
        updates = max(STALE_UPDATES / n_others, MIN_UPDATES)
        # The most frequent feature sets the pace; those half as frequent merge every second time, and so on.
        frequency = dict(zip(self.frequent.tolist(), self.frequency.tolist(), strict=True))
        period = np.ones(N_SLOTS, dtype=np.int64)
        period[slots] = [2 ** int(np.log2(self.frequency[0] / frequency[j])) for j in features.tolist()]
        common = {
            "owner": owner,
            "period": period,
            "share": min(1.0, STALE_UPDATES / (n_others * updates)),
            "rows_per_merge": int(np.ceil(updates / self.frequency[0])),
            "merge_lock": _on_its_own_cache_line(np.zeros(1, dtype=np.int32)),
        }
        copies = [aligned_empty((2, N_SLOTS, stride), table.dtype) for _ in range(self.n_threads)]
        for copy in copies:
            copy[:, slots] = table[features]
        return [{**common, "own_rows": copy} for copy in copies]


def frequent_features(rows: SparseRows) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Features that many samples have, the most frequent first, and the share of the samples that has them.

    Counted in random short stretches of the nonzeros, so that it costs little even if X is on a disk.
    """
    if rows.nnz > _N_DRAWN:
        rng = np.random.default_rng(0)
        starts = rng.integers(rows.nnz - _STRETCH, size=_N_DRAWN // _STRETCH)
        drawn = np.empty((len(starts), _STRETCH), dtype=rows.indices.dtype)
        for stretch, start in zip(drawn, starts.tolist(), strict=True):
            stretch[:] = rows.indices[start : start + _STRETCH]
            let_go(rows.indices, start, start + _STRETCH)
    else:
        drawn = rows.indices
    features, counts = np.unique(drawn, return_counts=True)
    frequency = counts / max(1, drawn.size) * (rows.nnz / rows.n_samples)
    order = np.argsort(-frequency, kind="stable")[:MAX_FREQUENT]
    order = order[frequency[order] >= MIN_FREQUENCY]
    return features[order].astype(np.int64), frequency[order]


def _on_its_own_cache_line(values: NDArray[Any]) -> NDArray[Any]:
    """A copy of a few numbers that shares no cache line with anything else."""
    line = np.zeros(256 // values.itemsize, dtype=values.dtype)  # at least one whole line around the middle
    middle = len(line) // 2
    copy = line[middle : middle + len(values)]
    copy[:] = values
    return copy


def _merged(before: NDArray[np.float64], biases: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean of the threads' w0, and the sum of what they added to its state."""
    merged = before + sum(bias - before for bias in biases)
    merged[0] = np.mean([bias[0] for bias in biases])
    return merged
