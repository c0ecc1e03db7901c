"""A fit on a cluster: who trains on what, round by round, and what to do when a worker is lost.

A round's steps run on the workers that hold the parts; the changes they return stay there, are cut into
slices of features, and each slice is merged along a tree. The next round's steps take the outcome as
arguments: they are what brings it to every table. The client sees a few numbers of each step.

When anything goes wrong that is not the user's fault, there is one remedy. The client asks all workers in
which state their tables are (`worker.states`), takes the most advanced one, and goes on from there: workers
with another table, or without one, get the rows that were ever touched from one that has it. If no table is
left, the fit starts anew. Workers that have joined are workers without a table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from operator import getitem
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

from fmfast.averaging import Changes, Update, combined, merged, merges_of_epoch, stale_updates_of
from fmfast.dask.worker import (
    Holder,
    Job,
    Report,
    Round,
    StaleTable,
    State,
    Stretch,
    evaluate,
    states,
    step,
    stretch_of,
)

MAX_SLICES = 8
FAN_IN = 4
MAX_RECOVERIES = 20  # in a row, without a round in between
_GLANCE = 2.0  # seconds between two looks at who is there
PATIENCE = 120.0  # seconds to wait for a worker, if there is none

_T = TypeVar("_T")


def merge_slices(slices: Sequence[Changes], stale_updates: float | None) -> Changes | Update:
    """A node of the tree; at its root the changes become an update."""
    total = slices[0]
    for other in slices[1:]:
        total = merged(total, other)
    return total if stale_updates is None else combined(total, stale_updates)


class Lost(Exception):
    """Something that was on a worker is no more."""


class Training:
    """The tables of a fit, and the rounds that train them; use it in a `with` statement.

    Parameters
    ----------
    client : distributed.Client
    job : Job
    start : callable () -> future of ParameterTable, or None
        What the tables begin with; called again if it is lost.
    parts : sequence of callables () -> future of Prepared
        What makes a part anew that is lost.
    prepared : sequence of futures of Prepared
        What to train on.
    sizes : list of int
        Samples of each part.
    wanted_merges : int or None
        Rounds of an epoch; None: as `merges_of_epoch` has it.
    first_epoch : int
        Epochs that the table has behind it.

    Attributes
    ----------
    position : tuple of int
        Epoch and round that come next.
    reports : dict of lists of Report
        What the workers said of each round.
    n_recoveries : int
    """

    def __init__(
        self,
        client: Any,
        job: Job,
        start: Callable[[], Any],
        parts: Sequence[Callable[[], Any]],
        prepared: Sequence[Any],
        sizes: Sequence[int],
        wanted_merges: int | None,
        first_epoch: int = 0,
    ) -> None:
        self._client, self._job, self._sizes, self._wanted = client, job, sizes, wanted_merges
        self._make_start, self._make_part = start, parts
        self._start = start()
        self._parts = list(prepared)
        self._holders: dict[str, Any] = {}  # by worker
        self._home: dict[int, str] = {}  # the worker of each part
        # Of each state that a table may be in, the epoch and round that come next.
        self._names: dict[str, tuple[int, int]] = {"start": (first_epoch, 0)}
        self._n_rounds: dict[int, int] = {}  # of each epoch
        self._state = State("start")
        self._updates: list[Any] = []
        self._after: Any = None
        self._has_table: set[str] = set()
        self.position = (first_epoch, 0)
        self.reports: dict[tuple[int, int], list[Report]] = {}
        self.n_recoveries = self._in_a_row = 0

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *exception: object) -> None:
        # Workers let go of the tables; nobody waits for a step that still runs.
        self._holders, self._updates, self._parts, self._start, self._after = {}, [], [], None, None

    # -- who does what ---------------------------------------------------------------------------

    def _workers(self) -> list[str]:
        """Those that there are."""
        workers = list(self._client.nthreads())
        if not workers:
            try:
                self._client.wait_for_workers(1, timeout=PATIENCE)
            except TimeoutError as error:
                raise RuntimeError(
                    f"The cluster has had no worker for {PATIENCE:.0f} s, expected one at least; start some, "
                    "and fit again."
                ) from error
            workers = list(self._client.nthreads())
        return workers

    def _groups(self) -> dict[str, list[int]]:
        """The parts of each worker: where they are, unless some have too much and others too little."""
        workers = self._workers()
        if not set(self._home.values()) <= set(workers) or len(self._home) < len(self._parts):
            where = self._client.who_has(self._parts)
            for number, future in enumerate(self._parts):
                holders = [worker for worker in where.get(future.key, ()) if worker in workers]
                if self._home.get(number) not in workers:
                    self._home.pop(number, None)
                    if holders:
                        self._home[number] = holders[0]
        self._home = balanced(self._home, self._sizes, workers)
        groups: dict[str, list[int]] = {}
        for number, worker in sorted(self._home.items()):
            groups.setdefault(worker, []).append(number)
        return groups

    def _holder(self, worker: str) -> Any:
        holder = self._holders.get(worker)
        if holder is None or holder.status in ("cancelled", "lost", "error"):
            holder = self._submit(worker, Holder, self._job.fit)
            self._holders[worker] = holder
        return holder

    def _submit(self, worker: str | None, function: Callable[..., Any], *arguments: Any) -> Any:
        where = {} if worker is None else {"workers": [worker], "allow_other_workers": True}
        key = f"fmfast-{function.__name__}-{uuid4().hex}"
        return self._client.submit(function, *arguments, key=key, pure=False, **where)

    def _on_tables(self, workers: Sequence[str]) -> Callable[..., Any]:
        """What submits a task on the table of one of these workers, in the present state."""
        newcomers = set() if self._state.name == "start" else {*workers} - self._has_table
        stretches: list[Any] = []
        if newcomers:
            source = next((worker for worker in self._workers() if worker in self._has_table), None)
            if source is None:
                raise Lost
            n = max(1, min(MAX_SLICES, len(workers)))
            stretches = [
                self._submit(source, stretch_of, *self._arguments(source, []), (i, n)) for i in range(n)
            ]

        def submit(worker: str, function: Callable[..., Any], *arguments: Any) -> Any:
            given = stretches if worker in newcomers else []
            return self._submit(worker, function, *self._arguments(worker, given), *arguments)

        return submit

    def _arguments(self, worker: str, stretches: list[Any]) -> tuple[Any, ...]:
        return self._holder(worker), self._job, self._start, self._state, self._updates, stretches

    # -- rounds ----------------------------------------------------------------------------------

    def run_epoch(self) -> int:
        """The rounds up to the end of an epoch; returns how many epochs there were."""
        self._train_until((self.position[0] + 1, 0))
        return self.position[0]

    def _train_until(self, goal: tuple[int, int]) -> None:
        """Train up to a position, with the rounds that a loss has thrown back, be it over several epochs."""
        while self.position < goal:
            try:
                self._rest_of_epoch()
            except BaseException as error:
                if not self._is_loss(error):
                    raise
                self._recover(error)

    def _rest_of_epoch(self) -> None:
        """All rounds are on their way before the first is done: no worker waits for the client."""
        epoch = self.position[0]
        groups = self._groups()
        if epoch not in self._n_rounds:
            self._n_rounds[epoch] = merges_of_epoch(epoch, len(groups), self._wanted)
        n = self._n_rounds[epoch]
        futures = {(epoch, i): self._submit_round(groups, epoch, i, n) for i in range(self.position[1], n)}
        try:
            self._gathered([future for of_round in futures.values() for future in of_round], list(groups))
        finally:
            for place, of_round in futures.items():
                if all(future.status == "finished" for future in of_round):
                    with suppress(Exception):  # an error that is on its way says more
                        self.reports[place] = self._client.gather(of_round)
        self._in_a_row = 0

    def _submit_round(self, groups: dict[str, list[int]], epoch: int, i: int, n: int) -> list[Any]:
        """Futures of the reports."""
        n_slices = min(len(groups), MAX_SLICES)
        turn = Round(f"{epoch}.{i}.{uuid4().hex[:8]}", epoch, (i, n), len(groups) == 1, n_slices)
        submit = self._on_tables(list(groups))
        steps = [
            submit(worker, step, [self._parts[number] for number in numbers], turn, self._after)
            for worker, numbers in groups.items()
        ]
        updates: list[Any] = []
        # A single worker hands on nothing but its turn: without it, Dask might take a later round first.
        self._after = steps[0] if turn.alone else None
        if not turn.alone:
            workers = list(groups)
            for s in range(n_slices):
                slices = [self._submit(w, getitem, one, s + 1) for w, one in zip(workers, steps, strict=True)]
                updates.append(self._tree(slices, workers, s))
        self.position = (epoch, i + 1) if i + 1 < n else (epoch + 1, 0)
        self._names[turn.name] = self.position
        self._state, self._updates = State(turn.name, self._state.name), updates
        self._has_table = set(groups)
        return [self._submit(w, getitem, one, 0) for w, one in zip(groups, steps, strict=True)]

    def _tree(self, slices: list[Any], workers: list[str], number: int) -> Any:
        """The merged update of one slice; each has its root on another worker."""
        order = [(place + number) % len(slices) for place in range(len(slices))]
        nodes = [(slices[place], workers[place]) for place in order]
        while True:
            is_last = len(nodes) <= FAN_IN
            stale_updates = stale_updates_of(self._job.solver) if is_last else None
            above = []
            for start in range(0, len(nodes), FAN_IN):
                some = nodes[start : start + FAN_IN]
                where = some[0][1]
                above.append(
                    (self._submit(where, merge_slices, [node for node, _ in some], stale_updates), where)
                )
            nodes = above
            if is_last:
                return nodes[0][0]

    def loss_of(self, epoch: int) -> float:
        """Sum of weight * loss over all rounds of an epoch; infinite if training diverged.

        What was said of a round may be lost with a worker, though its outcome is not: such rounds count
        like the others. NaN if nothing is left of any.
        """
        n = self._n_rounds[epoch]
        known = [self.reports[epoch, i] for i in range(n) if (epoch, i) in self.reports]
        if not known:
            return math.nan
        return sum(report.loss for reports in known for report in reports) * (n / len(known))

    # -- between epochs --------------------------------------------------------------------------

    def settle(self) -> None:
        """Bring every table to the present state, so that losing one worker costs nothing that is done."""
        self.evaluate(list, None, False)

    def evaluate(
        self, validation: Callable[[], Sequence[Any]], shell: Any, with_scores: bool
    ) -> list[tuple[Any, ...]]:
        """What `worker.evaluate` finds on all validation data, futures of which `validation` returns."""
        return self._guarded(lambda: self._evaluate(validation(), shell, with_scores))

    def _evaluate(self, validation: Sequence[Any], shell: Any, with_scores: bool) -> list[tuple[Any, ...]]:
        workers = list(self._groups())
        submit = self._on_tables(workers)
        found = self._client.who_has(list(validation)) if validation else {}
        of_worker: dict[str, list[int]] = {worker: [] for worker in workers}
        for number, future in enumerate(validation):
            near = [worker for worker in found.get(future.key, ()) if worker in of_worker]
            of_worker[near[0] if near else workers[number % len(workers)]].append(number)
        futures = [
            submit(worker, evaluate, [validation[number] for number in numbers], shell, with_scores)
            for worker, numbers in of_worker.items()
        ]
        results = self._gathered(futures, workers)
        self._settled(workers)
        return [pair for result in results for pair in result]

    def _settled(self, workers: Sequence[str]) -> None:
        """All tables are in the present state: the updates that led there are no longer needed."""
        self._state, self._updates = State(self._state.name), []
        self._has_table = set(workers)

    def snapshot(self) -> list[Any]:
        """Futures of the stretches of the present table, on two workers if there are two."""
        return self._guarded(self._snapshot)

    def _snapshot(self) -> list[Any]:
        worker = next(iter(self._groups()))
        submit = self._on_tables([worker])
        stretches = [submit(worker, stretch_of, (i, MAX_SLICES)) for i in range(MAX_SLICES)]
        self._await(stretches, [worker])
        for stretch in stretches:
            if stretch.status == "error":
                raise stretch.exception()
        if len(self._workers()) > 1:
            self._client.replicate(stretches, n=2)
        return stretches

    def fetched(self, stretches: list[Any] | None) -> Iterator[Stretch]:
        """Those of a snapshot, of the present table if it is None; some twice, if workers are lost."""
        while True:
            try:
                for future in self.snapshot() if stretches is None else stretches:
                    yield self._fetch(future)
                return
            except BaseException as error:
                if not self._is_loss(error):
                    raise
                if stretches is not None:
                    raise RuntimeError(
                        "The parameters of the best epoch were lost with all workers that had them, expected "
                        "one to stay; fit again."
                    ) from error

    def _fetch(self, future: Any) -> Stretch:
        """Straight from a worker, if it can be reached from here."""
        try:
            return self._client.gather(future, direct=True)
        except (OSError, TimeoutError):
            return self._client.gather(future, direct=False)

    @property
    def parts(self) -> list[Any]:
        """The futures of what is trained on."""
        return self._parts

    # -- what goes wrong ---------------------------------------------------------------------------

    def _await(self, futures: list[Any], workers: Sequence[str]) -> None:
        """Wait for tasks that were meant for these workers.

        Dask runs a task elsewhere if the worker it was meant for dies; but if no worker is left just then, it
        waits for one of the old ones, whoever joins.
        """
        from distributed import wait

        while True:
            try:
                wait(futures, timeout=_GLANCE)
                return
            except TimeoutError:
                if not set(workers) & set(self._client.nthreads()):
                    raise Lost("all workers that had a part are gone") from None

    def _gathered(self, futures: list[Any], workers: Sequence[str]) -> list[Any]:
        self._await(futures, workers)
        return self._client.gather(futures)

    def _guarded(self, action: Callable[[], _T]) -> _T:
        """Do something at the present position; if something is lost on the way, get there again first."""
        position = self.position
        while True:
            try:
                return action()
            except BaseException as error:
                if not self._is_loss(error):
                    raise
                self._recover(error)
            self._train_until(position)

    def _is_loss(self, error: BaseException) -> bool:
        from concurrent.futures import CancelledError as FutureCancelled

        from distributed import KilledWorker

        if self._client.status != "running" and not isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise ConnectionError(
                "The client lost its connection to the scheduler of the Dask cluster while it was training, "
                "expected one that stays; connect a new client, and fit again."
            ) from error
        if isinstance(error, KilledWorker):
            raise RuntimeError(
                f"Training was given up, since several workers died of the same task: {error} Most often "
                "they have run out of memory; give them more, or the data in smaller parts."
            ) from error
        # Dask's own, of futures whose data is lost or that somebody has cancelled, is one of these.
        import asyncio

        return isinstance(error, (StaleTable, Lost, FutureCancelled, asyncio.CancelledError))

    def _recover(self, error: BaseException) -> None:
        """Go on from the most advanced table that there is."""
        self.n_recoveries += 1
        self._in_a_row += 1
        if self._in_a_row > MAX_RECOVERIES:
            raise RuntimeError(
                f"Training was given up after {MAX_RECOVERIES} attempts at the same round, of which none "
                f"came to its end ({type(error).__name__}: {error}); see the logs of the workers, and fit "
                "again."
            ) from error
        time.sleep(min(0.1 * self._in_a_row, 2.0))  # workers that are dying are told from those that live
        workers = self._workers()
        self._renew_data()
        found = self._client.run(states, self._job.fit, on_error="return")
        best, has_table = "start", set[str]()
        for worker, names in found.items():
            for name in names if isinstance(names, list) else []:
                if name not in self._names or self._names[name] < self._names[best]:
                    continue
                if name != best:
                    best, has_table = name, set()
                if worker in workers:
                    has_table.add(worker)
        self._state, self._updates, self._after = State(best), [], None
        self._has_table = has_table
        self.position = self._names[best]

    def _renew_data(self) -> None:
        """Make what is lost anew: rows that came from the client, or futures that were cancelled."""
        gone = ("cancelled", "lost")
        for number, future in enumerate(self._parts):
            if future.status in gone:
                self._parts[number] = self._make_part[number]()
                self._home.pop(number, None)
        if self._start is not None and self._start.status in gone:
            self._start = self._make_start()
        self._holders = {w: holder for w, holder in self._holders.items() if holder.status not in gone}


def balanced(home: dict[int, str], sizes: Sequence[int], workers: Sequence[str]) -> dict[int, str]:
    """A worker for each part: the one it has, unless that has more than its share and another has less.

    A part moves only if the worker that gets it is then no fuller than the one it leaves.
    """
    load = dict.fromkeys(workers, 0)
    found = {number: worker for number, worker in home.items() if worker in load}
    for number, worker in found.items():
        load[worker] += sizes[number]
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        if number not in found:
            found[number] = min(workers, key=lambda worker: load[worker])
            load[found[number]] += sizes[number]
    while True:
        fullest, emptiest = (pick(workers, key=lambda worker: load[worker]) for pick in (max, min))
        movable = [n for n, worker in found.items() if worker == fullest]
        movable = [n for n in movable if sizes[n] and load[emptiest] + sizes[n] <= load[fullest] - sizes[n]]
        if not movable:
            return found
        number = max(movable, key=lambda n: (sizes[n], -n))
        found[number] = emptiest
        load[fullest] -= sizes[number]
        load[emptiest] += sizes[number]


def new_fit_name() -> str:
    return uuid4().hex


def total_loss(pairs: Sequence[tuple[float, float]]) -> float:
    """The mean loss of validation data in several parts; of a single one, its own to the bit."""
    if len(pairs) == 1:
        return pairs[0][0]
    weights = np.array([weight for _, weight in pairs])
    return float(np.average([loss for loss, _ in pairs], weights=weights))
