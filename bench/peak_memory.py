"""The peak memory of `fit` in a process of its own: python -m bench.peak_memory FILE.npz N_FACTORS

The file is that of `save_input`. Prints as JSON the memory before `fit` and at the peak, in bytes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from bench.workloads import Workload
from fmfast import FMClassifier, FMRegressor


def save_input(w: Workload, folder: str | os.PathLike[str]) -> Path:
    """The training rows of a workload in a file, from which they load without intermediate copies."""
    X, path = w.X_train, Path(folder, "input.npz")
    np.savez(path, data=X.data, indices=X.indices, indptr=X.indptr, shape=X.shape, y=w.y_train, task=w.task)
    return path


def peak_bytes() -> int:
    """Highest resident memory of this process so far.

    `ru_maxrss` of a fresh process may be that of its parent on Linux, where /proc knows better.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main(path: str, n_factors: str) -> None:
    with np.load(path) as arrays:
        csr = arrays["data"], arrays["indices"], arrays["indptr"]
        X, y, task = sp.csr_array(csr, shape=tuple(arrays["shape"])), arrays["y"], str(arrays["task"])
    kind = FMRegressor if task == "regression" else FMClassifier
    before = peak_bytes()
    kind(int(n_factors), max_iter=1, random_state=0).fit(X, y)
    print(json.dumps({"before": before, "peak": peak_bytes()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
