"""How far is training from what the memory of this machine allows?

The *touch kernel* (`_touch.pyx`) visits the same rows in the same order and chunks, with the same
prefetch, and reads each row of the table and writes it back: all that an epoch must do, less its
mathematics. Time over that of the touch kernel says how far the mathematics is from free. `no prefetch`
is the same training with rows of the table prefetched never (but for the first few of each chunk).

All five take turns over one table of parameters. The loss is the mean over the last epoch of training.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.pictures import COLOURS, grouped_bars, legend_below, new_figure
from bench.programs import FMFast, without_prefetch
from bench.report import Row, Section, Table, Target, at_least, at_most
from bench.settings import Settings
from bench.timing import medians, take_turns
from bench.touch import Touch
from bench.workloads import WORKLOADS, Workload, load
from fmfast import _dispatch

FACTORS = (8, 16, 32, 64)
SOLVERS = ("sgd", "adagrad")


def compare(w: Workload, n_factors: int, rounds: int) -> Row:
    blind = without_prefetch(_dispatch.core)
    trained = {solver: FMFast(w, n_factors, solver) for solver in SOLVERS}
    turns = {"touch": Touch(trained["adagrad"]).train}
    for solver, program in trained.items():
        turns[solver] = program.train
        turns[f"{solver}, no prefetch"] = partial(program.train, core=blind)
    t = medians(take_turns(turns, rounds, per_turn=2))
    row = {"workload": w.name, "k": n_factors, "touch ms": 1e3 * t["touch"]}
    for solver, program in trained.items():
        row |= {
            f"{solver} ms": 1e3 * t[solver],
            f"{solver} / touch": t[solver] / t["touch"],
            f"{solver}, no prefetch / with": t[f"{solver}, no prefetch"] / t[solver],
            f"{solver} loss": program.loss,
        }
    return row


def run(settings: Settings) -> Section:
    rows = []
    for name in WORKLOADS:
        w = load(name, settings.scale)
        for n_factors in FACTORS:
            rows.append(compare(w, n_factors, settings.rounds))
        del w
    return Section(
        title="The limit of the machine",
        about="Milliseconds per epoch beside the touch kernel: the same memory traffic, no mathematics.",
        tables=[Table("Time of an epoch", rows)],
        targets=_targets({(row["workload"], row["k"]): row for row in rows}),
    )


def _targets(rows: dict[tuple[str, int], Row]) -> list[Target]:
    return [
        at_most("sgd / touch, W3 k=32", rows["W3", 32]["sgd / touch"], 2.5),
        at_most("sgd / touch, W2 k=32", rows["W2", 32]["sgd / touch"], 4.0),
        at_least("without prefetch / with, W3 k=32, sgd", rows["W3", 32]["sgd, no prefetch / with"], 4.0),
    ]


def draw(section: Section) -> Any:
    figure, (left, right) = new_figure(2, width=6.4)
    rows = section.tables[0].rows
    groups = [f"{row['workload']}\nk={row['k']}" for row in rows]
    colours = [COLOURS["fmfast"], COLOURS["fmfast light"]]
    grouped_bars(left, groups, {s: [row[f"{s} / touch"] for row in rows] for s in SOLVERS}, colours)
    left.axhline(1.0, color=COLOURS["reference"], label="touch kernel = 1: memory traffic alone")
    left.set(title="Training over the touch kernel", ylabel="time / time of the touch kernel")
    series = {s: [row[f"{s}, no prefetch / with"] for row in rows] for s in SOLVERS}
    grouped_bars(right, groups, series, colours)
    right.axhline(1.0, color=COLOURS["reference"], label="with prefetch = 1")
    right.set(title="Training without prefetch", ylabel="time without / time with prefetch")
    for ax in (left, right):
        ax.tick_params(axis="x", labelsize=7)
        legend_below(ax, 3)
    return figure
