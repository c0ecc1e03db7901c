"""Vectors and top-N lists against every pair scored on its own."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import NAN, assert_refused, replaced

from fmfast import (
    BayesianFMRegressor,
    FeatureEncoder,
    FMClassifier,
    FMRegressor,
    retrieval,
)
from fmfast._sklearn import not_fitted_error
from fmfast.retrieval import Vectors

N_CONTEXTS, N_ITEMS = 23, 40
N_CONTEXT_COLUMNS, N_ITEM_COLUMNS = 12, 15
CASES = [
    (FMRegressor, "float32"),
    (FMRegressor, "float64"),
    (FMClassifier, "float32"),
    (FMClassifier, "float64"),
]


def sides(seed=0, n_contexts=N_CONTEXTS, n_items=N_ITEMS):
    """Context and item rows, several values in each, not all 1, with an empty row in either."""
    rng = np.random.default_rng(seed)
    contexts = np.zeros((n_contexts, N_CONTEXT_COLUMNS + N_ITEM_COLUMNS))
    items = np.zeros((n_items, N_CONTEXT_COLUMNS + N_ITEM_COLUMNS))
    for rows, columns in (
        (contexts, slice(0, N_CONTEXT_COLUMNS)),
        (items, slice(N_CONTEXT_COLUMNS, None)),
    ):
        values = rows[:, columns]
        values[:] = rng.normal(size=values.shape) * (rng.random(values.shape) < 0.3)
        values[-1] = 0.0
    return sp.csr_array(contexts), sp.csr_array(items)


def fitted(cls=FMRegressor, dtype="float64", n_factors=5, n_classes=2):
    rng = np.random.default_rng(1)
    X = sp.random_array((200, N_CONTEXT_COLUMNS + N_ITEM_COLUMNS), density=0.3, rng=rng, format="csr")
    y = 100.0 + 7.0 * rng.normal(size=200) if cls is FMRegressor else np.arange(200) % n_classes
    return cls(n_factors, max_iter=3, init_std=0.4, random_state=0, dtype=dtype).fit(X, y)


def raw(fm, X):
    return fm.predict(X) if isinstance(fm, FMRegressor) else fm.decision_function(X)


def all_pairs(fm, contexts, items):
    """(n_contexts, n_items) scores of the summed rows, by the estimator."""
    return np.stack(
        [raw(fm, sp.csr_array(items + np.ones((items.shape[0], 1)) * c)) for c in contexts.toarray()]
    )


def naive_top_n(scores, n, allowed):
    """Plain sorting: by score, then by item number."""
    items, best = np.full((len(scores), n), -1), np.full((len(scores), n), -np.inf)
    for row, values in enumerate(scores):
        ranked = sorted((-values[i], i) for i in np.flatnonzero(allowed[row]))[:n]
        for place, (value, item) in enumerate(ranked):
            items[row, place], best[row, place] = item, -value
    return items, best


def small_blocks(monkeypatch, contexts=4, items=7):
    monkeypatch.setattr(retrieval, "_BLOCK_CONTEXTS", contexts)
    monkeypatch.setattr(retrieval, "_BLOCK_ITEMS", items)
    monkeypatch.setattr(retrieval, "_BLOCK_ROWS", 3)


# -- vectors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "dtype"), CASES)
@pytest.mark.parametrize("n_factors", [0, 1, 5])
def test_inner_products_are_the_scores(cls, dtype, n_factors, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK_ROWS", 3)
    fm, (contexts, items) = fitted(cls, dtype, n_factors), sides()
    found = retrieval.vectors(fm, contexts, items)
    for part, n_rows in ((found.Q, N_CONTEXTS), (found.P, N_ITEMS)):
        assert part.shape == (n_rows, n_factors + 1)
        assert part.dtype == np.float32
        assert part.flags.c_contiguous
    assert found.const.shape == (N_CONTEXTS,)
    scores = found.const[:, None] + found.Q.astype(float) @ found.P.T.astype(float)
    expected = all_pairs(fm, contexts, items)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5 * np.abs(found.P).max())
    assert expected.std() > 0.01


def test_the_parts_are_what_their_formulas_say():
    fm, (contexts, items) = fitted(), sides()
    found = retrieval.vectors(fm, contexts, items)
    c, i, V = contexts.toarray(), items.toarray(), fm.V_
    np.testing.assert_allclose(found.Q, np.column_stack([c @ V, np.ones(N_CONTEXTS)]), rtol=1e-6, atol=1e-6)
    of_item = i @ fm.w_ + 0.5 * (((i @ V) ** 2).sum(axis=1) - (i**2 @ V**2).sum(axis=1))
    np.testing.assert_allclose(found.P, np.column_stack([i @ V, of_item]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.const, reference.score(c, fm.w0_, fm.w_, V), rtol=1e-12)


@pytest.mark.parametrize("norm", [None, 50.0])
def test_one_more_coordinate_makes_it_cosine_and_distance(norm):
    fm, (contexts, items) = fitted(), sides()
    plain = retrieval.vectors(fm, contexts, items)
    found = retrieval.for_cosine(plain, norm)
    assert found.Q.dtype == found.P.dtype == np.float32
    assert found.P.flags.c_contiguous
    Q, P = found.Q.astype(float), found.P.astype(float)
    lengths = np.linalg.norm(P, axis=1)
    expected = np.linalg.norm(plain.P.astype(float), axis=1).max() if norm is None else norm
    np.testing.assert_allclose(lengths, expected, rtol=1e-6)
    np.testing.assert_array_equal(Q @ P.T, plain.Q.astype(float) @ plain.P.T.astype(float))
    best = retrieval.top_n(plain, 1).items[:, 0]
    cosine = Q @ P.T / np.outer(np.linalg.norm(Q, axis=1), lengths)
    distance = np.linalg.norm(Q[:, None] - P[None], axis=2)
    assert (cosine.argmax(axis=1) == best).all()
    assert (distance.argmin(axis=1) == best).all()
    # Without the coordinate, both would be wrong: the test could tell.
    unequal = plain.Q @ plain.P.T / np.linalg.norm(plain.P, axis=1).clip(1e-9)
    assert (unequal.argmax(axis=1) != best).any()


def test_a_norm_below_the_longest_item_is_refused():
    plain = retrieval.vectors(fitted(), *sides())
    for norm in (0.1, -1.0, NAN, "large"):
        assert_refused(lambda norm=norm: retrieval.for_cosine(plain, norm), [], "norm", "longest")


def test_new_contexts_and_cold_items_have_vectors():
    """An item whose id was never seen has its features, and one without any only the context's score."""
    rng = np.random.default_rng(0)
    table = {
        "user": rng.integers(0, 20, 400).astype(str).tolist(),
        "item": (number := rng.integers(0, 15, 400)).astype(str).tolist(),
        "kind": np.array(["x", "y", "z"])[number % 3].tolist(),
    }
    encoder = FeatureEncoder()
    X = encoder.fit_transform(table)
    fm = FMRegressor(4, random_state=0).fit(X, 1.0 * (number % 3 == 1))
    column = {name: j for j, name in enumerate(encoder.feature_names_)}
    contexts = sp.csr_array((np.ones(1), [column["user=3"]], [0, 1]), shape=(1, X.shape[1]))
    kinds = [column["kind=x"], column["kind=y"]]
    items = sp.csr_array((np.ones(2), kinds, [0, 1, 2, 2]), shape=(3, X.shape[1]))  # the last has nothing
    found = retrieval.recommend(fm, contexts, items, n=3)
    assert found.items[0, 0] == 1
    assert found.scores[0, found.items[0] == 2] == pytest.approx(fm.predict(contexts)[0])


