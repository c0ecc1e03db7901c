"""Explanations add up to the score, and the strongest pairs are those of a full search."""

from __future__ import annotations

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import NAN, assert_refused

from fmfast import (
    BayesianFMRegressor,
    FeatureEncoder,
    FMClassifier,
    FMRegressor,
    explain,
)
from fmfast._sklearn import not_fitted_error

N_FEATURES = 30
CASES = [(FMRegressor, None), (FMClassifier, 2), (FMClassifier, 3)]
IDS = ["regressor", "two classes", "three classes"]


def data(seed=0):
    """150 rows of about nine values; row 3 has none."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(150, N_FEATURES)) * (rng.random((150, N_FEATURES)) < 0.3)
    values[3] = 0.0
    return sp.csr_array(values)


def fitted(cls=FMRegressor, n_classes=None, n_factors=4, **params):
    X = data()
    y = 50.0 + 9.0 * X[:, [0]].toarray().ravel() if n_classes is None else np.arange(150) % n_classes
    return cls(n_factors, max_iter=3, init_std=0.4, random_state=0, **params).fit(X, y)


def table(n=300):
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 12, n), rng.integers(0, 9, n)
    columns = {
        "user": user.astype(str).tolist(),
        "item": item.astype(str).tolist(),
        "age": rng.normal(size=n).tolist(),
    }
    return columns, 3.0 + (user % 2) * (item % 3)


# -- one score -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_factors", [0, 4])
def test_the_terms_add_up_to_the_score(cls, n_classes, dtype, n_factors):
    fm, X = fitted(cls, n_classes, n_factors, dtype=dtype), data(7)
    raw = fm.predict(X) if n_classes is None else fm.decision_function(X)
    for i in range(20):
        for class_ in [None] if n_classes is None else range(n_classes):
            found = fm.explain(X[[i]], class_=class_)
            expected = raw[i] if n_classes != 2 else raw[i] * (1 if class_ else -1)
            expected = expected[class_] if n_classes == 3 else expected
            size = abs(found.w0) + np.abs(found.contributions).sum()
            assert abs(found.score - expected) <= 1e-6 * size
            assert found.w0 + found.linear + found.pairs == pytest.approx(found.score, rel=1e-12)
            assert (np.diff(np.abs(found.contributions)) <= 0).all()


def test_every_term_is_that_of_the_formula():
    fm, x = fitted(dtype="float64"), data(7)[[0]]
    values = x.toarray().ravel()
    found = fm.explain(x)
    expected = {(j, -1): fm.w_[j] * values[j] for j in x.indices}
    expected |= {
        (j, k): fm.V_[j] @ fm.V_[k] * values[j] * values[k]
        for j, k in combinations(sorted(x.indices.tolist()), 2)
    }
    terms = dict(zip(map(tuple, found.features.tolist()), found.contributions, strict=True))
    assert terms.keys() == expected.keys()
    for pair, value in expected.items():
        assert terms[pair] == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert found.w0 == pytest.approx(fm.w0_)


def test_rows_and_repr():
    fm = fitted()
    x = sp.csr_array((np.ones(2), [2, 5], [0, 2]), shape=(1, N_FEATURES))
    found = fm.explain(x)
    rows = found.rows()
    assert rows[0] == {"term": "w0", "contribution": found.w0, "features": ()}
    assert {row["features"]: row["term"] for row in rows[1:]} == {
        (2,): "column 2",
        (5,): "column 5",
        (2, 5): "column 2 x column 5",
    }
    assert sum(row["contribution"] for row in rows) == pytest.approx(found.score)
    lines = repr(found).split("\n")
    assert len(lines) == 4 + 3
    assert lines[0].split() == ["score", f"{found.score:+.4f}"]
    assert lines[4].endswith(f"{found.contributions[0]:+.4f}")
    many = fm.explain(np.ones((1, N_FEATURES)))
    assert repr(many).endswith(f"... and {30 + 30 * 29 // 2 - 10} more")


def test_names_come_from_whoever_knows_them():
    columns, y = table()
    fm = FMRegressor(3, random_state=0, encoder=FeatureEncoder(numeric=["age"])).fit(columns, y)
    one = {name: values[:1] for name, values in columns.items()}
    user, item = f"user={columns['user'][0]}", f"item={columns['item'][0]}"
    assert {user, item, "age", f"{user} x {item}", f"{user} x age", f"{item} x age"} == set(
        fm.explain(one).names
    )
    assert fm.explain(one).score == pytest.approx(fm.predict(one)[0], rel=1e-6)

    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(data().toarray(), columns=[f"f{j}" for j in range(N_FEATURES)])
    fm = FMRegressor(2, max_iter=1, random_state=0).fit(frame, np.arange(150.0))
    assert {"f3", "f3 x f4"} <= set(fm.explain(frame[:1] * 0 + 1).names)

    given = fitted().explain(np.ones((1, N_FEATURES)), feature_names=[f"g{j}" for j in range(N_FEATURES)])
    assert "g3 x g4" in given.names


def test_what_cannot_be_explained_is_refused():
    fm, several, X = fitted(), fitted(FMClassifier, 3), data()
    for call, *words in (
        (lambda: fm.explain(X[:2]), "2 rows", "X[[i]]"),
        (lambda: fm.explain(X[[0], :-1]), "29 features", "30 features"),
        (lambda: fm.explain(X[[0]] * NAN), "NaN"),
        (lambda: fm.explain(X[[0]], class_=1), "regressor has no classes"),
        (lambda: fm.explain(X[[0]], feature_names=["a"]), "1 names", "30"),
        (lambda: several.explain(X[[0]]), "class_ is None", "[0, 1, 2]"),
        (lambda: several.explain(X[[0]], class_="x"), "class_ is 'x'"),
    ):
        assert_refused(call, [fm, several], *words)
    assert_refused(lambda: FMRegressor().explain(X[[0]]), [], "explain", error=not_fitted_error())
    assert not hasattr(BayesianFMRegressor(), "explain")  # no one machine to explain


# -- the strongest pairs ---------------------------------------------------------------------------


def full_search(V, pairs, scale):
    """All pairs, sorted by size and then by columns."""
    values = {(j, k): V[j] @ V[k] * scale[j] * scale[k] for j, k in pairs}
    return sorted(values.items(), key=lambda item: (-abs(item[1]), item[0]))


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("block", [4, 2048])
def test_the_strongest_pairs_are_those_of_a_full_search(cls, n_classes, dtype, block, monkeypatch):
    monkeypatch.setattr(explain, "_BLOCK", block)
    fm = fitted(cls, n_classes, dtype=dtype)
    V = np.asarray(fm.V_[1] if n_classes == 3 else fm.V_, dtype=np.float64)
    class_ = 1 if n_classes == 3 else None
    scale = np.random.default_rng(0).uniform(0.1, 3.0, N_FEATURES)
    a, b = [3, 1, 4, 15, 9, 2], [6, 5, 3, 9, 28]
    for between, typical, n in ((None, None, 12), (None, scale, 12), ((a, b), None, 7), ((a, b), scale, 100)):
        pairs = list(combinations(range(N_FEATURES), 2))
        if between:
            pairs = sorted({(min(j, k), max(j, k)) for j in a for k in b if j != k})
        expected = full_search(V, pairs, np.ones(N_FEATURES) if typical is None else typical)[:n]
        found = fm.top_interactions(n, between=between, scale=typical, class_=class_)
        assert len(found) == len(expected)
        np.testing.assert_array_equal(found.features, [pair for pair, _ in expected])
        np.testing.assert_allclose(found.strengths, [value for _, value in expected], rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 15),
    block=st.integers(1, 12),
    n_factors=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 10), st.integers(1, 10)),
)
def test_ties(seed, n, block, n_factors, sizes):
    """Vectors of small integers tie everywhere; the lower columns come first, and nothing comes twice."""
    fm = FMRegressor(n_factors, max_iter=1, random_state=0).fit(np.eye(10), np.zeros(10))
    rng = np.random.default_rng(seed)
    fm.model_.table.V[0] = rng.integers(-2, 3, (10, n_factors))
    a, b = (rng.permutation(10)[:size] for size in sizes)
    pairs = sorted({(min(j, k), max(j, k)) for j in a.tolist() for k in b.tolist() if j != k})
    expected = [pair for pair in full_search(fm.V_.astype(float), pairs, np.ones(10)) if pair[1] != 0][:n]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explain, "_BLOCK", block)
        found = fm.top_interactions(n, between=(a, b))
    assert [tuple(pair) for pair in found.features.tolist()] == [pair for pair, _ in expected]
    np.testing.assert_array_equal(found.strengths, [value for _, value in expected])


def test_fields_of_the_encoder_and_of_the_caller():
    columns, y = table()
    fm = FMRegressor(3, random_state=0, encoder=FeatureEncoder(numeric=["age"])).fit(columns, y)
    everything = fm.top_interactions(10**6)
    fields = fm.model_.encoder.fields_
    assert (fields[everything.features[:, 0]] != fields[everything.features[:, 1]]).all()
    between = fm.top_interactions(5, between=("item", "user"))
    assert all(name.startswith("user=") and " x item=" in name for name in between.names)
    assert {
        "pair": between.names[0],
        "strength": between.strengths[0],
        "features": tuple(between.features[0]),
    } == (between.rows()[0])
    assert repr(between).split("\n")[0].startswith(between.names[0])
    within = fm.top_interactions(5, between=("user", "user"))
    assert all(name.count("user=") == 2 for name in within.names)

    given = np.repeat([0, 1, 2], 10)
    found = fitted().top_interactions(10**6, fields=given)
    assert len(found) == 3 * 100
    assert (given[found.features[:, 0]] != given[found.features[:, 1]]).all()


def test_a_class_of_two_turns_the_sign():
    fm = fitted(FMClassifier, 2)
    second, first = fm.top_interactions(5), fm.top_interactions(5, class_=0)
    np.testing.assert_array_equal(second.strengths, -first.strengths)


def test_a_machine_without_factors_has_no_interactions():
    assert len(fitted(n_factors=0).top_interactions()) == 0


def test_memory_is_that_of_a_block(monkeypatch):
    monkeypatch.setattr(explain, "_BLOCK", 128)
    n = 3000
    fm = FMRegressor(4, max_iter=1, random_state=0).fit(sp.eye_array(n, format="csr"), np.arange(float(n)))
    fm.top_interactions(5)
    tracemalloc.start()
    fm.top_interactions(5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < n * n * 4 / 10


def test_arguments_that_do_not_fit_are_refused():
    fm, several = fitted(), fitted(FMClassifier, 3)
    for arguments, *words in (
        ({"n": 0}, "n is 0"),
        ({"n": 1.5}, "n is 1.5"),
        ({"between": "user"}, "between is a str", "pair"),
        ({"between": ("user", "item")}, "'user'", "without an encoder"),
        ({"between": ([1], [30])}, "column 30", "0 to 29"),
        ({"between": ([-1], [3])}, "column -1"),
        ({"between": ([], [3])}, "between", "(0,)"),
        ({"between": ([0.5], [3])}, "between", "float64"),
        ({"between": ([1], np.ones(30, bool))}, "np.flatnonzero"),
        ({"between": ([1], [2], [3])}, "pair"),
        ({"scale": np.ones(29)}, "scale", "(29,)"),
        ({"scale": np.full(30, NAN)}, "scale", "finite"),
        ({"fields": np.zeros(29)}, "fields", "(29,)"),
        ({"feature_names": ["a"]}, "1 names"),
        ({"class_": 1}, "no classes"),
    ):
        assert_refused(lambda a=arguments: fm.top_interactions(**a), [fm], *words)
    assert_refused(lambda: several.top_interactions(), [several], "class_ is None")
    assert_refused(lambda: FMRegressor().top_interactions(), [], "top_interactions", error=not_fitted_error())
