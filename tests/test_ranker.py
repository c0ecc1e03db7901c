"""FMRanker: what it learns, and that lists, vectors, scores and explanations agree."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp

import fmfast
from fmfast import FMRanker, metrics, retrieval
from fmfast._sklearn import not_fitted_error

pytestmark = pytest.mark.filterwarnings("ignore:interactions has .* contexts without a positive")


def planted(seed=0, n_contexts=120, n_items=80, n_groups=4, per_context=12):
    """Interactions of contexts that like the items of their group; (training, held out, group of items)."""
    rng = np.random.default_rng(seed)
    group_c, group_i = rng.integers(0, n_groups, n_contexts), rng.integers(0, n_groups, n_items)
    rows, columns, is_test = [], [], []
    for c in range(n_contexts):
        liked = np.flatnonzero(group_i == group_c[c])
        chosen = rng.permutation(liked)[:per_context]
        rows += [c] * len(chosen)
        columns += chosen.tolist()
        is_test += (np.arange(len(chosen)) < 3).tolist()
    rows, columns, is_test = np.array(rows), np.array(columns), np.array(is_test)

    def matrix(mask):
        return sp.csr_array((np.ones(mask.sum()), (rows[mask], columns[mask])), shape=(n_contexts, n_items))

    return matrix(~is_test), matrix(is_test), group_i


TRAIN, TEST, GROUPS = planted()


def ranker(**params):
    return FMRanker(**{"n_factors": 8, "max_iter": 20, "random_state": 0, **params})


@pytest.mark.parametrize("loss", ["warp", "bpr"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("popularity_power", [0.0, 0.5])
def test_learns_who_likes_what(loss, dtype, popularity_power):
    fm = ranker(loss=loss, dtype=dtype, popularity_power=popularity_power, max_iter=40).fit(TRAIN)
    popular = np.tile(np.argsort(-TRAIN.sum(axis=0), kind="stable")[:10], (TRAIN.shape[0], 1))
    by_popularity = metrics.average(metrics.ndcg_at(TEST, popular)).mean
    assert fm.score(TEST, exclude=TRAIN) > 0.6 > 3 * by_popularity
    assert fm.history_[-1]["loss"] < 0.6 * fm.history_[0]["loss"]
    assert fm.V_.dtype == dtype


def test_score_is_the_mean_of_the_metric_of_lists():
    fm = ranker(metric="recall", k=7).fit(TRAIN)
    lists = fm.recommend(n=7, exclude=TRAIN).items
    assert fm.score(TEST, exclude=TRAIN) == metrics.average(metrics.recall_at(TEST, lists)).mean
    fm.set_params(metric="ndcg")
    assert fm.score(TEST, exclude=TRAIN) == metrics.average(metrics.ndcg_at(TEST, lists)).mean
    assert np.isnan(fm.score(sp.csr_array(TEST.shape)))
    # Held-out pairs must not be excluded, and known ones must: else the figure would be another one.
    assert fm.score(TEST) != fm.score(TEST, exclude=TRAIN)


def features():
    rng = np.random.default_rng(3)
    C = sp.hstack([sp.eye_array(TRAIN.shape[0]), sp.random_array((TRAIN.shape[0], 5), density=0.4, rng=rng)])
    kinds = sp.csr_array((np.ones(len(GROUPS)), GROUPS, np.arange(len(GROUPS) + 1)))
    items = sp.hstack(
        [sp.eye_array(TRAIN.shape[1]), 0.5 * kinds, sp.random_array((80, 3), density=0.5, rng=rng)]
    )
    return C.tocsr(), items.tocsr()


@pytest.mark.parametrize("with_features", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lists_scores_vectors_and_explanations_agree(with_features, dtype):
    C, items = features() if with_features else (None, None)
    fm = ranker(dtype=dtype).fit(TRAIN, C, items)
    found = fm.recommend(n=6, exclude=TRAIN)
    contexts = np.repeat(np.arange(TRAIN.shape[0]), 6)
    np.testing.assert_allclose(found.scores.ravel(), fm.predict(contexts, found.items.ravel()), rtol=1e-12)
    v = fm.vectors()
    assert v.Q.dtype == v.P.dtype == np.float32
    scores = v.const[:, None] + v.Q.astype(float) @ v.P.T.astype(float)
    tolerance = 1e-5 if dtype == "float32" else 1e-4
    np.testing.assert_allclose(fm.predict([3, 9], [5, 2]), scores[[3, 9], [5, 2]], rtol=1e-4, atol=tolerance)
    scores[TRAIN.toarray() > 0] = -np.inf
    np.testing.assert_allclose(np.sort(scores)[:, :-7:-1], found.scores, rtol=1e-4, atol=tolerance)
    explanation = fm.explain(3, 5)
    assert explanation.score == pytest.approx(fm.predict([3], [5])[0], rel=1e-5, abs=1e-6)
    if with_features:
        again = fm.recommend(C[[4, 7]], n=6, exclude=TRAIN[[4, 7]])
        np.testing.assert_array_equal(again.items, found.items[[4, 7]])
        assert fm.explain(C[[3]], items[[5]]).score == pytest.approx(explanation.score, rel=1e-6)
        assert {"item feature 5", "context feature 3"} <= set(explanation.names)
    else:
        assert set(explanation.names) == {"context 3", "item 5", "context 3 x item 5"}


def test_top_interactions_are_those_of_contexts_and_items():
    fm = ranker(dtype="float64").fit(TRAIN)
    products = np.abs(fm.V_[:120] @ fm.V_[120:].T)
    j, l_ = np.unravel_index(products.argmax(), products.shape)
    found = fm.top_interactions(5)
    assert found.features[0].tolist() == [j, 120 + l_]
    assert found.names[0] == f"context {j} x item {l_}"
    assert abs(found.strengths[0]) == pytest.approx(products.max())
    within = fm.top_interactions(3, between=(np.arange(120, 200), np.arange(120, 200)))
    assert (within.features >= 120).all()


def test_contexts_and_candidates_are_chosen():
    fm = ranker().fit(TRAIN)
    every = fm.recommend(n=5, exclude=TRAIN)
    some = fm.recommend([7, 3, 7], n=5, exclude=TRAIN)
    np.testing.assert_array_equal(some.items, every.items[[7, 3, 7]])
    only = fm.recommend([7], n=5, candidates=[4, 60, 2])
    assert sorted(only.items[0, :3].tolist()) == [2, 4, 60]
    assert only.items[0, 3:].tolist() == [-1, -1]
    assert np.isneginf(only.scores[0, 3:]).all()
    nothing = sp.csr_array(np.ones(TRAIN.shape))
    assert (fm.recommend([7], n=5, exclude=nothing).items == -1).all()
    assert fm.recommend([0], n=200).items.shape == (1, 200)


def test_cold_items_are_ranked_by_their_features():
    """A tenth of the items has no interactions: their kind tells who will like them."""
    cold = np.arange(0, 80, 10)
    warm = np.setdiff1d(np.arange(80), cold)
    kinds = sp.csr_array((np.ones(80), GROUPS, np.arange(81)))
    ids = sp.eye_array(80, format="csr")[:, warm]  # of a cold item, no column is 1
    known = sp.hstack([ids, kinds]).tocsr()
    fm = ranker().fit(TRAIN[:, warm], item_features=known[warm])
    truth = (TRAIN + TEST)[:, cold]
    lists = fm.recommend(n=2, item_features=known[cold]).items
    by_number = np.tile([0, 1], (120, 1))  # none is more popular than another
    assert metrics.average(metrics.recall_at(truth, by_number)).mean < 0.3
    assert metrics.average(metrics.recall_at(truth, lists)).mean > 0.7


# -- training ----------------------------------------------------------------------------------


def test_equal_calls_give_equal_bytes():
    a, b = ranker().fit(TRAIN), ranker().fit(TRAIN.toarray())
    assert a.V_.tobytes() == b.V_.tobytes()
    assert a.w_.tobytes() == b.w_.tobytes()
    assert ranker(random_state=1).fit(TRAIN).V_.tobytes() != a.V_.tobytes()
    # How large a value is does not matter.
    assert ranker().fit(3.5 * TRAIN).V_.tobytes() == a.V_.tobytes()


def test_warm_start_goes_on_as_if_never_interrupted():
    fm = ranker(max_iter=7, warm_start=True).fit(TRAIN).set_params(max_iter=5).fit(TRAIN)
    whole = ranker(max_iter=12).fit(TRAIN)
    assert fm.V_.tobytes() == whole.V_.tobytes()
    assert [r["epoch"] for r in fm.history_] == list(range(1, 13))
    assert fm.n_iter_ == 5


def test_several_threads_learn_as_well():
    rng = np.random.default_rng(0)
    big = sp.csr_array(np.kron(np.eye(4), np.ones((200, 25))) * (rng.random((800, 100)) < 0.5))
    held = sp.csr_array(np.kron(np.eye(4), np.ones((200, 25)))) - big
    one, two = (ranker(n_jobs=n, max_iter=8).fit(big) for n in (1, 2))
    assert one.score(held, exclude=big) > 0.9
    assert two.score(held, exclude=big) > 0.9


def test_early_stopping_keeps_the_best_epoch():
    fm = ranker(early_stopping=True, max_iter=200, n_iter_no_change=3, learning_rate=1.0).fit(
        TRAIN, eval_set=TEST
    )
    scores = [record["validation_score"] for record in fm.history_]
    assert fm.n_iter_ == int(np.argmax(scores)) + 1 + 3 < 200
    assert fm.score(TEST, exclude=TRAIN) == max(scores)


def test_early_stopping_without_an_eval_set_holds_some_out():
    fm = ranker(early_stopping=True, max_iter=3, validation_fraction=0.2).fit(TRAIN)
    assert all(0 <= record["validation_score"] <= 1 for record in fm.history_)
    assert ranker(max_iter=3).fit(TRAIN).V_.tobytes() != fm.V_.tobytes()


def test_callbacks_stop():
    seen = []
    fm = ranker(callbacks=[lambda record: seen.append(record) or len(seen) == 4]).fit(TRAIN)
    assert fm.n_iter_ == 4 == len(seen)
    assert set(seen[0]) == {"epoch", "loss", "validation_score", "seconds"}


# -- weights -----------------------------------------------------------------------------------


def test_weights_of_one_change_nothing():
    plain = ranker().fit(TRAIN).V_.tobytes()
    for weight in (np.ones(120), TRAIN, np.ones(TRAIN.shape)):
        assert ranker().fit(TRAIN, sample_weight=weight).V_.tobytes() == plain


def test_weights_per_context_are_those_of_its_pairs():
    weight = np.random.default_rng(0).uniform(0.5, 2, 120)
    a = ranker().fit(TRAIN, sample_weight=weight)
    b = ranker().fit(TRAIN, sample_weight=sp.csr_array(TRAIN * weight[:, None]))
    assert a.V_.tobytes() == b.V_.tobytes() != ranker().fit(TRAIN).V_.tobytes()


def test_a_pair_of_weight_0_is_neither_positive_nor_negative():
    """Item 0 belongs to everybody with weight 0: nothing moves it, not even as a negative."""
    X = TRAIN.toarray()
    X[:, 0] = 1
    weight = X.copy()
    weight[:, 0] = 0
    fm = ranker(init_std=0.0, popularity_power=2.0).fit(X, sample_weight=weight)
    assert fm.w_[120] == 0.0
    assert (fm.w_[121:] != 0).sum() > 70


# -- contexts that teach nothing -----------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_contexts_without_positives_or_negatives_are_counted():
    X = TRAIN.toarray()
    X[5] = 0
    X[9] = 0
    X[11] = 1
    with pytest.warns(UserWarning, match="interactions has 3 of 120 contexts"):
        fm = ranker().fit(X)
    assert fm.n_skipped_contexts_ == 3
    assert np.isfinite(fm.recommend([5, 9, 11], n=3).scores).all()


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_features", [False, True])
def test_files(tmp_path, with_features):
    C, items = features() if with_features else (None, None)
    fm = ranker(warm_start=True, loss="bpr").fit(TRAIN, C, items)
    fm.save(tmp_path / "ranker.fm")
    twins = [fmfast.load(tmp_path / "ranker.fm"), pickle.loads(pickle.dumps(fm))]
    for twin in twins:
        assert twin.get_params() == fm.get_params()
        np.testing.assert_array_equal(twin.recommend(n=4).items, fm.recommend(n=4).items)
        assert twin.history_ == fm.history_
        assert (twin.n_contexts_, twin.n_items_, twin.n_features_in_) == (*TRAIN.shape, len(fm.w_))
    fm.fit(TRAIN, C, items)
    for twin in twins:
        twin.fit(TRAIN, C, items)
        assert twin.V_.tobytes() == fm.V_.tobytes()


def test_a_model_does_not_share_arrays_with_the_caller():
    C, items = features()
    fm = ranker().fit(TRAIN, C, items)
    before = fm.recommend(n=4).items
    C.data[:] = 7.0
    items.indices[:] = 0
    np.testing.assert_array_equal(fm.recommend(n=4).items, before)


def test_vectors_serve_other_engines():
    """One more coordinate makes distances of inner products: the nearest item is the best one."""
    fm = ranker().fit(TRAIN)
    v = retrieval.for_cosine(fm.vectors())
    distance = ((v.Q[:, None].astype(float) - v.P[None].astype(float)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distance.argmin(axis=1), fm.recommend(n=1).items[:, 0])


def test_not_fitted():
    for call in ("recommend", "vectors"):
        with pytest.raises(not_fitted_error(), match=f"so {call} is not available"):
            getattr(FMRanker(), call)()


def test_params_and_clone():
    from sklearn.base import clone

    fm = ranker(loss="bpr", k=3)
    assert clone(fm).get_params() == fm.get_params()
    assert repr(fm) == "FMRanker(n_factors=8, loss='bpr', max_iter=20, k=3, random_state=0)"
    assert not fm.__sklearn_tags__().target_tags.required
