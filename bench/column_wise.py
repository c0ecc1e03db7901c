"""How fast are ALS and Gibbs sampling, and what do they reach?

Time: an iteration of W1 with one thread and with two, against myFM, in turns. Quality: test loss of the mean
prediction against iterations and seconds of training, on the chess data (k = 16) and on any files given.
Every program has its default settings; those of ALS on the files are a regularisation that suits ratings.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.environment import usable_cores
from bench.peer_programs import MYFM, MyFM, available, close
from bench.pictures import COLOURS, OTHERS, legend_below, new_figure
from bench.programs import FLOAT, Program
from bench.report import Row, Section, Table, Target, at_least
from bench.settings import Settings
from bench.timing import medians, repeated, take_turns
from bench.workloads import Workload, load
from fmfast.columns import SparseColumns
from fmfast.model import score_table
from fmfast.solvers import SOLVERS
from fmfast.solvers.gibbs import ChainState, GibbsSampler
from fmfast.solvers.sweep import starting_std
from fmfast.validation import SparseRows, check_X

FACTORS = (8, 32)
MYFM_TARGET, THREADS_TARGET = 4.0, 1.6
GIBBS, ALS = "fmfast Gibbs", "fmfast ALS"
CHESS_FACTORS, FILE_FACTORS = 16, 10
CHECKPOINTS = (5, 10, 20, 50, 100, 200)
BURN_IN = 10
ALS_PENALTY = {"chess": {"reg_w": 0.003, "reg_V": 0.003}}


class _ByColumn:
    """What both programs share: the data, the scale of the target, test predictions."""

    def __init__(self, w: Workload, n_threads: int) -> None:
        self.rows: SparseRows = check_X(w.X_train, dtype=FLOAT)
        self.test: SparseRows = check_X(w.X_test, dtype=FLOAT)
        self.task = w.task
        y = np.asarray(w.y_train, dtype=np.float64)
        self.offset, self.scale = (y.mean(), y.std()) if w.task == "regression" else (0.0, 1.0)
        self.target = (y - self.offset) / self.scale
        self.executor = ThreadPoolExecutor(n_threads) if n_threads > 1 else None


class Gibbs(_ByColumn):
    """A chain; its predictions are the mean over the iterations after the burn-in."""

    def __init__(self, w: Workload, n_factors: int, n_threads: int = 1) -> None:
        super().__init__(w, n_threads)
        columns = SparseColumns.of(self.rows, FLOAT)
        groups = columns.groups(columns.fields())
        std = starting_std(self.rows, np.empty(0), n_factors, self.task)
        self.chain = ChainState.new(1, n_factors, groups, FLOAT, std, 0)
        is_probit = self.task == "classification"
        self.sampler = GibbsSampler(self.chain, self.rows, [self.target], np.empty(0), is_probit)
        self.sum: NDArray | float = 0.0
        self.n_draws = 0
        self.train = repeated(lambda: self.sampler.iterate(self.executor))

    def raw_scores(self, X: Any) -> NDArray:
        """Of the test rows, whatever X is: takes in the present draw."""
        scores = score_table(self.chain.table, self.test)[0]
        if self.task == "classification":
            from scipy.special import ndtr

            scores = ndtr(scores)
        if self.chain.n_iterations <= BURN_IN + 1:
            self.sum, self.n_draws = 0.0, 0
        self.sum = self.sum + scores
        self.n_draws += 1
        mean = self.sum / self.n_draws
        if self.task == "regression":
            return self.scale * mean + self.offset
        p = np.clip(mean, 1e-12, 1.0 - 1e-12)
        return np.log(p) - np.log1p(-p)


class Als(_ByColumn):
    """Alternating least squares."""

    def __init__(self, w: Workload, n_factors: int, n_threads: int = 1, **penalty: float) -> None:
        super().__init__(w, n_threads)
        kind = SOLVERS["als"]
        solver = kind.configured(self.task, 1.0, **{"reg_w": None, "reg_V": None, **penalty}, tol=0.0)
        std = kind.starting_std(self.rows, np.empty(0), n_factors, self.task)
        self.table = solver.new_table(1, self.rows.n_features, n_factors, FLOAT, std, 0)
        self.run = solver.begin(self.table, self.rows, [self.target], np.empty(0), 0, n_threads)
        self.epoch = 0
        self.train = repeated(self._run_epoch)

    def _run_epoch(self) -> None:
        self.run.run_epoch(self.epoch)
        self.epoch += 1

    def raw_scores(self, X: Any) -> NDArray:
        return self.scale * score_table(self.table, check_X(X, dtype=FLOAT))[0] + self.offset


def compare_times(w: Workload, n_factors: int, rounds: int, with_myfm: bool) -> list[Row]:
    programs: dict[tuple[str, int], Program] = {}
    for n_threads in (1, 2) if len(usable_cores()) > 1 else (1,):
        programs[GIBBS, n_threads] = Gibbs(w, n_factors, n_threads)
        programs[ALS, n_threads] = Als(w, n_factors, n_threads)
    if with_myfm:
        programs[MYFM, 1] = MyFM(w, n_factors)
    turns = {str(key): program.train for key, program in programs.items()}
    t = medians(take_turns(turns, rounds, per_turn=2))
    close(programs.values())
    one = t[str((GIBBS, 1))]
    return [
        {
            "workload": w.name,
            "k": n_factors,
            "program": name,
            "threads": n_threads,
            "ms per iteration": 1e3 * t[str((name, n_threads))],
            "x fmfast Gibbs, one thread": t[str((name, n_threads))] / one,
        }
        for name, n_threads in programs
    ]


def compare_quality(w: Workload, with_myfm: bool) -> tuple[list[Row], dict[str, Any]]:
    """One row per program and number of iterations, and the curves."""
    k = CHESS_FACTORS if w.name == "chess" else FILE_FACTORS
    programs: dict[str, Program] = {GIBBS: Gibbs(w, k), ALS: Als(w, k, **ALS_PENALTY.get(w.name, {}))}
    if with_myfm:
        programs[MYFM] = MyFM(w, k)
    rows, curves = [], {}
    for name, program in programs.items():
        seconds, losses, total = [], [], 0.0
        for _ in range(CHECKPOINTS[-1]):
            total += program.train(1)[0]
            seconds.append(total)
            losses.append(w.test_loss(program.raw_scores(w.X_test)))
        curves[name] = {"seconds": seconds, "losses": losses}
        rows += [
            {
                "program": name,
                "k": k,
                "iterations": n,
                "seconds": seconds[n - 1],
                w.metric: losses[n - 1],
            }
            for n in CHECKPOINTS
        ]
    close(programs.values())
    return rows, {"metric": w.metric, "curves": curves}


def run(settings: Settings) -> Section:
    makers, notes = available()
    with_myfm = MYFM in makers
    times, targets, tables, data = [], list[Target](), [], {}
    w = load("W1", settings.scale)
    for n_factors in FACTORS:
        rows = compare_times(w, n_factors, settings.rounds, with_myfm)
        times += rows
        t = {(row["program"], row["threads"]): row["ms per iteration"] for row in rows}
        if with_myfm:
            ratio = t[MYFM, 1] / t[GIBBS, 1]
            targets.append(at_least(f"{MYFM} / {GIBBS}, W1 k={n_factors}", ratio, MYFM_TARGET))
        if (GIBBS, 2) in t:
            speed_up = t[GIBBS, 1] / t[GIBBS, 2]
            targets.append(at_least(f"{GIBBS}, two threads, W1 k={n_factors}", speed_up, THREADS_TARGET))
    tables.append(Table("Time of an iteration", times))
    for source in ("chess", *settings.data):
        w = load(source)
        rows, data[w.name] = compare_quality(w, with_myfm)
        tables.append(Table(f"{w.name}, {w.X_train.shape[0]:,} training rows, one thread", rows))
    return Section(
        title="ALS and Gibbs sampling",
        about="Time of an iteration, and test loss against iterations and seconds.",
        tables=tables,
        targets=targets,
        notes=[note for note in notes if note.startswith(MYFM)],
        data=data,
    )


def draw(section: Section) -> Any:
    figure, axes = new_figure(len(section.data), width=6.0, height=4.4)
    colours = {GIBBS: COLOURS["fmfast"], ALS: COLOURS["fmfast light"], MYFM: OTHERS[0]}
    for ax, (name, found) in zip(axes, section.data.items(), strict=True):
        for program, curve in found["curves"].items():
            ax.plot(curve["seconds"], curve["losses"], label=program, color=colours[program], linewidth=1.8)
        best = min(min(curve["losses"]) for curve in found["curves"].values())
        ax.set_xscale("log")
        ax.set_ylim(0.995 * best, 1.1 * best)
        ax.set(title=name, xlabel="seconds of training", ylabel=found["metric"])
        legend_below(ax, 3)
    figure.suptitle("200 iterations with one thread")
    return figure
