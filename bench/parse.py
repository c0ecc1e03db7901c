"""How fast is text?

Megabytes per second, with one thread, of `fmfast.text.load` and `fmfast.text.dump` and of scikit-learn's
`load_svmlight_file` and `dump_svmlight_file`, in turns on the same rows: those of W2, all values 1
(`index:1`, 39 to a row), and the same with six decimals (`index:0.123456`), random float32 and random
float64 values in as many digits as they need. A libffm file, and one compressed by gzip, are read besides.
The files are in the page cache; they are written to the same folder, and not synced.

Each file is compared with what it was made of before it is timed.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse as sp

from bench.pictures import COLOURS, grouped_bars, legend_below, new_figure, plain_log_scale
from bench.report import Row, Section, Table, Target, at_least
from bench.settings import Settings
from bench.timing import medians, repeated, take_turns
from bench.workloads import Workload, load
from fmfast import text

LARGEST_SCALE = 0.3  # of W2: 35 megabytes of ones
SECONDS = 20.0  # for each of scikit-learn's programs
TARGETS = ("ones", "six decimals")


def matrices(w: Workload) -> dict[str, sp.csr_array]:
    rng = np.random.default_rng(0)
    X = w.X_train
    values = {
        "ones": X.data,
        "six decimals": (rng.integers(1, 1_000_000, X.nnz) / 1e6).astype(np.float32),
        "float32": rng.normal(size=X.nnz).astype(np.float32),
        "float64": rng.normal(size=X.nnz),
    }
    return {name: sp.csr_array((data, X.indices, X.indptr), shape=X.shape) for name, data in values.items()}


def check(path: Path, X: sp.csr_array, y: np.ndarray) -> None:
    back = text.load(path, n_features=X.shape[1], dtype=X.dtype)
    same = all(
        np.array_equal(getattr(back.X, name), getattr(X, name)) for name in ("data", "indices", "indptr")
    )
    if not same or not np.array_equal(back.y, y):
        raise RuntimeError(f"{path} is not read as it was written")


def compare(name: str, X: sp.csr_array, w: Workload, rounds: int, folder: Path) -> Row:
    path, ffm, compressed, out = (folder / ending for ending in ("svm", "ffm", "svm.gz", "out"))
    y, n_features, dtype = w.y_train, X.shape[1], X.dtype
    text.dump(path, X, y)
    text.dump(ffm, X, y, field=w.field)
    compressed.write_bytes(gzip.compress(path.read_bytes(), 1))
    for file in (path, ffm, compressed):
        check(file, X, y)

    def dump() -> None:
        with open(out, "wb") as file:
            text.dump(file, X, y)

    programs: dict[str, Callable[[], object]] = {
        "load": lambda: text.load(path, n_features=n_features, dtype=dtype),
        "load libffm": lambda: text.load(ffm, n_features=n_features, dtype=dtype),
        "load gzip": lambda: text.load(compressed, n_features=n_features, dtype=dtype),
        "dump": dump,
    }
    try:
        from sklearn.datasets import dump_svmlight_file, load_svmlight_file
    except ImportError:
        pass
    else:
        programs["sklearn load"] = lambda: load_svmlight_file(str(path), n_features=n_features, dtype=dtype)
        programs["sklearn dump"] = lambda: dump_svmlight_file(X, y, str(out), zero_based=False)
    turns = {program: repeated(run) for program, run in programs.items()}
    seconds = medians(take_turns(turns, rounds, per_turn=1, budget=SECONDS))
    size = {"load libffm": ffm.stat().st_size}
    speed = {program: 1e-6 * size.get(program, path.stat().st_size) / t for program, t in seconds.items()}
    row: Row = {"values": name, "MB": 1e-6 * path.stat().st_size}
    row |= {f"{program}, MB/s": value for program, value in speed.items()}
    for program in ("load", "dump"):
        if f"sklearn {program}" in seconds:
            row[f"{program} / sklearn"] = seconds[f"sklearn {program}"] / seconds[program]
    return row


def run(settings: Settings) -> Section:
    w = load("W2", min(settings.scale, LARGEST_SCALE))
    rows, targets = [], list[Target]()
    with TemporaryDirectory() as folder:
        for name, X in matrices(w).items():
            row = compare(name, X, w, settings.rounds, Path(folder))
            rows.append(row)
            if name in TARGETS:
                targets.append(at_least(f"load, MB/s, {name}", row["load, MB/s"], 400.0))
                if "load / sklearn" in row:
                    targets.append(at_least(f"load / sklearn, MB/s, {name}", row["load / sklearn"], 10.0))
            targets.append(at_least(f"dump, MB/s, {name}", row["dump, MB/s"], 50.0))
    return Section(
        title="Text",
        about="Megabytes of libsvm text per second, with one thread.",
        tables=[Table("Megabytes per second", rows)],
        targets=targets,
        notes=[
            "gzip: megabytes of the text, not of the compressed file",
            "scikit-learn's dump counts the megabytes of fmfast's file: it writes 16 digits of each number",
        ],
    )


def draw(section: Section) -> Any:
    figure, (ax,) = new_figure(1, width=7.5)
    rows = section.tables[0].rows
    names = {"load": "fmfast load", "dump": "fmfast dump", "sklearn load": "scikit-learn load",
             "sklearn dump": "scikit-learn dump"}  # fmt: skip
    series = {
        label: [row[f"{name}, MB/s"] for row in rows]
        for name, label in names.items()
        if f"{name}, MB/s" in rows[0]
    }
    colours = [COLOURS[name] for name in ("fmfast", "fmfast light", "numpy", "numpy light")]
    grouped_bars(ax, [row["values"] for row in rows], series, colours)
    plain_log_scale(ax)
    ax.set(title="libsvm text, one thread", ylabel="megabytes per second")
    legend_below(ax, 2)
    return figure
