"""Models on disk: what is not a model is refused, with a reason, and costs no memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import (
    TARGETS,
    X,
    assert_refused,
    assert_same_model,
    change_array,
    change_members,
    contents,
    header_member,
    header_of,
    npy,
    peak_memory,
    rewrite,
    saved,
    set_item,
    with_header,
)

import fmfast
from fmfast import ModelFileError
from fmfast._files import npy_prefix


def test_the_tools_of_these_tests_leave_a_good_file_good(tmp_path):
    """So the refusals below are due to what each test changes."""
    for kind in TARGETS:
        estimator, path = saved(tmp_path, kind)
        with_header(path, lambda header: None)
        assert_same_model(fmfast.load(path).model_, estimator.model_)
        members = contents(path)
        rewrite(path, members | {"w.npy": npy(np.ascontiguousarray(estimator.model_.table.w))})
        assert_same_model(fmfast.load(path).model_, estimator.model_)


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
    change_members(path, change)
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