def test_tables_with_some_columns_of_the_encoder():
    """As in the documentation: users and movies apart, and why the first one is recommended."""
    ratings = {
        "user": ["ann", "ann", "bob", "bob", "cat", "cat", "dan", "dan"],
        "movie": ["Alien", "Heat", "Heat", "Amelie", "Alien", "Amelie", "Solaris", "Heat"],
        "genre": ["scifi", "crime", "crime", "comedy", "scifi", "comedy", "scifi", "crime"],
    }
    stars = [5, 2, 5, 3, 4, 2, 5, 1]
    movies = {"movie": ["Heat", "Amelie", "Solaris"], "genre": ["crime", "comedy", "scifi"]}
    fm = FMRegressor(4, solver="als", encoder=FeatureEncoder(), random_state=0).fit(ratings, stars)
    best = retrieval.recommend(fm, {"user": ["ann", "nobody"]}, movies, n=2)
    assert best.items.shape == (2, 2)
    assert movies["movie"][best.items[0, 0]] == "Solaris"
    pair = {"user": ["ann"], "movie": ["Solaris"], "genre": ["scifi"]}
    why = fm.explain(pair)
    assert (
        best.scores[0, 0]
        == pytest.approx(fm.predict(pair)[0], rel=1e-6)
        == pytest.approx(why.score, rel=1e-6)
    )
    assert "user=ann x genre=scifi" in why.names
    # Sparse rows of the encoder do the same.
    whole = fm.model_.encoder.transform({"user": ["ann"] * 3, **movies})
    is_user = fm.model_.encoder.fields_ == 0
    rows = retrieval.recommend(fm, whole[[0]] * is_user, whole * ~is_user, n=2)
    np.testing.assert_array_equal(rows.items[0], best.items[0])
    np.testing.assert_array_equal(rows.scores[0], best.scores[0])
    for users, *words in (
        ({"name": ["ann"]}, "context_X", "'name'", "'user'"),
        ({"user": ["ann"], "genre": ["crime"]}, "context_X and item_X", "column"),
    ):
        assert_refused(lambda users=users: retrieval.recommend(fm, users, movies), [fm], *words)


