"""The bench runs from end to end at its smallest size; what it measures is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from repository import ROOT, needs_fmfast_of_the_repository

pytest.importorskip("Cython", reason="the bench compiles its touch kernel")
pytest.importorskip("matplotlib", reason="the bench draws")


@needs_fmfast_of_the_repository
def test_two_sections_write_their_results(tmp_path):
    command = [sys.executable, "-m", "bench", "--scale", "0.001", "--rounds", "1", "--output", str(tmp_path)]
    command += ["--sections", "limit", "predict"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert set(found["sections"]) == {"limit", "predict"}
    for name, section in found["sections"].items():
        assert all(table["rows"] for table in section["tables"])
        assert all(isinstance(target["met"], bool) for target in section["targets"])
        assert section["title"] in (tmp_path / "results.md").read_text()
        assert (tmp_path / f"{name}.png").stat().st_size > 0
