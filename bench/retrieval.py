"""How fast are ranked lists, and how good are those of a search engine?

The best 10 of all items for every context, known interactions left out: `retrieval.recommend`, all of it,
against `predict` of all pairs. For the latter, the rows of PREDICTED_PAIRS pairs drawn at random stand ready
and are predicted; its time for all pairs is that time per pair, times the number of pairs. Making the rows
of the pairs and selecting from their scores are left out, in favour of `predict`. In turns, on one thread.

Contexts have the column of an id; items have one, and three of 1,000 tags. The vectors are all but random,
with a standard deviation of 0.2: what is measured of fmfast depends on the sizes only.

With faiss (extra `retrieval`), the engine searches the vectors of `retrieval.vectors`: exactly and in a graph
(HNSW), by inner product, and by distance in the space of `retrieval.for_cosine`. recall@10 is that of the
exact lists without exclusions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from bench.pictures import COLOURS, new_figure
from bench.report import Row, Section, Table, at_least
from bench.settings import Settings
from bench.timing import medians, repeated, seconds, take_turns
from fmfast import FMRegressor, metrics, retrieval

N_CONTEXTS, N_ITEMS, N_TAGS = 10_000, 50_000, 1_000
N_FACTORS, N = 32, 10
PREDICTED_PAIRS = 500_000
INTERACTIONS_PER_CONTEXT = 20
LINKS, EF_CONSTRUCTION, EF_SEARCH = 32, 80, (128, 512)  # of the graph


def problem(scale: float) -> tuple[FMRegressor, sp.csr_array, sp.csr_array, sp.csr_array]:
    """A machine, context rows, item rows, and known interactions; at least 100 contexts and 500 items."""
    n_contexts, n_items = (max(least, round(scale * n)) for least, n in ((100, N_CONTEXTS), (500, N_ITEMS)))
    rng = np.random.default_rng(0)
    n_features = n_contexts + n_items + N_TAGS
    contexts = sp.eye_array(n_contexts, n_features, format="csr", dtype=np.float32)
    tags = (
        n_contexts
        + n_items
        + rng.integers(0, N_TAGS // 3, (n_items, 3))
        + [0, N_TAGS // 3, 2 * (N_TAGS // 3)]
    )
    columns = np.column_stack([n_contexts + np.arange(n_items), tags])
    ones, starts = np.ones(columns.size, np.float32), np.arange(n_items + 1) * 4
    items = sp.csr_array((ones, columns.ravel(), starts), shape=(n_items, n_features))
    known = rng.integers(0, n_contexts * n_items, INTERACTIONS_PER_CONTEXT * n_contexts)
    users, seen = np.divmod(known, n_items)
    interactions = sp.csr_array((np.ones(len(known)), (users, seen)), shape=(n_contexts, n_items))
    X = pair_rows(contexts, items, users, seen)
    fm = FMRegressor(N_FACTORS, max_iter=1, init_std=0.2, random_state=0).fit(X, rng.normal(size=len(known)))
    return fm, contexts, items, interactions


def pair_rows(contexts: sp.csr_array, items: sp.csr_array, c: np.ndarray, i: np.ndarray) -> sp.csr_array:
    """One row per pair."""
    return sp.csr_array(contexts[c] + items[i])


def against_predict(settings: Settings) -> tuple[Row, Any]:
    fm, contexts, items, interactions = made = problem(settings.scale)
    n_contexts, n_items = interactions.shape
    n_pairs = n_contexts * n_items
    n_predicted = min(PREDICTED_PAIRS, n_pairs)
    drawn = np.divmod(np.random.default_rng(1).integers(0, n_pairs, n_predicted), n_items)
    pairs = pair_rows(contexts, items, *drawn)
    programs = {
        "recommend": repeated(lambda: retrieval.recommend(fm, contexts, items, N, exclude=interactions)),
        "predict": repeated(lambda: fm.predict(pairs)),
    }
    t = medians(take_turns(programs, settings.rounds, per_turn=1))
    everything = t["predict"] * n_pairs / n_predicted
    found = retrieval.recommend(fm, contexts, items, N)
    some = np.arange(min(200, n_contexts))
    best = pair_rows(contexts, items, np.repeat(some, N), found.items[some].ravel())
    difference = np.abs(found.scores[some].ravel() - fm.predict(best)) / np.abs(found.scores[some].ravel())
    row = {
        "contexts": n_contexts,
        "items": n_items,
        "k": N_FACTORS,
        "recommend, s": t["recommend"],
        "predict of all pairs, s": everything,
        "predict / recommend": everything / t["recommend"],
        "pairs predicted": n_predicted,
        "largest relative difference": float(difference.max()),
    }
    return row, made


def with_faiss(made: Any) -> list[Row]:
    """An exact and an approximate index; empty without faiss."""
    try:
        import faiss
    except ImportError:
        return []
    faiss.omp_set_num_threads(1)
    fm, contexts, items, interactions = made
    plain = retrieval.vectors(fm, contexts, items)
    lists = retrieval.top_n(plain, N).items
    exact = sp.csr_array(
        (np.ones(lists.size), lists.ravel(), np.arange(len(lists) + 1) * N), shape=interactions.shape
    )
    cosine = retrieval.for_cosine(plain)
    rows = []
    for name, metric, v in (
        ("inner product", faiss.METRIC_INNER_PRODUCT, plain),
        ("distance", faiss.METRIC_L2, cosine),
    ):
        flat = faiss.IndexFlat(v.P.shape[1], metric)
        graph = faiss.IndexHNSWFlat(v.P.shape[1], LINKS, metric)
        graph.hnsw.efConstruction = EF_CONSTRUCTION
        for index, kind in ((flat, "exact"), (graph, "HNSW")):
            built = seconds(lambda index=index, v=v: index.add(v.P))
            for ef_search in EF_SEARCH if index is graph else (None,):
                if ef_search is not None:
                    graph.hnsw.efSearch = ef_search
                took = seconds(lambda index=index, v=v: index.search(v.Q, N))
                recall = metrics.average(metrics.recall_at(exact, index.search(v.Q, N)[1])).mean
                engine = f"faiss, {kind}, {name}" + ("" if ef_search is None else f", efSearch {ef_search}")
                rows.append({"engine": engine, "build, s": built, "search, s": took, "recall@10": recall})
    took = seconds(lambda: retrieval.top_n(plain, N))
    return [{"engine": "fmfast, top_n", "build, s": None, "search, s": took, "recall@10": 1.0}, *rows]


def run(settings: Settings) -> Section:
    row, made = against_predict(settings)
    tables, notes = [Table("Lists of 10", [row])], []
    engines = with_faiss(made)
    if engines:
        tables.append(Table("Search engines, all contexts at once", engines))
        notes.append(f"HNSW: {LINKS} links, efConstruction {EF_CONSTRUCTION}")
    else:
        notes.append("faiss is not installed: no search engine was tried")
    notes.append("largest relative difference: of the scores in 200 lists from those of `predict`")
    ratio = row["predict / recommend"]
    return Section(
        title="Top-N lists",
        about="`retrieval.recommend` against `predict` of all pairs, one thread, and faiss on its vectors.",
        tables=tables,
        targets=[at_least("predict of all pairs / recommend, time", ratio, 5.0)],
        notes=notes,
    )


def draw(section: Section) -> Any:
    figure, (ax,) = new_figure(1, width=6.5, height=2.4)
    row = section.tables[0].rows[0]
    names = ["predict of all pairs (extrapolated)", "retrieval.recommend"]
    times = [row["predict of all pairs, s"], row["recommend, s"]]
    bars = ax.barh(names, times, color=[COLOURS["fmfast light"], COLOURS["fmfast"]])
    ax.bar_label(bars, [f"{time:.2g} s" for time in times], padding=3)
    ax.margins(x=0.12)
    ax.set(title=f"Best 10 of {row['items']:,} items for {row['contexts']:,} contexts", xlabel="seconds")
    ax.grid(False, axis="y")
    return figure
