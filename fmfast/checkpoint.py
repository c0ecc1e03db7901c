"""Checkpoints: a fit whose process is killed goes on from the last one, and ends with the same bytes.

A checkpoint is a model file with the state of the loop beside the model. It appears under its name only
when it is complete, and the one before it stays until the next: whatever happens while one is written,
there is a good one. Their names are numbered in the order of writing:

    checkpoint-00000007.fm, checkpoint-00000008-final.fm      "final": the fit came to its end

This module knows files and the progress of a loop; no estimator and no solver.
"""

from __future__ import annotations

import os
import re
import reprlib
import tempfile
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast.exceptions import ModelFileError, level_of_caller
from fmfast.modelfile import SavedLoop, all_finite, load_with_loop, save_model
from fmfast.training import Callback, Examples, Progress

_NAME = re.compile(r"checkpoint-([0-9]{8,})(-final)?\.fm", re.ASCII)
_LEFT_OVER = re.compile(r"\.fmfast-[0-9a-f]{16}\.tmp", re.ASCII)  # of a write that was killed
_N_KEPT = 2
# Of long arrays, stretches all over them show whether they are those of before.
_STRETCH, _N_STRETCHES = 1 << 16, 256


class Checkpoint:
    """Callback that keeps what `fit` needs to go on, should its process be killed.

    Put it among the `callbacks` of an estimator, and call `fit` with `resume_from` of the same directory:
    such a program may be run again and again until it comes to its end. With one thread, and with
    solver="als" and the Bayesian machines with any number, the outcome then has the same bytes as that of a
    fit that was never interrupted, apart from "seconds" in the history.

    Every checkpoint is also a model file: `fmfast.load` gives the estimator as it stood after that epoch. The
    last two are kept; while a third is written, the directory holds three. If one cannot be written (the
    disk is full), `fit` warns and goes on, and the last good ones stay. `partial_fit` writes none. Bayesian
    machines write none before the burn-in is over; theirs hold all draws so far, so let `every` be large.

    Parameters
    ----------
    directory : str or path-like
        Is made if it is missing. One fit at a time may use it.
    every : int, default=1
        Epochs (of a Bayesian machine, iterations) from one checkpoint to the next. One more is written at the
        end.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from fmfast import Checkpoint, FMRegressor
    >>> directory = tempfile.mkdtemp()
    >>> X, y = np.eye(5), np.arange(5.0)
    >>> fm = FMRegressor(max_iter=3, random_state=0, callbacks=[Checkpoint(directory)])
    >>> fm.fit(X, y, resume_from=directory).n_iter_  # would go on, if it had been killed
    3
    """

    def __init__(self, directory: str | os.PathLike[str], every: int = 1) -> None:
        if isinstance(every, bool) or not isinstance(every, (int, np.integer)) or every < 1:
            raise ValueError(f"every is {every!r}, expected an integer >= 1: epochs between checkpoints.")
        self.directory = os.fspath(directory)
        self.every = int(every)

    def __call__(self, record: dict[str, Any]) -> None:
        """Nothing: a record is not enough to go on from, so that `fit` uses `ResumableFit`."""

    def __repr__(self) -> str:
        return f"Checkpoint({self.directory!r}, every={self.every})"


class ResumableFit:
    """The checkpoints of one fit: the one it begins with, and those it leaves.

    Parameters
    ----------
    callbacks : sequence of callables
        Those that are a `Checkpoint` are heeded.
    resume_from : str, path-like or None
    identity : callable () -> dict
        Settings and data of the fit, as JSON can hold them: a checkpoint must have the same.
    """

    def __init__(
        self,
        callbacks: Sequence[Callback],
        resume_from: str | os.PathLike[str] | None,
        identity: Callable[[], dict[str, Any]],
    ) -> None:
        self._checkpoints = [callback for callback in callbacks if isinstance(callback, Checkpoint)]
        self._resume_from = None if resume_from is None else os.fsdecode(resume_from)
        is_used = self._checkpoints or self._resume_from is not None
        self._identity: dict[str, Any] = identity() if is_used else {}

    def begin(self) -> tuple[Any, Progress] | None:
        """What to go on from, a model and the progress, and make ready to write; None for a new start.

        All that can be wrong is found here, before anything is trained.
        """
        resumed = None if self._resume_from is None else self._latest(self._resume_from)
        for checkpoint in self._checkpoints:
            self._prepare(os.fsdecode(checkpoint.directory), resumed is not None)
        return resumed

    def keep(self, progress: Progress, snapshot: Callable[[], Any]) -> None:
        """Write what is due; `snapshot` makes a fitted estimator of the present model."""
        n_iter = len(progress.history)
        due = [each for each in self._checkpoints if progress.is_finished or n_iter % each.every == 0]
        if not due:
            return
        estimator = snapshot()
        if not all_finite(estimator.model_):  # nothing to go on from; the end of the fit will tell
            return
        loop = SavedLoop(self._identity, progress.is_finished, progress.arrays)
        for checkpoint in due:
            _write(os.fsdecode(checkpoint.directory), estimator, loop)

    def _latest(self, directory: str) -> tuple[Any, Progress] | None:
        """The newest checkpoint that is not damaged."""
        damage: ModelFileError | None = None
        for path in reversed(_found(directory)):
            try:
                estimator, loop = load_with_loop(path)
            except ModelFileError as error:
                damage = damage or error
                continue
            if damage is not None:
                warnings.warn(f"{damage} Going on from {path!r}.", stacklevel=level_of_caller())
            _check_same(directory, loop.identity, self._identity)
            history = estimator.history_[len(estimator.history_) - estimator.n_iter_ :]
            return estimator.model_, Progress(history, loop.is_finished, loop.arrays)
        if damage is not None:
            raise damage
        return None

    def _prepare(self, directory: str, is_resumed: bool) -> None:
        """Make a directory ready to write to, without harm to what another fit left there."""
        os.makedirs(directory, exist_ok=True)
        paths = _found(directory)
        goes_on = is_resumed and os.path.realpath(directory) == os.path.realpath(self._resume_from or "")
        if paths and not goes_on and not paths[-1].endswith("-final.fm"):
            raise ValueError(
                f"The directory {directory!r} holds checkpoints of a fit that has not come to its end; go on "
                f"with resume_from={directory!r}, or give Checkpoint another directory, or remove them."
            )
        for name in filter(_LEFT_OVER.fullmatch, os.listdir(directory)):
            with suppress(OSError):
                os.unlink(os.path.join(directory, name))
        with tempfile.TemporaryFile(dir=directory):  # better an error now than after an epoch
            pass


