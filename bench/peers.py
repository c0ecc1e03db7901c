"""How fast are other libraries on the same data, with the same number of factors and the same passes?

All programs of `bench.peer_programs` take turns, one thread each, on W1 and W2. The test loss is taken
after every turn, outside of the time; its best value and the one after all epochs are shown. Each
library keeps its own default settings, so the losses tell whether a program learns, not which one
learns best: `time_to_quality` asks that.
"""

from __future__ import annotations

import gc
from typing import Any

from bench.peer_programs import FMFAST, LINEAR, MODERN_FM, TORCH, Maker, available, close
from bench.pictures import COLOURS, OTHERS, grouped_bars, legend_below, new_figure, plain_log_scale
from bench.programs import Program
from bench.report import Row, Section, Table, Target, at_least
from bench.settings import Settings
from bench.timing import Turn, medians, take_turns
from bench.workloads import Workload, load

WORKLOADS = ("W1", "W2")
FACTORS = (8, 16, 32)
MAX_ROUNDS = 3  # the slowest peers take half a minute per epoch at full scale
MODERN_FM_TARGETS = {8: 5.0, 16: 10.0, 32: 10.0}
TORCH_TARGET = 15.0


def compare(w: Workload, n_factors: int, makers: dict[str, Maker], rounds: int) -> list[Row]:
    """One row per program."""
    programs = {name: make(w, n_factors) for name, make in makers.items()}
    losses: dict[str, list[float]] = {name: [] for name in programs}

    def scored(name: str, program: Program) -> Turn:
        def turn(n_epochs: int) -> list[float]:
            times = program.train(n_epochs)
            losses[name].append(w.test_loss(program.raw_scores(w.X_test)))
            return times

        return turn

    turns = {name: scored(name, program) for name, program in programs.items()}
    all_times = take_turns(turns, min(rounds, MAX_ROUNDS), per_turn=2)
    close(programs.values())
    t = medians(all_times)
    return [
        {
            "workload": w.name,
            "k": n_factors if name != LINEAR else 0,
            "program": name,
            "ms per epoch": 1e3 * t[name],
            "x fmfast": t[name] / t[FMFAST],
            "epochs": 1 + len(all_times[name]),
            f"{w.metric}, first": losses[name][0],
            "best": min(losses[name]),
            "last": losses[name][-1],
        }
        for name in programs
    ]


def run(settings: Settings) -> Section:
    makers, notes = available()
    tables, targets = [], list[Target]()
    for workload in WORKLOADS:
        rows = []
        w = load(workload, settings.scale)
        for n_factors in FACTORS:
            rows += compare(w, n_factors, makers, settings.rounds)
            gc.collect()
        tables.append(Table(f"{workload}, {w.X_train.shape[0]:,} training rows", rows))
        times = {(row["program"], row["k"]): row["x fmfast"] for row in rows}
        for k, wanted in MODERN_FM_TARGETS.items():
            if workload == "W2" and (MODERN_FM, k) in times:
                targets.append(at_least(f"{MODERN_FM} / fmfast, W2 k={k}", times[MODERN_FM, k], wanted))
            if (TORCH, k) in times:
                text = f"{TORCH} / fmfast, {workload} k={k}"
                targets.append(at_least(text, times[TORCH, k], TORCH_TARGET))
    return Section(
        title="Peers",
        about="Time of an epoch with one thread, and the test loss after the first epoch, at best, and last.",
        tables=tables,
        targets=targets,
        notes=[*notes, "an epoch of Gibbs sampling is one draw; its predictions need many"],
    )


def draw(section: Section) -> Any:
    figure, axes = new_figure(len(section.tables), width=6.8, height=4.4)
    for ax, table in zip(axes, section.tables, strict=True):
        rows = [row for row in table.rows if row["k"]]
        names = [name for name in dict.fromkeys(row["program"] for row in rows) if name != FMFAST]
        series = {name: [row["x fmfast"] for row in rows if row["program"] == name] for name in names}
        grouped_bars(ax, [f"k = {k}" for k in FACTORS], series, list(OTHERS[: len(series)]))
        ax.axhline(1.0, color=COLOURS["fmfast"], linewidth=2, label=f"{FMFAST} = 1")
        plain_log_scale(ax)
        ax.set(title=table.title, ylabel="time / time of fmfast")
        legend_below(ax)
    figure.suptitle("One epoch of other libraries, one thread")
    return figure
