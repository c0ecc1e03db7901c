"""What runs on the workers: data made ready, and tasks on the one table that each worker has of a fit.

A worker's table is not the result of a task, since no task changes what another may need again. It is in
a *slot*, which says in which *state* it is: "start", or the name of the last round whose outcome has been
added. Each task says what state it needs, and brings the update that leads there from the state before. If
the table is neither, the task has no effect but the error `StaleTable`, and whoever runs the fit sees to it.
So a task may be run once or five times, here or elsewhere, after its worker has died or while a copy of it
still runs: no update is ever added twice, and none in part.

This module imports Dask for nothing but the name of the worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from fmfast import targets as check_y
from fmfast import validation as check
from fmfast.averaging import Shard, Update, apply, local_changes, train_share
from fmfast.base import examples_of
from fmfast.dask.parts import read_part
from fmfast.model import FMModel, largest_of, moments
from fmfast.solvers.sgd import StochasticSolver
from fmfast.table import ParameterTable
from fmfast.training import Examples, count_threads, mean_loss, solver_targets

# -- data -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """A part, checked, as `fit` of the local estimator has it in hand: labels are still what they were."""

    rows: check.SparseRows | None  # None: a part without rows
    target: NDArray[Any]
    weight: NDArray[np.float64]
    names: NDArray[Any] | None

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + (
            0 if self.rows is None else _size_of(self.rows, self.target, self.weight)
        )


def _size_of(rows: check.SparseRows, *columns: NDArray[Any]) -> int:
    return sum(array.nbytes for array in (rows.data, rows.indices, rows.indptr, *columns))


def check_part(raw: tuple[Any, Any, Any], plain: Any, name: str) -> Checked:
    """Check a part with the local estimator's own checks; an error says which part it is."""
    try:
        X, y, sample_weight = raw
        if getattr(X, "shape", (1,))[0] == 0 and name:
            return Checked(None, np.empty(0), np.empty(0), None)
        names = check.feature_names_of(X)
        rows = plain._check_X(X)
        target = plain._target(y, rows.n_samples)
        weight = check_y.check_sample_weight(sample_weight, rows.n_samples)
    except (ValueError, TypeError) as error:
        if not name:
            raise
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"In {name}: {error}") from error
    return Checked(rows, target, weight, names)


def facts_of(checked: Checked, power: int, is_classifier: bool) -> dict[str, Any] | None:
    """What the fit must know of a part: a few numbers, and the labels that occur."""
    rows = checked.rows
    if rows is None:
        return None
    if len(checked.weight) and not checked.weight.all():
        rows = rows.take(np.flatnonzero(checked.weight))
    facts: dict[str, Any] = {
        "n_samples": rows.n_samples,
        "n_features": rows.n_features,
        "row_norm": rows.total_row_norm(power),
        "largest_x": rows.largest_value(),
        "names": checked.names,
    }
    if is_classifier:
        facts["classes"] = np.unique(checked.target)
    else:
        facts["largest"] = largest_of(checked.target)
    return facts


def moments_of(checked: Checked, largest: float, mean: float | None = None) -> tuple[float, float]:
    if checked.rows is None:
        return 0.0, 0.0
    return moments(checked.target, checked.weight, largest, mean)


class Prepared:
    """A part ready to be trained on, and what of it is set apart for validation.

    One of a data set on disk is sent to another worker as its path, and read there.
    """

    def __init__(
        self, shard: Shard | None, validation: Examples | None, origin: tuple[Any, ...] | None = None
    ) -> None:
        self.shard, self.validation, self._origin = shard, validation, origin

    def __reduce__(self) -> Any:
        if self._origin is not None:
            return prepare_path, self._origin
        return Prepared, (self.shard, self.validation)

    def __sizeof__(self) -> int:
        size = object.__sizeof__(self)
        if self.shard is not None:
            size += _size_of(self.shard.rows, *self.shard.targets, self.shard.sample_weight)
        if self.validation is not None:
            size += _size_of(self.validation.rows, self.validation.target, self.validation.weight)
        return size


def prepared_facts(part: Prepared) -> tuple[float, int, int]:
    """Weight and number of the samples to train on, and the number of those for validation."""
    shard, validation = part.shard, part.validation
    n_validation = 0 if validation is None else validation.rows.n_samples
    if shard is None:
        return 0.0, 0, n_validation
    examples = Examples(shard.rows, shard.targets[0], shard.sample_weight)
    return examples.total_weight, shard.rows.n_samples, n_validation


def is_there(part: object) -> bool:
    return part is not None


