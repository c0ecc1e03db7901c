"""Bytes from and to files that may be compressed, by gzip or zstd; knows nothing of what they mean.

zstd comes with Python 3.14, or with the package zstandard.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# What reading may raise if compressed data are cut off or altered.
DAMAGE = (gzip.BadGzipFile, EOFError, zlib.error)


def name_of(source: Any) -> str:
    """How messages call a path or a file object."""
    name = source if isinstance(source, (str, bytes, os.PathLike)) else getattr(source, "name", None)
    return repr(os.fsdecode(name)) if isinstance(name, (str, bytes, os.PathLike)) else "The file"


@contextmanager
def opened(source: Any) -> Iterator[Any]:
    """An object whose `read(size)` gives the decompressed bytes; its first bytes tell how, not its name."""
    with ExitStack() as stack:
        file = source
        if isinstance(source, (str, bytes, os.PathLike)):
            file = stack.enter_context(open(source, "rb", buffering=0))
        elif not hasattr(source, "read"):
            raise TypeError(
                f"The source is a {type(source).__name__}, expected a path or a file object in binary mode."
            )
        head = file.read(4)
        if not isinstance(head, bytes):
            raise TypeError(
                f"{name_of(source)} gives {type(head).__name__}, expected bytes; open it in binary mode."
            )
        file = _Rejoined(head, file)
        if head.startswith(b"\x1f\x8b"):
            file = stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb"))  # type: ignore[call-overload]
        elif head == b"\x28\xb5\x2f\xfd":
            file = _ZstdFrames(file)
        yield file


@contextmanager
def compressing(file: Any, name: str) -> Iterator[Any]:
    """An object with `write`, compressing if the name ends with .gz or .zst; equal data make equal files."""
    if name.endswith(".gz"):
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as compressed:
            yield compressed
    elif name.endswith(".zst"):
        compressor = _zstd().ZstdCompressor()
        # The two modules differ in this: one compresses by itself, the other makes an object that does.
        frame = compressor.compressobj() if hasattr(compressor, "compressobj") else compressor
        yield _ZstdWriter(file, frame.compress)
        file.write(frame.flush())
    else:
        yield file


class _Rejoined:
    """A file with its first bytes, which have been read already."""

    def __init__(self, head: bytes, file: Any) -> None:
        self._head, self._file = head, file

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            rest: bytes = self._file.read(size)
            return rest
        size = len(self._head) if size < 0 else size
        head, self._head = self._head[:size], self._head[size:]
        return head


class _ZstdFrames:
    """Frame after frame; one that is cut off is an error."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._zstd = _zstd()
        self._frame: Any = None
        self._rest = b""

    def _new_frame(self) -> Any:
        decompressor = self._zstd.ZstdDecompressor()
        return decompressor.decompressobj() if hasattr(decompressor, "decompressobj") else decompressor

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        n_bytes = 0
        while n_bytes < size:
            # A little at a time: a kilobyte becomes 32 megabytes at most.
            compressed = self._rest or self._file.read(1024)
            self._rest = b""
            if not compressed:
                if self._frame is not None:
                    raise EOFError("it ends within a zstd frame")
                break
            self._frame = self._frame or self._new_frame()
            try:
                parts.append(self._frame.decompress(compressed))
            except self._zstd.ZstdError as error:
                raise EOFError(str(error)) from error
            n_bytes += len(parts[-1])
            if self._frame.eof:
                self._rest = self._frame.unused_data
                self._frame = None
        return b"".join(parts)


class _ZstdWriter:
    def __init__(self, file: Any, compress: Callable[[Any], bytes]) -> None:
        self._file, self._compress = file, compress

    def write(self, text: Any) -> None:
        self._file.write(self._compress(text))


def _zstd() -> Any:
    """The module that Python comes with, or else the package."""
    try:
        from compression import zstd
    except ModuleNotFoundError:
        pass
    else:
        return zstd
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "zstd needs Python 3.14 or the package zstandard; install it with pip install zstandard, or use "
            "gzip."
        ) from error
    return zstandard
