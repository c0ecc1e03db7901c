"""The fuzz targets (see `fuzz/`) on their corpus and a few changes of it, so that they go on working."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "fuzz" / "__main__.py").exists():
    pytest.skip("the fuzz targets are not part of an installation", allow_module_level=True)
sys.path.insert(0, str(ROOT))
from fuzz.mutation import MAX_SIZE, unzip, zipped  # noqa: E402
from fuzz.target import Finding, Target, require  # noqa: E402
from fuzz.targets import TARGETS  # noqa: E402
from fuzz.worker import check_input  # noqa: E402

N_MUTATED = 150


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus(name):
    target = TARGETS[name]
    seeds = target.seeds()
    endings = [check_input(target, seed, traced=True) for seed in seeds]
    assert len(seeds) >= 3
    assert all(len(seed) <= MAX_SIZE for seed in seeds)
    # What it is made of has to be sound, or changes of it would come nowhere.
    assert sum(str(ending).startswith("accepted") for ending in endings) >= len(seeds) / 2, endings


@pytest.mark.parametrize("name", TARGETS)
def test_changes_of_the_corpus(name):
    target = TARGETS[name]
    rng = random.Random(0)
    seeds = target.seeds()
    endings = set()
    for _ in range(N_MUTATED):
        data = target.mutate(rng.choice(seeds), rng, seeds)
        assert len(data) <= MAX_SIZE
        endings.add(check_input(target, data, traced=False))
    assert len(endings) > 10  # they end in many ways


class Broken(Target):
    """A reader with every fault there is."""

    name = "broken"
    constant, multiple = 1 << 20, 10

    def check(self, data):
        if data == b"memory":
            bytearray(8 << 20)
        if data == b"error":
            raise KeyError("undocumented")
        if data == b"time":
            end = time.process_time() + 2.5
            while time.process_time() < end:
                pass
        require(data != b"outcome", "not finite")
        _, refusal = self.attempt(lambda: int(data))
        return refusal or "accepted"


@pytest.mark.parametrize("fault", ["memory", "error", "outcome", "time"])
def test_faults_are_found(fault):
    assert check_input(Broken(), b"7", traced=True) == "accepted"
    assert check_input(Broken(), b"x", traced=True).startswith("ValueError")
    with pytest.raises(Finding):
        check_input(Broken(), fault.encode(), traced=fault == "memory")


def test_zip_files_of_files():
    members = {"a": b"1", "b/c": b""}
    assert unzip(zipped(members)) == members
    assert unzip(b"PK") is None


def test_the_command(tmp_path):
    command = [sys.executable, "-m", "fuzz", "--seconds", "60", "--inputs", "300", "--seed", "1"]
    command += ["--target", "text", "--target", "libfm", "--jobs", "2", "--directory", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for name in ("text", "libfm"):
        assert f"{name:12}       300 inputs" in run.stdout


CRASHING = """if True:
    import os, signal, sys, time
    import fuzz.__main__ as command, fuzz.targets.libfm as module
    def check(self, data):
        if len(data) > 60 and KIND == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if len(data) > 60 and KIND == "hang":
            time.sleep(100)
        return "accepted"
    KIND = os.environ["KIND"]
    module.LibfmTarget.check = check
    command.HANG = 1.0
    program = sys.argv[1]
    popen = command.subprocess.Popen
    start = [sys.executable, "-c", open(program).read(), program]
    command.subprocess.Popen = lambda args: popen([*start, *args[3:]])
    sys.argv[1:2] = []
    sys.exit(command.main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("kind", ["crash", "hang"])
def test_a_process_that_ends_or_hangs_is_a_finding(tmp_path, monkeypatch, kind):
    program = tmp_path / "program.py"
    program.write_text(CRASHING)
    monkeypatch.setenv("KIND", kind)
    command = [sys.executable, "-c", CRASHING, str(program), "--target", "libfm", "--seconds", "3"]
    command += ["--directory", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    # Sanitizers end it in their own way.
    expected = "the process ended with" if kind == "crash" else "still at it after 1 s"
    assert expected in run.stdout
    found = list(tmp_path.glob("finding-libfm-*.input"))
    assert found
    assert all(len(path.read_bytes()) > 60 for path in found)