def prepare(
    checked: Checked,
    shell: FMModel,
    n_features: int,
    seed: int,
    split: tuple[float, int] | None,
    name: str,
    origin: tuple[Any, ...] | None = None,
) -> Prepared:
    """Labels become codes, targets are standardised, and a part is set apart for validation.

    `split` is its fraction of the samples, and the seed of the machine.
    """
    if checked.rows is None:
        return Prepared(None, None, None)
    rows = replace(checked.rows, n_features=n_features)
    examples = examples_of(rows, checked.target, checked.weight, {"classes": shell.classes})
    validation = None
    if split is not None:
        fraction, split_seed = split
        n_validation = round(fraction * examples.rows.n_samples)
        if 0 < n_validation < examples.rows.n_samples:
            examples, validation = examples.split(n_validation, split_seed, shell.classes is not None)
    if not examples.rows.n_samples:
        return Prepared(None, validation, origin)
    targets = list(solver_targets(shell, examples.target))
    return Prepared(Shard(examples.rows, targets, examples.weight, seed), validation, origin)


def prepare_path(path: str, plain: Any, *arguments: Any) -> Prepared:
    """`prepare` of a data set on disk."""
    name = f"the data set {path!r}"
    origin = (path, plain, *arguments)
    checked = check_part(read_part(path), plain, name)
    shell, n_features, seed, split = arguments
    return prepare(checked, shell, n_features, seed, split, name, origin)


def check_validation(checked: Checked, shell: FMModel, n_features: int, name: str) -> Examples | None:
    """A part of an `eval_set`."""
    if checked.rows is None:
        return None
    rows = replace(checked.rows, n_features=n_features)
    return examples_of(rows, checked.target, np.empty(0), {"classes": shell.classes}, name)


# -- tables -----------------------------------------------------------------------------------------


class StaleTable(Exception):
    """The table of this worker is not in the state that a task needs, and the task has had no effect."""


@dataclass(frozen=True)
class Job:
    """What all tasks of a fit must know."""

    fit: str
    solver: StochasticSolver
    n_outputs: int
    n_features: int
    n_factors: int
    dtype: str
    init_std: float
    seed: int
    n_jobs: int | None  # None: all threads of a worker


@dataclass(frozen=True)
class State:
    """The state in which a task needs the table.

    Attributes
    ----------
    name, before : str
        Of it, and of the one from which the updates that come with the task lead there.
    """

    name: str
    before: str | None = None


@dataclass(frozen=True)
class Stretch:
    """Rows of a table as they are, for a worker that has none: features that were ever touched."""

    features: NDArray[Any]
    rows: NDArray[Any]
    bias: NDArray[np.float64]

    def __sizeof__(self) -> int:
        return object.__sizeof__(self) + self.features.nbytes + self.rows.nbytes

    def write_to(self, table: ParameterTable) -> None:
        table.rows[:, self.features] = self.rows
        table.bias[:] = self.bias


