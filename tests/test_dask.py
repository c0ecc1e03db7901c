"""The Dask estimators on a cluster of two processes: the local ones to the bit, or the plain functions."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from problems import planted, quantile_classes

import fmfast
from fmfast import FMClassifier, FMRegressor, averaging
from fmfast.averaging import apply, combined, local_changes, merged
from fmfast.validation import check_X

pytest.importorskip("distributed")
# Dask's own: a client that is closed warns of what it could not say any more.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Sending large graph:UserWarning:distributed"),
]

import dask.array as da  # noqa: E402
import dask.dataframe as dd  # noqa: E402
from dask import delayed  # noqa: E402
from dask_cluster import cluster_of, slots, wait_until  # noqa: E402

from fmfast.dask import DaskFMClassifier, DaskFMRegressor  # noqa: E402
from fmfast.dask.rounds import Training, balanced  # noqa: E402

X, y = planted(1200, noise=0.1)
CASES = [
    (DaskFMRegressor, FMRegressor, y),
    (DaskFMClassifier, FMClassifier, np.array(["no", "yes"])[quantile_classes(y, 2)]),
    (DaskFMClassifier, FMClassifier, quantile_classes(y, 3)),
]
IDS = ["regressor", "two classes", "three classes"]


@pytest.fixture(scope="module")
def client():
    with cluster_of(2) as client:
        yield client


def parts_of(X, y, n=4, weight=None):
    """Delayed parts (X, y) or (X, y, weight) of every n-th row."""
    columns = [y] if weight is None else [y, weight]
    return [delayed((X[i::n], *(column[i::n] for column in columns))) for i in range(n)]


def csr_blocks(X, chunks):
    """A Dask array whose blocks are CSR."""
    bounds = np.cumsum([0, *chunks])
    blocks = [
        da.from_delayed(delayed(X[a:b]), shape=(b - a, X.shape[1]), dtype=X.dtype, meta=sp.csr_array((0, 0)))
        for a, b in pairwise(bounds)
    ]
    return da.concatenate(blocks, axis=0)


def assert_same(ours, theirs):
    """To the bit, history but for seconds included."""
    np.testing.assert_array_equal(ours.w_, theirs.w_)
    np.testing.assert_array_equal(ours.V_, theirs.V_)
    np.testing.assert_array_equal(ours.w0_, theirs.w0_)
    np.testing.assert_array_equal(ours.model_.table.state, theirs.model_.table.state)
    assert ours.model_.training == theirs.model_.training
    histories = [[{**record, "seconds": 0} for record in fm.history_] for fm in (ours, theirs)]
    assert histories[0] == histories[1]
    assert ours.n_iter_ == theirs.n_iter_


def test_no_client_is_told():  # before there is one
    with pytest.raises(ValueError, match="There is no Dask client"):
        DaskFMRegressor().fit([delayed((X, y))])


# -- one part ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dask_class", "local_class", "target"), CASES, ids=IDS)
def test_one_part_is_the_local_estimator_to_the_bit(client, dask_class, local_class, target):
    settings = {"n_factors": 5, "max_iter": 3, "random_state": 3}
    weight = np.arange(len(target)) % 3.0  # zeros among them
    local = local_class(**settings).fit(X, target, weight, eval_set=(X[:100], target[:100]))
    here = dask_class(client=client, **settings).fit(X, target, weight, eval_set=(X[:100], target[:100]))
    assert_same(here, local)
    there = dask_class(client=client, **settings)
    there.fit(parts_of(X, target, 1, weight), eval_set=([delayed((X[:100], target[:100]))], None))
    assert_same(there, local)
    np.testing.assert_array_equal(here.predict(X), local.predict(X))
    assert here.score(X, target) == local.score(X, target)


@pytest.mark.parametrize("settings", [
    {"solver": "sgd"},
    {"solver": "ftrl", "l1_w": 0.1},
    {"early_stopping": True, "n_iter_no_change": 1, "learning_rate": 2.0, "max_iter": 30},
    {"dtype": "float64", "n_factors": 0},
], ids=str)  # fmt: skip
def test_one_part_with_other_settings(client, settings):
    settings = {"n_factors": 5, "max_iter": 3, "random_state": 1, **settings}
    target = quantile_classes(y, 2)
    local = FMClassifier(**settings).fit(X, target)
    assert_same(DaskFMClassifier(client=client, **settings).fit(X, target), local)


def test_scoring_callbacks_and_verbose_are_as_local(client, capsys):
    records = []

    def settings(records):
        return {
            "n_factors": 3,
            "random_state": 0,
            "verbose": 1,
            "scoring": lambda t, p: -np.abs(t - p).max(),
            "callbacks": [lambda record: records.append(record) or record["epoch"] == 2],
        }

    local = FMRegressor(**settings([])).fit(X, y, eval_set=(X, y))
    there = DaskFMRegressor(client=client, **settings(records)).fit(X, y, eval_set=(X, y))
    assert_same(there, local)
    assert [record["epoch"] for record in records] == [1, 2]
    assert capsys.readouterr().out.count("epoch") == 4


def test_warm_start_and_partial_fit_continue_to_the_bit(client):
    settings = {"n_factors": 3, "max_iter": 2, "random_state": 0, "warm_start": True}
    local, there = FMRegressor(**settings), DaskFMRegressor(client=client, **settings)
    for fm in (local, there):
        fm.fit(X, y).fit(X, y).partial_fit(X[:300], y[:300])
    assert_same(there, local)
    with pytest.raises(ValueError, match="has 10 features, but DaskFMRegressor is expecting 75"):
        there.partial_fit(X[:, :10], y)


def test_a_table_and_its_encoder(client):
    frame = pd.DataFrame({"user": np.arange(300) % 20, "item": np.arange(300) % 17}).astype(str)
    target = np.arange(300) % 5 + 0.0
    settings = {"n_factors": 3, "random_state": 0, "encoder": fmfast.FeatureEncoder()}
    local = FMRegressor(**settings).fit(frame, target, eval_set=(frame, target))
    there = DaskFMRegressor(client=client, **settings).fit(frame, target, eval_set=(frame, target))
    assert_same(there, local)
    np.testing.assert_array_equal(there.predict(frame), local.predict(frame))
    with pytest.raises(ValueError, match="has an encoder and X in parts"):
        there.fit([delayed((frame, target))])


# -- several parts ----------------------------------------------------------------------------------


def simulated(fm, parts, home, n_epochs):
    """What the cluster must do, with the plain functions: parts by worker, as they were."""
    checked = [(check_X(X, dtype=np.dtype("float32")), y) for X, y in parts]
    model, state = fm.model_, fm.model_.training
    solver = fm._solver(state.row_norm)
    table = solver.new_table(1, model.n_features, model.n_factors, model.dtype, state.init_std, state.seed)
    counts = np.zeros(model.n_features, np.uint32)
    workers = {}
    for number, (rows, target) in enumerate(checked):
        standardised = (target - model.offset) / model.scale
        shard = averaging.Shard(rows, [standardised], np.empty(0), averaging.shard_seed(state.seed, number))
        workers.setdefault(home[number], []).append(shard)
    for epoch in range(n_epochs):
        n = averaging.merges_of_epoch(epoch, len(workers))
        for i in range(n):
            a, b = (local_changes(table, counts, solver, one, epoch, (i, n))[0] for one in workers.values())
            apply(table, combined(merged(a, b)))
    return table


def test_two_workers_do_what_the_plain_functions_do(client, monkeypatch):
    """Above all: every update is added once, on every worker."""
    homes = []
    leave = Training.__exit__
    monkeypatch.setattr(Training, "__exit__", lambda self, *_: (homes.append(dict(self._home)), leave(self)))
    settings = {"n_factors": 5, "max_iter": 3, "random_state": 2}
    fm = DaskFMRegressor(client=client, **settings).fit(parts_of(X, y))
    assert len(set(homes[0].values())) == 2
    table = simulated(fm, [(X[i::4], y[i::4]) for i in range(4)], homes[0], 3)
    np.testing.assert_allclose(fm.model_.table.rows, table.rows, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fm.model_.table.bias, table.bias, rtol=1e-6)
    assert wait_until(lambda: slots(client) == 0)  # no table stays behind


def test_scale_and_classes_are_those_of_all_parts(client):
    local = FMRegressor(n_factors=2, max_iter=1).fit(X, y)
    there = DaskFMRegressor(n_factors=2, max_iter=1, client=client).fit(parts_of(X, y))
    assert there.model_.scale == pytest.approx(local.model_.scale, rel=1e-12)
    assert there.model_.offset == pytest.approx(local.model_.offset, rel=1e-12)
    assert there.model_.training.row_norm == local.model_.training.row_norm
    labels = np.array(["a", "b", "c"], dtype=object)[np.sort(quantile_classes(y, 3))]
    parts = [delayed((X[a : a + 400], labels[a : a + 400])) for a in (0, 400, 800)]  # one class in each
    fm = DaskFMClassifier(n_factors=2, max_iter=1, client=client).fit(parts)
    assert fm.classes_.tolist() == ["a", "b", "c"]


def test_quality_of_four_parts(client):
    target = quantile_classes(y, 2)
    settings = {"n_factors": 3, "max_iter": 10, "random_state": 0}
    train, test = slice(0, 1000), slice(1000, None)
    local = FMClassifier(**settings).fit(X[train], target[train])
    there = DaskFMClassifier(client=client, merges_per_epoch=8, **settings)
    there.fit(parts_of(X[train], target[train]))
    assert there.score(X[test], target[test]) > local.score(X[test], target[test]) - 0.03
    assert there.history_[-1]["loss"] < 1.15 * local.history_[-1]["loss"]


@pytest.mark.parametrize("kind", ["dask array", "delayed y", "local y", "futures", "dense", "data sets"])
def test_kinds_of_parts(client, kind, tmp_path):
    chunks = (500, 300, 400)
    blocks = csr_blocks(X, chunks)
    bounds = np.cumsum([0, *chunks])
    given_y = y
    if kind == "dask array":
        given, given_y = blocks, da.from_array(y, chunks=700)  # other blocks
    elif kind == "delayed y":
        given, given_y = blocks, [delayed(y[a:b]) for a, b in pairwise(bounds)]
    elif kind == "local y":
        given = blocks
    elif kind == "futures":
        given, given_y = client.scatter([(X[a : a + 600], y[a : a + 600]) for a in (0, 600)]), None
    elif kind == "dense":
        given = da.from_array(X.toarray(), chunks=(400, -1))
    else:
        given, given_y = [], None
        for i in range(3):
            path = tmp_path / f"{i}.libsvm"
            fmfast.text.dump(path, X[i::3], y[i::3])
            fmfast.convert(path, tmp_path / f"{i}.fmd", n_features=X.shape[1])
            given.append(tmp_path / f"{i}.fmd")
    fm = DaskFMRegressor(n_factors=3, max_iter=8, random_state=0, client=client)
    fm.fit(given, given_y, eval_set=(given, given_y))
    assert fm.score(X, y) > 0.5
    assert fm.history_[-1]["validation_score"] == pytest.approx(-np.mean((fm.predict(X) - y) ** 2))


def test_dask_dataframe_with_names_and_weights(client):
    frame = pd.DataFrame(X.toarray(), columns=[f"c{j}" for j in range(X.shape[1])])
    ddf = dd.from_pandas(frame, npartitions=3)
    target = dd.from_pandas(pd.Series(y), npartitions=3)
    weight = dd.from_pandas(pd.Series(np.ones(len(y))), npartitions=3)
    fm = DaskFMRegressor(n_factors=3, max_iter=3, random_state=0, client=client).fit(ddf, target, weight)
    assert fm.feature_names_in_[:2].tolist() == ["c0", "c1"]
    np.testing.assert_allclose(fm.predict(ddf).compute(), fm.predict(frame))


def test_empty_parts_are_left_out(client):
    parts = [*parts_of(X, y, 2), delayed((X[:0], y[:0]))]
    fm = DaskFMRegressor(n_factors=3, max_iter=2, random_state=0, client=client).fit(parts)
    assert fm.predict(parts).compute().shape == (1200,)


# -- prediction, and the way back -------------------------------------------------------------------


def test_predictions_are_lazy_and_in_blocks(client):
    labels = np.array(["no", "yes", "maybe"])[quantile_classes(y, 3)]
    fm = DaskFMClassifier(n_factors=3, max_iter=3, random_state=0, client=client).fit(X, labels)
    blocks = csr_blocks(X, (500, 700))
    for method in ("predict", "predict_proba", "decision_function"):
        lazy = getattr(fm, method)(blocks)
        assert lazy.chunks[0] == (500, 700)
        expected = getattr(fm.to_local(), method)(X)
        assert lazy.dtype == expected.dtype
        np.testing.assert_array_equal(lazy.compute(), expected)
    assert fm.score(blocks, labels) == fm.score(X, labels)
    assert fm.score(blocks, [delayed(labels[:500]), delayed(labels[500:])]) == fm.score(X, labels)


def test_save_load_pickle_and_from_local(client, tmp_path):
    fm = DaskFMRegressor(n_factors=3, max_iter=3, random_state=0, client=client).fit(X, y)
    fm.save(tmp_path / "model.npz")
    loaded = fmfast.load(tmp_path / "model.npz")
    assert type(loaded) is FMRegressor
    assert type(fm.to_local()) is FMRegressor
    again = DaskFMRegressor.from_local(loaded, client)
    copy = pickle.loads(pickle.dumps(fm))
    assert copy.client is None
    for other in (loaded, again, copy, fm.to_local()):
        np.testing.assert_array_equal(other.predict(X), fm.predict(X))
    np.testing.assert_array_equal(again.predict(csr_blocks(X, (600, 600))).compute(), fm.predict(X))
    with pytest.raises(TypeError, match="expected a FMClassifier"):
        DaskFMClassifier.from_local(loaded)


def test_constructor_is_the_local_one_with_a_client(client):
    own = {"client", "merges_per_epoch"}
    for dask_class, local_class in ((DaskFMRegressor, FMRegressor), (DaskFMClassifier, FMClassifier)):
        params = dask_class(client=client, n_factors=3).get_params(deep=False)
        local_params = local_class(3).get_params(deep=False)
        assert {name: value for name, value in params.items() if name not in own} == local_params
        for name in params:
            assert f"\n{name}" in dask_class.__doc__ or f", {name} :" in dask_class.__doc__
        assert "{" not in dask_class.fit.__doc__
    clone = pytest.importorskip("sklearn.base").clone
    assert clone(DaskFMRegressor(client=client)).client is client


# -- what is refused --------------------------------------------------------------------------------


def bad_part(i):
    raise OSError(f"no such bucket: {i}")


def with_nan(X):
    X = X.copy()
    X.data[7] = np.nan
    return X


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda p: [p[0], delayed((with_nan(X), y))], ValueError, r"In part 1 of X \(of 2.*Input X contains NaN"),
    (lambda p: [p[0], delayed(bad_part)(3)], RuntimeError, r"part 1 of X.*OSError: no such bucket: 3"),
    (lambda p: [p[0], delayed((X, y[:5]))], ValueError, r"In part 1 .*y has 5 values for 1200 rows"),
    (lambda p: [p[0], delayed((X[:, :9], y))], ValueError, r"part 1 of X.*, 9, expected as many"),
    (lambda p: [p[0], delayed(X)], ValueError, r"In part 1 .*the target y is None"),
    (lambda p: [delayed((X[:0], y[:0]))], ValueError, r"X has no rows in any of its parts"),
], ids=str)  # fmt: skip
def test_bad_parts_are_named(client, change, error, message):
    fm = DaskFMRegressor(n_factors=3, max_iter=1, client=client)
    with pytest.raises(error, match=f"(?s){message}"):
        fm.fit(change(parts_of(X, y, 2)))
    assert not hasattr(fm, "n_iter_")
    assert wait_until(lambda: slots(client) == 0)


@pytest.mark.parametrize(("settings", "arguments", "error", "message"), [
    ({"solver": "als"}, {}, ValueError, "solver of DaskFMRegressor is 'als'"),
    ({"merges_per_epoch": 0}, {}, ValueError, "merges_per_epoch .* is 0"),
    ({"client": "scheduler:8786"}, {}, TypeError, "client is a str"),
    ({"callbacks": [fmfast.Checkpoint("x")]}, {}, ValueError, "given a Checkpoint"),
    ({}, {"resume_from": "x"}, ValueError, "resume_from"),
    ({}, {"X": ["a.fmd"], "y": y}, ValueError, "y or sample_weight is given beside the paths"),
    ({}, {"X": ["a.fmd"], "y": None}, RuntimeError, "could not compute the data set 'a.fmd'"),
    ({}, {"y": [delayed(y)]}, TypeError, "y or sample_weight a Dask collection"),
    ({}, {"X": da.zeros((1200, 75), chunks=(600, 40))}, ValueError, "in 2 blocks of columns"),
    ({}, {"X": da.zeros((1200, 75), chunks=(600, 75)), "y": y[:7]}, ValueError, "y has shape .7,. for 1200"),
    ({}, {"X": [delayed((X, y))], "y": [delayed(y)] * 2}, ValueError, "y has 2 parts and X has 1"),
    ({}, {"X": [delayed(X)], "y": y}, TypeError, "y is a ndarray, expected a Dask collection"),
    ({}, {"eval_set": (X[:, :5], y)}, ValueError, "X of eval_set has 5 features"),
    ({}, {"eval_set": X}, ValueError, "eval_set is a csr_array"),
    ({"early_stopping": True, "validation_fraction": 1e-9}, {}, ValueError, "sets 0 of 1200 samples apart"),
], ids=str)  # fmt: skip
def test_what_is_refused(client, settings, arguments, error, message):
    settings = {"client": client, **settings}
    with pytest.raises(error, match=message):
        DaskFMRegressor(n_factors=3, max_iter=1, **settings).fit(**{"X": X, "y": y, **arguments})


def test_divergence_is_told_and_nothing_changes(client):
    fm = DaskFMRegressor(n_factors=3, max_iter=2, random_state=0, client=client).fit(parts_of(X, y))
    before = fm.w_.copy()
    fm.set_params(solver="sgd", learning_rate=1e20)
    with pytest.raises(fmfast.DivergenceError, match="diverged in epoch 1"):
        fm.fit(parts_of(X, y))
    np.testing.assert_array_equal(fm.w_, before)


def test_parts_go_to_workers_that_have_less():
    crowded = {0: "a", 1: "a", 2: "a", 3: "b"}
    assert balanced(crowded, [1, 1, 1, 1], ["a", "b"]) == {0: "b", 1: "a", 2: "a", 3: "b"}
    assert balanced({0: "a", 1: "b"}, [5, 1], ["a", "b"]) == {0: "a", 1: "b"}  # moving would gain nothing
    assert set(balanced({0: "gone"}, [3, 3, 3], ["a", "b", "c"]).values()) == {"a", "b", "c"}
    stays = {number: "ab"[number % 2] for number in range(20)}
    assert balanced(stays, [7] * 20, ["a", "b"]) == stays
    moved = balanced(stays, [7] * 20, ["a", "b", "c"])
    assert sorted(list(moved.values()).count(worker) for worker in "abc") == [6, 7, 7]
