"""Where the files are that stand beside the package in a checkout: README, bench.

The tests also run where nothing but a wheel is installed, in a folder of their own. FMFAST_REPOSITORY then
names the checkout; without it, what needs one is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import fmfast

ROOT = Path(os.environ.get("FMFAST_REPOSITORY") or Path(__file__).parent.parent).resolve()

needs_repository = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="there is no checkout here, see tests/repository.py"
)
needs_fmfast_of_the_repository = pytest.mark.skipif(
    Path(fmfast.__file__).resolve().parent != ROOT / "fmfast", reason="tests the fmfast of a checkout"
)
