"""How long until a model is good? Test loss against seconds of training, one thread.

On the chess data of the package and on every file given with `--data`. The programs take turns of five
epochs; after each epoch the test loss is taken, outside of the time. Every program that has a learning
rate or an L2 strength runs with the best of a few of its own (first, untimed, on a quarter of the
epochs); the best is that with the lowest test loss, for all of them alike. Factors: 16.

The table gives the seconds to a *common loss*: the best that the worst of the factorization machines
reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any

from bench.peer_programs import (
    FMFAST,
    LINEAR,
    MODERN_FM,
    MODERN_FM_BATCHES,
    MYFM,
    TORCH,
    ModernFM,
    Torch,
    available,
    close,
)
from bench.pictures import COLOURS, OTHERS, legend_below, new_figure
from bench.programs import FMFast, NumPy, Program
from bench.report import Row, Section, Table
from bench.settings import Settings
from bench.workloads import Workload, load
from fmfast.solvers import SOLVERS

N_FACTORS = 16
EPOCHS, TURN = 60, 5
RATES = (0.3, 1.0, 3.0)  # times the default of the program
MINI_BATCH = "NumPy AdaGrad, batches"

Candidate = tuple[str, Callable[[], Program]]  # its settings in words


def candidates(w: Workload) -> tuple[dict[str, list[Candidate]], list[str]]:
    """The programs with the settings that each may choose from, and notes about those that are missing."""
    own_L2 = SOLVERS["adagrad"].defaults[w.task].reg_V
    L2 = sorted({1e-5, own_L2})
    base = FMFast(w, N_FACTORS).solver.learning_rate

    def fmfast(rate: float, reg: float) -> FMFast:
        return FMFast(w, N_FACTORS, learning_rate=rate, reg_w=reg, reg_V=reg)

    def settings(make: Callable[..., Program], base: float, L2: list[float]) -> list[Candidate]:
        return [
            (f"rate {factor * base:.3g}, L2 {reg:g}", partial(make, factor * base, reg))
            for factor, reg in product(RATES, L2)
        ]

    makers, notes = available()
    choices = {
        FMFAST: settings(fmfast, base, L2),
        MINI_BATCH: settings(lambda rate, reg: NumPy.mini_batch(w, fmfast(rate, reg)), base, L2),
        MODERN_FM: settings(lambda rate, reg: ModernFM(w, N_FACTORS, rate, reg=reg), 0.05, L2),
        MODERN_FM_BATCHES: settings(
            lambda rate, reg: ModernFM(w, N_FACTORS, rate, batch_size=512, reg=reg), 0.05, L2
        ),
        TORCH: settings(lambda rate, reg: Torch(w, N_FACTORS, rate), 0.05, [0.0]),
        MYFM: [("default settings", lambda: makers[MYFM](w, N_FACTORS))],
        LINEAR: [("default settings", lambda: makers[LINEAR](w, N_FACTORS))],
    }
    return {name: list_ for name, list_ in choices.items() if name in (*makers, MINI_BATCH)}, notes


class Curve:
    """A program with the seconds it has trained and the test losses on the way."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def train(self, w: Workload, n_epochs: int, max_seconds: float) -> None:
        for _ in range(n_epochs):
            before = self.seconds[-1] if self.seconds else 0.0
            if before > max_seconds:
                return
            self.seconds.append(before + self.program.train(1)[0])
            self.losses.append(w.test_loss(self.program.raw_scores(w.X_test)))

    def best(self) -> float:
        return min((loss for loss in self.losses if math.isfinite(loss)), default=math.inf)

    def time_to(self, loss: float) -> float | None:
        reached = (t for t, value in zip(self.seconds, self.losses, strict=True) if value <= loss)
        return next(reached, None)


def best_candidate(w: Workload, choices: list[Candidate], max_seconds: float) -> Candidate:
    """The one with the lowest test loss after a quarter of the epochs."""
    if len(choices) == 1:
        return choices[0]
    losses = []
    for _, make in choices:
        curve = Curve(make())
        with suppress(RuntimeError):  # diverged
            curve.train(w, EPOCHS // 4, max_seconds / 4)
        losses.append(curve.best())
    return choices[losses.index(min(losses))]


def compare(w: Workload, max_seconds: float) -> tuple[list[Row], dict[str, Any], list[str]]:
    choices, notes = candidates(w)
    chosen = {name: best_candidate(w, list_, max_seconds) for name, list_ in choices.items()}
    curves = {name: Curve(make()) for name, (_, make) in chosen.items()}
    warm_up = [make() for _, make in chosen.values()]
    for program in warm_up:
        program.train(1)
    close(warm_up)
    for _ in range(EPOCHS // TURN):
        for curve in curves.values():
            curve.train(w, TURN, max_seconds)
    close(curve.program for curve in curves.values())
    common = max(curve.best() for name, curve in curves.items() if name != LINEAR)
    reference = curves[FMFAST].time_to(common)
    rows = []
    for name, curve in curves.items():
        t = curve.time_to(common)
        rows.append({
            "program": name,
            "settings": chosen[name][0],
            "epochs": len(curve.losses),
            f"best {w.metric}": curve.best(),
            f"seconds to {common:.4f}": t,
            "x fmfast": t / reference if t is not None and reference is not None else None,
        })  # fmt: skip
    points = {name: {"seconds": curve.seconds, "losses": curve.losses} for name, curve in curves.items()}
    return rows, {"metric": w.metric, "curves": points}, notes


def run(settings: Settings) -> Section:
    max_seconds = 3.0 + 17.0 * min(1.0, settings.scale)
    tables, data, notes = [], {}, list[str]()
    for source in ("chess", *settings.data):
        w = load(source)
        rows, data[w.name], notes = compare(w, max_seconds)
        tables.append(Table(f"{w.name}, {w.X_train.shape[0]:,} training rows", rows))
    return Section(
        title="Time to quality",
        about=f"Test loss against seconds of training, k = {N_FACTORS}, one thread; best settings of each.",
        tables=tables,
        notes=notes,
        data=data,
    )


def draw(section: Section) -> Any:
    figure, axes = new_figure(len(section.data), width=6.0, height=4.6)
    for ax, (name, found) in zip(axes, section.data.items(), strict=True):
        curves = dict(found["curves"])
        linear = curves.pop(LINEAR, None)
        colours = [COLOURS["fmfast"], COLOURS["numpy"], *OTHERS]
        for (program, curve), colour in zip(curves.items(), colours, strict=False):
            ax.plot(curve["seconds"], curve["losses"], label=program, color=colour,
                    linewidth=2.2 if program == FMFAST else 1.3)  # fmt: skip
        if linear is not None:
            best = min(linear["losses"])
            ax.axhline(best, color=COLOURS["reference"], linestyle=":", label=f"{LINEAR}: its best")
        ax.set_xscale("log")
        low, high = min(min(c["losses"]) for c in curves.values()), curves[FMFAST]["losses"][0]
        ax.set_ylim(low - 0.05 * (high - low), low + 1.6 * (high - low))
        ax.set(title=name, xlabel="seconds of training", ylabel=found["metric"])
        legend_below(ax)
    figure.suptitle(f"Test loss against time, one thread, k = {N_FACTORS}")
    return figure