# -- lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "dtype"), CASES)
@pytest.mark.parametrize("blocks", [None, (4, 7), (1, 1)])
def test_lists_are_those_of_all_pairs(cls, dtype, blocks, monkeypatch):
    if blocks:
        small_blocks(monkeypatch, *blocks)
    fm, (contexts, items) = fitted(cls, dtype), sides()
    exclude = sp.random_array((N_CONTEXTS, N_ITEMS), density=0.4, rng=np.random.default_rng(3), format="csr")
    candidates = np.random.default_rng(4).permutation(N_ITEMS)[:25]
    scores = all_pairs(fm, contexts, items)
    for out, among in ((None, None), (exclude, None), (None, candidates), (exclude, candidates)):
        allowed = np.ones(scores.shape, bool) if out is None else out.toarray() == 0
        if among is not None:
            allowed &= np.isin(np.arange(N_ITEMS), among)
        found = retrieval.recommend(fm, contexts, items, 6, exclude=out, candidates=among)
        expected_items, expected_scores = naive_top_n(scores, 6, allowed)
        np.testing.assert_array_equal(found.items, expected_items)
        np.testing.assert_allclose(found.scores, expected_scores, rtol=1e-5, atol=1e-5)
        assert found.items.dtype == np.intp
        assert found.scores.dtype == np.float64


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    n_contexts=st.integers(1, 9),
    n_items=st.integers(1, 30),
    n_factors=st.integers(0, 3),
    blocks=st.tuples(st.integers(1, 5), st.integers(1, 9)),
    dtype=st.sampled_from(["float32", "float64"]),
    excluded=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_ties_and_gaps(seed, n, n_contexts, n_items, n_factors, blocks, dtype, excluded):
    """Vectors of few small integers tie everywhere, also where a list ends and where a block does."""
    rng = np.random.default_rng(seed)
    Q, P = (rng.integers(-1, 2, (rows, n_factors + 1)).astype(dtype) for rows in (n_contexts, n_items))
    const = rng.integers(0, 3, n_contexts).astype(float)
    exclude = rng.random((n_contexts, n_items)) < excluded
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, *blocks)
        found = retrieval.top_n(Vectors(Q, P, const), n, exclude=exclude)
        threaded = retrieval.top_n(Vectors(Q, P, const), n, exclude=exclude, n_jobs=3)
    items, scores = naive_top_n(const[:, None] + Q @ P.T, n, ~exclude)
    for result in (found, threaded):
        np.testing.assert_array_equal(result.items, items)
        np.testing.assert_array_equal(result.scores, scores)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_items_tie_exactly_wherever_they_stand(dtype, monkeypatch):
    """Matrix products round one pair differently from place to place; the lists must not show it."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(6, 33)).astype(dtype)
    P = kinds[rng.integers(0, 6, 1000)]
    Q = rng.normal(size=(50, 33)).astype(dtype)
    whole = retrieval.top_n(Vectors(Q, P, np.zeros(50)), 300)
    expected = naive_top_n(
        np.einsum("cf,if->ci", Q.astype(float), P.astype(float)), 300, np.ones((50, 1000), bool)
    )
    np.testing.assert_array_equal(whole.items, expected[0])
    for blocks in ((3, 17), (50, 333), (7, 64)):
        small_blocks(monkeypatch, *blocks)
        for n_jobs in (1, 2):
            parts = retrieval.top_n(Vectors(Q, P, np.zeros(50)), 300, n_jobs=n_jobs)
            assert parts.items.tobytes() == whole.items.tobytes()
            assert parts.scores.tobytes() == whole.scores.tobytes()


def test_candidates_in_any_order_tie_by_their_number(monkeypatch):
    small_blocks(monkeypatch, 2, 3)
    equal = Vectors(np.ones((3, 2)), np.ones((10, 2)), np.zeros(3))
    found = retrieval.top_n(equal, 4, candidates=[9, 2, 7, 2, 5, 0], exclude=np.eye(3, 10, k=2))
    assert found.items.tolist() == [[0, 5, 7, 9], [0, 2, 5, 7], [0, 2, 5, 7]]


def test_close_scores_are_told_apart_although_products_round():
    """Items that differ by less than a product in float32 resolves are in the order of the exact sums."""
    rng = np.random.default_rng(0)
    P = np.repeat(rng.normal(size=(1, 17)) * 100, 400, axis=0).astype(np.float32)
    P[:, 3] = np.nextafter(P[:, 3], np.float32(np.inf) * rng.choice([-1, 1], 400).astype(np.float32))
    Q = (rng.normal(size=(20, 17)) * 100).astype(np.float32)
    exact = Q.astype(float) @ P.astype(float).T
    assert not np.array_equal((Q @ P.T).argmax(axis=1), exact.argmax(axis=1))  # a plain product is not enough
    found = retrieval.top_n(Vectors(Q, P, np.zeros(20)), 5)
    sums = np.einsum("cf,if->ci", Q.astype(float), P.astype(float))
    np.testing.assert_array_equal(found.items, naive_top_n(sums, 5, np.ones(sums.shape, bool))[0])


def test_no_more_than_a_block_is_held(monkeypatch):
    """No product is larger than a block, and no gathered vectors than their limit, with 2000 x 3000 pairs."""
    small_blocks(monkeypatch, 64, 128)
    tracemalloc = pytest.importorskip("tracemalloc")
    rng = np.random.default_rng(0)
    vectors = Vectors(
        rng.normal(size=(2000, 9)).astype("f"), rng.normal(size=(3000, 9)).astype("f"), np.zeros(2000)
    )
    retrieval.top_n(vectors, 5)
    tracemalloc.start()
    retrieval.top_n(vectors, 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2000 * 3000 * 4 / 10  # a tenth of all scores


# -- bad input -------------------------------------------------------------------------------------


def test_fewer_items_than_asked_for():
    fm, (contexts, items) = fitted(), sides(n_items=3)
    found = retrieval.recommend(fm, contexts, items, n=5)
    assert (found.items[:, 3:] == -1).all()
    assert (found.scores[:, 3:] == -np.inf).all()
    assert (np.sort(found.items[:, :3]) == [0, 1, 2]).all()


def test_all_items_excluded():
    fm, (contexts, items) = fitted(), sides()
    found = retrieval.recommend(fm, contexts, items, n=5, exclude=np.ones((N_CONTEXTS, N_ITEMS)))
    assert (found.items == -1).all()
    assert (found.scores == -np.inf).all()


def test_stored_zeros_exclude_nothing():
    fm, (contexts, items) = fitted(), sides()
    exclude = sp.csr_array(np.ones((N_CONTEXTS, N_ITEMS)))
    exclude.data[:] = 0
    found = retrieval.recommend(fm, contexts, items, exclude=exclude)
    assert found.items.tobytes() == retrieval.recommend(fm, contexts, items).items.tobytes()


def test_rows_that_do_not_fit_are_refused():
    fm, (contexts, items) = fitted(), sides()
    ways = (retrieval.vectors, retrieval.recommend)
    for call in ways:
        for rows, others, words in (
            (contexts, contexts, ("context_X", "item_X", "column")),
            (contexts[:, :-1], items, ("context_X", "26 features", "27 features")),
            (contexts, items[:, :-1], ("item_X", "26 features")),
            (replaced(contexts.toarray(), (2, 1), NAN), items, ("context_X", "NaN", "row 2")),
            (contexts, replaced(items.toarray(), (0, 20), np.inf), ("item_X", "infinity")),
            (contexts[:0], items, ("context_X", "0 sample")),
            (contexts, [["a"] * 27], ("item_X", "expected numbers")),
        ):
            assert_refused(lambda call=call, c=rows, i=others: call(fm, c, i), [fm], *words)


def test_arguments_that_do_not_fit_are_refused():
    fm, (contexts, items) = fitted(), sides()
    for arguments, *words in (
        ({"n": 0}, "n is 0"),
        ({"n": 2.5}, "n is 2.5"),
        ({"n": True}, "n is True"),
        ({"n_jobs": 0}, "n_jobs is 0"),
        ({"n_jobs": "all"}, "n_jobs is 'all'"),
        ({"exclude": np.ones((N_CONTEXTS, N_ITEMS + 1))}, "exclude", f"({N_CONTEXTS}, {N_ITEMS})"),
        ({"exclude": np.full((N_CONTEXTS, N_ITEMS), NAN)}, "exclude", "NaN"),
        ({"candidates": []}, "candidates", "one or more"),
        ({"candidates": [1.5]}, "candidates", "float64"),
        ({"candidates": np.ones(N_ITEMS, bool)}, "candidates", "np.flatnonzero"),
        ({"candidates": [0, N_ITEMS]}, "candidates", f"item number {N_ITEMS}", "0 to 39"),
        ({"candidates": [-1]}, "candidates", "item number -1"),
    ):
        assert_refused(lambda a=arguments: retrieval.recommend(fm, contexts, items, **a), [fm], *words)


def test_machines_without_a_single_inner_product_are_refused():
    contexts, items = sides()
    X = sp.csr_array(np.eye(27))
    bayesian = BayesianFMRegressor(2, n_iter=3, n_burn_in=1, random_state=0).fit(X, np.arange(27.0))
    assert_refused(lambda: retrieval.vectors(bayesian, contexts, items), [], "mean over the draws")
    several = fitted(FMClassifier, n_classes=3)
    assert_refused(lambda: retrieval.recommend(several, contexts, items), [several], "3 classes")
    assert_refused(lambda: retrieval.vectors("fm", contexts, items), [], "got a str", error=TypeError)
    assert_refused(
        lambda: retrieval.vectors(FMRegressor(), contexts, items), [], "fit", error=not_fitted_error()
    )


def test_vectors_beyond_float32_are_refused_but_recommend_takes_them():
    fm, (contexts, items) = fitted(), sides()
    fm.model_.scale = 1e80
    assert_refused(lambda: retrieval.vectors(fm, contexts, items), [], "float32", "recommend")
    found = retrieval.recommend(fm, contexts, items)
    np.testing.assert_array_equal(
        found.items, naive_top_n(all_pairs(fm, contexts, items), 10, np.ones((23, 40), bool))[0]
    )


def test_a_search_engine_finds_the_same_items():
    faiss = pytest.importorskip("faiss")
    fm, (contexts, items) = fitted(), sides()
    plain = retrieval.vectors(fm, contexts, items)
    exact = retrieval.top_n(plain, 5).items
    by_product = faiss.IndexFlatIP(plain.P.shape[1])
    by_product.add(plain.P)
    np.testing.assert_array_equal(by_product.search(plain.Q, 5)[1], exact)
    cosine = retrieval.for_cosine(plain)
    by_distance = faiss.IndexFlatL2(cosine.P.shape[1])
    by_distance.add(cosine.P)
    np.testing.assert_array_equal(by_distance.search(cosine.Q, 5)[1], exact)


def test_examples_of_docstrings():
    failed, attempted = doctest.testmod(retrieval)
    assert failed == 0
    assert attempted > 5
