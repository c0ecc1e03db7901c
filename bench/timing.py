"""Times that can be compared: programs take turns (A B A B ...), and the median counts.

A machine that slows down for a while, or is shared, then slows all of them. The first epoch of each
program is a warm-up and not counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from statistics import median

# Runs a program n times and returns the seconds of each.
Turn = Callable[[int], list[float]]


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def repeated(run: Callable[[], object]) -> Turn:
    """A plain function as something that takes turns."""
    return lambda n: [seconds(run) for _ in range(n)]


def take_turns(
    programs: Mapping[str, Turn], rounds: int, per_turn: int = 3, budget: float = math.inf
) -> dict[str, list[float]]:
    """All times of each program but the warm-up's, `per_turn` of them in a row in each round.

    A program that has used up `budget` seconds sits out the rounds after the first, so that a slow one
    does not hold up the others; with the default all of them run equally often.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in programs.values():
        turn(1)
    for _ in range(rounds):
        for name, turn in programs.items():
            if not times[name] or sum(times[name]) < budget:
                times[name] += turn(per_turn)
    return times


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: median(values) for name, values in times.items()}
