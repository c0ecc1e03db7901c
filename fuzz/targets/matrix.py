"""Malformed matrices, targets and weights straight into the estimators: JSON that describes a call."""

from __future__ import annotations

import json
import random
import warnings
import zlib
from typing import Any

import numpy as np
import scipy.sparse as sp

from fmfast import BayesianFMClassifier, BayesianFMRegressor, DivergenceError, FMClassifier, FMRegressor
from fuzz.mutation import FLOATS, INTEGERS, MAX_SIZE, mutate_json
from fuzz.target import MIB, Target, require, state_of

DTYPES = [
    "<f4",
    "<f8",
    ">f8",
    "<f2",
    "<i4",
    "<i8",
    ">i4",
    "|i1",
    "|u1",
    "<u8",
    "<u4",
    "|b1",
    "<c8",
    "|O",
    "<U3",
]
FORMATS = {
    "csr": ("data", "indices", "indptr"),
    "csc": ("data", "indices", "indptr"),
    "bsr": ("data", "indices", "indptr"),
    "coo": ("data", "row", "col"),
    "dia": ("data", "offsets"),
    "dense": ("data",),
}
METHODS = ["fit", "fit", "partial_fit", "predict", "predict", "score", "eval_set"]
ESTIMATORS = ["adagrad", "sgd", "ftrl", "als", "classifier", "bayesian", "bayesian_classifier"]
N_SAMPLES, N_FEATURES = 6, 4
MAX_FEATURES = 1 << 16  # a table of more is what X asks for, however small X is


class MatrixTarget(Target):
    name = "matrix"
    documented = (ValueError, TypeError, DivergenceError)
    constant = 64 * MIB  # MAX_FEATURES columns, their table and its backup
    multiple = 1000  # JSON says "2" where a float64 of a dense array is meant

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._X = sp.random_array((N_SAMPLES, N_FEATURES), density=0.5, format="csr", rng=rng)
        self._y = {"regression": rng.normal(size=N_SAMPLES), "classification": np.arange(N_SAMPLES) % 2}
        self._fitted: dict[str, Any] = {}

    def new_seeds(self) -> dict[str, bytes]:
        seeds = {}
        for number, format in enumerate(FORMATS):
            X = self._X.toarray() if format == "dense" else self._X.asformat(format)
            arrays = {"data": X} if format == "dense" else {p: getattr(X, p) for p in FORMATS[format]}
            seeds[format] = _encoded(
                {
                    "method": METHODS[number % len(METHODS)],
                    "estimator": ESTIMATORS[number % len(ESTIMATORS)],
                    "format": format,
                    "shape": list(X.shape),
                    "arrays": {
                        name: [a.dtype.str, list(a.shape), a.ravel().tolist()] for name, a in arrays.items()
                    },
                    "y": ["<f8", [N_SAMPLES], [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]],
                    "weight": None if number % 2 else ["<f8", [N_SAMPLES], [1.0] * N_SAMPLES],
                }
            )
        return seeds

    def mutate(self, data: bytes, rng: random.Random, pool: list[bytes]) -> bytes:
        spec = json.loads(data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            kind = rng.randrange(8)
            arrays = [a for a in (*spec["arrays"].values(), spec["y"], spec["weight"]) if _is_array(a)]
            array = rng.choice(arrays) if arrays else None
            if kind == 0:
                spec["method"] = rng.choice(METHODS)
                spec["estimator"] = rng.choice(ESTIMATORS)
            elif kind == 1:
                spec["shape"] = [max(-1, int(n) + rng.choice((-1, 0, 0, 1, 5))) for n in spec["shape"]]
                if rng.random() < 0.3:
                    spec["shape"][rng.randrange(2)] = rng.choice(INTEGERS)
            elif kind == 2 and array:
                array[0] = rng.choice(DTYPES)
            elif kind <= 4 and array and array[2]:
                values = FLOATS if rng.random() < 0.3 else [0, 1, 2, 3, 4, 5, -1, *INTEGERS]
                array[2][rng.randrange(len(array[2]))] = rng.choice(values)
            elif kind == 5 and array:
                n = rng.choice((1, 1, 2, 7))
                array[2] = array[2][:-n] if rng.random() < 0.5 else (array[2] + array[2][:n])[:3000]
                array[1] = [len(array[2])] if len(array[1]) == 1 else array[1]
            elif kind == 6 and array and len(array[2]) > 1:
                a, b = rng.randrange(len(array[2])), rng.randrange(len(array[2]))
                array[2][a], array[2][b] = array[2][b], array[2][a]
            else:
                name = rng.choice(("y", "weight", "arrays"))
                changed = mutate_json({name: spec[name]}, rng) if spec[name] is not None else {}
                if isinstance(changed, dict) and (name != "arrays" or _has_arrays(changed.get(name))):
                    spec[name] = changed.get(name)
        return _encoded(spec)[:MAX_SIZE]

    def check(self, data: bytes) -> str | None:
        try:
            spec = json.loads(data)
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                X, parts = _matrix(spec)
                y = None if spec["y"] is None else _array(spec["y"])
                weight = None if spec["weight"] is None else _array(spec["weight"])
        except (
            ValueError,
            TypeError,
            KeyError,
            OverflowError,
            IndexError,
            AttributeError,
            MemoryError,
            RecursionError,
        ):
            return None  # NumPy or SciPy do not make such a thing
        shape = getattr(X, "shape", ())
        if max(shape, default=0) > MAX_FEATURES:
            return None
        if spec["method"] not in METHODS or spec["estimator"] not in ESTIMATORS:
            return None
        given = [(array, _bytes(array)) for array in (*parts, y, weight) if isinstance(array, np.ndarray)]
        fm, call = self._call(spec["method"], spec["estimator"], zlib.crc32(data), X, y, weight)
        before = state_of(fm)

        def silently() -> Any:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return call()

        result, refusal = self.attempt(silently)
        require(all(_bytes(array) == then for array, then in given), "the caller's arrays were changed")
        name = f"{spec['estimator']} {spec['method']} {spec['format']}"
        if refusal:
            require(state_of(fm) == before, "a refused call changed the estimator")
            return f"{spec['method']} {refusal}"
        if spec["method"] in ("predict", "score"):
            require(state_of(fm) == before, "a prediction changed the estimator")
            numbers = np.asarray(result)
            require(numbers.dtype.kind != "f" or _is_sound(numbers, X, y), "an output that is not finite")
        else:
            table = fm.model_.chain.table if hasattr(fm.model_, "chain") else fm.model_.table
            require(table.all_finite(), "parameters that are not finite")
            self._fitted.pop(spec["estimator"], None)
        return f"accepted {name}"

    def _call(self, method: str, kind: str, number: int, X: Any, y: Any, weight: Any) -> tuple[Any, Any]:
        task = "classification" if "classifier" in kind else "regression"
        if number % 3 and method != "predict" and method != "score":
            fm = _estimator(kind)  # not fitted yet
        else:
            if kind not in self._fitted:
                self._fitted[kind] = _estimator(kind).fit(self._X, self._y[task])
            fm = self._fitted[kind].set_params(warm_start=bool(number % 2))
        if method == "predict":
            names = [n for n in ("predict", "predict_proba", "decision_function") if hasattr(fm, n)]
            return fm, lambda: getattr(fm, names[number % len(names)])(X)
        if method == "score":
            return fm, lambda: fm.score(X, y, weight)
        if method == "eval_set" and hasattr(fm, "early_stopping"):
            return fm, lambda: fm.fit(self._X, self._y[task], eval_set=(X, y))
        if method == "partial_fit" and hasattr(fm, "partial_fit"):
            return fm, lambda: fm.partial_fit(X, y, sample_weight=weight)
        return fm, lambda: fm.fit(X, y, sample_weight=weight)


def _estimator(kind: str) -> Any:
    common: dict[str, Any] = {"n_factors": 2, "random_state": 0}
    if kind == "bayesian":
        return BayesianFMRegressor(n_iter=2, n_burn_in=1, **common)
    if kind == "bayesian_classifier":
        return BayesianFMClassifier(n_iter=2, n_burn_in=1, **common)
    if kind == "classifier":
        return FMClassifier(max_iter=1, **common)
    return FMRegressor(max_iter=1, solver=kind, **common)


def _is_array(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and isinstance(value[1], list)
        and isinstance(value[2], list)
    )


def _has_arrays(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_array, value.values()))


