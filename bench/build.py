"""How the kernels are built: compiler and flags, taken from `setup.py` itself.

So that what is compiled for a measurement has the flags of what it is compared with.
"""

from __future__ import annotations

import runpy
import shlex
import subprocess
import sysconfig
from functools import cache
from typing import Any
from unittest.mock import patch

import setuptools

from bench.environment import ROOT

_SUFFIX = {"baseline": "", "v3": "_v3", "v4": "_v4"}


def compiler() -> str:
    """Name and version."""
    command = shlex.split(sysconfig.get_config_var("CC") or "cc")[:1]
    try:
        found = subprocess.run([*command, "--version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.partition("\n")[0]


def flags(level: str) -> list[str]:
    """Compiler flags of the kernels of one level, macros included."""
    extension = extension_like_core(level)
    macros = [f"-D{name}={value}" if value else f"-D{name}" for name, value in extension.define_macros]
    return [*extension.extra_compile_args, *macros]


def extension_like_core(level: str) -> setuptools.Extension:
    """The hot loop's entry in `setup.py` for one level."""
    extensions = {extension.name: extension for extension in _setup()["extensions"]}
    return extensions[f"fmfast._core{_SUFFIX[level]}"]


def with_forced_inlining(extensions: list[setuptools.Extension]) -> list[setuptools.Extension]:
    """What `setup.py` does to the C of its extensions, before that is compiled."""
    forced: list[setuptools.Extension] = _setup()["with_forced_inlining"](extensions)
    return forced


@cache
def _setup() -> dict[str, Any]:
    """What `setup.py` defines; nothing is compiled."""
    with (
        patch("setuptools.setup"),
        patch("Cython.Build.cythonize", lambda extensions, **options: extensions),
    ):
        return runpy.run_path(str(ROOT / "setup.py"))
