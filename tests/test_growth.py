"""More columns for a trained model; parameters as arrays, out of a model and into one."""

from __future__ import annotations

import json
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from problems import CASES, IDS, quantile_classes
from refusal import assert_refused

import fmfast
from fmfast import BayesianFMRegressor, FeatureEncoder, FMClassifier, FMRegressor, ModelFileError

rng = np.random.default_rng(0)
N_SMALL, N_WIDE = 20, 33
SMALL, WIDE = (sp.random_array((300, n), density=0.3, format="csr", rng=rng) for n in (N_SMALL, N_WIDE))
# The small rows with columns behind them that hold nothing.
PADDED = sp.csr_array((SMALL.data, SMALL.indices, SMALL.indptr), shape=(300, N_WIDE))
Y = SMALL @ rng.normal(size=N_SMALL) + rng.normal(size=300)
Y_WIDE = WIDE @ rng.normal(size=N_WIDE) + rng.normal(size=300)
SOLVERS = ["adagrad", "sgd", "ftrl", "als"]


def assert_same_table(a, b):
    for name in ("rows", "bias"):
        x, y = getattr(a.model_.table, name), getattr(b.model_.table, name)
        assert x.tobytes() == y.tobytes()
        assert (x.shape, x.dtype) == (y.shape, y.dtype)


# -- growth ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("from_file", [False, True], ids=["", "from a file"])
def test_a_grown_model_is_one_that_was_wide_from_the_start(
    tmp_path, cls, n_classes, solver, dtype, from_file
):
    y, y_wide = (quantile_classes(target, n_classes, of=Y) for target in (Y, Y_WIDE))
    params = {"solver": solver, "dtype": dtype, "random_state": 1, "max_iter": 3, "init_std": 0.1}
    grown = cls(**params).fit(SMALL, y)
    wide = cls(**params).fit(PADDED, y)
    prediction, history = grown.predict(SMALL), list(grown.history_)
    if from_file:
        grown.save(tmp_path / "model.fm")
        grown = fmfast.load(tmp_path / "model.fm")
    assert grown.grow(N_WIDE) is grown
    assert_same_table(grown, wide)
    assert grown.n_features_in_ == N_WIDE
    assert_array_equal(grown.predict(PADDED), prediction)
    assert (grown.n_iter_, repr(grown.history_)) == (3, repr(history))
    for fm in (grown, wide):
        if solver == "als":
            fm.set_params(warm_start=True).fit(WIDE, y_wide)
        else:
            fm.partial_fit(WIDE, y_wide).partial_fit(PADDED, y)
    assert_same_table(grown, wide)
    assert_array_equal(grown.predict(WIDE), wide.predict(WIDE))
    assert (grown.w_[..., N_SMALL:] != 0).any()


def test_als_in_two_fits_is_one_fit_to_rounding():
    """The second fit begins in an epoch in which the first would not have computed its residuals anew."""
    fm = FMRegressor(solver="als", random_state=0, max_iter=5, warm_start=True).fit(SMALL, Y)
    fm.grow(N_WIDE).fit(PADDED, Y)
    once = FMRegressor(solver="als", random_state=0, max_iter=10).fit(SMALL, Y)
    losses, expected = ([record["loss"] for record in each.history_] for each in (fm, once))
    assert losses == pytest.approx(expected, rel=1e-4)


def test_growing_in_steps_is_growing_at_once():
    steps, once = (FMClassifier(n_factors=5, random_state=2).fit(SMALL, Y > 0) for _ in range(2))
    steps.grow(21).grow(21).grow(40)
    assert_same_table(steps, once.grow(40))


def test_new_columns_start_with_the_spread_of_the_first_ones():
    """Also when the setting was changed, or never given, as it is of the model and not of the estimator."""
    for init_std, expected in ((None, 0.02), (0.5, 0.5)):
        fm = FMClassifier(random_state=0, max_iter=1, init_std=init_std).fit(SMALL, Y > 0)
        fm.set_params(init_std=0.001, solver="sgd", random_state=7).grow(2000)
        new = fm.V_[N_SMALL:]
        assert np.std(new) == pytest.approx(expected, rel=0.05)
        assert not fm.w_[N_SMALL:].any()
        assert len(np.unique(new)) > 0.8 * new.size


def test_the_model_of_before_is_left_alone():
    fm = FMRegressor(random_state=0).fit(SMALL, Y)
    before, frozen = fm.model_, pickle.dumps(fm.model_)
    fm.grow(N_WIDE).partial_fit(WIDE, Y_WIDE)
    assert pickle.dumps(before) == frozen


