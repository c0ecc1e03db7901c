"""Stochastic solvers: one small update per sample (`sgd`, `adagrad`, `ftrl`).

All minimise

    sum_i c_i [ loss(score(x_i), y_i) + sum_{j in x_i} ( reg_w / 2 w_j^2 + reg_V / 2 |v_j|^2 ) ]

sample by sample, c_i being the sample's weight. The penalty of a feature counts once for every
sample that contains it, as in libFM: an update touches only the features of its sample, and how
strongly a feature is held does not depend on how many samples there are. `ftrl` adds to the above

    sum_j l1_w |w_j|

and sets every w_j to exactly 0 that is not worth it. This penalty counts once against the gradients
of all epochs together, as in the paper: the more epochs, the fewer zeros.

The order of the samples
------------------------
Reading rows in full random order costs more than the arithmetic when rows are short, and forbids
training from disk. So an epoch visits *runs* of consecutive rows in random order, `N_LANES` runs at
a time with their rows interleaved: neighbours in the visit come from `N_LANES` random places, and
every epoch draws a new order. Small data has runs of one row or a few: nearly a full shuffle. Mapped
data that is larger than the memory it may take is visited window by window (`fmfast.solvers.windows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast._dispatch import core
from fmfast.interruption import entries_per_call
from fmfast.model import score_table
from fmfast.paging import Pages
from fmfast.solvers.threads import Threads
from fmfast.solvers.windows import Window, Windows
from fmfast.table import BIAS_SIZE, ParameterTable, padded_width
from fmfast.validation import SparseRows

N_LANES = 8
_RUN_NNZ = 512  # nonzeros that make a run worth a jump in memory: two kilobytes of indices
_MIN_RUNS = 4096  # below which shorter runs are better for the mixing than long ones for the speed


@dataclass(frozen=True)
class _Defaults:
    learning_rate: float
    reg_w: float
    reg_V: float


@dataclass(frozen=True)
class _Kind:
    """What is particular to one solver; its update itself stands in `_steps.pxd`."""

    name: str
    defaults: dict[str, _Defaults]  # by task
    learning_rate_decay: float
    row_norm_power: int  # see `configured`
    weight_state: int  # numbers of state of w_j (and of w0)
    vector_state: int  # of v_j as a whole
    factor_state: int  # of every factor
    initial_state: float
    unused: tuple[str, ...] = ()  # constructor arguments that mean nothing to it

    def state_size(self, n_factors: int) -> int:
        """Numbers of state per feature."""
        return self.weight_state + self.vector_state + self.factor_state * padded_width(n_factors)

    def starting_std(self, rows: SparseRows, weight: NDArray[np.float64], n_factors: int, task: str) -> float:
        """Standard deviation of V at the start unless told otherwise."""
        return _INIT_STD

    def grown_table(
        self, table: ParameterTable, n_features: int, init_std: float, seed: int
    ) -> ParameterTable:
        """A table of more features; new rows are as they would be, had the table been as large at once."""
        return table.grown(n_features, init_std, seed, np.full(table.state_size, self.initial_state))

    def configured(
        self,
        task: str,
        row_norm: float,
        *,
        learning_rate: float | None = None,
        learning_rate_decay: float | None = None,
        reg_w: float | None = None,
        reg_V: float | None = None,
        l1_w: float = 0.0,
        tol: float = 0.0,
    ) -> StochasticSolver:
        """The solver for "regression" or "classification", with defaults for what is None.

        `row_norm` is the mean over the rows of n = sum_j |x_ij|^p, p being `row_norm_power`. A step moves
        w_j by at most r ("adagrad") or by r x_j ("sgd"), hence the score by about r n with p = 1 or 2; what
        the factors add to that grows like n^2. So the default rate is lower where rows are long or values
        large.
        """
        default = self.defaults[task]
        if learning_rate is None:
            length = row_norm / _ORDINARY_ROW_NORM
            learning_rate = default.learning_rate / max(1.0, length, length * length / 100.0)
        return StochasticSolver(
            name=self.name,
            loss=_LOSSES[task],
            learning_rate=float(learning_rate),
            learning_rate_decay=float(
                self.learning_rate_decay if learning_rate_decay is None else learning_rate_decay
            ),
            reg_w=float(default.reg_w if reg_w is None else reg_w),
            reg_V=float(default.reg_V if reg_V is None else reg_V),
            l1_w=float(l1_w),
        )


_LOSSES = {"regression": "squared", "classification": "logistic"}

# bench/README.md tells how these defaults were chosen, and on what data.
_ORDINARY_ROW_NORM = 10.0
_INIT_STD = 0.02
STOCHASTIC_SOLVERS = (
    # The accumulators start at 1, not at 0: the first steps then follow the size of the gradient instead
    # of being as long as the learning rate whatever it is.
    _Kind(
        "adagrad",
        {
            "regression": _Defaults(learning_rate=0.2, reg_w=0.01, reg_V=0.03),
            "classification": _Defaults(learning_rate=0.5, reg_w=1e-5, reg_V=1e-5),
        },
        learning_rate_decay=0.0,
        row_norm_power=1,
        weight_state=1,
        vector_state=1,
        factor_state=0,
        initial_state=1.0,
        unused=("l1_w",),
    ),
    _Kind(
        "sgd",
        {
            "regression": _Defaults(learning_rate=0.01, reg_w=0.01, reg_V=0.03),
            "classification": _Defaults(learning_rate=0.01, reg_w=1e-5, reg_V=1e-5),
        },
        learning_rate_decay=0.02,
        row_norm_power=2,
        weight_state=0,
        vector_state=0,
        factor_state=0,
        initial_state=0.0,
        unused=("l1_w",),
    ),
    _Kind(
        "ftrl",
        {
            "regression": _Defaults(learning_rate=0.1, reg_w=0.01, reg_V=0.03),
            "classification": _Defaults(learning_rate=0.2, reg_w=1e-5, reg_V=1e-5),
        },
        learning_rate_decay=0.0,
        row_norm_power=1,
        weight_state=2,
        vector_state=0,
        factor_state=1,
        initial_state=0.0,
    ),
)


@dataclass(frozen=True)
class StochasticSolver:
    """One of `STOCHASTIC_SOLVERS` with its settings.

    Parameters
    ----------
    name : {"adagrad", "sgd", "ftrl"}
    loss : {"squared", "logistic"}
    learning_rate : float
    learning_rate_decay : float
        Epoch t (from 0) uses learning_rate / (1 + learning_rate_decay * t).
    reg_w, reg_V : float
        L2 strength on w and V.
    l1_w : float
        L1 strength on w, "ftrl" only.
    """

    name: str
    loss: str
    learning_rate: float
    learning_rate_decay: float
    reg_w: float
    reg_V: float
    l1_w: float = 0.0

    def new_table(
        self, n_outputs: int, n_features: int, n_factors: int, dtype: np.dtype, init_std: float, seed: int
    ) -> ParameterTable:
        """An initialised table with room for this solver's state."""
        kind = next(kind for kind in STOCHASTIC_SOLVERS if kind.name == self.name)
        state_size = kind.state_size(n_factors)
        table = ParameterTable(n_outputs, n_features, n_factors, state_size, dtype)
        state, bias_state = (np.full(size, kind.initial_state) for size in (state_size, BIAS_SIZE - 1))
        table.initialize(init_std, seed, state, bias_state)
        return table

    @property
    def advice(self) -> str:
        """What may help if training diverges."""
        return (
            f"use a smaller learning_rate (it was {self.learning_rate:g}) or init_std, a larger reg_V, or "
            "scale the columns of X to about 1"
        )

    def begin(
        self,
        table: ParameterTable,
        rows: SparseRows,
        targets: Sequence[NDArray[np.float64]],
        sample_weight: NDArray[np.float64],
        seed: int,
        n_threads: int = 1,
    ) -> StochasticRun:
        """Make ready to train on these samples."""
        return StochasticRun(self, table, rows, targets, sample_weight, seed, n_threads)

    def run_epoch(
        self,
        table: ParameterTable,
        output: int,
        rows: SparseRows,
        target: NDArray[np.float64],
        sample_weight: NDArray[np.float64],
        runs: NDArray[np.int64],
        run_length: int,
        epoch: int,
        threads: Threads | None = None,
    ) -> float:
        """Visit all runs once; returns the sum of weight * loss, infinite if a score diverged."""
        rate = self.learning_rate / (1.0 + self.learning_rate_decay * epoch)

        def visit(part: NDArray[np.int64], bias: NDArray[np.float64], **own: Any) -> float:
            loss: float = core.train_rows(
                rows.data, rows.indices, rows.indptr, target, sample_weight,
                part, run_length, N_LANES,
                table.rows[output], bias, table.width,
                core.SOLVERS[self.name], core.LOSSES[self.loss], rate, self.reg_w, self.reg_V, self.l1_w,
                **own,
            )  # fmt: skip
            return loss

        loss_sum = 0.0
        for segment in _segments(runs, rows.nnz, table.width):
            if threads is None:
                loss_sum += visit(segment, table.bias[output])
            else:
                loss_sum += threads.visit(visit, segment, table.rows[output], table.bias[output])
            if not np.isfinite(loss_sum):
                break
        return loss_sum


