"""What do the instruction sets give?

The kernels built for every level that this machine runs (x86-64 baseline, v3 with AVX2 and FMA, v4 with
AVX-512) take turns over one table of parameters. The loss is the mean over the last epoch of training.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.pictures import COLOURS, OTHERS, grouped_bars, legend_below, new_figure
from bench.programs import FMFast
from bench.report import Section, Table
from bench.settings import Settings
from bench.timing import medians, take_turns
from bench.workloads import load
from fmfast._dispatch import available_levels, load_core

WORKLOADS = ("W1", "W2")
FACTORS = (8, 32)
SOLVERS = ("sgd", "adagrad")


def run(settings: Settings) -> Section:
    rows = []
    for name in WORKLOADS:
        w = load(name, settings.scale)
        for n_factors in FACTORS:
            for solver in SOLVERS:
                program = FMFast(w, n_factors, solver)
                turns = {level: partial(program.train, core=load_core(level)) for level in available_levels()}
                t = medians(take_turns(turns, settings.rounds))
                row = {"workload": name, "k": n_factors, "solver": solver}
                row |= {f"{level} ms": 1e3 * t[level] for level in t}
                row |= {f"baseline / {level}": t["baseline"] / t[level] for level in t if level != "baseline"}
                rows.append(row | {"training loss": program.loss})
    return Section(
        title="Instruction sets",
        about="Milliseconds per epoch of the builds of the kernels that this machine runs.",
        tables=[Table("Time of an epoch", rows)],
    )


def draw(section: Section) -> Any:
    figure, (ax,) = new_figure(1, width=8.0)
    rows = section.tables[0].rows
    groups = [f"{row['workload']} k={row['k']}\n{row['solver']}" for row in rows]
    levels = [column.removesuffix(" ms") for column in rows[0] if column.endswith(" ms")]
    series = {level: [row[f"{level} ms"] / row["baseline ms"] for row in rows] for level in levels}
    colours = [COLOURS["reference"], COLOURS["fmfast light"], COLOURS["fmfast"], *OTHERS]
    grouped_bars(ax, groups, series, colours[: len(series)])
    ax.set(title="One epoch with each instruction set", ylabel="time / time of the baseline build")
    legend_below(ax, 3)
    return figure
