"""What `import fmfast` takes beside NumPy and scipy.sparse: median over fresh processes, in turns.

Fails above a generous bound: a machine that builds other things meanwhile is no place for measurements.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median

BASE = "import numpy, scipy.sparse"
WANTED, BOUND = 0.050, 0.150  # seconds
PROCESSES = 31

SCRIPT = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def seconds(statement: str) -> float:
    command = [sys.executable, "-c", SCRIPT.format(statement)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    base, added = [], []
    for _ in range(PROCESSES):
        base.append(seconds(BASE))
        added.append(seconds(f"{BASE}; start = time.perf_counter(); import fmfast"))
    print(
        f"import fmfast: {1e3 * median(added):.0f} ms beside {1e3 * median(base):.0f} of scipy.sparse "
        f"(wanted: at most {1e3 * WANTED:.0f})"
    )
    if median(added) > BOUND:
        sys.exit("it imports something that it should not")


if __name__ == "__main__":
    main()
