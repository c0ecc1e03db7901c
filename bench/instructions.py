"""Instructions per nonzero of every kernel: a guard against slower code that needs no quiet machine.

    python -m bench.instructions [--output bench/results/instructions.json] [--keep]

Runs each kernel on a small fixed workload under `valgrind --tool=callgrind`, which counts instructions
exactly and the same way on every run, whatever else the machine does. Counted is what a call with all rows
takes more than one with half of them, so neither Python nor the start of a call is in it. The kernels are
those of v3, as valgrind knows no AVX-512.

Prints the counts beside those in the file, and then writes the file (--keep leaves it as it is). Instructions
are not time: they show that the compiler made something else of a loop, not how long memory takes. Counts of
different compilers cannot be compared, so the file names its compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench import build
from bench.environment import ROOT
from bench.report import Row, markdown_table

LEVEL = "v3"
FACTORS = (8, 16, 32, 24)  # the last by the kernel for any number
SOLVERS = ("sgd", "adagrad", "ftrl")
N_ROWS, NNZ, N_COLUMNS = 400, 20, 500
RUN_LENGTH, N_LANES = 4, 8
# What Cython calls the specialisation for float32 values, int32 indices and a float32 table.
_FUNCTION = rb"__pyx_fuse_0_0_0__pyx_pw_\w+?(?:train|score)_rows\b"


def cases() -> list[str]:
    """Names of what is counted, in the order of the calls."""
    return [f"{kernel} k={k}" for kernel in (*SOLVERS, "score") for k in FACTORS]


def call_kernels() -> None:
    """What runs under valgrind: for every case, two calls with all rows and one with half of them.

    The first of them is a warm-up, which also pays for what is loaded late.
    """
    from fmfast._dispatch import core

    rng = np.random.default_rng(0)
    size = N_COLUMNS // NNZ
    columns = size * np.arange(NNZ) + rng.integers(0, size, (N_ROWS, NNZ))
    rows = np.empty(0, np.float32), columns.astype(np.int32).ravel(), np.arange(0, N_ROWS * NNZ + 1, NNZ)
    y, out = rng.standard_normal(N_ROWS), np.empty(N_ROWS)
    runs = RUN_LENGTH * rng.permutation(N_ROWS // RUN_LENGTH)
    rate, reg_w, reg_V = 0.01, 0.001, 0.001
    for kernel in (*SOLVERS, "score"):
        for k in FACTORS:
            table = np.full((N_COLUMNS, 3 * k + 4), 0.01, np.float32)  # room for the state of every solver
            for part in (1, 1, 2):
                if kernel == "score":
                    core.score_rows(*rows, 0, N_ROWS // part, table, 0.0, k, out)
                    continue
                loss = core.train_rows(
                    *rows, y, np.empty(0), runs[: len(runs) // part], RUN_LENGTH, N_LANES,
                    table, np.ones(3), k, core.SOLVERS[kernel], core.LOSSES["squared"], rate, reg_w, reg_V,
                )  # fmt: skip
                if not np.isfinite(loss):
                    raise RuntimeError(f"{kernel} diverged on the workload that counts its instructions")


def count() -> dict[str, float]:
    """Instructions per nonzero of every case."""
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed, but the instructions are counted with it; install it.")
    with TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/count"]
        for function in kernel_functions():
            command += [f"--zero-before={function}", f"--dump-after={function}"]
        command += [sys.executable, "-m", "bench.instructions", "--child"]
        environment = {**os.environ, "FMFAST_CPU": LEVEL, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"valgrind failed:\n{done.stderr}")
        totals = list(_totals(Path(folder)))
    calls = 3 * len(cases())
    if len(totals) != calls:
        raise SystemExit(f"callgrind saw {len(totals)} calls of the kernels, expected {calls}.")
    nnz = NNZ * (N_ROWS - N_ROWS // 2)
    return {
        case: (whole - half) / nnz
        for case, whole, half in zip(cases(), totals[1::3], totals[2::3], strict=True)
    }


def kernel_functions() -> list[str]:
    """Symbols of the compiled functions, read from the extension module."""
    path = import_module(f"fmfast._core_{LEVEL}").__file__
    assert path is not None
    names = sorted(set(re.findall(_FUNCTION, Path(path).read_bytes())))
    if len(names) != 2:
        raise SystemExit(f"{Path(path).name} has no symbols of its kernels; build it from a checkout.")
    return [name.decode() for name in names]


def _totals(folder: Path) -> Iterator[int]:
    """Instructions of each call, in the order of the calls."""
    parts = sorted(folder.glob("count.*"), key=lambda path: int(path.suffix[1:]))
    for part in parts:
        found = re.search(r"^totals: (\d+)", part.read_text(), re.MULTILINE)
        assert found is not None
        yield int(found[1])


def comparison(counts: dict[str, float], before: dict[str, float]) -> list[Row]:
    rows = list[Row]()
    for case, value in counts.items():
        row = {"kernel": case, "instructions per nonzero": value}
        if case in before:
            row |= {"in the file": before[case], "change": f"{value / before[case] - 1:+.1%}"}
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions", description=__doc__.partition("\n")[0]
    )
    default = ROOT / "bench" / "results" / "instructions.json"
    parser.add_argument("--output", type=Path, default=default, help="the file to compare with and to write")
    parser.add_argument("--keep", action="store_true", help="do not write the file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        call_kernels()
        return
    before = json.loads(args.output.read_text()) if args.output.exists() else {}
    counts = count()
    facts = {"compiler": build.compiler(), "flags": " ".join(build.flags(LEVEL)), "level": LEVEL}
    print(f"{facts['compiler']}, kernels of {LEVEL}\n")
    print(markdown_table(comparison(counts, before.get("instructions per nonzero", {}))))
    for name, fact in facts.items():
        if before and before.get(name) != fact:
            print(f"\nthe file has another {name}: {before.get(name)}")
    if not args.keep:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        rounded = {case: round(value, 2) for case, value in counts.items()}
        args.output.write_text(json.dumps({**facts, "instructions per nonzero": rounded}, indent=1) + "\n")


if __name__ == "__main__":
    main()
