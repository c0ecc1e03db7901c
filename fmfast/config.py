"""What runs here: versions, the instruction set of the kernels, cores."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any, Literal, overload

import numpy as np
import scipy

from fmfast import _dispatch


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(n_jobs: int | None) -> int:
    """Threads for `n_jobs`: None is 1, -1 all cores, -2 all but one, and so on."""
    wanted = 1 if n_jobs is None else int(n_jobs)
    return wanted if wanted > 0 else max(1, available_cores() + 1 + wanted)


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...


@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Print, or return, what a report about speed or a bug needs to say.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default="stdout"
        "dicts" returns the facts instead of printing them.

    Returns
    -------
    dict or None
        With "dicts": versions, platform, the kernels' instruction set in use and those available, cores.

    Raises
    ------
    ValueError
        For another mode.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode is {mode!r}, expected 'stdout' or 'dicts'; give one of them.")
    facts = {
        "fmfast": version("fmfast"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(),
        "kernels": _dispatch.level,
        "kernels available": _dispatch.available_levels(),
        "cores": available_cores(),
    }
    if mode == "dicts":
        return facts
    for name, fact in facts.items():
        print(f"{name:18} {', '.join(fact) if isinstance(fact, list) else fact}")
    return None
