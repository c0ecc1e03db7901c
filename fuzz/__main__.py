"""Fuzzing in a given time: `python -m fuzz --seconds 600`.

Every target has a process of its own, so that one that crashes or hangs is seen from outside; it is then
started anew. Exit code 1 if there was a finding; the inputs are kept in the directory that is printed, and
`--reproduce` tries one again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fuzz.target import SEEDS, Finding
from fuzz.targets import TARGETS
from fuzz.worker import Present, check_input, run

HANG = 60.0  # seconds after which a process that is still at the same input is ended


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="in all, shared by the targets (default: 60)"
    )
    parser.add_argument("--inputs", type=int, default=2**62, help="no more than so many for each target")
    parser.add_argument(
        "--target", choices=[*TARGETS], action="append", help="only this one; may be repeated"
    )
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default: 1)")
    parser.add_argument("--seed", type=int, default=None, help="of the random numbers (default: the time)")
    parser.add_argument("--directory", help="where to keep findings and counts (default: a new one)")
    parser.add_argument("--reproduce", metavar="FILE", help="try one input on the --target, and end")
    parser.add_argument("--make-seeds", action="store_true", help="write the corpus anew, and end")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.target or [*TARGETS]
    if options.make_seeds:
        return make_seeds(names)
    if options.reproduce:
        print(check_input(TARGETS[names[0]], Path(options.reproduce).read_bytes(), traced=True))
        return 0
    seed = time.time_ns() % 2**32 if options.seed is None else options.seed
    directory = options.directory or tempfile.mkdtemp(prefix="fmfast-fuzz-")
    if options.worker:
        run(names[0], seed, options.seconds, options.inputs, directory)
        return 0
    os.makedirs(directory, exist_ok=True)
    print(f"seed {seed}, findings and counts in {directory}", flush=True)
    return fuzz(names, seed, options, directory)


def fuzz(names: list[str], seed: int, options: Any, directory: str) -> int:
    """All targets, a few at a time; returns the exit code."""
    share = options.seconds * options.jobs / len(names)
    waiting, active = list(names), []
    failed = False
    while waiting or active:
        while waiting and len(active) < options.jobs:
            active.append(Campaign(waiting.pop(0), seed, share, options.inputs, directory))
        time.sleep(0.05)
        for campaign in [each for each in active if each.is_over()]:
            active.remove(campaign)
            failed = campaign.report() or failed
    return int(failed)


class Campaign:
    """One target for its time, in as many processes as it takes."""

    def __init__(self, name: str, seed: int, seconds: float, n_inputs: int, directory: str) -> None:
        self._name, self._seed, self._n_left, self._directory = name, seed, n_inputs, directory
        self._end = time.monotonic() + seconds
        self._totals: dict[str, Any] = {
            "inputs": 0,
            "accepted": 0,
            "refused": 0,
            "findings": 0,
            "slowest": 0.0,
        }
        self._endings: dict[str, int] = {}
        self._present = Present(os.path.join(directory, f"present-{name}"))
        self._start()

    def _start(self) -> None:
        self._present.set(0, b"")
        self._is_ended = False
        Path(self._directory, f"result-{self._name}.json").unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "fuzz",
            "--worker",
            "--target",
            self._name,
            "--seed",
            str(self._seed),
        ]
        command += ["--seconds", str(self._end - time.monotonic()), "--inputs", str(self._n_left)]
        self._process = subprocess.Popen([*command, "--directory", self._directory])

    def is_over(self) -> bool:
        number, data, since = self._present.get()
        if self._process.poll() is None:
            if number and time.time() - since > HANG:
                self._process.kill()
                self._process.wait()
                self._is_ended = True
                self._lost(data, f"still at it after {HANG:g} s")
            return False
        if self._process.returncode and not self._is_ended:
            self._lost(data, f"the process ended with {self._process.returncode}")
        self._add_up()
        self._seed += 1
        if self._n_left <= 0 or self._end - time.monotonic() < 1 or self._totals["findings"] >= 20:
            return True
        self._start()
        return False

    def _lost(self, data: bytes, what: str) -> None:
        path = Path(self._directory, f"finding-{self._name}-{self._process.pid}-end.input")
        path.write_bytes(data)
        path.with_suffix(".txt").write_text(what)
        self._totals["findings"] += 1

    def _add_up(self) -> None:
        path = Path(self._directory, f"result-{self._name}.json")
        result = json.loads(path.read_text()) if path.exists() else {"inputs": self._present.get()[0]}
        for ending, count in result.pop("endings", {}).items():
            self._endings[ending] = self._endings.get(ending, 0) + count
        self._totals["slowest"] = max(self._totals["slowest"], result.pop("slowest", 0.0))
        for key, count in result.items():
            self._totals[key] += count
        self._n_left -= result["inputs"]

    def report(self) -> bool:
        """Print the counts; whether something was found."""
        t = self._totals
        print(
            f"{self._name:12} {t['inputs']:9} inputs, {t['accepted']} accepted, {t['refused']} refused, "
            f"{len(self._endings)} endings, slowest {t['slowest']:.2f} s, findings: {t['findings']}",
            flush=True,
        )
        totals = {**t, "endings": dict(sorted(self._endings.items(), key=lambda item: -item[1]))}
        Path(self._directory, f"total-{self._name}.json").write_text(json.dumps(totals, indent=1))
        shown = set()
        for path in sorted(Path(self._directory).glob(f"finding-{self._name}-*.txt")):
            what = path.read_text().strip()
            if what[-60:] not in shown:  # many inputs, one fault
                print(f"--- {path.with_suffix('.input')}\n{what[-1500:]}", flush=True)
            shown.add(what[-60:])
        return bool(t["findings"])


def make_seeds(names: list[str]) -> int:
    for name in names:
        folder = SEEDS / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, data in TARGETS[name].new_seeds().items():
            (folder / file).write_bytes(data)
            try:
                print(f"{name}/{file}: {len(data)} bytes, {check_input(TARGETS[name], data, traced=True)}")
            except Finding as finding:
                print(f"{name}/{file}: {finding}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
