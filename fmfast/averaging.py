"""Local SGD with sparse, frequency-weighted averaging: many workers train one machine on their own rows.

Every worker has the same table. In a *round* each trains on a share of its rows, notes by how much the
rows of the table that it touched have changed, and puts them back. The changes of all workers are merged, and
every worker adds the outcome to its table: all tables are the same again.

What is merged
--------------
Worker p has seen feature j in c_pj samples, and changed its row by d_pj. Uniform averaging (FedAvg)

    theta_j += 1/P sum_p d_pj                                         over all P workers

starves rare features: of what one worker has learned of a feature that no other has seen, 1/P is left. So
(Ding et al., FedSubAvg, NeurIPS 2022) only those that touched it count, each by how often:

    mean_j = sum_p c_pj d_pj / C_j,   C_j = sum_p c_pj

But where 8 workers have seen a feature once each, the mean is *one* step, and a machine that had seen all
rows would have taken eight. While such steps are few, their sum is right; where they are many, all workers
take the same way, and the sum goes 8 times too far. Hence, as between the threads of one worker
(`fmfast.solvers.threads`),

    theta_j += s_j sum_p d_pj + (1 - s_j) mean_j,   s_j = min(1, STALE_UPDATES / (C_j - C_j / n_j))

n_j being the workers that touched j, and C_j - C_j / n_j what one of them has not seen of the others. The
state of the solver is part of the row, and moves by the same share. (To add up the accumulators of AdaGrad,
while the parameters are averaged, makes the steps of frequent features as short as if all had moved them:
they then learn as slowly as the mean moves. `bench/README.md` has figures.)

All is functions of arrays, without an engine that carries them: `local_changes` on each worker, `merged` of
two until one is left, `combined`, and `apply` on each. Nothing is ever of the size of the table but the
table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast.solvers.sgd import StochasticRun, StochasticSolver
from fmfast.solvers.windows import Window
from fmfast.table import ParameterTable
from fmfast.validation import SparseRows

STALE_UPDATES = 4  # bench/README.md tells how it was chosen
_BLOCK = 1 << 15  # rows of the table that are exchanged at a time
_PIECES = 16  # of a share with several shards, so that none is visited as a whole


@dataclass(frozen=True)
class Shard:
    """Rows to train on, as a solver takes them.

    Attributes
    ----------
    rows : SparseRows
    targets : sequence of float64 ndarray of shape (n_samples,)
        One for each output of the table.
    sample_weight : float64 ndarray of shape (n_samples,) or (0,)
    seed : int
        Of the order of the visit.
    """

    rows: SparseRows
    targets: Sequence[NDArray[np.float64]]
    sample_weight: NDArray[np.float64]
    seed: int


def shard_seed(seed: int, number: int) -> int:
    """The seed of one of several shards; the first has that of the machine, as if it were alone."""
    if number == 0:
        return seed
    return int(np.random.SeedSequence(seed, spawn_key=(number, 0)).generate_state(1, np.uint64)[0] >> 1)


class _Sized:
    """A dataclass that says how large its arrays are: to Python, and to an engine that asks it."""

    @property
    def nbytes(self) -> int:
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return sum(value.nbytes for value in values if isinstance(value, np.ndarray))

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.nbytes


@dataclass(frozen=True)
class Changes(_Sized):
    """By how much one or several workers have changed the rows of the table that they touched.

    Attributes
    ----------
    features : int32 or int64 ndarray of shape (n_touched,)
        Ascending.
    counts : uint32 ndarray of shape (n_touched,)
        Samples with the feature: C_j.
    workers : uint16 ndarray of shape (n_touched,)
        Workers that touched it: n_j.
    mean : ndarray of shape (n_outputs, n_touched, stride)
        Means of the changes, weighted by the counts.
    total : ndarray of shape (n_outputs, n_shared, stride)
        Sums of the changes, for the features that more than one worker touched.
    bias_mean, bias_total : float64 ndarray of shape (n_outputs, BIAS_SIZE)
        The same for w0 and its state, which all workers touch.
    n_samples : int
        Samples that were visited.
    n_workers : int
    """

    features: NDArray[Any]
    counts: NDArray[np.uint32]
    workers: NDArray[np.uint16]
    mean: NDArray[Any]
    total: NDArray[Any]
    bias_mean: NDArray[np.float64]
    bias_total: NDArray[np.float64]
    n_samples: int
    n_workers: int

    def split(self, n_features: int, n_slices: int) -> list[Changes]:
        """The same in slices of features, which can be merged apart; w0 is in the first."""
        bounds = np.searchsorted(self.features, [n_features * s // n_slices for s in range(1, n_slices)])
        shared = np.append(0, np.cumsum(self.workers > 1))
        slices: list[Changes] = []
        for start, stop in zip([0, *bounds], [*bounds, len(self.features)], strict=True):
            part = slice(start, stop)
            with_w0 = 0.0 if slices else 1.0
            slices.append(
                replace(
                    self,
                    features=self.features[part],
                    counts=self.counts[part],
                    workers=self.workers[part],
                    mean=self.mean[:, part],
                    total=self.total[:, shared[start] : shared[stop]],
                    bias_mean=with_w0 * self.bias_mean,
                    bias_total=with_w0 * self.bias_total,
                )
            )
        return slices


@dataclass(frozen=True)
class Update(_Sized):
    """What is added to the tables of all workers.

    Attributes
    ----------
    features : int32 or int64 ndarray of shape (n_touched,)
        Ascending.
    rows : ndarray of shape (n_outputs, n_touched, stride)
    bias : float64 ndarray of shape (n_outputs, BIAS_SIZE)
    """

    features: NDArray[Any]
    rows: NDArray[Any]
    bias: NDArray[np.float64]


# -- on a worker ----------------------------------------------------------------------------------


def train_share(
    table: ParameterTable,
    solver: StochasticSolver,
    shards: Sequence[Shard],
    epoch: int,
    share: tuple[int, int] = (0, 1),
    n_threads: int = 1,
    touched: _Touched | None = None,
) -> float:
    """Train in place on the i-th of n shares of an epoch; returns the sum of weight * loss.

    Infinite if training diverged. One shard in one share is what the solver does in an epoch, to the bit.
    """
    loss_sum = 0.0
    with ExitStack() as stack:
        for run, piece in _pieces(stack, table, solver, shards, epoch, share, n_threads):
            for window in run.windows(epoch, piece):
                if touched is not None:
                    touched.expect(window, run.run_length)
                loss_sum += run.visit(window, epoch)
                if not np.isfinite(loss_sum):
                    return np.inf
    return loss_sum


def _pieces(
    stack: ExitStack,
    table: ParameterTable,
    solver: StochasticSolver,
    shards: Sequence[Shard],
    epoch: int,
    share: tuple[int, int],
    n_threads: int,
) -> Iterator[tuple[StochasticRun, tuple[int, int]]]:
    """What is visited, in this order: a piece of one shard after a piece of another."""

    def begun(shard: Shard) -> StochasticRun:
        return solver.begin(table, shard.rows, shard.targets, shard.sample_weight, shard.seed, n_threads)

    if len(shards) == 1:
        yield stack.enter_context(begun(shards[0])), share
        return
    i, n = share
    rng = np.random.default_rng(np.random.SeedSequence(shards[0].seed, spawn_key=(epoch, i, n)))
    if not all(shard.rows.pages.fit_memory for shard in shards):
        # What is read window by window has buffers of its own: one shard at a time.
        for number in rng.permutation(len(shards)).tolist():
            with begun(shards[number]) as run:
                yield run, share
        return
    n_pieces = -(-_PIECES // len(shards))
    runs = [stack.enter_context(begun(shard)) for shard in shards]
    for place in rng.permutation(len(shards) * n_pieces).tolist():
        number, piece = divmod(place, n_pieces)
        yield runs[number], (i * n_pieces + piece, n * n_pieces)


class _Touched:
    """What the rows of the table were before they were touched."""

    def __init__(self, table: ParameterTable, counts: NDArray[np.uint32]) -> None:
        self._table, self._counts = table, counts
        self._features: list[NDArray[np.int64]] = []
        self._before: list[NDArray[Any]] = []
        self._bias = table.bias.copy()
        self.n_samples = 0

    def expect(self, window: Window, run_length: int) -> None:
        """Keep what is about to be touched for the first time, and count all."""
        rows = window.rows
        found = rows.count_features(window.runs, run_length, self._counts)
        self._features.append(found)
        self._before.append(_rows_of(self._table, found))
        self.n_samples += int(np.minimum(run_length, rows.n_samples - window.runs).sum())

    def restore(self) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.float64]]:
        """Put everything back; returns the features, and the changes of their rows and of w0."""
        many = len(self._features) != 1
        features = np.concatenate([np.empty(0, np.int64), *self._features]) if many else self._features[0]
        if many:
            empty = _rows_of(self._table, features[:0])
            order = np.argsort(features)
            features = features[order]
            changes = np.concatenate([empty, *self._before], axis=1)[:, order]
        else:
            changes = self._before[0]
        self._before = []
        # In place and block by block: what was before goes to the table, what has changed takes its room.
        for start in range(0, len(features), _BLOCK):
            block = slice(start, start + _BLOCK)
            now = _rows_of(self._table, features[block])
            for output, rows in enumerate(self._table.rows):
                rows[features[block]] = changes[output, block]
            np.subtract(now, changes[:, block], out=changes[:, block])
        bias = self._table.bias - self._bias
        self._table.bias[:] = self._bias
        return features, changes, bias


def _rows_of(table: ParameterTable, features: NDArray[Any]) -> NDArray[Any]:
    """Copies of some rows, (n_outputs, n, stride)."""
    copies = np.empty((table.n_outputs, len(features), table.rows.shape[2]), table.dtype)
    for rows, copy in zip(table.rows, copies, strict=True):
        np.take(rows, features, axis=0, out=copy, mode="clip")  # without "clip" NumPy buffers the output
    return copies


def local_changes(
    table: ParameterTable,
    counts: NDArray[np.uint32],
    solver: StochasticSolver,
    shards: Sequence[Shard],
    epoch: int,
    share: tuple[int, int] = (0, 1),
    n_threads: int = 1,
) -> tuple[Changes, float]:
    """What a worker learns from the i-th of n shares of an epoch, and its sum of weight * loss.

    Parameters
    ----------
    table : ParameterTable
        Is trained, and put back as it was, also if something fails.
    counts : uint32 ndarray of shape (n_features,)
        Room to count in: zeros, and zeros again afterwards.
    epoch : int
        From 0.

    Returns
    -------
    Changes, float
        The loss is infinite if training diverged; the changes are then meaningless.
    """
    touched = _Touched(table, counts)
    try:
        with np.errstate(all="ignore"):
            loss_sum = train_share(table, solver, shards, epoch, share, n_threads, touched)
    except BaseException:
        touched.restore()
        counts[:] = 0
        raise
    with np.errstate(all="ignore"):  # of parameters that diverged
        features, changes, bias = touched.restore()
    found = counts[features]
    counts[features] = 0
    small = np.int32 if table.n_features <= np.iinfo(np.int32).max else np.int64
    return (
        Changes(
            features=features.astype(small),
            counts=found,
            workers=np.ones(len(features), dtype=np.uint16),
            mean=changes,
            total=changes[:, :0],
            bias_mean=bias,
            bias_total=bias,
            n_samples=touched.n_samples,
            n_workers=1,
        ),
        loss_sum,
    )


def apply(table: ParameterTable, update: Update) -> None:
    """Add an update to a table, in place."""
    n_used, w = table.rows.shape[2], table.width
    tiny = 16 * np.finfo(table.dtype).eps
    for start in range(0, len(update.features), _BLOCK):
        block = update.features[start : start + _BLOCK]
        for output, rows in enumerate(table.rows):
            before = np.take(rows, block, axis=0)
            after = before + update.rows[output, start : start + _BLOCK, :n_used]
            # Weights that all workers have set to exactly 0 (ftrl) are 0, whatever rounding says.
            after[np.abs(after[:, w]) <= tiny * np.abs(before[:, w]), w] = 0
            rows[block] = after
    table.bias += update.bias


# -- between workers --------------------------------------------------------------------------------


def merged(a: Changes, b: Changes) -> Changes:
    """The changes of the workers of a and of b, which must be other workers: associative but for rounding."""
    features = np.concatenate([a.features, b.features])
    features.sort(kind="stable")  # two ascending runs: linear time
    features = features[np.diff(features, prepend=-1) > 0]
    in_a, in_b = np.searchsorted(features, a.features), np.searchsorted(features, b.features)
    counts = np.zeros(len(features), dtype=np.uint32)
    workers = np.zeros(len(features), dtype=np.uint16)
    for positions, part in ((in_a, a), (in_b, b)):
        counts[positions] += part.counts
        workers[positions] += part.workers
    mean = np.empty((len(a.mean), len(features), a.mean.shape[2]), a.mean.dtype)
    total = np.zeros((len(mean), int(np.count_nonzero(workers > 1)), mean.shape[2]), mean.dtype)
    place = np.cumsum(workers > 1) - 1  # in total
    mean[:, in_a] = a.mean
    only_b = np.ones(len(features), dtype=bool)
    only_b[in_a] = False
    both = ~only_b[in_b]  # of b
    mean[:, in_b[~both]] = b.mean[:, ~both]
    shared = in_b[both]
    share_of_b = (b.counts[both] / counts[shared]).astype(mean.dtype)[:, None]
    mean[:, shared] += share_of_b * (b.mean[:, both] - mean[:, shared])
    for positions, part in ((in_a, a), (in_b, b)):
        here = workers[positions] > 1
        total[:, place[positions[here]]] += _totals(part)[:, here]
    n_samples = a.n_samples + b.n_samples
    of_b = b.n_samples / n_samples if n_samples else 0.0
    return Changes(
        features=features,
        counts=counts,
        workers=workers,
        mean=mean,
        total=total,
        bias_mean=(1.0 - of_b) * a.bias_mean + of_b * b.bias_mean,
        bias_total=a.bias_total + b.bias_total,
        n_samples=n_samples,
        n_workers=a.n_workers + b.n_workers,
    )


def _totals(changes: Changes) -> NDArray[Any]:
    """Sums of the changes for all features; that of one worker is its mean."""
    if not changes.total.shape[1]:
        return changes.mean
    totals = changes.mean.copy()
    totals[:, changes.workers > 1] = changes.total
    return totals


def combined(changes: Changes, stale_updates: float = STALE_UPDATES) -> Update:
    """What the tables of all workers get; see the top of this module.

    `stale_updates=0` is the plain mean, weighted by how often each worker has seen a feature.
    """
    shared = np.flatnonzero(changes.workers > 1)
    rows = changes.mean
    if len(shared):
        counts, workers = changes.counts[shared].astype(np.float64), changes.workers[shared]
        share = _share_of_sum(counts, workers, stale_updates).astype(rows.dtype)[:, None]
        rows = rows.copy()
        rows[:, shared] += share * (changes.total - rows[:, shared])
    n = np.array([changes.n_samples]), np.array([changes.n_workers])
    share_w0 = float(_share_of_sum(*n, stale_updates)[0]) if changes.n_workers > 1 else 0.0
    bias = changes.bias_mean + share_w0 * (changes.bias_total - changes.bias_mean)
    return Update(changes.features, rows, bias)


def _share_of_sum(counts: NDArray[Any], workers: NDArray[Any], stale_updates: float) -> NDArray[np.float64]:
    """s_j: 1 where few updates are merged, towards 0 where many are."""
    unseen = counts * (1.0 - 1.0 / workers)  # by the average worker, of what the others did
    return np.minimum(1.0, stale_updates / np.maximum(unseen, 1.0))


def stale_updates_of(solver: StochasticSolver) -> float:
    """What `combined` is told. With an L1 penalty 0: two workers that set a weight to 0 must not be added."""
    return 0.0 if solver.l1_w else STALE_UPDATES


def merges_of_epoch(epoch: int, n_workers: int, wanted: int | None = None) -> int:
    """Rounds of an epoch: a single worker has nothing to merge; the first epoch needs most of them."""
    if n_workers <= 1:
        return 1
    if wanted is not None:
        return wanted
    first = min(32, max(4, 2 * n_workers))
    return max(2, first >> epoch)
