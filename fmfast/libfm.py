"""Models in the text format of libFM (its option -save_model), written and read.

    #global bias W0
    3.5
    #unary interactions Wj
    0.1                         one line per feature
    #pairwise interactions Vj,f
    0.01 -0.02                  one line per feature, n_factors numbers

As in libFM the first two parts may be missing, and then are 0. A file may come from anywhere: reading it
takes memory in proportion to its size.
"""

from __future__ import annotations

import os
import re
from array import array
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fmfast._files import replacing
from fmfast.estimators import FMClassifier, FMRegressor
from fmfast.exceptions import TextFormatError
from fmfast.parameters import CONSTRAINTS

__all__ = ["dump", "load"]

_HEADS = (b"#global bias W0", b"#unary interactions Wj", b"#pairwise interactions Vj,f")
_W0, _W, _V = range(3)
_NUMBER = rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NUMBERS = re.compile(rb"(?:%s(?:[ \t]+%s)*)?" % (_NUMBER, _NUMBER))
_BLOCK_ROWS = 1 << 12


def dump(estimator: FMRegressor | FMClassifier, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator as a model of libFM, which its option -load_model reads.

    The numbers are w0_, w_ and V_, in the units of the target, with all their digits. A score is the
    prediction of a regression, and the log-odds of the second class of a classification. libFM takes it for
    that with its method sgd; with als and mcmc it has the probit link instead, and its probabilities differ.

    Parameters
    ----------
    estimator : FMRegressor, or FMClassifier with two classes
    path : str or path-like
        Name of the file, which appears under it only when it is complete.

    Raises
    ------
    NotFittedError
        If there is nothing to write.
    TypeError, ValueError
        For other estimators, and for more than two classes.
    OSError
        If the file cannot be written.
    """
    if not isinstance(estimator, (FMRegressor, FMClassifier)):
        raise TypeError(
            f"estimator is a {type(estimator).__name__}, expected a FMRegressor or FMClassifier: a file of "
            "libFM holds one machine; use save."
        )
    model = estimator._fitted_model("dump")
    if model.n_outputs > 1:
        raise ValueError(
            f"The model has {model.n_outputs} classes, expected two: a file of libFM holds one machine; "
            "write one per class with FMRegressor.from_arrays, or use save."
        )
    with replacing(os.fsdecode(path)) as file:
        parts = (np.reshape(model.w0, (1, 1)), model.w[:, None], model.V)
        for head, rows in zip(_HEADS, parts, strict=True):
            file.write(head + b"\n")
            for start in range(0, len(rows), _BLOCK_ROWS):
                block = rows[start : start + _BLOCK_ROWS].tolist()
                file.write("".join(" ".join(map(repr, row)) + "\n" for row in block).encode())


def load(
    path: str | os.PathLike[str],
    *,
    task: str = "regression",
    classes: ArrayLike = (0, 1),
    dtype: str = "float32",
) -> FMRegressor | FMClassifier:
    """Read a model that libFM, or `dump`, has written.

    Parameters
    ----------
    path : str or path-like
    task : {"regression", "classification"}, default="regression"
        What the scores mean, which the file does not say. For a classification they are log-odds, as with the
        method sgd of libFM; with als and mcmc libFM has the probit link instead: the predicted classes are
        the same, the probabilities differ.
    classes : array-like of shape (2,), default=(0, 1)
        The labels of a classification, ascending: those that libFM takes for negative and for positive.
    dtype : {"float32", "float64"}, default="float32"
        What the parameters are stored in.

    Returns
    -------
    FMRegressor or FMClassifier
        Fitted; it predicts, but cannot be trained further (see `FMRegressor.from_arrays`).

    Raises
    ------
    TextFormatError
        If the file is not such a model, or its numbers do not fit dtype.
    OSError
        If the file cannot be read.
    """
    if task not in ("regression", "classification"):
        raise ValueError(f"task is {task!r}, expected 'regression' or 'classification'; pass one of them.")
    is_valid, _ = CONSTRAINTS["dtype"]
    w0, w, V = _Reader(os.fsdecode(path), np.dtype(dtype if is_valid(dtype) else "float64")).read()
    if task == "regression":
        return FMRegressor.from_arrays(w0, w, V, dtype=dtype)
    return FMClassifier.from_arrays(w0, w, V, classes, dtype=dtype)


class _Reader:
    """Reads one file, line by line; `dtype` is what the parameters but w0 have to fit."""

    def __init__(self, path: str, dtype: np.dtype) -> None:
        self._path, self._dtype = path, dtype
        self._numbers = [array("d") for _ in _HEADS]
        self._n_rows = [0] * len(_HEADS)
        self._first_line = [0] * len(_HEADS)
        self._n_factors = 0

    def read(self) -> tuple[float, Any, Any]:
        """w0, w (n_features,) and V (n_features, n_factors), float64."""
        part, number = -1, 0
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                line = line.strip(b" \t\r\n")
                if line.startswith(b"#"):
                    part = self._next_part(part, line, number)
                else:
                    self._add(part, line, number)
        if part != _V:
            self._refuse(number + 1, "the end of the file", f"the line {_HEADS[_V].decode()!r}")
        n_features = self._n_rows[_V]
        for kind, n_rows in ((_W0, 1), (_W, n_features)):
            if self._first_line[kind] and self._n_rows[kind] != n_rows:
                found = f"the part {_HEADS[kind].decode()!r} with {self._n_rows[kind]} numbers"
                self._refuse(self._first_line[kind], found, f"{n_rows}, for {n_features} lines of V")
        if not n_features:
            self._refuse(number + 1, "the end of the file", "a line of V")
        w0, w, V = (np.frombuffer(numbers, dtype=np.float64) for numbers in self._numbers)
        for kind, values in enumerate((w0, w, V)):
            with np.errstate(over="ignore"):
                finite = np.isfinite(values if kind == _W0 else values.astype(self._dtype, copy=False))
            if not finite.all():
                row = int(finite.argmin()) // (self._n_factors if kind == _V else 1)
                expected = f"finite numbers of {self._dtype} (dtype='float64' has the widest range)"
                self._refuse(self._first_line[kind] + 1 + row, "a number too large", expected)
        return (
            float(w0[0]) if len(w0) else 0.0,
            w if len(w) else np.zeros(n_features),
            V.reshape(n_features, self._n_factors),
        )

    def _next_part(self, part: int, line: bytes, number: int) -> int:
        expected = _HEADS[part + 1 :]
        if line not in expected:
            names = " or ".join(repr(head.decode()) for head in expected)
            self._refuse(number, _shown(line), names or "numbers")
        kind = _HEADS.index(line)
        self._first_line[kind] = number
        return kind

    def _add(self, part: int, line: bytes, number: int) -> None:
        if part < 0:
            self._refuse(number, _shown(line), f"a line such as {_HEADS[_W0].decode()!r}")
        if not _NUMBERS.fullmatch(line):
            self._refuse(number, _shown(line), "numbers separated by spaces")
        values = line.split()
        if part == _V and not self._n_rows[_V]:
            self._n_factors = len(values)
        n_expected = self._n_factors if part == _V else 1
        if len(values) != n_expected:
            self._refuse(number, f"{len(values)} numbers", f"{n_expected}")
        self._numbers[part].extend(map(float, values))
        self._n_rows[part] += 1

    def _refuse(self, line: int, found: str, expected: str) -> None:
        raise TextFormatError(
            f"{self._path!r} is no model of libFM: line {line} is {found}, expected {expected}; write it "
            "with -save_model of libFM or with fmfast.libfm.dump.",
            line=line,
        )


def _shown(line: bytes) -> str:
    text = line[:40].decode("utf-8", "replace")
    return repr(text + "..." if len(line) > 40 else text)
