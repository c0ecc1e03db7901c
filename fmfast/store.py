"""Data sets on disk: a directory of plain `.npy` arrays that training maps into memory.

    meta.json       what the arrays are, see `_FIELDS`
    indptr.npy      (n_samples + 1,) int64
    indices.npy     (nnz,) int32, or int64 if a column needs it
    data.npy        (nnz,) float32 or float64; absent if all values are 1
    y.npy, sample_weight.npy        (n_samples,) float64, optional
    qid.npy         (n_samples,) int64, optional
    field.npy       (n_features,) int32, optional

Rows are canonical (columns sorted, no duplicates, no stored zeros), as `fit` takes them without a copy.
`np.load(path, mmap_mode="r")` opens every array; numbers are little-endian and start at byte 128.

A directory is written aside and renamed when it is complete. One may come from anywhere: what is opened
are ordinary files of just these names and of just the size that `meta.json` promises, and nothing in them
is executed. This module knows nothing of models, nor of where rows come from.
"""

from __future__ import annotations

import json
import os
import reprlib
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fmfast._files import PREFIX_SIZE, fsync_directory, npy_prefix
from fmfast.exceptions import DatasetError
from fmfast.paging import DEFAULT_MEMORY, let_go, set_memory

__all__ = ["Dataset", "open_dataset"]

_FORMAT = "fmfast data set"
_FORMAT_VERSION = 1
_BLOCK = 1 << 20  # numbers that pass at a time
_MAX_META_SIZE = 1 << 26
_MAX_COUNT = 2**62
_MIN_MEMORY = 1 << 20

# What an array may be, and how long it is.
_ARRAYS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], int]]] = {
    "indptr": (("int64",), lambda meta: meta["n_samples"] + 1),
    "indices": (("int32", "int64"), lambda meta: meta["nnz"]),
    "data": (("float32", "float64"), lambda meta: meta["nnz"]),
    "y": (("float64",), lambda meta: meta["n_samples"]),
    "sample_weight": (("float64",), lambda meta: meta["n_samples"]),
    "qid": (("int64",), lambda meta: meta["n_samples"]),
    "field": (("int32",), lambda meta: meta["n_features"]),
}


@dataclass(frozen=True)
class Dataset:
    """A data set on disk, as `open_dataset` gives it; its arrays are read-only and mapped into memory.

    Attributes
    ----------
    X : scipy.sparse.csr_array of shape (n_samples, n_features), float32 or float64
        Over the mapped arrays, without a copy.
    y : float64 ndarray of shape (n_samples,), or None
    sample_weight : float64 ndarray of shape (n_samples,), or None
    qid : int64 ndarray of shape (n_samples,), or None
    field : int32 ndarray of shape (n_features,), or None
    feature_names : list of str, or None
        The columns of a CSV or Parquet file.
    n_samples, n_features, nnz : int
    """

    X: sp.csr_array
    y: NDArray[np.float64] | None
    sample_weight: NDArray[np.float64] | None
    qid: NDArray[np.int64] | None
    field: NDArray[np.int32] | None
    feature_names: list[str] | None

    @property
    def n_samples(self) -> int:
        return int(self.X.shape[0])

    @property
    def n_features(self) -> int:
        return int(self.X.shape[1])

    @property
    def nnz(self) -> int:
        return len(self.X.indices)

    def __repr__(self) -> str:
        given = [name for name in ("y", "sample_weight", "qid", "field") if getattr(self, name) is not None]
        return f"<Dataset of {self.n_samples} x {self.n_features}, nnz={self.nnz}, with {given or 'X only'}>"


# -- writing --------------------------------------------------------------------------------------


