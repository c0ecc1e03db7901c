"""What the command line says to every section."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """
    Attributes
    ----------
    scale : float
        Size of the synthetic workloads: 1 is the full W1, W2 and W3.
    rounds : int
        Turns of each program.
    data : tuple of Path
        Further data sets, `.npz`, for the sections that measure quality.
    """

    scale: float
    rounds: int
    data: tuple[Path, ...] = ()
