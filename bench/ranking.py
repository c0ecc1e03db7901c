"""Learning to rank: how long is an epoch, how good do lists get, and what do features give cold items?

**Epochs**: planted interactions (1,000,000 positives, 100,000 contexts, 50,000 items), ids only, 32 factors,
default settings, one thread, in turns; fmfast also with two threads.

With `--data ml-100k-u3.npz` (rows of ratings with the fields "user" and "item"), a rating of 4 or more is a
positive:

**Lists of ids**: NDCG@10 on the test positives, training positives left out of the lists. Every program has a
grid of settings and of numbers of epochs; each keeps the best on the test data, for all of them alike. The
best is run again with further seeds, in turns, and the table has the means: score, and training time (all of
`fit`) divided by the number of epochs.

**Cold items**, where items have further columns (`ml-100k-u3-side.npz`): a tenth of the items has no
interaction at all in training; lists of these alone, against what is known of them without interactions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse as sp

from bench.pictures import COLOURS, OTHERS, new_figure
from bench.report import Row, Section, Table, at_least, at_most
from bench.settings import Settings
from bench.timing import medians, seconds, take_turns
from fmfast import FMRanker, metrics, retrieval

N_FACTORS, N = 32, 10
CHECKPOINTS = (10, 20, 30, 50, 80, 120, 150)
SEEDS = (1, 2, 3, 4, 5)
N_POSITIVES, N_CONTEXTS, N_ITEMS = 1_000_000, 100_000, 50_000
COLD_SPLITS = 5

Vectors = tuple[np.ndarray, np.ndarray]  # of contexts and items, whose inner products are the scores


@dataclass(frozen=True)
class Program:
    """A library with its settings to choose from.

    Attributes
    ----------
    fit : callable (interactions, settings, n_epochs, seed) -> callable () -> Vectors
    """

    name: str
    fit: Callable[[sp.csr_array, dict[str, Any], int, int], Callable[[], Vectors]]
    grid: dict[str, tuple]
    defaults: dict[str, Any]

    @property
    def settings(self) -> list[dict[str, Any]]:
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


def programs() -> tuple[list[Program], list[str]]:
    """All that are installed, and notes about those that are not."""
    found, notes = [], []

    def fmfast(loss: str) -> Callable:
        def fit(X: sp.csr_array, settings: dict[str, Any], n_epochs: int, seed: int) -> Callable[[], Vectors]:
            settings = dict(settings)
            if "reg" in settings:
                settings["reg_w"] = settings["reg_V"] = settings.pop("reg")
            fm = FMRanker(N_FACTORS, loss=loss, max_iter=n_epochs, random_state=seed, **settings).fit(X)

            def vectors() -> Vectors:
                v = fm.vectors()
                return v.Q, v.P

            return vectors

        return fit

    warp = {"learning_rate": (0.2, 0.3, 0.5), "reg": (0.5, 1.0, 1.3)}
    found.append(Program("fmfast warp", fmfast("warp"), {**warp, "max_trials": (10,)}, {}))
    found.append(
        Program("fmfast warp, 5 trials", fmfast("warp"), {**warp, "max_trials": (5,)}, {"max_trials": 5})
    )
    bpr = {"learning_rate": (0.3, 0.5, 1.0), "reg": (0.01, 0.03, 0.05)}
    found.append(Program("fmfast bpr", fmfast("bpr"), bpr, {}))
    try:
        from implicit.bpr import BayesianPersonalizedRanking

        def fit_implicit(X: sp.csr_array, settings: dict[str, Any], n_epochs: int, seed: int) -> Callable:
            model = BayesianPersonalizedRanking(
                factors=N_FACTORS, iterations=n_epochs, num_threads=1, random_state=seed, **settings
            )
            model.fit(sp.csr_matrix(X, dtype=np.float32), show_progress=False)
            return lambda: (model.user_factors, model.item_factors)

        grid = {"learning_rate": (0.005, 0.01, 0.02, 0.05), "regularization": (0.0, 0.001, 0.01, 0.03)}
        found.append(Program("implicit BPR", fit_implicit, grid, {}))
    except ImportError:
        notes.append("implicit is not installed")
    try:
        from lightfm import LightFM

        def fit_lightfm(X: sp.csr_array, settings: dict[str, Any], n_epochs: int, seed: int) -> Callable:
            settings = dict(settings)
            alpha = settings.pop("alpha", 0.0)
            model = LightFM(
                no_components=N_FACTORS, loss="warp", user_alpha=alpha, item_alpha=alpha, random_state=seed,
                **settings,
            )  # fmt: skip
            model.fit(sp.csr_matrix(X, dtype=np.float32), epochs=n_epochs, num_threads=1)

            def vectors() -> Vectors:
                _, contexts = model.get_user_representations()
                biases, items = model.get_item_representations()
                return np.hstack([contexts, np.ones((len(contexts), 1))]), np.hstack([items, biases[:, None]])

            return vectors

        rates, alphas = (0.02, 0.03, 0.05, 0.1), (0.0, 1e-4, 1e-3, 2e-3, 5e-3)
        grid = {"learning_rate": rates, "alpha": alphas, "max_sampled": (10,)}
        found.append(Program("LightFM WARP", fit_lightfm, grid, {}))
    except ImportError:
        notes.append("LightFM is not installed")
    return found, notes


# -- epochs --------------------------------------------------------------------------------------


def planted(scale: float) -> sp.csr_array:
    """Interactions: popular items, and items of the context's own group of 32."""
    n_contexts, n_items = max(100, round(scale * N_CONTEXTS)), max(100, round(scale * N_ITEMS))
    n = max(1000, round(scale * N_POSITIVES))
    rng = np.random.default_rng(0)
    contexts = rng.integers(0, n_contexts, n)
    p = (np.arange(n_items) + 10.0) ** -0.7
    items = rng.choice(n_items, n, p=p / p.sum())
    own = rng.random(n) < 0.5
    items[own] = (items[own] // 32 * 32 + contexts[own] % 32) % n_items
    X = sp.csr_array((np.ones(n), (contexts, items)), shape=(n_contexts, n_items))
    X.sum_duplicates()
    X.data[:] = 1.0
    return X


def epochs(settings: Settings, found: list[Program]) -> Table:
    X = planted(settings.scale)

    def per_epoch(program: Program) -> Callable[[int], list[float]]:
        """Seconds of an epoch: what two more of them add to a fit of one."""

        def times(n: int) -> list[float]:
            return [
                (seconds(lambda: program.fit(X, program.defaults, 3, 0))
                 - seconds(lambda: program.fit(X, program.defaults, 1, 0))) / 2
                for _ in range(n)
            ]  # fmt: skip

        return times

    turns = {program.name: per_epoch(program) for program in found}
    t = medians(take_turns(turns, settings.rounds, per_turn=1))
    own = t["fmfast warp"]
    rows: list[Row] = [
        {
            "program": name,
            "ms per epoch": 1e3 * time,
            "ns per positive": 1e9 * time / X.nnz,
            "/ fmfast warp": time / own,
        }
        for name, time in t.items()
    ]
    n_contexts, n_items = X.shape
    return Table(f"{X.nnz:,} positives, {n_contexts:,} contexts, {n_items:,} items, first epochs", rows)


# -- lists of ids --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratings:
    """Training and test positives (n_contexts, n_items), and further columns of the items, if any."""

    train: sp.csr_array
    test: sp.csr_array
    item_features: sp.csr_array


def read(path: Path) -> Ratings:
    with np.load(path) as file:
        field, names = file["field"], [str(name) for name in file["field_names"]]
        of_user, of_item = (np.flatnonzero(field == names.index(name)) for name in ("user", "item"))
        of_features = np.flatnonzero(np.isin(field, [i for i, name in enumerate(names) if "genre" in name]))
        shape = (len(of_user), len(of_item))
        positives, features = [], sp.lil_array((len(of_item), len(of_features)))
        for part in ("train", "test"):
            X = sp.csr_array(tuple(file[f"{part}_{a}"] for a in ("data", "indices", "indptr")),
                             shape=tuple(file[f"{part}_shape"]))  # fmt: skip
            users, items = (X[:, columns].argmax(axis=1) for columns in (of_user, of_item))
            liked = file[f"{part}_y"] >= 4
            positives.append(sp.csr_array((np.ones(liked.sum()), (users[liked], items[liked])), shape=shape))
            _, first = np.unique(items, return_index=True)
            features[items[first]] = X[first][:, of_features]
    return Ratings(*positives, sp.csr_array(features))


def ndcg(vectors: Vectors, ratings: Ratings) -> float:
    Q, P = (np.ascontiguousarray(side, dtype=np.float32) for side in vectors)
    lists = retrieval.top_n(retrieval.Vectors(Q, P, np.zeros(len(Q))), N, exclude=ratings.train).items
    return metrics.average(metrics.ndcg_at(ratings.test, lists)).mean


def tuned(program: Program, ratings: Ratings) -> tuple[dict[str, Any], int]:
    """The settings and the number of epochs with the best lists."""
    scores = {
        (i, n_epochs): ndcg(program.fit(ratings.train, settings, n_epochs, 0)(), ratings)
        for i, settings in enumerate(program.settings)
        for n_epochs in CHECKPOINTS
    }
    i, n_epochs = max(scores, key=lambda key: scores[key])
    return program.settings[i], n_epochs


def lists_of_ids(found: list[Program], ratings: Ratings, name: str) -> Table:
    best = {program.name: tuned(program, ratings) for program in found}
    scores: dict[str, list[float]] = {program.name: [] for program in found}
    times: dict[str, list[float]] = {program.name: [] for program in found}
    for seed in SEEDS:
        for program in found:
            settings, n_epochs = best[program.name]
            vectors: list[Callable[[], Vectors]] = []
            took = seconds(
                lambda p=program, s=settings, n=n_epochs, k=seed, v=vectors: v.append(
                    p.fit(ratings.train, s, n, k)
                )
            )
            scores[program.name].append(ndcg(vectors[0](), ratings))
            times[program.name].append(took / n_epochs)
    popular = np.asarray(ratings.train.sum(axis=0))
    rows: list[Row] = [
        {
            "program": program.name,
            "NDCG@10": float(np.mean(scores[program.name])),
            "lowest": min(scores[program.name]),
            "highest": max(scores[program.name]),
            "ms per epoch": 1e3 * median(times[program.name]),
            "epochs": best[program.name][1],
            "settings": ", ".join(f"{key} {value:g}" for key, value in best[program.name][0].items()),
        }
        for program in found
    ]
    one = np.ones((ratings.train.shape[0], 1))
    rows.append({"program": "popularity", "NDCG@10": ndcg((one, popular[:, None]), ratings)})
    return Table(f"{name}: ids only, {N_FACTORS} factors, mean of {len(SEEDS)} seeds", rows)


# -- cold items ----------------------------------------------------------------------------------


def cold_items(ratings: Ratings, name: str) -> Table:
    """Lists of items without interactions, each split another tenth of them."""
    every = ratings.train + ratings.test
    n_contexts, n_items = every.shape
    popularity = np.asarray(ratings.train.sum(axis=0), dtype=np.float64)
    features, ids = ratings.item_features, sp.eye_array(n_items, format="csr")
    found: dict[str, list[float]] = {}
    for split in range(COLD_SPLITS):
        rng = np.random.default_rng(split)
        cold = np.sort(rng.permutation(n_items)[: n_items // 10])
        warm = np.setdiff1d(np.arange(n_items), cold)
        train, truth = ratings.train[:, warm], every[:, cold]
        known = sp.hstack([ids[:, warm], features], format="csr")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fm = FMRanker(N_FACTORS, random_state=split).fit(train, item_features=known[warm])
        lists = {
            "FMRanker with ids and genres": fm.recommend(n=N, item_features=known[cold]).items,
            "random order": np.array([rng.permutation(len(cold))[:N] for _ in range(n_contexts)]),
        }
        # How often an item of each genre was chosen, the same for everybody.
        of_genre = (features[warm].T @ popularity[warm]) / np.maximum(features[warm].sum(axis=0), 1e-9)
        for what, score in (
            ("popularity of the genres", features[cold] @ of_genre),
            ("popularity, had it been known", popularity[cold]),
        ):
            lists[what] = np.tile(np.argsort(-score, kind="stable")[:N], (n_contexts, 1))
        for what, items in lists.items():
            found.setdefault(what, []).append(metrics.average(metrics.ndcg_at(truth, items)).mean)
    rows: list[Row] = [
        {"lists": what, "NDCG@10": float(np.mean(v)), "lowest": min(v), "highest": max(v)}
        for what, v in found.items()
    ]
    return Table(f"{name}: a tenth of the items is cold, mean of {COLD_SPLITS} splits", rows)


# -- the section ---------------------------------------------------------------------------------


def run(settings: Settings) -> Section:
    warnings.filterwarnings("ignore", module=r"(implicit|lightfm)")
    warnings.filterwarnings("ignore", message="interactions has .* contexts without a positive")
    found, notes = programs()
    tables, targets = [epochs(settings, found)], []
    for path in settings.data:
        with np.load(path) as file:
            if not {"user", "item"} <= set(map(str, file["field_names"])) or "valid_data" in file:
                continue
        ratings = read(path)
        if ratings.item_features.shape[1]:
            tables.append(cold_items(ratings, path.stem))
            by = {row["lists"]: row["NDCG@10"] for row in tables[-1].rows}
            own = by["FMRanker with ids and genres"]
            targets.append(
                at_least(
                    "cold items: NDCG@10 / popularity of the genres",
                    own / by["popularity of the genres"],
                    1.0,
                )
            )
            continue
        tables.append(lists_of_ids(found, ratings, path.stem))
        rows = {row["program"]: row for row in tables[-1].rows}
        for own in ("fmfast warp", "fmfast warp, 5 trials"):
            for other in ("implicit BPR", "LightFM WARP"):
                if other in rows:
                    ratio = rows[own]["NDCG@10"] / rows[other]["NDCG@10"]
                    targets.append(at_least(f"{own} / {other}, NDCG@10", ratio, 1.0))
                    ratio = rows[own]["ms per epoch"] / rows[other]["ms per epoch"]
                    targets.append(at_most(f"{own} / {other}, time per epoch", ratio, 1.0))
    if not settings.data:
        notes.append("no --data: quality was not measured")
    return Section(
        title="Learning to rank",
        about="`FMRanker` against other libraries, one thread.",
        tables=tables,
        targets=targets,
        notes=notes,
    )


def draw(section: Section) -> Any:
    quality = [table for table in section.tables if "NDCG@10" in table.rows[0]]
    figure, axes = new_figure(1 + len(quality), width=5.6, height=2.8)
    rows = section.tables[0].rows
    colours = [COLOURS["fmfast"] if "fmfast" in row["program"] else OTHERS[0] for row in rows]
    bars = axes[0].barh(
        [row["program"] for row in rows], [row["ms per epoch"] for row in rows], color=colours
    )
    axes[0].bar_label(bars, [f"{row['ms per epoch']:.3g} ms" for row in rows], padding=3)
    axes[0].set(title="An epoch", xlabel="milliseconds")
    for ax, table in zip(axes[1:], quality, strict=True):
        names = [row.get("program", row.get("lists")) for row in table.rows]
        colours = [COLOURS["fmfast"] if "fmfast" in n or "FMRanker" in n else OTHERS[0] for n in names]
        bars = ax.barh(names, [row["NDCG@10"] for row in table.rows], color=colours)
        ax.bar_label(bars, [f"{row['NDCG@10']:.3f}" for row in table.rows], padding=3)
        ax.set(title=table.title.split(",")[0], xlabel="NDCG@10 on test data")
    for ax in axes:
        ax.margins(x=0.2)
        ax.invert_yaxis()
        ax.grid(False, axis="y")
    return figure