def test_memory_is_that_of_the_new_table():
    eye = sp.eye_array(60_000, format="csr")
    fm = FMRegressor(n_factors=16, max_iter=1, random_state=0).fit(eye, np.arange(6e4))
    tracemalloc.start()
    fm.grow(90_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    new = fm.model_.table.rows.nbytes
    assert new <= peak < 1.1 * new


def test_feature_names():
    pandas = pytest.importorskip("pandas")
    names = [f"c{i}" for i in range(N_WIDE)]
    fm = FMRegressor(random_state=0).fit(pandas.DataFrame(SMALL.toarray(), columns=names[:N_SMALL]), Y)
    with pytest.raises(ValueError, match="fitted with names; pass the names of all 33 columns"):
        fm.grow(N_WIDE)
    with pytest.raises(ValueError, match="The first 20 of feature_names are not those of the model"):
        fm.grow(N_WIDE, names[::-1])
    for wrong in (names[:-1], [*names[:-1], "c0"], [*names[:-1], 5]):
        with pytest.raises(ValueError, match="expected 33 distinct strings"):
            fm.grow(N_WIDE, wrong)
    fm.grow(N_WIDE, feature_names=names)
    assert fm.feature_names_in_.tolist() == names
    frame = pandas.DataFrame(WIDE.toarray(), columns=names)
    fm.partial_fit(frame, Y_WIDE)
    with pytest.raises(ValueError, match="feature names should match"):
        fm.predict(frame[names[::-1]])
    unnamed = FMRegressor(random_state=0).fit(SMALL, Y)
    with pytest.raises(ValueError, match="fitted without names; leave it out"):
        unnamed.grow(N_WIDE, names)


def test_what_cannot_grow(tmp_path):
    assert_refused(lambda: FMRegressor().grow(9), [], "not fitted yet", "grow")
    fm = FMRegressor(random_state=0).fit(SMALL, Y)
    for wrong in (19, 0, -1, 33.0, "33", True, None):
        words = (f"n_features is {wrong!r}", "expected an integer >= 20", "cannot be taken away")
        assert_refused(lambda wrong=wrong: fm.grow(wrong), [fm], *words)
    made = FMRegressor.from_arrays(**fm.to_dict())
    assert_refused(lambda: made.grow(N_WIDE), [made], "made from arrays", "cannot grow")
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"user": list("abcabc")})
    encoded = FMRegressor(encoder=FeatureEncoder(), random_state=0).fit(frame, np.arange(6.0))
    assert_refused(lambda: encoded.grow(N_WIDE), [encoded], "encoder", "cannot grow")
    assert not hasattr(BayesianFMRegressor(), "grow")


@pytest.mark.parametrize("value", [-1.0, "0.02", None, 1])
def test_a_file_that_lies_about_the_start(tmp_path, value):
    path = tmp_path / "model.fm"
    FMRegressor(random_state=0).fit(SMALL, Y).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    text = members["header.npy"]
    header = json.loads(text[128:])
    assert header["training"]["init_std"] == 0.02
    header["training"]["init_std"] = value
    changed = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, npy(changed) if name == "header.npy" else content)
    with pytest.raises(ModelFileError, match=r"has training = .* where null or the state of a known solver"):
        fmfast.load(path)


def npy(array) -> bytes:
    return fmfast._files.npy_prefix(array) + array.tobytes()


# -- arrays ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_factors", [0, 5])
def test_arrays_out_and_in(tmp_path, cls, n_classes, dtype, n_factors):
    y = quantile_classes(1000.0 + 30.0 * Y, n_classes)
    fm = cls(n_factors=n_factors, dtype=dtype, random_state=0, max_iter=5).fit(SMALL, y)
    arrays = fm.to_dict()
    made = cls.from_arrays(**arrays)
    assert (made.dtype, made.n_factors, made.n_iter_, made.history_) == (dtype, n_factors, 0, [])
    for key, values in made.to_dict().items():
        assert_array_equal(values, arrays[key])
        assert np.asarray(values).dtype == np.asarray(arrays[key]).dtype
    # The arrays are copies.
    arrays["V"][...] = 9.0
    assert not (fm.V_ == 9.0).any()
    assert not (made.V_ == 9.0).any()

    scores, expected = (
        m.predict(SMALL) if n_classes is None else m.decision_function(SMALL) for m in (made, fm)
    )
    assert_allclose(scores, expected, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-5)
    dense = SMALL.toarray().astype(dtype)
    for output in range(1 if (n_classes or 2) == 2 else n_classes):
        one = (lambda part, output=output: part[output]) if n_classes == 3 else (lambda part: part)
        w0, w, V = one(made.w0_), one(made.w_), one(made.V_)
        bound = 1e-6 if dtype == "float32" else 1e-14
        error = np.abs((scores if scores.ndim == 1 else scores[:, output]) - reference.score(dense, w0, w, V))
        assert (error <= bound * reference.magnitude(dense, w0, w, V)).all()

    made.save(tmp_path / "model.fm")
    loaded = fmfast.load(tmp_path / "model.fm")
    assert_array_equal(loaded.predict(SMALL), made.predict(SMALL))
    assert loaded.get_params() == made.get_params()
    words = ("continues a model", "only predict", "fit anew")
    for twin in (made, loaded):
        assert_refused(lambda twin=twin: twin.partial_fit(SMALL, y), [twin], *words)
        twin.set_params(warm_start=True)
        assert_refused(lambda twin=twin: twin.fit(SMALL, y), [twin], *words)
        twin.set_params(warm_start=False, random_state=0, max_iter=5).fit(SMALL, y)
        assert_same_table(twin, fm)


