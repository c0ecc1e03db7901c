"""What training has to say after every epoch: a bar on a terminal, else a line."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self


class Progress:
    """A callback of `fit`, and a context that tidies up the terminal.

    Parameters
    ----------
    unit : {"epoch", "iteration"}
    total : int
        How many of them to expect at most.
    n_rows : int
        Rows that each of them visits.
    """

    def __init__(self, unit: str, total: int, n_rows: int) -> None:
        self._unit, self._total, self._n_rows = unit, total, n_rows
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                pass  # lines will do
            else:
                self._bar = tqdm(total=self._total, unit=self._unit, file=sys.stdout, dynamic_ncols=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, record: dict[str, Any]) -> None:
        facts = f"loss {record['loss']:.6g}"
        for name in ("validation_score", "validation_loss"):
            if record.get(name) is not None:
                facts += f"  {name.replace('_', ' ')} {record[name]:.6g}"
        facts += f"  {self._n_rows / max(record['seconds'], 1e-9):,.0f} rows/s"
        if self._bar is None:
            print(f"{self._unit} {record[self._unit]:4d}  {facts}", flush=True)
        else:
            self._bar.set_postfix_str(facts, refresh=False)
            self._bar.update()
