"""How much faster is the compiled kernel than the same algorithm in NumPy?

Three programs, float32, AdaGrad with the default settings of the estimators, same parameters at the
start, one thread: the kernel, NumPy sample by sample (the same updates, on the first rows only where
there are many, its time scaled up), and NumPy with one update per batch of 1024 rows, the fastest form
that NumPy allows. They take turns; kernel and mini-batch train equally many epochs, after which the
test loss is taken.
"""

from __future__ import annotations

from typing import Any

from bench.numpy_baseline import SUBSET_ROWS
from bench.pictures import COLOURS, grouped_bars, legend_below, new_figure, plain_log_scale
from bench.programs import FMFast, NumPy
from bench.report import Row, Section, Table, at_least
from bench.settings import Settings
from bench.timing import medians, take_turns
from bench.workloads import Workload, load

WORKLOADS = ("chess", "W1", "W2")
FACTORS = (8, 32)
KERNEL, MINI_BATCH, PER_SAMPLE = "kernel", "NumPy, mini-batch", "NumPy, per sample"
PER_SAMPLE_SECONDS = 5.0


def compare(w: Workload, n_factors: int, rounds: int) -> list[Row]:
    """One row per program."""
    n_rows = w.X_train.shape[0]
    n_subset = min(n_rows, SUBSET_ROWS)
    kernel = FMFast(w, n_factors)
    mini_batch, per_sample = NumPy.mini_batch(w, kernel), NumPy.per_sample(w, kernel, n_subset)
    times = take_turns({KERNEL: kernel.train, MINI_BATCH: mini_batch.train}, rounds, per_turn=2)
    # Its turns come after theirs, each between two of the kernel: it would hold them up for minutes.
    slow = {PER_SAMPLE: per_sample.train, "again": FMFast(w, n_factors).train}
    slow_times = take_turns(slow, rounds, per_turn=1, budget=PER_SAMPLE_SECONDS)
    kernel_time = medians(times)[KERNEL]
    rows = []
    for name, program in ((KERNEL, kernel), (MINI_BATCH, mini_batch), (PER_SAMPLE, per_sample)):
        if name == PER_SAMPLE:
            t, reference = (medians(slow_times)[key] for key in slow)
            t *= n_rows / n_subset
        else:
            t, reference = medians(times)[name], kernel_time
        is_comparable = name != PER_SAMPLE or n_subset == n_rows
        rows.append({
            "workload": w.name, "k": n_factors, "program": name, "ms per epoch": 1e3 * t,
            "x kernel": t / reference,
            "epochs": 1 + len(times.get(name, slow_times.get(name, []))) if is_comparable else None,
            w.metric: w.test_loss(program.raw_scores(w.X_test)) if is_comparable else None,
        })  # fmt: skip
    return rows


def run(settings: Settings) -> Section:
    rows = []
    for name in WORKLOADS:
        w = load(name, settings.scale)
        for n_factors in FACTORS:
            rows += compare(w, n_factors, settings.rounds)
        del w
    targets = [
        at_least(f"mini-batch NumPy / kernel, {row['workload']} k={row['k']}", row["x kernel"], 8.0)
        for row in rows
        if row["program"] == MINI_BATCH and row["workload"] != "W2"
    ]
    return Section(
        title="Against NumPy",
        about="Time of an epoch, AdaGrad, float32, one thread; test loss after the same number of epochs.",
        tables=[Table("Time and test loss", rows)],
        targets=targets,
        notes=[f"per-sample NumPy runs on the first {SUBSET_ROWS:,} rows; its time is scaled up to all rows"],
    )


def draw(section: Section) -> Any:
    figure, (ax,) = new_figure(1, width=8.0)
    rows = section.tables[0].rows
    groups = list(dict.fromkeys(f"{row['workload']}\nk = {row['k']}" for row in rows))
    series = {
        name: [row["x kernel"] for row in rows if row["program"] == name] for name in (PER_SAMPLE, MINI_BATCH)
    }
    grouped_bars(ax, groups, series, [COLOURS["numpy light"], COLOURS["numpy"]])
    ax.axhline(1.0, color=COLOURS["fmfast"], linewidth=2, label="fmfast kernel = 1")
    plain_log_scale(ax)
    ax.set(title="One epoch in NumPy, compared with the compiled kernel", ylabel="time / time of the kernel")
    legend_below(ax, 3)
    return figure
