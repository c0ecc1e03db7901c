"""The Gibbs sampler: each draw against its conditional distribution, long chains against the posterior."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import reference_chain
import scipy.sparse as sp
from numpy.testing import assert_allclose
from scipy.stats import gamma, kstest, truncnorm

from fmfast import BayesianFMRegressor
from fmfast.solvers import gibbs
from fmfast.solvers.gibbs import ChainState, GibbsSampler
from fmfast.validation import check_X

EMPTY = 3  # a column without samples
GROUPS = np.array([0, 0, 1, 1, 1, 0], dtype=np.int32)


def new_sampler(X, y, weight, n_factors, *, is_probit=False, groups=GROUPS, init_std=0.5, seed=1):
    chain = ChainState.new(1, n_factors, groups, np.dtype("float64"), init_std, seed)
    rows = check_X(sp.csr_array(X), dtype=np.dtype("float64"), name="X")
    return chain, GibbsSampler(chain, rows, [np.asarray(y, dtype=float)], weight, is_probit)


def random_data(n_samples, is_probit, weighted=False, seed=0):
    """Sparse rows with an empty column, and targets that depend on the columns and on a pair of them."""
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((n_samples, len(GROUPS))) < 0.6, rng.normal(size=(n_samples, len(GROUPS))), 0.0)
    X[:, EMPTY] = 0.0
    noise = 1.5 if is_probit else 0.7  # of labels that columns could separate, the posterior has heavy tails
    y = X[:, 0] - 0.5 * X[:, 4] + X[:, 1] * X[:, 2] + noise * rng.normal(size=n_samples)
    y = (y > 0).astype(float) if is_probit else (y - y.mean()) / y.std()
    return X, y, rng.uniform(0.3, 3.0, n_samples) if weighted else np.empty(0)


def assert_standard_normal(z):
    """z (n_draws, ...) are independent standard normal numbers: moments, distribution, no correlation."""
    z = z.reshape(len(z), -1)
    n = len(z)
    assert np.abs(z.mean(axis=0)).max() < 4.5 / np.sqrt(n)
    assert np.abs(z.var(axis=0) - 1.0).max() < 4.5 * np.sqrt(2.0 / n)
    assert abs(z.var() - 1.0) < 4.5 * np.sqrt(2.0 / z.size)
    assert kstest(z.ravel(), "norm").pvalue > 1e-4
    correlation = z.T @ z / n - np.diag((z**2).mean(axis=0))
    assert np.abs(correlation).max() < 5.0 / np.sqrt(n)


# -- one iteration ----------------------------------------------------------------------------------


def prior_draws_of(chain, w, V, v_variance):
    """(uniform, standard normal): what the draws of lambda, and of mu given it, become if those of eq. 21-24
    made them, mu being integrated out of the former."""
    counted = np.arange(len(GROUPS)) != EMPTY
    uniform, normal = [], []
    for g in range(chain.n_groups):
        for f in range(V.shape[1] + 1):
            theta = (V[:, f] if f < V.shape[1] else w)[counted & (g == GROUPS)]
            n, rate = len(theta), v_variance if f < V.shape[1] else 1.0
            # sum (theta - mean)^2 + n kappa / (n + kappa) mean^2, with the mean of the sample
            scatter = ((theta - theta.mean()) ** 2).sum() + n / (n + 1.0) * theta.mean() ** 2
            precision = chain.precision[0, g, f]
            uniform.append(gamma.cdf(precision, (1.0 + n) / 2, scale=2.0 / (rate + scatter)))
            mean = theta.sum() / (n + 1.0)
            normal.append((chain.mean[0, g, f] - mean) * np.sqrt((n + 1.0) * precision))
    return uniform, normal


@pytest.mark.parametrize("n_factors", [0, 3, 8])
@pytest.mark.parametrize("kind", ["regression", "weighted", "probit"])
def test_every_draw_of_an_iteration(kind, n_factors):
    """Turned back into what they should have been made of: uniform and standard normal numbers."""
    is_probit = kind == "probit"
    X, y, weight = random_data(25, is_probit, kind == "weighted")
    c = weight if len(weight) else np.ones(len(y))
    rng = np.random.default_rng(2)
    w0, w, V = 0.3, rng.normal(size=6), rng.normal(size=(6, n_factors))
    before = reference.score_of_pairs(X, w0, w, V)
    init_std = 0.5
    uniform, normal = [], []
    for seed in range(400):
        params = {"is_probit": is_probit, "init_std": init_std, "seed": seed}
        chain, sampler = new_sampler(X, y, weight, n_factors, **params)
        chain.n_iterations = 100 + seed % 3  # hyperparameters are no longer held
        chain.table.bias[0, 0], chain.table.w[0], chain.table.V[0] = w0, w, V
        sampler.iterate()
        target, alpha = y, chain.alpha[0]
        of_u, of_z = prior_draws_of(chain, w, V, init_std**2)
        if is_probit:
            target = sampler._latent[0]
            assert ((target > 0) == (y > 0)).all()
            low, high = np.where(y > 0, -before, -np.inf), np.where(y > 0, np.inf, -before)
            of_u += truncnorm.cdf(target - before, low, high).tolist()
            assert alpha == 1.0
        else:
            rate = (1.0 + (c * (before - y) ** 2).sum()) / 2
            of_u.append(gamma.cdf(alpha, (1.0 + c.sum()) / 2, scale=1.0 / rate))
        mean_w0 = w0 - (c * (before - target)).sum() / c.sum()
        of_z.append((chain.table.bias[0, 0] - mean_w0) * np.sqrt(alpha * c.sum()))
        # The columns in turn, those before with their new values.
        present_w, present_V = w.copy(), V.copy()
        for j in range(6):
            e = reference.score_of_pairs(X, chain.table.bias[0, 0], present_w, present_V) - target
            h, theta = reference.column_gradient(X, j, present_V), np.append(present_V[j], present_w[j])
            mean, precision = chain.mean[0, GROUPS[j]], chain.precision[0, GROUPS[j]]
            A = alpha * (h.T * c) @ h + np.diag(precision)
            optimum = np.linalg.solve(A, alpha * (h.T * c) @ (h @ theta - e) + precision * mean)
            present_V[j], present_w[j] = chain.table.V[0, j], chain.table.w[0, j]
            drawn = np.append(present_V[j], present_w[j])
            of_z += (np.linalg.cholesky(A).T @ (drawn - optimum)).tolist()
        uniform.append(of_u)
        normal.append(of_z)
    assert_standard_normal(np.array(normal))
    uniform = np.array(uniform)
    assert kstest(uniform.ravel(), "uniform").pvalue > 1e-4
    assert np.abs(uniform.mean(axis=0) - 0.5).max() < 4.5 / np.sqrt(12 * len(uniform))
    assert np.abs(uniform.var(axis=0) - 1 / 12).max() < 4.5 * np.sqrt(1 / 180 / len(uniform))


@pytest.mark.parametrize("n_factors", [0, 3, 8, 10, 17])
@pytest.mark.parametrize("is_probit", [False, True])
def test_residuals_follow_the_parameters(is_probit, n_factors):
    X, y, weight = random_data(25, is_probit)
    chain, sampler = new_sampler(X, y, weight, n_factors, is_probit=is_probit)
    for _ in range(15):
        sampler.iterate()
        table = chain.table
        expected = reference.score_of_pairs(X, table.bias[0, 0], table.w[0], table.V[0])
        assert_allclose(sampler.scores(0), expected, rtol=0, atol=1e-9)
    assert (table.rows[0, :, n_factors : table.width] == 0).all()


def test_the_priors_of_V_are_held_at_the_start():
    """Their variance grows from an eighth of 0.25 to all of it."""
    X, y, weight = random_data(35, False)
    chain, sampler = new_sampler(X, y, weight, 3)
    for iteration in range(35):
        sampler.iterate()
        is_held = iteration < 30
        held = 1.0 / (0.25 * 0.125 ** (1.0 - iteration / 29))
        assert (chain.mean[0, :, :3] == 0.0).all() == is_held
        assert np.allclose(chain.precision[0, :, :3], held, rtol=1e-12) == is_held
        assert (chain.mean[0, :, 3] != 0.0).all()


def test_every_use_of_random_numbers_has_a_stream_of_its_own():
    X, y, weight = random_data(25, False)
    first = set()
    uses = 0
    for seed in (1, 2):
        chain, sampler = new_sampler(X, y, weight, 3, seed=seed)
        for chain.n_iterations in range(3):
            for output in range(3):
                for purpose in (0, 1, gibbs._LATENT, gibbs._PRIOR):
                    for part in (0, 1, 1 << 16):
                        first |= set(sampler._rng(output, purpose, part).random(50).tolist())
                        uses += 50
    assert len(first) == uses


# -- latent variables --------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [0.0, 1.5, -3.0, 8.0, -8.5, 30.0, -30.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_latent_variables_are_truncated_normal(score, label):
    n = 70_000  # more than one part
    X = sp.csr_array((np.ones(1), ([0], [0])), shape=(n, 1))
    rows = check_X(X, dtype=np.dtype("float64"), name="X")
    chain = ChainState.new(1, 0, np.zeros(1, np.int32), np.dtype("float64"), 0.1, 3)
    sampler = GibbsSampler(chain, rows, [np.full(n, label)], np.empty(0), True)
    sampler._residuals = [np.full(n, score) - sampler._latent[0]]
    sampler._draw_latent(0, None)
    z = sampler._latent[0]
    assert_allclose(sampler.scores(0), score, rtol=0, atol=1e-12)
    assert np.isfinite(z).all()
    assert (z >= 0).all() if label else (z <= 0).all()
    bounds = (-score, np.inf) if label else (-np.inf, -score)
    expected = truncnorm(*bounds)
    mean, variance = expected.stats("mv")
    assert abs((z - score).mean() - mean) < 4.5 * np.sqrt(variance / n)
    # The squares have heavier tails: their error from themselves.
    squares = (z - score - mean) ** 2
    assert abs(squares.mean() - variance) < 4.5 * squares.std() / np.sqrt(n)
    assert kstest(z - score, expected.cdf).pvalue > 1e-4


@pytest.mark.parametrize("score", [1e3, 1e8, 1e15])
def test_latent_variables_of_absurd_scores_are_finite(score):
    y = np.array([0.0, 1.0, 0.0, 1.0])
    _, sampler = new_sampler(np.eye(4), y, np.empty(0), 0, is_probit=True, groups=np.zeros(4, np.int32))
    scores = np.array([-score, -score, score, score])
    sampler._residuals = [scores - y]
    sampler._draw_latent(0, None)
    z = sampler._latent[0]
    assert np.isfinite(z).all()
    # To rounding of the score.
    assert (np.where(y > 0, z, -z) > -1e-12 * score).all()
    assert_allclose(z[[0, 3]], scores[[0, 3]], atol=6 + 1e-12 * score)


# -- posteriors -------------------------------------------------------------------------------------


def batches_of(sampler, draw, n_burn_in, n_batches, length):
    """(n_batches, length, ...) of what `draw` returns after every iteration."""
    for _ in range(n_burn_in):
        sampler.iterate()
    drawn = []
    for _ in range(n_batches * length):
        sampler.iterate()
        drawn.append(draw())
    return np.array(drawn).reshape(n_batches, length, -1)


def assert_same_mean(batches, expected, error=0.0, *, precise):
    """Means over batches within 5 standard errors; these at most `precise`, or the test proves nothing."""
    mean, own_error = reference_chain.mean_and_error(batches)
    total = np.hypot(own_error, error)
    assert (total <= precise).all(), (total / precise).max()
    assert (np.abs(mean - expected) <= 5.0 * total).all(), (mean - expected) / total


@pytest.mark.parametrize("weighted", [False, True])
def test_posterior_of_a_linear_model_in_closed_form(monkeypatch, weighted):
    """With alpha and lambda known, (w0, w) is normal; mu makes the weights of a group correlated."""
    monkeypatch.setattr(gibbs, "SHAPE", 1e12)
    monkeypatch.setattr(gibbs, "RATE", 1e12)
    X, y, weight = random_data(30, False, weighted, seed=4)
    c = weight if weighted else np.ones(len(y))
    same_group = GROUPS[:, None] == GROUPS[None, :]
    precision = np.zeros((7, 7))
    precision[1:, 1:] = np.linalg.inv(np.eye(6) + same_group)  # N(0, 1) of w about mu, N(0, 1) of mu
    design = np.column_stack([np.ones(len(X)), X])
    covariance = np.linalg.inv(precision + (design.T * c) @ design)
    expected = covariance @ (design.T * c) @ y

    chain, sampler = new_sampler(X, y, weight, 0)
    table = chain.table
    draws = batches_of(sampler, lambda: np.append(table.bias[0, 0], table.w[0]), 100, 40, 250)
    sd = np.sqrt(np.diag(covariance))
    assert_same_mean((draws - expected) / sd, 0.0, precise=0.06)
    deviation = (draws - expected) / sd
    products = deviation[..., :, None] * deviation[..., None, :]
    correlation = covariance / np.outer(sd, sd)
    assert_same_mean(products.reshape(40, 250, 49), correlation.ravel(), precise=0.1)


@pytest.mark.parametrize(
    ("is_probit", "n_factors", "weighted"),
    [(False, 1, False), (False, 2, True), (True, 1, False), (True, 2, False)],
)
def test_posterior_of_predictions_is_that_of_a_plain_chain(is_probit, n_factors, weighted):
    X, y, weight = random_data(60 if is_probit else 30, is_probit, weighted, seed=5)
    init_std, chosen = 0.6, slice(0, 12)
    plain = reference_chain.run_chains(
        X, y, weight if weighted else np.ones(len(y)), n_factors, GROUPS, v_variance=init_std**2,
        is_probit=is_probit, X_new=X[chosen], n_chains=100, n_burn_in=150, n_iterations=350, seed=6,
    )  # fmt: skip
    center, error = reference_chain.mean_and_error(plain.scores)
    sd = plain.scores.std(axis=(0, 1))
    spread, spread_error = reference_chain.mean_and_error(((plain.scores - center) / sd) ** 2)

    chain, sampler = new_sampler(X, y, weight, n_factors, is_probit=is_probit, init_std=init_std, seed=7)

    def draw():
        return np.append(sampler.scores(0)[chosen], np.log(chain.alpha[0]))

    draws = batches_of(sampler, draw, 300, 40, 250)
    scores, log_alpha = draws[..., :-1], draws[..., -1:]
    assert_same_mean(scores / sd, center / sd, error / sd, precise=0.1)
    # E (score - center)^2 instead of the variance: a mean, whose error is known.
    assert_same_mean(((scores - center) / sd) ** 2, spread, spread_error, precise=0.2)
    if not is_probit:
        expected, error = reference_chain.mean_and_error(np.log(plain.alpha)[..., None])
        assert_same_mean(log_alpha, expected, error, precise=0.03)


# -- sparse data ------------------------------------------------------------------------------------


def planted_products(n_each, n_per_column, seed, n_test=4000):
    """Users and items whose target is a product of four factors, of variance 1, and noise of 0.5."""
    rng = np.random.default_rng(seed)
    user_factors, item_factors = rng.normal(size=(2, n_each, 4)) / np.sqrt(2.0)

    def draw(n):
        user, item = rng.integers(0, n_each, (2, n))
        indices = np.stack([user, n_each + item], axis=1).ravel()
        X = sp.csr_array((np.ones(2 * n), indices, np.arange(0, 2 * n + 1, 2)), shape=(n, 2 * n_each))
        return X, (user_factors[user] * item_factors[item]).sum(axis=1)

    X, truth = draw(n_each * n_per_column)
    return X, truth + 0.5 * rng.normal(size=len(truth)), *draw(n_test)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_run_stays_at_the_linear_solution(seed):
    X, y, X_test, truth = planted_products(1000, 30, seed)

    def error(**params):
        prediction = BayesianFMRegressor(random_state=seed, **params).fit(X, y).predict(X_test)
        return np.sqrt(np.mean((prediction - truth) ** 2))

    # A chain that has left the linear solution comes to a third of its error.
    assert error() < 0.5 * error(n_factors=0, n_iter=40)
