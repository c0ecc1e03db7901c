"""Measures of ranked lists against cases computed by hand, and against plain loops."""

from __future__ import annotations

import doctest
from math import log2

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import INF, NAN, assert_refused, replaced

from fmfast import metrics, ranking_metrics

# Context 0 wants items 1 and 3, context 1 wants 0, context 2 wants nothing, context 3 wants all five.
RELEVANT = sp.csr_array(np.array([[0, 1, 0, 2, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], float))
LISTS = np.array([[2, 3, 1], [4, 3, 2], [0, 1, 2], [4, 0, -1]])
MEASURES = [metrics.recall_at, metrics.precision_at, metrics.ndcg_at, metrics.mrr]
D2, D3 = 1 / log2(3), 1 / log2(4)  # what the second and third place are worth; the first is worth 1


@pytest.mark.parametrize(
    ("measure", "k", "expected"),
    [
        (metrics.recall_at, None, [1.0, 0.0, NAN, 0.4]),
        (metrics.recall_at, 2, [0.5, 0.0, NAN, 0.4]),
        (metrics.recall_at, 1, [0.0, 0.0, NAN, 0.2]),
        (metrics.precision_at, None, [2 / 3, 0.0, NAN, 2 / 3]),
        (metrics.precision_at, 1, [0.0, 0.0, NAN, 1.0]),
        (metrics.ndcg_at, None, [(D2 + D3) / (1 + D2), 0.0, NAN, (1 + D2) / (1 + D2 + D3)]),
        (metrics.ndcg_at, 2, [D2 / (1 + D2), 0.0, NAN, 1.0]),
        (metrics.ndcg_at, 1, [0.0, 0.0, NAN, 1.0]),
        (metrics.mrr, None, [0.5, 0.0, NAN, 1.0]),
        (metrics.mrr, 1, [0.0, 0.0, NAN, 1.0]),
    ],
)
def test_by_hand(measure, k, expected):
    for relevant in (RELEVANT, RELEVANT.toarray(), RELEVANT.tocsc(), sp.coo_matrix(RELEVANT)):
        found = measure(relevant, LISTS, k)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_auc_by_hand():
    relevant = np.array([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    scores = np.array([[1.0, 2, 3, 4], [0.5, 0.5, 0.5, 0.1], [1, 2, 3, 4], [1, 2, 3, 4], [9, 1, 2, 3]])
    # Context 0: (1, 0) and both of item 3 right, (1, 2) wrong. Context 1: two ties and one right.
    expected = [3 / 4, (0.5 + 0.5 + 1) / 3, NAN, NAN, 1.0]
    np.testing.assert_allclose(metrics.auc(relevant, scores), expected, rtol=1e-14)
    # Without item 2: context 0 has nothing wrong left, context 1 one tie and one right.
    exclude = np.zeros((5, 4))
    exclude[:, 2] = 1
    expected = [1.0, 0.75, NAN, NAN, 1.0]
    np.testing.assert_allclose(metrics.auc(relevant, scores, exclude), expected, rtol=1e-14)
    # What is excluded is not relevant either.
    np.testing.assert_array_equal(metrics.auc(relevant[4:], scores[4:], np.array([[1, 0, 0, 0]])), [NAN])


def naive(relevant, lists, k):
    """recall, precision, ndcg, reciprocal rank of one context, place by place."""
    wanted = set(np.flatnonzero(relevant))
    if not wanted:
        return [NAN] * 4
    hits = [item in wanted for item in lists[:k]]
    gain = sum(hit / log2(place + 2) for place, hit in enumerate(hits))
    best = sum(1 / log2(place + 2) for place in range(min(k, len(wanted))))
    first = next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0)
    return [sum(hits) / len(wanted), sum(hits) / k, gain / best, first]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 8), st.integers(1, 12)),
    density=st.floats(0, 1),
    n=st.integers(1, 15),
)
def test_against_loops(seed, shape, density, n):
    rng = np.random.default_rng(seed)
    relevant = (rng.random(shape) < density) * rng.uniform(0.1, 3.0, shape)
    lists = np.full((shape[0], n), -1)
    for row in lists:
        picked = rng.permutation(shape[1])[: rng.integers(0, min(n, shape[1]) + 1)]
        row[np.sort(rng.permutation(n)[: len(picked)])] = picked  # gaps anywhere
    k = int(rng.integers(1, n + 1))
    expected = np.array([naive(*pair, k) for pair in zip(relevant, lists, strict=True)])
    for column, measure in enumerate(MEASURES):
        np.testing.assert_allclose(measure(sp.csr_array(relevant), lists, k), expected[:, column], rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), block=st.integers(1, 40))