class DatasetWriter:
    """The arrays of a data set while they grow."""

    def __init__(self, directory: str, dtype: np.dtype) -> None:
        self._directory = directory
        self._arrays: dict[str, _ArrayFile] = {}
        self.dtype = dtype
        self.n_rows = 0
        self.nnz = 0
        self.n_features = 0
        self.feature_names: list[str] | None = None

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for array in self._arrays.values():
            array.file.close()

    def append(self, name: str, values: NDArray[Any]) -> None:
        if name not in self._arrays:
            self._arrays[name] = _ArrayFile(self._directory, name, values.dtype)
        self._arrays[name].append(values)

    def append_rows(
        self, indptr: NDArray[np.int64], indices: NDArray[Any], data: NDArray[Any] | None
    ) -> None:
        """Canonical rows; data may be None if all values are 1."""
        if not self.n_rows:
            self.append("indptr", np.zeros(1, dtype=np.int64))
        self.append("indptr", indptr[1:] + self.nnz)
        if "indices" in self._arrays and indices.dtype.itemsize > self._arrays["indices"].dtype.itemsize:
            self._arrays["indices"] = self._arrays["indices"].rewritten(indices.dtype, 0)
        self.append("indices", indices)
        if "data" in self._arrays or not (data is None or (data == 1).all()):
            if "data" not in self._arrays:
                self._append_ones(self.nnz)  # those that came before the first other value
            if data is None:
                self._append_ones(len(indices))
            else:
                self.append("data", data)
        self.nnz += len(indices)
        self.n_rows += len(indptr) - 1

    def _append_ones(self, n: int) -> None:
        ones = np.ones(min(n, _BLOCK), dtype=self.dtype)
        for start in range(0, max(n, 1), _BLOCK):
            self.append("data", ones[: n - start])

    def shift_columns(self, shift: int) -> None:
        self._arrays["indices"] = self._arrays["indices"].rewritten(self._arrays["indices"].dtype, shift)

    def finish(self) -> None:
        """Complete the arrays, and write meta.json last."""
        if not self.n_rows:
            raise ValueError("The source has no rows, expected one at least; check what wrote it.")
        for array in self._arrays.values():
            array.finish()
        meta = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "fmfast_version": version("fmfast"),
            "n_samples": self.n_rows,
            "n_features": self.n_features,
            "nnz": self.nnz,
            "dtype": self.dtype.name,
            "arrays": {name: array.dtype.name for name, array in self._arrays.items()},
            "feature_names": self.feature_names,
        }
        with open(os.path.join(self._directory, "meta.json"), "xb") as file:
            file.write(json.dumps(meta, indent=1).encode())
            file.flush()
            os.fsync(file.fileno())


class _ArrayFile:
    """An .npy file of one dimension whose length is known only at its end."""

    def __init__(self, directory: str, name: str, dtype: np.dtype) -> None:
        self._directory, self._name = directory, name
        self.dtype = dtype
        self.length = 0
        self.file = open(os.path.join(directory, f"{name}.npy"), "x+b", buffering=0)  # noqa: SIM115
        self._write(bytes(PREFIX_SIZE))

    def append(self, values: NDArray[Any]) -> None:
        for start in range(0, len(values), _BLOCK):
            part = values[start : start + _BLOCK]
            self._write(np.ascontiguousarray(part, dtype=self.dtype.newbyteorder("<")).view(np.uint8).data)
        self.length += len(values)

    def _write(self, parts: Any) -> None:
        left = memoryview(parts)
        while left:  # a full disk first writes less, and then fails
            left = left[self.file.write(left) :]

    def rewritten(self, dtype: np.dtype, shift: int) -> _ArrayFile:
        """A file in place of this one, of another dtype or with something added to all numbers."""
        path = os.path.join(self._directory, f"{self._name}.npy")
        self.file.close()
        os.rename(path, f"{path}.old")
        new = _ArrayFile(self._directory, self._name, dtype)
        try:
            with open(f"{path}.old", "rb") as old:
                old.seek(PREFIX_SIZE)
                while part := old.read(_BLOCK):
                    numbers = np.frombuffer(part, dtype=self.dtype.newbyteorder("<"))
                    new.append(numbers.astype(dtype) + dtype.type(shift))
            os.unlink(f"{path}.old")
        except BaseException:
            new.file.close()
            raise
        return new

    def finish(self) -> None:
        self.file.seek(0)
        self._write(npy_prefix(np.broadcast_to(self.dtype.type(0), self.length)))
        os.fsync(self.file.fileno())
        self.file.close()


