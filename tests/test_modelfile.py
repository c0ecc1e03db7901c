"""Models on disk: what is saved comes back to the bit, and what is not a model is refused."""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import os
import pickle
import signal
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import train_on

import fmfast
from fmfast import FMClassifier, FMRegressor, ModelFileError, _classes, modelfile
from fmfast._files import npy_prefix
from fmfast.solvers import SOLVERS

MEMBERS = ["header.npy", "bias.npy", "w.npy", "V.npy", "state.npy"]
posix_only = pytest.mark.skipif(os.name != "posix", reason="permissions, links and pipes of POSIX")

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


# -- what is saved comes back -----------------------------------------------------------------


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_factors", [0, 3, 8])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_and_continued_training(tmp_path, kind, solver, n_factors, dtype):
    original, path = saved(tmp_path, kind, solver=solver, n_factors=n_factors, dtype=dtype)
    loaded = fmfast.load(path)
    assert type(loaded) is type(original)
    assert loaded.get_params() == original.get_params()
    assert repr(loaded.history_) == repr(original.history_)
    assert loaded.n_iter_ == original.n_iter_ == 4
    assert loaded.n_features_in_ == 12
    assert_same_model(loaded.model_, original.model_)
    for name in ("w0_", "w_", "V_"):
        assert same_bits(getattr(loaded, name), getattr(original, name))

    # Both go on, the one as if nothing had happened, the other from the file.
    for estimator in (original, loaded):
        train_on(estimator, X, TARGETS[kind])
        estimator.set_params(warm_start=True, max_iter=2).fit(X, TARGETS[kind])
    assert_same_model(loaded.model_, original.model_)
    assert same_bits(loaded.predict(X), original.predict(X))
    assert [record["epoch"] for record in loaded.history_] == [1, 2, 3, 4, 5, 6, 7]


def test_an_interrupted_fit_with_a_file_between_equals_one_fit(tmp_path):
    whole = estimator_of("regressor", max_iter=7).fit(X, TARGETS["regressor"])
    _, path = saved(tmp_path)
    parts = fmfast.load(path).set_params(warm_start=True, max_iter=3).fit(X, TARGETS["regressor"])
    assert_same_model(parts.model_, whole.model_)


