"""What the documentation shows runs, and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import re

import pytest
from repository import ROOT, needs_repository

import fmfast

README = ROOT / "README.md"


@pytest.mark.parametrize("module", ["estimators", "datasets", "config"])
def test_examples_of_docstrings(module):
    failed, _ = doctest.testmod(importlib.import_module(f"fmfast.{module}"))
    assert failed == 0


@pytest.mark.parametrize("cls", [fmfast.FMRegressor, fmfast.FMClassifier])
def test_every_constructor_argument_is_documented(cls):
    documented = {
        name.strip()
        for names in re.findall(r"^(\w+(?:, \w+)*) : ", cls.__doc__, re.M)
        for name in names.split(",")
    }
    assert set(cls().get_params()) <= documented
    for method in (cls.fit, cls.partial_fit, cls.predict, cls.score):
        assert "{" not in method.__doc__.replace("{array-like, sparse matrix}", "")
        assert "Parameters" in method.__doc__


@needs_repository
def test_quick_start_of_the_readme(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S).group(1)
    exec(compile(code, "README.md", "exec"), {})
    r2 = float(capsys.readouterr().out.splitlines()[0])
    assert 0.98 < r2 < 1
    assert (tmp_path / "ratings.npz").exists()
