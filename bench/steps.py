"""What did each step towards the present kernel give?

Each variant undoes one of them and takes turns with the kernel as it is, AdaGrad, float32, one thread:

- no prefetch: rows of the table are not prefetched;
- full shuffle: every epoch visits all rows in full random order, instead of runs of rows;
- no shuffle: the rows as they stand, as fast as order can make it (and no way to train);
- values read: the ones of binary data are read from `data` like any other value;
- no padding: 10 factors in rows of 10, with a loop of unknown length, instead of 16 with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from bench.pictures import COLOURS, OTHERS, grouped_bars, legend_below, new_figure
from bench.programs import FMFast, without_prefetch
from bench.report import Row, Section, Table
from bench.settings import Settings
from bench.timing import medians, take_turns
from bench.workloads import WORKLOADS, Workload, load
from fmfast import _dispatch

FACTORS = (8, 32)
VARIANTS = ("no prefetch", "full shuffle", "no shuffle", "values read")


def full_shuffle(n_samples: int, nnz: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], int]:
    return np.random.default_rng([seed, epoch]).permutation(n_samples), 1


def no_shuffle(n_samples: int, nnz: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], int]:
    return np.zeros(1, dtype=np.int64), n_samples


def with_values_read(program: FMFast) -> FMFast:
    program.rows = replace(program.rows, data=np.ones(program.rows.nnz, dtype=np.float32))
    return program


def compare(w: Workload, n_factors: int, rounds: int) -> Row:
    plain = FMFast(w, n_factors)
    programs: dict[str, Callable[[int], list[float]]] = {
        "as it is": plain.train,
        "no prefetch": partial(plain.train, core=without_prefetch(_dispatch.core)),
        "full shuffle": FMFast(w, n_factors, order=full_shuffle).train,
        "no shuffle": FMFast(w, n_factors, order=no_shuffle).train,
        "values read": with_values_read(FMFast(w, n_factors)).train,
    }
    t = medians(take_turns(programs, rounds))
    row: Row = {"workload": w.name, "k": n_factors, "as it is ms": 1e3 * t["as it is"]}
    return row | {f"{name} / as it is": t[name] / t["as it is"] for name in VARIANTS}


def compare_padding(w: Workload, rounds: int) -> Row:
    """10 factors: padded to 16, and as they are."""
    with (
        patch("fmfast.table.padded_width", lambda n_factors: n_factors),
        patch("fmfast.solvers.sgd.padded_width", lambda n_factors: n_factors),
    ):
        bare = FMFast(w, 10)
    padded = FMFast(w, 10)
    t = medians(take_turns({"padded": padded.train, "bare": bare.train}, rounds))
    return {
        "workload": w.name,
        "k": 10,
        "as it is ms": 1e3 * t["padded"],
        "no padding / as it is": t["bare"] / t["padded"],
    }


def run(settings: Settings) -> Section:
    rows, padding = [], []
    for name in WORKLOADS:
        w = load(name, settings.scale)
        rows += [compare(w, n_factors, settings.rounds) for n_factors in FACTORS]
        padding.append(compare_padding(w, settings.rounds))
        del w
    return Section(
        title="What each step gave",
        about="Time of an epoch with one step undone, over that of the kernel as it is; AdaGrad, one thread.",
        tables=[Table("Steps", rows), Table("Padding", padding)],
    )


def draw(section: Section) -> Any:
    figure, (ax,) = new_figure(1, width=8.0)
    rows = section.tables[0].rows
    groups = [f"{row['workload']}\nk={row['k']}" for row in rows]
    series = {name: [row[f"{name} / as it is"] for row in rows] for name in VARIANTS}
    grouped_bars(ax, groups, series, [COLOURS["fmfast"], COLOURS["numpy"], *OTHERS][: len(series)])
    ax.axhline(1.0, color=COLOURS["reference"])
    ax.set(title="The kernel with one step undone", ylabel="time / time of the kernel as it is")
    legend_below(ax, 4)
    return figure
