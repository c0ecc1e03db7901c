"""Every script under examples/ runs as it is, without a warning, and says what it should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

if not EXAMPLES.is_dir():
    pytest.skip("the examples are in a checkout only", allow_module_level=True)

# What each must print, as a regular expression; a script that is not named here fails.
PRINTS = {
    "callbacks.py": r"stopped after \d+ epochs; the best was \d+ with 0\.[78].*\npicture: ",
    "clicks.py": r"after 19 batches 0\.4\d+   \(the click rate alone: 0\.5",
    "command_line.sh": r"AUC       0\.9[\d.]+\n.*\n[\d.e-]+\t[\d.e-]+\n",
    "implicit.py": r"warp +NDCG@10 0\.1\d+\nnew items +precision@5 0\.[23]",
    "intervals.py": r"90% intervals hold 9\d%\n.*MB with 90 draws",
    "out_of_core.py": r"the same bytes as without the cut: True",
    "ratings.py": r"Bayesian     test RMSE 0\.6",
    "serving.py": r"microseconds each\n.*best items of user 0",
    "tables.py": r"genres=crime x age in",
    "top_n.py": r"NDCG@10   0\.\d+ over \d+ contexts",
}
NEEDS = {"callbacks.py": "matplotlib", "tables.py": "pandas"}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.iterdir() if path.suffix != ".md"))
def test_example_runs(name, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    bin_directory = os.path.dirname(sys.executable)
    environment = os.environ | {
        "PATH": bin_directory + os.pathsep + os.environ["PATH"],
        "TMPDIR": str(tmp_path),
        "MPLBACKEND": "Agg",
    }
    command = [sys.executable, "-W", "error"]
    if name.endswith(".sh"):
        if not (shutil.which("bash") and shutil.which("fmfast", path=bin_directory)):
            pytest.skip("needs bash, and the command fmfast")
        command = ["bash"]
    done = subprocess.run(
        [*command, EXAMPLES / name], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTS[name], done.stdout), done.stdout


def test_every_example_is_listed():
    listed = re.findall(r"^\| \[([\w.]+)\]\(\1\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(PRINTS)
