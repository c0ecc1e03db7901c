"""The loop around the solvers: epochs, order, stopping, history, callbacks, divergence.

Knows arrays, a model and a solver; no estimator. A fit is all or nothing: if it fails, or is
interrupted, a model that existed before is put back as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast.config import thread_count
from fmfast.exceptions import DivergenceError, ModelFileError
from fmfast.interruption import uninterrupted
from fmfast.model import FMModel, TrainingState, logistic_loss, sigmoid
from fmfast.paging import pieces
from fmfast.posterior import Posterior
from fmfast.solvers import Advising, Run, Solver
from fmfast.table import ParameterTable, TableBackup
from fmfast.validation import SparseRows

_SAMPLES_PER_THREAD = 500  # fewer are done before another thread has started

Callback = Callable[[dict[str, Any]], Any]
Scoring = Callable[[NDArray[Any], NDArray[Any]], float]


@dataclass(frozen=True)
class Examples:
    """Rows with what is known of them.

    Attributes
    ----------
    target : float64 ndarray of shape (n_samples,)
        For a regression, in the units of the target; for a classification, the codes of the classes.
    weight : float64 ndarray of shape (n_samples,) or (0,)
        Positive; empty if all weights are 1.
    """

    rows: SparseRows
    target: NDArray[np.float64]
    weight: NDArray[np.float64]

    def take(self, samples: NDArray[np.intp]) -> Examples:
        weight = self.weight[samples] if len(self.weight) else self.weight
        return Examples(self.rows.take(samples), self.target[samples], weight)

    def split(self, n_second: int, seed: int, stratified: bool) -> tuple[Examples, Examples]:
        """Two random parts; the second gets `n_second` samples.

        Stratified: in both parts, targets are about as frequent as in the whole.
        """
        order = np.random.default_rng([seed, 0]).permutation(len(self.target))
        if stratified:
            # Walk through all targets side by side, so that a slice of the order has them in proportion.
            order = order[np.argsort(self.target[order], kind="stable")]
            _, start, count = np.unique(self.target[order], return_index=True, return_counts=True)
            along = (np.arange(len(order)) - np.repeat(start, count) + 0.5) / np.repeat(count, count)
            order = order[np.argsort(along, kind="stable")]
        in_first = np.ones(len(self.target), dtype=bool)
        in_first[order[:n_second]] = False
        return self.take(np.flatnonzero(in_first)), self.take(np.flatnonzero(~in_first))

    @property
    def total_weight(self) -> float:
        if not len(self.weight):
            return float(len(self.target))
        return sum(float(self.weight[part].sum()) for part in pieces(self.weight))


@dataclass(frozen=True)
class Stopping:
    """When to stop before `max_iter` epochs.

    Attributes
    ----------
    early : bool
        Stop when the validation score has not improved by more than `tol` for `n_iter_no_change` epochs, and
        keep the parameters of the best epoch.
    """

    max_iter: int
    early: bool = False
    n_iter_no_change: int = 5
    tol: float = 0.0


@dataclass
class Progress:
    """Where a fit stands between two epochs: with model and data, all that is needed to go on to the bit.

    Attributes
    ----------
    history : list of dict
        The records of the epochs so far.
    is_finished : bool
        Whether the fit has come to its end.
    arrays : dict of float32 or float64 ndarray by name
        What the loop and the solver remember besides.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    is_finished: bool = False
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Fill arrays with what was in those of the same name, which are then let go."""
        kept, wanted = ({name: (a.dtype, a.shape) for name, a in d.items()} for d in (self.arrays, arrays))
        if kept != wanted:
            raise ModelFileError(
                f"The checkpoint holds the arrays {sorted(kept)} in shapes that do not fit, expected "
                f"{sorted(wanted)} of this fit; remove it, and start anew."
            )
        for name, array in arrays.items():
            array[...] = self.arrays[name]
        self.arrays = {}


def train(
    model: FMModel,
    solver: Solver,
    examples: Examples,
    *,
    stopping: Stopping,
    validation: Examples | None = None,
    scoring: Scoring | None = None,
    callbacks: Sequence[Callback] = (),
    n_threads: int = 1,
    verbose: bool = False,
    undoable: bool = True,
    progress: Progress | None = None,
    keep: Callable[[Progress], None] | None = None,
) -> list[dict[str, Any]]:
    """Train a model in place; returns its history, one record per epoch.

    Parameters
    ----------
    validation : Examples or None
        Scored after every epoch.
    scoring : callable (y_true, prediction) -> float, higher is better; None for minus the loss
    undoable : bool
        Put the model back as it was if training fails; False for a model that nobody has yet.
    progress : Progress or None
        Where to go on; the model is as it was then.
    keep : callable (Progress) or None
        Called after every epoch, while the model is as it is then.

    Raises
    ------
    DivergenceError
        If a score or parameter is no longer finite.
    """
    training = model.training
    assert training is not None

    def diverged() -> DivergenceError:
        return divergence(solver, examples.rows.largest_value(), training.n_epochs)

    def validate() -> float | None:
        if validation is None:
            return None
        raw = model.score(validation.rows, n_threads)
        if not np.isfinite(raw).all():
            raise diverged()
        return validation_score(model, raw, validation, scoring)

    targets = list(solver_targets(model, examples.target))
    return run_epochs(
        model.table,
        training,
        lambda: solver.begin(model.table, examples.rows, targets, examples.weight, training.seed, n_threads),
        examples.rows.present_features,
        reported_loss=lambda loss: reported_loss(model, loss / examples.total_weight),
        validate=validate,
        diverged=diverged,
        stopping=stopping,
        callbacks=callbacks,
        verbose=verbose,
        undoable=undoable,
        progress=progress,
        keep=keep,
    )


def run_epochs(
    table: ParameterTable,
    training: TrainingState,
    begin: Callable[[], Run],
    touched: Callable[[], NDArray[np.intp]],
    *,
    reported_loss: Callable[[float], float],
    validate: Callable[[], float | None],
    diverged: Callable[[], DivergenceError],
    stopping: Stopping,
    callbacks: Sequence[Callback] = (),
    verbose: bool = False,
    undoable: bool = True,
    progress: Progress | None = None,
    keep: Callable[[Progress], None] | None = None,
) -> list[dict[str, Any]]:
    """The loop itself, whatever is trained; see `train`.

    Parameters
    ----------
    table, training
        What is trained, in place, and how far it is.
    begin : callable () -> Run
    touched : callable () -> ndarray of int
        The rows of the table that training may change.
    reported_loss : callable (float) -> float
        From the sum that an epoch returns to what the history tells.
    validate : callable () -> float or None
        The validation score, higher is better; None without validation data.
    diverged : callable () -> DivergenceError
        What is raised if the loss or a parameter is no longer finite.
    """
    features = touched() if undoable or stopping.early else np.empty(0, dtype=np.intp)
    backup = TableBackup(table, features) if undoable else None
    best = _BestEpoch(table, features, stopping) if stopping.early else None
    n_epochs_before = training.n_epochs
    progress = progress or Progress()
    history = progress.history
    try:
        with begin() as run:
            if history:
                if best is not None:
                    best.replay(history)
                progress.restore(_remembered(run, best))
            while not progress.is_finished:
                started = time.perf_counter()
                loss = run.run_epoch(training.n_epochs)
                seconds = time.perf_counter() - started
                training.n_epochs += 1
                if not np.isfinite(loss):
                    raise diverged()
                record = {
                    "epoch": training.n_epochs,
                    "loss": reported_loss(loss),
                    "validation_score": validate(),
                    "seconds": seconds,
                }
                history.append(record)
                if verbose:
                    print(progress_line(record), flush=True)
                stop = run.converged
                for callback in callbacks:
                    stop = bool(callback(dict(record))) or stop
                if best is not None:
                    stop = best.is_past(record) or stop
                progress.is_finished = stop or len(history) >= stopping.max_iter
                if keep is not None:
                    keep(Progress(history, progress.is_finished, _remembered(run, best)))
        if best is not None:
            best.restore()
        if not (table.all_finite() and run.all_finite()):
            raise diverged()
    except BaseException:
        # Also for KeyboardInterrupt: whoever catches it finds the model as it was.
        if backup is not None:
            uninterrupted(backup.restore)
        training.n_epochs = n_epochs_before
        raise
    return history


class _BestEpoch:
    """Keeps the parameters of the best epoch so far, and tells when the best is past."""

    def __init__(self, table: ParameterTable, features: NDArray[np.intp], stopping: Stopping) -> None:
        self._table, self._features, self._stopping = table, features, stopping
        self._backup: TableBackup | None = None
        self._score: float | None = None
        self._n_worse = 0

    def is_past(self, record: dict[str, Any]) -> bool:
        """Take note of an epoch; true once `n_iter_no_change` epochs in turn have been no better."""
        score = record["validation_score"]
        if self._score is None or score > self._score + self._stopping.tol:
            self._score = score
            self._n_worse = 0
            # Not before there is something to keep: a copy of the parameters may be large.
            if self._backup is None:
                self._backup = TableBackup(self._table, self._features)
            else:
                self._backup.update()
        else:
            self._n_worse += 1
        return self._n_worse >= self._stopping.n_iter_no_change

    def replay(self, history: list[dict[str, Any]]) -> None:
        """Take note of the epochs of a fit that goes on."""
        for record in history:
            if not isinstance(record.get("validation_score"), (int, float)):
                raise ModelFileError(
                    "The checkpoint holds an epoch without a validation score, which early stopping goes by; "
                    "remove it, and start anew."
                )
            self.is_past(record)

    def remembered(self) -> dict[str, NDArray[Any]]:
        """The parameters of the best epoch, unless the table holds them."""
        if not self._n_worse or self._backup is None:
            return {}
        return {"best_rows": self._backup.rows, "best_bias": self._backup.bias}

    def restore(self) -> None:
        """Put back the parameters of the best epoch."""
        if self._n_worse and self._backup is not None:
            self._backup.restore()


def _remembered(run: Run, best: _BestEpoch | None) -> dict[str, NDArray[Any]]:
    """All that outlives an epoch besides the table: no copies."""
    return run.remembered() | (best.remembered() if best is not None else {})


def count_threads(n_jobs: int | None, n_samples: int) -> int:
    """`thread_count`, fewer for few samples."""
    return min(thread_count(n_jobs), 1 + n_samples // _SAMPLES_PER_THREAD)


def n_set_apart(fraction: float, n: int, what: str) -> int:
    """How many of n samples early stopping sets apart for validation; not 0, and not all."""
    n_validation = round(fraction * n)
    if n_validation == 0 or n_validation == n:
        raise ValueError(
            f"early_stopping=True sets {n_validation} of {n} {what} apart for validation "
            f"(validation_fraction={fraction:g}), expected some for either part; give more {what}, an "
            "eval_set, or early_stopping=False."
        )
    return n_validation


def solver_targets(model: FMModel | Posterior, target: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """The target of each output: standardised, or 0/1 per class (one versus rest)."""
    if model.task == "regression":
        standardised = target - model.offset
        standardised /= model.scale
        yield standardised
    elif model.n_outputs == 1:
        yield target
    else:
        for code in range(model.n_outputs):
            yield (target == code).astype(np.float64)


def reported_loss(model: FMModel, mean_loss: float) -> float:
    """Mean squared error in the units of the target, or log loss (summed over the classes)."""
    if model.task == "regression":
        return 2.0 * mean_loss * model.scale * model.scale
    return mean_loss


def validation_score(
    model: FMModel, raw: NDArray[np.float64], validation: Examples, scoring: Scoring | None
) -> float:
    if scoring is None:
        return -mean_loss(model, raw, validation)
    if model.classes is None:
        returned: Any = scoring(validation.target, raw)
    else:
        returned = scoring(model.classes[validation.target.astype(np.intp)], class_probabilities(raw))
    try:
        score = float(returned)
    except (TypeError, ValueError):
        score = np.nan
    if np.isnan(score):
        raise ValueError(
            f"The scoring function returned {returned!r}, expected a number (higher is better); correct it, "
            "or use scoring='loss'."
        )
    return score


def mean_loss(model: FMModel, raw: NDArray[np.float64], examples: Examples) -> float:
    """Weighted mean squared error, or log loss, of raw scores."""
    if model.task == "regression":
        losses = (raw - examples.target) ** 2
    else:
        # One column per output.
        scores = raw[:, None] if raw.ndim == 1 else raw
        targets = np.stack(list(solver_targets(model, examples.target)), axis=1)
        losses = logistic_loss(scores, targets).sum(axis=1)
    return float(np.average(losses, weights=examples.weight if len(examples.weight) else None))


def class_probabilities(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_samples, n_classes) probabilities from raw scores; one-versus-rest ones are normalised."""
    if raw.ndim == 1:
        positive = sigmoid(raw)
        return np.stack([sigmoid(-raw), positive], axis=1)
    # Normalised in logarithms, so that rows of tiny probabilities do not become 0 / 0.
    log_p = -logistic_loss(raw, np.ones_like(raw))
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    normalised: NDArray[np.float64] = p / p.sum(axis=1, keepdims=True)
    return normalised


def progress_line(record: dict[str, Any]) -> str:
    line = f"epoch {record['epoch']:4d}  loss {record['loss']:.6g}"
    if record["validation_score"] is not None:
        line += f"  validation score {record['validation_score']:.6g}"
    return line + f"  {record['seconds']:.3g} s"


def divergence(solver: Advising, largest_x: float, epoch: int) -> DivergenceError:
    return DivergenceError(
        f"Training with solver {solver.name!r} diverged in epoch {epoch} (the largest |x| is "
        f"{largest_x:g}): scores or parameters are no longer finite, and nothing was changed; "
        f"{solver.advice}."
    )
