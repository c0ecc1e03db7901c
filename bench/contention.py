"""What several threads cost each other: how often they write the same rows of the table.

The model. A cache line that two cores write has to travel between them, in L nanoseconds. Prefetch
hides that, unless another thread writes the row again between its prefetch and its use, W samples
later:

    W = prefetch distance / nonzeros per sample + 1
    p_j = share of the samples that contain feature j
    C = sum_j p_j (1 - (1 - p_j)^((T - 1) W))        shared rows per sample: taken away in that time
    t(T) = t(1) + L C                                time of a sample

    speed-up = min( T t(1) / t(T),  t(1) / (L max_j p_j) )

the second because a line that a share p_j of all samples write changes hands at most once per L. With *own
rows* of the frequent features in every thread, merged now and then (`fmfast.solvers.threads`), these drop
out of C and of the maximum, as w0 does in either case. Left out: the merging, clocks that sink as more
cores work, and the caches and memory that all cores share. So the speed-ups are upper bounds; "GB/s then"
is what the rows of the table, read and written once per sample, would ask of caches and memory to reach
them.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from bench.environment import usable_cores
from bench.programs import FMFast
from bench.report import Row
from bench.timing import medians, take_turns
from bench.workloads import Workload
from fmfast.solvers.threads import MAX_FREQUENT, MIN_FREQUENCY, Threads

THREADS = (2, 16, 64)
PREFETCH_NNZ = 40  # as in `fmfast/_chunks.pxd`
TYPICAL_TRANSFER_NS = 60.0  # for a machine with one core, where it cannot be measured


def one_table(n_threads: int, program: FMFast) -> Threads:
    """Threads without own rows."""
    threads = Threads(n_threads, program.rows)
    threads.frequent = threads.frequent[:0]
    return threads


def line_transfer_ns(n_rows: int = 200_000, rounds: int = 5) -> float:
    """What a sample takes longer if two threads train the same single feature in one table."""
    if len(usable_cores()) < 2:
        return TYPICAL_TRANSFER_NS
    X = sp.csr_array(np.ones((n_rows, 1), dtype=np.float32))
    y = np.random.default_rng(0).standard_normal(n_rows)
    w = Workload("one feature", "regression", X, y, X[:1], y[:1], np.zeros(1, dtype=np.int32))
    program = FMFast(w, 8, "sgd")
    with one_table(2, program) as threads:
        turns = {"one": program.train, "two": partial(program.train, threads=threads)}
        t = medians(take_turns(turns, rounds))
    # Two threads share the samples, so a sample takes one of them twice the time per row.
    return max(0.0, 1e9 * (2.0 * t["two"] - t["one"]) / n_rows)


def frequencies(w: Workload) -> NDArray[np.float64]:
    """p_j of the features that occur, highest first."""
    p = np.bincount(w.X_train.indices, minlength=w.X_train.shape[1]) / w.X_train.shape[0]
    return -np.sort(-p[p > 0])


def shared_rows(p: NDArray[np.float64], nnz_per_sample: float, n_threads: int) -> float:
    """C of the model."""
    window = PREFETCH_NNZ / nnz_per_sample + 1.0
    # p = 1: log1p(-1) is -inf, and the power 0, as it should be.
    with np.errstate(divide="ignore"):
        return float(-(p * np.expm1((n_threads - 1) * window * np.log1p(-p))).sum())


def speed_up(ns_per_sample: float, n_threads: int, waiting_ns: float, hottest_ns: float) -> float:
    """Of the model: `waiting_ns` is L C, `hottest_ns` is L max_j p_j."""
    parallel = n_threads * ns_per_sample / (ns_per_sample + waiting_ns)
    return min(parallel, ns_per_sample / hottest_ns) if hottest_ns > 0.0 else parallel


def expectations(w: Workload, n_factors: int, ns_per_sample: float, transfer_ns: float) -> list[Row]:
    """One row per number of threads."""
    p = frequencies(w)
    own = min(MAX_FREQUENT, int((p >= MIN_FREQUENCY).sum()))
    cold = p[own:]
    hottest, hottest_cold = (float(shared[0]) if len(shared) else 0.0 for shared in (p, cold))
    nnz = w.X_train.nnz / w.X_train.shape[0]
    bytes_per_sample = 2 * 4 * nnz * (n_factors + 3)  # AdaGrad: v_j, w_j and two accumulators of float32
    rows = []
    for n_threads in THREADS:
        of_all, of_cold = (shared_rows(shared, nnz, n_threads) for shared in (p, cold))
        shared = speed_up(ns_per_sample, n_threads, transfer_ns * of_all, transfer_ns * hottest)
        with_own = speed_up(ns_per_sample, n_threads, transfer_ns * of_cold, transfer_ns * hottest_cold)
        rows.append({
            "workload": w.name,
            "k": n_factors,
            "threads": n_threads,
            "ns per sample": ns_per_sample,
            "shared rows, one table": of_all,
            "speed-up, one table": shared,
            "shared rows, own rows": of_cold,
            "speed-up, own rows": with_own,
            "GB/s then": bytes_per_sample * with_own / ns_per_sample,
        })  # fmt: skip
    return rows
