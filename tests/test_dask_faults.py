"""Workers that are killed, data that is lost, clients that go: training ends, or says why it cannot."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
from problems import planted

from fmfast import FMRegressor, averaging
from fmfast.averaging import Shard, apply, combined, local_changes, merged, train_share
from fmfast.validation import check_X

pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")

from dask import delayed  # noqa: E402
from dask_cluster import all_answer, cluster_of, die_in, kill_all, slots, spoil_table, wait_until  # noqa: E402
from distributed import Client  # noqa: E402

from fmfast.dask import DaskFMRegressor  # noqa: E402
from fmfast.dask.rounds import Training  # noqa: E402

X, y = planted(1500, noise=0.1)
N_EPOCHS = 4
SETTINGS = {"n_factors": 3, "max_iter": N_EPOCHS, "random_state": 0, "learning_rate": 0.5, "reg_V": 0.0}


@pytest.fixture(scope="module")
def clusters():
    """A list of one client; of another cluster, once processes that were killed have not come back."""
    with ExitStack() as stack:
        clients = [stack.enter_context(cluster_of(2))]
        yield stack, clients


@pytest.fixture
def client(clusters):
    stack, clients = clusters
    if not wait_until(lambda: all_answer(clients[0], 2), 20.0):
        clients[0] = stack.enter_context(cluster_of(2))
    return clients[0]


@pytest.fixture
def seen(monkeypatch):
    """The `Training` of each fit, and the errors from which it recovered."""
    trainings, errors = [], []
    begin, recover = Training.__init__, Training._recover

    def beginning(self, *arguments):
        trainings.append(self)
        begin(self, *arguments)

    def recovering(self, error):
        errors.append(error)
        recover(self, error)

    monkeypatch.setattr(Training, "__init__", beginning)
    monkeypatch.setattr(Training, "_recover", recovering)
    return trainings, errors


def parts():
    return [delayed((X[i::4], y[i::4])) for i in range(4)]


def assert_undisturbed(fm):
    """All epochs, once each, and as good as local training: what several workers do differs a little."""
    assert [record["epoch"] for record in fm.history_] == list(range(1, N_EPOCHS + 1))
    assert fm.score(X, y) > FMRegressor(**SETTINGS).fit(X, y).score(X, y) - 0.05


@pytest.mark.parametrize(("function", "on_call"), [
    ("check_part", 1),  # while the data is made ready
    ("local_changes", 1),  # in the first round
    ("local_changes", 4),
    ("apply", 1),  # of an update, one slice of two of which is added already
    ("merge_slices", 2),
    ("evaluate", 2),  # between epochs
    ("stretch_of", 1),  # when all is done, and the model on its way
])  # fmt: skip
def test_a_worker_is_killed(client, function, on_call, tmp_path):
    client.run(die_in, function, on_call, str(tmp_path / "died"))
    before = set(client.nthreads())
    fm = DaskFMRegressor(client=client, **SETTINGS).fit(parts(), eval_set=(X[:50], y[:50]))
    assert len(before & set(client.nthreads())) == 1
    assert_undisturbed(fm)
    assert wait_until(lambda: slots(client) == 0)


def test_no_update_is_added_twice(client, monkeypatch, tmp_path):
    """A worker is killed in the second of four rounds: the outcome is that of the rounds, each once."""
    chain, ends = {}, []  # for each state the one before it, and what led to it
    submit, leave = Training._submit_round, Training.__exit__

    def submitting(self, groups, epoch, i, n):
        before = self._state.name
        reports = submit(self, groups, epoch, i, n)
        chain[self._state.name] = before, list(groups.values()), i
        return reports

    def leaving(self, *exception):
        ends.append(self._state.name)
        leave(self, *exception)

    monkeypatch.setattr(Training, "_submit_round", submitting)
    monkeypatch.setattr(Training, "__exit__", leaving)
    client.run(die_in, "local_changes", 2, str(tmp_path / "died"))
    fm = DaskFMRegressor(client=client, merges_per_epoch=4, **SETTINGS | {"max_iter": 1}).fit(parts())
    assert (tmp_path / "died").exists()
    solver, state = fm._solver(fm.model_.training.row_norm), fm.model_.training
    table = solver.new_table(1, X.shape[1], 3, np.dtype("float32"), state.init_std, state.seed)
    targets = (y - fm.model_.offset) / fm.model_.scale
    shards = [
        Shard(
            check_X(X[i::4], dtype=np.dtype("float32")),
            [targets[i::4].copy()],
            np.empty(0),
            averaging.shard_seed(0, i),
        )
        for i in range(4)
    ]
    counts = np.zeros(X.shape[1], np.uint32)
    rounds, state = [], ends[0]
    while state != "start":
        state, *groups_and_turn = chain[state]
        rounds.insert(0, groups_and_turn)
    assert [turn for _, turn in rounds] == [0, 1, 2, 3]
    for groups, turn in rounds:
        workers = [[shards[i] for i in numbers] for numbers in groups]
        if len(workers) == 1:
            train_share(table, solver, workers[0], 0, (turn, 4))
            continue
        a, b = (local_changes(table, counts, solver, own, 0, (turn, 4))[0] for own in workers)
        apply(table, combined(merged(a, b)))
    np.testing.assert_allclose(fm.model_.table.rows, table.rows, rtol=1e-4, atol=1e-6)


def test_all_workers_are_killed_and_the_fit_starts_anew():
    with cluster_of(2) as client:
        killed = []

        def kill_once(record):
            if record["epoch"] == 2 and not killed:
                killed.append(True)
                kill_all(client)
                client.cluster.scale(3)  # a nanny does not always bring back the worker it has lost

        fm = DaskFMRegressor(client=client, callbacks=[kill_once], **SETTINGS).fit(parts())
    assert_undisturbed(fm)


def test_rows_of_the_client_are_sent_again(client, tmp_path):
    """One part, trained in place, is killed with all that its worker has: the outcome is the local one."""
    client.run(die_in, "train_share", 3, str(tmp_path / "died"))
    fm = DaskFMRegressor(client=client, **SETTINGS).fit(X, y)
    assert (tmp_path / "died").exists()
    np.testing.assert_array_equal(fm.w_, FMRegressor(**SETTINGS).fit(X, y).w_)


def test_a_table_that_is_not_as_it_should_be_is_replaced(client, seen):
    def spoil(record):
        if record["epoch"] == 2:
            client.run(spoil_table, workers=list(client.nthreads())[:1])

    fm = DaskFMRegressor(client=client, callbacks=[spoil], **SETTINGS).fit(parts())
    assert_undisturbed(fm)
    assert [type(error).__name__ for error in seen[1]] == ["StaleTable"]


def test_cancelled_futures_are_made_again(client, seen):
    def cancel(record):
        if record["epoch"] == 2:
            client.cancel(seen[0][0].parts[:2], force=True)

    fm = DaskFMRegressor(client=client, callbacks=[cancel], **SETTINGS).fit(parts())
    assert_undisturbed(fm)


def test_a_client_that_is_closed_is_told_and_leaves_nothing_behind(client):
    other = Client(client.scheduler.address)
    fm = DaskFMRegressor(client=other, callbacks=[lambda record: other.close()], **SETTINGS)
    with pytest.raises(ConnectionError, match="lost its connection"):
        fm.fit(parts())
    assert not hasattr(fm, "model_")
    assert wait_until(lambda: slots(client) == 0)


def test_workers_that_join_take_part(seen):
    with cluster_of(1) as client:

        def join(record):
            if record["epoch"] == 1:
                client.cluster.scale(2)
                client.wait_for_workers(2, timeout=30)

        fm = DaskFMRegressor(client=client, callbacks=[join], **SETTINGS).fit(parts())
    assert_undisturbed(fm)
    assert len(seen[0][0].reports[0, 0]) == 1
    assert len(seen[0][0].reports[N_EPOCHS - 1, 0]) == 2
    assert not seen[1]


def test_what_goes_wrong_again_and_again_is_given_up(client, monkeypatch):
    monkeypatch.setattr("fmfast.dask.rounds.MAX_RECOVERIES", 2)

    def spoil_all(self, *arguments, submit=Training._submit_round):
        client.run(spoil_table)
        self._state = type(self._state)("nothing")
        return submit(self, *arguments)

    monkeypatch.setattr(Training, "_submit_round", spoil_all)
    with pytest.raises(RuntimeError, match="given up after 2 attempts"):
        DaskFMRegressor(client=client, **SETTINGS).fit(parts())