def identity_of(
    settings: dict[str, Any], examples: Examples, validation: Examples | None, labels: Any, n_before: int
) -> dict[str, Any]:
    """Settings and data of a fit, the latter in a few numbers.

    `labels` are the names of classes and features; `n_before` counts the epochs before this fit.
    """
    return {
        "settings": settings,
        "X": _checksum_of_rows(examples),
        "y": _checksum(examples.target),
        "sample_weight": _checksum(examples.weight),
        "eval_set": validation and [*_checksum_of_rows(validation), _checksum(validation.target)],
        "labels": zlib.crc32(repr(labels).encode("utf-8", "surrogatepass")),
        "n_before": n_before,
    }


_DATA = {
    "X": "X",
    "y": "y",
    "sample_weight": "sample_weight",
    "eval_set": "eval_set",
    "labels": "the names of classes or columns",
}


def _check_same(directory: str, then: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse a checkpoint of a fit with other settings or data."""
    advice = "or give resume_from a directory that is empty or missing, to start anew"
    settings_then = then.get("settings")
    if not isinstance(settings_then, dict):  # no fit has written that
        settings_then = {}
    for name in {**settings_then, **now["settings"]}:
        before, after = (_shown(settings, name) for settings in (settings_then, now["settings"]))
        if before != after:
            raise ValueError(
                f"The checkpoints in {directory!r} are of a fit with {name}={before}, but {name} is now "
                f"{after}; set it back, {advice}."
            )
    for key, name in _DATA.items():
        if then.get(key) != now[key]:
            raise ValueError(
                f"The checkpoints in {directory!r} are of a fit on other data: {name} differs; give the same "
                f"data, {advice}."
            )
    if then.get("n_before") != now["n_before"]:
        raise ValueError(
            f"The checkpoints in {directory!r} are of a fit that began after {then.get('n_before')} epochs, "
            f"but this one begins after {now['n_before']}; start from the same model, {advice}."
        )


def _shown(settings: dict[str, Any], name: str) -> str:
    """A setting; those that JSON cannot hold, as a function for scoring, are taken for equal."""
    return reprlib.repr(settings[name]) if name in settings else "an object"


def _checksum_of_rows(examples: Examples) -> list[int]:
    rows = examples.rows
    checksums = [_checksum(array) for array in (rows.indptr, rows.indices, rows.data)]
    return [rows.n_samples, rows.n_features, rows.nnz, *checksums]


def _checksum(array: NDArray[Any]) -> int:
    """CRC of the numbers, whatever their width; of a long array, of stretches all over it."""
    starts: Any = range(0, len(array), _STRETCH)
    if len(starts) > _N_STRETCHES:
        starts = np.linspace(0, len(array) - _STRETCH, _N_STRETCHES).astype(np.int64)
    dtype = np.float64 if array.dtype.kind == "f" else np.int64
    checksum = zlib.crc32(str(len(array)).encode())
    for start in starts:
        checksum = zlib.crc32(array[start : start + _STRETCH].astype(dtype).data, checksum)
    return checksum


# -- files --------------------------------------------------------------------------------------


def _found(directory: str) -> list[str]:
    """Paths of the checkpoints in a directory, the newest last; none if there is no directory."""
    try:
        names = [name for name in os.listdir(directory) if _NAME.fullmatch(name)]
    except FileNotFoundError:
        return []
    return [os.path.join(directory, name) for name in sorted(names, key=_number)]


def _number(path: str) -> int:
    match = _NAME.fullmatch(os.path.basename(path))
    return int(match[1]) if match else 0


def _write(directory: str, estimator: Any, loop: SavedLoop) -> None:
    """Write the next checkpoint, and remove all but the last ones; warn if that fails."""
    try:
        paths = _found(directory)
        number = _number(paths[-1]) + 1 if paths else 1
        name = f"checkpoint-{number:08d}{'-final' if loop.is_finished else ''}.fm"
        save_model(os.path.join(directory, name), estimator, loop)
        for path in paths[: 1 - _N_KEPT]:
            os.unlink(path)
    except OSError as error:
        # What is to save a fit from misfortune must not be what ends it.
        warnings.warn(
            f"A checkpoint could not be written ({error}); training goes on, and the last one that could "
            "remains.",
            stacklevel=level_of_caller(),
        )
