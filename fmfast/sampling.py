"""The loop around the Gibbs sampler: iterations, what is kept, running means, history, callbacks.

The counterpart of `training` for Bayesian machines; knows arrays and a posterior, no estimator. A fit is all
or nothing: `draw_samples` works on a copy of the chain and returns it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast.columns import SparseColumns
from fmfast.exceptions import DivergenceError
from fmfast.model import score_table
from fmfast.posterior import Posterior, probit_probabilities
from fmfast.solvers.gibbs import GibbsSampler
from fmfast.training import Callback, Examples, Progress, solver_targets


def draw_samples(
    posterior: Posterior,
    examples: Examples,
    *,
    n_iter: int,
    n_burn_in: int,
    n_kept: int,
    columns: SparseColumns | None = None,
    validation: Examples | None = None,
    callbacks: Sequence[Callback] = (),
    n_threads: int = 1,
    verbose: bool = False,
    progress: Progress | None = None,
    keep: Callable[[Posterior, Progress], None] | None = None,
) -> tuple[Posterior, list[dict[str, Any]]]:
    """Continue a chain by n_iter iterations; returns the new posterior and its history.

    Parameters
    ----------
    n_burn_in : int
        Iterations of the whole chain that are not kept.
    n_kept : int
        Draws to keep at most.
    columns : SparseColumns or None
        Those of the examples, where they are known already.
    progress : Progress or None
        Where to go on; the posterior is as it was then.
    keep : callable (Posterior, Progress) or None
        Called after every iteration from the first draw on, while the posterior is as it is then.

    Raises
    ------
    DivergenceError
        If the chain is no longer finite.
    """
    posterior = replace(posterior, chain=posterior.chain.copy(), draws=list(posterior.draws))
    chain = posterior.chain
    targets = list(solver_targets(posterior, examples.target))
    sampler = GibbsSampler(
        chain, examples.rows, targets, examples.weight, posterior.task == "classification", columns
    )
    running = [_RunningMean(posterior, examples)]
    if validation is not None:
        running.append(_RunningMean(posterior, validation))
    remembered = sampler.remembered()
    for number, mean in enumerate(running):
        remembered |= {f"sum{number}": mean.sum, f"n_draws{number}": mean.n_draws}
    progress = progress or Progress()
    history = progress.history
    if history:
        progress.restore(remembered)
    with ThreadPoolExecutor(n_threads) if n_threads > 1 else nullcontext() as executor:
        while not progress.is_finished:
            started = time.perf_counter()
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                sampler.iterate(executor)
            seconds = time.perf_counter() - started
            if not chain.is_finite():
                raise _divergence(examples, chain.n_iterations)
            n_after_burn_in = chain.n_iterations - n_burn_in
            scores = [np.stack([sampler.scores(output) for output in range(posterior.n_outputs)])]
            if validation is not None:
                scores.append(score_table(chain.table, validation.rows, n_threads))
            losses = [
                mean.add(score, restart=n_after_burn_in <= 1)
                for mean, score in zip(running, scores, strict=True)
            ]
            if n_after_burn_in > 0 and (n_after_burn_in - 1) % posterior.thinning == 0:
                posterior.keep_draw(n_kept)
            record = {
                "iteration": chain.n_iterations,
                "loss": losses[0],
                "validation_loss": losses[1] if validation is not None else None,
                "seconds": seconds,
            }
            history.append(record)
            if verbose:
                print(_progress_line(record), flush=True)
            wants_to_stop = [bool(callback(dict(record))) for callback in callbacks]
            is_stopped = any(wants_to_stop) and bool(posterior.draws)
            progress.is_finished = is_stopped or len(history) >= n_iter
            if keep is not None and posterior.draws:
                keep(posterior, Progress(history, progress.is_finished, remembered))
    if not all(table.all_finite() for table in (chain.table, *(draw.table for draw in posterior.draws))):
        raise _divergence(examples, chain.n_iterations)
    return posterior, history


class _RunningMean:
    """The mean prediction of the draws so far, and its loss.

    Attributes
    ----------
    sum : float64 ndarray of shape (1, n_samples), or (n_classes, n_samples)
    n_draws : float64 ndarray of shape (1,)
    """

    def __init__(self, posterior: Posterior, examples: Examples) -> None:
        self._posterior, self._examples = posterior, examples
        n_predicted = 1 if posterior.classes is None else len(posterior.classes)
        self.sum = np.zeros((n_predicted, len(examples.target)))
        self.n_draws = np.zeros(1)

    def add(self, scores: NDArray[np.float64], restart: bool) -> float:
        """Take in the scores (n_outputs, n_samples) of a draw; returns the loss of the mean prediction.

        That is the root mean squared error, or the log loss.
        """
        if restart:
            self.sum[:] = self.n_draws[:] = 0
        if self._posterior.task == "regression":
            prediction = scores * self._posterior.scale + self._posterior.offset
        else:
            prediction = probit_probabilities(scores)
        self.sum += prediction
        self.n_draws += 1
        return self._loss(self.sum / self.n_draws)

    def _loss(self, prediction: NDArray[np.float64]) -> float:
        examples = self._examples
        weights = examples.weight if len(examples.weight) else None
        if self._posterior.task == "regression":
            return float(np.sqrt(np.average((prediction[0] - examples.target) ** 2, weights=weights)))
        p = prediction[examples.target.astype(np.intp), np.arange(len(examples.target))]
        tiny = np.finfo(np.float64).tiny  # a log loss of 708 at most, rather than infinity
        return float(np.average(-np.log(np.maximum(p, tiny)), weights=weights))


def _progress_line(record: dict[str, Any]) -> str:
    line = f"iteration {record['iteration']:4d}  loss {record['loss']:.6g}"
    if record["validation_loss"] is not None:
        line += f"  validation loss {record['validation_loss']:.6g}"
    return line + f"  {record['seconds']:.3g} s"


def _divergence(examples: Examples, iteration: int) -> DivergenceError:
    return DivergenceError(
        f"The Markov chain diverged in iteration {iteration} (the largest |x| is "
        f"{examples.rows.largest_value():g}): parameters are no longer finite, and nothing was changed; "
        "scale the columns of X to about 1."
    )
