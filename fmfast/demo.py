"""`fmfast demo`: a factorization machine learns chess, against a linear model and against NumPy.

Trains on the data that ships with the package, prints what it does for readers who have never heard
of factorization machines, and leaves a model file and a picture behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from fmfast import numpy_baseline
from fmfast.datasets import ChessEndgame, load_chess_endgame
from fmfast.estimators import FMRegressor
from fmfast.numpy_baseline import Parameters

__all__ = ["Result", "run"]

MODEL_FILE = "chess_model.npz"
PICTURE_FILE = "learning_curves.png"

# One setting for all factorization machines of the demo.
N_FACTORS, EPOCHS, LEARNING_RATE, INIT_STD, SEED = 16, 30, 0.15, 0.1, 0
RIDGE = 1.0
SHOWN_DEPTHS = (1, 4, 8, 11, 13, 16)

INTRODUCTION = """\
How many moves to mate?

White has king and rook, Black has only the king, and Black is to move. Given where the three pieces
stand, predict how many moves White needs to mate (0 to 16). A position is six choices, such as
white_king_file=c or black_king_rank=5: a row of {n_columns} columns of which six are 1 and all others 0.
{n_train:,} positions to learn from, {n_test:,} others to test on.

Data: {attribution}

Three models
  linear        A weight per column. It cannot know that it is the distance of the kings that counts:
                that is not a matter of one column, but of two together.
  all pairs     A weight for every pair of columns as well: {n_pairs} pairs here, but 5 billion with
                100,000 columns, of which most never occur in the data.
  factorization {k} numbers v per column; the weight of a pair is the product <v_j, v_l>. So pairs that
  machine       were never seen get a weight, too, and time and memory grow with the columns, not with
                their pairs (Rendle 2010).

The factorization machine is trained three times with the same setting: in NumPy one sample at a time,
in NumPy {batch_size} samples at a time, and by fmfast one sample at a time.
"""


@dataclass
class Result:
    """What one model reached.

    Attributes
    ----------
    name : str
    n_parameters : int
    rmse : float
        Root mean squared error of the test rows, in moves.
    seconds : list of float
        Training time of each epoch; of the whole fit where there are no epochs.
    curve : list of float
        `rmse` after each epoch; empty where there are no epochs.
    """

    name: str
    n_parameters: int
    rmse: float = np.nan
    seconds: list[float] = field(default_factory=list)
    curve: list[float] = field(default_factory=list)

    @property
    def seconds_per_epoch(self) -> float:
        return median(self.seconds)


def run(
    output_dir: str | Path,
    *,
    picture: bool = True,
    numpy_seconds: float = 25.0,
    say: Callable[[str], Any] = print,
) -> list[Result]:
    """Run the demo; takes well under a minute.

    Parameters
    ----------
    output_dir : str or path-like
        Directory for the model file and the picture; created if missing.
    picture : bool
        Whether to draw the learning curves; needs matplotlib, and says so where it is missing.
    numpy_seconds : float
        Per-sample NumPy stops after the epoch in which its training time exceeds this.
    say : callable
        Receives the lines of the report.

    Returns
    -------
    list of Result
        Linear, all pairs, NumPy per sample, NumPy mini-batch, fmfast.

    Raises
    ------
    OSError
        If the files cannot be written.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    chess = load_chess_endgame()
    n_train, n_columns = chess.X_train.shape
    say(
        INTRODUCTION.format(
            n_columns=n_columns,
            n_train=n_train,
            n_test=chess.X_test.shape[0],
            n_pairs=n_columns * (n_columns - 1) // 2,
            k=N_FACTORS,
            batch_size=1024,
            attribution=chess.attribution,
        )
    )
    linear, linear_prediction = fit_ridge("linear", chess.X_train, chess.X_test, chess)
    quadratic, _ = fit_ridge("all pairs", with_pairs(chess.X_train), with_pairs(chess.X_test), chess)
    fm, estimator = fit_fmfast(chess)
    batch = fit_numpy("FM, NumPy mini-batch", chess, train_mini_batch)
    say(f"Training in NumPy, one sample at a time: up to {numpy_seconds:.0f} seconds ...\n")
    sample = fit_numpy("FM, NumPy per sample", chess, train_per_sample, numpy_seconds)
    results = [linear, quadratic, sample, batch, fm]

    say(table(results))
    say(positions(chess, estimator.predict(chess.X_test), linear_prediction))
    estimator.save(output_dir / MODEL_FILE)
    say(f"Model:   {output_dir / MODEL_FILE}  (read it with fmfast.load)")
    if picture:
        say(draw(results, output_dir / PICTURE_FILE, chess.attribution))
    return results


