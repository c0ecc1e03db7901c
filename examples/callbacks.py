"""Stop on a metric of your own, look at every epoch, and draw learning curves."""

import tempfile
import time
from pathlib import Path

import numpy as np

from fmfast import FMRegressor, plot
from fmfast.datasets import load_chess_endgame

chess = load_chess_endgame()
validation = (chess.X_test, chess.y_test)


def within_a_move(y, prediction):
    """The part of the positions that is predicted to a move: higher is better."""
    return np.mean(np.abs(y - prediction) <= 1.0)


def report(record):
    if record["epoch"] % 10 == 0:
        print(f"epoch {record['epoch']:3}: loss {record['loss']:.3f}, score {record['validation_score']:.3f}")


deadline = time.monotonic() + 60
fm = FMRegressor(
    16,
    max_iter=100,
    reg_w=0.0,
    reg_V=0.0,
    early_stopping=True,
    n_iter_no_change=10,
    scoring=within_a_move,
    callbacks=[report, lambda record: time.monotonic() > deadline],  # a true value stops the fit
    random_state=0,
)
fm.fit(chess.X_train, chess.y_train, eval_set=validation)
best = max(fm.history_, key=lambda record: record["validation_score"])
print(f"stopped after {fm.n_iter_} epochs; the best was {best['epoch']} with {best['validation_score']:.3f}")
assert within_a_move(chess.y_test, fm.predict(chess.X_test)) == best["validation_score"]

runs = {
    f"rate {rate}": FMRegressor(
        16, max_iter=30, learning_rate=rate, reg_w=0.0, reg_V=0.0, random_state=0
    ).fit(chess.X_train, chess.y_train, eval_set=validation)
    for rate in (0.05, 0.2)
}
path = Path(tempfile.gettempdir()) / "fmfast_learning_curves.png"
plot.learning_curves(*runs.values(), labels=list(runs)).figure.savefig(path)
print("picture:", path)
