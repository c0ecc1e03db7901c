"""What `show_config` tells, and how FMFAST_CPU forces the instruction set of the kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import fmfast
from fmfast._dispatch import available_levels


def run_with_cpu(level: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FMFAST_CPU": level}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_show_config_prints_what_it_returns(capsys):
    facts = fmfast.show_config(mode="dicts")
    assert fmfast.show_config() is None
    printed = capsys.readouterr().out
    for name, fact in facts.items():
        assert name in printed
        assert str(fact if not isinstance(fact, list) else fact[0]) in printed
    assert facts["kernels"] in facts["kernels available"]
    assert facts["cores"] >= 1


def test_show_config_refuses_another_mode():
    with pytest.raises(ValueError, match="'xml', expected"):
        fmfast.show_config(mode="xml")


@pytest.mark.parametrize("level", available_levels())
def test_every_available_level_can_be_forced(level):
    done = run_with_cpu(level, "import fmfast; print(fmfast.show_config('dicts')['kernels'])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == level


def test_an_unknown_level_is_one_clear_error():
    done = run_with_cpu("v9", "import fmfast")
    assert done.returncode == 1
    assert "FMFAST_CPU is 'v9', expected one of baseline, v3, v4" in done.stderr


def test_levels_agree(tmp_path):
    """The same fit on every level gives the same predictions up to rounding."""
    code = (
        "import numpy as np, fmfast\n"
        "rng = np.random.default_rng(0)\n"
        "X = rng.random((300, 20)) * (rng.random((300, 20)) < 0.3)\n"
        "y = X[:, 0] * X[:, 1] + X[:, 2]\n"
        "fm = fmfast.FMRegressor(n_factors=8, max_iter=5, dtype='float64', random_state=0).fit(X, y)\n"
        "print(*fm.predict(X[:5]).tolist())\n"
    )
    first, *others = (run_with_cpu(level, code).stdout.split() for level in available_levels())
    assert len(first) == 5
    for other in others:
        assert [float(v) for v in other] == pytest.approx([float(v) for v in first], rel=1e-9)
