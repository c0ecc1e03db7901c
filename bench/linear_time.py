"""Is the time of an epoch linear in the number of nonzeros and in the number of factors?

Rows of `nnz` one-hot fields over 4,000 columns, a table small enough for the second-level cache at
ordinary sizes, so that the arithmetic is measured and not the memory. Time per row of a training epoch
(AdaGrad) for growing nnz at k = 16, and for growing k at nnz = 32; all sizes take turns. Beside the
first the definition itself, all pairs of nonzeros (`numpy_baseline.score_all_pairs`), on a few rows.

The slope is that of the least-squares line through the logarithms: 1 is linear, 2 quadratic. Over k it is
fitted from 16 on: below, a nonzero costs a fixed amount for its address, its weight and its step size,
whatever k is, and the slope is flatter. k = 8, 16, 32, 64 have kernels compiled for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from bench.pictures import COLOURS, legend_below, new_figure, plain_log_scale
from bench.programs import FMFast
from bench.report import Section, Table, at_most
from bench.settings import Settings
from bench.timing import medians, seconds, take_turns
from bench.workloads import Workload
from fmfast import numpy_baseline

NNZ = (5, 10, 20, 50, 100, 200, 500, 1000)
FACTORS = (4, 8, 16, 32, 64, 128, 256)
FACTORS_OF_NNZ, NNZ_OF_FACTORS = 16, 32
MIN_FACTORS = 16  # of the fit
N_COLUMNS = 4000
PAIRS = 20_000  # evaluated one by one, per size


def rows_of(nnz: int, n_rows: int) -> Workload:
    rng = np.random.default_rng(nnz)
    size = N_COLUMNS // nnz
    columns = size * np.arange(nnz, dtype=np.int32) + rng.integers(0, size, (n_rows, nnz), dtype=np.int32)
    csr = (np.ones(columns.size, np.float32), columns.ravel(), np.arange(0, columns.size + 1, nnz))
    X = sp.csr_array(csr, shape=(n_rows, size * nnz))
    y = rng.standard_normal(n_rows)
    return Workload(f"nnz={nnz}", "regression", X, y, X[:100], y[:100], np.empty(0, dtype=np.int32))


def slope(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def microseconds_per_row(programs: dict[str, FMFast], n_rows: int, rounds: int) -> list[float]:
    times = medians(take_turns({name: program.train for name, program in programs.items()}, rounds))
    return [1e6 * t / n_rows for t in times.values()]


def all_pairs(w: Workload, n_factors: int, nnz: int) -> float:
    """Microseconds per row of the definition, on a few rows."""
    n_rows = max(1, min(50, PAIRS // nnz**2))
    X, parameters = w.X_train[:n_rows], FMFast(w, n_factors).parameters()
    return 1e6 * seconds(lambda: numpy_baseline.score_all_pairs(X, parameters)) / n_rows


def run(settings: Settings) -> Section:
    n_rows = max(5000, round(50_000 * settings.scale))
    programs = {}
    naive = []
    for nnz in NNZ:
        w = rows_of(nnz, n_rows)
        programs[w.name] = FMFast(w, FACTORS_OF_NNZ)
        naive.append(all_pairs(w, FACTORS_OF_NNZ, nnz))
    over_nnz = microseconds_per_row(programs, n_rows, settings.rounds)
    by_nnz = [
        {
            "nnz per row": nnz,
            "us per row, epoch": epoch,
            "us per row, all pairs": pairs,
            "training loss": program.loss,
        }
        for nnz, epoch, pairs, program in zip(NNZ, over_nnz, naive, programs.values(), strict=True)
    ]

    w = rows_of(NNZ_OF_FACTORS, n_rows)
    programs = {f"k={k}": FMFast(w, k) for k in FACTORS}
    over_k = microseconds_per_row(programs, n_rows, settings.rounds)
    by_k = [
        {"k": k, "us per row, epoch": epoch, "training loss": program.loss}
        for k, epoch, program in zip(FACTORS, over_k, programs.values(), strict=True)
    ]

    i = FACTORS.index(MIN_FACTORS)
    slopes = {
        "nnz": slope(NNZ, over_nnz),
        "k": slope(FACTORS[i:], over_k[i:]),
        "all k": slope(FACTORS, over_k),
        "all pairs": slope(NNZ, naive),
    }
    return Section(
        title="Linear time",
        about=f"Training epochs of {n_rows:,} rows, AdaGrad, beside the definition evaluated pair by pair.",
        tables=[
            Table(f"Against nonzeros per row, k = {FACTORS_OF_NNZ}", by_nnz),
            Table(f"Against k, {NNZ_OF_FACTORS} nonzeros per row", by_k),
        ],
        targets=[
            at_most("slope over nnz (1: linear)", slopes["nnz"], 1.1),
            at_most(f"slope over k from {MIN_FACTORS} on", slopes["k"], 1.1),
        ],
        notes=[
            f"slope over all k: {slopes['all k']:.2f}, as small k pay a fixed amount per nonzero",
            f"slope of the definition over nnz: {slopes['all pairs']:.2f}",
        ],
        data={"slopes": slopes},
    )


def draw(section: Section) -> Any:
    figure, (left, right) = new_figure(2)
    slopes, (by_nnz, by_k) = section.data["slopes"], (table.rows for table in section.tables)
    nnz = [row["nnz per row"] for row in by_nnz]
    left.loglog(nnz, [row["us per row, all pairs"] for row in by_nnz], "s-", color=COLOURS["numpy"],
                label=f"all pairs, NumPy: slope {slopes['all pairs']:.2f}")  # fmt: skip
    left.loglog(nnz, [row["us per row, epoch"] for row in by_nnz], "o-", color=COLOURS["fmfast"],
                label=f"fmfast: slope {slopes['nnz']:.2f}")  # fmt: skip
    left.set(title=f"against nonzeros per row (k = {FACTORS_OF_NNZ})", xlabel="nonzeros per row")
    label = f"fmfast: slope {slopes['k']:.2f} from k = {MIN_FACTORS} on"
    right.loglog([row["k"] for row in by_k], [row["us per row, epoch"] for row in by_k], "o-",
                 color=COLOURS["fmfast"], label=label)  # fmt: skip
    right.set(title=f"against factors ({NNZ_OF_FACTORS} nonzeros per row)", xlabel="k")
    right.set_xticks(FACTORS, [str(k) for k in FACTORS])
    right.minorticks_off()
    plain_log_scale(right)
    for ax in (left, right):
        ax.set_ylabel("microseconds per row")
        legend_below(ax, 1)
    figure.suptitle("One training epoch takes time linear in nonzeros and factors")
    return figure
