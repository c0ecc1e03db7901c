"""Which build of the kernels runs on this CPU.

`_core.pyx`, `_coordinate.pyx`, `_ranking.pyx` and `_table.pyx` are compiled for the x86-64 baseline, for v3
(AVX2, FMA) and for v4 (AVX-512); elsewhere there is one build. The environment variable
FMFAST_CPU=baseline|v3|v4, read once at import, forces one, so that tests can run them all.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from fmfast import _cpu

# What a level needs of the CPU, and what the names of its modules end with.
_LEVELS = {"baseline": (0, ""), "v3": (3, "_v3"), "v4": (4, "_v4")}


def available_levels() -> list[str]:
    """The levels that this CPU can run, lowest first."""
    highest = _cpu.x86_64_level()
    return [name for name, (needed, _) in _LEVELS.items() if needed <= highest]


def load_kernel(name: str, level: str) -> ModuleType:
    """The module "_core", "_coordinate", "_ranking" or "_table" built for one level."""
    return importlib.import_module(f"fmfast.{name}{_LEVELS[level][1]}")


def load_core(level: str) -> ModuleType:
    """The hot loop built for one level."""
    return load_kernel("_core", level)


def _chosen_level() -> str:
    forced = os.environ.get("FMFAST_CPU", "").strip().lower()
    if not forced:
        return available_levels()[-1]
    if forced not in _LEVELS:
        raise ImportError(
            f"The environment variable FMFAST_CPU is {forced!r}, expected one of {', '.join(_LEVELS)}; "
            "correct it, or unset it to let fmfast choose."
        )
    if forced not in available_levels():
        raise ImportError(
            f"The environment variable FMFAST_CPU asks for {forced!r}, but this CPU runs only "
            f"{', '.join(available_levels())}; set it to one of these, or unset it."
        )
    return forced


level: str = _chosen_level()
core: ModuleType = load_kernel("_core", level)
coordinate: ModuleType = load_kernel("_coordinate", level)
ranking: ModuleType = load_kernel("_ranking", level)
table: ModuleType = load_kernel("_table", level)
