"""Models on disk: one plain `.npz` of numbers and a JSON header, nothing in it executable.

The file is an uncompressed zip of little-endian, C-ordered `.npy` arrays, which
`np.load(path, allow_pickle=False)` opens:

    header   (n_bytes,) uint8                     JSON in UTF-8: all that is not a parameter, see `_FIELDS`
    bias     (n_outputs, 3) float64               w0 and its solver state
    w        (n_outputs, n_features)              float32 or float64, as the next two
    V        (n_outputs, n_features, n_factors)
    state    (n_outputs, n_features, state_size)  what the solver remembers of each feature

A Bayesian machine has no state; the above is where its chain stands, and it has besides:

    groups                     (n_features,) int32
    alpha                      (n_outputs,) float64                          as the next two
    mean, precision            (n_outputs, n_groups, n_factors + 1)
    draw0_alpha, ..._bias, ..._w, ..._V, draw1_alpha, ...                    of every draw, as above

A checkpoint (see `fmfast.checkpoint`) is a model file with the state of the training loop besides: arrays
named loop_..., which the header announces.

Parameters are in solver units (see `fmfast.model`), so that training goes on from a file to the bit.
They pass from and to the parameter table block by block: no second copy of the table is ever made.

A file may come from anywhere. Reading it runs nothing of it, allocates nothing that the size of the
file does not bear out, and accepts only what `save` writes. This module does not import estimators:
their classes register with `saveable`.
"""

from __future__ import annotations

import errno
import json
import math
import numbers
import os
import reprlib
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, BinaryIO, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from fmfast import _siderows
from fmfast._archive import members_of, read_array, write_array
from fmfast._classes import decode_classes, encode_classes
from fmfast._files import PREFIX_SIZE, replacing
from fmfast.encoder import FeatureEncoder
from fmfast.exceptions import ModelFileError
from fmfast.model import FMModel, TrainingState
from fmfast.parameters import CONSTRAINTS, BaseEstimator, check_params
from fmfast.posterior import Draw, Posterior
from fmfast.ranking_model import RankingModel
from fmfast.solvers import SOLVERS
from fmfast.solvers.gibbs import ChainState
from fmfast.table import ParameterTable

_FORMAT = "fmfast model"
_FORMAT_VERSION = 1

# What a zip file or a JSON text that is not what it claims can raise while it is read.
_DAMAGE = (zipfile.BadZipFile, EOFError, ValueError, OverflowError, RuntimeError)

_Class = TypeVar("_Class", bound=type)
_CLASSES: dict[str, Any] = {}


def saveable(cls: _Class) -> _Class:
    """Class decorator: estimators of this class can be saved, and files may name it."""
    _CLASSES[cls.__name__] = cls
    return cls


@dataclass
class SavedLoop:
    """Where the loop of a fit stood, in the file of a checkpoint.

    Attributes
    ----------
    identity : dict
        Settings and data of the fit, as JSON can hold them.
    is_finished : bool
    arrays : dict of float32 or float64 ndarray by name
    """

    identity: dict[str, Any]
    is_finished: bool
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def save_model(path: str | os.PathLike[str], estimator: Any, loop: SavedLoop | None = None) -> None:
    """Write a fitted estimator of a `saveable` class; see its method `save`."""
    # All that can be wrong with the estimator is found before anything is written.
    header = json.dumps(_header_of(estimator, loop), allow_nan=False).encode()
    if not all_finite(estimator.model_):
        raise ValueError(
            "The model has parameters that are not finite, which load would refuse; fit it anew."
        )
    with replacing(os.fsdecode(path)) as file, zipfile.ZipFile(file, "w") as archive:
        write_array(archive, "header", np.frombuffer(header, dtype=np.uint8))
        for name, array in _arrays(estimator.model_).items():
            write_array(archive, name, array)
        for name, array in loop.arrays.items() if loop else ():
            write_array(archive, f"loop_{name}", array)


def load(path: str | os.PathLike[str]) -> Any:
    """Read an estimator that its method `save` has written.

    The file may come from a source that is not trusted: nothing in it is executed, and the memory it takes
    is in proportion to its size, whatever it claims.

    Parameters
    ----------
    path : str or path-like
        Name of the file, used as it is.

    Returns
    -------
    FMRegressor, FMClassifier, FMRanker, BayesianFMRegressor or BayesianFMClassifier
        Fitted, with the same predictions to the bit. `partial_fit` and `warm_start` go on as if training had
        never been interrupted.

    Raises
    ------
    ModelFileError
        If the file is not a model, is damaged, or was written in a newer format.
    OSError
        If the file cannot be read; FileNotFoundError if there is none.
    """
    return _load(os.fsdecode(path), with_loop=False)[0]