LABELS = {
    "int64": np.array([3, -5]),
    "int8": np.array([-128, 127], dtype=np.int8),
    "uint64": np.array([0, 2**64 - 1], dtype=np.uint64),
    "big-endian int": np.array([1, 2], dtype=">i4"),
    "bool": np.array([True, False]),
    "float64": np.array([0.0, 1e300]),
    "float16": np.array([1.0, 2.0], dtype=np.float16),
    "str": np.array(["ж", "a\x00b"]),
    "wide str": np.array(["yes", "no"], dtype="<U40"),
    "lone surrogate": np.array(["\ud800", "x"]),
    "object str": np.array(["yes", "no"], dtype=object),
    "object int": np.array([10**30, -1], dtype=object),
    "object bool": np.array([True, False], dtype=object),
    "object float": np.array([0.1, 2.0], dtype=object),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_keep_values_and_dtype(tmp_path, labels):
    y = labels[(SCORE > 0).astype(int)]
    original = estimator_of("binary").fit(X, y)
    original.save(tmp_path / "model.fm")
    loaded = fmfast.load(tmp_path / "model.fm")
    assert loaded.classes_.dtype == labels.dtype
    assert [(type(a), a) for a in loaded.classes_] == [(type(a), a) for a in original.classes_]
    assert loaded.predict(X).tolist() == original.predict(X).tolist()
    loaded.partial_fit(X, y, classes=labels)  # which compares them with those of the file


def test_numpy_scalars_as_labels_become_plain_values(tmp_path):
    for labels in ([np.int64(1), np.int64(2)], [np.str_("no"), np.str_("yes")], [np.False_, np.True_]):
        y = np.array(labels, dtype=object)[(SCORE > 0).astype(int)]
        original = estimator_of("binary").fit(X, y)
        original.save(tmp_path / "model.fm")
        classes = fmfast.load(tmp_path / "model.fm").classes_
        assert classes.dtype == object
        assert [(type(a), a) for a in classes] == [(type(a.item()), a) for a in labels]


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 2


UNSUITABLE_LABELS = {
    "bytes": np.array([b"yes", b"no"]),
    "datetime64": np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"),
    "timedelta64": np.array([1, 2], dtype="timedelta64[s]"),
    "longdouble": np.array([1, 2], dtype=np.longdouble),
    "object int and float": np.array([1, 2.5], dtype=object),
    "object bytes": np.array([b"yes", b"no"], dtype=object),
    "object tuples": np.fromiter([("a",), ("b",)], dtype=object),
    "object enum": np.array([Colour.RED, Colour.BLUE], dtype=object),
    "object infinity": np.array([1.0, np.inf], dtype=object),
}


@pytest.mark.parametrize("labels", UNSUITABLE_LABELS.values(), ids=UNSUITABLE_LABELS)
def test_other_labels_are_refused_before_anything_is_written(tmp_path, labels):
    if labels.dtype == np.longdouble and np.longdouble(1).itemsize == 8:
        pytest.skip("here a longdouble is a float64")
    estimator = estimator_of("binary").fit(X, TARGETS["binary"])
    estimator.model_.classes = labels
    with pytest.raises(TypeError, match=r"class labels cannot be saved: .*; fit with labels that are"):
        estimator.save(tmp_path / "model.fm")
    assert list(tmp_path.iterdir()) == []


def test_labels_that_would_fill_the_memory_are_refused_on_both_sides(tmp_path, monkeypatch):
    estimator, path = saved(tmp_path, "binary")
    assert estimator.classes_.nbytes == 24
    monkeypatch.setattr(_classes, "_MAX_LABEL_BYTES", 23)
    with pytest.raises(TypeError, match="take more than 23 bytes"):
        estimator.save(tmp_path / "other.fm")
    with pytest.raises(ModelFileError, match="take more than 23 bytes"):
        fmfast.load(path)


def test_feature_names(tmp_path):
    pandas = pytest.importorskip("pandas")
    # As objects: the strings of Arrow cannot hold a lone surrogate.
    names = pandas.Index([f"größe \ud800 {i}" for i in range(12)], dtype=object)
    frame = pandas.DataFrame(X.toarray(), columns=names)
    original = estimator_of("regressor").fit(frame, TARGETS["regressor"])
    original.save(tmp_path / "model.fm")
    loaded = fmfast.load(tmp_path / "model.fm")
    assert loaded.feature_names_in_.dtype == object
    assert loaded.feature_names_in_.tolist() == original.feature_names_in_.tolist()
    assert same_bits(loaded.predict(frame), original.predict(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame[frame.columns[::-1]])


def test_the_smallest_numbers_that_a_header_may_hold(tmp_path):
    original = FMRegressor(random_state=0).fit(sp.csr_array((3, 1)), [1.0, 2.0, 4.0])
    assert original.model_.training.seed == original.model_.training.row_norm == 0
    original.save(tmp_path / "model.fm")
    assert_same_model(fmfast.load(tmp_path / "model.fm").model_, original.model_)


def test_without_feature_names_there_is_no_such_attribute(tmp_path):
    assert not hasattr(fmfast.load(saved(tmp_path)[1]), "feature_names_in_")


def test_parameters_become_plain_values(tmp_path):
    _, path = saved(
        tmp_path,
        n_factors=np.int64(3),
        learning_rate=np.float32(0.1),
        early_stopping=np.True_,
        random_state=np.uint8(5),
        n_jobs=1,
        dtype=np.float64,
    )
    params = fmfast.load(path).get_params()
    changed = {
        "n_factors": 3,
        "learning_rate": float(np.float32(0.1)),
        "early_stopping": True,
        "random_state": 5,
        "n_jobs": 1,
        "dtype": "float64",
        "max_iter": 4,
    }
    assert params == FMRegressor().get_params() | changed
    assert {name: type(params[name]) for name in changed} == {k: type(v) for k, v in changed.items()}


def test_what_is_no_plain_value_gets_its_default(tmp_path):
    original, path = saved(
        tmp_path,
        callbacks=[lambda record: False],
        scoring=lambda y_true, prediction: 0.0,
        random_state=np.random.default_rng(3),
    )
    loaded = fmfast.load(path)
    assert (loaded.callbacks, loaded.scoring, loaded.random_state) == (None, "loss", None)
    assert_same_model(loaded.model_, original.model_)  # which includes the seed that the generator gave


def test_settings_changed_after_the_fit_are_saved_beside_the_model(tmp_path):
    original, path = saved(tmp_path)
    original.set_params(n_factors=20, solver="sgd").save(path)
    loaded = fmfast.load(path)
    assert (loaded.n_factors, loaded.solver) == (20, "sgd")
    assert same_bits(loaded.predict(X), original.predict(X))


def test_infinite_scores_in_strict_json(tmp_path):
    estimator = estimator_of("regressor", scoring=lambda y_true, prediction: -np.inf)
    estimator.fit(X, TARGETS["regressor"], eval_set=(X, TARGETS["regressor"]))
    estimator.save(tmp_path / "model.fm")
    header_of(contents(tmp_path / "model.fm"))
    loaded = fmfast.load(tmp_path / "model.fm")
    assert [record["validation_score"] for record in loaded.history_] == [-np.inf] * 4
    assert loaded.history_ == estimator.history_


def test_a_model_that_cannot_be_trained_further(tmp_path):
    estimator, path = saved(tmp_path)
    estimator.model_.training = None
    estimator.save(path)
    loaded = fmfast.load(path)
    assert loaded.model_.training is None
    assert loaded.model_.table.state_size == 0
    assert same_bits(loaded.predict(X), estimator.predict(X))
    with pytest.raises(ValueError, match="continues a model trained by solver=None"):
        loaded.partial_fit(X, TARGETS["regressor"])


def test_numpy_opens_the_file_without_pickle(tmp_path):
    estimator, path = saved(tmp_path, "multi-class")
    table = estimator.model_.table
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file) == ["V", "bias", "header", "state", "w"]
        for name in ("bias", "w", "V", "state"):
            assert same_bits(file[name], getattr(table, name))
        header = json.loads(bytes(file["header"]).decode("utf-8"))
    assert header["format"] == "fmfast model"
    assert header["class"] == "FMClassifier"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == MEMBERS
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_equal_models_make_equal_files(tmp_path):
    _, path = saved(tmp_path)
    fmfast.load(path).save(tmp_path / "again.fm")
    assert (tmp_path / "again.fm").read_bytes() == path.read_bytes()


def test_memory_beside_the_table_is_a_few_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(modelfile, "_BLOCK_SIZE", 1 << 18)
    estimator = FMRegressor(n_factors=16, max_iter=1).fit(sp.eye_array(100_000, format="csr"), np.arange(1e5))
    size = estimator.model_.table.rows.nbytes
    few_blocks = 8 << 18
    assert size > 3 * few_blocks
    assert peak_memory(lambda: estimator.save(tmp_path / "model.fm")) < few_blocks
    assert size <= peak_memory(lambda: fmfast.load(tmp_path / "model.fm")) < size + few_blocks
    assert_same_model(fmfast.load(tmp_path / "model.fm").model_, estimator.model_)


def peak_memory(call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# -- what cannot be saved ---------------------------------------------------------------------


def test_unfitted_estimator(tmp_path):
    with pytest.raises(ValueError, match="not fitted yet, so save is not available"):
        FMRegressor().save(tmp_path / "model.fm")


def test_derived_class_even_of_the_same_name(tmp_path):
    derived = type("FMRegressor", (FMRegressor,), {})().fit(X, TARGETS["regressor"])
    with pytest.raises(TypeError, match="FMRegressor cannot be saved"):
        derived.save(tmp_path / "model.fm")
    assert list(tmp_path.iterdir()) == []


def test_invalid_settings_and_parameters(tmp_path):
    estimator, path = saved(tmp_path, "binary")
    before = path.read_bytes()
    estimator.w_[2] = np.nan
    with pytest.raises(ValueError, match="parameters that are not finite"):
        estimator.save(path)
    with pytest.raises(ValueError, match="parameter max_iter of FMClassifier is 0"):
        estimator.set_params(max_iter=0).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# -- the file appears whole, or not at all ------------------------------------------------------


def fail(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_failing_system_calls_leave_the_old_file(tmp_path, monkeypatch, name):
    estimator, path = saved(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(os, name, fail)
    estimator.partial_fit(X, TARGETS["regressor"])
    with pytest.raises(OSError, match="No space left"):
        estimator.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@posix_only
def test_the_name_appears_when_the_file_is_on_the_disk(tmp_path, monkeypatch):
    estimator, path = saved(tmp_path)
    synced, fsync = [], os.fsync

    def recording(descriptor):
        status = os.fstat(descriptor)
        synced.append(
            (stat.S_ISDIR(status.st_mode) or status.st_size, (tmp_path / "new.fm").exists(), descriptor)
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    estimator.save(tmp_path / "new.fm")
    # First the whole file, still without its name, then the directory that knows the name.
    assert [entry[:2] for entry in synced] == [(path.stat().st_size, False), (True, True)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(synced[1][2])


def test_a_disk_that_fills_up(tmp_path):
    resource = pytest.importorskip("resource")
    estimator, path = saved(tmp_path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files stops a write in its middle, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1000, hard))
    try:
        with pytest.raises(OSError, match=r"model\.fm"):
            estimator.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_interrupt_in_the_middle(tmp_path, monkeypatch):
    estimator, _ = saved(tmp_path)

    def interrupted(array):
        yield array[:1]
        raise KeyboardInterrupt

    monkeypatch.setattr(modelfile, "_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        estimator.save(tmp_path / "new.fm")
    assert [path.name for path in tmp_path.iterdir()] == ["model.fm"]


@posix_only
def test_killed_before_the_file_is_complete(tmp_path):
    _, path = saved(tmp_path)
    before = path.read_bytes()
    script = (
        "import os, signal, sys, fmfast\n"
        "os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
        "fmfast.load(sys.argv[1]).save(sys.argv[1])\n"
    )
    process = subprocess.run([sys.executable, "-c", script, path], check=False)
    assert process.returncode == -signal.SIGKILL
    assert path.read_bytes() == before


def test_the_name_is_used_as_it_is(tmp_path):
    estimator, _ = saved(tmp_path)
    name = "a model without suffix " + "x" * 200
    for path in (tmp_path / name, str(tmp_path / name), os.fsencode(tmp_path / name)):
        estimator.save(path)
        assert same_bits(fmfast.load(path).predict(X), estimator.predict(X))
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "model.fm"]
    with pytest.raises(TypeError):
        estimator.save(3)  # which could be a descriptor


def test_a_relative_name(tmp_path, monkeypatch):
    estimator, _ = saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    estimator.save("relative.fm")
    assert same_bits(fmfast.load("relative.fm").predict(X), estimator.predict(X))


def test_errors_name_the_path_that_was_given(tmp_path):
    estimator, _ = saved(tmp_path)
    path = tmp_path / "nowhere" / "model.fm"
    with pytest.raises(FileNotFoundError) as error:
        estimator.save(path)
    assert error.value.filename == str(path)
    with pytest.raises(FileNotFoundError):
        fmfast.load(path)


@posix_only
def test_permissions_are_those_of_an_ordinary_file_or_of_the_old_one(tmp_path):
    estimator, _ = saved(tmp_path)
    path = tmp_path / "other.fm"
    umask = os.umask(0o027)
    try:
        estimator.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        estimator.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(umask)


@posix_only
def test_a_link_stays_a_link(tmp_path):
    estimator, path = saved(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for target in (path, tmp_path / "elsewhere" / "new.fm"):
        link = tmp_path / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        estimator.partial_fit(X, TARGETS["regressor"]).save(link)
        assert link.is_symlink()
        assert_same_model(fmfast.load(target).model_, estimator.model_)


@posix_only
def test_only_ordinary_files_are_read_and_replaced(tmp_path):
    estimator, _ = saved(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "directory"):
        with pytest.raises(OSError, match="not an ordinary file"):
            estimator.save(path)
        with pytest.raises(ModelFileError, match="not an ordinary file"):
            fmfast.load(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "model.fm", "pipe"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may do everything")
def test_missing_permissions_are_no_fault_of_the_file(tmp_path):
    estimator, path = saved(tmp_path)
    before = path.read_bytes()
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            estimator.save(path)
    finally:
        tmp_path.chmod(0o700)
    assert path.read_bytes() == before
    path.chmod(0)
    with pytest.raises(PermissionError):
        fmfast.load(path)


# -- hostile files ------------------------------------------------------------------------------


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


def test_the_tools_of_these_tests_leave_a_good_file_good(tmp_path):
    """So the refusals below are due to what each test changes."""
    for kind in TARGETS:
        estimator, path = saved(tmp_path, kind)
        with_header(path, lambda header: None)
        assert_same_model(fmfast.load(path).model_, estimator.model_)
        members = contents(path)
        rewrite(path, members | {"w.npy": npy(np.ascontiguousarray(estimator.model_.table.w))})
        assert_same_model(fmfast.load(path).model_, estimator.model_)


def assert_refused(path, match: str) -> None:
    with pytest.raises(ModelFileError, match=match) as error:
        fmfast.load(path)
    message = str(error.value)
    assert repr(str(path)) in message
    assert "Expected an undamaged file from `save`" in message
    assert len(message) < 400 + len(str(path)) + 300


FOREIGN_FILES = {
    "empty": b"",
    "text": b"format = fmfast model\n" * 9,
    "pickle": pickle.dumps({"w": 1}),
    "bare end record": b"PK\x05\x06" + bytes(18),
    "end record of an absurd directory": b"PK\x05\x06" + b"\0\0\0\0" + b"\xff" * 12 + b"\0\0",
    "zip64 end record of an absurd directory": struct.pack(
        "<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**62, 0
    )
    + struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    + b"PK\x05\x06\0\0\0\0"
    + b"\xff" * 12
    + b"\0\0",
}


@pytest.mark.parametrize("content", FOREIGN_FILES.values(), ids=FOREIGN_FILES)
def test_foreign_files(tmp_path, content):
    path = tmp_path / "model.fm"
    path.write_bytes(content)
    assert_refused(path, "File is not a zip file|central directory|no member header.npy")


def test_foreign_npz(tmp_path):
    np.savez(tmp_path / "model.npz", w=np.zeros(3))
    assert_refused(tmp_path / "model.npz", "no member header.npy")
    np.savez(tmp_path / "model.npz", header=np.zeros(3))
    assert_refused(tmp_path / "model.npz", "header.npy is no uint8 array")


def test_truncated_at_any_place(tmp_path):
    _, path = saved(tmp_path, n_factors=0, max_iter=1)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            fmfast.load(path)


def test_a_flipped_bit_of_the_numbers_is_found_by_the_checksum(tmp_path):
    _, path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    start = content.index(contents(path)["V.npy"])
    content[start + 200] ^= 1
    path.write_bytes(content)
    assert_refused(path, "Bad CRC-32 for file 'V.npy'")


HEADER_TEXTS = {
    "no UTF-8": (b'{"format": "\xff"}', "can't decode byte 0xff"),
    "UTF-16": (json.dumps({"format": "fmfast model"}).encode("utf-16"), "can't decode byte"),
    "no JSON": (b"{'format': 1}", "Expecting property name"),
    "nothing": (b"", "Expecting value"),
    "more after it": (b"{} {}", "Extra data"),
    "a list": (b'["fmfast model"]', "not a JSON object"),
    "NaN": (b'{"format": NaN}', "NaN, which JSON does not have"),
    "Infinity": (b'{"format": -Infinity}', "-Infinity, which JSON does not have"),
    "deep nesting": (b'{"format": ' + b"[" * 200_000, "recursion"),
    "a number of 10^5 digits": (b'{"format": ' + b"9" * 100_000 + b"}", "integer string conversion"),
    "no format": (b"{}", "format = None, where 'fmfast model' belongs"),
}


@pytest.mark.parametrize(("text", "match"), HEADER_TEXTS.values(), ids=HEADER_TEXTS)
def test_headers_that_are_none(tmp_path, text, match):
    _, path = saved(tmp_path)
    rewrite(path, contents(path) | {"header.npy": header_member(text)})
    assert_refused(path, match)


CLASSES = {"dtype": "<i8", "values": [0, 1, 2, 3]}
# What is changed in the header of a classifier with four classes, and what the message says.
HEADER_CHANGES = {
    "foreign format": ({"format": "other model"}, "format = 'other model'"),
    "newer format": (
        {"format_version": 2, "classes": 7},
        "format_version = 2, where 1 belongs.*upgrade fmfast",
    ),
    "format version of a wrong type": ({"format_version": True}, "format_version = True"),
    "library version": ({"fmfast_version": None}, "fmfast_version = None"),
    "unknown class": ({"class": "Popen"}, "class = 'Popen', where the name of an estimator belongs"),
    "class that is no string": ({"class": ["FMClassifier"]}, "class = "),
    "class that does not fit": (
        {"class": "FMRegressor"},
        "task or its classes are not those of a FMRegressor",
    ),
    "unknown parameter": ({"params": {"__class__": "x"}}, "no parameter '__class__'"),
    "parameters in a list": ({"params": ["n_factors"]}, "params = "),
    "invalid parameter": ({"params": {"n_factors": -1}}, "parameter n_factors of FMClassifier is -1"),
    "parameter of a wrong type": ({"params": {"learning_rate": [0.1]}}, "parameter learning_rate"),
    "callback by name": ({"params": {"callbacks": ["os.abort"]}}, "parameter callbacks"),
    "an empty list": ({"params": {"callbacks": []}}, "parameter callbacks"),
    "scoring by name": ({"params": {"scoring": "os.abort"}}, "parameter scoring"),
    "huge parameter": ({"params": {"learning_rate": 10**400}}, "too large|learning_rate"),
    "task": ({"task": "regression"}, "task or its classes"),
    "task that is no string": ({"task": []}, "task = "),
    "n_features of 0": ({"n_features": 0}, "n_features = 0"),
    "n_features that is a float": ({"n_features": 12.0}, "n_features = 12.0"),
    "n_features of another model": ({"n_features": 11}, "bias.npy|w.npy is no float32 array of shape"),
    "n_features beyond the file": (
        {"n_features": 2**40},
        "promises .* bytes of parameters, but the file has",
    ),
    "n_features beyond 64 bits": ({"n_features": 2**63}, "n_features = "),
    "negative n_factors": ({"n_factors": -1}, "n_factors = -1"),
    "n_factors of another model": ({"n_factors": 2}, "V.npy is no float32 array of shape"),
    "n_factors beyond the file": ({"n_factors": 60000}, "promises .* bytes"),
    "n_factors beyond the kernels": ({"n_factors": 10**9}, "n_factors = 1000000000"),
    "unknown dtype": ({"dtype": "object"}, "dtype = 'object'"),
    "dtype of another model": ({"dtype": "float64"}, "w.npy is no float64 array"),
    "scale of a classifier": ({"scale": 2.0}, "classifier with a scale"),
    "offset of a classifier": ({"offset": 2.0}, "classifier with a scale or an offset"),
    "no scale": ({"scale": 0.0}, "scale = 0.0, where a finite number > 0 belongs"),
    "negative scale": ({"scale": -1.0}, "scale = -1.0"),
    "scale that is true": ({"scale": True}, "scale = True"),
    "no offset": ({"offset": None}, "offset = None"),
    "no classes": ({"classes": None}, "task or its classes"),
    "classes in a list": ({"classes": [0, 1]}, "classes = "),
    "classes without dtype": ({"classes": {"values": [0, 1, 2, 3]}}, "dtype None"),
    "classes of a structured dtype": ({"classes": {"dtype": "i4,i4", "values": [0, 1]}}, "dtype 'i4,i4'"),
    "classes of an absurd width": (
        {"classes": {"dtype": "<U99999999", "values": ["a", "b", "c", "d"]}},
        "take more than",
    ),
    "classes that are no list": ({"classes": {"dtype": "<U4", "values": "abcd"}}, "fewer than two"),
    "too few classes": ({"classes": {"dtype": "<i8", "values": [0]}}, "fewer than two classes"),
    "a class less": ({"classes": {"dtype": "<i8", "values": [0, 1, 2]}}, "bias.npy is no float64 array"),
    "two classes": ({"classes": {"dtype": "<i8", "values": [0, 1]}}, "bias.npy is no float64 array"),
    "a class more": ({"classes": {"dtype": "<i8", "values": [0, 1, 2, 3, 4]}}, "is no .* array of shape"),
    "unsorted classes": ({"classes": {"dtype": "<i8", "values": [0, 2, 1, 3]}}, "not sorted and distinct"),
    "duplicate classes": ({"classes": {"dtype": "<i8", "values": [0, 1, 1, 3]}}, "not sorted and distinct"),
    "classes of mixed types": ({"classes": {"dtype": "|O", "values": [0, 1, "2", 3]}}, "dtype |O are"),
    "classes that are lists": ({"classes": {"dtype": "|O", "values": [[0], [1], [2], [3]]}}, "dtype |O are"),
    "classes that are null": ({"classes": {"dtype": "|O", "values": [None] * 4}}, "dtype |O are"),
    "classes of another type": ({"classes": {"dtype": "<f8", "values": [0, 1, 2, 3]}}, "dtype <f8 are"),
    "booleans for numbers": ({"classes": {"dtype": "|u1", "values": [False, True, 2, 3]}}, "dtype .u1 are"),
    "classes too large": ({"classes": {"dtype": "|u1", "values": [0, 1, 2, 256]}}, "out of bounds"),
    "classes too long": ({"classes": {"dtype": "<U1", "values": ["a", "b", "c", "dd"]}}, "do not fit"),
    "classes rounded": ({"classes": {"dtype": "<f2", "values": [0.0, 1.0, 2.0, 1e9]}}, "do not fit"),
    "feature names of another model": ({"feature_names": ["a"]}, "1 feature names for 12 features"),
    "feature names in a string": ({"feature_names": "abcdefghijkl"}, "feature_names = "),
    "feature names that are numbers": ({"feature_names": list(range(12))}, "feature_names = "),
    "training that is no object": ({"training": "adagrad"}, "training = "),
    "incomplete training": ({"training": {"solver": "adagrad"}}, "training = "),
    "n_iter": ({"n_iter": -1}, "n_iter = -1"),
    "history that is no list": ({"history": {}}, "history = "),
    "history that is a list of numbers": ({"history": [1.0]}, "history = "),
    "history of objects": ({"history": [{"loss": {}}]}, "history = "),
    "history of strings": ({"history": [{"loss": "0.1"}]}, "history = "),
    "surplus entry": ({"model_": 1}, "unknown entry 'model_'"),
}


@pytest.mark.parametrize(("change", "match"), HEADER_CHANGES.values(), ids=HEADER_CHANGES)
def test_headers_that_lie(tmp_path, change, match):
    _, path = saved(tmp_path, "multi-class")
    with_header(path, lambda header: header.update(change))
    assert_refused(path, match)


@pytest.mark.parametrize("name", ["class", "params", "n_features", "scale", "classes", "training", "history"])
def test_headers_that_miss_an_entry(tmp_path, name):
    _, path = saved(tmp_path, "multi-class")
    with_header(path, lambda header: header.pop(name))
    assert_refused(path, f"{name} = None, where")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("solver", "other"),
        ("solver", ["adagrad"]),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 1.0),
        ("n_epochs", -1),
        ("n_epochs", 10**30),
        ("row_norm", -1.0),
        ("row_norm", 1),
    ],
)
def test_states_of_training_that_lie(tmp_path, name, value):
    _, path = saved(tmp_path)
    with_header(path, lambda header: header["training"].update({name: value}))
    assert_refused(path, "training = .* where null or the state of a known solver belongs")


def test_a_solver_with_another_state(tmp_path):
    """The kernel of a solver writes where its state belongs: the table must have room for it."""
    _, path = saved(tmp_path, solver="sgd")
    with_header(path, lambda header: header["training"].update(solver="adagrad"))
    assert_refused(path, "state.npy is no float32 array of shape")


def test_numbers_that_json_reads_as_infinite(tmp_path):
    _, path = saved(tmp_path)
    members = contents(path)
    text = members["header.npy"][128:]
    offset = json.dumps(header_of(members)["offset"]).encode()
    assert text.count(offset) == 1
    rewrite(path, members | {"header.npy": header_member(text.replace(offset, b"1e999"))})
    assert_refused(path, "offset = inf, where a finite number belongs")


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


def numpy_npy(array, **options) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


class Executed:
    """What a pickle of it would do when it is read."""

    def __reduce__(self):
        return os.abort, ()


MEMBER_CHANGES = {
    "without w": (lambda m: {k: v for k, v in m.items() if k != "w.npy"}, "it has the members"),
    "with one more": (lambda m: m | {"x.npy": m["w.npy"]}, "it has the members .*x.npy"),
    "with a path above": (lambda m: m | {"../w.npy": m["w.npy"]}, "it has the members .*'../w.npy'"),
    "with an absolute path": (lambda m: m | {"/tmp/w.npy": m["w.npy"]}, "it has the members"),
    "in another folder": (lambda m: {k.replace("w", "./w"): v for k, v in m.items()}, "it has the members"),
    "other letters": (lambda m: {k.replace("V", "v"): v for k, v in m.items()}, "it has the members"),
    "NaN in w": (change_array("w", set_item(np.nan)), "NaN or infinite"),
    "infinity in V": (change_array("V", set_item(np.inf)), "NaN or infinite"),
    "NaN in the state": (change_array("state", set_item(np.nan)), "NaN or infinite"),
    "infinity in the bias": (change_array("bias", set_item(-np.inf)), "NaN or infinite"),
    "object array": (
        change_array("w", lambda w: numpy_npy(np.array([[Executed()] * w.size]), allow_pickle=True)),
        "w.npy is no float32 array",
    ),
    "Fortran order": (
        change_array("V", lambda V: numpy_npy(np.asfortranarray(V))),
        "V.npy is no float32 array",
    ),
    "big-endian": (change_array("w", lambda w: numpy_npy(w.astype(">f4"))), "w.npy is no float32 array"),
    "float64": (change_array("w", lambda w: w.astype("f8")), "w.npy is no float32 array"),
    "integers of the same size": (
        change_array("w", lambda w: numpy_npy(w.view("i4"))),
        "w.npy is no float32",
    ),
    "transposed": (change_array("w", lambda w: w.T.copy()), "w.npy is no float32 array"),
    "flat": (change_array("w", lambda w: w.ravel()), "w.npy is no float32 array"),
    "too short": (change_array("w", lambda w: w[:, :-1].copy()), "w.npy is no float32 array"),
    "cut off": (lambda m: m | {"w.npy": m["w.npy"][:-1]}, "w.npy is no float32 array"),
    "longer than its shape": (lambda m: m | {"w.npy": m["w.npy"] + b"\0"}, "w.npy is no float32 array"),
    "newer npy format": (
        lambda m: m | {"w.npy": m["w.npy"].replace(b"\x93NUMPY\x01", b"\x93NUMPY\x03")},
        "w.npy is no float32 array",
    ),
    "shape beyond the file": (
        lambda m: m | {"w.npy": m["w.npy"].replace(b"(1, 12), }        ", b"(99999999, 9999), }")},
        "w.npy is no float32 array",
    ),
    "no array": (lambda m: m | {"w.npy": b"w" * len(m["w.npy"])}, "w.npy is no float32 array"),
    "empty member": (lambda m: m | {"w.npy": b""}, "w.npy is no float32 array"),
    "empty header": (lambda m: m | {"header.npy": b""}, "header.npy is no uint8 array"),
    "header without numbers": (lambda m: m | {"header.npy": m["header.npy"][:100]}, "header.npy is no uint8"),
}


@pytest.mark.parametrize(("change", "match"), MEMBER_CHANGES.values(), ids=MEMBER_CHANGES)
def test_members_that_do_not_belong(tmp_path, change, match):
    _, path = saved(tmp_path)
    members = contents(path)
    changed = change(members)
    assert changed != members
    rewrite(path, changed)
    assert_refused(path, match)


def test_members_of_the_same_name(tmp_path):
    _, path = saved(tmp_path)
    members = contents(path)
    with pytest.warns(UserWarning, match="Duplicate name"):
        rewrite(path, [*members.items(), ("w.npy", members["w.npy"])])
    assert_refused(path, "several members of the same name")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members(tmp_path, method):
    _, path = saved(tmp_path)
    rewrite(path, contents(path), method)
    assert_refused(path, "header.npy' is compressed")


def test_a_zip_bomb_is_not_opened(tmp_path):
    _, path = saved(tmp_path)
    rewrite(path, contents(path) | {"w.npy": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    assert peak_memory(lambda: assert_refused(path, "is compressed")) < 1_000_000


# What the directory of the zip file says of the member w.npy, and what comes of it.
DIRECTORY_LIES = {
    "sizes beyond the file": (
        {"file_size": 2**40, "compress_size": 2**40},
        "members claim .* bytes, but the file",
    ),
    "sizes beyond 63 bits": ({"file_size": 2**64 - 1, "compress_size": 2**64 - 1}, "members claim"),
    "different sizes": ({"file_size": 2**40}, "w.npy' is compressed"),
    "wrong size": ({"file_size": 100, "compress_size": 100}, "w.npy is no float32 array"),
    "place beyond all files": ({"header_offset": 2**62}, "Cannot load"),
    "place beyond 63 bits": ({"header_offset": 2**63 + 5}, "Cannot load"),
    "place beyond the file": ({"header_offset": 2**31}, "Truncated file header"),
    "place of another member": (
        {"header_offset": 0},
        "File name in directory 'w.npy' and header b'header.npy' differ",
    ),
    "wrong checksum": ({"CRC": 1}, "Bad CRC-32 for file 'w.npy'"),
    "unknown method": ({"compress_type": 77}, "w.npy' is compressed"),
    "encryption": ({"flag_bits": 1}, "encrypted"),
    "strong encryption": ({"flag_bits": 0x40}, "strong encryption"),
    "patched data": ({"flag_bits": 0x20}, "compressed patched data"),
    "newer zip": ({"create_version": 99, "extract_version": 99}, "zip file version 9.9"),
    "damaged extra field": ({"extra": b"\x01\x00\xff\xff"}, "Corrupt"),
}


@pytest.mark.parametrize(("lie", "match"), DIRECTORY_LIES.values(), ids=DIRECTORY_LIES)
def test_directories_that_lie(tmp_path, lie, match):
    _, path = saved(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        for name, value in lie.items():
            setattr(archive.getinfo("w.npy"), name, value)
        archive._didModify = True  # so that closing writes the directory anew
    assert peak_memory(lambda: assert_refused(path, match)) < 1_000_000


def test_a_member_that_ends_beyond_the_file(tmp_path):
    path = tmp_path / "model.fm"
    claimed = 3000
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("junk", bytes(claimed))  # so that the file is as large as claimed
        archive.writestr("header.npy", npy_prefix(np.empty(claimed - 128, dtype=np.uint8)))
        for name, size in (("junk", 0), ("header.npy", claimed)):
            archive.getinfo(name).file_size = archive.getinfo(name).compress_size = size
    assert_refused(path, "EOFError")


ABSURD_HEADERS = {
    "features": {"n_features": 2**50},
    "factors": {"n_factors": 65536, "n_features": 2**30},
    "label width": {"classes": {"dtype": "<U99999999", "values": ["a", "b", "c", "d"]}},
    "a long label among many": {
        "classes": {"dtype": "<U900000", "values": ["a" * 900_000, *"bcdefghijklmnopqrstuvw"]}
    },
}


@pytest.mark.parametrize("change", ABSURD_HEADERS.values(), ids=ABSURD_HEADERS)
def test_absurd_claims_cost_no_memory(tmp_path, change):
    _, path = saved(tmp_path, "multi-class")
    with_header(path, lambda header: header.update(change))
    bound = 1_000_000 + 8 * path.stat().st_size
    assert peak_memory(lambda: assert_refused(path, "promises|take more than")) < bound


# -- chance -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small model with labels and history, its path, and the bytes of its file."""
    estimator, path = saved(tmp_path_factory.mktemp("original"), "multi-class", max_iter=1, n_factors=1)
    return estimator, path, path.read_bytes()


def load_if_possible(path):
    """The loaded estimator, or None for a ModelFileError; all else is an error of the test."""
    try:
        return fmfast.load(path)
    except ModelFileError:
        return None


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_random_damage_is_found_or_harmless(original, data):
    estimator, path, content = original
    changed = bytearray(content)
    # No checksum guards the directory of the zip, at the end: half of the damage goes there.
    directory = content.index(b"PK\x01\x02")
    place = st.integers(0, len(content) - 1) | st.integers(directory, len(content) - 1)
    for position, flip in data.draw(st.lists(st.tuples(place, st.integers(1, 255)), max_size=4)):
        changed[position] ^= flip
    start, stop = data.draw(
        st.tuples(st.integers(0, 40), st.integers(0, len(content) // 4)) | st.just((0, 0))
    )
    path.write_bytes(changed[start : len(changed) - stop])
    loaded = load_if_possible(path)
    if loaded is not None:
        assert_same_model(loaded.model_, estimator.model_)
        assert loaded.get_params() == estimator.get_params()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["inf", "float32", "|O", "adagrad", "FMRegressor", 2**63, 10**400, -1, 0, 1.0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_random_headers_are_refused_or_make_a_model(original, data):
    _, path, content = original
    path.write_bytes(content)
    members = contents(path)
    header = header_of(members)
    for _ in range(data.draw(st.integers(1, 2))):
        place = header
        name = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[name], dict) and place[name] and data.draw(st.booleans()):
            place = place[name]
            name = data.draw(st.sampled_from(sorted(place)))
        place[name] = data.draw(json_values)
    rewrite(path, members | {"header.npy": header_member(json.dumps(header).encode())})
    loaded = load_if_possible(path)
    if loaded is not None:
        assert loaded.model_.table.all_finite()
        assert len(loaded.set_params(n_jobs=1).predict(X)) == X.shape[0]
