"""One process that tries inputs on one target, one after the other, and says which one it is at.

It keeps the inputs that end in a way not seen before (another message, another kind of success), and some of
those that are accepted, and changes them again: a cheap kind of guidance, that needs no instrumented build.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import time
import traceback
import tracemalloc
from pathlib import Path
from typing import Any

from fuzz.mutation import MAX_SIZE
from fuzz.target import MIB, Finding, Target, require
from fuzz.targets import TARGETS

MAX_SECONDS = 2.0  # of one input; on a machine that does other things as well
_TRACED = 32  # one input of so many has its allocations traced, which makes it several times slower
_HEADER = struct.Struct("<QQd")  # inputs so far, size of the present one, when it was begun
_MAX_FINDINGS = 20
_POOL = 500


class Present:
    """The input that is tried just now, in a file that outlives this process."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b" if os.path.exists(path) else "w+b") as file:
            file.truncate(_HEADER.size + 2 * MAX_SIZE)
            self._map = mmap.mmap(file.fileno(), 0)

    def set(self, number: int, data: bytes) -> None:
        self._map[: _HEADER.size] = _HEADER.pack(number, len(data), time.time())
        self._map[_HEADER.size : _HEADER.size + len(data)] = data

    def get(self) -> tuple[int, bytes, float]:
        number, size, since = _HEADER.unpack(self._map[: _HEADER.size])
        return number, self._map[_HEADER.size : _HEADER.size + size], since


def check_input(target: Target, data: bytes, traced: bool) -> str | None:
    """`Target.check` within its bounds of time and memory; `Finding` for whatever must not be."""
    # The time of the process, not of the clock: others may have the processor.
    started = time.process_time()
    before = 0
    if traced:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
    try:
        ending = target.check(data)
    except Finding:
        raise
    except Exception as error:
        raise Finding("".join(traceback.format_exception(error, limit=-6))) from error
    finally:
        peak = tracemalloc.get_traced_memory()[1] - before if traced else 0
        tracemalloc.stop()
    seconds = time.process_time() - started
    allowed = target.constant + target.multiple * target.size(data)
    require(peak <= allowed, f"{peak} bytes allocated for an input of {len(data)}, allowed {allowed}")
    require(
        seconds <= MAX_SECONDS * (5 if traced else 1), f"{seconds:.1f} s for an input of {len(data)} bytes"
    )
    return ending


def run(name: str, seed: int, seconds: float, n_inputs: int, directory: str) -> None:
    """Try inputs until the time or their number is over; the outcome stands in `result-NAME.json`."""
    target = TARGETS[name]
    limit_memory()
    rng = random.Random(seed)
    seeds = target.seeds()
    # Seeds, what was accepted, what was new: what is far from any sound input seldom comes far.
    pools: list[list[bytes]] = [seeds, [], []]
    seen: dict[str, int] = {}
    present = Present(os.path.join(directory, f"present-{name}"))
    deadline = time.monotonic() + seconds
    result: dict[str, Any] = {"inputs": 0, "accepted": 0, "refused": 0, "findings": 0, "slowest": 0.0}
    tries = 0
    while time.monotonic() < deadline and result["inputs"] < n_inputs:
        # The corpus first, as it is; then changes of it.
        if tries < len(seeds):
            data = seeds[tries]
        else:
            parents = rng.choices(pools, (5, 3, 2))[0] or seeds
            data = target.mutate(rng.choice(parents), rng, seeds)
        tries += 1
        present.set(tries, data)
        started = time.process_time()
        try:
            ending = check_input(target, data, traced=tries % _TRACED == 0)
        except Finding as finding:
            result["findings"] += 1
            result["inputs"] += 1
            _keep(directory, name, data, str(finding))
            if result["findings"] >= _MAX_FINDINGS:
                break
            continue
        if ending is None:
            continue
        result["slowest"] = max(result["slowest"], time.process_time() - started)
        result["inputs"] += 1
        is_accepted = ending.startswith("accepted")
        result["accepted" if is_accepted else "refused"] += 1
        seen[ending] = seen.get(ending, 0) + 1
        if seen[ending] == 1 or (is_accepted and rng.random() < 0.05):
            _add(pools[1 if is_accepted else 2], data, rng)
        if result["inputs"] % 1000 == 0:
            _write(directory, name, result, seen)
    _write(directory, name, result, seen)


def _add(pool: list[bytes], data: bytes, rng: random.Random) -> None:
    """Add an input, in place of another one if there are many."""
    if len(pool) < _POOL:
        pool.append(data)
    else:
        pool[rng.randrange(_POOL)] = data


def limit_memory() -> None:
    """No more address space than now and a gigabyte; but sanitizers need all of it for themselves."""
    if os.environ.get("FMFAST_SANITIZE") or not Path("/proc/self/statm").exists():
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + 1024 * MIB,) * 2)


def _write(directory: str, name: str, result: dict[str, Any], seen: dict[str, int]) -> None:
    path = Path(directory, f"result-{name}.json")
    path.with_suffix(".tmp").write_text(json.dumps({**result, "endings": seen}, indent=1))
    path.with_suffix(".tmp").replace(path)


def _keep(directory: str, name: str, data: bytes, message: str) -> None:
    number = len(list(Path(directory).glob(f"finding-{name}-*.input")))
    path = Path(directory, f"finding-{name}-{os.getpid()}-{number}.input")
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(message)