def load_with_loop(path: str) -> tuple[Any, SavedLoop]:
    """Read a checkpoint: `load`, and the state of the loop besides; ModelFileError if it has none."""
    estimator, loop = _load(path, with_loop=True)
    assert loop is not None
    return estimator, loop


def _load(path: str, with_loop: bool) -> tuple[Any, SavedLoop | None]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("it is not an ordinary file")
        with open(path, "rb") as file:
            return _read_estimator(file, with_loop)
    except (*_DAMAGE, OSError) as error:
        # A damaged zip may ask for a place where no file can reach; all else is no fault of the file.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ModelFileError(
            f"Cannot load a model from {path!r}: {(str(error) or type(error).__name__)[:300]}. Expected an "
            f"undamaged file from `save` of fmfast {version('fmfast')} or older; copy or save it again, or "
            "upgrade fmfast if a newer one wrote it."
        ) from error


# -- the header ---------------------------------------------------------------------------------


def check_saveable(estimator: Any, classes: NDArray[Any] | None) -> None:
    """Refuse what no file can hold: a derived class, odd labels, invalid settings."""
    name = type(estimator).__name__
    if _CLASSES.get(name) is not type(estimator):
        raise TypeError(
            f"An estimator of the class {name} cannot be saved, only {' and '.join(sorted(_CLASSES))} "
            "themselves, since load would not know it; use one of these, or pickle yours."
        )
    check_params(estimator)
    if classes is not None:
        encode_classes(classes)


def _header_of(estimator: Any, loop: SavedLoop | None) -> dict[str, Any]:
    """All of an estimator that is not a parameter of the model, as JSON can hold it."""
    check_saveable(estimator, estimator.model_.classes)
    model: FMModel | Posterior = estimator.model_
    names = model.feature_names
    training = chain = None
    if isinstance(model, Posterior):
        chain = {
            "seed": model.chain.seed,
            "n_iterations": model.chain.n_iterations,
            "v_variance": float(model.chain.v_variance),
            "n_groups": model.chain.n_groups,
            "n_draws": len(model.draws),
            "thinning": model.thinning,
        }
    elif model.training:
        training = {key: getattr(model.training, key) for key in _TRAINING}
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "fmfast_version": version("fmfast"),
        "class": type(estimator).__name__,
        "params": plain_params(estimator),
        "task": model.task,
        "n_features": model.n_features,
        "n_factors": model.n_factors,
        "dtype": model.dtype.name,
        "scale": float(model.scale),
        "offset": float(model.offset),
        "classes": None if model.classes is None else encode_classes(model.classes),
        "feature_names": None if names is None else [str(name) for name in names],
        "encoder": None if model.encoder is None else model.encoder.to_dict(),
        "training": training,
        "ranking": _siderows.describe(model) if isinstance(model, RankingModel) else None,
        "chain": chain,
        "n_iter": int(estimator.n_iter_),
        "history": [
            {key: _encode_number(value) for key, value in record.items()} for record in estimator.history_
        ],
        "loop": loop
        and {
            "identity": loop.identity,
            "is_finished": loop.is_finished,
            "arrays": {name: [array.dtype.name, array.shape] for name, array in loop.arrays.items()},
        },
    }


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < 2**63


def _is_float(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _is_solver(value: Any) -> bool:
    return isinstance(value, str) and value in SOLVERS


_TRAINING: dict[str, Callable[[Any], bool]] = {
    "solver": _is_solver,
    "seed": _is_count,
    "row_norm": lambda v: _is_float(v) and v >= 0,
    "init_std": lambda v: _is_float(v) and v >= 0,
    "n_epochs": _is_count,
}


_CHAIN: dict[str, Callable[[Any], bool]] = {
    "seed": _is_count,
    "n_iterations": _is_count,
    "v_variance": lambda v: _is_float(v) and v >= 0,
    "n_groups": lambda v: _is_count(v, 1),
    "n_draws": lambda v: _is_count(v, 1),
    "thinning": lambda v: _is_count(v, 1),
}


def _is_shapes(value: Any) -> bool:
    """Whether a value is an object of pairs [dtype, shape] by name."""
    return isinstance(value, dict) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and pair[0] in ("float32", "float64")
        and isinstance(pair[1], list)
        and 1 <= len(pair[1]) <= 3
        and all(map(_is_count, pair[1]))
        for pair in value.values()
    )


