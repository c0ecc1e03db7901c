"""Accuracy on real data: how the default settings were chosen, and what they reach.

    python -m bench.accuracy FOLDER [--grid]

FOLDER holds `frappe-nfm-recon.npz`, `ml-100k-u3.npz` and `ml-100k-u3-side.npz`: CSR arrays named
train_data, train_indices, train_indptr, train_shape, train_y, and the same for test_ (and valid_). These data
sets may be used for research only and are no part of this project; the chess data is. A set that is absent is
skipped with a note. `--grid` also prints the neighbourhood of the defaults.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from fmfast import BayesianFMClassifier, BayesianFMRegressor, FMClassifier, FMRegressor
from fmfast.datasets import load_chess_endgame

SEEDS = (0, 1, 2)
ALS = {"solver": "als", "max_iter": 30}
BAYESIAN = {"machine": BayesianFMRegressor}


def load_part(path: Path, part: str) -> tuple[sp.csr_array, np.ndarray]:
    """One of "train", "valid", "test" of a file."""
    with np.load(path, allow_pickle=False) as arrays:
        csr = tuple(arrays[f"{part}_{name}"] for name in ("data", "indices", "indptr"))
        return sp.csr_array(csr, shape=tuple(arrays[f"{part}_shape"])), arrays[f"{part}_y"]


def auc(y: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve, from the ranks of the positives (ties share their mean rank)."""
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2
    positive = y > 0
    n_positive = positive.sum()
    u = mean_rank[inverse][positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * (len(y) - n_positive)))


def log_loss(y: np.ndarray, probability: np.ndarray) -> float:
    p = np.clip(np.where(y > 0, probability, 1 - probability), 1e-15, 1)
    return float(-np.log(p).mean())


def frappe(path: Path, **settings) -> dict[str, float]:
    """Clicks; early stopping on the validation part."""
    validation, test = load_part(path, "valid"), load_part(path, "test")
    fm = FMClassifier(n_factors=10, early_stopping=True, **settings)
    fm.fit(*load_part(path, "train"), eval_set=validation)
    probability = fm.predict_proba(test[0])[:, 1]
    return {
        "test AUC": auc(test[1], probability),
        "test logloss": log_loss(test[1], probability),
        "epochs": fm.n_iter_,
        "seconds": sum(record["seconds"] for record in fm.history_),
    }


def bayesian_frappe(path: Path, **settings) -> dict[str, float]:
    """Clicks; the training part alone."""
    test = load_part(path, "test")
    fm = BayesianFMClassifier(**settings).fit(*load_part(path, "train"))
    probability = fm.predict_proba(test[0])[:, 1]
    return {
        "test AUC": auc(test[1], probability),
        "test logloss": log_loss(test[1], probability),
        "seconds": sum(record["seconds"] for record in fm.history_),
    }


def ratings(path: Path, **settings) -> dict[str, float]:
    """Ratings; a fixed number of epochs."""
    test = load_part(path, "test")
    return regression(load_part(path, "train"), test, n_factors=10, **settings)


def chess(**settings) -> dict[str, float]:
    """Depth of win."""
    data = load_chess_endgame()
    return regression((data.X_train, data.y_train), (data.X_test, data.y_test), n_factors=16, **settings)


def regression(train, test, machine=FMRegressor, **settings) -> dict[str, float]:
    fm = machine(**settings).fit(*train)
    found = {
        "test RMSE": float(np.sqrt(np.mean((fm.predict(test[0]) - test[1]) ** 2))),
        "epochs": fm.n_iter_,
        "seconds": sum(record["seconds"] for record in fm.history_),
    }
    if machine is BayesianFMRegressor:
        lower, upper = fm.predict_interval(test[0], coverage=0.9)
        found["in 90%"] = float(np.mean((lower <= test[1]) & (test[1] <= upper)))
    return found


def report(name: str, run, settings: dict) -> None:
    """Mean over the seeds, and the range of each score."""
    results = [run(random_state=seed, **settings) for seed in SEEDS]
    shown = {key: getattr(value, "__name__", repr(value)) for key, value in settings.items()}
    text = ", ".join(f"{key}={value}" for key, value in shown.items()) or "default settings"
    print(f"{name:<20} {text}")
    for key in results[0]:
        values = [result[key] for result in results]
        print(f"    {key:<13} {np.mean(values):.4f}   ({min(values):.4f} .. {max(values):.4f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grid", action="store_true")
    arguments = parser.parse_args()

    file_of = {name: arguments.folder / f"{name}.npz" for name in ("frappe-nfm-recon", "ml-100k-u3")}
    file_of["ml-100k-u3-side"] = arguments.folder / "ml-100k-u3-side.npz"
    runs = {
        "frappe-nfm-recon": (frappe, [{}, {"solver": "sgd", "learning_rate": 0.02, "max_iter": 50}]),
        "ml-100k-u3": (ratings, [{}, {"learning_rate": 0.1}, ALS, BAYESIAN]),
        "ml-100k-u3-side": (ratings, [{}, {"reg_V": 0.05}, ALS, BAYESIAN]),
    }
    for name, (run, settings_list) in runs.items():
        if not file_of[name].exists():
            print(f"{name}: skipped, there is no {file_of[name].name} in {arguments.folder}")
            continue
        for settings in settings_list:
            report(name, lambda run=run, name=name, **kw: run(file_of[name], **kw), settings)
        if arguments.grid:
            for rate, reg_V, init_std in product((0.1, 0.2, 0.5), (0.0, 0.03, 0.1), (0.01, 0.02, 0.05)):
                settings = {"learning_rate": rate, "reg_V": reg_V, "init_std": init_std}
                report(name, lambda run=run, name=name, **kw: run(file_of[name], **kw), settings)
    if file_of["frappe-nfm-recon"].exists():
        for n_factors in (10, 16):
            settings = {"n_factors": n_factors}
            report(
                "frappe, Bayesian", lambda **kw: bayesian_frappe(file_of["frappe-nfm-recon"], **kw), settings
            )
    report("chess", chess, {})
    report("chess", chess, {"reg_w": 0.0, "reg_V": 0.0, "max_iter": 50})
    report("chess", chess, {**ALS, "reg_w": 0.003, "reg_V": 0.003})
    report("chess", chess, BAYESIAN)


if __name__ == "__main__":
    main()
