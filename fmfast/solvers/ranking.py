"""Learning to rank by stochastic updates: positive pairs in random order, negatives drawn for each.

    bpr     -log sigma(score(c, i) - score(c, n))                                   (Rendle et al. 2009)
    warp    Phi(rank) max(0, 1 - score(c, i) + score(c, n))                         (Weston et al. 2011)

plus, for every feature of c, i and n, reg_w / 2 w_j^2 + reg_V / 2 |v_j|^2 each time it is moved. The steps
are those of `adagrad` in `_steps.pxd`; the kernel is `_ranking.pyx`.

The pairs are shuffled once, in memory. An epoch visits short runs of them in an order of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast._dispatch import ranking as kernel
from fmfast.interruption import Pool, entries_per_call
from fmfast.solvers.sgd import STOCHASTIC_SOLVERS
from fmfast.table import BIAS_SIZE, ParameterTable
from fmfast.validation import SparseRows

# Slots of a context's set for each of its positives: more would be faster only a little, fewer slower.
_SLOTS_PER_POSITIVE = 4
_MAX_RUN_LENGTH = 64
_MIN_RUNS = 4096
_ADAGRAD = next(kind for kind in STOCHASTIC_SOLVERS if kind.name == "adagrad")


@dataclass(frozen=True)
class Positives:
    """What is known of contexts and items.

    Attributes
    ----------
    indptr : int64 ndarray of shape (n_contexts + 1,)
    items : int32 ndarray of shape (n_positives,)
        The positive items of each context: none of them is ever its negative.
    n_items : int
    trained : intp ndarray of shape (n_pairs,)
        Those of the positives that are trained on.
    weight : float64 ndarray of shape (n_pairs,) or (0,)
        Positive; empty if all weights are 1.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    n_items: int
    trained: NDArray[np.intp]
    weight: NDArray[np.float64]

    @property
    def contexts(self) -> NDArray[np.int32]:
        """The context of each positive."""
        counts = np.diff(self.indptr)
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @property
    def total_weight(self) -> float:
        return float(self.weight.sum()) if len(self.weight) else float(len(self.trained))


@dataclass(frozen=True)
class RankingSolver:
    """A loss with its settings.

    Parameters
    ----------
    loss : {"warp", "bpr"}
    learning_rate, reg_w, reg_V : float
    max_trials : int
        Negatives drawn at most for a pair, "warp" only.
    popularity_power : float
        Negatives are drawn in proportion to (1 + number of contexts with the item)^popularity_power.
    """

    loss: str
    learning_rate: float
    reg_w: float
    reg_V: float
    max_trials: int
    popularity_power: float

    name = _ADAGRAD.name

    @property
    def advice(self) -> str:
        """What may help if training diverges."""
        return (
            f"use a smaller learning_rate (it was {self.learning_rate:g}) or init_std, a larger reg_V, or "
            "scale the columns of the features to about 1"
        )

    @staticmethod
    def new_table(
        n_features: int, n_factors: int, dtype: np.dtype, init_std: float, seed: int
    ) -> ParameterTable:
        """An initialised table with room for the state of the steps."""
        state_size, initial = _ADAGRAD.state_size(n_factors), _ADAGRAD.initial_state
        table = ParameterTable(1, n_features, n_factors, state_size, dtype)
        table.initialize(init_std, seed, np.full(state_size, initial), np.full(BIAS_SIZE - 1, initial))
        return table

    def begin(
        self,
        table: ParameterTable,
        contexts: SparseRows,
        items: SparseRows,
        positives: Positives,
        seed: int,
        n_threads: int = 1,
    ) -> RankingRun:
        """Make ready to train; contexts and items are rows in the columns of the table."""
        return RankingRun(self, table, contexts, items, positives, seed, n_threads)


