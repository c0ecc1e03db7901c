"""`fmfast.load`: model files, of every kind of estimator."""

from __future__ import annotations

import json
import os
import random
import tempfile
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp

import fmfast
from fmfast import (
    BayesianFMClassifier,
    BayesianFMRegressor,
    FeatureEncoder,
    FMClassifier,
    FMRanker,
    FMRegressor,
    ModelFileError,
)
from fuzz.mutation import mutate_array_member, mutate_bytes, mutate_json, mutate_members, unzip, zipped
from fuzz.target import MIB, Target, require
from fuzz.targets.libfm import _directory

NAMES = [
    "header.npy", "bias.npy", "w.npy", "V.npy", "state.npy", "groups.npy", "alpha.npy", "mean.npy",
    "contexts_data.npy", "items_indices.npy", "items_indptr.npy",
    "draw0_V.npy", "draw1_V.npy", "loop_objective.npy", "../w.npy", "/w.npy", "w", "",
]  # fmt: skip
TOKENS = [
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"\xff\xff\xff\xff",
    b"\x93NUMPY",
    b"|O",
    b"<f8",
]
HUGE = 1e6  # parameters beyond it may well have predictions that are infinite


class ModelFileTarget(Target):
    name = "modelfile"
    documented = (ModelFileError,)
    constant = 200 * MIB  # labels may be padded to 64 MiB; numpy makes a second copy to compare them

    def __init__(self) -> None:
        self._path = os.path.join(_directory(), f"fuzz-{self.name}-{os.getpid()}")

    def new_seeds(self) -> dict[str, bytes]:
        seeds = {}
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "model")
            for name, fm in _models():
                fm.save(path)
                with open(path, "rb") as file:
                    seeds[name] = file.read()
        return seeds

    def mutate(self, data: bytes, rng: random.Random, pool: list[bytes]) -> bytes:
        return mutate_model(data, rng, pool)

    def check(self, data: bytes) -> str | None:
        with open(self._path, "wb") as file:
            file.write(data)
        fm, refusal = self.attempt(lambda: fmfast.load(self._path))
        if fm is None:
            return refusal
        return check_model(fm, self._path)


def mutate_model(data: bytes, rng: random.Random, pool: list[bytes]) -> bytes:
    members = unzip(data)
    if members is None or rng.random() < 0.2:
        return mutate_bytes(data, rng, TOKENS, pool)
    return zipped(mutate_members(members, rng, _mutate_member, NAMES))


def _mutate_member(name: str, content: bytes, rng: random.Random) -> bytes:
    if name != "header.npy" or rng.random() < 0.1:
        return mutate_array_member(content, rng, TOKENS)
    try:
        header = json.loads(content[128:])
    except (ValueError, RecursionError):
        return mutate_bytes(content, rng, TOKENS, ())
    text = json.dumps(mutate_json(header, rng)).encode()
    shape = f"'shape': ({len(text)},), }}".encode()
    before, _, _ = content[:128].partition(b"'shape'")
    return (before + shape).ljust(127) + b"\n" + text


def largest_parameter(fm: Any) -> float:
    """Of all tables, and of a ranker's rows; whether tables are finite is checked as well."""
    model = fm.model_
    tables = [draw.table for draw in model.draws] if hasattr(model, "draws") else [model.table]
    largest = max(model.scale, abs(model.offset))
    for table in tables:
        for array in (table.rows[:, :, : table.width + 1], table.bias):
            require(np.isfinite(array).all(), "parameters that are not finite")
            largest = max(largest, float(np.abs(array).max()))
    if isinstance(fm, FMRanker):  # whose scores are of rows in the file
        largest = max(largest, model.contexts.largest_value(), model.items.largest_value())
    return largest


def check_model(fm: Any, path: str) -> str:
    """What must hold for every estimator that was read."""
    kind = type(fm).__name__
    largest = largest_parameter(fm)
    has_encoder = fm.model_.encoder is not None
    if not has_encoder:
        try:
            prediction = _prediction(fm)
        except ValueError as error:
            require(isinstance(fm, FMRanker) and largest > HUGE, f"a ranker that cannot rank: {error}")
            return f"accepted {kind} without finite scores"
        require(len(prediction) == 2, "not one prediction per row")
        finite = prediction.dtype.kind not in "f" or np.isfinite(prediction).all()
        require(finite or largest > HUGE, "a prediction that is not finite")
    if largest < HUGE and not has_encoder:  # what was read can be written, and is the same then
        fm.save(path)
        again = fmfast.load(path)
        predicted_again = _prediction(again)
        require(np.array_equal(predicted_again, prediction), "other predictions than before it was written")
        require(repr(again.get_params()) == repr(fm.get_params()), "other settings than were written")
    return f"accepted {kind} {fm.model_.solver if kind[0] == 'F' else ''} {has_encoder}"


def _prediction(fm: Any) -> Any:
    """Two predictions: of rows, or of the first and the last pair of a ranker."""
    if isinstance(fm, FMRanker):
        lists = fm.recommend([0], n=2)
        require(lists.items.shape == (1, 2), "not the list that was asked for")
        return fm.predict([0, fm.n_contexts_ - 1], [0, fm.n_items_ - 1])
    n_features = fm.n_features_in_
    X = sp.csr_array(([1.0, 0.5], ([0, 0], [0, n_features - 1])), shape=(2, n_features))
    X.sum_duplicates()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # that X has no names
        return fm.predict(X)


def _models() -> Any:
    rng = np.random.default_rng(0)
    X = sp.random_array((20, 5), density=0.4, format="csr", rng=rng)
    y = X @ rng.normal(size=5)
    settings: dict[str, Any] = {"n_factors": 2, "max_iter": 2, "random_state": 0}
    for solver in ("adagrad", "sgd", "ftrl", "als"):
        yield f"regressor_{solver}", FMRegressor(solver=solver, **settings).fit(X, y)
    chosen = np.kron(np.eye(2), np.ones((3, 2)))
    yield "ranker_of_ids", FMRanker(**settings).fit(chosen)
    known = sp.random_array((6, 3), density=0.7, format="csr", rng=rng)
    yield "ranker_of_features", FMRanker(**settings, loss="bpr").fit(chosen, known, X[:4])
    yield "classifier", FMClassifier(**settings, dtype="float64").fit(X, np.where(y > 0, "yes", "no"))
    yield "three_classes", FMClassifier(**settings).fit(X, np.digitize(y, np.quantile(y, [0.3, 0.6])))
    yield "early_stopping", FMRegressor(**settings, early_stopping=True).fit(X, y)
    yield "from_arrays", FMRegressor.from_arrays(1.0, [1.0, 2.0], [[1.0], [2.0]], feature_names=["a", "ж"])
    yield "no_factors", FMRegressor(**settings | {"n_factors": 0}).fit(X, y)
    chain: dict[str, Any] = {"n_factors": 2, "n_iter": 4, "n_burn_in": 2, "random_state": 0}
    yield "bayesian", BayesianFMRegressor(**chain).fit(X, y)
    yield "bayesian_classifier", BayesianFMClassifier(**chain).fit(X, y > 0)
    table = {"user": ["a", "b", "a", "c"], "age": [1.0, 2.0, 3.0, 4.0], "when": ["x|y", "x", "", "y"]}
    encoder = FeatureEncoder()
    yield "encoder", FMRegressor(**settings, encoder=encoder).fit(_frame(table), [1.0, 2.0, 3.0, 4.0])


def _frame(table: dict[str, list[Any]]) -> Any:
    import pandas as pd

    return pd.DataFrame(table)
