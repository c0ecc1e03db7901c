"""The demo and the command line: what they print, write, and return."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import fmfast.demo
from fmfast import cli
from fmfast.datasets import load_chess_endgame

COMMAND = [sys.executable, "-m", "fmfast"]
# So that a new process finds the fmfast that is under test.
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def fmfast_command(*args):
    """`python -m fmfast ...` in a process of its own."""
    command = [*COMMAND, *map(str, args)]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo with one epoch of per-sample NumPy: (process, output directory)."""
    output = tmp_path_factory.mktemp("demo") / "new" / "directory"
    return fmfast_command("demo", "--output", output, "--numpy-seconds", "0"), output


def line_of(process, name):
    """The numbers in the line of one model: test RMSE, parameters, ..."""
    (line,) = (line for line in process.stdout.splitlines() if line.startswith(name + "  "))
    return [float(number.replace(",", "")) for number in re.findall(r"(?<!\w)[\d.,]*\d", line[len(name) :])]


def test_demo_succeeds(demo):
    process, _ = demo
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""


@pytest.mark.parametrize(
    ("name", "lowest", "highest", "n_parameters"),
    [
        ("linear", 1.48, 1.53, 41),
        ("all pairs", 0.94, 0.96, 821),
        ("FM, NumPy mini-batch", 0.94, 0.99, 681),
        ("FM, fmfast", 0.94, 0.97, 681),
    ],
)
def test_demo_reaches_its_figures(demo, name, lowest, highest, n_parameters):
    rmse, parameters, *_ = line_of(demo[0], name)
    assert lowest < rmse < highest
    assert parameters == n_parameters


@pytest.mark.skipif(
    any(os.environ.get(name) for name in ("FMFAST_DEBUG", "FMFAST_SANITIZE")),
    reason="a build with checks is slow",
)
def test_demo_is_faster_than_numpy(demo):
    per_sample, mini_batch = (
        line_of(demo[0], name) for name in ("FM, NumPy per sample", "FM, NumPy mini-batch")
    )
    assert per_sample[2] == 1  # epochs
    # Far below what is measured on an idle machine.
    assert per_sample[-1] > 20
    assert mini_batch[-1] >= 1


def test_demo_names_its_data(demo):
    process, _ = demo
    assert load_chess_endgame().attribution in process.stdout
    assert re.search(
        r"white K[a-d][1-4] R[a-h][1-8], black K[a-h][1-8] +\d+ +\d+\.\d +\d+\.\d", process.stdout
    )


def test_demo_writes_a_model_that_predicts(demo):
    _, output = demo
    estimator = fmfast.load(output / fmfast.demo.MODEL_FILE)
    chess = load_chess_endgame()
    rmse = np.sqrt(np.mean((estimator.predict(chess.X_test) - chess.y_test) ** 2))
    assert rmse == pytest.approx(line_of(demo[0], "FM, fmfast")[0], abs=6e-4)


def test_demo_draws(demo):
    pytest.importorskip("matplotlib")
    _, output = demo
    picture = (output / fmfast.demo.PICTURE_FILE).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_quiet_demo_without_picture(tmp_path):
    process = fmfast_command("demo", "--output", tmp_path, "--numpy-seconds", "0", "--quiet", "--no-picture")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == [fmfast.demo.MODEL_FILE]


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    note = fmfast.demo.draw([], tmp_path / "picture.png", "")
    assert note == 'Picture: not drawn, matplotlib is not installed (pip install "fmfast[plot]").'
    assert list(tmp_path.iterdir()) == []


def test_pair_columns():
    """Every product x_j x_l with j < l is one column, in the order of numpy.triu_indices."""
    X = load_chess_endgame().X_test[:50]
    dense = X.toarray()
    j, k = np.triu_indices(40, 1)
    np.testing.assert_array_equal(
        fmfast.demo.with_pairs(X).toarray(), np.hstack([dense, dense[:, j] * dense[:, k]])
    )


# ---------------------------------------------------------------------------------------------
# Exit codes
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [[], ["dance"], ["demo", "--numpy-seconds", "soon"], ["demo", "--colour"]])
def test_wrong_usage_exits_with_2(args):
    process = fmfast_command(*args)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("usage: fmfast")


def test_failure_is_one_line_and_exits_with_1(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    process = fmfast_command("demo", "--output", file)
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.startswith("fmfast: ")
    assert process.stderr.count("\n") == 1
    assert str(file) in process.stderr


def test_interruption_is_one_line_and_exits_with_130(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(fmfast.demo, "run", interrupted)
    assert cli.main(["demo", "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "fmfast: interrupted.\n"


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--help"])
    assert stop.value.code == 0
    assert "--numpy-seconds" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"fmfast {fmfast.__version__}\n"


def test_reader_that_stops_reading(tmp_path):
    """As in `fmfast demo | head -1`: no traceback."""
    process = subprocess.Popen(
        [*COMMAND, "demo", "--output", tmp_path, "--numpy-seconds", "0"],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert errors == ""
