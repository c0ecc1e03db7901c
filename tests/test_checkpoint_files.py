"""The files of checkpoints: damaged, missing, of other data, on a disk that is full."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
from interrupted_fits import (
    EARLY,
    X_VALID,
    Y_VALID,
    Killed,
    X,
    Y,
    kill_at,
    names_in,
    outcome,
    params_and_killed,
)
from problems import posix_only
from refusal import assert_one_sentence, state_of
from sklearn.base import clone

import fmfast
from fmfast import (
    Checkpoint,
    DivergenceError,
    FMClassifier,
    FMRegressor,
    ModelFileError,
    _archive,
    checkpoint,
    modelfile,
)
from fmfast._files import npy_prefix


def test_a_checkpoint_is_a_model_file(tmp_path):
    params = params_and_killed(tmp_path, epoch=6)
    assert names_in(tmp_path) == ["checkpoint-00000004.fm", "checkpoint-00000005.fm"]
    loaded = fmfast.load(tmp_path / "checkpoint-00000005.fm")
    assert outcome(loaded) == outcome(FMRegressor(**params | {"max_iter": 5}).fit(X, Y))
    # As a plain model file it is no checkpoint.
    loaded.save(tmp_path / "checkpoint-00000005.fm")
    (tmp_path / "checkpoint-00000004.fm").unlink()
    with pytest.raises(ModelFileError, match="a model, but no checkpoint"):
        FMRegressor(**params).fit(X, Y, resume_from=tmp_path)


@pytest.mark.parametrize("make", [False, True], ids=["missing", "empty"])
def test_nothing_to_resume_from_is_a_new_start(tmp_path, make):
    directory = tmp_path / "runs" / "first"
    if make:
        directory.mkdir(parents=True)
        (directory / "checkpoint.txt").write_text("a file of someone else")
    fresh = FMRegressor(random_state=0).fit(X, Y)
    fm = FMRegressor(random_state=0, callbacks=[Checkpoint(directory, every=4)])
    assert outcome(fm.fit(X, Y, resume_from=directory)) == outcome(fresh)
    others = ["checkpoint.txt"] if make else []
    assert names_in(directory) == ["checkpoint-00000002.fm", "checkpoint-00000003-final.fm", *others]


def test_a_new_fit_replaces_checkpoints_only_of_a_finished_one(tmp_path):
    params = params_and_killed(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    fm = FMRegressor(callbacks=[Checkpoint(tmp_path)], **params)
    with pytest.raises(ValueError, match="has not come to its end; go on with resume_from=") as error:
        fm.fit(X, Y)
    assert_one_sentence(str(error.value))
    with pytest.raises(ValueError, match="has not come to its end"):
        fm.fit(X, Y, resume_from=tmp_path / "elsewhere")
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before
    fm.fit(X, Y, resume_from=tmp_path)
    fm.set_params(max_iter=1).fit(X, Y)
    assert names_in(tmp_path) == ["checkpoint-00000009-final.fm", "checkpoint-00000010-final.fm"]
    newest = fmfast.load(tmp_path / "checkpoint-00000010-final.fm")
    assert outcome(newest) == outcome(fm)


def damage(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"V.npy") + 300] ^= 0x55
    path.write_bytes(content)


def test_of_a_damaged_checkpoint_the_one_before_is_taken(tmp_path):
    params = params_and_killed(tmp_path)
    undisturbed = FMRegressor(**params).fit(X, Y)
    last = tmp_path / names_in(tmp_path)[-1]
    damage(last)
    with pytest.warns(UserWarning, match="Bad CRC-32.*Going on from .*checkpoint-00000004.fm"):
        fm = FMRegressor(**params).fit(X, Y, resume_from=tmp_path)
    assert outcome(fm) == outcome(undisturbed)
    damage(tmp_path / "checkpoint-00000004.fm")
    with pytest.raises(ModelFileError, match=r"checkpoint-00000005\.fm.*Bad CRC-32"):
        FMRegressor(**params).fit(X, Y, resume_from=tmp_path)
    last.write_bytes(b"")
    with pytest.raises(ModelFileError, match="not a zip file"):
        FMRegressor(**params).fit(X, Y, resume_from=tmp_path)


def test_arrays_that_do_not_fit_never_reach_a_solver(tmp_path, monkeypatch):
    """Identity and checksums right, but residuals too short: a kernel would read beyond them."""
    remembered = fmfast.solvers.als.AlsRun.remembered
    monkeypatch.setattr(
        fmfast.solvers.als.AlsRun,
        "remembered",
        lambda run: {name: array[:1] for name, array in remembered(run).items()},
    )
    params = params_and_killed(tmp_path, solver="als")
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="in shapes that do not fit"):
        FMRegressor(**params).fit(X, Y, resume_from=tmp_path)


@pytest.mark.parametrize("change", ["columns", "solver"])
def test_a_model_that_does_not_fit_never_reaches_a_solver(tmp_path, change):
    params = params_and_killed(tmp_path)
    path = os.path.join(tmp_path, names_in(tmp_path)[-1])
    estimator, loop = modelfile.load_with_loop(path)
    if change == "columns":
        estimator.grow(25)
    else:
        estimator = FMRegressor(**params, solver="sgd").fit(X, Y)
    modelfile.save_model(path, estimator, loop)
    with pytest.raises(ModelFileError, match="a model of other sizes or another solver than it says"):
        FMRegressor(**params).fit(X, Y, resume_from=tmp_path)


def test_a_loop_that_promises_more_than_the_file_has(tmp_path, monkeypatch):
    params = params_and_killed(tmp_path, solver="als")
    path = os.path.join(tmp_path, names_in(tmp_path)[-1])
    estimator, loop = modelfile.load_with_loop(path)
    loop.arrays["residuals0"] = np.broadcast_to(np.float32(0), 2**40)
    write = _archive.write_array
    monkeypatch.setattr(
        modelfile, "write_array", lambda archive, name, array: write(archive, name, array[: 2**20])
    )
    modelfile.save_model(path, estimator, loop)
    os.unlink(os.path.join(tmp_path, names_in(tmp_path)[0]))
    with pytest.raises(ModelFileError, match="promises an array of shape"):
        FMRegressor(**params).fit(X, Y, resume_from=tmp_path)


@posix_only
def test_a_full_disk_costs_checkpoints_but_not_the_fit(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    params = {"random_state": 0, "max_iter": 9}
    undisturbed = FMRegressor(**params).fit(X, Y)

    def fill(record):
        # A limit on the size of files stops a write in its middle, as a full disk does.
        if record["epoch"] == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))

    try:
        with pytest.warns(UserWarning, match="could not be written.*training goes on") as caught:
            fm = FMRegressor(callbacks=[Checkpoint(tmp_path), fill], **params).fit(X, Y)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(caught) == 6
    assert outcome(fm) == outcome(undisturbed)
    assert names_in(tmp_path) == ["checkpoint-00000002.fm", "checkpoint-00000003.fm"]
    assert outcome(FMRegressor(**params).fit(X, Y, resume_from=tmp_path)) == outcome(undisturbed)


def test_a_directory_that_goes_away_costs_no_fit(tmp_path):
    directory = tmp_path / "gone"
    callbacks = [Checkpoint(directory), lambda record: shutil.rmtree(directory, ignore_errors=True)]
    with pytest.warns(UserWarning, match=r"could not be written .*No such file"):
        fm = FMRegressor(random_state=0, callbacks=callbacks).fit(X, Y)
    assert outcome(fm) == outcome(FMRegressor(random_state=0).fit(X, Y))


def test_a_directory_that_cannot_be_written_is_found_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    called = []
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        fm = FMRegressor(callbacks=[Checkpoint(directory), called.append], random_state=0)
        with pytest.raises(OSError, match="file"):
            fm.fit(X, Y)

    def refuse(**where):
        raise PermissionError(13, "Permission denied", where["dir"])

    # As a directory without the right to write: root would have it all the same.
    monkeypatch.setattr(checkpoint.tempfile, "TemporaryFile", refuse)
    with pytest.raises(PermissionError):
        FMRegressor(callbacks=[Checkpoint(tmp_path), called.append]).fit(X, Y)
    assert called == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may do everything")
def test_a_directory_that_is_read_only(tmp_path):
    params = params_and_killed(tmp_path)
    before = names_in(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            FMRegressor(callbacks=[Checkpoint(tmp_path)], **params).fit(X, Y, resume_from=tmp_path)
        assert FMRegressor(**params).fit(X, Y, resume_from=tmp_path).n_iter_ == 9
    finally:
        tmp_path.chmod(0o700)
    assert names_in(tmp_path) == before


def test_left_overs_of_killed_writes_are_removed(tmp_path):
    (tmp_path / ".fmfast-0123456789abcdef.tmp").write_bytes(b"half a file")
    (tmp_path / ".fmfast-other").write_bytes(b"of someone else")
    FMRegressor(random_state=0, max_iter=1, callbacks=[Checkpoint(tmp_path)]).fit(X, Y)
    assert names_in(tmp_path) == [".fmfast-other", "checkpoint-00000001-final.fm"]


# -- other data, other settings ------------------------------------------------------------------

SETTINGS = {
    "learning_rate": (0.3, "learning_rate=None, but learning_rate is now 0.3"),
    "max_iter": (10, "max_iter=9, but max_iter is now 10"),
    "n_factors": (3, "n_factors=16, but n_factors is now 3"),
    "solver": ("sgd", "solver='adagrad', but solver is now 'sgd'"),
    "random_state": (1, "random_state=0, but random_state is now 1"),
    "dtype": ("float64", "dtype='float32', but dtype is now 'float64'"),
    "scoring": (lambda y_true, prediction: 0.0, "scoring='loss', but scoring is now an object"),
    "early_stopping": (True, "early_stopping=False, but early_stopping is now True"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_other_settings_are_refused(tmp_path, name):
    params = params_and_killed(tmp_path)
    value, match = SETTINGS[name]
    fm = FMRegressor(**params | {name: value})
    with pytest.raises(ValueError, match=match) as error:
        fm.fit(X, Y, resume_from=tmp_path)
    assert_one_sentence(str(error.value).replace(str(tmp_path), "x"), "set it back")
    assert not hasattr(fm, "model_")


def one_changed(array):
    changed = array.copy()
    changed[len(changed) // 2] += 1
    return changed


OTHER_DATA = {
    "X": {"X": sp.csr_array((one_changed(X.data), X.indices, X.indptr), X.shape)},
    "columns": {"X": X[:, ::-1]},
    "more columns": {"X": sp.csr_array(sp.hstack([X, X[:, :1]]))},
    "fewer rows": {"X": X[:299], "y": Y[:299]},
    "y": {"y": one_changed(Y)},
    "sample_weight": {"sample_weight": one_changed(np.ones(300))},
    "eval_set": {"eval_set": (X_VALID, Y_VALID)},
}


@pytest.mark.parametrize("name", OTHER_DATA)
def test_other_data_is_refused(tmp_path, name):
    params = params_and_killed(tmp_path)
    with pytest.raises(ValueError, match=r"of a fit on other data: .* differs; give the same data") as error:
        FMRegressor(**params).fit(**{"X": X, "y": Y, **OTHER_DATA[name]}, resume_from=tmp_path)
    assert_one_sentence(str(error.value).replace(str(tmp_path), "x"), "to start anew")


def test_other_labels_are_refused(tmp_path):
    fm = FMClassifier(random_state=0, callbacks=[Checkpoint(tmp_path), kill_at(3)])
    with pytest.raises(Killed):
        fm.fit(X, np.where(Y > 0, "b", "a"))
    fm.set_params(callbacks=None)
    with pytest.raises(ValueError, match="other data: the names of classes or columns differs"):
        fm.fit(X, np.where(Y > 0, "c", "a"), resume_from=tmp_path)
    fm.fit(X, np.where(Y > 0, "b", "a"), resume_from=tmp_path)


def test_the_same_data_in_another_form_is_the_same(tmp_path):
    params = params_and_killed(tmp_path)
    wide = sp.csr_array((X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64)), X.shape)
    undisturbed = FMRegressor(**params).fit(X, Y)
    for rows in (wide, X.tocsc(), X.toarray()):
        assert outcome(FMRegressor(**params).fit(rows, Y.tolist(), resume_from=tmp_path)) == outcome(
            undisturbed
        )


def test_a_change_in_long_data_is_seen(monkeypatch):
    monkeypatch.setattr(checkpoint, "_STRETCH", 100)
    values = np.arange(100_000)
    whole = checkpoint._checksum(values)
    assert checkpoint._checksum(values.astype(np.int32)) == whole
    assert checkpoint._checksum(values[:-1]) != whole
    assert checkpoint._checksum(np.roll(values, 1)) != whole
    for place in (0, 50, 99_999):
        assert checkpoint._checksum(np.where(np.arange(100_000) == place, -1, values)) != whole


# -- the callback --------------------------------------------------------------------------------


def test_it_is_an_ordinary_constructor_argument(tmp_path):
    fm = FMRegressor(max_iter=2, random_state=0, callbacks=[Checkpoint(tmp_path, every=5)])
    for twin in (clone(fm), copy.deepcopy(fm)):
        (callback,) = twin.get_params()["callbacks"]
        assert (callback.directory, callback.every) == (str(tmp_path), 5)
    assert repr(Checkpoint("runs", every=5)) == "Checkpoint('runs', every=5)"
    fm.fit(X, Y).save(tmp_path / "model.fm")
    assert fmfast.load(tmp_path / "model.fm").callbacks is None
    fm.partial_fit(X, Y)
    assert names_in(tmp_path) == ["checkpoint-00000001-final.fm", "model.fm"]


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_every_is_a_count(every):
    with pytest.raises(ValueError, match=r"every is .*, expected an integer >= 1"):
        Checkpoint("runs", every=every)


def test_what_cannot_be_saved_is_refused_before_training(tmp_path):
    called = []
    callbacks = [Checkpoint(tmp_path / "runs"), called.append]
    derived = type("Mine", (FMRegressor,), {})(callbacks=callbacks)
    with pytest.raises(TypeError, match="Mine cannot be saved"):
        derived.fit(X, Y)
    with pytest.raises(TypeError, match="class labels cannot be saved"):
        FMClassifier(callbacks=callbacks).fit(X, np.where(Y > 0, b"b", b"a"))
    assert called == []
    assert not (tmp_path / "runs").exists()


def test_a_fit_that_diverges_leaves_no_checkpoint_that_is_not_finite(tmp_path):
    fm = FMRegressor(solver="sgd", learning_rate=3.0, max_iter=200, callbacks=[Checkpoint(tmp_path)])
    with pytest.raises(DivergenceError), np.errstate(all="ignore"):
        fm.fit(X, Y)
    for name in names_in(tmp_path):
        assert fmfast.load(tmp_path / name).model_.table.all_finite()


def test_ctrl_c_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    params = {"random_state": 0, "max_iter": 9}
    fsync, calls = os.fsync, []

    def interrupted(descriptor):
        calls.append(descriptor)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        FMRegressor(callbacks=[Checkpoint(tmp_path)], **params).fit(X, Y)
    monkeypatch.undo()
    assert all(name.endswith(".fm") for name in names_in(tmp_path))
    resumed = FMRegressor(**params).fit(X, Y, resume_from=tmp_path)
    assert outcome(resumed) == outcome(FMRegressor(**params).fit(X, Y))


# -- from anywhere ---------------------------------------------------------------------------------


def changed_header(path, change):
    """The same checkpoint with another header."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(members["header.npy"][128:])
    change(header)
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    members["header.npy"] = npy_prefix(text) + text.tobytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda h: h["loop"]["identity"].__setitem__("settings", None), "of a fit with"),
        (lambda h: h["loop"]["identity"]["settings"].__setitem__("tol", "x" * 10**6), "tol='xxx"),
        (lambda h: h["loop"]["identity"].clear(), "of a fit with"),
        (lambda h: h["history"][0].pop("validation_score"), "without a validation score"),
        (lambda h: h["history"][1].__setitem__("validation_score", None), "without a validation score"),
    ],
)
def test_checkpoints_that_no_fit_has_written(tmp_path, change, word):
    callbacks = [Checkpoint(tmp_path), kill_at(5)]
    fm = FMRegressor(n_factors=2, max_iter=9, random_state=0, callbacks=callbacks, **EARLY)
    with pytest.raises(Killed):
        fm.fit(X, Y)
    path = sorted(tmp_path.iterdir())[-1]
    for other in sorted(tmp_path.iterdir())[:-1]:
        other.unlink()
    changed_header(path, change)
    fm.set_params(callbacks=None)
    before = state_of(fm)
    with pytest.raises(ValueError, match=word) as caught:
        fm.fit(X, Y, resume_from=tmp_path)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
    assert state_of(fm) == before
