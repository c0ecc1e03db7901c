"""What the tests of the command share: how it is called, and data to call it with."""

from __future__ import annotations

import csv
import os
import sys

import numpy as np
from problems import planted

import fmfast
from fmfast import cli

COMMAND = [sys.executable, "-m", "fmfast"]
# So that a new process finds the fmfast that is under test.
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def run(*args):
    """Exit code of the command in this process, wrong usage included."""
    try:
        return cli.main([str(arg) for arg in args])
    except SystemExit as stop:
        return stop.code


def succeed(*args):
    assert run(*args) == 0


def failure(capsys, *args, code=1):
    """The one line on standard error of a command that fails; with code 2 the usage stands before it."""
    capsys.readouterr()
    assert run(*args) == code
    lines = capsys.readouterr().err.splitlines()
    if code == 2:
        assert lines[0].startswith(f"usage: fmfast {args[0]}")
        lines = lines[-1:]
    assert len(lines) == 1
    assert lines[0].startswith("fmfast")
    return lines[0]


X, Y = planted(800, noise=0.1)
X_TRAIN, Y_TRAIN, X_TEST, Y_TEST = X[:600], Y[:600], X[600:], Y[600:]
SETTINGS = ("--n-factors", "4", "--max-iter", "5", "--random-state", "0")


def regressor(**settings):
    return fmfast.FMRegressor(n_factors=4, max_iter=5, random_state=0, **settings)


def numbers(path):
    return np.loadtxt(path, ndmin=2)


def write_csv(path, columns):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
