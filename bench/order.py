"""Does the visiting order cost quality?

An epoch visits short runs of consecutive rows in random order, the rows of several runs interleaved
(`fmfast.solvers.sgd`); a full random shuffle jumps to a random row for every sample. Test loss after
equally many epochs of AdaGrad, k = 16, over several seeds, and the time of an epoch. Also with the rows
sorted by their target, where neighbours in a run are as alike as can be.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from pathlib import Path
from statistics import mean, variance
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.pictures import COLOURS, legend_below, new_figure
from bench.programs import FMFast, Order
from bench.report import Row, Section, Table, at_most
from bench.settings import Settings
from bench.timing import medians, take_turns
from bench.workloads import Workload, load
from fmfast.solvers.sgd import visiting_order

N_FACTORS = 16
SOURCES = ("chess", "W1", "W2")
EPOCHS = {"chess": 20, "W1": 5, "W2": 1}  # W2 overfits afterwards
EPOCHS_OF_FILES = 5
SEEDS = range(5)
TOLERANCE = 0.005  # of the loss, or what the seeds alone do to it


def full_shuffle(n_samples: int, nnz: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], int]:
    """Every row on its own, in random order; arguments as `visiting_order`."""
    rng = np.random.default_rng([seed, epoch])
    return rng.permutation(n_samples).astype(np.int64, copy=False), 1


RUNS, FULL = "runs", "full shuffle"
ORDERS: dict[str, Order] = {RUNS: visiting_order, FULL: full_shuffle}


def sorted_by_target(w: Workload) -> Workload:
    order = np.argsort(w.y_train, kind="stable")
    return replace(w, name=f"{w.name}, sorted by target", X_train=w.X_train[order], y_train=w.y_train[order])


def compare(w: Workload, n_epochs: int, rounds: int) -> Row:
    losses: dict[str, list[float]] = {name: [] for name in ORDERS}
    for seed in SEEDS:
        for name, order in ORDERS.items():
            program = FMFast(w, N_FACTORS, seed=seed, order=order)
            program.train(n_epochs)
            losses[name].append(w.test_loss(program.raw_scores(w.X_test)))
    programs = {name: FMFast(w, N_FACTORS, order=order) for name, order in ORDERS.items()}
    t = medians(take_turns({name: program.train for name, program in programs.items()}, rounds))
    reference = mean(losses[FULL])
    noise = sqrt(sum(variance(values) for values in losses.values()) / len(SEEDS))
    return {
        "data": w.name,
        "metric": w.metric,
        "epochs": n_epochs,
        RUNS: mean(losses[RUNS]),
        FULL: reference,
        "runs / full shuffle": mean(losses[RUNS]) / reference,
        "+- of the seeds": 2.0 * noise / reference,
        "time of an epoch, runs / full shuffle": t[RUNS] / t[FULL],
        "losses": losses,
    }


def run(settings: Settings) -> Section:
    rows = []
    for source in (*SOURCES, *settings.data):
        w = load(source, settings.scale)
        n_epochs = EPOCHS_OF_FILES if isinstance(source, Path) else EPOCHS[source]
        rows += [compare(v, n_epochs, settings.rounds) for v in (w, sorted_by_target(w))]
    losses = {row["data"]: row.pop("losses") for row in rows}
    targets = [
        at_most(
            f"test loss, runs / full shuffle, {row['data']}",
            row["runs / full shuffle"],
            1.0 + max(TOLERANCE, row["+- of the seeds"]),
        )
        for row in rows
    ]
    return Section(
        title="Order of the samples",
        about=f"Mean test loss of {len(SEEDS)} seeds after some epochs of AdaGrad, k = {N_FACTORS}.",
        tables=[Table("Runs of rows against a full shuffle", rows)],
        targets=targets,
        notes=["+- of the seeds: twice the standard error of the difference of the means, over the mean"],
        data={"losses": losses},
    )


def draw(section: Section) -> Any:
    rows = section.tables[0].rows
    figure, (left, right) = new_figure(2, width=6.0, height=1.8 + 0.35 * len(rows))
    at = np.arange(len(rows))
    for name, offset, colour in ((RUNS, -0.15, COLOURS["fmfast"]), (FULL, 0.15, COLOURS["numpy"])):
        for i, row in enumerate(rows):
            # Relative to the mean of the full shuffle, so that all data fit one axis.
            values = np.array(section.data["losses"][row["data"]][name]) / row[FULL]
            label = f"{name} (one dot per seed, a bar for the mean)" if i == 0 else None
            left.plot(values, np.full(len(values), i + offset), "o", color=colour, alpha=0.5, label=label)
            left.plot(values.mean(), i + offset, "|", color=colour, markersize=14, markeredgewidth=2.5)
    left.set(title="test loss", xlabel="loss / mean loss of the full shuffle")
    times = [row["time of an epoch, runs / full shuffle"] for row in rows]
    right.barh(at, times, 0.5, color=COLOURS["fmfast"], label=RUNS)
    right.axvline(1.0, color=COLOURS["numpy"], linewidth=2, label=FULL)
    right.set(title="time of an epoch", xlabel="time / time of the full shuffle")
    for ax in (left, right):
        ax.set_yticks(at, [row["data"] for row in rows])
        ax.invert_yaxis()
        legend_below(ax, 1)
    return figure
