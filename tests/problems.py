"""What several test modules share: kinds of tasks and solvers, and one-hot data of a planted machine."""

from __future__ import annotations

import os

import numpy as np
import pytest
import scipy.sparse as sp

from fmfast import FMClassifier, FMRegressor

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals, limits, permissions and links of POSIX")

# One small update per sample: these have a learning rate, and the order of the samples matters to them.
STOCHASTIC = ["adagrad", "sgd", "ftrl"]

CASES = [(FMRegressor, None), (FMClassifier, 2), (FMClassifier, 3)]
IDS = ["regressor", "two classes", "three classes"]


def train_on(fm, X, y):
    """One more epoch of a fitted machine, also of those that have no `partial_fit`."""
    if fm.solver in STOCHASTIC:
        return fm.partial_fit(X, y)
    settings = {"warm_start": fm.warm_start, "max_iter": fm.max_iter}
    fm.set_params(warm_start=True, max_iter=1).fit(X, y)
    return fm.set_params(**settings)


def one_hot(*fields):
    """One column per value of each field of integers."""
    blocks = [sp.csr_array(np.eye(field.max() + 1, dtype=np.float32)[field]) for field in fields]
    return sp.csr_array(sp.hstack(blocks))


def planted(n_samples, seed=0, noise=0.0):
    """Users, items and a context; a factorization machine of two factors made the target."""
    rng = np.random.default_rng(seed)
    sizes = (40, 30, 5)
    X = one_hot(*(np.append(rng.integers(0, size, n_samples - 1), size - 1) for size in sizes))
    parameters = np.random.default_rng(99)
    w, V = parameters.normal(size=sum(sizes)), parameters.normal(size=(sum(sizes), 2))
    y = 5.0 + X @ w + 0.5 * ((X @ V) ** 2 - X @ V**2).sum(axis=1)
    return X, y + noise * rng.normal(size=n_samples)


def quantile_classes(y, n_classes, of=None):
    """Classes of about equal size, cut from numbers at the quantiles of `of`; None leaves the numbers."""
    if n_classes is None:
        return y
    return np.digitize(y, np.quantile(y if of is None else of, np.arange(1, n_classes) / n_classes))
