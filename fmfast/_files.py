"""Files: complete or not there at all; and what stands before the numbers of an `.npy` file.

This module knows nothing of what is in the files.
"""

from __future__ import annotations

import os
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

PREFIX_SIZE = 128  # bytes before the numbers of an .npy file


def npy_prefix(array: NDArray[Any]) -> bytes:
    """Magic, version and dtype of an .npy file, always as long, and on any machine the same."""
    text = f"{{'descr': '{little_endian(array).str}', 'fortran_order': False, 'shape': {array.shape}, }}"
    magic = b"\x93NUMPY\x01\x00" + struct.pack("<H", PREFIX_SIZE - 10)
    return magic + text.encode().ljust(PREFIX_SIZE - 11) + b"\n"


def little_endian(array: NDArray[Any]) -> np.dtype:
    """The dtype of the array as files hold it."""
    return array.dtype.newbyteorder("<")


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once it is complete, or vanishes if it never is."""
    target = os.path.realpath(path)  # a link stays, and points to the new file
    permissions = 0o666
    if os.path.lexists(target):
        mode = os.stat(target).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(f"{path!r} is not an ordinary file that can be replaced; give another name.")
        permissions = stat.S_IMODE(mode)  # what was private stays private
    directory = os.path.dirname(target)
    temporary = os.path.join(directory, f".fmfast-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, permissions)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename = path  # rather than a name that nobody gave
        raise
    fsync_directory(directory)


def fsync_directory(path: str) -> None:
    """So that the names in it are on the disk too."""
    with suppress(OSError):  # Windows cannot open directories
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