_LOOP: dict[str, Callable[[Any], bool]] = {
    "identity": lambda v: isinstance(v, dict),
    "is_finished": lambda v: isinstance(v, bool),
    "arrays": _is_shapes,
}


def _is_null_or(entries: dict[str, Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """Whether a value is null, or an object of just these entries, all of them valid."""
    return lambda value: (
        value is None
        or (
            isinstance(value, dict)
            and value.keys() == entries.keys()
            and all(is_valid(value[key]) for key, is_valid in entries.items())
        )
    )


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and all(
        number is None or type(number) is int or _is_float(number) or number in _NOT_FINITE
        for number in value.values()
    )


# One line per entry: what makes a value valid, and how to say so.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda v: v == _FORMAT, repr(_FORMAT)),
    "format_version": (lambda v: type(v) is int and v == _FORMAT_VERSION, str(_FORMAT_VERSION)),
    "fmfast_version": (lambda v: isinstance(v, str), "a string"),
    "class": (lambda v: isinstance(v, str) and v in _CLASSES, "the name of an estimator"),
    "params": (lambda v: isinstance(v, dict), "constructor arguments by name"),
    "task": (lambda v: isinstance(v, str), "the task of the class"),
    "n_features": (lambda v: _is_count(v, 1), "an integer >= 1"),
    "n_factors": CONSTRAINTS["n_factors"],
    "dtype": (lambda v: v in ("float32", "float64"), '"float32" or "float64"'),
    "scale": (lambda v: _is_float(v) and v > 0, "a finite number > 0"),
    "offset": (_is_float, "a finite number"),
    "classes": (lambda v: v is None or isinstance(v, dict), "null, or labels with their dtype"),
    "feature_names": (
        lambda v: v is None or (isinstance(v, list) and all(isinstance(name, str) for name in v)),
        "null or a list of strings",
    ),
    "encoder": (lambda v: v is None or isinstance(v, dict), "null or the state of a FeatureEncoder"),
    "training": (_is_null_or(_TRAINING), "null or the state of a known solver"),
    "ranking": (
        lambda v: v is None or _siderows.is_description(v),
        "null, or the sizes of contexts and items",
    ),
    "chain": (_is_null_or(_CHAIN), "null or where a Markov chain stands"),
    "n_iter": (_is_count, "an integer >= 0"),
    "history": (lambda v: isinstance(v, list) and all(map(_is_record, v)), "a list of records of numbers"),
    "loop": (_is_null_or(_LOOP), "null or the state of a training loop"),
}


def _parse_header(text: bytes) -> dict[str, Any]:
    """The header with every entry valid by itself."""
    header = json.loads(text.decode(), parse_constant=_refuse_constant)
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    # In the order of the table: a foreign file or a newer format is named as such before all else.
    for name, (is_valid, expected) in _FIELDS.items():
        value = header.get(name)
        if name not in header or not is_valid(value):
            raise ValueError(f"its header has {name} = {reprlib.repr(value)}, where {expected} belongs")
    if len(header) > len(_FIELDS):
        unknown = min(header.keys() - _FIELDS.keys())
        raise ValueError(f"its header has the unknown entry {reprlib.repr(unknown)}")
    return header


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"its header holds {name}, which JSON does not have")


def plain_params(estimator: BaseEstimator) -> dict[str, Any]:
    """Constructor arguments as JSON can hold them; what is left out (callables, generators, an encoder)
    has a default."""
    params = {}
    for name, value in estimator.get_params(deep=False).items():
        if name == "dtype":  # may be a type
            params[name] = np.dtype(value).name
        elif isinstance(value, (bool, np.bool_)):
            params[name] = bool(value)
        elif isinstance(value, numbers.Integral):
            params[name] = int(value)
        elif isinstance(value, numbers.Real):
            params[name] = float(value)
        elif value is None or isinstance(value, str):
            params[name] = value
    return params


def _new_estimator(cls: Any, params: dict[str, Any]) -> Any:
    unknown = params.keys() - set(cls._parameter_names())
    if unknown:
        raise ValueError(f"{cls.__name__} has no parameter {reprlib.repr(min(unknown))}")
    for name, value in params.items():
        if isinstance(value, (list, dict)):  # which `plain_params` leaves out
            raise ValueError(f"its header has the parameter {name} = {reprlib.repr(value)}")
    estimator = cls(**params)
    check_params(estimator)
    return estimator


