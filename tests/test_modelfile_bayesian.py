"""Bayesian machines on disk: the draws and the chain come back to the bit, and other files are refused."""

from __future__ import annotations

import numpy as np
import pytest
from model_files import (
    TARGETS,
    X,
    assert_refused,
    change_array,
    change_members,
    contents,
    header_of,
    peak_memory,
    rewrite,
    same_bits,
    set_item,
    with_header,
)
from model_files import saved as saved_point_estimate
from numpy.testing import assert_array_equal

import fmfast
from fmfast import BayesianFMClassifier, BayesianFMRegressor, ModelFileError


def saved(tmp_path, kind="regressor", **params):
    """A fitted estimator with 6 draws, and the file that it was saved to."""
    cls = BayesianFMRegressor if kind == "regressor" else BayesianFMClassifier
    settings = {"n_factors": 3, "n_iter": 8, "n_burn_in": 2, "random_state": 5}
    estimator = cls(**(settings | {"groups": np.arange(12) // 5} | params)).fit(X, TARGETS[kind])
    path = tmp_path / "model.fm"
    estimator.save(path)
    return estimator, path


def everything(estimator):
    """All that it predicts."""
    if isinstance(estimator, BayesianFMRegressor):
        return [*estimator.predict(X, return_std=True), *estimator.predict_interval(X), estimator.noise_std_]
    return [
        *estimator.predict_proba(X, return_std=True),
        estimator.decision_function(X),
        estimator.predict(X),
    ]


def assert_same(loaded, original):
    assert type(loaded) is type(original)
    for a, b in zip(everything(loaded), everything(original), strict=True):
        assert same_bits(a, b)
    # What both have sampled after the file took each of them its own time.
    untimed = [[record | {"seconds": 0} for record in fm.history_] for fm in (loaded, original)]
    assert untimed[0] == untimed[1]
    assert loaded.n_iter_ == original.n_iter_
    assert same_bits(loaded.w0_, original.w0_)
    assert same_bits(loaded.w_, original.w_)
    assert same_bits(loaded.groups_, original.groups_)
    a, b = loaded.model_, original.model_
    assert (a.thinning, len(a.draws), a.scale, a.offset) == (b.thinning, len(b.draws), b.scale, b.offset)
    for name in ("alpha", "mean", "precision"):
        assert same_bits(getattr(a.chain, name), getattr(b.chain, name))
    for name in ("v_variance", "seed", "n_iterations"):
        assert getattr(a.chain, name) == getattr(b.chain, name)
    for ours, theirs in [(a.chain, b.chain), *zip(a.draws, b.draws, strict=True)]:
        assert same_bits(ours.table.rows, theirs.table.rows)
        assert same_bits(ours.table.bias, theirs.table.bias)
        assert same_bits(ours.alpha, theirs.alpha)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("n_factors", [0, 3, 9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip_and_continued_sampling(tmp_path, kind, n_factors, dtype):
    original, path = saved(tmp_path, kind, n_factors=n_factors, dtype=dtype, n_kept_samples=4)
    loaded = fmfast.load(path)
    assert_same(loaded, original)
    assert loaded.history_ == original.history_
    # `groups` may be large, and the chain knows them.
    assert loaded.get_params() == original.get_params() | {"groups": None}
    for estimator in (original, loaded):
        estimator.set_params(warm_start=True, n_iter=5).fit(X, TARGETS[kind])
    assert_same(loaded, original)
    assert [record["iteration"] for record in loaded.history_] == list(range(1, 14))
    loaded.save(path)
    assert_same(fmfast.load(path), original)


def test_an_interrupted_fit_with_a_file_between_equals_one_fit(tmp_path):
    whole, _ = saved(tmp_path, n_iter=24)
    _, path = saved(tmp_path, n_iter=16)
    parts = fmfast.load(path).set_params(warm_start=True, n_iter=8).fit(X, TARGETS["regressor"])
    assert same_bits(np.stack(everything(parts)[:4]), np.stack(everything(whole)[:4]))


def test_feature_names(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.toarray(), columns=[f"größe {i}" for i in range(12)])
    original = BayesianFMRegressor(n_factors=2, n_iter=4, n_burn_in=2).fit(frame, TARGETS["regressor"])
    original.save(tmp_path / "model.fm")
    loaded = fmfast.load(tmp_path / "model.fm")
    assert loaded.feature_names_in_.tolist() == list(frame)
    assert same_bits(loaded.predict(frame), original.predict(frame))


@pytest.mark.parametrize("kind", TARGETS)
def test_numpy_opens_the_file_and_its_size_is_that_of_the_numbers(tmp_path, kind):
    original, path = saved(tmp_path, kind)
    draws = original.model_.draws
    assert len(draws) == 6
    with np.load(path, allow_pickle=False) as file:
        names = {"header", "bias", "w", "V", "state", "groups", "alpha", "mean", "precision"}
        names |= {f"draw{i}_{name}" for i in range(6) for name in ("alpha", "bias", "w", "V")}
        assert set(file) == names
        for i, draw in enumerate(draws):
            assert same_bits(file[f"draw{i}_alpha"], draw.alpha)
            for name in ("bias", "w", "V"):
                assert same_bits(file[f"draw{i}_{name}"], getattr(draw.table, name))
        assert_array_equal(file["groups"], original.groups_)
        numbers = sum(file[name].nbytes for name in names)
    # Beside the numbers: what .npy and zip say of every member, twice its name, and that in 64 bits.
    assert path.stat().st_size < numbers + 340 * len(names)


def test_equal_chains_make_equal_files(tmp_path):
    _, path = saved(tmp_path, groups=None)
    fmfast.load(path).save(tmp_path / "again.fm")
    assert (tmp_path / "again.fm").read_bytes() == path.read_bytes()


def test_what_is_not_finite_is_not_saved(tmp_path):
    estimator, path = saved(tmp_path)
    before = path.read_bytes()
    for array in (estimator.model_.draws[3].table.w, estimator.model_.chain.mean):
        old = array.flat[0]
        array.flat[0] = np.nan
        with pytest.raises(ValueError, match="parameters that are not finite"):
            estimator.save(path)
        array.flat[0] = old
    estimator.save(path)
    assert path.read_bytes() == before


# -- files that lie --------------------------------------------------------------------------------------


def test_the_tools_of_these_tests_leave_a_good_file_good(tmp_path):
    estimator, path = saved(tmp_path)
    with_header(path, lambda header: None)
    rewrite(path, change_array("groups", lambda groups: groups)(contents(path)))
    assert_same(fmfast.load(path), estimator)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("seed", value) for value in (-1, 2**63, 1.0, True, None)],
        *[("n_iterations", value) for value in (-1, 10**30, "8")],
        *[("v_variance", value) for value in (-1.0, 1, None)],
        *[(name, value) for name in ("n_groups", "n_draws", "thinning") for value in (0, 2.0, 2**63, [1])],
    ],
)
def test_chains_that_lie(tmp_path, name, value):
    _, path = saved(tmp_path)
    with_header(path, lambda header: header["chain"].update({name: value}))
    assert_refused(path, "chain = .* where null or where a Markov chain stands belongs")


HEADER_CHANGES = {
    "no chain": ({"chain": None}, "its training or its chain is not that of a BayesianFMClassifier"),
    "a chain in a list": ({"chain": [1]}, "chain = "),
    "an incomplete chain": ({"chain": {"seed": 1}}, "chain = "),
    "training beside the chain": (
        {"training": {"solver": "als", "seed": 1, "row_norm": 1.0, "init_std": 0.1, "n_epochs": 3}},
        "its training or its chain",
    ),
    "the class of a point estimate": ({"class": "FMClassifier", "params": {}}, "its training or its chain"),
    "another task": ({"class": "BayesianFMRegressor"}, "task or its classes are not those"),
    "parameters of another class": ({"params": {"max_iter": 3}}, "has no parameter 'max_iter'"),
    "an invalid parameter": ({"params": {"n_kept_samples": 0}}, "parameter n_kept_samples"),
    "another number of factors": ({"n_factors": 2}, "is no .* array of shape"),
    "another number of features": ({"n_features": 11}, "is no .* array of shape"),
    "another dtype": ({"dtype": "float64"}, "is no float64 array|promises"),
    "a class less": ({"classes": {"dtype": "<i8", "values": [0, 1, 2]}}, "is no .* array of shape"),
}


@pytest.mark.parametrize(("change", "match"), HEADER_CHANGES.values(), ids=HEADER_CHANGES)
def test_headers_that_lie(tmp_path, change, match):
    _, path = saved(tmp_path, "multi-class")
    with_header(path, lambda header: header.update(change))
    assert_refused(path, match)


def test_a_header_without_a_chain(tmp_path):
    _, path = saved(tmp_path)
    with_header(path, lambda header: header.pop("chain"))
    assert_refused(path, "chain = None, where")


def test_a_point_estimate_with_a_chain(tmp_path):
    _, path = saved(tmp_path)
    chain = header_of(contents(path))["chain"]
    _, path = saved_point_estimate(tmp_path)
    for change in ({"chain": chain}, {"chain": chain, "training": None}):
        with_header(path, lambda header, change=change: header.update(change))
        assert_refused(path, "its training or its chain is not that of a FMRegressor")
    with_header(path, lambda header: header.update({"class": "BayesianFMRegressor", "params": {}}))
    assert_refused(path, "it has the members|is no float32 array|promises")


@pytest.mark.parametrize(
    ("name", "value"), [("n_draws", 5), ("n_draws", 7), ("n_groups", 2), ("n_groups", 4)]
)
def test_a_wrong_number_of_draws_or_groups(tmp_path, name, value):
    _, path = saved(tmp_path)
    with_header(path, lambda header: header["chain"].update({name: value}))
    assert_refused(path, "it has the members" if name == "n_draws" else "mean.npy is no float64 array")


POSITIVE = "precisions that are not positive"
CHAIN_ARRAYS = ["w", "V", "bias", "alpha", "mean", "precision"]
MEMBER_CHANGES = {
    "a draw without w": (lambda m: {k: v for k, v in m.items() if k != "draw5_w.npy"}, "it has the members"),
    "without groups": (lambda m: {k: v for k, v in m.items() if k != "groups.npy"}, "it has the members"),
    "a draw more": (lambda m: m | {"draw6_w.npy": m["draw5_w.npy"]}, "it has the members"),
    "state": (change_array("state", lambda s: np.zeros((1, 12, 1), np.float32)), "state.npy is no float32"),
    **{
        f"{value} in {name}": (change_array(name, set_item(value)), "NaN or infinite")
        for name in (*CHAIN_ARRAYS, "draw0_V", "draw3_w", "draw5_bias", "draw5_alpha")
        for value in (np.nan, np.inf)
    },
    "alpha of 0": (change_array("alpha", set_item(0.0)), POSITIVE),
    "alpha without an inverse": (change_array("alpha", set_item(1e-309)), POSITIVE),
    "a draw with noise without end": (change_array("draw2_alpha", set_item(1e-309)), "NaN or infinite"),
    "a negative precision": (change_array("precision", set_item(-1.0)), POSITIVE),
    "a precision of 0": (change_array("precision", set_item(0.0)), POSITIVE),
    "a draw without noise": (change_array("draw2_alpha", set_item(0.0)), "NaN or infinite|" + POSITIVE),
    "a draw of negative precision": (
        change_array("draw2_alpha", set_item(-2.0)),
        "NaN or infinite|" + POSITIVE,
    ),
    "a group too large": (change_array("groups", set_item(3)), "groups are not numbered from 0 to 2"),
    "a group far away": (change_array("groups", set_item(2**31 - 1)), "groups are not numbered"),
    "a negative group": (change_array("groups", set_item(-1)), "groups are not numbered from 0 to 2"),
    "a group left out": (
        change_array("groups", lambda groups: np.where(groups == 1, 0, groups).astype(np.int32)),
        "groups are not numbered",
    ),
    "groups in 64 bits": (
        change_array("groups", lambda groups: groups.astype("i8")),
        "groups.npy is no int32",
    ),
    "groups that are floats": (
        change_array("groups", lambda groups: groups.astype("f4")),
        "groups.npy is no int32",
    ),
    "a draw cut off": (
        lambda m: m | {"draw1_V.npy": m["draw1_V.npy"][:-4]},
        "draw1_V.npy is no float32 array",
    ),
    "a mean of another shape": (
        change_array("mean", lambda mean: mean[:, :, :2].copy()),
        "mean.npy is no float64",
    ),
}


@pytest.mark.parametrize(("change", "match"), MEMBER_CHANGES.values(), ids=MEMBER_CHANGES)
def test_members_that_do_not_belong(tmp_path, change, match):
    _, path = saved(tmp_path)
    change_members(path, change)
    assert_refused(path, match)


@pytest.mark.parametrize(("name", "value"), [("n_draws", 10**4), ("n_draws", 2**62), ("n_groups", 2**40)])
def test_absurd_claims_cost_no_memory(tmp_path, name, value):
    _, path = saved(tmp_path)
    with_header(path, lambda header: header["chain"].update({name: value}))
    bound = 1_000_000 + 8 * path.stat().st_size
    assert peak_memory(lambda: assert_refused(path, "promises .* bytes of parameters")) < bound


def test_many_draws_of_a_tiny_model_cost_no_memory(tmp_path):
    """A file that is large for other reasons: a draw that it claims costs memory beside its numbers."""
    estimator = BayesianFMRegressor(n_factors=0, n_iter=4, n_burn_in=2).fit(X[:, :1], TARGETS["regressor"])
    path = tmp_path / "model.fm"
    estimator.save(path)
    rewrite(path, contents(path) | {"junk": bytes(50_000)})
    with_header(path, lambda header: header["chain"].update(n_draws=10_000))
    bound = 1_000_000 + 8 * path.stat().st_size
    assert peak_memory(lambda: assert_refused(path, "promises|it has the members")) < bound


def test_truncated_at_any_place(tmp_path):
    _, path = saved(tmp_path, n_factors=1, n_iter=3)
    content = path.read_bytes()
    for length in range(0, len(content), 31):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            fmfast.load(path)