def _array(value: Any) -> Any:
    """An array of a dtype, a shape and values; anything else is given as it is."""
    if not _is_array(value):
        return value
    dtype, shape, values = value
    array = np.array(values, dtype=object) if dtype == "|O" else np.array(values).astype(dtype)
    return array.reshape([int(n) for n in shape])


def _matrix(spec: dict[str, Any]) -> tuple[Any, list[Any]]:
    """A matrix as nobody should build it: SciPy checks what is passed to a constructor, not what is set."""
    format, shape = spec["format"], tuple(int(n) for n in spec["shape"])
    arrays = {name: _array(value) for name, value in spec["arrays"].items()}
    parts = list(arrays.values())
    if format == "dense":
        return arrays["data"], parts
    X = getattr(sp, f"{format}_array")((1, 1))
    if min(shape) < 0 or max(shape) > MAX_FEATURES:
        raise ValueError("no shape of a matrix")
    X._shape = shape
    if format == "coo":
        X.data, X.coords = arrays["data"], (arrays["row"], arrays["col"])
        return X, parts
    for name in FORMATS[format]:
        setattr(X, name, arrays[name])
    return X, parts


def _encoded(spec: dict[str, Any]) -> bytes:
    return json.dumps(spec).encode()


def _bytes(array: np.ndarray) -> bytes:
    return repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes()


def _is_sound(numbers: np.ndarray, X: Any, y: Any) -> bool:
    """Finite, unless the numbers that went in were huge: a score of them may well overflow."""
    if np.isfinite(numbers).all():
        return True
    given = [X.data if sp.issparse(X) else X, y]
    numbers = [
        part.astype(np.float64) for part in given if isinstance(part, np.ndarray) and part.dtype.kind in "fiu"
    ]
    return any(np.abs(part).max(initial=0) > 1e15 for part in numbers)
