"""All measurements in one run.

    python -m bench [--scale 0.1] [--sections NAME ...] [--data FILE.npz ...] [--rounds 5]
                    [--output bench/results]

Each section is a module with `run(settings) -> Section` and `draw(section) -> figure`; what it
measures, and how, stands on top of it. All write to one table on the terminal, `results.md`,
`results.json` and a picture each in the output folder. `--scale 1` is the full W1, W2 and W3 of
`bench.workloads`; the default takes a few minutes. Times are compared with times of the same run only
(see `bench.timing`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import time
import traceback
import warnings
from pathlib import Path

from bench import environment, report
from bench.settings import Settings

SECTIONS = (
    "linear_time",
    "against_numpy",
    "limit",
    "peers",
    "time_to_quality",
    "column_wise",
    "threads",
    "fixed_costs",
    "predict",
    "parse",
    "out_of_core",
    "order",
    "levels",
    "steps",
    "retrieval",
    "ranking",
    "dask",
)
ON_ALL_CORES = ("threads", "column_wise", "dask")  # the others run on one


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="All measurements in one run.")
    parser.add_argument("--scale", type=float, default=0.1, help="1: full size; default %(default)s")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="NAME",
                        help=f"some of: {', '.join(SECTIONS)}")  # fmt: skip
    parser.add_argument("--data", nargs="+", type=Path, default=[], metavar="FILE.npz",
                        help="further data sets for time_to_quality and order")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program; default %(default)s")
    parser.add_argument("--output", type=Path, default=environment.ROOT / "bench" / "results")
    args = parser.parse_args(argv)
    if not args.scale > 0 or args.rounds < 1:
        parser.error("--scale must be positive, --rounds at least 1")
    for path in args.data:
        if not path.is_file():
            parser.error(f"--data: there is no file {path}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    environment.limit_thread_pools()
    warnings.filterwarnings("ignore", module=r"(torch|myfm|sklearn|modern_fm)")
    settings = Settings(args.scale, args.rounds, tuple(args.data))
    args.output.mkdir(parents=True, exist_ok=True)
    machine = {**environment.describe(), "scale": args.scale, "rounds": args.rounds}
    print(report.machine_as_markdown(machine), flush=True)
    found: dict[str, report.Section] = {}
    pictures: dict[str, str] = {}
    failed = []
    for name in args.sections:
        started = time.perf_counter()
        try:
            found[name], picture = run_section(name, settings, args.output)
        except Exception:  # the other sections are still worth having
            traceback.print_exc()
            failed.append(name)
            continue
        if picture is not None:
            pictures[name] = picture
        print(report.as_markdown(found[name]))
        print(f"({name}: {time.perf_counter() - started:.0f} s)\n", flush=True)
        report.write(args.output, machine, found, pictures)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_section(name: str, settings: Settings, folder: Path) -> tuple[report.Section, str | None]:
    """What a section found, and the name of its picture (None without matplotlib)."""
    module = importlib.import_module(f"bench.{name}")
    with contextlib.nullcontext() if name in ON_ALL_CORES else environment.one_core():
        section = module.run(settings)
    try:
        from bench import pictures

        pictures.save(module.draw(section), folder / f"{name}.png")
    except ImportError as error:
        section.notes.append(f"no picture: {error}")
        return section, None
    return section, f"{name}.png"


if __name__ == "__main__":
    sys.exit(main())
