"""Files from anywhere: nothing in them is executed, and nothing outside them is opened or written."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import fmfast
from fmfast import Checkpoint, DatasetError, FMClassifier, FMRegressor, ModelFileError, libfm, store, text
from fmfast._files import npy_prefix

PACKAGE = Path(fmfast.__file__).parent
posix_only = pytest.mark.skipif(os.name != "posix", reason="links of POSIX")

rng = np.random.default_rng(0)
X = sp.random_array((30, 6), density=0.5, format="csr", rng=rng, dtype=np.float32)
Y = X @ rng.normal(size=6)


class Executed:
    """Leaves a mark if its pickle is read."""

    def __init__(self, mark):
        self._mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self._mark,)


def object_array(mark):
    file = io.BytesIO()
    np.save(file, np.array([Executed(mark)], dtype=object), allow_pickle=True)
    return file.getvalue()


def test_the_pickle_of_these_tests_would_leave_its_mark(tmp_path):
    np.load(io.BytesIO(object_array(tmp_path / "mark")), allow_pickle=True)
    assert (tmp_path / "mark").is_dir()


# -- nothing is executed ----------------------------------------------------------------------------

# What Python reports of itself while a file is read: see "Audit events table" of its documentation.
WATCHED = """if True:
    import os, sys, warnings
    import numpy as np
    import scipy.sparse as sp
    import fmfast
    from fmfast import FMRegressor, libfm, text
    import encodings.idna, encodings.ascii, gzip, json, zipfile  # whatever is imported late
    directory = sys.argv[1]
    X = sp.csr_array(np.eye(6, dtype=np.float32))
    fm = FMRegressor(n_factors=2, max_iter=4, random_state=0)

    def readers():
        fmfast.load(f"{directory}/model").predict(X)
        fmfast.load(f"{directory}/classifier").predict(X)
        fmfast.load(f"{directory}/encoder")
        fmfast.open_dataset(f"{directory}/set.fmd").X.sum()
        text.load(f"{directory}/rows.txt.gz")
        libfm.load(f"{directory}/libfm.txt")
        fm.fit(X, np.arange(6.0), resume_from=f"{directory}/checkpoints")

    readers()  # once before: modules are imported where they are used
    opened, wrong = [], []
    FORBIDDEN = (
        "pickle.", "marshal.", "exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn",
        "os.fork", "subprocess.", "socket.", "ctypes.dlopen", "shutil.", "os.remove", "os.rename",
        "os.mkdir", "os.symlink", "os.link", "os.chmod", "os.truncate", "tempfile.",
    )

    def watch(event, arguments):
        if event == "open":
            opened.append((os.fsdecode(arguments[0]), arguments[2]))
        elif event.startswith(FORBIDDEN):
            wrong.append((event, repr(arguments)[:200]))

    sys.addaudithook(watch)
    readers()
    for event in wrong:
        print("wrong:", *event)
    for path, flags in opened:
        inside = os.path.realpath(path).startswith(os.path.realpath(directory) + os.sep)
        if not inside or flags & (os.O_WRONLY | os.O_RDWR):
            print("opened:", path, flags)
    print(len(opened), "files were opened")
    # The watch is not asleep.
    import pickle
    wrong.clear()
    pickle.loads(pickle.dumps(os.path.join))
    assert any(event == "pickle.find_class" for event, _ in wrong), wrong
"""


def test_reading_executes_nothing_and_opens_nothing_else(tmp_path):
    pd = pytest.importorskip("pandas")
    FMRegressor(n_factors=2, max_iter=2, random_state=0).fit(X, Y).save(tmp_path / "model")
    FMClassifier(n_factors=2, max_iter=2, random_state=0).fit(X, np.where(Y > 0, "a", "b")).save(
        tmp_path / "classifier"
    )
    table = pd.DataFrame({"user": ["a", "../../b", "/etc/passwd"], "age": [1.0, 2.0, 3.0]})
    encoder = fmfast.FeatureEncoder()
    FMRegressor(max_iter=1, encoder=encoder, random_state=0).fit(table, [1, 2, 3]).save(tmp_path / "encoder")
    fmfast.convert(X, tmp_path / "set.fmd", y=Y)
    text.dump(tmp_path / "rows.txt.gz", X, Y)
    libfm.dump(FMRegressor(max_iter=1, random_state=0).fit(X, Y), tmp_path / "libfm.txt")
    callbacks = [Checkpoint(tmp_path / "checkpoints")]
    FMRegressor(n_factors=2, max_iter=4, random_state=0, callbacks=callbacks).fit(np.eye(6), np.arange(6.0))
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "wrong" not in run.stdout, run.stdout
    lines = run.stdout.splitlines()
    assert len(lines) == 1, run.stdout
    assert int(lines[0].split()[0]) >= 10


def test_no_module_can_unpickle_or_evaluate():
    """Not even by mistake: the means for it are not imported anywhere."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                names = {called} & {
                    "eval",
                    "exec",
                    "compile",
                    "__import__",
                    "np.load",
                    "numpy.load",
                    "np.fromfile",
                }
                names |= {keyword.arg for keyword in node.keywords if keyword.arg == "allow_pickle"}
            else:
                continue
            wrong = names & {
                "pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy",
                "code", "eval", "exec", "compile", "__import__", "np.load", "numpy.load", "np.fromfile",
                "allow_pickle",
            }  # fmt: skip
            assert not wrong, f"{path.name}, line {node.lineno}: {wrong}"


