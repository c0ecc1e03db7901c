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
every epoch draws a new order. Small data has runs of one row or a few: nearly a full shuffle.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmfast._dispatch import core
from fmfast.table import BIAS_SIZE, ParameterTable, padded_width
from fmfast.validation import SparseRows

N_LANES = 8
_RUN_NNZ = 512  # nonzeros that make a run worth a jump in memory: two kilobytes of indices
_MIN_RUNS = 4096  # below which shorter runs are better for the mixing than long ones for the speed
_SEGMENT_NNZ = 1 << 22  # nonzeros per call of a kernel: how long Ctrl-C may have to wait


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

    def state_size(self, n_factors: int) -> int:
        """Numbers of state per feature."""
        return self.weight_state + self.vector_state + self.factor_state * padded_width(n_factors)

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
SOLVERS = {
    kind.name: kind
    for kind in (
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
}


@dataclass(frozen=True)
class StochasticSolver:
    """One of `SOLVERS` with its settings.

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
        kind = SOLVERS[self.name]
        state_size = kind.state_size(n_factors)
        table = ParameterTable(n_outputs, n_features, n_factors, state_size, dtype)
        state, bias_state = (np.full(size, kind.initial_state) for size in (state_size, BIAS_SIZE - 1))
        table.initialize(init_std, seed, state, bias_state)
        return table

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
        executor: ThreadPoolExecutor | None = None,
        n_threads: int = 1,
    ) -> float:
        """Visit all runs once; returns the sum of weight * loss, infinite if a score diverged.

        With an executor, n_threads of its threads share the runs and update the one table without locks
        (Hogwild; Niu, Recht, Re, Wright 2011).
        """
        rate = self.learning_rate / (1.0 + self.learning_rate_decay * epoch)

        def visit(part: NDArray[np.int64], bias: NDArray[np.float64]) -> float:
            return core.train_rows(
                rows.data, rows.indices, rows.indptr, target, sample_weight,
                part, run_length, N_LANES,
                table.rows[output], bias, table.width,
                core.SOLVERS[self.name], core.LOSSES[self.loss], rate, self.reg_w, self.reg_V, self.l1_w,
            )  # fmt: skip

        loss_sum = 0.0
        for segment in _segments(runs, rows.nnz):
            if executor is None:
                loss_sum += visit(segment, table.bias[output])
            else:
                # Every sample moves w0, so each thread has its own: a cache line that all of them write would
                # hold all of them up.
                parts = np.array_split(segment, n_threads)
                biases = [_on_its_own_cache_line(table.bias[output]) for _ in parts]
                loss_sum += sum(executor.map(visit, parts, biases))
                table.bias[output] = _merged(table.bias[output], biases)
            if not np.isfinite(loss_sum):
                break
        return loss_sum


def _on_its_own_cache_line(bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """A copy of w0 and its state that shares no cache line with another."""
    line = np.zeros(32)  # 256 bytes: at least one whole line around the middle
    copy = line[16 : 16 + len(bias)]
    copy[:] = bias
    return copy


def _merged(before: NDArray[np.float64], biases: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean of the threads' w0, and the sum of what they added to its state."""
    merged = before + sum(bias - before for bias in biases)
    merged[0] = np.mean([bias[0] for bias in biases])
    return merged


def visiting_order(n_samples: int, nnz: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], int]:
    """(runs, run_length) of one epoch: the first row of each run, in the order of the visit.

    A function of its arguments alone: a fit that is continued visits the samples like one that was
    never interrupted.
    """
    mean_nnz = max(1.0, nnz / n_samples)
    run_length = int(max(1, min(_RUN_NNZ // mean_nnz, n_samples // _MIN_RUNS)))
    n_runs = -(-n_samples // run_length)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    runs = rng.permutation(n_runs) * run_length
    return runs.astype(np.int64, copy=False), run_length


def _segments(runs: NDArray[np.int64], nnz: int) -> list[NDArray[np.int64]]:
    """The runs in equal parts of whole lanes, each of about `_SEGMENT_NNZ` nonzeros."""
    n_segments = max(1, nnz // _SEGMENT_NNZ)
    length = -(-len(runs) // n_segments)
    length = -(-length // N_LANES) * N_LANES
    return [runs[start : start + length] for start in range(0, len(runs), length)]
