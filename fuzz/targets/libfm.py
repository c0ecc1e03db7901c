"""`fmfast.libfm.load`: models in the text format of libFM."""

from __future__ import annotations

import os
import random
import tempfile
import zlib

import numpy as np

from fmfast import TextFormatError, libfm
from fuzz.mutation import mutate_bytes
from fuzz.target import Target, require

TOKENS = [
    b"#global bias W0\n", b"#unary interactions Wj\n", b"#pairwise interactions Vj,f\n", b"\n", b" ", b"\t",
    b"\r\n", b"0.5", b"-1", b"1e39", b"1e308", b"1e309", b"nan", b"inf", b"1_0", b"+", b".", b"e5", b"0x10",
    b"#", b"\x00", b"\xff", b"3.4028235e38", b"3.40282357e38",
]  # fmt: skip


class LibfmTarget(Target):
    name = "libfm"
    documented = (TextFormatError,)

    def __init__(self) -> None:
        self._path = os.path.join(_directory(), f"fuzz-libfm-{os.getpid()}")

    def new_seeds(self) -> dict[str, bytes]:
        w0, w, V = (b"#global bias W0\n", b"#unary interactions Wj\n", b"#pairwise interactions Vj,f\n")
        return {
            "whole": w0 + b"3.5\n" + w + b"0.1\n-2e-3\n0\n" + V + b"0.01 -0.02\n1 2\n.5 5.\n",
            "no_bias": w + b"1\n2\n" + V + b"0.1\n0.2\n",
            "pairs_only": V + b"0.1 0.2 0.3\n",
            "no_factors": w0 + b"1\n" + w + b"1\n2\n" + V + b"\n\n",
            "blanks": w0 + b" 1 \r\n" + w + b"\t1\r\n" + V + b"1  2 \r\n",
            "empty": b"",
        }

    def mutate(self, data: bytes, rng: random.Random, pool: list[bytes]) -> bytes:
        return mutate_bytes(data, rng, TOKENS, pool)

    def check(self, data: bytes) -> str | None:
        with open(self._path, "wb") as file:
            file.write(data)
        choice = zlib.crc32(data)
        task = ("regression", "classification")[choice % 2]
        dtype = ("float64", "float32")[choice // 2 % 2]
        fm, refusal = self.attempt(lambda: libfm.load(self._path, task=task, dtype=dtype))
        if fm is None:
            return refusal
        for name in ("w0_", "w_", "V_"):
            require(np.isfinite(getattr(fm, name)).all(), f"{name} is not finite")
        with np.errstate(all="ignore"):
            prediction = fm.predict(np.eye(1, fm.n_features_in_))
        largest = max(abs(fm.w0_), float(np.abs(fm.w_).max()), float(np.abs(fm.V_).max(initial=0)))
        require(np.isfinite(prediction).all() or largest > 1e6, "a prediction that is not finite")
        libfm.dump(fm, self._path)
        again = libfm.load(self._path, task=task, dtype=dtype)
        for name in ("w0_", "w_", "V_"):
            require(
                np.array_equal(getattr(again, name), getattr(fm, name)), f"{name} is not what was written"
            )
        return f"accepted {fm.V_.shape[1] > 0} {task} {dtype}"


def _directory() -> str:
    """In memory, where there is such a place: a file is written for every input."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