@contextmanager
def replacing_directory(path: str, overwrite: bool) -> Iterator[str]:
    """A new directory that gets its name once it is complete, or vanishes if it never is.

    No system can swap two directories at once everywhere: for a moment the old one has another name in the
    same place, .fmfast-*.old, and keeps it if the process ends just then.
    """
    target = os.path.realpath(path)
    _check_replaceable(target, path, overwrite)
    parent = os.path.dirname(target)
    token = secrets.token_hex(8)
    temporary, old = (os.path.join(parent, f".fmfast-{token}.{ending}") for ending in ("tmp", "old"))
    os.mkdir(temporary)
    try:
        yield temporary
        fsync_directory(temporary)
        _check_replaceable(target, path, overwrite)  # hours may have passed
        if os.path.lexists(target):
            os.rename(target, old)
            try:
                os.rename(temporary, target)
            except BaseException:
                os.rename(old, target)
                raise
        else:
            os.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_directory(parent)
    shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(target: str, path: str, overwrite: bool) -> None:
    """Raise FileExistsError if there is something that is not to be replaced."""
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise FileExistsError(
            f"{path!r} exists; give another name, or pass overwrite=True to replace a data set."
        )
    known = {"meta.json", *(f"{name}.npy" for name in _ARRAYS)}
    # So that a wrong name never costs anybody a directory of other things.
    if not os.path.isdir(target) or not {"meta.json"} <= set(os.listdir(target)) <= known:
        raise FileExistsError(
            f"{path!r} is not a data set, which is all that is overwritten; give another name."
        )


# -- reading --------------------------------------------------------------------------------------


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _is_arrays(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"indptr", "indices"} <= value.keys() <= _ARRAYS.keys()
        and all(dtype in _ARRAYS[name][0] for name, dtype in value.items())
    )


# One line per entry: what makes a value valid, and how to say so.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda v: v == _FORMAT, repr(_FORMAT)),
    "format_version": (lambda v: type(v) is int and v == _FORMAT_VERSION, str(_FORMAT_VERSION)),
    "fmfast_version": (lambda v: isinstance(v, str), "a string"),
    "n_samples": (lambda v: _is_count(v) and v > 0, "an integer >= 1"),
    "n_features": (_is_count, "an integer >= 0"),
    "nnz": (_is_count, "an integer >= 0"),
    "dtype": (lambda v: v in ("float32", "float64"), '"float32" or "float64"'),
    "arrays": (_is_arrays, "the names and dtypes of its arrays"),
    "feature_names": (
        lambda v: v is None or (isinstance(v, list) and all(isinstance(name, str) for name in v)),
        "null or a list of strings",
    ),
}


def open_dataset(path: str | os.PathLike[str], *, memory: int = DEFAULT_MEMORY) -> Dataset:
    """Open a data set that `convert` has written.

    Its arrays are mapped, not read: memory holds what is used of them, and the system may take it back.
    The directory may come from a source that is not trusted. What its sizes and row boundaries are is checked
    here; column indices and numbers, which take a pass over all of them, are checked by `fit`. Nobody may
    shorten the files while they are open.

    Parameters
    ----------
    path : str or path-like
        The directory.
    memory : int, default=268435456
        Bytes of the data set that training with a stochastic solver keeps in memory at a time, 1 MiB at
        least, half of them to read ahead. A data set that is smaller is visited as if it were not mapped; one
        that is larger, in blocks at random. So what is learned depends on it, if not how well.

    Returns
    -------
    Dataset
        With X, y, sample_weight, qid, field (those that there are) and feature_names.

    Raises
    ------
    ValueError
        If `memory` is no size.
    DatasetError
        If the directory is no data set, is damaged, or was written in a newer format.
    OSError
        If it cannot be read; FileNotFoundError if there is none.
    """
    path = os.fsdecode(path)
    if not isinstance(memory, (int, np.integer)) or memory < _MIN_MEMORY:
        raise ValueError(f"memory is {memory!r}, expected a whole number of bytes, {_MIN_MEMORY} at least.")
    try:
        if not os.path.isdir(path):
            os.stat(path)  # FileNotFoundError
            raise ValueError("it is not a directory")
        return _open(path, int(memory))
    except (ValueError, RecursionError, OverflowError) as error:
        raise DatasetError(
            f"Cannot open the data set {path!r}: {(str(error) or type(error).__name__)[:300]}. Expected an "
            f"undamaged directory from `convert` of fmfast {version('fmfast')} or older; copy or convert it "
            "again, or upgrade fmfast if a newer one wrote it."
        ) from error