_NOT_FINITE = ("inf", "-inf", "nan")  # JSON has no such numbers, but a score may be infinite


def _encode_number(value: Any) -> int | float | str | None:
    if value is None or isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else repr(float(value))


def _decode_number(value: Any) -> Any:
    return float(value) if value in _NOT_FINITE else value


# -- reading ------------------------------------------------------------------------------------


def _read_estimator(file: BinaryIO, with_loop: bool) -> tuple[Any, SavedLoop | None]:
    file_size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = members_of(archive, file_size)
        if "header.npy" not in members:
            raise ValueError("it has no member header.npy")
        header_bytes = np.empty(max(0, members["header.npy"].file_size - PREFIX_SIZE), dtype=np.uint8)
        read_array(archive, members["header.npy"], header_bytes)
        header = _parse_header(header_bytes.tobytes())
        estimator = _new_estimator(_CLASSES[header["class"]], header["params"])
        model = _empty_model(header, estimator, file_size)
        arrays = _arrays(model)
        promised = header["loop"]["arrays"] if header["loop"] else {}
        expected = {f"{name}.npy" for name in ("header", *arrays)} | {f"loop_{name}.npy" for name in promised}
        if members.keys() != expected:
            found = reprlib.repr(sorted(members))
            raise ValueError(f"it has the members {found}, where {sorted(expected)} belong")
        for name, array in arrays.items():
            read_array(archive, members[f"{name}.npy"], array)
        loop = _read_loop(archive, members, header["loop"], file_size) if with_loop else None
    if not all_finite(model):
        raise ValueError("it has parameters that are NaN or infinite")
    if isinstance(model, Posterior):
        _check_chain(model.chain, estimator._task == "classification")
    if isinstance(model, RankingModel):
        _siderows.check_rows(model)
    history = [{key: _decode_number(value) for key, value in record.items()} for record in header["history"]]
    if model.encoder is not None:
        estimator.encoder = model.encoder
    estimator._publish(model, history, header["n_iter"])
    return estimator, loop


def _read_loop(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    loop: dict[str, Any] | None,
    file_size: int,
) -> SavedLoop:
    if loop is None:
        raise ValueError("it is a model, but no checkpoint of a fit")
    arrays = {}
    for name, (dtype, shape) in loop["arrays"].items():
        if math.prod(shape) * np.dtype(dtype).itemsize > file_size:
            raise ValueError(f"its header promises an array of shape {shape}, but it has {file_size} bytes")
        arrays[name] = np.empty(shape, dtype=dtype)
        read_array(archive, members[f"loop_{name}.npy"], arrays[name])
    return SavedLoop(loop["identity"], loop["is_finished"], arrays)


