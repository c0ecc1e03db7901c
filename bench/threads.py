"""What do several threads give, and what do they cost in quality?

AdaGrad with 1, 2, 4, ... up to all cores, and with all cores but without own copies of the rows of frequent
features ("one table"). Time: all of them take turns over one table. Test loss: a fresh model for each,
three epochs. Threads share the table without locks and merge their own rows now and then
(`fmfast.solvers.threads`), so they may lose updates of each other, or go too far together; the column
"loss / one thread" shows what that does.

What to expect of 16 and 64 cores is computed from the data by `bench.contention`.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from bench import contention
from bench.environment import usable_cores
from bench.pictures import COLOURS, OTHERS, legend_below, new_figure
from bench.programs import FMFast
from bench.report import Row, Section, Table, Target, at_least, at_most
from bench.settings import Settings
from bench.timing import medians, take_turns
from bench.workloads import Workload, load
from fmfast.solvers.threads import Threads

# Workload, number of factors, and the speed-up that two threads should give.
CASES = (("W1", 8, 1.35), ("W1", 32, 1.35), ("W2", 8, None), ("W2", 32, 1.6), ("W3", 32, 1.6))
EPOCHS = 3  # of the models whose test loss is compared


def thread_counts(n_cores: int) -> list[int]:
    """1, 2, 4, ... and all."""
    powers = [2**e for e in range(n_cores.bit_length()) if 2**e <= n_cores]
    return sorted({*powers, n_cores})


def compare(w: Workload, n_factors: int, rounds: int) -> list[Row]:
    program = FMFast(w, n_factors)
    counts = thread_counts(len(usable_cores()))
    with ExitStack() as stack:
        teams: dict[tuple[int, str], Threads | None] = {(1, ""): None}
        for n in counts[1:]:
            teams[n, "own rows"] = stack.enter_context(Threads(n, program.rows))
        if len(counts) > 1:
            teams[counts[-1], "one table"] = stack.enter_context(contention.one_table(counts[-1], program))
        losses = {key: trained_loss(w, n_factors, threads) for key, threads in teams.items()}
        turns = {str(key): partial(program.train, threads=threads) for key, threads in teams.items()}
        t = medians(take_turns(turns, rounds))
    one = (1, "")
    return [
        {
            "workload": w.name,
            "k": n_factors,
            "threads": key[0],
            "frequent features": key[1],
            "own rows": 0 if threads is None else len(threads.frequent),
            "ms per epoch": 1e3 * t[str(key)],
            "speed-up": t[str(one)] / t[str(key)],
            w.metric: losses[key],
            "loss / one thread": losses[key] / losses[one],
        }
        for key, threads in teams.items()
    ]


def trained_loss(w: Workload, n_factors: int, threads: Threads | None) -> float:
    program = FMFast(w, n_factors)
    program.train(EPOCHS, threads=threads)
    return w.test_loss(program.raw_scores(w.X_test))


def run(settings: Settings) -> Section:
    measured, expected, targets = [], [], list[Target]()
    transfer_ns = contention.line_transfer_ns()
    for name, n_factors, wanted in CASES:
        w = load(name, settings.scale)
        rows = compare(w, n_factors, settings.rounds)
        measured += rows
        ns_per_sample = 1e6 * rows[0]["ms per epoch"] / w.X_train.shape[0]
        expected += contention.expectations(w, n_factors, ns_per_sample, transfer_ns)
        two = next((row for row in rows if row["threads"] == 2), None)
        if two is not None:
            case = f"two threads, {name} k={n_factors}"
            if wanted is not None:
                targets.append(at_least(f"speed-up, {case}", two["speed-up"], wanted))
            targets.append(at_most(f"test loss / that of one, {case}", two["loss / one thread"], 1.01))
    return Section(
        title="Threads",
        about=f"AdaGrad, several threads training one table; test loss after {EPOCHS} epochs.",
        tables=[
            Table("Measured", measured),
            Table("Expected from the frequencies of the features", expected),
        ],
        targets=targets,
        notes=[
            f"a cache line changes hands in {transfer_ns:.0f} ns, as measured here between two threads; "
            "between the dies or sockets of a large machine it takes two to four times as long",
            "shared rows: rows of the table per sample that another thread takes away between prefetch and "
            "use; see bench/contention.py for the model",
        ],
    )


def draw(section: Section) -> Any:
    figure, (left, right) = new_figure(2, width=6.0)
    measured, expected = (table.rows for table in section.tables)
    cases = list(dict.fromkeys((row["workload"], row["k"]) for row in measured))
    colours = dict(zip(cases, (COLOURS["fmfast"], COLOURS["fmfast light"], *OTHERS), strict=False))
    for case in cases:
        rows = [
            row
            for row in measured
            if (row["workload"], row["k"]) == case and row["frequent features"] != "one table"
        ]
        label = f"{case[0]}, k = {case[1]}"
        left.plot([row["threads"] for row in rows], [row["speed-up"] for row in rows], "o-",
                  color=colours[case], label=label)  # fmt: skip
        rows = [row for row in expected if (row["workload"], row["k"]) == case]
        threads = [row["threads"] for row in rows]
        right.plot(
            threads, [row["speed-up, own rows"] for row in rows], "o-", color=colours[case], label=label
        )
        right.plot(threads, [row["speed-up, one table"] for row in rows], "s:", color=colours[case])
    counts = sorted({row["threads"] for row in measured})
    left.plot(counts, counts, color=COLOURS["reference"], linewidth=0.8, label="ideal")
    left.set_xticks(counts)
    left.set(title="measured", xlabel="threads", ylabel="speed-up")
    right.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    ticks = sorted({row["threads"] for row in expected})
    right.plot(ticks, ticks, color=COLOURS["reference"], linewidth=0.8, label="ideal")
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_formatter("{x:g}")
    right.set_xticks(ticks)
    right.set(title="expected: own rows (solid), one table (dotted)", xlabel="threads", ylabel="speed-up")
    for ax in (left, right):
        legend_below(ax, 3)
    return figure
