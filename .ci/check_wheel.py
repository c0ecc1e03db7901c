"""What a wheel may hold: python .ci/check_wheel.py [--build-log LOG] WHEEL

Fails if it is too large, lacks the marker of types or a kernel, brings generated C, or was built with
flags of the machine that built it.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

LARGEST = 3_000_000  # bytes
KERNELS = {"_core", "_coordinate", "_table", "_csr", "_cpu", "_decimal", "_text"}
# `-march=native` and the like would end the process on other machines.
OWN_MACHINES = {"x86-64-v3", "x86-64-v4"}


def faults_of(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        faults = [f"holds {name}" for name in names if name.endswith((".c", ".html")) or "tests/" in name]
        if wheel.stat().st_size > LARGEST:
            faults.append(f"has {wheel.stat().st_size} bytes, more than {LARGEST}")
        if "fmfast/py.typed" not in names:
            faults.append("lacks py.typed")
        compiled = {Path(name).name.partition(".")[0] for name in names if name.endswith((".so", ".pyd"))}
        faults += [f"lacks the kernel {name}" for name in sorted(KERNELS - compiled)]
        for name in names:
            if name.endswith(".so") and sys.platform == "linux":
                faults += [f"{name} looks for libraries in {place}" for place in run_paths(archive, name)]
    return faults


def run_paths(archive: zipfile.ZipFile, name: str) -> list[str]:
    with TemporaryDirectory() as folder:
        path = archive.extract(name, folder)
        found = subprocess.run(["readelf", "-d", path], check=True, capture_output=True, text=True).stdout
    return re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", found)


def faults_of_flags(log: str) -> list[str]:
    used = set(re.findall(r"-(?:march|mcpu|mtune)=(\S+)", log))
    if not re.search(r"-O3\b|/O2\b", log):
        return ["the log of the build shows no compiler flags: nothing was checked"]
    return [f"was built for the processor {name}" for name in sorted(used - OWN_MACHINES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--build-log", type=Path)
    args = parser.parse_args()
    faults = faults_of(args.wheel)
    if args.build_log:
        faults += faults_of_flags(args.build_log.read_text(encoding="utf-8", errors="replace"))
    if faults:
        sys.exit("\n".join(f"{args.wheel.name} {fault}" for fault in faults))
    print(f"{args.wheel.name}: {args.wheel.stat().st_size / 1e6:.2f} MB, as it should be")


if __name__ == "__main__":
    main()