def _empty_model(header: dict[str, Any], estimator: Any, file_size: int) -> FMModel | Posterior:
    """The model that a header describes, with tables that wait for their parameters."""
    task = estimator._task
    is_classifier = task == "classification"
    if header["task"] != task or (header["classes"] is not None) != is_classifier:
        raise ValueError(f"its task or its classes are not those of a {header['class']}")
    if task != "regression" and (header["scale"], header["offset"]) != (1.0, 0.0):
        raise ValueError(f"it is a {estimator._kind} with a scale or an offset")
    classes = decode_classes(header["classes"]) if is_classifier else None
    names = header["feature_names"]
    n_features = header["n_features"]
    if names is not None and len(names) != n_features:
        raise ValueError(f"it has {len(names)} feature names for {n_features} features")
    state = header["encoder"]
    encoder = None if state is None else FeatureEncoder.from_dict(state)
    if encoder is not None and encoder.n_features_out_ != n_features:
        raise ValueError(f"its encoder makes {encoder.n_features_out_} features, its model has {n_features}")
    training = header["training"] and TrainingState(**header["training"])
    chain = header["chain"]
    if (chain is not None) != estimator._is_bayesian or (chain and training):
        raise ValueError(f"its training or its chain is not that of a {header['class']}")
    sides = header["ranking"]
    if (sides is not None) != (task == "ranking"):
        raise ValueError(f"its contexts and items are not those of a {header['class']}")
    if sides and (encoder or names or sum(side["n_features"] for side in sides.values()) != n_features):
        raise ValueError(
            f"it has names or columns besides those of its contexts and items, {n_features} in all"
        )
    n_outputs = 1 if classes is None or len(classes) == 2 else len(classes)
    state_size = SOLVERS[training.solver].state_size(header["n_factors"]) if training else 0
    dtype = np.dtype(header["dtype"])
    # Before anything is allocated: the file must be as large as the numbers that it claims to hold.
    n_bytes = n_outputs * n_features * (header["n_factors"] + 1 + state_size) * dtype.itemsize
    if chain:
        # Each draw has four members besides, each with what precedes its numbers and an entry of the zip.
        n_bytes = n_bytes * (1 + chain["n_draws"]) + 4 * PREFIX_SIZE * chain["n_draws"]
        n_bytes += 4 * n_features + 16 * n_outputs * chain["n_groups"] * (header["n_factors"] + 1)
    if sides:
        n_bytes += sum(_siderows.size_of(side, dtype) for side in sides.values())
    if n_bytes > file_size:
        raise ValueError(f"its header promises {n_bytes} bytes of parameters, but the file has {file_size}")

    def empty_table() -> ParameterTable:
        table = ParameterTable(n_outputs, n_features, header["n_factors"], state_size, dtype)
        table.rows[:, :, header["n_factors"] :] = 0
        return table

    meaning = {
        "task": task,
        "scale": header["scale"],
        "offset": header["offset"],
        "classes": classes,
        "feature_names": None if names is None else np.array(names, dtype=object),
        "encoder": encoder,
    }
    if sides:
        contexts, items = (_siderows.empty_rows(sides[name], dtype) for name in _siderows.SIDES)
        return RankingModel(empty_table(), training=training, contexts=contexts, items=items, **meaning)
    if not chain:
        return FMModel(empty_table(), training=training, **meaning)
    shape = (n_outputs, chain["n_groups"], header["n_factors"] + 1)
    state = ChainState(
        empty_table(),
        groups=np.empty(n_features, np.int32),
        alpha=np.empty(n_outputs),
        mean=np.empty(shape),
        precision=np.empty(shape),
        v_variance=chain["v_variance"],
        seed=chain["seed"],
        n_iterations=chain["n_iterations"],
    )
    draws = [Draw(empty_table(), np.empty(n_outputs)) for _ in range(chain["n_draws"])]
    return Posterior(state, draws=draws, thinning=chain["thinning"], **meaning)


def _check_chain(chain: ChainState, is_classifier: bool) -> None:
    """Refuse the state of a chain that no sampler can have left."""
    if not np.array_equal(np.unique(chain.groups), np.arange(chain.n_groups)):
        raise ValueError(f"its groups are not numbered from 0 to {chain.n_groups - 1}")
    if not (_is_precision(chain.alpha) and _is_precision(chain.precision)):
        raise ValueError("it has precisions that are not positive")
    if is_classifier and (chain.alpha != 1.0).any():
        raise ValueError("it is a classifier with a precision of its noise")


# -- arrays -------------------------------------------------------------------------------------


def _arrays(model: FMModel | Posterior) -> dict[str, NDArray[Any]]:
    """The members besides the header: views of what the model holds."""
    if isinstance(model, FMModel):
        table = model.table
        # State without a solver means nothing.
        state = table.state if model.training else table.state[:, :, :0]
        arrays = {"bias": table.bias, "w": table.w, "V": table.V, "state": state}
        return arrays | (_siderows.arrays_of(model) if isinstance(model, RankingModel) else {})
    chain = model.chain
    arrays = {"bias": chain.table.bias, "w": chain.table.w, "V": chain.table.V, "state": chain.table.state}
    arrays |= {name: getattr(chain, name) for name in ("groups", "alpha", "mean", "precision")}
    for number, draw in enumerate(model.draws):
        parts = {"alpha": draw.alpha, "bias": draw.table.bias, "w": draw.table.w, "V": draw.table.V}
        arrays |= {f"draw{number}_{name}": part for name, part in parts.items()}
    return arrays


def all_finite(model: FMModel | Posterior) -> bool:
    """Whether no number that the model holds is NaN or infinite."""
    if isinstance(model, FMModel):
        return model.table.all_finite()
    draws_are_finite = all(
        draw.table.all_finite() and bool(np.isfinite(draw.alpha).all()) and _is_precision(draw.alpha)
        for draw in model.draws
    )
    return draws_are_finite and model.chain.table.all_finite() and model.chain.is_finite()


def _is_precision(values: NDArray[np.float64]) -> bool:
    """Whether all are positive, and their inverses, which are variances, finite."""
    return bool((values >= np.finfo(np.float64).tiny).all())
