"""What `fit` of a Dask estimator is given, as parts: each becomes one (X, y, sample_weight) on a worker.

This module knows Dask's collections and data sets on disk; no estimator, and nothing of training.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fmfast.store import open_dataset

_NO_DASK = "fmfast.dask needs Dask, which is not installed here ({}); run pip install 'fmfast[dask]'."


def current_client(client: Any) -> Any:
    """The given client of a Dask cluster, or the one that is current."""
    try:
        from distributed import Client, get_client
    except ImportError as error:
        raise ImportError(_NO_DASK.format(error)) from error
    if client is None:
        try:
            client = get_client()
        except ValueError as error:
            raise ValueError(
                "There is no Dask client, expected one that is connected to a cluster; make a "
                "distributed.Client, or pass client=."
            ) from error
    if not isinstance(client, Client):
        raise TypeError(
            f"client is a {type(client).__name__}, expected a distributed.Client; make one with the address "
            "of the cluster's scheduler."
        )
    if client.asynchronous:
        raise ValueError("client is asynchronous, expected an ordinary one; make it with asynchronous=False.")
    return client


def is_lazy(value: Any) -> bool:
    """Whether a value is a Dask collection (an array, a DataFrame, a Delayed) or a future."""
    return hasattr(value, "__dask_graph__") or hasattr(value, "add_done_callback")


def is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def is_distributed(X: Any) -> bool:
    """Whether X is anything that lies in parts, and not rows that are here."""
    if isinstance(X, (list, tuple)) and len(X):
        return all(is_lazy(part) for part in X) or all(is_path(part) for part in X)
    return is_lazy(X) or is_path(X)


@dataclass(frozen=True)
class Part:
    """One part before it is anywhere.

    Attributes
    ----------
    name : str
        For messages; empty for rows that are here.
    submit : callable (client) -> future
        Of the tuple (X, y, sample_weight), of which the last two may be None.
    path : str or None
        Of a data set.
    """

    name: str
    submit: Callable[[Any], Any]
    path: str | None = None


def parts_of(X: Any, y: Any, sample_weight: Any, where: str = "") -> list[Part]:
    """The parts of X with what belongs to their rows; `where` is the argument they come from."""
    if not is_distributed(X):
        if is_distributed(y) or is_distributed(sample_weight):
            raise TypeError(
                f"X{where} is a {type(X).__name__} but y or sample_weight a Dask collection, expected both "
                "in the same parts; give both as collections, or both as arrays."
            )
        return [
            Part("the eval_set" if where else "", lambda client: scattered(client, (X, y, sample_weight)))
        ]
    if is_path(X):
        X = [X]
    if isinstance(X, (list, tuple)) and all(is_path(part) for part in X):
        return _of_paths([os.fsdecode(part) for part in X], y, sample_weight, where)
    blocks = blocks_of(X, "X" + where)
    columns = [
        [None] * len(blocks) if values is None else blocks_of(values, name + where, X, len(blocks))
        for name, values in (("y", y), ("sample_weight", sample_weight))
    ]
    n = len(blocks)
    return [
        Part(f"part {i} of X{where} (of {n}, counted from 0)", _submitting(*part))
        for i, part in enumerate(zip(blocks, *columns, strict=True))
    ]


def _submitting(*part: Any) -> Callable[[Any], Any]:
    from dask import delayed

    lazy = delayed(_as_part, pure=False)(*part)
    return lambda client: client.compute(lazy)


def _as_part(X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """A part may be a tuple of its own."""
    if isinstance(X, (tuple, list)) and y is None and 2 <= len(X) <= 3:
        return (*X, None) if len(X) == 2 else tuple(X)
    return X, y, sample_weight


def scattered(client: Any, data: Any) -> Any:
    """Rows that are here, on a worker: not by way of the scheduler, if the workers can be reached."""
    try:
        return client.scatter([data], direct=True, hash=False)[0]
    except (OSError, TimeoutError):
        return client.scatter([data], direct=False, hash=False)[0]


def _of_paths(paths: list[str], y: Any, sample_weight: Any, where: str) -> list[Part]:
    if y is not None or sample_weight is not None:
        raise ValueError(
            f"y or sample_weight is given beside the paths of data sets in X{where}, expected None: a data "
            "set has its own; leave them out."
        )

    def submitting(path: str) -> Callable[[Any], Any]:
        return lambda client: client.submit(read_part, path, pure=False)

    return [Part(f"the data set {path!r}", submitting(path), path) for path in paths]


def read_part(path: str) -> tuple[Any, Any, Any]:
    data = open_dataset(path)
    return data.X, data.y, data.sample_weight


def blocks_of(values: Any, name: str, X: Any = None, n_blocks: int | None = None) -> list[Any]:
    """One Delayed, or what is there already, for each part."""
    blocks: list[Any]
    if isinstance(values, (list, tuple)) and all(is_lazy(value) for value in values):
        blocks = list(values)
    elif hasattr(values, "to_delayed"):
        if getattr(values, "ndim", 1) == 2 and hasattr(values, "numblocks"):
            if values.numblocks[1] != 1:
                raise ValueError(
                    f"{name} is a Dask array in {values.numblocks[1]} blocks of columns, expected blocks "
                    f"with all columns of their rows; give {name}.rechunk({{1: -1}})."
                )
        elif X is not None:
            values = _chunked_like(values, X)
        blocks = list(np.ravel(np.asarray(values.to_delayed(), dtype=object)))
    elif is_lazy(values):
        blocks = [values]
    elif n_blocks is not None and hasattr(X, "chunks") and not np.isnan(X.chunks[0]).any():
        bounds = np.cumsum((0, *X.chunks[0]))
        array = np.asarray(values)
        if array.ndim and len(array) == bounds[-1]:
            blocks = [array[a:b] for a, b in pairwise(bounds)]
        else:
            raise ValueError(
                f"{name} has shape {array.shape} for {bounds[-1]} rows of X; give one value for each row."
            )
    else:
        raise TypeError(
            f"{name} is a {type(values).__name__}, expected a Dask collection in the same parts as X; turn "
            "it into one, or give Delayed parts (X, y)."
        )
    if n_blocks is not None and len(blocks) != n_blocks:
        raise ValueError(
            f"{name} has {len(blocks)} parts and X has {n_blocks}, expected as many; rechunk one like the "
            "other."
        )
    return blocks


def _chunked_like(values: Any, X: Any) -> Any:
    chunks, wanted = getattr(values, "chunks", None), getattr(X, "chunks", None)
    if not chunks or not wanted or chunks[0] == wanted[0]:
        return values
    if np.isnan(chunks[0]).any() or np.isnan(wanted[0]).any():
        return values  # whether they fit is seen on the workers
    return values.rechunk({0: wanted[0]})
