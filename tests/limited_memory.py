"""Calls with less and less memory to be had; `test_memory_limits.py` runs it. Prints how they went."""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import resource
import sys
import tempfile

import numpy as np
import scipy.sparse as sp

import fmfast
from fmfast import BayesianFMRegressor, FMClassifier, FMRegressor, text

N_SAMPLES, N_FEATURES, NNZ = 60_000, 200_000, 10
MIB = 1 << 20
LEVELS = [
    0,
    1,
    2,
    3,
    5,
    8,
    12,
    16,
    20,
    24,
    28,
    32,
    40,
    48,
    64,
    80,
    96,
    128,
    192,
    256,
    1024,
]  # MiB more than now


def matrix():
    rng = np.random.default_rng(0)
    width = N_FEATURES // NNZ
    indices = (rng.integers(0, width, (N_SAMPLES, NNZ)) + np.arange(NNZ) * width).astype(np.int32)
    indptr = np.arange(0, N_SAMPLES * NNZ + 1, NNZ, dtype=np.int32)
    values = rng.random(N_SAMPLES * NNZ, dtype=np.float32)
    return sp.csr_array((values, indices.ravel(), indptr), shape=(N_SAMPLES, N_FEATURES))


def work(name, directory):
    """(estimator or None, the call, what is to be equal of its results)"""
    X = matrix()
    y = np.asarray(X[:, : N_FEATURES // 2].sum(axis=1)).ravel()
    kind, _, more = name.partition(", ")
    # One thread: Python itself waits forever for a thread that finds no memory to begin with (3.11).
    common = {"n_factors": 24, "random_state": 0}
    numbers = lambda fm: (fm.w_.tobytes(), fm.V_.tobytes())  # noqa: E731
    if kind in ("sgd", "adagrad", "ftrl", "als"):
        fm = FMRegressor(solver=kind, max_iter=1, **common)
        if more == "again":
            fm.set_params(warm_start=True).fit(X[:100], y[:100])
            # Every call has to begin with the same model.
            start = pickle.dumps(fm)
            return fm, lambda: pickle.loads(start).fit(X, y), numbers
        return fm, lambda: fm.fit(X, y), numbers
    if kind == "classifier":
        fm = FMClassifier(max_iter=1, early_stopping=True, **common)
        return fm, lambda: fm.fit(X, np.digitize(y, np.quantile(y, [0.3, 0.6]))), numbers
    if kind == "bayesian":
        fm = BayesianFMRegressor(n_iter=2, n_burn_in=1, **common)
        return fm, lambda: fm.fit(X, y), lambda fm: fm.w_.tobytes()
    if kind == "partial_fit":
        fm = FMRegressor(**common).partial_fit(X[:100], y[:100])
        return fm, lambda: fm.partial_fit(X, y), numbers
    path = os.path.join(directory, "file")
    if kind == "text":
        text.dump(path, X, y)
        return None, lambda: text.load(path).X, lambda X: X.data.tobytes() + X.indices.tobytes()
    if kind == "open_dataset":
        fmfast.convert(X, path, y=y, overwrite=True)
        opened = lambda: fmfast.open_dataset(path)  # noqa: E731
        return None, opened, lambda ds: ds.X.indices.tobytes() + ds.y.tobytes()
    fm = FMRegressor(max_iter=1, **common).fit(X, y)
    if kind == "load":
        fm.save(path)
        return fm, lambda: fmfast.load(path), numbers
    assert kind == "predict"
    dense = sp.csc_array(X)
    return fm, lambda: fm.predict(dense), lambda prediction: prediction.tobytes()


def address_space():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def main():
    outcomes = []
    faulthandler.dump_traceback_later(60, exit=True)
    with tempfile.TemporaryDirectory() as directory:
        fm, call, numbers = work(sys.argv[1], directory)
        before = None if fm is None else pickle.dumps(fm)
        for level in LEVELS:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (address_space() + level * MIB, hard))
            result = None
            try:
                result = call()
                ending = "done"
            except BaseException as error:
                ending = f"{type(error).__name__}: {error}"
                is_memory_error = isinstance(error, MemoryError)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            if ending == "done":
                outcomes.append([level, "done", True])
                first = numbers(result)
                break
            unchanged = fm is None or pickle.dumps(fm) == before
            outcomes.append([level, "MemoryError" if is_memory_error else ending, unchanged])
        # With the same outcome as if memory had never been short.
        fm, call, numbers = work(sys.argv[1], directory)
        same = numbers(call()) == first
    print(json.dumps({"outcomes": outcomes, "same": same}))


if __name__ == "__main__":
    main()
