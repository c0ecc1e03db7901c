"""BayesianFMRegressor and BayesianFMClassifier: what they promise their users."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from refusal import state_of
from sklearn.base import clone
from sklearn.metrics import log_loss

from fmfast import BayesianFMClassifier, BayesianFMRegressor

BOTH = [BayesianFMRegressor, BayesianFMClassifier]
every_task = pytest.mark.parametrize(
    ("cls", "n_classes"), [(BayesianFMRegressor, 0), (BayesianFMClassifier, 2), (BayesianFMClassifier, 3)]
)


def small(cls, **params):
    return cls(**({"n_factors": 3, "n_iter": 12, "n_burn_in": 4, "random_state": 0} | params))


def one_hot(*fields):
    """Columns of several fields, given as (numbers, how many there are)."""
    starts = np.cumsum([0, *(size for _, size in fields)])
    indices = np.stack([start + numbers for start, (numbers, _) in zip(starts, fields, strict=False)], axis=1)
    n = len(indices)
    indptr = np.arange(n + 1) * len(fields)
    return sp.csr_array((np.ones(indices.size, np.float32), indices.ravel(), indptr), shape=(n, starts[-1]))


class Planted:
    """Users, items and their products of two factors: what is to be learned, as often as is asked for."""

    def __init__(self, n_users=150, n_items=100, seed=0):
        self.rng = np.random.default_rng(seed)
        self.sizes = n_users, n_items
        self.linear = [0.7 * self.rng.normal(size=size) for size in self.sizes]
        self.factors = [self.rng.normal(size=(size, 2)) / 2**0.25 for size in self.sizes]

    def draw(self, n, known=1.0):
        """(X, score), of users and items of the first part of the known ones."""
        numbers = [self.rng.integers(0, int(known * size), n) for size in self.sizes]
        score = sum(linear[of] for linear, of in zip(self.linear, numbers, strict=True))
        user, item = (factors[of] for factors, of in zip(self.factors, numbers, strict=True))
        score = score + (user * item).sum(axis=1)
        return one_hot(*zip(numbers, self.sizes, strict=True)), score


@pytest.fixture(scope="module")
def ratings():
    """(X, y) with 300 rows, of users, items and a number; y has noise."""
    planted = Planted(20, 15, seed=3)
    X, score = planted.draw(300)
    X = sp.csr_array(sp.hstack([X, sp.csr_array(planted.rng.normal(size=(300, 1)))]))
    return X, 10.0 + 3.0 * (score + 0.3 * planted.rng.normal(size=300))


def targets(cls, y, n_classes=2):
    cuts = np.quantile(y, np.arange(1, n_classes) / n_classes)
    return y if cls is BayesianFMRegressor else np.digitize(y, cuts)


def predictions(fm, X):
    """All numbers that it predicts."""
    if isinstance(fm, BayesianFMRegressor):
        return np.stack([*fm.predict(X, return_std=True), *fm.predict_interval(X)])
    return np.stack([*fm.predict_proba(X, return_std=True)])


# -- the same again --------------------------------------------------------------------------------


@every_task
def test_the_same_bytes_for_any_number_of_threads(cls, n_classes):
    rng = np.random.default_rng(1)
    n = 140_000  # of rows and of nonzeros of a field: several parts each
    X = one_hot(*((np.append(rng.integers(0, size, n - 1), size - 1), size) for size in (9000, 300, 5)))
    y = targets(cls, rng.normal(size=300)[X.indices[1::3] - 9000] + rng.normal(size=n), n_classes)
    fits = [
        small(cls, n_factors=9, n_iter=2, n_burn_in=1, n_jobs=n_jobs).fit(X, y, eval_set=(X[:9], y[:9]))
        for n_jobs in (1, 2, 3)
    ]
    first = predictions(fits[0], X)
    for fm in fits[1:]:
        assert_array_equal(predictions(fm, X), first)
        assert_array_equal(fm.model_.chain.table.rows, fits[0].model_.chain.table.rows)
        for key in ("loss", "validation_loss"):
            assert [record[key] for record in fm.history_] == [record[key] for record in fits[0].history_]


@pytest.mark.parametrize("cls", BOTH)
def test_random_state(cls, ratings):
    X, y = ratings[0], targets(cls, ratings[1])
    first = predictions(small(cls).fit(X, y), X)
    assert_array_equal(predictions(small(cls).fit(X, y), X), first)
    others = [1, np.random.default_rng(0), np.random.RandomState(0), None]
    different = [predictions(small(cls, random_state=state).fit(X, y), X) for state in others]
    for other in different:
        assert not np.isin(other, first).any()
    again = small(cls, random_state=np.random.default_rng(0)).fit(X, y)
    assert_array_equal(predictions(again, X), different[1])
    # A generator goes on: the next fit is another chain.
    assert not np.array_equal(predictions(again.fit(X, y), X), different[1])


# -- history, stopping --------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", BOTH)
def test_history_is_the_loss_of_the_mean_prediction(cls, ratings):
    X, y = ratings[0], targets(cls, ratings[1])
    seen = []
    fm = small(cls, n_iter=30, n_burn_in=5, dtype="float64", callbacks=[seen.append])
    fm.fit(X[:200], y[:200], eval_set=(X[200:], y[200:]))
    assert [record["iteration"] for record in fm.history_] == list(range(1, 31))
    assert all(list(record) == ["iteration", "loss", "validation_loss", "seconds"] for record in fm.history_)
    assert all(record["seconds"] >= 0 for record in fm.history_)
    assert (fm.n_iter_, fm.n_kept_samples_) == (30, 25)
    assert seen == fm.history_

    def loss(fm, rows):
        if cls is BayesianFMClassifier:
            return log_loss(y[rows], fm.predict_proba(X[rows]))
        return np.sqrt(np.mean((fm.predict(X[rows]) - y[rows]) ** 2))

    last = fm.history_[-1]
    assert last["loss"] == pytest.approx(loss(fm, slice(0, 200)), rel=1e-9)
    assert last["validation_loss"] == pytest.approx(loss(fm, slice(200, None)), rel=1e-9)
    # Of each record: that of the draws until then. During the burn-in, of one draw.
    part = copy.deepcopy(fm)
    for n_draws in (1, 2, 7):
        part.model_.draws = fm.model_.draws[:n_draws]
        assert fm.history_[4 + n_draws]["loss"] == pytest.approx(loss(part, slice(0, 200)), rel=1e-9)
    alone = small(cls, n_iter=4, n_burn_in=3, dtype="float64").fit(X[:200], y[:200])
    assert alone.history_[-1]["validation_loss"] is None
    assert fm.history_[3]["loss"] == pytest.approx(loss(alone, slice(0, 200)), rel=1e-9)


def test_history_of_weighted_samples(ratings):
    X, y = ratings
    weight = np.random.default_rng(0).integers(0, 3, len(y))
    fm = small(BayesianFMRegressor, dtype="float64").fit(X, y, weight)
    expected = np.average((fm.predict(X) - y) ** 2, weights=weight)
    assert fm.history_[-1]["loss"] == pytest.approx(np.sqrt(expected), rel=1e-9)


@pytest.mark.parametrize("cls", BOTH)
def test_callbacks_stop_the_fit_after_the_burn_in(cls, ratings, capsys):
    X, y = ratings[0], targets(cls, ratings[1])
    for wanted, n_iter in ((1, 5), (5, 5), (7, 7), (99, 12)):
        fm = small(cls, callbacks=[lambda record, n=wanted: record["iteration"] >= n, dict.clear])
        assert (fm.fit(X, y).n_iter_, fm.n_kept_samples_) == (n_iter, n_iter - 4)
        assert len(fm.history_) == n_iter
    assert capsys.readouterr().out == ""
    small(cls, verbose=1).fit(X, y, eval_set=(X, y))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[4].startswith("iteration    5  loss ")
    assert "validation loss" in lines[4]


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("cls", BOTH)
def test_a_fit_that_is_broken_off_changes_nothing(cls, error, ratings):
    X, y = ratings[0], targets(cls, ratings[1])

    def fail(record):
        if record["iteration"] % 12 == 9:
            raise error

    fitted, warm = small(cls).fit(X, y), small(cls, warm_start=True).fit(X, y)
    for fm in (small(cls), fitted, warm):
        # Compared without the callback, which cannot be pickled.
        before = state_of(fm)
        fm.set_params(callbacks=[fail])
        with pytest.raises(error):
            fm.fit(X, y)
        assert state_of(fm.set_params(callbacks=None)) == before
    # And it goes on as if nothing had happened.
    undisturbed = small(cls, warm_start=True).fit(X, y).fit(X, y)
    assert_array_equal(predictions(warm.fit(X, y), X), predictions(undisturbed, X))


# -- draws that are kept, warm_start -------------------------------------------------------------------


def positions(fm, whole):
    """The iterations after the burn-in, from 0, of the kept draws; `whole` kept them all."""
    all_w0 = [draw.table.bias[0, 0] for draw in whole.model_.draws]
    assert len(set(all_w0)) == len(all_w0)
    return [all_w0.index(draw.table.bias[0, 0]) for draw in fm.model_.draws]


@pytest.mark.parametrize("n_kept", [1, 2, 3, 7, 10, 27, 28, 29, 100])
def test_kept_draws_are_evenly_spaced(n_kept, ratings):
    X, y = ratings
    whole = small(BayesianFMRegressor, n_iter=96).fit(X, y)
    fm = small(BayesianFMRegressor, n_iter=32, n_kept_samples=n_kept).fit(X, y)
    least = min(n_kept, 28) // 2 + 1
    assert least <= fm.n_kept_samples_ <= n_kept
    step = fm.model_.thinning
    assert positions(fm, whole) == list(range(0, 28, step))
    # Continued: still evenly over the whole chain, and still no more.
    fm.set_params(warm_start=True).fit(X, y).fit(X, y)
    assert n_kept // 2 < fm.n_kept_samples_ <= n_kept
    step = fm.model_.thinning
    assert positions(fm, whole) == list(range(0, 92, step))


def test_fewer_draws_than_before_can_be_asked_for(ratings):
    X, y = ratings
    fm = small(BayesianFMRegressor, n_iter=44, warm_start=True).fit(X, y)
    fm.set_params(n_kept_samples=6, n_iter=2).fit(X, y)
    assert fm.n_kept_samples_ <= 6


@every_task
def test_warm_start_continues_the_chain(cls, n_classes, ratings):
    X, y = ratings[0], targets(cls, ratings[1], n_classes)
    # At a multiple of 16 iterations residuals are computed from scratch anyway.
    whole = small(cls, n_iter=40, dtype="float64").fit(X, y)
    parts = small(cls, n_iter=32, dtype="float64", warm_start=True).fit(X, y)
    parts.set_params(n_iter=8).fit(X, y)
    assert (parts.n_iter_, parts.n_kept_samples_, parts.model_.chain.n_iterations) == (8, 36, 40)
    assert [record["iteration"] for record in parts.history_] == list(range(1, 41))
    assert_allclose(predictions(parts, X), predictions(whole, X), rtol=1e-6)
    # A fit shorter than the burn-in is none too short to continue.
    parts.set_params(n_iter=1).fit(X, y)
    assert parts.n_kept_samples_ == 37
    # Without warm_start all begins anew.
    parts.set_params(n_iter=40, warm_start=False).fit(X, y)
    assert len(parts.history_) == parts.n_iter_ == 40
    assert_array_equal(predictions(parts, X), predictions(whole, X))


def test_a_continued_chain_is_as_good_as_a_long_one():
    planted = Planted(60, 40)
    X, score = planted.draw(1500)
    X_test, truth = planted.draw(2000)
    y = score + 0.5 * planted.rng.normal(size=len(score))
    errors = {}
    for seed in range(3):
        whole = BayesianFMRegressor(n_factors=4, random_state=seed)
        parts = clone(whole).set_params(n_iter=100, warm_start=True).fit(X, y)
        for fm in (whole, parts):
            fm.fit(X, y)
        assert whole.n_kept_samples_ == parts.n_kept_samples_ == 190
        for name, fm in (("whole", whole), ("parts", parts)):
            errors.setdefault(name, []).append(np.mean((fm.predict(X_test) - truth) ** 2))
    assert np.mean(errors["parts"]) < 1.05 * np.mean(errors["whole"])


# -- groups ------------------------------------------------------------------------------------------


def test_groups(ratings):
    X, y = ratings
    default = small(BayesianFMRegressor).fit(X, y)
    assert default.groups_.dtype == np.int32
    by_field = np.repeat([0, 1, 2], [20, 15, 1])
    assert_array_equal(default.groups_, by_field)
    same = [by_field, by_field.tolist(), by_field.astype(float), np.array([-7, 3, 10**12])[by_field]]
    for groups in same:
        fm = small(BayesianFMRegressor, groups=groups).fit(X, y)
        assert_array_equal(fm.groups_, by_field)
        assert_array_equal(predictions(fm, X), predictions(default, X))
    other = small(BayesianFMRegressor, groups=np.zeros(36)).fit(X, y)
    assert_array_equal(other.groups_, 0)
    assert other.model_.chain.n_groups == 1
    assert not np.isin(predictions(other, X), predictions(default, X)).any()
    # Equal groups by other numbers continue a chain.
    fm = small(BayesianFMRegressor, groups=by_field, warm_start=True).fit(X, y)
    fm.set_params(groups=10 * by_field).fit(X, y).set_params(groups=None).fit(X, y)
    assert_array_equal(fm.groups_, by_field)


# -- sample weights, units ----------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("float32", 2e-2)])
def test_weights_are_repetitions(dtype, tolerance, ratings):
    X, y = ratings
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    repeated = np.repeat(np.arange(len(y)), weight)
    fm = small(BayesianFMRegressor, n_iter=40, dtype=dtype)
    weighted = predictions(clone(fm).fit(X, y, sample_weight=weight), X)
    assert_allclose(weighted, predictions(clone(fm).fit(X[repeated], y[repeated]), X), rtol=tolerance)
    removed = weight > 0
    zero = predictions(clone(fm).fit(X, y, sample_weight=removed), X)
    assert_allclose(zero, predictions(clone(fm).fit(X[removed], y[removed]), X), rtol=tolerance)
    assert np.abs(weighted - zero).max() > 2 * tolerance * np.abs(zero).max()


@pytest.mark.parametrize(("a", "b"), [(1e-6, 0.0), (-3.0, 1e3), (1e9, -1e9)])
def test_targets_in_any_unit(a, b, ratings):
    X, y = ratings
    fm = small(BayesianFMRegressor, dtype="float64", n_iter=20).fit(X, y)
    other = small(BayesianFMRegressor, dtype="float64", n_iter=20)
    mean, std = fm.predict(X, return_std=True)
    if a > 0:
        other.fit(X, a * y + b, eval_set=(X, a * y + b))
        lower, upper = fm.predict_interval(X)
        of_mean, of_std = other.predict(X, return_std=True)
        assert_allclose(of_mean, a * mean + b, rtol=1e-7)
        assert_allclose(of_std, a * std, rtol=1e-7)
        # Of numbers as large as a and b, some of which nearly cancel.
        assert_allclose(other.predict_interval(X), (a * lower + b, a * upper + b), rtol=1e-6, atol=1e-8 * a)
        assert_allclose([other.w0_, *other.w_], [a * fm.w0_ + b, *(a * fm.w_)], rtol=1e-6, atol=1e-9 * a)
        assert other.noise_std_ == pytest.approx(a * fm.noise_std_)
        assert other.history_[-1]["validation_loss"] == pytest.approx(a * fm.history_[-1]["loss"])
    else:  # another chain, since noise has no sign, but the same posterior
        other.fit(X, a * y + b)
        assert np.corrcoef(other.predict(X), a * mean + b)[0, 1] > 0.97


@pytest.mark.parametrize("value", [0.0, 7.5, -1e12])
def test_a_constant_target_is_predicted(value, ratings):
    X, _ = ratings
    fm = small(BayesianFMRegressor).fit(X, np.full(X.shape[0], value))
    mean, std = fm.predict(X, return_std=True)
    assert np.abs(mean - value).max() < 1.0 + 1e-6 * abs(value)
    assert (std > 0).all()
    lower, upper = fm.predict_interval(X)
    assert ((lower < value) & (value < upper)).mean() > 0.9


# -- uncertainty --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated():
    """A regressor of planted ratings with noise of 0.5, new ratings, and ratings of users never seen."""
    planted = Planted()
    X, score = planted.draw(6000, known=0.8)
    fm = BayesianFMRegressor(n_factors=4, n_burn_in=80, random_state=0)
    fm.fit(X, score + 0.5 * planted.rng.normal(size=len(score)))
    X_new, truth = planted.draw(6000, known=0.8)
    X_unseen, unseen = planted.draw(10_000)
    is_unseen = X_unseen[:, 120:150].sum(axis=1) > 0  # the users of whom X had none
    y_new = truth + 0.5 * planted.rng.normal(size=6000)
    y_unseen = unseen + 0.5 * planted.rng.normal(size=10_000)
    return fm, X_new, y_new, X_unseen[is_unseen], y_unseen[is_unseen]


@pytest.mark.parametrize(("coverage", "tolerance"), [(0.9, 0.03), (0.5, 0.04)])
def test_intervals_cover_what_they_promise(calibrated, coverage, tolerance):
    fm, X, y, X_unseen, y_unseen = calibrated
    lower, upper = fm.predict_interval(X, coverage=coverage)
    assert abs(((lower <= y) & (y <= upper)).mean() - coverage) < tolerance
    # As many above as below.
    assert abs((y < lower).mean() - (y > upper).mean()) < tolerance
    # The factors of 30 users are few to go by.
    lower, upper = fm.predict_interval(X_unseen, coverage=coverage)
    assert abs(((lower <= y_unseen) & (y_unseen <= upper)).mean() - coverage) < 3 * tolerance


def test_standard_deviations(calibrated):
    fm, X, y, X_unseen, y_unseen = calibrated
    assert 0.47 < fm.noise_std_ < 0.53
    mean, std = fm.predict(X, return_std=True)
    assert_array_equal(mean, fm.predict(X))
    assert std.min() > fm.noise_std_  # that of a new target, not that of the score
    assert np.mean(((y - mean) / std) ** 2) == pytest.approx(1.0, abs=0.08)
    # Who has never been seen is less known.
    unseen_mean, unseen_std = fm.predict(X_unseen, return_std=True)
    assert unseen_std.min() > np.quantile(std, 0.99)
    assert np.mean(((y_unseen - unseen_mean) / unseen_std) ** 2) == pytest.approx(1.0, abs=0.4)


def test_intervals_are_nested(calibrated):
    fm, X, *_ = calibrated
    coverages = (1e-9, 0.1, 0.5, 0.9, 0.99, 1 - 1e-9)
    bounds = [fm.predict_interval(X[:200], coverage=coverage) for coverage in coverages]
    for (lower, upper), (wider_lower, wider_upper) in pairwise(bounds):
        assert (wider_lower < lower).all()
        assert (upper < wider_upper).all()
    median = np.mean(bounds[0], axis=0)
    mean, std = fm.predict(X[:200], return_std=True)
    assert np.abs((median - mean) / std).max() < 0.2
    assert_array_equal(fm.predict_interval(X[:200]), bounds[3])
