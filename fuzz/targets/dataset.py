"""`fmfast.open_dataset`, and a fit on what it opens. An input is a zip file of the files of the directory."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp

import fmfast
from fmfast import DatasetError, DivergenceError, FMRegressor
from fuzz.mutation import (
    MAX_SIZE,
    mutate_array_member,
    mutate_bytes,
    mutate_json,
    mutate_members,
    unzip,
    zipped,
)
from fuzz.target import Target, require, state_of
from fuzz.targets.libfm import _directory

NAMES = [
    "meta.json", "indptr.npy", "indices.npy", "data.npy", "y.npy", "sample_weight.npy", "qid.npy",
    "field.npy", "x.npy",
]  # fmt: skip
TOKENS = [b"\x93NUMPY", b"<i4", b"<i8", b"<f4", b"{", b"}", b'"', b","]
MAX_FEATURES = 1 << 14  # more would take a fit memory that X asks for, not the data


class DatasetTarget(Target):
    name = "dataset"
    documented = (DatasetError,)

    def __init__(self) -> None:
        self._path = os.path.join(_directory(), f"fuzz-{self.name}-{os.getpid()}.fmd")

    def size(self, data: bytes) -> int:
        # Files in memory are mapped, so that what is read of them is not allocated.
        return max(len(data), sum(map(len, (unzip(data) or {}).values())))

    def new_seeds(self) -> dict[str, bytes]:
        rng = np.random.default_rng(0)
        X = sp.random_array((12, 6), density=0.4, format="csr", rng=rng, dtype=np.float32)
        y, weight = rng.normal(size=12), rng.random(12)
        ones = sp.csr_array((np.ones_like(X.data), X.indices, X.indptr), shape=X.shape)
        seeds = {}
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "set.fmd")
            for name, source, settings in (
                ("whole", X, {"y": y, "sample_weight": weight, "field": [0, 0, 1, 1, 2, 2]}),
                ("ones", ones, {"y": y}),
                ("double", X.astype(np.float64), {"dtype": "float64"}),
            ):
                fmfast.convert(source, path, overwrite=True, **settings)
                files = sorted(os.listdir(path))
                seeds[name] = zipped({file: Path(path, file).read_bytes() for file in files})
        return seeds

    def mutate(self, data: bytes, rng: random.Random, pool: list[bytes]) -> bytes:
        files = unzip(data)
        if files is None:
            return rng.choice(pool)
        return zipped(mutate_members(files, rng, _mutate_file, NAMES))[:MAX_SIZE]

    def check(self, data: bytes) -> str | None:
        files = unzip(data)
        if files is None or not all(name in NAMES for name in files):
            return None
        os.makedirs(self._path)
        try:
            for name, content in files.items():
                with open(os.path.join(self._path, name), "wb") as file:
                    file.write(content)
            return self._check()
        finally:
            shutil.rmtree(self._path)

    def _check(self) -> str:
        ds, refusal = self.attempt(lambda: fmfast.open_dataset(self._path))
        if ds is None:
            return refusal
        lengths = {
            "y": ds.n_samples,
            "sample_weight": ds.n_samples,
            "qid": ds.n_samples,
            "field": ds.n_features,
        }
        for name, length in lengths.items():
            array = getattr(ds, name)
            require(array is None or array.shape == (length,), f"{name} has a wrong shape")
        repr(ds)
        if ds.n_features > MAX_FEATURES:
            return "opened, with many columns"
        fm = FMRegressor(n_factors=2, max_iter=1, random_state=0)
        before = state_of(fm)
        y = np.zeros(ds.n_samples) if ds.y is None else ds.y
        try:
            with np.errstate(all="ignore"):
                prediction = fm.fit(ds.X, y, ds.sample_weight).predict(ds.X)
        except (ValueError, DivergenceError) as error:
            require(state_of(fm) == before, "an estimator that a refused data set has changed")
            return f"opened, {type(error).__name__} in fit: {str(error)[:40]}"
        # Rows without weight take no part in the fit, however large they are.
        is_huge = np.abs(ds.X.data).max(initial=0) > 1e15
        require(np.isfinite(prediction).all() or is_huge, "a prediction that is not finite")
        return f"accepted {ds.y is None} {ds.field is None}"


def _mutate_file(name: str, content: bytes, rng: random.Random) -> bytes:
    import json

    if name != "meta.json":
        return mutate_array_member(content, rng, TOKENS)
    if rng.random() < 0.1:
        return mutate_bytes(content, rng, TOKENS, ())
    try:
        return json.dumps(mutate_json(json.loads(content), rng)).encode()
    except (ValueError, RecursionError):
        return mutate_bytes(content, rng, TOKENS, ())