def test_feature_names_and_settings_of_arrays():
    w, V = np.zeros(2, np.float32), np.ones((2, 1), np.float32)
    fm = FMClassifier.from_arrays(0.5, w, V, ["no", "yes"], feature_names=["a", "b"], n_jobs=1, verbose=1)
    assert (fm.dtype, fm.n_jobs, fm.verbose) == ("float32", 1, 1)
    assert fm.feature_names_in_.tolist() == ["a", "b"]
    assert FMClassifier.from_arrays(**fm.to_dict()).feature_names_in_.tolist() == ["a", "b"]
    assert FMRegressor.from_arrays(0.5, w, V.astype(float)).dtype == "float64"
    assert FMRegressor.from_arrays(0.5, [1, 2], [[1], [2]]).dtype == "float64"
    assert FMRegressor.from_arrays(0.5, [1, 2], [[1], [2]], dtype="float32").V_.dtype == np.float32


WRONG_ARRAYS = {
    "V of one axis": ({"V": [1.0, 2.0]}, "V has the shape (2,), expected (n_features, n_factors)"),
    "V of three axes": ({"V": np.zeros((1, 2, 3))}, "V has the shape (1, 2, 3)"),
    "no features": ({"w": [], "V": np.zeros((0, 3))}, "V has the shape (0, 3)"),
    "w too short": ({"w": [1.0]}, "w has the shape (1,), expected (2,)"),
    "w of two axes": ({"w": [[1.0, 2.0]]}, "w has the shape (1, 2), expected (2,)"),
    "w0 in a list": ({"w0": [1.0]}, "w0 has the shape (1,), expected ()"),
    "NaN": ({"w": [np.nan, 1.0]}, "expected finite numbers"),
    "infinite w0": ({"w0": np.inf}, "expected finite numbers"),
    "too large": ({"V": [[1e300], [0.0]], "dtype": "float32"}, "too large for float32"),
    "strings": ({"w": ["1", "2"]}, "w"),
    "too many factors": ({"V": np.zeros((2, 65537), np.float32)}, "n_factors=65537, expected an integer"),
    "names": ({"feature_names": ["a"]}, "feature_names has 1 entries, expected 2 distinct strings"),
    "names twice": ({"feature_names": ["a", "a"]}, "expected 2 distinct strings"),
    "dtype": ({"dtype": "int8"}, "parameter dtype of FMClassifier is 'int8'"),
    "a setting": ({"max_iter": 0}, "parameter max_iter of FMClassifier is 0"),
    "classes not ascending": ({"classes": ["yes", "no"]}, "distinct labels in ascending order"),
    "a class twice": ({"classes": [1, 1, 2]}, "distinct labels in ascending order"),
    "three classes": ({"classes": [0, 1, 2]}, "V has the shape (2, 1), expected (3, n_features, n_factors)"),
}


@pytest.mark.parametrize("name", WRONG_ARRAYS)
def test_arrays_that_make_no_model(name):
    change, words = WRONG_ARRAYS[name]
    arrays = {"w0": 0.0, "w": [1.0, 2.0], "V": [[1.0], [2.0]], "classes": [0, 1]}
    FMClassifier.from_arrays(**arrays)
    assert_refused(lambda: FMClassifier.from_arrays(**arrays | change), [], words)


def test_one_class_is_none():
    assert_refused(lambda: FMClassifier.from_arrays(0.0, [1.0], [[1.0]], [7]), [], "class")
