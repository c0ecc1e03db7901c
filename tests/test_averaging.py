"""Local SGD and its merge, without an engine: against the formulas written densely."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from problems import planted

from fmfast import averaging, convert, open_dataset, text
from fmfast.averaging import Shard, apply, combined, local_changes, merged, train_share
from fmfast.solvers import SOLVERS
from fmfast.validation import check_X

FLOAT = np.dtype(np.float32)
NO_WEIGHT = np.empty(0)


def problem(
    n_samples=600, sizes=(40, 30, 20), n_workers=3, solver="adagrad", dtype=FLOAT, n_outputs=1, **settings
):
    """Shards of a random problem, a solver, and a function that makes the first table."""
    rng = np.random.default_rng(5)
    starts = np.cumsum([0, *sizes[:-1]])
    columns = starts + np.stack([rng.integers(0, size, n_samples) for size in sizes], axis=1)
    columns[:, 0] = np.where(rng.random(n_samples) < 0.5, 0, columns[:, 0])  # one feature is frequent
    X = sp.csr_array((np.ones(columns.size), columns.ravel(), np.arange(0, columns.size + 1, len(sizes))))
    X.resize((n_samples, sum(sizes) + 5))  # some columns occur nowhere
    targets = [rng.integers(0, 2, n_samples).astype(float) for _ in range(n_outputs)]
    rows = check_X(X, dtype=dtype)
    bounds = np.linspace(0, n_samples, n_workers + 1).astype(int)
    shards = [
        Shard(rows.part(a, b), [t[a:b] for t in targets], NO_WEIGHT, averaging.shard_seed(7, p))
        for p, (a, b) in enumerate(pairwise(bounds))
    ]
    how = SOLVERS[solver].configured("classification", float(len(sizes)), **settings)
    return shards, how, lambda: how.new_table(n_outputs, rows.n_features, 4, dtype, 0.1, 3)


def changes_of(shards, how, table, share=(0, 1)):
    counts = np.zeros(table.n_features, np.uint32)
    return [local_changes(table, counts, how, [shard], 0, share)[0] for shard in shards]


def dense(changes, table):
    """(changes of all rows, counts) of one worker."""
    found = np.zeros_like(table.rows)
    counts = np.zeros(table.n_features)
    found[:, changes.features] = changes.mean
    counts[changes.features] = changes.counts
    return found, counts


# -- a worker's step ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adagrad", "sgd", "ftrl"])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_one_shard_is_an_epoch_of_the_solver(solver, n_outputs):
    (shard,), how, new_table = problem(n_workers=1, solver=solver, n_outputs=n_outputs)
    expected, table = new_table(), new_table()
    with how.begin(expected, shard.rows, shard.targets, NO_WEIGHT, shard.seed) as run:
        losses = [run.run_epoch(epoch) for epoch in range(2)]
    assert [train_share(table, how, [shard], epoch) for epoch in range(2)] == losses
    np.testing.assert_array_equal(table.rows, expected.rows)
    np.testing.assert_array_equal(table.bias, expected.bias)


@pytest.mark.parametrize("n_shares", [2, 5, 200])
def test_shares_one_after_the_other_are_the_epoch(n_shares):
    (shard,), how, new_table = problem(n_workers=1)
    expected, table = new_table(), new_table()
    loss = train_share(expected, how, [shard], 1)
    total = sum(train_share(table, how, [shard], 1, (i, n_shares)) for i in range(n_shares))
    np.testing.assert_array_equal(table.rows, expected.rows)
    assert total == pytest.approx(loss, rel=1e-12)


def test_several_shards_are_visited_once_each():
    shards, how, new_table = problem(n_workers=3)
    n = sum(shard.rows.n_samples for shard in shards)
    table, counts = new_table(), np.zeros(95, np.uint32)
    seen = [local_changes(table, counts, how, shards, 0, (i, 4))[0] for i in range(4)]
    assert sum(changes.n_samples for changes in seen) == n
    total = np.zeros(95, int)
    for changes in seen:
        total[changes.features] += changes.counts
    columns = np.concatenate([shard.rows.indices for shard in shards])
    np.testing.assert_array_equal(total, np.bincount(columns, minlength=95))


def test_shares_of_a_data_set_larger_than_memory_are_all_of_it(tmp_path):
    rng = np.random.default_rng(0)
    n = 60_000
    columns = rng.integers(0, 500, (n, 20)) + 500 * np.arange(20)
    X = sp.csr_array((rng.random(n * 20).astype(np.float32), columns.ravel(), np.arange(0, n * 20 + 1, 20)))
    path = tmp_path / "rows.libsvm"
    text.dump(path, X, rng.integers(0, 2, n))
    convert(path, tmp_path / "rows.fmd")
    data = open_dataset(tmp_path / "rows.fmd", memory=1 << 20)
    rows = check_X(data.X, dtype=FLOAT)
    how = SOLVERS["adagrad"].configured("classification", 20.0)
    table = how.new_table(1, rows.n_features, 4, FLOAT, 0.1, 3)
    shard = Shard(rows, [data.y], NO_WEIGHT, 7)
    assert not rows.pages.fit_memory
    counts = np.zeros(rows.n_features, np.uint32)
    seen = [local_changes(table, counts, how, [shard], 0, (i, 3))[0] for i in range(3)]
    assert sum(changes.n_samples for changes in seen) == n
    assert all(changes.n_samples > n // 6 for changes in seen)
    assert sum(int(changes.counts.sum()) for changes in seen) == rows.nnz


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_table_is_put_back_and_the_changes_lead_to_what_was_trained(dtype):
    (shard, *_), how, new_table = problem(dtype=np.dtype(dtype))
    table, trained, fresh = new_table(), new_table(), new_table()
    counts = np.zeros(table.n_features, np.uint32)
    changes, loss = local_changes(table, counts, how, [shard], 0)
    np.testing.assert_array_equal(table.rows, fresh.rows)
    np.testing.assert_array_equal(table.bias, fresh.bias)
    assert not counts.any()
    assert loss == train_share(trained, how, [shard], 0)
    apply(table, combined(changes))
    np.testing.assert_allclose(table.rows, trained.rows, rtol=4 * np.finfo(dtype).eps, atol=1e-8)
    np.testing.assert_allclose(table.bias, trained.bias, rtol=1e-14)


def test_counts_are_the_samples_with_the_feature():
    (shard, *_), how, new_table = problem()
    (changes,) = changes_of([shard], how, new_table())
    expected = np.bincount(shard.rows.indices, minlength=95)
    np.testing.assert_array_equal(changes.features, np.flatnonzero(expected))
    np.testing.assert_array_equal(changes.counts, expected[changes.features])
    assert changes.n_samples == shard.rows.n_samples


def test_only_touched_rows_are_in_the_changes():
    _, how, _ = problem()
    table = how.new_table(1, 1_000_000, 4, FLOAT, 0.1, 3)
    rows = check_X(sp.csr_array((np.ones(3), [5, 77, 999_999], [0, 2, 3]), shape=(2, 1_000_000)), dtype=FLOAT)
    small = Shard(rows, [np.array([0.0, 1.0])], NO_WEIGHT, 0)
    (changes,) = changes_of([small], how, table)
    assert changes.features.tolist() == [5, 77, 999_999]
    assert changes.nbytes < 1000
    assert changes.__sizeof__() >= changes.nbytes


def test_an_error_in_the_middle_puts_the_table_back(monkeypatch):
    (shard, *_), how, new_table = problem()
    table, counts = new_table(), np.zeros(95, np.uint32)

    def failing(self, window, epoch):
        type(how).run_epoch(
            how,
            table,
            0,
            window.rows,
            window.targets[0],
            window.sample_weight,
            window.runs,
            self.run_length,
            epoch,
        )
        raise MemoryError

    monkeypatch.setattr("fmfast.solvers.sgd.StochasticRun.visit", failing)
    with pytest.raises(MemoryError):
        local_changes(table, counts, how, [shard], 0)
    np.testing.assert_array_equal(table.rows, new_table().rows)
    assert not counts.any()


def test_divergence_is_an_infinite_loss():
    shards, how, new_table = problem(solver="sgd", learning_rate=1e30)
    _, loss = local_changes(new_table(), np.zeros(95, np.uint32), how, shards, 0)
    assert loss == np.inf


# -- the merge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stale_updates", [0.0, 4.0, 30.0, np.inf])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_merge_is_the_formula(stale_updates, n_outputs):
    shards, how, new_table = problem(n_workers=4, n_outputs=n_outputs)
    table = new_table()
    all_changes = changes_of(shards, how, table)
    total = all_changes[0]
    for changes in all_changes[1:]:
        total = merged(total, changes)
    update = combined(total, stale_updates)
    parts = [dense(changes, table) for changes in all_changes]
    d = np.stack([change for change, _ in parts]).astype(float)  # (workers, outputs, features, stride)
    c = np.stack([counts for _, counts in parts])
    C, n = c.sum(axis=0), (c > 0).sum(axis=0)
    touched = C > 0
    mean = (c[:, None, :, None] * d).sum(axis=0)[:, touched] / C[touched][None, :, None]
    unseen = np.maximum(C - C / np.maximum(n, 1), 1)[touched]
    share = np.where(n[touched] > 1, np.minimum(1, stale_updates / unseen), 0.0)[None, :, None]
    expected = share * d.sum(axis=0)[:, touched] + (1 - share) * mean
    np.testing.assert_array_equal(update.features, np.flatnonzero(touched))
    np.testing.assert_allclose(update.rows, expected, rtol=2e-4, atol=1e-7)
    n_samples = np.array([changes.n_samples for changes in all_changes])
    bias = np.stack([changes.bias_mean for changes in all_changes])
    mean_w0 = (n_samples[:, None, None] * bias).sum(axis=0) / n_samples.sum()
    share_w0 = min(1.0, stale_updates / (n_samples.sum() * 3 / 4))
    np.testing.assert_allclose(update.bias, share_w0 * bias.sum(axis=0) + (1 - share_w0) * mean_w0, rtol=1e-9)


def test_order_and_grouping_of_the_merge_do_not_matter():
    shards, how, new_table = problem(n_workers=5)
    a, b, c, d, e = changes_of(shards, how, new_table())
    left = merged(merged(merged(merged(a, b), c), d), e)
    tree = merged(merged(e, c), merged(merged(b, d), a))
    for name in ("features", "counts", "workers"):
        np.testing.assert_array_equal(getattr(left, name), getattr(tree, name))
    for name in ("mean", "total", "bias_mean", "bias_total"):
        np.testing.assert_allclose(getattr(left, name), getattr(tree, name), rtol=1e-3, atol=1e-6)
    assert (left.n_workers, left.n_samples) == (tree.n_workers, tree.n_samples) == (5, 600)


@pytest.mark.parametrize("n_slices", [1, 2, 7, 200])
def test_slices_can_be_merged_apart(n_slices):
    shards, how, new_table = problem()
    a, b, c = changes_of(shards, how, new_table())
    whole = combined(merged(merged(a, b), c))
    cut = [merged(a, b).split(95, n_slices), c.split(95, n_slices)]
    slices = [combined(merged(*pair)) for pair in zip(*cut, strict=True)]
    np.testing.assert_array_equal(np.concatenate([s.features for s in slices]), whole.features)
    np.testing.assert_array_equal(np.concatenate([s.rows for s in slices], axis=1), whole.rows)
    np.testing.assert_array_equal(sum(s.bias for s in slices), whole.bias)
    assert whole.bias.any()


def test_what_one_worker_alone_has_seen_is_kept_whole():
    """Uniform averaging would leave a third of it."""
    shards, how, new_table = problem(sizes=(400, 30, 20))
    table = new_table()
    a, b, c = changes_of(shards, how, table)
    update = combined(merged(merged(a, b), c))
    alone = [f for f in a.features if f not in b.features and f not in c.features]
    assert alone
    np.testing.assert_array_equal(
        update.rows[:, np.searchsorted(update.features, alone)], a.mean[:, np.searchsorted(a.features, alone)]
    )


def test_changes_without_rows_change_nothing():
    shards, how, new_table = problem(n_workers=2)
    table = new_table()
    a, _ = changes_of(shards, how, table)
    (nothing,) = changes_of([Shard(shards[0].rows, shards[0].targets, NO_WEIGHT, 3)], how, table, (0, 10**6))
    assert len(nothing.features) == 0
    for both in (merged(a, nothing), merged(nothing, a)):
        np.testing.assert_array_equal(combined(both).rows, a.mean)
        np.testing.assert_allclose(both.bias_mean, a.bias_mean)
    assert merged(nothing, nothing).n_samples == 0


def test_exact_zeros_of_ftrl_stay_zeros():
    shards, how, new_table = problem(solver="ftrl", l1_w=30.0)
    table = new_table()
    table.w[:] = 0.37  # all steps lead to 0: the penalty is stronger than the data
    with_zero = new_table()
    with_zero.rows[:] = table.rows
    assert averaging.stale_updates_of(how) == 0
    update = combined(merged(*changes_of(shards[:2], how, with_zero)), 0)
    apply(with_zero, update)
    trained = [new_table() for _ in shards[:2]]
    for copy, shard in zip(trained, shards, strict=False):
        copy.rows[:] = table.rows
        train_share(copy, how, [shard], 0)
    zero = (trained[0].w == 0) & (trained[1].w == 0)
    assert zero.sum() > 10
    assert (with_zero.w[zero] == 0).all()


def test_rounds_of_workers_come_close_to_one_machine():
    X, y = planted(8000, noise=0.1)
    rows = check_X(X, dtype=FLOAT)
    y = (y - y.mean()) / y.std()
    how = SOLVERS["adagrad"].configured("regression", 3.0, reg_V=0.003)
    shards = [Shard(rows.part(a, a + 2000), [y[a : a + 2000]], NO_WEIGHT, a) for a in range(0, 8000, 2000)]

    def trained(n_merges, stale_updates):
        table = how.new_table(1, rows.n_features, 4, FLOAT, 0.1, 3)
        counts = np.zeros(rows.n_features, np.uint32)
        for epoch in range(8):
            loss = 0.0
            for i in range(n_merges):
                steps = [local_changes(table, counts, how, [shard], epoch, (i, n_merges)) for shard in shards]
                a, b, c, d = (changes for changes, _ in steps)
                loss += sum(loss for _, loss in steps)
                apply(table, combined(merged(merged(a, b), merged(c, d)), stale_updates))
        return loss / 8000

    table = how.new_table(1, rows.n_features, 4, FLOAT, 0.1, 3)
    alone = Shard(rows, [y], NO_WEIGHT, 0)
    local = [train_share(table, how, [alone], epoch) / 8000 for epoch in range(8)][-1]
    often, seldom, mean = trained(64, 4), trained(4, 4), trained(64, 0)
    assert local < 0.05
    assert often < 1.5 * local
    assert often < seldom
    assert often < mean


def test_schedule_of_the_merges():
    assert [averaging.merges_of_epoch(e, 1, 9) for e in range(3)] == [1, 1, 1]
    assert [averaging.merges_of_epoch(e, 8) for e in range(6)] == [16, 8, 4, 2, 2, 2]
    assert averaging.merges_of_epoch(0, 1000) == 32
    assert averaging.merges_of_epoch(5, 4, 3) == 3


def test_seeds_of_shards_differ_and_the_first_is_that_of_the_machine():
    seeds = [averaging.shard_seed(12, number) for number in range(50)]
    assert seeds[0] == 12
    assert len(set(seeds)) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)
