"""A Bayesian machine says how sure it is: standard deviations, intervals, and a posterior on disk."""

import tempfile
from pathlib import Path

import numpy as np

from fmfast import BayesianFMRegressor, load
from fmfast.datasets import load_chess_endgame

chess = load_chess_endgame()
print(chess.attribution)

for n_positions in (200, 2_000, 20_000):
    fm = BayesianFMRegressor(8, n_iter=100, random_state=0)
    fm.fit(chess.X_train[:n_positions], chess.y_train[:n_positions])
    mean, std = fm.predict(chess.X_test, return_std=True)
    lower, upper = fm.predict_interval(chess.X_test, coverage=0.9)
    rmse = np.sqrt(np.mean((mean - chess.y_test) ** 2))
    inside = np.mean((lower <= chess.y_test) & (chess.y_test <= upper))
    print(
        f"{n_positions:6,} positions: test RMSE {rmse:.2f}, mean std {std.mean():.2f}, "
        f"90% intervals hold {inside:.0%}"
    )

with tempfile.TemporaryDirectory() as directory:
    path = Path(directory) / "posterior.npz"
    fm.save(path)
    again = load(path)
    print(f"{path.stat().st_size / 1e6:.1f} MB with {again.n_kept_samples_} draws")
    assert np.array_equal(again.predict(chess.X_test), mean)

for i in range(3):
    print(
        f"{chess.describe(chess.X_test[[i]]):24} {mean[i]:5.1f} moves, between {lower[i]:5.1f} and "
        f"{upper[i]:5.1f}; in truth {chess.y_test[i]:.0f}"
    )
