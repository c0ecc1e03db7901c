"""The ranking kernel against the definition, pair by pair, at every instruction set."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_ranking import Draws, Trainer, harmonic

from fmfast._dispatch import available_levels, load_kernel, ranking
from fmfast.ranking_model import identity_rows
from fmfast.solvers.ranking import Positives, RankingSolver, _phi, _sets, _side
from fmfast.validation import SparseRows, check_X


@pytest.fixture(params=available_levels())
def kernel(request):
    return load_kernel("_ranking", request.param)


def problem(rng, kind, n_contexts=9, n_items=13):
    """Dense rows of contexts and items in columns of both, and positives (n_contexts, n_items)."""
    if kind == "ids":
        contexts, items = np.eye(n_contexts), np.eye(n_items)
    else:  # several values in a row, shared columns, an item and a context without a value
        contexts = rng.normal(size=(n_contexts, 6)) * (rng.random((n_contexts, 6)) < 0.5)
        items = np.where(rng.random((n_items, 5)) < 0.5, rng.choice([1.0, -0.5, 2.0], (n_items, 5)), 0.0)
        contexts[2], items[3] = 0.0, 0.0
    positive = rng.random((n_contexts, n_items)) < 0.3
    positive[1] = True
    positive[1, 4] = False  # but one: the search for a negative must find it
    positive[0] = False
    zeros_c, zeros_i = np.zeros((n_contexts, items.shape[1])), np.zeros((n_items, contexts.shape[1]))
    return np.hstack([contexts, zeros_c]), np.hstack([zeros_i, items]), positive


def rows_of(dense, dtype):
    return check_X(sp.csr_array(dense.astype(dtype)), dtype=np.dtype(dtype))


def positives_of(positive):
    X = sp.csr_array(positive)
    return Positives(
        X.indptr.astype(np.int64), X.indices.astype(np.int32), X.shape[1], np.arange(X.nnz), np.empty(0)
    )


def alias_tables(kernel, probability):
    n = len(probability)
    keep, alias = np.empty(n, np.uint32), np.empty(n, np.int32)
    kernel.fill_alias(np.asarray(probability) * n, keep, alias, np.empty(n, np.int32))
    return keep, alias


def table_of(n_features, n_factors, dtype, seed=3):
    table = RankingSolver.new_table(n_features, n_factors, np.dtype(dtype), 0.4, seed)
    table.w[0, :] = np.random.default_rng(seed).normal(size=n_features)
    return table


def train(kernel, contexts, items, positives, table, *, runs, run_length=1, weight=None, loss="warp",
          trials=5, keep=None, alias=None, rate=0.1, reg_w=0.05, reg_V=0.2, seed=77):  # fmt: skip
    dtype = table.dtype
    pairs = positives.contexts, positives.items
    return kernel.train_pairs(
        *pairs, np.empty(0) if weight is None else weight, np.asarray(runs, np.int64), run_length,
        *_side(rows_of(contexts, dtype), table), *_side(rows_of(items, dtype), table), *_sets(positives),
        np.empty(0, np.uint32) if keep is None else keep, np.empty(0, np.int32) if alias is None else alias,
        table.rows[0], table.width, kernel.LOSSES[loss], _phi(positives.n_items, trials), rate, reg_w, reg_V,
        seed,
    )  # fmt: skip


@pytest.mark.parametrize("n_factors", [0, 1, 8, 11, 16, 24, 32, 48, 64, 96, 128, 130, 272])
@pytest.mark.parametrize("loss", ["bpr", "warp"])
def test_a_pass_moves_what_the_definition_moves(kernel, loss, n_factors):
    rng = np.random.default_rng(n_factors)
    for kind in ("ids", "features"):
        contexts, items, positive = problem(rng, kind)
        positives = positives_of(positive)
        weight = rng.uniform(0.2, 2.0, len(positives.items))
        keep, alias = alias_tables(kernel, rng.dirichlet(np.ones(len(items))))
        table = table_of(contexts.shape[1], n_factors, "float64")
        twin = Trainer(
            contexts, items, positive, table.w[0], table.V[0], loss=loss, learning_rate=0.1, reg_w=0.05,
            reg_V=0.2, max_trials=5,
        )  # fmt: skip
        order = rng.permutation(len(positives.items))
        expected = np.zeros(3)
        for p in order:
            c, i = positives.contexts[p], positives.items[p]
            draw = Draws(77, int(p), len(items), set(np.flatnonzero(positive[c])), keep, alias)
            expected += twin.visit(c, i, weight[p], draw)
        found = train(kernel, contexts, items, positives, table, runs=order, weight=weight, loss=loss,
                      keep=keep, alias=alias)  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        np.testing.assert_allclose(table.w[0], twin.w, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(table.V[0], twin.V, rtol=1e-8, atol=1e-11)
        assert (table.w[0] != table_of(contexts.shape[1], n_factors, "float64").w[0]).any()


@pytest.mark.parametrize("loss", ["bpr", "warp"])
def test_float32_is_as_good_as_it_can_be(kernel, loss):
    contexts, items, positive = problem(np.random.default_rng(1), "features")
    positives = positives_of(positive)
    tables = [table_of(contexts.shape[1], 8, dtype) for dtype in ("float32", "float64")]
    tables[1].rows[0] = tables[0].rows[0]
    losses = [
        train(kernel, contexts, items, positives, table, runs=np.arange(len(positives.items)), loss=loss)
        for table in tables
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    np.testing.assert_allclose(tables[0].V, tables[1].V, rtol=1e-3, atol=1e-4)


def test_warp_leaves_alone_what_no_draw_violates(kernel):
    contexts, items, positive = problem(np.random.default_rng(0), "ids")
    positives = positives_of(positive)
    table = table_of(contexts.shape[1], 8, "float64")
    table.V[0][:] = 0.0
    table.w[0, :] = 0.0
    one = np.flatnonzero(positives.contexts == 3)[:1]
    table.w[0, len(contexts) + positives.items[one]] = 5.0  # far above all others
    before = table.rows.copy()
    found = train(kernel, contexts, items, positives, table, runs=one, trials=4)
    assert found == (0.0, 0, 4)
    assert (table.rows == before).all()


def test_runs_are_visited_in_order_and_only_once(kernel):
    contexts, items, positive = problem(np.random.default_rng(2), "features")
    positives = positives_of(positive)
    n = len(positives.items)
    assert n % 7  # the last run is shorter
    starts = np.arange(0, n, 7)[::-1].copy()
    singly = np.concatenate([np.arange(s, min(s + 7, n)) for s in starts])
    tables = [table_of(contexts.shape[1], 8, "float64") for _ in range(2)]
    train(kernel, contexts, items, positives, tables[0], runs=starts, run_length=7)
    train(kernel, contexts, items, positives, tables[1], runs=singly)
    assert (tables[0].rows == tables[1].rows).all()
    assert train(kernel, contexts, items, positives, tables[0], runs=[]) == (0.0, 0, 0)


def test_an_infinite_score_is_told(kernel):
    contexts, items, positive = problem(np.random.default_rng(2), "ids")
    positives = positives_of(positive)
    table = table_of(contexts.shape[1], 8, "float32")
    table.V[0][:] = 1e30
    for loss in ("bpr", "warp"):
        loss_sum = train(kernel, contexts, items, positives, table, runs=np.arange(5), loss=loss)[0]
        assert math.isinf(loss_sum)


# -- negatives ---------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60).filter(lambda p: sum(p) > 0))
@settings(deadline=None)
def test_alias_tables_have_the_probabilities(weights):
    probability = np.array(weights) / np.sum(weights)
    n = len(probability)
    keep, alias = alias_tables(ranking, probability)
    stays = (keep.astype(float) + 1) / 2**32
    found = stays / n
    np.add.at(found, alias, (1 - stays) / n)
    np.testing.assert_allclose(found, probability, atol=1e-8)


def test_negatives_are_drawn_by_popularity_and_are_never_positive():
    """With a table of zeros, the first update of each pair shows its negative."""
    n_items = 50
    positive = np.zeros((1, n_items), dtype=bool)
    positive[0, :10] = True
    positives = positives_of(positive)
    probability = np.arange(1.0, n_items + 1) / np.arange(1.0, n_items + 1).sum()
    keep, alias = alias_tables(ranking, probability)
    contexts, items = identity_rows(1, np.dtype("float64")), identity_rows(n_items, np.dtype("float64"))
    items = SparseRows(items.data, items.indices + 1, items.indptr, n_items + 1)
    counts = np.zeros(n_items)
    for seed in range(3000):
        table = RankingSolver.new_table(n_items + 1, 0, np.dtype("float64"), 0.0, 0)
        ranking.train_pairs(
            positives.contexts, positives.items, np.empty(0), np.arange(1), 1,
            *_side(contexts, table), *_side(items, table), *_sets(positives), keep, alias,
            table.rows[0], table.width, ranking.LOSSES["bpr"], _phi(n_items, 1), 0.1, 0.0, 0.0, seed,
        )  # fmt: skip
        counts[np.flatnonzero(table.w[0, 1:] < 0)] += 1
    assert counts.sum() == 3000
    assert not counts[:10].any()
    expected = 3000 * probability[10:] / probability[10:].sum()
    assert ((counts[10:] - expected) ** 2 / expected).sum() < 80  # chi^2 of 39 degrees: 1 in 10,000


def test_phi_is_the_harmonic_number_of_the_estimated_rank():
    for n_items in (2, 13, 5000, 10**6):
        trials = np.array([1, 2, 7, 60])
        expected = [harmonic(max(1, (n_items - 1) // r)) for r in trials]
        np.testing.assert_allclose(_phi(n_items, 60)[trials - 1], expected, rtol=1e-6)
