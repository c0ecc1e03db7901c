"""Which build of the hot loop runs on this CPU.

The one source `_core.pyx` is compiled for the x86-64 baseline, for v3 (AVX2, FMA) and for v4 (AVX-512);
elsewhere there is one build. The environment variable FMFAST_CPU=baseline|v3|v4, read once at
import, forces one, so that tests can run them all.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from fmfast import _cpu

_LEVELS = {"baseline": (0, "_core"), "v3": (3, "_core_v3"), "v4": (4, "_core_v4")}


def available_levels() -> list[str]:
    """The levels that this CPU can run, lowest first."""
    highest = _cpu.x86_64_level()
    return [name for name, (needed, _) in _LEVELS.items() if needed <= highest]


def load_core(level: str) -> ModuleType:
    """The kernel module built for one level."""
    return importlib.import_module(f"fmfast.{_LEVELS[level][1]}")


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
core: ModuleType = load_core(level)
