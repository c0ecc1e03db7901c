"""Models on disk for the tests: fitted, saved, taken apart and put together again."""

from __future__ import annotations

import dataclasses
import io
import json
import tracemalloc
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp

import fmfast
from fmfast import FMClassifier, FMRegressor, ModelFileError
from fmfast._files import npy_prefix

MEMBERS = ["header.npy", "bias.npy", "w.npy", "V.npy", "state.npy"]

rng = np.random.default_rng(7)
X = sp.random_array((90, 12), density=0.3, format="csr", rng=rng)
SCORE = X @ rng.normal(size=12)
TARGETS = {
    "regressor": 1000.0 + 30.0 * SCORE,
    "binary": np.where(SCORE > 0, "yes", "no"),
    "multi-class": np.digitize(SCORE, [-0.7, 0.0, 0.7]),
}


def estimator_of(kind: str, **params):
    cls = FMRegressor if kind == "regressor" else FMClassifier
    return cls(**({"n_factors": 3, "max_iter": 4, "random_state": 5} | params))


def saved(tmp_path, kind: str = "regressor", **params):
    """A fitted estimator, and the file that it was saved to."""
    estimator = estimator_of(kind, **params).fit(X, TARGETS[kind])
    path = tmp_path / "model.fm"
    estimator.save(path)
    return estimator, path


def same_bits(a, b) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same_model(loaded, original) -> None:
    for field in dataclasses.fields(original):
        a, b = getattr(loaded, field.name), getattr(original, field.name)
        if field.name == "table":
            assert same_bits(a.rows, b.rows)
            assert same_bits(a.bias, b.bias)
            assert (a.n_factors, a.state_size) == (b.n_factors, b.state_size)
        elif isinstance(b, np.ndarray):
            assert a.dtype == b.dtype
            assert a.tolist() == b.tolist()
        else:
            assert a == b
            assert type(a) is type(b)


def peak_memory(call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def contents(path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewrite(path, members, compression=zipfile.ZIP_STORED) -> None:
    """A zip file with right checksums of a dict, or of pairs that may repeat a name."""
    pairs = members.items() if isinstance(members, dict) else members
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in pairs:
            archive.writestr(zipfile.ZipInfo(name), content, compression)


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


def header_of(members: dict[str, bytes]) -> dict:
    return json.loads(members["header.npy"][128:], parse_constant=refuse_constant)


def npy(array) -> bytes:
    return npy_prefix(array) + array.tobytes()


def header_member(text: bytes) -> bytes:
    return npy(np.frombuffer(text, dtype=np.uint8))


def with_header(path, change) -> None:
    """Rewrite the file after `change` has worked on its header."""
    members = contents(path)
    header = header_of(members)
    change(header)
    rewrite(path, members | {"header.npy": header_member(json.dumps(header).encode())})


def assert_refused(path, match: str) -> None:
    with pytest.raises(ModelFileError, match=match) as error:
        fmfast.load(path)
    message = str(error.value)
    assert repr(str(path)) in message
    assert "Expected an undamaged file from `save`" in message
    assert len(message) < 400 + len(str(path)) + 300


def change_members(path, change) -> None:
    """Rewrite the file with what `change` makes of its members."""
    members = contents(path)
    changed = change(members)
    assert changed != members
    rewrite(path, changed)


def change_array(name, change):
    """Of the members with one array replaced by what `change` makes of it."""

    def changed(members):
        array = np.load(io.BytesIO(members[f"{name}.npy"]))
        made = change(array)
        return members | {f"{name}.npy": made if isinstance(made, bytes) else npy(made)}

    return changed


def set_item(value):
    def change(array):
        array.flat[-1] = value
        return array

    return change
