"""Tell what is in a model file or in a data set on disk (.fmd)."""

from __future__ import annotations

import argparse
import inspect
import os
from typing import Any

from fmfast.cli.data import as_written
from fmfast.modelfile import load
from fmfast.store import open_dataset

SUMMARY = "what is in a model file or a data set"
USAGE = "FILE [options]"

_SHOWN = 10  # labels or names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a model file, or a data set (.fmd)")


def run(args: argparse.Namespace) -> None:
    facts = _of_dataset(args.file) if os.path.isdir(args.file) else _of_model(load(args.file), args.file)
    for name, fact in facts.items():
        print(f"{name:18}{fact}")


def _of_model(machine: Any, path: str) -> dict[str, str]:
    model, history = machine.model_, machine.history_
    is_bayesian = hasattr(machine, "n_kept_samples_")
    facts = {"model": type(machine).__name__}
    if not is_bayesian:
        facts["solver"] = machine.solver
    facts |= {
        "n_features": f"{model.n_features:,}",
        "n_factors": f"{model.n_factors}",
        "dtype": f"{model.dtype}",
        "iterations" if is_bayesian else "epochs": f"{len(history)}",
    }
    if is_bayesian:
        facts["kept samples"] = f"{machine.n_kept_samples_}"
    if history:
        facts["loss"] = f"{history[-1]['loss']:.6g}"
        for name in ("validation_score", "validation_loss"):
            if history[-1].get(name) is not None:
                facts[name.replace("_", " ")] = f"{history[-1][name]:.6g} (last)"
    if model.classes is not None:
        facts["classes"] = _listed(as_written(model.classes).tolist())
    if model.encoder is not None:
        facts["fields"] = _listed(model.encoder.field_names_.tolist())
    elif model.feature_names is not None:
        facts["feature names"] = _listed(model.feature_names.tolist())
    facts["parameters"] = _changed_parameters(machine) or "all as by default"
    facts["file size"] = _size(path)
    return facts


def _changed_parameters(machine: Any) -> str:
    defaults = inspect.signature(type(machine).__init__).parameters
    return ", ".join(
        f"{name}={value!r}"
        for name, value in machine.get_params(deep=False).items()
        if isinstance(value, (bool, int, float, str)) and value != defaults[name].default
    )


def _of_dataset(path: str) -> dict[str, str]:
    data = open_dataset(path)
    facts = {
        "data set": f"{data.n_samples:,} rows x {data.n_features:,} columns",
        "values": f"{data.nnz:,}, {data.nnz / data.n_samples:.3g} in a row, {data.X.dtype}",
        "with": ", ".join(
            name for name in ("y", "sample_weight", "qid", "field") if getattr(data, name) is not None
        )
        or "rows only",
    }
    if data.feature_names is not None:
        facts["feature names"] = _listed(data.feature_names)
    for name in sorted(os.listdir(path)):
        facts[name] = _size(os.path.join(path, name))
    return facts


def _size(path: str) -> str:
    return f"{os.path.getsize(path):,} bytes"


def _listed(values: list[Any]) -> str:
    shown = ", ".join(map(str, values[:_SHOWN])) + (", ..." if len(values) > _SHOWN else "")
    return f"{len(values):,}: {shown}"
