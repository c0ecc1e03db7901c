"""Draws from a posterior: what predictions make of them, and which of them are kept."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from fmfast import posterior as module
from fmfast.posterior import Draw, Posterior, probit_probabilities, probit_scores
from fmfast.solvers.gibbs import ChainState
from fmfast.validation import check_X

rng = np.random.default_rng(11)
DENSE = np.where(rng.random((40, 7)) < 0.5, rng.normal(size=(40, 7)), 0.0)
ROWS = check_X(sp.csr_array(DENSE), dtype=np.dtype("float64"), name="X")


def random_posterior(n_draws=9, n_outputs=1, task="regression", size=1.0, seed=0, **meaning):
    rng = np.random.default_rng(seed)
    chain = ChainState.new(n_outputs, 3, np.zeros(7, np.int32), np.dtype("float64"), 0.5, seed)
    posterior = Posterior(chain, task, **meaning)
    for _ in range(n_draws):
        table = chain.table.copy()
        table.bias[:, 0] = size * rng.normal(size=n_outputs)
        table.w[:] = size * rng.normal(size=table.w.shape)
        table.V[:] = size * rng.normal(size=table.V.shape)
        posterior.draws.append(Draw(table, rng.uniform(0.5, 3.0, n_outputs)))
    return posterior


def scores_of(posterior):
    """(n_outputs, n_draws, n_rows), in solver units, from the definition."""
    return np.array(
        [
            [
                reference.score(DENSE, draw.table.w0[output], draw.table.w[output], draw.table.V[output])
                for draw in posterior.draws
            ]
            for output in range(posterior.n_outputs)
        ]
    )


# -- regression ---------------------------------------------------------------------------------------


def test_mean_and_standard_deviation_are_those_of_the_mixture():
    posterior = random_posterior(scale=2.5, offset=-7.0)
    scores = scores_of(posterior)[0]
    mean, std = posterior.mean_and_std(ROWS)
    assert_allclose(mean, 2.5 * scores.mean(axis=0) - 7.0, rtol=1e-12)
    # Of a new target: E y^2 - (E y)^2, over draws and noise.
    noise = np.array([1.0 / draw.alpha[0] for draw in posterior.draws])
    second = (scores**2 + noise[:, None]).mean(axis=0)
    assert_allclose(std, 2.5 * np.sqrt(second - scores.mean(axis=0) ** 2), rtol=1e-10)


def test_means_of_parameters_are_in_the_units_of_the_target():
    posterior = random_posterior(scale=2.5, offset=-7.0)
    assert posterior.w0 == pytest.approx(2.5 * np.mean([d.table.w0[0] for d in posterior.draws]) - 7.0)
    assert isinstance(posterior.w0, float)
    assert_allclose(posterior.w, 2.5 * np.mean([d.table.w[0] for d in posterior.draws], axis=0), rtol=1e-12)
    several = random_posterior(n_outputs=3, task="classification", classes=np.arange(3))
    assert several.w0.shape == (3,)
    assert_allclose(several.w, np.mean([d.table.w for d in several.draws], axis=0), rtol=1e-12)
    assert (several.n_features, several.n_factors, several.dtype) == (7, 3, np.dtype("float64"))


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 30.0])
@pytest.mark.parametrize("n_draws", [1, 2, 9])
@pytest.mark.parametrize("coverage", [1e-6, 0.2, 0.9, 0.999, 1 - 1e-12])
def test_interval_ends_at_quantiles_of_the_mixture(coverage, n_draws, size):
    posterior = random_posterior(n_draws, size=size, scale=2.5, offset=-7.0)
    scores = scores_of(posterior)[0]
    sd = np.array([draw.alpha[0] ** -0.5 for draw in posterior.draws])[:, None]
    tail = (1.0 - coverage) / 2
    lower, upper = ((bound + 7.0) / 2.5 for bound in posterior.interval(ROWS, coverage))
    assert (lower < upper).all()

    # Both from below: the distribution function loses its digits near 1.
    def quantile(centers):
        reach = 40 * sd.max()
        excess = lambda x: ndtr((x - centers) / sd[:, 0]).mean() - tail  # noqa: E731
        return brentq(excess, centers.min() - reach, centers.max() + reach, xtol=1e-13)

    expected = np.array([quantile(centers) for centers in scores.T])
    assert_allclose(lower, expected, rtol=1e-6, atol=1e-6)
    expected = np.array([-quantile(-centers) for centers in scores.T])
    # 1 - tail itself is rounded.
    tolerance = 1e-6 if tail > 1e-6 else 1e-3
    assert_allclose(upper, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("probability", [1e-13, 1e-5, 0.05, 0.3, 0.5, 0.7, 0.95, 0.99999])
@pytest.mark.parametrize("gap", [0.0, 3.0, 30.0, 1e4, 1e8])
def test_quantiles_of_far_apart_parts(gap, probability):
    """Between the parts the density vanishes, where Newton steps lead nowhere."""
    mean = np.array([[0.0, 0.0, -gap], [gap, 0.0, gap], [0.3 * gap, gap, 0.1]])
    precision = np.array([[1.0], [30.0], [0.2]])
    x = module._mixture_quantile(mean, precision, probability)
    found = ndtr((x - mean) * precision).mean(axis=0)
    # Right to the spacing of the numbers around x.
    step = 1e-8 * (1.0 + np.abs(x))
    below = ndtr((x - step - mean) * precision).mean(axis=0)
    above = ndtr((x + step - mean) * precision).mean(axis=0)
    within = (below <= probability) & (probability <= above)
    assert (within | np.isclose(found, probability, rtol=1e-6, atol=0)).all()


def test_coverage_next_to_one():
    posterior = random_posterior()
    lower, upper = posterior.interval(ROWS, float(np.nextafter(1.0, 0.0)))
    assert np.isfinite(lower).all()
    assert np.isfinite(upper).all()


def test_interval_holds_its_share_of_samples():
    posterior = random_posterior(n_draws=5)
    scores = scores_of(posterior)[0]
    lower, upper = posterior.interval(ROWS, 0.8)
    of_draw = rng.integers(0, 5, 20_000)
    alpha = np.array([draw.alpha[0] for draw in posterior.draws])
    y = scores[of_draw] + rng.normal(size=(20_000, 40)) / np.sqrt(alpha[of_draw])[:, None]
    for share in ((y < lower).mean(axis=0), (y > upper).mean(axis=0)):
        assert_allclose(share, 0.1, atol=5 * np.sqrt(0.09 / 20_000))


def test_a_single_draw_has_normal_quantiles():
    posterior = random_posterior(n_draws=1)
    score, sd = scores_of(posterior)[0, 0], posterior.draws[0].alpha[0] ** -0.5
    lower, upper = posterior.interval(ROWS, 0.95)
    assert_allclose(lower, norm.ppf(0.025, score, sd), rtol=1e-9)
    assert_allclose(upper, norm.ppf(0.975, score, sd), rtol=1e-9)


# -- classification -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_probabilities_are_means_over_the_draws(n_classes):
    n_outputs = 1 if n_classes == 2 else n_classes
    posterior = random_posterior(n_outputs=n_outputs, task="classification", classes=np.arange(n_classes))
    phi = norm.cdf(scores_of(posterior))
    p = np.stack([1 - phi[0], phi[0]]) if n_classes == 2 else phi / phi.sum(axis=0)
    mean, std = posterior.probabilities(ROWS)
    assert mean.shape == std.shape == (40, n_classes)
    assert_allclose(mean, p.mean(axis=1).T, rtol=1e-9)
    assert_allclose(std, p.std(axis=1).T, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("size", [0.0, 1.0, 40.0, 1e6, 1e150])
def test_probabilities_of_any_score_are_probabilities(n_outputs, size):
    scores = size * np.random.default_rng(0).normal(size=(n_outputs, 1000))
    scores[:, 0], scores[:, 1] = -size, size
    p = probit_probabilities(scores)
    assert p.shape == (max(2, n_outputs), 1000)
    assert ((p >= 0) & (p <= 1)).all()
    assert_allclose(p.sum(axis=0), 1.0, rtol=0, atol=1e-12)
    if n_outputs == 1:
        assert_array_equal(p[1] > 0.5, scores[0] > 0)
        # Neither end is lost in 1 - p.
        assert_allclose(p[0], ndtr(-scores[0]), rtol=1e-12)
    else:
        # Of several that are certain, none is more so.
        largest = np.take_along_axis(p, scores.argmax(axis=0)[None], axis=0)
        assert_allclose(largest[0], p.max(axis=0), rtol=1e-12)
        assert_allclose(p[:, :2], 1 / 3, rtol=1e-9)


def test_scores_of_probabilities():
    p = np.concatenate([[0.0, 5e-324, 1e-300], np.logspace(-20, -0.31, 400), [0.5]])
    p = np.concatenate([p, 1.0 - p[::-1][1:]])
    rest = np.concatenate([1.0 - p[:404], p[:403][::-1]])
    two = probit_scores(np.stack([rest, p], axis=1))
    many = probit_scores(np.stack([p, rest / 2, rest / 2], axis=1))
    for scores in (two[:, 1], -two[:, 0], many[:, 0]):
        assert np.isfinite(scores).all()
        assert (np.diff(scores) >= 0).all()
        assert_array_equal(np.sign(scores), np.sign(p - 0.5))
    inside = (p > 1e-290) & (p < 1)
    assert_allclose(two[inside, 1][:404], ndtri(p[inside][:404]), rtol=1e-9, atol=1e-12)
    # With two classes neither end loses digits: the scores are antisymmetric.
    assert_allclose(two[:, 1], -two[::-1, 1], rtol=1e-12, atol=1e-12)
    assert (np.diff(two[2:-2, 1]) > 0).all()


# -- blocks, threads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_blocks_and_threads_change_nothing(monkeypatch, n_outputs):
    task = "regression" if n_outputs == 1 else "classification"
    posterior = random_posterior(n_outputs=n_outputs, task=task)
    whole = all_of(posterior, 1)
    sizes = []
    score_table = module.score_table

    def counting(table, part):
        sizes.append(part.n_samples)
        return score_table(table, part)

    monkeypatch.setattr(module, "score_table", counting)
    for block in (1, 9 * n_outputs * 7, 9 * n_outputs * 40, 1 << 20):
        monkeypatch.setattr(module, "_BLOCK_SCORES", block)
        for n_threads in (1, 2, 5):
            sizes.clear()
            for values, expected in zip(all_of(posterior, n_threads), whole, strict=True):
                # A block ends its search for quantiles when the last of its rows is found.
                assert_allclose(values, expected, rtol=1e-12, atol=1e-7)
            assert max(sizes) == min(40, max(1, block // (9 * n_outputs)))
        # The number of threads has no influence at all.
        for values, expected in zip(all_of(posterior, 3), all_of(posterior, 1), strict=True):
            assert_array_equal(values, expected)


def all_of(posterior, n_threads):
    if posterior.task == "classification":
        return posterior.probabilities(ROWS, n_threads)
    return (*posterior.mean_and_std(ROWS, n_threads), *posterior.interval(ROWS, 0.9, n_threads))


# -- draws that are kept ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_kept", [1, 2, 3, 8])
def test_keeping_draws_halves_them_when_they_are_too_many(n_kept):
    posterior = random_posterior(n_draws=0)
    for iteration in range(100):
        posterior.chain.table.bias[0, 0] = iteration
        posterior.chain.alpha[0] = 1.0 + iteration
        if iteration % posterior.thinning == 0:
            posterior.keep_draw(n_kept)
            kept = [draw.table.w0[0] for draw in posterior.draws]
            # From the first on, evenly spaced, up to the latest that is in step.
            assert kept == list(range(0, iteration + 1, posterior.thinning))
            assert n_kept // 2 < len(kept) <= n_kept or iteration < n_kept
            assert [draw.alpha[0] - 1.0 for draw in posterior.draws] == kept
    assert posterior.thinning >= 100 / (2 * n_kept)


def test_a_draw_that_is_kept_stays_as_it_is():
    posterior = random_posterior(n_draws=0)
    posterior.keep_draw(5)
    draw = posterior.draws[0]
    before = draw.table.rows.copy()
    posterior.chain.table.rows[:] += 1.0
    posterior.chain.table.bias[:] += 1.0
    posterior.chain.alpha[:] += 1.0
    assert_array_equal(draw.table.rows, before)
    assert (draw.table.w0[0], draw.alpha[0]) == (0.0, 1.0)