class StochasticRun:
    """Training on one data set; see `StochasticSolver.begin`."""

    converged = False  # that is for early stopping to say

    def __init__(
        self,
        solver: StochasticSolver,
        table: ParameterTable,
        rows: SparseRows,
        targets: Sequence[NDArray[np.float64]],
        sample_weight: NDArray[np.float64],
        seed: int,
        n_threads: int,
    ) -> None:
        self._solver, self._table, self._rows = solver, table, rows
        self._targets, self._sample_weight = targets, sample_weight
        self._seed = seed
        self._threads = Threads(n_threads, rows) if n_threads > 1 else None
        self._last_run = 0
        self._run_length = run_length_of(rows.n_samples, rows.nnz)
        pages = Pages(rows.indptr, (rows.indices, rows.data), (*targets, sample_weight))
        self._windows = (
            None if pages.fit_memory else Windows(pages, rows, targets, sample_weight, self._run_length)
        )

    def __enter__(self) -> StochasticRun:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._threads is not None:
            self._threads.__exit__(*exception)

    def run_epoch(self, epoch: int) -> float:
        """Visit all samples once for every output; returns the sum of weight * loss."""
        loss_sum = 0.0
        for window in self.windows(epoch):
            loss_sum += self.visit(window, epoch)
            if not np.isfinite(loss_sum):
                break
        return loss_sum

    @property
    def is_windowed(self) -> bool:
        """Whether the rows are too large for memory, and read window by window."""
        return self._windows is not None

    def windows(self, epoch: int, share: tuple[int, int] = (0, 1)) -> Iterator[Window]:
        """What an epoch visits: all rows at once, if there is memory for them.

        With `share` (i, n) only the i-th of n parts of it; one after the other, they are the epoch.
        """
        i, n = share
        if self._windows is not None:
            yield from self._windows.epoch(self._seed, epoch, share)
            return
        rows = self._rows
        runs, _ = visiting_order(rows.n_samples, rows.nnz, self._seed, epoch)
        # Cut between two times `N_LANES` runs, whose rows are interleaved: the order stays what it was.
        n_lanes = -(-len(runs) // N_LANES)
        runs = runs[n_lanes * i // n * N_LANES : n_lanes * (i + 1) // n * N_LANES]
        if len(runs):
            yield Window(rows, self._targets, self._sample_weight, runs, int(runs[-1]))

    def visit(self, window: Window, epoch: int) -> float:
        """Train on one of the `windows`; returns the sum of weight * loss."""
        self._last_run = window.last
        return sum(
            self._solver.run_epoch(
                self._table, output, window.rows, target, window.sample_weight,
                window.runs, self._run_length, epoch, self._threads,
            )
            for output, target in enumerate(window.targets)
        )  # fmt: skip

    @property
    def run_length(self) -> int:
        """Consecutive rows that are visited together."""
        return self._run_length

    def remembered(self) -> dict[str, NDArray[Any]]:
        """Nothing: the order of the samples is a function of the epoch."""
        return {}

    def all_finite(self) -> bool:
        """Whether the rows visited last have finite scores.

        What the updates of other rows did, the scores of the rows after them have shown.
        """
        n_shown = 1000  # at least a run of rows
        start = max(0, min(self._last_run, self._rows.n_samples - n_shown))
        rows = self._rows.part(start, start + n_shown)
        return bool(np.isfinite(score_table(self._table, rows)).all())


def visiting_order(n_samples: int, nnz: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], int]:
    """(runs, run_length) of one epoch: the first row of each run, in the order of the visit.

    A function of its arguments alone: a fit that is continued visits the samples like one that was
    never interrupted.
    """
    run_length = run_length_of(n_samples, nnz)
    n_runs = -(-n_samples // run_length)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    runs = rng.permutation(n_runs) * run_length
    return runs.astype(np.int64, copy=False), run_length


def run_length_of(n_samples: int, nnz: int) -> int:
    """Consecutive rows that are visited together."""
    mean_nnz = max(1.0, nnz / n_samples)
    return int(max(1, min(_RUN_NNZ // mean_nnz, n_samples // _MIN_RUNS)))


def _segments(runs: NDArray[np.int64], nnz: int, width: int) -> list[NDArray[np.int64]]:
    """The runs in equal parts of whole lanes, each for one call of the kernel.

    A thread alone visits the same samples in the same order, however many parts there are.
    """
    n_segments = max(1, nnz // entries_per_call(width))
    length = -(-len(runs) // n_segments)
    length = -(-length // N_LANES) * N_LANES
    return [runs[start : start + length] for start in range(0, len(runs), length)]