class Slot:
    """The one table of a fit on a worker; use it under its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.state: str | None = None  # None: meaningless
        self.table: Any = None
        self.counts: NDArray[np.uint32] = np.empty(0, np.uint32)
        self.touched: NDArray[np.bool_] = np.empty(0, bool)  # ever
        self.last: tuple[str, Any] | None = None
        self._expected: set[int] = set()

    def bring(
        self, job: Job, start: Any, state: State, updates: Sequence[Update], stretches: Sequence[Any]
    ) -> None:
        """Get the table into a state, or raise `StaleTable`."""
        if self.state == state.name:
            return
        if self.state is not None and self.state == state.before:
            self.state = None  # should adding fail, it is neither the one nor the other
            for update in updates:
                apply(self.table, update)
                self.touched[update.features] = True
            self.state = state.name
            return
        if state.name != "start" and not stretches:
            raise StaleTable(f"the table is in state {self.state}, not {state.name}")
        self.state = None
        self.table = None  # before there is another
        self.table = _first_table(job, start)
        self.counts = np.zeros(job.n_features, np.uint32)
        self.touched = np.zeros(job.n_features, bool)
        self._expected.clear()
        for stretch in stretches:
            stretch.write_to(self.table)
            self.touched[stretch.features] = True
        self.state = state.name

    def expect(self, job: Job, shards: Sequence[Shard]) -> None:
        """Take note of what is trained in place."""
        for shard in shards:
            if shard.seed not in self._expected:  # no other shard has it
                self.touched[shard.rows.present_features()] = True
                self._expected.add(shard.seed)


def _first_table(job: Job, start: ParameterTable | None) -> ParameterTable:
    """The table that all workers start from: a function of the seed, or that of a model."""
    if start is not None:
        return start.copy()
    return job.solver.new_table(
        job.n_outputs, job.n_features, job.n_factors, np.dtype(job.dtype), job.init_std, job.seed
    )


_SLOTS: WeakValueDictionary[tuple[str, str], Slot] = WeakValueDictionary()
_SLOTS_LOCK = threading.Lock()


class Holder:
    """Keeps the slot of a fit on the worker where it is; sent to another worker, it keeps that one's.

    It is the result of a task: once nobody wants that any more, the worker lets go of the table.
    """

    def __init__(self, fit: str) -> None:
        self.fit = fit
        key = (fit, _worker_name())
        with _SLOTS_LOCK:
            slot = _SLOTS.get(key)
            if slot is None:
                slot = _SLOTS[key] = Slot()
        self.slot = slot

    def __reduce__(self) -> Any:
        return Holder, (self.fit,)


def _worker_name() -> str:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:  # unpickled outside of a task
        return ""


def _n_threads(n_jobs: int | None, n_samples: int) -> int:
    if n_jobs is None:
        from distributed import get_worker

        n_jobs = int(get_worker().state.nthreads)
    return count_threads(n_jobs, n_samples)


def states(fit: str) -> list[str]:
    """The states of the tables of a fit on this worker; not a task."""
    with _SLOTS_LOCK:
        return [slot.state for (of, _), slot in _SLOTS.items() if of == fit and slot.state is not None]


# -- tasks on a table -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """The i-th of n rounds of an epoch.

    Attributes
    ----------
    name : str
        Of the state after it.
    alone : bool
        There is one worker: its table is trained in place.
    """

    name: str
    epoch: int
    share: tuple[int, int]
    alone: bool
    n_slices: int


@dataclass(frozen=True)
class Report:
    """What a worker says of its part in a round.

    Attributes
    ----------
    loss : float
        Sum of weight * loss.
    n_bytes : int
        Size of its changes.
    seconds : tuple of float
        To get the table into its state, and to train.
    """

    loss: float
    n_samples: int
    n_touched: int
    n_bytes: int
    seconds: tuple[float, float]


def step(
    holder: Holder,
    job: Job,
    start: Any,
    state: State,
    updates: Sequence[Update],
    stretches: Sequence[Stretch],
    prepared: Sequence[Prepared],
    turn: Round,
    after: Any = None,
) -> tuple[Any, ...]:
    """A worker's part in a round: (Report, slice 0 of its changes, slice 1, ...).

    `after` is what must have been done before.
    """
    slot = holder.slot
    shards = [part.shard for part in prepared if part.shard is not None]
    with slot.lock:
        if turn.alone and slot.state == turn.name and slot.last is not None and slot.last[0] == turn.name:
            return slot.last[1]  # done already; only the answer was lost
        started = time.perf_counter()
        slot.bring(job, start, state, updates, stretches)
        ready = time.perf_counter()
        n_samples = sum(shard.rows.n_samples for shard in shards)
        n_threads = _n_threads(job.n_jobs, n_samples)
        if turn.alone:
            slot.expect(job, shards)
            slot.state = None
            loss = train_share(slot.table, job.solver, shards, turn.epoch, turn.share, n_threads)
            seconds = ready - started, time.perf_counter() - ready
            slot.last = turn.name, (Report(loss, n_samples, 0, 0, seconds),)
            slot.state = turn.name
            return slot.last[1]
        changes, loss = local_changes(
            slot.table, slot.counts, job.solver, shards, turn.epoch, turn.share, n_threads
        )
        seconds = ready - started, time.perf_counter() - ready
        report = Report(loss, changes.n_samples, len(changes.features), changes.nbytes, seconds)
        return report, *changes.split(job.n_features, turn.n_slices)


def evaluate(
    holder: Holder,
    job: Job,
    start: Any,
    state: State,
    updates: Sequence[Update],
    stretches: Sequence[Stretch],
    validation: Sequence[Any],
    shell: FMModel,
    with_scores: bool,
) -> list[tuple[Any, ...]]:
    """For each part of the validation data (mean loss, weight), or (scores, examples' target)."""
    found: list[tuple[Any, ...]] = []
    with holder.slot.lock:
        holder.slot.bring(job, start, state, updates, stretches)
        for part in validation:
            model = replace(shell, table=holder.slot.table)
            examples = part.validation if isinstance(part, Prepared) else part
            if examples is None:
                continue
            raw = model.score(examples.rows, _n_threads(job.n_jobs, examples.rows.n_samples))
            if not np.isfinite(raw).all():
                found.append((np.nan, 0.0))
            elif with_scores:
                found.append((raw, examples.target))
            else:
                found.append((mean_loss(model, raw, examples), examples.total_weight))
    return found


def stretch_of(
    holder: Holder,
    job: Job,
    start: Any,
    state: State,
    updates: Sequence[Update],
    stretches: Sequence[Stretch],
    part: tuple[int, int],
) -> Stretch:
    """The i-th of n stretches of the table, of features that were ever touched."""
    slot = holder.slot
    with slot.lock:
        slot.bring(job, start, state, updates, stretches)
        i, n = part
        first, last = (job.n_features * place // n for place in (i, i + 1))
        features = np.flatnonzero(slot.touched[first:last]) + first
        return Stretch(features, slot.table.rows[:, features], slot.table.bias.copy())
