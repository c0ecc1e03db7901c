"""`fit(resume_from=...)`: a checkpoint that may come from anywhere."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import warnings
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import scipy.sparse as sp

from fmfast import BayesianFMRegressor, Checkpoint, DivergenceError, FMClassifier, FMRegressor
from fuzz.target import MIB, SEEDS, Target, require, state_of
from fuzz.targets.libfm import _directory
from fuzz.targets.modelfile import HUGE, largest_parameter, mutate_model


class CheckpointTarget(Target):
    name = "checkpoint"
    documented = (ValueError, DivergenceError)  # ModelFileError is a ValueError
    constant = 200 * MIB

    def __init__(self) -> None:
        self._path = os.path.join(_directory(), f"fuzz-{self.name}-{os.getpid()}")
        rng = np.random.default_rng(0)
        self._X = sp.random_array((20, 5), density=0.4, format="csr", rng=rng)
        self._y = self._X @ rng.normal(size=5)

    def new_seeds(self) -> dict[str, bytes]:
        seeds = {}
        for kind, fm in self._estimators().items():
            with tempfile.TemporaryDirectory() as directory:
                fm.set_params(callbacks=[Checkpoint(directory), _stop_at(3)])
                with suppress(_Stopped):
                    fm.fit(self._X, self._target(fm))
                name = sorted(os.listdir(directory))[-1]
                with open(os.path.join(directory, name), "rb") as file:
                    seeds[kind] = file.read()
        return seeds

    def mutate(self, data: bytes, rng: random.Random, pool: list[bytes]) -> bytes:
        return mutate_model(data, rng, pool)

    def check(self, data: bytes) -> str | None:
        kinds = list(self._estimators().items())
        # The estimator that the file was made for goes on from it; at times it is another.
        named = [name for name, seed in self._seeds().items() if _kinship(seed, data)]
        choice = zlib.crc32(data)
        name, fm = kinds[choice % len(kinds)]
        if named and choice % 16:
            name = named[0]
            fm = self._estimators()[name]
        shutil.rmtree(self._path, ignore_errors=True)
        os.makedirs(self._path)
        with open(os.path.join(self._path, "checkpoint-00000003.fm"), "wb") as file:
            file.write(data)
        before = state_of(fm)

        def resume() -> Any:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return fm.fit(self._X, self._target(fm), resume_from=self._path)

        result, refusal = self.attempt(resume)
        if result is None:
            require(state_of(fm) == before, "an estimator that a refused checkpoint has changed")
            return f"{name} {refusal}"
        with np.errstate(all="ignore"):
            prediction = fm.predict(self._X)
        is_finite = prediction.dtype.kind != "f" or np.isfinite(prediction).all()
        require(is_finite or largest_parameter(fm) > HUGE, "a prediction that is not finite")
        return f"accepted {name} {fm.n_iter_}"

    def _seeds(self) -> dict[str, bytes]:
        if not hasattr(self, "_read"):
            self._read = {path.name: path.read_bytes() for path in (SEEDS / self.name).iterdir()}
        return self._read

    def _target(self, fm: Any) -> Any:
        return self._y > 0 if isinstance(fm, FMClassifier) else self._y

    def _estimators(self) -> dict[str, Any]:
        common: dict[str, Any] = {"n_factors": 2, "random_state": 0}
        return {
            "adagrad": FMRegressor(max_iter=5, **common),
            "als": FMClassifier(max_iter=5, solver="als", **common),
            "bayesian": BayesianFMRegressor(n_iter=5, n_burn_in=1, **common),
            "early": FMRegressor(max_iter=8, early_stopping=True, solver="ftrl", **common),
        }


class _Stopped(BaseException):
    pass


def _stop_at(n_iter: int) -> Any:
    def callback(record: dict[str, Any]) -> None:
        if next(iter(record.values())) > n_iter:
            raise _Stopped

    return callback


def _kinship(seed: bytes, data: bytes) -> bool:
    """Whether a file was probably made of this one: its header names the same class and settings."""
    start = seed.find(b'"params"')
    return seed[start : start + 60] in data
