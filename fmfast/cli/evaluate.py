"""Measure the predictions of a model on labelled data.

A regressor gets RMSE, MAE and R2, a classifier log loss and accuracy, and with two classes the area under the
ROC curve (AUC). Weights of the data count. The data is read block by block.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast import metrics
from fmfast.cli import data
from fmfast.cli.options import add_n_jobs
from fmfast.modelfile import load
from fmfast.targets import check_labels, check_regression_target, check_sample_weight, encode_labels

SUMMARY = "measure a model on labelled data"
USAGE = "MODEL DATA [options]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a file that `fmfast train` has written")
    parser.add_argument("data", metavar="DATA", help="rows with labels")
    add_n_jobs(parser)
    data.add_data_options(parser)


def run(args: argparse.Namespace) -> None:
    machine = load(args.model)
    machine.set_params(n_jobs=args.n_jobs)
    is_classifier = hasattr(machine, "classes_")
    parts: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for block in data.blocks(data.Source.of(args.data, args), machine, with_labels=True):
        assert block.y is not None
        prediction = machine.predict_proba(block.X) if is_classifier else machine.predict(block.X)
        weight = block.sample_weight
        parts.append((block.y, prediction, np.ones(len(block.y)) if weight is None else weight))
    y, prediction, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    weight = check_sample_weight(weight, len(y))
    measures = (
        _of_classes(machine, y, prediction, weight) if is_classifier else _of_numbers(y, prediction, weight)
    )
    print(f"{'rows':10}{len(y)}")
    for name, value in measures.items():
        print(f"{name:10}{value:.8g}")


def _of_numbers(y: NDArray[Any], prediction: NDArray[Any], weight: NDArray[Any]) -> dict[str, float]:
    target = check_regression_target(y, len(prediction), dtype=np.float64)
    return {
        "RMSE": metrics.root_mean_squared_error(target, prediction, weight),
        "MAE": metrics.mean_absolute_error(target, prediction, weight),
        "R2": metrics.r2_score(target, prediction, weight),
    }


def _of_classes(machine: Any, y: NDArray[Any], p: NDArray[Any], weight: NDArray[Any]) -> dict[str, float]:
    codes = encode_labels(check_labels(y, len(p)), machine.classes_, "the data")
    measures = {"log loss": metrics.log_loss(codes, p, weight)}
    if p.shape[1] == 2:
        measures["AUC"] = metrics.roc_auc(codes == 1, p[:, 1], weight)
    measures["accuracy"] = metrics.accuracy(codes, p, weight)
    return measures