# ---------------------------------------------------------------------------------------------
# Models that are solved directly
# ---------------------------------------------------------------------------------------------


def fit_ridge(name: str, X: Any, X_test: Any, chess: ChessEndgame) -> tuple[Result, NDArray[np.float64]]:
    """Least squares with an L2 penalty, by the normal equations; the result and the test predictions.

    (X^T X + RIDGE I) b = X^T (y - mean(y))
    """
    started = time.perf_counter()
    mean = chess.y_train.mean()
    gram = (X.T @ X).toarray().astype(np.float64) + RIDGE * np.eye(X.shape[1])
    b = np.linalg.solve(gram, X.T @ (chess.y_train - mean))
    seconds = time.perf_counter() - started
    prediction = mean + X_test @ b
    return Result(name, 1 + X.shape[1], rmse(prediction, chess), [seconds]), prediction


def with_pairs(X: sp.csr_array) -> sp.csr_array:
    """X with one more column per pair of columns, x_j x_l for j < l; every row of X has equally many ones."""
    n_rows, n = X.shape
    columns = np.sort(X.indices.reshape(n_rows, -1), axis=1).astype(np.int64)
    first, second = np.triu_indices(columns.shape[1], 1)
    j, l_ = columns[:, first], columns[:, second]
    # Pairs are numbered row by row along the upper triangle.
    pairs = n + j * (2 * n - j - 1) // 2 + (l_ - j - 1)
    indices = np.hstack([columns, pairs])
    indptr = np.arange(n_rows + 1) * indices.shape[1]
    return sp.csr_array(
        (np.ones(indices.size), indices.ravel(), indptr), shape=(n_rows, n + n * (n - 1) // 2)
    )


# ---------------------------------------------------------------------------------------------
# Factorization machines
# ---------------------------------------------------------------------------------------------


def fit_fmfast(chess: ChessEndgame) -> tuple[Result, FMRegressor]:
    """The compiled kernel, through the estimator that users see."""
    estimator = FMRegressor(
        n_factors=N_FACTORS,
        solver="adagrad",
        max_iter=EPOCHS,
        learning_rate=LEARNING_RATE,
        reg_w=0.0,
        reg_V=0.0,
        init_std=INIT_STD,
        early_stopping=False,
        random_state=SEED,
    )
    # The test rows draw the curve; nothing is chosen by them.
    estimator.fit(chess.X_train, chess.y_train, eval_set=(chess.X_test, chess.y_test))
    result = Result("FM, fmfast", 1 + estimator.w_.size + estimator.V_.size)
    result.seconds = [record["seconds"] for record in estimator.history_]
    # The validation score is minus the mean squared error.
    result.curve = [float(np.sqrt(-record["validation_score"])) for record in estimator.history_]
    result.rmse = rmse(estimator.predict(chess.X_test), chess)
    return result, estimator


def train_per_sample(X: Any, y: NDArray[Any], p: Parameters, rng: np.random.Generator) -> None:
    """One epoch, in a new random order."""
    order = rng.permutation(X.shape[0])
    numpy_baseline.train_epoch(X, y, p, learning_rate=LEARNING_RATE, order=order)


def train_mini_batch(X: Any, y: NDArray[Any], p: Parameters, rng: np.random.Generator) -> None:
    """One epoch; the rows have a random order as they are."""
    numpy_baseline.train_epoch_mini_batch(X, y, p, learning_rate=LEARNING_RATE)


def fit_numpy(
    name: str,
    chess: ChessEndgame,
    train: Callable[[Any, NDArray[Any], Parameters, np.random.Generator], None],
    max_seconds: float = np.inf,
) -> Result:
    """A NumPy baseline, on a standardised target as the estimator does it."""
    rng = np.random.default_rng(SEED)
    p = Parameters.create(
        chess.X_train.shape[1], N_FACTORS, rng, solver="adagrad", init_std=INIT_STD, dtype=np.float32
    )
    mean, std = chess.y_train.mean(), chess.y_train.std()
    y = (chess.y_train - mean) / std
    result = Result(name, 1 + p.w.size + p.V.size)
    while len(result.seconds) < EPOCHS and sum(result.seconds) <= max_seconds:
        started = time.perf_counter()
        train(chess.X_train, y, p, rng)
        result.seconds.append(time.perf_counter() - started)
        result.curve.append(rmse(mean + std * numpy_baseline.score(chess.X_test, p), chess))
    result.rmse = result.curve[-1]
    return result


def rmse(prediction: NDArray[Any], chess: ChessEndgame) -> float:
    """Root mean squared error of the test rows."""
    return float(np.sqrt(np.mean((prediction - chess.y_test) ** 2)))


# ---------------------------------------------------------------------------------------------
# Report
# ---------------------------------------------------------------------------------------------


def table(results: list[Result]) -> str:
    """A line per model, fmfast last."""
    fmfast = results[-1].seconds_per_epoch
    head = f"{'model':22}{'test RMSE':>10}{'parameters':>12}{'epochs':>8}{'s / epoch':>11}"
    lines = [f"{head}   fmfast is faster by", "-" * 85]
    for r in results:
        start = f"{r.name:22}{r.rmse:10.3f}{r.n_parameters:12,}"
        if not r.curve:
            lines.append(f"{start}{'':8}{'':11}   (solved directly in {r.seconds[0]:.2f} s)")
            continue
        speed_up = "" if r is results[-1] else f"   {r.seconds_per_epoch / fmfast:.0f} x"
        lines.append(f"{start}{len(r.curve):8}{r.seconds_per_epoch:11.4f}{speed_up}")
    lines.append(
        "RMSE: root mean squared error, in moves; smaller is better. An epoch visits every row once.\n"
    )
    return "\n".join(lines)


def positions(chess: ChessEndgame, fm: NDArray[Any], linear: NDArray[Any]) -> str:
    """Some test positions by name: the first one of each of SHOWN_DEPTHS."""
    lines = [f"{'a few test positions':34}{'truth':>6}{'fmfast':>9}{'linear':>9}"]
    for depth in SHOWN_DEPTHS:
        i = int(np.flatnonzero(chess.y_test == depth)[0])
        lines.append(f"{chess.describe(chess.X_test[[i]]):34}{depth:6}{fm[i]:9.1f}{linear[i]:9.1f}")
    return "\n".join([*lines, ""])


def draw(results: list[Result], path: Path, attribution: str) -> str:
    """Write the learning curves; returns what to tell about it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return 'Picture: not drawn, matplotlib is not installed (pip install "fmfast[plot]").'
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    by_epoch, by_second = figure.subplots(1, 2, sharey=True)
    for r, colour in zip(results, ("0.6", "0.3", "tab:orange", "tab:blue", "tab:red"), strict=True):
        if r.curve:
            by_epoch.plot(np.arange(1, len(r.curve) + 1), r.curve, color=colour, label=r.name)
            by_second.plot(np.cumsum(r.seconds), r.curve, color=colour, label=r.name)
        else:
            for axes in (by_epoch, by_second):
                axes.axhline(r.rmse, color=colour, linestyle="--", label=r.name)
    by_epoch.set(xlabel="epochs", ylabel="test RMSE (moves)", ylim=(0.9, 1.7))
    by_second.set(xlabel="seconds of training", xscale="log")
    by_second.legend()
    figure.suptitle("King and rook against king: predicting the moves to mate")
    figure.supxlabel(f"Data: {attribution}", fontsize=6)
    figure.savefig(path, dpi=120)
    return f"Picture: {path}"
