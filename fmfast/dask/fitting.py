"""One fit on a cluster, from what the user gives to a model: the counterpart of `Machine.fit` and `train`.

Wherever the local estimator makes a decision over all of the data (classes, scale, learning rate), the parts
send numbers from which the same decision follows, with a single part to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast import validation as check
from fmfast.averaging import shard_seed
from fmfast.dask import worker as on_worker
from fmfast.dask.parts import Part, parts_of, scattered
from fmfast.dask.rounds import Training, new_fit_name, total_loss
from fmfast.model import FMModel, TrainingState, mean_of, scale_of
from fmfast.solvers import SOLVERS
from fmfast.table import ParameterTable
from fmfast.training import (
    Examples,
    Stopping,
    divergence,
    n_set_apart,
    progress_line,
    reported_loss,
    validation_score,
)

_ATTEMPTS = 3  # at getting the data ready, while workers die


class Fit:
    """One fit of an estimator.

    Parameters
    ----------
    machine : FactorizationMachine
        The estimator, whose settings have been checked; it is not changed.
    plain : FMRegressor or FMClassifier
        A local estimator of the same settings, which checks parts on the workers.
    client : distributed.Client
    model : FMModel or None
        To go on with.
    merges_per_epoch : int or None
    """

    def __init__(
        self, machine: Any, plain: Any, client: Any, model: FMModel | None, merges_per_epoch: int | None
    ) -> None:
        self._machine, self._plain, self._client, self._old = machine, plain, client, model
        self._merges = merges_per_epoch
        self._is_classifier = machine._task == "classification"
        self.training: Training | None = None  # for whoever measures

    def run(
        self,
        parts: Sequence[Part],
        eval_set: Sequence[Part] | None,
        stopping: Stopping,
        *,
        encoder: Any = None,
        classes: Any = None,
        continues: str = "",
    ) -> tuple[FMModel, list[dict[str, Any]]]:
        """The trained model, and its history."""
        checked, facts = self._checked(parts)
        facts = [fact for fact in facts if fact is not None]
        n_features, names = self._columns(parts, facts, continues)
        meaning = self._meaning(checked, facts, classes, names, encoder)
        n_outputs = (
            1 if meaning.get("classes") is None or len(meaning["classes"]) == 2 else len(meaning["classes"])
        )
        shell = self._shell(n_outputs, 0, meaning)
        validation = None if eval_set is None else self._validation(eval_set, n_features, shell, names)
        state = self._training_state(facts)
        self._state, self._n_features, self._n_outputs, self._meaning_ = state, n_features, n_outputs, meaning
        split = None
        if stopping.early and validation is None:
            if len(parts) == 1:
                n_set_apart(self._machine.validation_fraction, facts[0]["n_samples"], "samples")
            split = (float(self._machine.validation_fraction), state.seed)
        makers = [
            partial(self._prepared, part, shell, shard_seed(state.seed, i), split)
            for i, part in enumerate(parts)
        ]
        # From now on the workers keep what is made of the parts, and not the parts.
        prepared = [make(one) for make, one in zip(makers, checked, strict=True)]
        checked.clear()
        ready = self._facts(parts, prepared, on_worker.prepared_facts)
        total_weight = sum(weight for weight, _, _ in ready)
        sizes = [n_samples for _, n_samples, _ in ready]
        if split is not None and not (sum(sizes) and sum(n_validation for *_, n_validation in ready)):
            n_set_apart(self._machine.validation_fraction, sum(sizes), "samples")
        solver = self._machine._solver(state.row_norm)
        job = self._job(solver, state, n_outputs)
        start = partial(_start, self._client, None if self._old is None else self._old.table)
        first_epoch = state.n_epochs
        largest_x = max(fact["largest_x"] for fact in facts)
        with Training(
            self._client, job, start, makers, prepared, sizes, self._merges, first_epoch
        ) as training:
            self.training = training
            history, best = self._epochs(
                training,
                shell,
                total_weight,
                validation,
                split is not None,
                stopping,
                partial(divergence, solver, largest_x),
            )
            model = self._assembled(training, best)
        if not model.table.all_finite():
            raise divergence(solver, largest_x, state.n_epochs)
        return model, history

    # -- the data --------------------------------------------------------------------------------

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._client.submit(function, *arguments, pure=False)

    def _checked(self, parts: Sequence[Part]) -> tuple[list[Any], list[Any]]:
        """Futures of the checked parts, and what is to be known of each."""
        raw = [part.submit(self._client) for part in parts]
        checked = [
            self._submit(on_worker.check_part, data, self._plain, part.name)
            for data, part in zip(raw, parts, strict=True)
        ]
        kind = SOLVERS[self._machine.solver]
        facts = self._facts(
            parts, checked, on_worker.facts_of, kind.row_norm_power, self._is_classifier, raw=raw
        )
        return checked, facts

    def _facts(
        self,
        parts: Sequence[Part],
        futures: Sequence[Any],
        of: Callable[..., Any],
        *arguments: Any,
        raw: Sequence[Any] = (),
    ) -> list[Any]:
        """A few numbers of each part; an error says which part it is of."""
        from distributed import wait

        facts = [self._submit(of, future, *arguments) for future in futures]
        wait(facts)
        for number, (part, fact) in enumerate(zip(parts, facts, strict=True)):
            if fact.status == "finished":
                continue
            if self._client.status != "running":
                raise ConnectionError(
                    "The client lost its connection to the scheduler of the Dask cluster while the data was "
                    "made ready, expected one that stays; connect a new client, and fit again."
                )
            if fact.status == "error":
                error = fact.exception()
                if number < len(raw) and raw[number].status == "error":
                    raise RuntimeError(
                        f"Dask could not compute {part.name or 'the data'} ({type(error).__name__}: "
                        f"{error}), expected (X, y); correct what makes it."
                    ) from error
                raise error
            raise RuntimeError(
                f"The data of {part.name or 'X'} is lost, or was cancelled, before training began (its task "
                f"is {fact.status}), expected it to stay on the workers; fit again."
            )
        return self._client.gather(facts)

    def _columns(
        self, parts: Sequence[Part], facts: Sequence[dict[str, Any]], continues: str
    ) -> tuple[int, NDArray[Any] | None]:
        """How many there are, and their names: the same in all parts, but for data sets, which may differ."""
        if not facts:
            raise ValueError("X has no rows in any of its parts, expected one at least; add rows.")
        n_features = max(fact["n_features"] for fact in facts)
        names = facts[0]["names"]
        by_part = zip((part for part in parts), facts, strict=False)
        for part, fact in by_part:
            if part.path is None and fact["n_features"] != facts[0]["n_features"]:
                raise ValueError(
                    f"The parts of X differ in their columns: {facts[0]['n_features']} and, in {part.name}, "
                    f"{fact['n_features']}, expected as many in each; give all of them the same shape[1]."
                )
            if _listed(fact["names"]) != _listed(names):
                raise ValueError(
                    f"The parts of X differ in the names of their columns, as {part.name} shows, expected "
                    "the same in each; order and name them alike."
                )
        if continues:
            assert self._old is not None
            no_rows = check.SparseRows(np.empty(0), np.empty(0, np.int32), np.zeros(1, np.int64), n_features)
            self._machine._check_continued(no_rows, check.Named(names), continues)
            names = self._old.feature_names
        return n_features, names

    def _meaning(
        self, checked: Sequence[Any], facts: Sequence[dict[str, Any]], classes: Any, names: Any, encoder: Any
    ) -> dict[str, Any]:
        """What the scores of the model mean: arguments of FMModel."""
        if self._old is not None:
            old = self._old
            self._machine._check_same_classes(classes)
            return {
                "scale": old.scale,
                "offset": old.offset,
                "classes": old.classes,
                "feature_names": old.feature_names,
                "encoder": old.encoder,
            }
        meaning = {"feature_names": names, "encoder": encoder}
        if self._is_classifier:
            labels = [fact["classes"] for fact in facts]
            target = labels[0] if len(labels) == 1 else np.concatenate(labels)
            return meaning | self._plain._meaning(target, np.empty(0), classes)
        largest = max(fact["largest"] for fact in facts)
        if largest == 0.0:
            return meaning | {"scale": 1.0, "offset": 0.0}
        moments = partial(self._moments, checked, largest)
        mean = mean_of(moments())
        scale, offset = scale_of(mean_of(moments(mean)), mean, largest)
        return meaning | {"scale": scale, "offset": offset}

    def _moments(self, checked: Sequence[Any], *arguments: Any) -> list[tuple[float, float]]:
        return self._client.gather([self._submit(on_worker.moments_of, part, *arguments) for part in checked])

    def _shell(self, n_outputs: int, n_features: int, meaning: dict[str, Any]) -> FMModel:
        """The model without its parameters, as it is sent to the workers."""
        table = ParameterTable(
            n_outputs, n_features, int(self._machine.n_factors), 0, np.dtype(self._machine.dtype)
        )
        return FMModel(table, self._machine._task, **(meaning | {"feature_names": None, "encoder": None}))

    def _validation(
        self, parts: Sequence[Part], n_features: int, shell: FMModel, names: Any
    ) -> Callable[[], list[Any]]:
        """What returns futures of the parts of an `eval_set`, made anew if they are lost."""
        checked, facts = self._checked(parts)
        for part, fact in zip(parts, facts, strict=True):
            if fact is None:
                continue
            if fact["n_features"] != n_features and not (part.path and fact["n_features"] < n_features):
                raise ValueError(
                    f"The X of eval_set has {fact['n_features']} features in {part.name or 'its rows'}, but "
                    f"{type(self._machine).__name__} is expecting {n_features} features as input; give it "
                    "the columns of X."
                )
            if fact["names"] is not None and _listed(fact["names"]) != _listed(names):
                raise ValueError(
                    "The X of eval_set has other column names than X, expected the same in the same order; "
                    "rename them."
                )

        def made(part: Part, one: Any = None) -> Any:
            if one is None:
                one = self._submit(on_worker.check_part, part.submit(self._client), self._plain, part.name)
            name = part.name or "the y of eval_set"
            return self._submit(on_worker.check_validation, one, shell, n_features, name)

        futures = [made(part, one) for part, one in zip(parts, checked, strict=True)]
        self._facts(parts, futures, on_worker.is_there)

        def present() -> list[Any]:
            for number, part in enumerate(parts):
                if futures[number].status in ("cancelled", "lost"):
                    futures[number] = made(part)
            return futures

        return present

    def _training_state(self, facts: Sequence[dict[str, Any]]) -> TrainingState:
        if self._old is not None:
            training = self._old.training
            assert training is not None
            return TrainingState(
                training.solver, training.seed, training.row_norm, training.init_std, training.n_epochs
            )
        machine = self._machine
        kind = SOLVERS[machine.solver]
        row_norm = sum(fact["row_norm"] for fact in facts) / sum(fact["n_samples"] for fact in facts)
        init_std = machine.init_std
        if init_std is None:
            init_std = kind.starting_std(None, None, int(machine.n_factors), machine._task)
        return TrainingState(machine.solver, machine._seed(), row_norm, float(init_std))

    def _prepared(
        self, part: Part, shell: FMModel, seed: int, split: tuple[float, int] | None, checked: Any = None
    ) -> Any:
        """The future of a part that is ready; made from the start unless it is there, checked."""
        if checked is None:
            checked = self._submit(on_worker.check_part, part.submit(self._client), self._plain, part.name)
        arguments = (shell, self._n_features, seed, split)
        origin = None if part.path is None else (part.path, self._plain, *arguments)
        return self._submit(on_worker.prepare, checked, *arguments, part.name, origin)

    def _job(self, solver: Any, state: TrainingState, n_outputs: int) -> on_worker.Job:
        machine = self._machine
        return on_worker.Job(
            fit=new_fit_name(),
            solver=solver,
            n_outputs=n_outputs,
            n_features=self._n_features,
            n_factors=int(machine.n_factors),
            dtype=np.dtype(machine.dtype).name,
            init_std=state.init_std,
            seed=state.seed,
            n_jobs=machine.n_jobs,
        )

    # -- epochs ----------------------------------------------------------------------------------

    def _epochs(
        self,
        training: Training,
        shell: FMModel,
        total_weight: float,
        validation: Callable[[], list[Any]] | None,
        is_split: bool,
        stopping: Stopping,
        diverged: Callable[[int], Exception],
    ) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """The history, and the best table, if that is not the last one."""
        machine, state = self._machine, self._state
        scoring = None if isinstance(machine.scoring, str) else machine.scoring
        history: list[dict[str, Any]] = []
        best: tuple[int, float, list[Any]] | None = None  # epoch, score, table
        started = time.perf_counter()
        while True:
            epoch = training.run_epoch()  # from 1
            if np.isinf(training.loss_of(epoch - 1)):
                raise diverged(epoch)
            record: dict[str, Any] = {
                "epoch": epoch,
                "loss": reported_loss(shell, training.loss_of(epoch - 1) / total_weight),
                "validation_score": None,
                "seconds": time.perf_counter() - started,
            }
            if validation is not None or is_split:
                found = training.evaluate(validation or (lambda: training.parts), shell, scoring is not None)
                record["validation_score"] = _score(shell, found, scoring)
                if record["validation_score"] is None:
                    raise diverged(epoch)
            else:
                training.settle()
            history.append(record)
            if machine.verbose:
                print(progress_line(record), flush=True)
            stop = False
            for callback in machine.callbacks or ():
                stop = bool(callback(dict(record))) or stop
            if stopping.early:
                score = record["validation_score"]
                if best is None or score > best[1] + stopping.tol:
                    best = epoch, score, training.snapshot()
                stop = epoch - best[0] >= stopping.n_iter_no_change or stop
            if stop or len(history) >= stopping.max_iter:
                state.n_epochs = epoch
                return history, best[2] if best is not None and best[0] < epoch else None
            started = time.perf_counter()

    def _assembled(self, training: Training, best: list[Any] | None) -> FMModel:
        """The model here, from the rows that were ever touched; straight from a worker, if possible."""
        old = self._old
        if old is not None:
            table = old.table.copy()
        else:
            solver = self._machine._solver(self._state.row_norm)
            table = solver.new_table(
                self._n_outputs, self._n_features, int(self._machine.n_factors),
                np.dtype(self._machine.dtype), self._state.init_std, self._state.seed,
            )  # fmt: skip
        for stretch in training.fetched(best):
            stretch.write_to(table)
        return FMModel(table, self._machine._task, training=self._state, **self._meaning_)


def _start(client: Any, table: ParameterTable | None) -> Any:
    return None if table is None else scattered(client, table)


def _listed(names: NDArray[Any] | None) -> list[str] | None:
    return None if names is None else names.tolist()


def _score(shell: FMModel, found: Sequence[tuple[Any, Any]], scoring: Any) -> float | None:
    """The validation score; None if a score is not finite."""
    if any(isinstance(first, float) and np.isnan(first) for first, _ in found):
        return None
    if scoring is None:
        return -total_loss(found)
    raw = np.concatenate([scores for scores, _ in found])
    target = np.concatenate([target for _, target in found])
    no_rows = check.SparseRows(np.empty(0), np.empty(0, np.int32), np.zeros(1, np.int64), 0)
    return validation_score(shell, raw, Examples(no_rows, target, np.empty(0)), scoring)


def validation_parts(eval_set: Any) -> list[Part]:
    """The parts of an `eval_set`; the path of a data set alone is enough."""
    if not isinstance(eval_set, (tuple, list)) or len(eval_set) != 2:
        length = f" of length {len(eval_set)}" if isinstance(eval_set, (tuple, list)) else ""
        raise ValueError(
            f"eval_set is a {type(eval_set).__name__}{length}, expected a pair (X, y) of validation data; "
            "put the two in a tuple, with y=None for parts (X, y) and data sets."
        )
    X, y = eval_set
    return parts_of(X, y, None, " of eval_set")
