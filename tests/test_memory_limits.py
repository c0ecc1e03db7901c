"""Too little memory is a MemoryError, whenever it runs out; nothing crashes or is left half done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="limits of the address space are of Linux"
    ),
    pytest.mark.skipif("FMFAST_SANITIZE" in os.environ, reason="sanitizers need all of the address space"),
]
SCRIPT = Path(__file__).with_name("limited_memory.py")
NAMES = [
    "sgd", "adagrad, again", "ftrl", "als", "classifier", "bayesian", "partial_fit", "text", "open_dataset",
    "load", "predict",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_memory_that_runs_out(name):
    run = subprocess.run(
        [sys.executable, str(SCRIPT), name], capture_output=True, text=True, timeout=100, check=False
    )
    assert run.returncode == 0, run.stderr
    outcome = json.loads(run.stdout)
    *failures, last = outcome["outcomes"]
    assert last[1] == "done", outcome
    assert failures, "memory was never short"
    for level, ending, unchanged in failures:
        # What the system says when it maps no file any more.
        expected = ["MemoryError"] + ["OSError: [Errno 12] Cannot allocate memory"] * (name == "open_dataset")
        assert ending in expected, (level, ending)
        assert unchanged, level
    assert outcome["same"]
