"""Models on disk: the file appears whole, or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import pytest
from model_files import TARGETS, X, assert_same_model, same_bits, saved
from problems import posix_only

import fmfast
from fmfast import ModelFileError, _archive

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

    monkeypatch.setattr(_archive, "_blocks", interrupted)
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
