"""Models on disk: what is saved comes back to the bit."""

from __future__ import annotations

import enum
import json
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
from model_files import (
    MEMBERS,
    SCORE,
    TARGETS,
    X,
    assert_same_model,
    contents,
    estimator_of,
    header_of,
    peak_memory,
    same_bits,
    saved,
)
from problems import train_on

import fmfast
from fmfast import FMRegressor, ModelFileError, _archive, _classes
from fmfast.solvers import SOLVERS

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
    monkeypatch.setattr(_archive, "_BLOCK_SIZE", 1 << 18)
    estimator = FMRegressor(n_factors=16, max_iter=1).fit(sp.eye_array(100_000, format="csr"), np.arange(1e5))
    size = estimator.model_.table.rows.nbytes
    few_blocks = 8 << 18
    assert size > 3 * few_blocks
    assert peak_memory(lambda: estimator.save(tmp_path / "model.fm")) < few_blocks
    assert size <= peak_memory(lambda: fmfast.load(tmp_path / "model.fm")) < size + few_blocks
    assert_same_model(fmfast.load(tmp_path / "model.fm").model_, estimator.model_)


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
