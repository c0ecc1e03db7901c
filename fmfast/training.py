"""The loop around the solvers: epochs, order, stopping, history, callbacks, divergence.

Knows arrays, a model and a solver; no estimator. A fit is all or nothing: if it fails, or is
interrupted, a model that existed before is put back as it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast.exceptions import DivergenceError
from fmfast.model import FMModel, sigmoid
from fmfast.solvers import StochasticSolver
from fmfast.solvers.sgd import visiting_order
from fmfast.table import TableBackup
from fmfast.validation import SparseRows

Callback = Callable[[dict[str, Any]], Any]
Scoring = Callable[[NDArray, NDArray], float]


@dataclass(frozen=True)
class Examples:
    """Rows with what is known of them.

    Attributes
    ----------
    target : float64 ndarray of shape (n_samples,)
        For a regression, in the units of the target; for a classification, the codes of the classes.
    weight : float64 ndarray of shape (n_samples,) or (0,)
        Empty if all weights are 1.
    """

    rows: SparseRows
    target: NDArray[np.float64]
    weight: NDArray[np.float64]

    def take(self, samples: NDArray[np.intp]) -> Examples:
        weight = self.weight[samples] if len(self.weight) else self.weight
        return Examples(self.rows.take(samples), self.target[samples], weight)

    @property
    def total_weight(self) -> float:
        return float(self.weight.sum()) if len(self.weight) else float(len(self.target))


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


def train(
    model: FMModel,
    solver: StochasticSolver,
    examples: Examples,
    *,
    stopping: Stopping,
    validation: Examples | None = None,
    scoring: Scoring | None = None,
    callbacks: Sequence[Callback] = (),
    n_threads: int = 1,
    verbose: bool = False,
    undoable: bool = True,
) -> list[dict[str, Any]]:
    """Train a model in place; returns its history, one record per epoch.

    Parameters
    ----------
    validation : Examples or None
        Scored after every epoch.
    scoring : callable (y_true, prediction) -> float, higher is better; None for minus the loss
    undoable : bool
        Put the model back as it was if training fails; False for a model that nobody has yet.

    Raises
    ------
    DivergenceError
        If a score or parameter is no longer finite.
    """
    assert model.training is not None
    rows = examples.rows
    targets = list(_solver_targets(model, examples.target))
    touched = rows.present_features() if (undoable or stopping.early) else None
    history: list[dict[str, Any]] = []
    n_epochs_before = model.training.n_epochs
    backup = TableBackup(model.table, touched) if undoable else None
    best_score, best_epoch, best = -np.inf, 0, None
    try:
        with _thread_pool(n_threads) as executor:
            for _ in range(stopping.max_iter):
                epoch = model.training.n_epochs
                started = time.perf_counter()
                runs, run_length = visiting_order(rows.n_samples, rows.nnz, model.training.seed, epoch)
                loss = 0.0
                for output, target in enumerate(targets):
                    loss += solver.run_epoch(
                        model.table, output, rows, target, examples.weight, runs, run_length, epoch, executor
                    )
                seconds = time.perf_counter() - started
                if not np.isfinite(loss):
                    raise _divergence(solver, rows, epoch)
                model.training.n_epochs = epoch + 1
                record = {
                    "epoch": epoch + 1,
                    "loss": _reported_loss(model, loss / examples.total_weight),
                    "validation_score": None,
                    "seconds": seconds,
                }
                if validation is not None:
                    record["validation_score"] = _validation_score(
                        model, validation, scoring, n_threads, solver, rows, epoch
                    )
                history.append(record)
                if verbose:
                    print(_progress_line(record), flush=True)
                stop = any([callback(dict(record)) for callback in callbacks])
                if stopping.early:
                    score = record["validation_score"]
                    if score > best_score + (stopping.tol if best is not None else 0.0):
                        best_score, best_epoch = score, len(history)
                        if best is None:
                            best = TableBackup(model.table, touched)
                        else:
                            best.update()
                    elif len(history) - best_epoch >= stopping.n_iter_no_change:
                        stop = True
                if stop:
                    break
        if best is not None and best_epoch < len(history):
            best.restore()
        if not model.table.all_finite():
            raise _divergence(solver, rows, model.training.n_epochs - 1)
    except BaseException:
        # Also for KeyboardInterrupt: whoever catches it finds the model as it was.
        if backup is not None:
            backup.restore()
        model.training.n_epochs = n_epochs_before
        raise
    return history


def count_threads(n_jobs: int | None) -> int:
    """Threads for `n_jobs`: None is 1, -1 all cores, -2 all but one, and so on."""
    if n_jobs is None:
        return 1
    if n_jobs > 0:
        return int(n_jobs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores + 1 + int(n_jobs))


@contextmanager
def _thread_pool(n_threads: int) -> Iterator[ThreadPoolExecutor | None]:
    if n_threads == 1:
        yield None
    else:
        with ThreadPoolExecutor(n_threads) as executor:
            yield executor


def _solver_targets(model: FMModel, target: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """The target of each output: standardised, or 0/1 per class (one versus rest)."""
    if model.task == "regression":
        yield (target - model.offset) / model.scale
    elif model.table.n_outputs == 1:
        yield target
    else:
        for code in range(model.table.n_outputs):
            yield (target == code).astype(np.float64)


def _reported_loss(model: FMModel, mean_loss: float) -> float:
    """Mean squared error in the units of the target, or log loss (summed over the classes)."""
    if model.task == "regression":
        return 2.0 * mean_loss * model.scale * model.scale
    return mean_loss


def _validation_score(
    model: FMModel,
    validation: Examples,
    scoring: Scoring | None,
    n_threads: int,
    solver: StochasticSolver,
    rows: SparseRows,
    epoch: int,
) -> float:
    raw = model.score(validation.rows, n_threads)
    if not np.isfinite(raw).all():
        raise _divergence(solver, rows, epoch)
    if scoring is None:
        return -mean_loss(model, raw, validation)
    if model.classes is None:
        score = float(scoring(validation.target, raw))
    else:
        labels = model.classes[validation.target.astype(np.intp)]
        score = float(scoring(labels, class_probabilities(raw)))
    if np.isnan(score):
        raise ValueError(
            f"The scoring function returned NaN after epoch {epoch + 1}, expected a number, higher being better; "
            "correct it, or use scoring='loss'."
        )
    return score


def mean_loss(model: FMModel, raw: NDArray[np.float64], examples: Examples) -> float:
    """Weighted mean squared error, or log loss, of raw scores."""
    if model.task == "regression":
        losses = (raw - examples.target) ** 2
    else:
        # One column per output; log(1 + exp(score)) - y score as in _losses.pxd.
        scores = raw[:, None] if raw.ndim == 1 else raw
        targets = np.stack(list(_solver_targets(model, examples.target)), axis=1)
        losses = (np.maximum(scores, 0) - targets * scores + np.log1p(np.exp(-np.abs(scores)))).sum(axis=1)
    return float(np.average(losses, weights=examples.weight if len(examples.weight) else None))


def class_probabilities(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n_samples, n_classes) probabilities from raw scores; one-versus-rest ones are normalised."""
    if raw.ndim == 1:
        positive = sigmoid(raw)
        return np.stack([sigmoid(-raw), positive], axis=1)
    # Normalised in logarithms, so that rows of tiny probabilities do not become 0 / 0.
    log_p = np.minimum(raw, 0) - np.log1p(np.exp(-np.abs(raw)))
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _progress_line(record: dict[str, Any]) -> str:
    line = f"epoch {record['epoch']:4d}  loss {record['loss']:.6g}"
    if record["validation_score"] is not None:
        line += f"  validation score {record['validation_score']:.6g}"
    return line + f"  {record['seconds']:.3g} s"


def _divergence(solver: StochasticSolver, rows: SparseRows, epoch: int) -> DivergenceError:
    return DivergenceError(
        f"Training with solver {solver.name!r} diverged in epoch {epoch + 1} at learning_rate="
        f"{solver.learning_rate:g} (the largest |x| is {rows.largest_value():g}): scores are no longer finite. "
        "Nothing was changed; use a smaller learning_rate or init_std, a larger reg_V, or scale the columns of X "
        "to about 1."
    )
