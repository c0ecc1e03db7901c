"""Long work of every kind, interrupted by SIGINT; `test_interruption.py` runs it. Prints how it went."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import tempfile
import threading
import time

import numpy as np
import scipy.sparse as sp

from fmfast import BayesianFMRegressor, FMClassifier, FMRegressor, convert, retrieval, text

N_SAMPLES, N_FEATURES, NNZ = 400_000, 60_000, 30
# Seconds between the begin of the work and the signal, 0.6 for others: in the middle of an epoch, not while
# SciPy sorts the matrix by columns.
LATER = {"wide": 2.0, "als": 4.0, "als classifier": 4.0}


def matrix(n_samples=N_SAMPLES, n_features=N_FEATURES):
    """Random rows of `NNZ` values each."""
    rng = np.random.default_rng(0)
    width = n_features // NNZ
    indices = (rng.integers(0, width, (n_samples, NNZ)) + np.arange(NNZ) * width).astype(np.int32)
    indptr = np.arange(0, n_samples * NNZ + 1, NNZ)
    return sp.csr_array((rng.random(n_samples * NNZ, dtype=np.float32), indices.ravel(), indptr))


def target(X):
    return np.asarray(X[:, : X.shape[1] // 2].sum(axis=1)).ravel()


def lines():
    """Some tens of megabytes of text, as often as it takes."""

    class Endless:
        def __init__(self):
            self._part = b"1 1:0.5 7:0.25 12:0.125 100:3.5\n" * 30_000
            self._left = 5000

        def read(self, size):
            self._left -= 1
            return self._part[:size] if self._left > 0 else b""

    return Endless()


def work(name):
    """(estimator or None, what takes long)"""
    n_jobs = 2 if "two threads" in name else None
    kind = name.partition(",")[0]
    common = {"random_state": 0, "n_jobs": n_jobs}
    if kind in ("text", "convert"):
        if kind == "text":
            return None, lambda: text.load(lines(), n_jobs=n_jobs)
        directory = tempfile.mkdtemp()
        return None, lambda: convert(lines(), os.path.join(directory, "x.fmd"))
    X = matrix()
    y = target(X)
    if kind == "wide":  # epochs of a second and more
        fm = FMRegressor(n_factors=640, max_iter=100, learning_rate=1e-4, **common)
        return fm, lambda: fm.fit(X, y)
    if kind in ("sgd", "adagrad"):
        fm = FMRegressor(n_factors=32, max_iter=1000, solver=kind, learning_rate=1e-3, **common)
        return fm, lambda: fm.fit(X, y)
    if kind == "als":
        fm = FMRegressor(n_factors=32, max_iter=100, solver="als", tol=0.0, **common)
        return fm, lambda: fm.fit(X, y)
    if kind == "als classifier":
        fm = FMClassifier(n_factors=32, max_iter=100, solver="als", tol=0.0, **common)
        return fm, lambda: fm.fit(X, y > np.median(y))
    if kind == "bayesian":
        fm = BayesianFMRegressor(n_factors=16, n_iter=100, **common)
        return fm, lambda: fm.fit(X, y)
    if kind == "partial_fit":
        fm = FMRegressor(n_factors=640, learning_rate=1e-4, random_state=0).partial_fit(X[:1000], y[:1000])
        return fm, lambda: fm.partial_fit(X, y)
    if kind == "predict":
        fm = FMRegressor(n_factors=512, max_iter=1, **common).fit(X[:1000], y[:1000])
        many = sp.csr_array(
            (np.tile(X.data, 6), np.tile(X.indices, 6), np.arange(0, 6 * X.nnz + 1, NNZ)),
            shape=(6 * N_SAMPLES, N_FEATURES),
        )
        return fm, lambda: fm.predict(many)
    if kind == "bayesian predict":
        fm = BayesianFMRegressor(n_factors=16, n_iter=110, n_burn_in=10, **common).fit(X[:1000], y[:1000])
        return fm, lambda: fm.predict(X, return_std=True)
    if kind == "recommend":
        fm = FMRegressor(n_factors=64, max_iter=1, **common).fit(X[:1000], y[:1000])
        half = N_FEATURES // 2
        contexts, items = (
            sp.eye_array(half, N_FEATURES, format="csr"),
            sp.eye_array(half, N_FEATURES, k=half, format="csr"),
        )
        return fm, lambda: retrieval.recommend(fm, contexts, items, n=10)
    raise ValueError(name)


def state(fm):
    return None if fm is None else pickle.dumps(fm)


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may ignore it
    fm, call = work(sys.argv[1])
    before = state(fm)
    threads = threading.active_count()
    pressed = []

    def press():
        pressed.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(LATER.get(sys.argv[1].partition(",")[0], 0.6), press)
    timer.start()
    ending = "nothing: it was too short"
    try:
        call()
        timer.cancel()
    except KeyboardInterrupt:
        ending = "KeyboardInterrupt"
    now = time.perf_counter()
    timer.join()
    outcome = {
        "ended by": ending,
        "seconds until it was heard": now - pressed[0] if pressed else None,
        "unchanged": state(fm) == before,
        "threads left": threading.active_count() - threads,
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