def _open(directory: str, memory: int) -> Dataset:
    meta = _read_meta(directory)
    arrays = {
        name: _map_array(directory, name, np.dtype(dtype), _ARRAYS[name][1](meta))
        for name, dtype in meta["arrays"].items()
    }
    for array in arrays.values():
        set_memory(array, memory)
    indptr, nnz = arrays["indptr"], meta["nnz"]
    if indptr[0] != 0 or indptr[-1] != nnz:
        raise ValueError(f"its indptr goes from {indptr[0]} to {indptr[-1]}, where 0 and nnz = {nnz} belong")
    for start in range(0, len(indptr) - 1, _BLOCK):
        let_go(indptr, 0, start)
        part = indptr[start : start + _BLOCK + 1]
        if (part[1:] < part[:-1]).any():
            raise ValueError(f"its indptr falls between row {start} and row {start + len(part) - 1}")
    if meta["arrays"].get("data", meta["dtype"]) != meta["dtype"]:
        raise ValueError(f"its data are {meta['arrays']['data']}, where {meta['dtype']} belongs")
    names = meta["feature_names"]
    if names is not None and len(names) != meta["n_features"]:
        raise ValueError(f"it has {len(names)} feature names for {meta['n_features']} features")
    # Set, not passed to the constructor: that would copy indptr to the width of the indices, or those to its.
    X = sp.csr_array((meta["n_samples"], meta["n_features"]), dtype=meta["dtype"])
    X.indptr, X.indices = indptr, arrays["indices"]
    X.data = arrays.get("data", np.broadcast_to(np.dtype(meta["dtype"]).type(1), nnz))
    optional = {name: arrays.get(name) for name in ("y", "sample_weight", "qid", "field")}
    return Dataset(X, **optional, feature_names=names)


def _read_meta(directory: str) -> dict[str, Any]:
    with _opened(directory, "meta.json") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_META_SIZE:
            raise ValueError(f"its meta.json has {size} bytes, more than {_MAX_META_SIZE}")
        text = file.read(size)
    meta = json.loads(text.decode())
    if not isinstance(meta, dict):
        raise ValueError("its meta.json is not a JSON object")
    # In the order of the table: a foreign file or a newer format is named as such before all else.
    for name, (is_valid, expected) in _FIELDS.items():
        value = meta.get(name)
        if name not in meta or not is_valid(value):
            raise ValueError(f"its meta.json has {name} = {reprlib.repr(value)}, where {expected} belongs")
    if len(meta) > len(_FIELDS):
        raise ValueError(
            f"its meta.json has the unknown entry {reprlib.repr(min(meta.keys() - _FIELDS.keys()))}"
        )
    return meta


def _map_array(directory: str, name: str, dtype: np.dtype, length: int) -> NDArray[Any]:
    prefix = npy_prefix(np.broadcast_to(dtype.type(0), length))
    with _opened(directory, f"{name}.npy") as file:
        # Compared, not parsed: there is one way to write it.
        size = os.fstat(file.fileno()).st_size
        if size != len(prefix) + length * dtype.itemsize or file.read(len(prefix)) != prefix:
            raise ValueError(f"its {name}.npy is no {dtype} array of {length} numbers")
        if not length:
            return np.empty(0, dtype=dtype)  # nothing cannot be mapped
        return np.memmap(file, dtype.newbyteorder("<"), mode="r", offset=len(prefix), shape=(length,))


def _without_following(path: str, flags: int) -> int:
    """Open a file, but no link, and never wait for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


@contextmanager
def _opened(directory: str, name: str) -> Iterator[Any]:
    """A file of the directory, and of no other: links and devices are refused."""
    path = os.path.join(directory, name)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ValueError(f"its {name} is not an ordinary file")
        with open(path, "rb", opener=_without_following) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # exchanged meanwhile
                raise ValueError(f"its {name} is not an ordinary file")
            yield file
    except FileNotFoundError as error:
        raise ValueError(f"it has no file {name}") from error
