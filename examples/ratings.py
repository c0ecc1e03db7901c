"""Ratings with side information: AdaGrad with early stopping, ALS, and a Bayesian machine.

Made-up ratings of 1 to 5 stars: a user likes some genres, a film belongs to one, and some films are good.
"""

import numpy as np
import scipy.sparse as sp

from fmfast import BayesianFMRegressor, FMRegressor

N_USERS, N_FILMS, N_GENRES, N_RATINGS = 500, 300, 8, 15_000

rng = np.random.default_rng(0)
user, film = rng.integers(0, N_USERS, N_RATINGS), rng.integers(0, N_FILMS, N_RATINGS)
genre = rng.integers(0, N_GENRES, N_FILMS)
taste, quality = rng.normal(size=(N_USERS, N_GENRES)), rng.normal(size=N_FILMS)
stars = 3.2 + 0.5 * quality[film] + 0.8 * taste[user, genre[film]] + 0.4 * rng.normal(size=N_RATINGS)
stars = np.clip(np.round(stars), 1, 5)


def rows_of(*fields):
    """Rows with a 1 per field; a field is a pair (codes, number of codes)."""
    starts = np.cumsum([0, *(size for _, size in fields)])
    columns = np.stack([codes + start for (codes, _), start in zip(fields, starts[:-1], strict=True)], axis=1)
    indptr = np.arange(0, columns.size + 1, len(fields))
    ones = np.ones(columns.size, dtype=np.float32)
    return sp.csr_array((ones, columns.ravel(), indptr), shape=(len(columns), starts[-1]))


X = rows_of((user, N_USERS), (film, N_FILMS), (genre[film], N_GENRES))
train, validation, test = slice(0, 11_000), slice(11_000, 12_500), slice(12_500, None)

adagrad = FMRegressor(8, max_iter=50, early_stopping=True, random_state=0)
adagrad.fit(X[train], stars[train], eval_set=(X[validation], stars[validation]))
print(f"AdaGrad stopped after {adagrad.n_iter_} epochs")

machines = {
    "biases only": FMRegressor(0, random_state=0).fit(X[train], stars[train]),
    "AdaGrad": adagrad,
    "ALS": FMRegressor(8, solver="als", max_iter=30, random_state=0).fit(X[train], stars[train]),
    "Bayesian": BayesianFMRegressor(8, random_state=0).fit(X[train], stars[train]),
}
for name, machine in machines.items():
    rmse = np.sqrt(np.mean((machine.predict(X[test]) - stars[test]) ** 2))
    print(f"{name:12} test RMSE {rmse:.3f}")
