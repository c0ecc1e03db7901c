"""Other processes and threads around: fork, multiprocessing, and the workers of joblib."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import scipy.sparse as sp

from fmfast import BayesianFMRegressor, FMClassifier, FMRegressor, retrieval

TIMEOUT = 120
can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork of POSIX")
# Python 3.12 and later warn of a fork while there are threads; here that is what is tested.
quietly = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

rng = np.random.default_rng(0)
X = sp.random_array((3000, 40), density=0.2, format="csr", rng=rng, dtype=np.float32)
Y = X @ rng.normal(size=40)
ESTIMATORS = {
    "adagrad": FMRegressor(n_factors=4, max_iter=3, random_state=0),
    "als, two threads": FMRegressor(n_factors=4, max_iter=3, solver="als", n_jobs=2, random_state=0),
    "classifier": FMClassifier(n_factors=4, max_iter=3, random_state=0),
    "bayesian, two threads": BayesianFMRegressor(
        n_factors=4, n_iter=6, n_burn_in=2, n_jobs=2, random_state=0
    ),
}


def trained(name):
    """The bytes of a prediction; of all of these the same with any number of threads."""
    fm = ESTIMATORS[name]
    fm = type(fm)(**fm.get_params(deep=False))
    return fm.fit(X, Y > 0 if name == "classifier" else Y).predict(X).tobytes()


def recommended(_=None):
    """A product of matrices by BLAS, which has threads of its own."""
    fm = FMRegressor(n_factors=16, max_iter=1, random_state=0).fit(X, Y)
    users = sp.eye_array(20, 40, format="csr")
    items = sp.eye_array(20, 40, k=20, format="csr")
    return retrieval.recommend(fm, users, items, n=3, n_jobs=2).items.tobytes()


@pytest.fixture(scope="module")
def expected():
    return {name: trained(name) for name in ESTIMATORS}


def hogwild(_=None):
    """Threads that write the same table: no two outcomes are equal, but all are sound."""
    fm = FMRegressor(n_factors=4, max_iter=5, n_jobs=2, random_state=0).fit(X, Y)
    return float(np.mean((fm.predict(X) - Y) ** 2)) < 0.5 * float(np.var(Y))


def in_a_fork(work):
    """What a forked child returns; it may neither hang nor crash."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            os.write(write, work()[:1000])
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    deadline = time.monotonic() + TIMEOUT
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    with os.fdopen(read, "rb") as pipe:
        returned = pipe.read()
    assert ended[1] == 0, f"the child ended with {ended[1]}"
    return returned


@can_fork
@quietly
@pytest.mark.parametrize("name", ESTIMATORS)
def test_fork_after_a_fit_with_threads(expected, name):
    hogwild()
    assert in_a_fork(lambda: trained(name)) == expected[name][:1000]
    assert trained(name) == expected[name]


@can_fork
@quietly
def test_fork_after_a_product_of_matrices():
    items = recommended()
    assert in_a_fork(recommended) == items[:1000]


@can_fork
@quietly
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_fork_in_the_middle_of_a_fit(expected, n_jobs):
    """The child has no thread but its own, and nobody who would give back what others held."""
    begun, stop = threading.Event(), threading.Event()

    def callback(record):
        begun.set()
        return stop.is_set()

    fm = FMRegressor(n_factors=8, max_iter=10**6, n_jobs=n_jobs, random_state=0, callbacks=[callback])
    thread = threading.Thread(target=fm.fit, args=(X, Y))
    thread.start()
    try:
        assert begun.wait(TIMEOUT)
        for name in ("adagrad", "als, two threads"):
            assert in_a_fork(lambda name=name: trained(name)) == expected[name][:1000]
    finally:
        stop.set()
        thread.join()
    assert np.isfinite(fm.predict(X)).all()


@quietly
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing(expected, method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        names = [*ESTIMATORS] * 2
        outcomes = pool.map_async(trained, names).get(TIMEOUT)
        assert outcomes == [expected[name] for name in names]
        assert all(pool.map_async(hogwild, range(4)).get(TIMEOUT))


@quietly
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_workers_of_joblib(expected, backend):
    names = [*ESTIMATORS] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of joblib itself
        run = joblib.Parallel(n_jobs=2, backend=backend, timeout=TIMEOUT)
        assert run(joblib.delayed(trained)(name) for name in names) == [expected[name] for name in names]
        assert all(run(joblib.delayed(hogwild)(i) for i in range(4)))


def test_many_threads_with_a_machine_each(expected):
    names = [*ESTIMATORS] * 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(trained, names)) == [expected[name] for name in names]


def test_many_threads_with_one_machine():
    """Prediction only reads: one machine may serve any number of threads."""
    fm = FMRegressor(n_factors=8, max_iter=2, random_state=0, n_jobs=2).fit(X, Y)
    expected = fm.predict(X).tobytes()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: fm.predict(X).tobytes(), range(64))) == {expected}
