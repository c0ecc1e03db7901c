"""Plain arrays in a zip file, as `.npz` has them: written in one way, read as if a stranger had sent them.

This module knows nothing of what the arrays mean.
"""

from __future__ import annotations

import reprlib
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmfast._files import little_endian, npy_prefix

_BLOCK_SIZE = 1 << 22  # bytes that pass between file and array at a time


def members_of(archive: zipfile.ZipFile, file_size: int) -> dict[str, zipfile.ZipInfo]:
    """The members of a zip file by name: no bomb, no duplicates."""
    members = {info.filename: info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ValueError("it has several members of the same name")
    for name, info in members.items():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"its member {reprlib.repr(name)} is compressed")
    n_bytes = sum(info.file_size for info in members.values())
    if n_bytes > file_size:
        raise ValueError(f"its members claim {n_bytes} bytes, but the file has {file_size}")
    return members


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views that together are the array, in C order, each of about `_BLOCK_SIZE` bytes at most."""
    if not array.size:
        return
    for part in np.atleast_2d(array):
        step = max(1, _BLOCK_SIZE // part[:1].nbytes)
        for start in range(0, len(part), step):
            yield part[start : start + step]


def write_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    # A ZipInfo carries no time: equal models make equal files.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        member.write(npy_prefix(array))
        for block in _blocks(array):
            member.write(np.ascontiguousarray(block, dtype=little_endian(array)).data)


def read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, array: NDArray[Any]) -> None:
    """Fill the array from a member of just its dtype and shape; the last byte checks the CRC."""
    prefix = npy_prefix(array)
    with archive.open(info) as member:
        # Compared, not parsed: there is one way to write it.
        if info.file_size != len(prefix) + array.nbytes or member.read(len(prefix)) != prefix:
            raise ValueError(f"its member {info.filename} is no {array.dtype} array of shape {array.shape}")
        for block in _blocks(array):
            values = np.frombuffer(member.read(block.nbytes), dtype=little_endian(array))
            block[...] = values.reshape(block.shape)
