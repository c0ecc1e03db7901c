"""Train a factorization machine and save it.

Without --task, labels with fractions, or with more than 100 distinct values, are numbers to predict
(regression); text, or two distinct whole numbers, are classes. What is in between may be ratings or classes,
and has to be told.

Text and tables are read into memory, data sets of `fmfast convert` (.fmd) are mapped from disk. With
--out-of-core, text and tables become such a data set first. It stays beside TRAIN, or in --cache, under the
name of TRAIN with some letters and .fmd, and is used again as long as it is newer than TRAIN; other options
of reading make another one.

CSV and Parquet files hold numbers, unless one of the options of tables is given: then each column becomes a
field of features, and the model remembers how. The fields of a libffm file are the groups of --bayesian.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fmfast
from fmfast.bayesian import BayesianFMClassifier, BayesianFMRegressor
from fmfast.cli import data
from fmfast.cli.cache import converted
from fmfast.cli.options import (
    add_parameters,
    given_parameters,
    option_of,
    parameter_names,
    read_count,
    usage_error,
)
from fmfast.cli.progress import Progress
from fmfast.encoder import FeatureEncoder
from fmfast.estimators import FMClassifier, FMRegressor

SUMMARY = "train a model from rows and save it"
USAGE = "TRAIN --output MODEL [--validation FILE] [options]"

_CLASSES: dict[tuple[str, bool], Any] = {
    ("regression", False): FMRegressor,
    ("classification", False): FMClassifier,
    ("regression", True): BayesianFMRegressor,
    ("classification", True): BayesianFMClassifier,
}
_MAX_CLASSES = 100  # more whole numbers than these are taken for quantities
_BLOCK = 1 << 20  # labels looked at in one go
_OF_ENCODER = [name for name in parameter_names(FeatureEncoder) if name not in parameter_names(FMRegressor)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("train", metavar="TRAIN", help="rows with labels")
    parser.add_argument(
        "--output", metavar="MODEL", required=True, help="the model file, written once training is done"
    )
    parser.add_argument("--validation", metavar="FILE", help="rows with labels to score every epoch")
    parser.add_argument(
        "--task", choices=("regression", "classification"), help="what to learn (default: see above)"
    )
    parser.add_argument("--bayesian", action="store_true", help="average over a posterior (MCMC)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    group = parser.add_argument_group("checkpoints")
    group.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="keep the state of training there; the same command goes on from it after an interruption",
    )
    group.add_argument(
        "--checkpoint-every",
        metavar="N",
        type=read_count,
        help="epochs from one checkpoint to the next (default: 1)",
    )
    data.add_data_options(parser)
    group = parser.add_argument_group("training out of core")
    group.add_argument("--out-of-core", action="store_true", help="train from a data set on disk")
    group.add_argument("--cache", metavar="DIR", help="where that stays (default: beside TRAIN)")
    group.add_argument(
        "--n-features",
        metavar="N",
        type=read_count,
        help="libsvm and libffm: columns, if other data will have more than TRAIN (default: as TRAIN needs)",
    )
    add_parameters(parser.add_argument_group("parameters of the machine"), FMRegressor)
    add_parameters(
        parser.add_argument_group("parameters with --bayesian"), BayesianFMRegressor, without=FMRegressor
    )
    add_parameters(
        parser.add_argument_group("tables of categories (CSV and Parquet)"),
        FeatureEncoder,
        without=FMRegressor,
    )


def run(args: argparse.Namespace) -> None:
    say: Callable[[str], None] = (lambda line: None) if args.quiet else print
    source = data.Source.of(args.train, args)
    encoder = _encoder(args, source)
    _check_options(args, source, encoder)
    _check_output(args.output)

    examples = _read(source, args, encoder, say)
    y = data.require_labels(examples, source.path)
    task = args.task or _task_of(y, source.path)
    cls = _CLASSES[task, args.bayesian]
    machine = cls(**given_parameters(cls, args), encoder=encoder)
    if args.bayesian and examples.field is not None:
        machine.set_params(groups=examples.field)
    fit_options: dict[str, Any] = {}
    if args.validation is not None:
        fit_options["eval_set"] = _validation(args, examples, encoder)
    if examples.sample_weight is not None:
        if cls is BayesianFMClassifier:
            raise usage_error("a Bayesian classifier takes no sample weights; train without --bayesian")
        fit_options["sample_weight"] = examples.sample_weight
    n_rows, n_columns = examples.X.shape
    say(f"{source.path}: {n_rows:,} rows, {n_columns:,} columns; {task}")
    say(repr(machine))
    started = time.perf_counter()
    with nullcontext() if args.quiet else Progress(*_extent(machine, n_rows, args)) as progress:
        callbacks: list[Any] = [] if progress is None else [progress]
        if args.checkpoint is not None:
            callbacks.append(fmfast.Checkpoint(args.checkpoint, every=args.checkpoint_every or 1))
            if os.path.isdir(args.checkpoint):
                fit_options["resume_from"] = args.checkpoint
        machine.set_params(callbacks=callbacks)
        machine.fit(examples.X, y, **fit_options)
    machine.save(args.output)
    seconds = time.perf_counter() - started
    say(f"{args.output}: {machine.n_iter_} {'iterations' if args.bayesian else 'epochs'} in {seconds:.3g} s")


def _check_options(args: argparse.Namespace, source: data.Source, encoder: Any) -> None:
    """Refuse, before anything is read, what does not go together."""
    used, other = (FMRegressor, BayesianFMRegressor)[:: -1 if args.bayesian else 1]
    for name in parameter_names(other):
        if hasattr(args, name) and name not in parameter_names(used):
            raise usage_error(
                f"{option_of(name)} goes only {'without' if args.bayesian else 'with'} --bayesian"
            )
    if args.checkpoint_every is not None and args.checkpoint is None:
        raise usage_error("--checkpoint-every needs --checkpoint")
    if args.cache is not None and not args.out_of_core:
        raise usage_error("--cache needs --out-of-core")
    if encoder is not None and args.out_of_core:
        raise usage_error(
            "--out-of-core is for rows of numbers, but an option of tables of categories is given"
        )
    if source.is_table and source.target is None:
        raise usage_error(f"{source.path!r} is a table; give the column to predict with --target")


def _check_output(path: str) -> None:
    """Now rather than after hours of training."""
    directory = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"{path!r} cannot be written: there is no directory {directory!r}; make it.")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path!r} is a directory; give the name of a file.")


def _encoder(args: argparse.Namespace, source: data.Source) -> FeatureEncoder | None:
    given = {name: getattr(args, name) for name in _OF_ENCODER if hasattr(args, name)}
    if given and not source.is_table:
        raise usage_error(
            f"{option_of(next(iter(given)))} is for CSV and Parquet files, but {source.path!r} is none"
        )
    return FeatureEncoder(**given, dtype=_dtype(args)) if given else None


def _dtype(args: argparse.Namespace) -> str:
    return getattr(args, "dtype", FMRegressor().dtype)


def _read(
    source: data.Source, args: argparse.Namespace, encoder: Any, say: Callable[[str], None]
) -> data.Data:
    if args.out_of_core and source.format != "fmd":
        path = converted(source, args.cache, dtype=_dtype(args), n_features=args.n_features, say=say)
        return data.read(data.Source(path, "fmd", None, None, False, None), _dtype(args))
    return data.read(source, _dtype(args), args.n_features, encoder=encoder)


def _validation(args: argparse.Namespace, examples: data.Data, encoder: Any) -> tuple[Any, NDArray[Any]]:
    source = data.Source.of(args.validation, args)
    columns = getattr(examples.X, "columns", None) if encoder is None else None
    validation = data.read(source, _dtype(args), examples.X.shape[1], columns, encoder)
    X = validation.X
    if columns is None and isinstance(X, data.NamedRows):
        X = X.values  # the training data has no names either, and names would be warned of
    return X, data.require_labels(validation, source.path)


def _task_of(y: NDArray[Any], path: str) -> str:
    """What labels look like; a usage error if that is not clear."""
    if y.dtype.kind not in "fiu":
        return "classification"
    distinct: set[float] = set()
    for start in range(0, len(y), _BLOCK):
        values = np.unique(y[start : start + _BLOCK])
        distinct.update(values.tolist())
        if (values != np.floor(values)).any() or len(distinct) > _MAX_CLASSES:
            return "regression"
    if len(distinct) == 2:
        return "classification"
    raise usage_error(
        f"the labels of {path!r} have {len(distinct)} distinct whole numbers, which may be quantities or "
        "classes; give --task regression or --task classification"
    )


def _extent(machine: Any, n_rows: int, args: argparse.Namespace) -> tuple[str, int, int]:
    """How many epochs at most, and how many rows each visits."""
    if args.bayesian:
        return "iteration", machine.n_iter, n_rows
    if machine.early_stopping and args.validation is None:
        n_rows -= round(machine.validation_fraction * n_rows)
    return "epoch", machine.max_iter, n_rows