def test_auc_against_loops(seed, block):
    rng = np.random.default_rng(seed)
    shape = (7, 9)
    relevant, out = rng.random(shape) < 0.4, rng.random(shape) < 0.3
    scores = rng.integers(-3, 3, shape)
    expected = []
    for row in range(7):
        positive = scores[row][relevant[row] & ~out[row]]
        others = scores[row][~relevant[row] & ~out[row]]
        pairs = [(p > o) + 0.5 * (p == o) for p in positive for o in others]
        expected.append(np.mean(pairs) if pairs else NAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking_metrics, "_BLOCK_SCORES", block)
        np.testing.assert_allclose(metrics.auc(relevant, scores, out), expected, rtol=1e-12)


def test_average_counts_and_says_who_is_left_out():
    found = metrics.average(metrics.recall_at(RELEVANT, LISTS))
    assert found == (pytest.approx(1.4 / 3), 3, 1)
    assert str(found) == "0.4667 over 3 contexts, 1 without a relevant item left out"
    assert str(metrics.average([0.25])) == "0.2500 over 1 contexts"
    nobody = metrics.average([NAN, NAN])
    assert np.isnan(nobody.mean)
    assert nobody[1:] == (0, 2)


def test_the_callers_arrays_stay_as_they_are():
    scores, exclude = np.arange(20.0).reshape(4, 5), np.eye(4, 5)
    before = scores.copy(), RELEVANT.toarray()
    metrics.auc(RELEVANT, scores, exclude)
    metrics.ndcg_at(RELEVANT, LISTS)
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(RELEVANT.toarray(), before[1])


@pytest.mark.parametrize("measure", MEASURES)
def test_bad_lists_are_refused(measure):
    for lists, k, *words in (
        (LISTS[:3], None, "recommended", "(3, 3)", "4 rows"),
        (LISTS[0], None, "recommended", "(3,)"),
        (LISTS.astype(float), None, "recommended", "float64"),
        (LISTS[:, :0], None, "recommended", "(4, 0)"),
        (LISTS + 2, None, "item number 5", "0 to 4"),
        (LISTS - 2, None, "item number -2"),
        (LISTS[:, [0, 1, 0]], None, "item 2 twice", "row 0"),
        (LISTS, 4, "k is 4", "1 to 3"),
        (LISTS, 0, "k is 0"),
        (LISTS, 2.0, "k is 2.0"),
        (LISTS, True, "k is True"),
    ):
        assert_refused(lambda lists=lists, k=k: measure(RELEVANT, lists, k), [], *words)
    for bad, *words in (
        (-1.5, "relevant", "negative value -1.5"),
        (NAN, "relevant", "NaN"),
        (INF, "infinity"),
    ):
        relevant = replaced(RELEVANT.toarray(), (1, 2), bad)
        assert_refused(lambda relevant=relevant: measure(relevant, LISTS), [], *words)


def test_bad_scores_are_refused():
    scores = np.zeros((4, 5))
    assert_refused(lambda: metrics.auc(RELEVANT, scores[:, :4]), [], "scores", "(4, 4)", "(4, 5)")
    assert_refused(lambda: metrics.auc(RELEVANT, scores * NAN), [], "scores", "NaN")
    assert_refused(lambda: metrics.auc(RELEVANT, scores - INF), [], "scores", "infinity")
    assert_refused(lambda: metrics.auc(RELEVANT, scores, scores[:3] + 1), [], "exclude", "(3, 5)")
    assert_refused(lambda: metrics.auc(-RELEVANT, scores), [], "relevant", "negative")


def test_examples_of_docstrings():
    failed, attempted = doctest.testmod(ranking_metrics)
    assert failed == 0
    assert attempted > 1
