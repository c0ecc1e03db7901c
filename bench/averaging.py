"""Local SGD with averaging, simulated on this machine with the functions that the workers of a cluster run.

Every worker trains in turn on the same table, which `local_changes` puts back, so that one table is enough
for 64 workers. What they return is merged as on a cluster. Besides the rule of `fmfast.averaging` there are
those that it is compared with:

- "uniform": the sum of all changes over the number of workers, whether they touched a feature or not
(FedAvg);
- "weighted": the mean over the workers that touched it, weighted by how often (FedSubAvg), and the
accumulators
  of AdaGrad added up, as if one machine had seen all;
- "weighted, state too": the accumulators by the same mean;
- "default": `fmfast.averaging.combined`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bench.workloads import Workload
from fmfast.averaging import (
    Changes,
    Shard,
    Update,
    apply,
    combined,
    local_changes,
    merged,
    merges_of_epoch,
    shard_seed,
    train_share,
)
from fmfast.model import score_table
from fmfast.solvers import SOLVERS
from fmfast.solvers.sgd import StochasticSolver
from fmfast.table import ParameterTable
from fmfast.validation import SparseRows, check_X

FLOAT = np.dtype(np.float32)
_NO_WEIGHT: NDArray[np.float64] = np.empty(0)


def _totals(changes: Changes) -> NDArray:
    totals = changes.mean.copy()
    totals[:, changes.workers > 1] = changes.total
    return totals


def uniform(changes: Changes) -> Update:
    n = changes.n_workers
    return Update(changes.features, _totals(changes) / FLOAT.type(n), changes.bias_total / n)


def weighted_state_added(changes: Changes, n_parameters: int) -> Update:
    update = combined(changes, 0)
    rows = update.rows.copy()
    rows[:, :, n_parameters:] = _totals(changes)[:, :, n_parameters:]
    bias = update.bias.copy()
    bias[:, 1:] = changes.bias_total[:, 1:]
    return replace(update, rows=rows, bias=bias)


def rules(n_parameters: int) -> dict[str, Callable[[Changes], Update]]:
    """By name; `n_parameters` of a row are V_j and w_j, the rest is state."""
    return {
        "uniform": uniform,
        "weighted": lambda changes: weighted_state_added(changes, n_parameters),
        "weighted, state too": lambda changes: combined(changes, 0),
        "default": combined,
    }


@dataclass
class Outcome:
    """Of one simulated fit.

    Attributes
    ----------
    test_losses : list of float
        After each epoch.
    sent, received : list of float
        Megabytes that a worker sends, and gets back, in each round: means.
    """

    test_losses: list[float]
    sent: list[float]
    received: list[float]


class Simulation:
    """A workload with its solver, its first table and its test rows."""

    def __init__(self, w: Workload, n_factors: int, seed: int = 0) -> None:
        self.w, self.seed = w, seed
        self.rows = check_X(w.X_train, dtype=FLOAT)
        self.test = check_X(w.X_test, dtype=FLOAT)
        self.y = w.y_train.astype(np.float64)
        kind = SOLVERS["adagrad"]
        self.solver: StochasticSolver = kind.configured(w.task, self.rows.mean_row_norm(kind.row_norm_power))
        self.new_table = lambda: self.solver.new_table(1, self.rows.n_features, n_factors, FLOAT, 0.02, seed)
        self.rules = rules(self.new_table().width + 1)

    def test_loss(self, table: ParameterTable) -> float:
        return self.w.test_loss(score_table(table, self.test)[0])

    def shards(self, n: int) -> list[Shard]:
        bounds = np.linspace(0, self.rows.n_samples, n + 1).astype(int).tolist()
        parts: list[tuple[SparseRows, NDArray]] = [
            (self.rows.part(a, b), self.y[a:b]) for a, b in pairwise(bounds)
        ]
        return [
            Shard(rows, [y], _NO_WEIGHT, shard_seed(self.seed, number))
            for number, (rows, y) in enumerate(parts)
        ]

    def local(self, n_epochs: int) -> list[float]:
        """Test losses of one machine."""
        table, (shard,) = self.new_table(), self.shards(1)
        losses = []
        for epoch in range(n_epochs):
            train_share(table, self.solver, [shard], epoch)
            losses.append(self.test_loss(table))
        return losses

    def run(self, n_workers: int, rule: str, n_epochs: int, merges: int | None = None) -> Outcome:
        table, shards = self.new_table(), self.shards(n_workers)
        counts = np.zeros(table.n_features, np.uint32)
        outcome = Outcome([], [], [])
        for epoch in range(n_epochs):
            n = merges_of_epoch(epoch, n_workers, merges)
            for i in range(n):
                sent: list[int] = []

                def changes(shard: Shard, epoch: int = epoch, share: tuple[int, int] = (i, n), sent=sent):
                    found, _ = local_changes(table, counts, self.solver, [shard], epoch, share)
                    sent.append(found.nbytes)
                    return found

                update = self.rules[rule](reduce(merged, map(changes, shards)))
                apply(table, update)
                outcome.sent.append(float(np.mean(sent)) / 1e6)
                outcome.received.append(update.nbytes / 1e6)
            outcome.test_losses.append(self.test_loss(table))
        return outcome
