"""The same targets, guided by the coverage of the Python code: `python -m fuzz.guided --target modelfile`.

Needs atheris (`pip install atheris`, where there are wheels of it), which the other command does not. It sees
every branch of the readers that are written in Python, but not into compiled code. Ends at the first finding,
and leaves its input as `crash-...` in the present directory.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fmfast"]):
    import fmfast  # noqa: F401
    from fuzz.target import SEEDS
    from fuzz.targets import TARGETS

from fuzz.mutation import MAX_SIZE


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz.guided", description=__doc__)
    parser.add_argument("--target", choices=[*TARGETS], required=True)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    target = TARGETS[options.target]
    seeds = target.seeds()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return atheris.Mutate(data, max_size)
        return target.mutate(data, rng, seeds)[:max_size]

    corpus = tempfile.mkdtemp(prefix="fmfast-corpus-")
    for path in sorted((SEEDS / target.name).iterdir()):
        shutil.copy(path, Path(corpus, path.name))
    settings = [
        f"-max_total_time={options.seconds}",
        f"-max_len={MAX_SIZE}",
        "-timeout=20",
        "-rss_limit_mb=4096",
    ]
    atheris.Setup(
        [sys.argv[0], corpus, *settings, "-print_final_stats=1"],
        lambda data: target.check(data) and None,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