@pytest.mark.parametrize("member", ["header", "bias", "w", "V", "state"])
def test_pickles_in_model_files_are_not_read(tmp_path, member):
    path, mark = tmp_path / "model", tmp_path / "mark"
    FMRegressor(n_factors=2, max_iter=1, random_state=0).fit(X, Y).save(path)
    members = members_of(path)
    for content in (object_array(mark), pickle.dumps(Executed(mark))):
        write_members(path, {**members, f"{member}.npy": content})
        with pytest.raises(ModelFileError):
            fmfast.load(path)
    path.write_bytes(pickle.dumps(Executed(mark)))
    with pytest.raises(ModelFileError):
        fmfast.load(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["indptr.npy", "indices.npy", "data.npy", "y.npy", "meta.json"])
def test_pickles_in_data_sets_are_not_read(tmp_path, name):
    path, mark = tmp_path / "set.fmd", tmp_path / "mark"
    fmfast.convert(X, path, y=Y)
    for content in (object_array(mark), pickle.dumps(Executed(mark))):
        (path / name).write_bytes(content)
        with pytest.raises(DatasetError):
            fmfast.open_dataset(path)
    assert not mark.exists()


# -- nothing outside is opened or written -----------------------------------------------------------

OUTSIDE = [
    "../w.npy",
    "../../w.npy",
    "/tmp/w.npy",
    "a/../../w.npy",
    "..\\w.npy",
    "C:\\w.npy",
    "./w.npy",
    "w.npy/",
    "",
]


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path, members, attributes=0):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.filename = name
            info.external_attr = attributes
            archive.writestr(info, content)


def tree(path):
    return {str(p): p.read_bytes() if p.is_file() and not p.is_symlink() else None for p in path.rglob("*")}


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_in_model_files_lead_nowhere(tmp_path, name):
    path = tmp_path / "in" / "side" / "model"
    path.parent.mkdir(parents=True)
    FMRegressor(n_factors=2, max_iter=1, random_state=0).fit(X, Y).save(path)
    members = members_of(path)
    renamed = {(name if key == "w.npy" else key): content for key, content in members.items()}
    for changed in (renamed, {**members, name: members["w.npy"]}):
        write_members(path, changed)
        before = tree(tmp_path)
        with pytest.raises(ModelFileError):
            fmfast.load(path)
        assert tree(tmp_path) == before


@posix_only
def test_links_in_model_files_are_numbers_like_all_others(tmp_path):
    """A member that says it is a link is no link, since nothing is ever extracted."""
    path = tmp_path / "model"
    fm = FMRegressor(n_factors=2, max_iter=1, random_state=0).fit(X, Y)
    fm.save(path)
    members = members_of(path)
    write_members(path, members, attributes=0o120777 << 16)
    before = tree(tmp_path)
    assert fmfast.load(path).predict(X).tobytes() == fm.predict(X).tobytes()
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["../y", "/etc/passwd", "y/../../y", "..\\y", "meta.json", ".", "", "y\x00", "Y"]
)
def test_names_in_data_sets_lead_nowhere(tmp_path, name):
    path = tmp_path / "set.fmd"
    fmfast.convert(X, path, y=Y)
    (tmp_path / "y.npy").write_bytes((path / "y.npy").read_bytes())
    meta = json.loads((path / "meta.json").read_text())
    meta["arrays"][name] = meta["arrays"].pop("y")
    (path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DatasetError, match="arrays"):
        fmfast.open_dataset(path)


@posix_only
@pytest.mark.parametrize("name", ["meta.json", "indptr.npy", "indices.npy", "data.npy", "y.npy"])
def test_links_in_data_sets_are_not_followed(tmp_path, name):
    path = tmp_path / "set.fmd"
    fmfast.convert(X, path, y=Y)
    outside = tmp_path / "outside"
    (path / name).rename(outside)
    for target in (outside, Path("..") / "outside", Path("/dev/zero"), Path(".")):
        (path / name).symlink_to(target)
        with pytest.raises(DatasetError, match="not an ordinary file"):
            fmfast.open_dataset(path)
        (path / name).unlink()
    outside.rename(path / name)
    fmfast.open_dataset(path)


@posix_only
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_files_that_are_exchanged_just_before_they_are_opened(tmp_path, monkeypatch, kind):
    path, outside = tmp_path / "set.fmd", tmp_path / "outside"
    fmfast.convert(X, path, y=Y)
    sound = os.lstat(path / "y.npy")
    (path / "y.npy").rename(outside)
    if kind == "link":
        (path / "y.npy").symlink_to(outside)
    else:
        os.mkfifo(path / "y.npy")
    lstat = os.lstat
    monkeypatch.setattr(store.os, "lstat", lambda p: sound if str(p).endswith("y.npy") else lstat(p))
    with pytest.raises((DatasetError, OSError), match=r"not an ordinary file|symbolic link"):
        fmfast.open_dataset(path)


@posix_only
def test_overwriting_a_data_set_does_not_follow_links_in_it(tmp_path):
    """What a link in an old data set points to is not touched when that is replaced."""
    path, precious = tmp_path / "set.fmd", tmp_path / "precious"
    fmfast.convert(X, path, y=Y)
    precious.write_text("x")
    (path / "y.npy").unlink()
    (path / "y.npy").symlink_to(precious)
    fmfast.convert(X, path, y=Y, overwrite=True)
    assert precious.read_text() == "x"
    assert not (path / "y.npy").is_symlink()
    assert fmfast.open_dataset(path).y.tolist() == Y.tolist()


def test_lengths_that_are_promised_are_not_allocated(tmp_path):
    """A small file that claims to be a large one."""
    path = tmp_path / "model"
    FMRegressor(n_factors=2, max_iter=1, random_state=0).fit(X, Y).save(path)
    members = members_of(path)
    header = json.loads(members["header.npy"][128:])
    header["n_features"] = 2**40
    content = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    write_members(path, {**members, "header.npy": npy_prefix(content) + content.tobytes()})
    with pytest.raises(ModelFileError, match="promises"):
        fmfast.load(path)
