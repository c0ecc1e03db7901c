"""Is one build of the package slower than another?

    python -m bench.two_installs PYTHON_A PYTHON_B [--rounds 9] [--scale 0.2]

Two interpreters, each with an fmfast of its own installed (two wheels in two virtual environments), take
turns, a fresh process each time, and do the same work: epochs of the workloads, whole fits of small data,
predictions of few rows, text. Each process reports its medians; what counts are the ratios B / A of
neighbouring turns. Above 1, B takes longer. This compared the stable ABI with builds for one version of
Python; it needs no plot and no peer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench import environment

# The same work for both, so that it is described by what an install of any version offers.
N_FACTORS = (8, 32)
FEW_ROWS = 100


def programs(scale: float) -> dict[str, tuple[Callable[[], object], int]]:
    """{name: (what is timed, how often in one process)}; each call is one time."""
    import numpy as np

    from bench.workloads import load
    from fmfast import FMClassifier, FMRegressor, text

    found: dict[str, tuple[Callable[[], object], int]] = {}
    for name in ("W1", "W2"):
        w = load(name, scale)
        kind = FMRegressor if w.task == "regression" else FMClassifier
        for k in N_FACTORS:
            fm = kind(k, max_iter=1, random_state=0).fit(w.X_train, w.y_train)
            found[f"epoch {name} k={k}"] = (lambda fm=fm, w=w: fm.partial_fit(w.X_train, w.y_train)), 5
            found[f"predict {name} k={k}"] = (lambda fm=fm, w=w: fm.predict(w.X_train)), 3
    als = FMRegressor(8, solver="als", max_iter=2, random_state=0)
    chess = load("chess")
    found["als, chess"] = (lambda: als.fit(chess.X_train, chess.y_train)), 5
    one, few = w.X_train[:1], w.X_train[:FEW_ROWS]
    y_few = w.y_train[:FEW_ROWS]
    small = FMClassifier(8, max_iter=2, random_state=0)
    found["predict 1 row"] = (lambda: fm.predict(one)), 2000
    found[f"predict {FEW_ROWS} rows"] = (lambda: fm.predict(few)), 500
    found[f"partial_fit {FEW_ROWS} rows"] = (lambda: fm.partial_fit(few, y_few)), 200
    narrow = few[:, np.unique(few.indices)[:50]]
    found[f"fit {FEW_ROWS} rows, 50 columns"] = (lambda: small.fit(narrow, y_few)), 100
    folder = TemporaryDirectory()
    path, line = Path(folder.name, "rows.svm"), Path(folder.name, "row.svm")
    text.dump(path, w.X_train, w.y_train)
    text.dump(line, one, y_few[:1])
    n_features = w.X_train.shape[1]
    found["text.load"] = (lambda: text.load(path, n_features=n_features)), 5
    found["text.load 1 row"] = (lambda folder=folder: text.load(line, n_features=n_features)), 200
    found["text.dump"] = (lambda: text.dump(path, w.X_train, w.y_train)), 3
    return found


def measure(scale: float) -> dict[str, float]:
    """Median seconds of each program in this process."""
    from bench.timing import seconds

    found = {}
    for name, (run, times) in programs(scale).items():
        run()
        found[name] = median([seconds(run) for _ in range(times)])
    return found


def in_process(python: str, scale: float, folder: Path) -> dict[str, float]:
    command = [python, "-m", "bench.two_installs", "--measure", "--scale", str(scale)]
    # Here the package of the checkout is out of reach: that of the interpreter is measured.
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True, text=True)
    times: dict[str, float] = json.loads(done.stdout)
    return times


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.two_installs", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("pythons", nargs="*", metavar="PYTHON", help="two interpreters, each with an fmfast")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--scale", type=float, default=0.2, help="of W1 and W2")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    environment.limit_thread_pools()
    if args.measure:
        with environment.one_core():
            print(json.dumps(measure(args.scale)))
        return
    if len(args.pythons) != 2:
        parser.error("two interpreters are compared, A and B")
    ratios: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench").symlink_to(environment.ROOT / "bench", target_is_directory=True)
        for done in range(args.rounds):
            a, b = (in_process(python, args.scale, folder) for python in args.pythons)
            for program in a:
                first.setdefault(program, []).append(a[program])
                ratios.setdefault(program, []).append(b[program] / a[program])
            print(f"round {done + 1} of {args.rounds}", file=sys.stderr, flush=True)
    print("| | A, ms | B / A | of the rounds |\n|---|---:|---:|---:|")
    for program, values in ratios.items():
        spread = f"{min(values):.3f} .. {max(values):.3f}"
        print(f"| {program} | {1e3 * median(first[program]):.4g} | {median(values):.3f} | {spread} |")


if __name__ == "__main__":
    main()
