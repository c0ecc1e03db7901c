"""Predict with a trained model: one line for each row of the data, numbers in full precision.

With several numbers in a line, tabs stand between them: the prediction, then --return-std, then --interval.
Text and CSV are read block by block, so that they may be larger than the memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast import _streams
from fmfast._files import replacing
from fmfast.cli import data
from fmfast.cli.options import add_n_jobs, usage_error
from fmfast.modelfile import load

SUMMARY = "predict with a trained model"
USAGE = "MODEL DATA [--output FILE] [options]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that `fmfast train` has written")
    parser.add_argument("data", metavar="DATA", help="the rows; labels are not looked at")
    parser.add_argument(
        "--output",
        metavar="FILE",
        default="-",
        help="for the predictions, complete or not at all, compressed if it ends with .gz or .zst; - is "
        "standard output (default: %(default)s)",
    )
    parser.add_argument(
        "--proba", action="store_true", help="classifiers: the probability of each class, in sorted order"
    )
    parser.add_argument(
        "--interval",
        type=_coverage,
        metavar="C",
        help="Bayesian regressors: the ends of an interval that holds the truth with this probability",
    )
    parser.add_argument(
        "--return-std",
        action="store_true",
        help="Bayesian regressors, and Bayesian classifiers with --proba: the standard deviation",
    )
    add_n_jobs(parser)
    data.add_data_options(parser)


def run(args: argparse.Namespace) -> None:
    machine = load(args.model)
    machine.set_params(n_jobs=args.n_jobs)
    predict = _predictor(machine, args)
    source = data.Source.of(args.data, args)
    with _output(args.output) as write:
        for block in data.blocks(source, machine, with_labels=False):
            write(_lines(predict(block.X)))


def _predictor(machine: Any, args: argparse.Namespace) -> Callable[[Any], list[NDArray[Any]]]:
    """From rows to the columns of the output; a usage error for what the model cannot say."""
    is_bayesian, is_classifier = hasattr(machine, "n_kept_samples_"), hasattr(machine, "classes_")
    name = type(machine).__name__
    if args.proba and not is_classifier:
        raise usage_error(f"--proba is for classifiers, but the model is a {name}")
    if args.interval is not None and (is_classifier or not is_bayesian):
        raise usage_error(f"--interval is for Bayesian regressors, but the model is a {name}")
    if args.return_std and not (is_bayesian and (args.proba or not is_classifier)):
        raise usage_error(
            "--return-std is for Bayesian regressors, and for Bayesian classifiers with --proba, but the "
            f"model is a {name}"
        )
    method = machine.predict_proba if args.proba else machine.predict

    def predict(X: Any) -> list[NDArray[Any]]:
        columns = list(method(X, return_std=True)) if args.return_std else [method(X)]
        if is_classifier and not args.proba:
            columns = [data.as_written(column) for column in columns]
        if args.interval is not None:
            columns += machine.predict_interval(X, args.interval)
        return columns

    return predict


def _lines(columns: list[NDArray[Any]]) -> str:
    """Numbers with the fewest digits from which they come back to the bit."""
    values = [part for column in columns for part in (column.T if column.ndim > 1 else [column])]
    texts = [[str(value) for value in part.tolist()] for part in values]
    return "".join("\t".join(row) + "\n" for row in zip(*texts, strict=True))


@contextmanager
def _output(path: str) -> Iterator[Callable[[str], Any]]:
    if path == "-":
        yield sys.stdout.write
        return
    with replacing(os.fspath(path)) as file, _streams.compressing(file, path) as out:
        yield lambda lines: out.write(lines.encode())


def _coverage(value: str) -> float:
    try:
        coverage = float(value)
    except ValueError:
        coverage = np.nan
    if not 0.0 < coverage < 1.0:
        raise argparse.ArgumentTypeError(f"{value!r}, expected a number between 0 and 1, both excluded")
    return coverage