class RankingRun:
    """Training on one set of positives; see `RankingSolver.begin`."""

    converged = False  # that is for early stopping to say

    def __init__(
        self,
        solver: RankingSolver,
        table: ParameterTable,
        contexts: SparseRows,
        items: SparseRows,
        positives: Positives,
        seed: int,
        n_threads: int,
    ) -> None:
        self._solver, self._table, self._seed, self._n_threads = solver, table, seed, n_threads
        order = np.random.default_rng([seed, 1]).permutation(len(positives.trained))
        pairs = positives.trained[order]
        self._pairs = (
            positives.contexts[pairs],
            positives.items[pairs],
            positives.weight[order] if len(positives.weight) else positives.weight,
        )
        self._run_length = int(np.clip(len(pairs) // _MIN_RUNS, 1, _MAX_RUN_LENGTH))
        self._sides = (*_side(contexts, table), *_side(items, table))
        self._negatives = (*_sets(positives), *_alias_tables(positives, solver.popularity_power))
        self._phi = _phi(positives.n_items, solver.max_trials)
        entries = _mean_nnz(contexts) + (1 + solver.max_trials) * _mean_nnz(items)
        self._n_calls = 1 + int(len(pairs) * entries) // entries_per_call(table.width)
        self._executor = Pool(n_threads) if n_threads > 1 else None

    def __enter__(self) -> RankingRun:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._executor is not None:
            self._executor.__exit__(*exception)

    def run_epoch(self, epoch: int) -> float:
        """Visit every pair once; returns the sum of weight * loss, infinite if a score diverged."""
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(2, epoch)))
        length, n_pairs = self._run_length, len(self._pairs[0])
        runs = rng.permutation(-(-n_pairs // length)) * length
        seed = int(rng.integers(0, 2**63 - 1))
        loss_sum = 0.0
        for segment in np.array_split(runs, self._n_calls):
            loss_sum += self._visit(segment, seed)
            if not np.isfinite(loss_sum):
                break
        return loss_sum

    def _visit(self, runs: NDArray[np.int64], seed: int) -> float:
        solver, table = self._solver, self._table

        def visit(part: NDArray[np.int64]) -> float:
            loss_sum, _, _ = kernel.train_pairs(
                *self._pairs, part, self._run_length, *self._sides, *self._negatives,
                table.rows[0], table.width, kernel.LOSSES[solver.loss], self._phi,
                solver.learning_rate, solver.reg_w, solver.reg_V, seed,
            )  # fmt: skip
            return float(loss_sum)

        if self._executor is None:
            return visit(runs)
        return float(sum(self._executor.map(visit, np.array_split(runs, self._n_threads))))

    def remembered(self) -> dict[str, NDArray[Any]]:
        """Nothing: all that is random is a function of the epoch."""
        return {}

    def all_finite(self) -> bool:
        """The loss of an epoch has shown its scores."""
        return True


def _mean_nnz(rows: SparseRows) -> float:
    return rows.nnz / rows.n_samples


def _side(rows: SparseRows, table: ParameterTable) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Starts of the rows, places in the table, values."""
    address = rows.indices.astype(np.int64) * table.rows.shape[2]
    x = rows.data if len(rows.data) else np.ones(rows.nnz, table.dtype)
    return rows.indptr, address, x


def _sets(positives: Positives) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The contexts' sets of positives, as `fill_sets` makes them."""
    counts = np.diff(positives.indptr)
    sizes = np.exp2(np.ceil(np.log2(_SLOTS_PER_POSITIVE * counts + 1))).astype(np.int64)
    start = np.append(0, np.cumsum(sizes))
    members = np.empty(start[-1], dtype=np.int32)
    kernel.fill_sets(positives.indptr, positives.items, start, members)
    return start, members


def _alias_tables(positives: Positives, power: float) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """What `fill_alias` makes, empty if all items are alike."""
    n_items = positives.n_items
    if power == 0.0:
        return np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int32)
    popularity = (1.0 + np.bincount(positives.items, minlength=n_items)) ** power
    keep, alias, scratch = (
        np.empty(n_items, np.uint32),
        np.empty(n_items, np.int32),
        np.empty(n_items, np.int32),
    )
    kernel.fill_alias(popularity * (n_items / popularity.sum()), keep, alias, scratch)
    return keep, alias


def _phi(n_items: int, max_trials: int) -> NDArray[np.float64]:
    """Phi(rank) = sum_{q <= rank} 1 / q of the rank that is estimated after 1, 2, ... draws.

    One violating item among r draws says that about (n_items - 1) / r items violate (Weston et al. 2011).
    """
    rank = np.maximum(1, (n_items - 1) // np.arange(1, max_trials + 1))
    euler = 0.5772156649015329
    # The harmonic numbers; to 1e-6 beyond the exact ones.
    exact = np.cumsum(1.0 / np.arange(1, 101))
    large = np.log(rank) + euler + 0.5 / rank
    return np.where(rank <= 100, exact[np.minimum(rank, 100) - 1], large)
