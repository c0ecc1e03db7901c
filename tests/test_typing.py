"""The annotations of the public interface, as a type checker sees them in a user's script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fmfast

pytest.importorskip("mypy", reason="checks types")

SCRIPTS = Path(__file__).parent / "typing"
PACKAGE = Path(fmfast.__file__).parent
LINE = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{(name of the script, line): codes of the errors that mypy --strict finds there}"""
    environment = dict(os.environ)
    if "site-packages" not in PACKAGE.parts:  # of a checkout, which mypy would not find from elsewhere
        environment["MYPYPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-pretty"]
    command += ["--config-file=", f"--cache-dir={tmp_path_factory.mktemp('cache')}"]
    command += [str(SCRIPTS / "users_script.py"), str(SCRIPTS / "mistakes.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=SCRIPTS)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors: dict[tuple[str, int], set[str]] = {}
    for line in done.stdout.splitlines():
        match = LINE.match(line)
        if match:
            place = Path(match["file"]).name, int(match["line"])
            errors.setdefault(place, set()).add(match["code"])
    return errors


def test_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_what_a_user_writes_has_the_types_that_are_expected(found):
    assert {place: codes for place, codes in found.items() if place[0] == "users_script.py"} == {}


def test_mistakes_are_found(found):
    expected = {}
    for number, line in enumerate((SCRIPTS / "mistakes.py").read_text(encoding="utf-8").splitlines(), 1):
        _, marked, codes = line.partition("# error: ")
        if marked:
            expected["mistakes.py", number] = set(codes.split())
    assert len(expected) > 10
    assert {place: codes for place, codes in found.items() if place[0] == "mistakes.py"} == expected
