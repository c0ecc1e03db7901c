"""`fmfast.text.load`: bytes of libsvm and libffm files, plain and compressed."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from typing import Any

import numpy as np

from fmfast import TextFormatError, text
from fmfast._reader import TextReader
from fuzz.mutation import MAX_SIZE, mutate_bytes
from fuzz.target import MIB, Target, require

TOKENS = [
    b" ", b"\n", b"\t", b"\r\n", b"#", b":", b"qid:", b"qid:1 ", b" 1:1", b" 1:1:1", b" 0:0", b"-", b"+",
    b".", b"e", b"1e400", b"-1e400", b"1e-400", b"4.9e-324", b"inf", b"nan", b"NaN", b"0x1p3", b"1_0",
    b"0.1", b"1.", b".5", b"00001", b"9223372036854775807", b"9223372036854775806", b"2147483647",
    b"2147483648", b"18446744073709551616", b"99999999999999999999", b"3.4028235e38", b"3.4028236e38",
    b"1.1754942e-38", b"16777217", b"9007199254740993", b"\x00", b"\xff", b"\xc3\xa4", b"1,2", b"* 0.",
    b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd",
]  # fmt: skip


class TextTarget(Target):
    name = "text"
    documented = (TextFormatError,)
    # A libffm file may name 2^24 columns whatever its size, each with a field of 4 bytes, and the table of
    # them is copied while it grows; a gzip or zstd frame is decompressed a megabyte at a time.
    constant = 220 * MIB
    multiple = 100

    def new_seeds(self) -> dict[str, bytes]:
        lines = b"1 1:0.5 3:1 7:-2e-3 # first\n-1 2:1\n0\n\n# only a comment\n+1.5 7:1 3:2 3:4.5\n"
        queries = b"3 qid:1 1:1 2:0.25\n2 qid:1 2:1\n0 qid:2 5:1\n"
        fields = b"1 0:0:1 1:5:0.5 2:9:1\n0 0:1:1 1:6:1\n1 0:0:1 2:8:3\n"
        numbers = (
            b"3.4028235e38 1:1e-45 2:16777217 3:9007199254740993\n1 1:0.1 2:123456789012345678901234567890\n"
            b"1e300 1:1.17549435e-38 2:1e-400 3:00.00100e+0002\n"
        )
        return {
            "lines": lines,
            "queries": queries,
            "fields": fields,
            "numbers": numbers,
            "no_labels": b"1:1 2:1\n5:1\n",
            "no_label_but_qid": b"qid:7 1:1\nqid:8 3:0.5\n",
            "zero_based": b"1 0:1 4:1\n0 1:1\n",
            "wide": b"1 2147483647:1 9223372036854775805:1\n0 5000000000:0.5\n",
            "no_end": b"1 1:1\n0 2:1",
            "windows": b"1 1:1\r\n0\t2:1 \r\n",
            "label_only": b"5\n",
            "gzip": gzip.compress(lines, mtime=0),
            "zstd": _zstd(queries),
            "empty": b"",
        }

    def mutate(self, data: bytes, rng: random.Random, pool: list[bytes]) -> bytes:
        if data[:2] == b"\x1f\x8b" and rng.random() < 0.7:
            try:
                data = zlib.decompressobj(31).decompress(data, MAX_SIZE)
            except zlib.error:
                return mutate_bytes(data, rng, TOKENS, pool)
            return gzip.compress(mutate_bytes(data, rng, TOKENS, pool), 1, mtime=0)
        return mutate_bytes(data, rng, TOKENS, pool)

    def size(self, data: bytes) -> int:
        if data[:2] == b"\x1f\x8b":  # in proportion to what is in it
            try:
                return len(data) + len(zlib.decompressobj(31).decompress(data, 1 << 26))
            except zlib.error:
                return len(data)
        return len(data)

    def check(self, data: bytes) -> str | None:
        # Settings that follow from the data: an input is only bytes, and means the same every time.
        settings = _settings(data)
        loaded, refusal = self.attempt(lambda: text.load(io.BytesIO(data), **settings))
        # In small pieces, on one thread or two, it must end the same way.
        read = lambda: _blocks(data, settings)  # noqa: E731
        pieces, other = self.attempt(read)
        if loaded is None:
            require(other or pieces == "no rows", f"in pieces it was accepted, but as a whole: {refusal}")
            return refusal
        require(not other, f"it was accepted, but in pieces: {other}")
        X = loaded.X
        _check_rows(X, settings["dtype"])
        require(X.shape[0] == len(X.indptr) - 1 > 0, f"shape {X.shape}")
        for name, array in (("y", loaded.y), ("qid", loaded.qid)):
            require(array is None or array.shape == (X.shape[0],), f"{name} does not fit X")
        require(loaded.y is None or np.isfinite(loaded.y).all(), "y is not finite")
        require(loaded.field is None or loaded.field.shape == (X.shape[1],), "field does not fit X")
        require(loaded.field is None or (loaded.field >= 0).all(), "a negative field")
        _check_pieces(pieces, loaded)
        if X.shape[1] < 1 << 20:
            self._round_trip(loaded, settings)
        given = [loaded.y is not None, loaded.qid is not None, loaded.field is not None]
        return f"accepted {given} {X.indices.dtype}"

    def _round_trip(self, loaded: Any, settings: dict[str, Any]) -> None:
        if not loaded.X.shape[1] or (loaded.y is not None and np.abs(loaded.y).max() > 1e100):
            return  # matrices without columns, and targets that no fit takes, are not written
        out = io.BytesIO()
        text.dump(out, loaded.X, loaded.y, field=loaded.field, qid=loaded.qid, dtype=settings["dtype"])
        again = text.load(
            io.BytesIO(out.getvalue()),
            format="auto" if loaded.field is None else "libffm",
            n_features=loaded.X.shape[1],
            zero_based=False,
            dtype=settings["dtype"],
        )
        for name in ("data", "indices", "indptr"):
            same = np.array_equal(getattr(again.X, name), getattr(loaded.X, name))
            require(same, f"{name} is not what was written")
        if loaded.y is not None:
            require(np.array_equal(again.y, loaded.y), "y is not what was written")


def _settings(data: bytes) -> dict[str, Any]:
    choice = zlib.crc32(data)
    return {
        "format": ("auto", "auto", "auto", "libffm", "libsvm")[choice % 5],
        "n_features": (None, None, None, 10)[choice // 5 % 4],
        "zero_based": ("auto", "auto", True, False)[choice // 20 % 4],
        "dtype": ("float32", "float64")[choice // 80 % 2],
    }


def _blocks(data: bytes, settings: dict[str, Any]) -> Any:
    # Threads are made anew for every file, which takes longer than all else: now and then will do.
    n_jobs = 2 if zlib.crc32(data) % 16 == 0 else 1
    reader = TextReader(io.BytesIO(data), n_jobs=n_jobs, chunk_size=16, **settings)
    blocks = list(reader)
    if not blocks:
        return "no rows"
    return reader, blocks


def _check_pieces(pieces: Any, loaded: Any) -> None:
    reader, blocks = pieces
    require(reader.n_features == loaded.X.shape[1], "in pieces it has other columns")
    shift = 0 if reader.zero_based else 1
    indices = np.concatenate([block.indices for block in blocks]).astype(np.int64) - shift
    require(np.array_equal(indices, loaded.X.indices), "in pieces it has other indices")
    values = np.concatenate([block.data for block in blocks])
    require(np.array_equal(values, loaded.X.data), "in pieces it has other values")


def _check_rows(X: Any, dtype: str) -> None:
    """What the documentation promises of X."""
    require(X.data.dtype == dtype, f"data of dtype {X.data.dtype}")
    require(np.isfinite(X.data).all() and (X.data != 0).all(), "values that are 0 or not finite")
    require(X.indptr[0] == 0 and X.indptr[-1] == len(X.indices) == len(X.data), "indptr does not fit")
    require((np.diff(X.indptr) >= 0).all(), "indptr falls")
    if len(X.indices):
        require(X.indices.min() >= 0 and X.indices.max() < X.shape[1], "an index beyond the columns")
        ascends = np.diff(X.indices.astype(object) if X.indices.dtype.kind == "O" else X.indices) > 0
        starts = X.indptr[1:-1]
        ascends[starts[(starts > 0) & (starts < len(X.indices))] - 1] = True
        require(ascends.all(), "columns that do not ascend")


def _zstd(content: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(content)
