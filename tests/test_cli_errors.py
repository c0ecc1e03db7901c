"""What goes wrong with a command: one line on standard error, an exit code, and no half of a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
from cli_calls import COMMAND, ENV, failure, run, succeed
from problems import planted, quantile_classes

import fmfast
from fmfast import text

X, Y = planted(300)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with train.libsvm, model.fm and classes.fm, in which commands run."""
    monkeypatch.chdir(tmp_path)
    text.dump("train.libsvm", X, Y)
    fmfast.FMRegressor(max_iter=1).fit(X, Y).save("model.fm")
    fmfast.FMClassifier(max_iter=1).fit(X, quantile_classes(Y, 2)).save("classes.fm")
    return tmp_path


# -- data and models --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no.libsvm", "no.txt.gz", "no.csv", "no.parquet", "no.fmd"])
def test_missing_data(here, capsys, name):
    args = ("--target", "y") if name.endswith(("csv", "parquet")) else ()
    for command in (("train", name, "--output", "new.fm"), ("evaluate", "model.fm", name)):
        assert name in failure(capsys, *command, *args)
    if args:
        categories = ("--categorical", "a")
        assert name in failure(capsys, "train", name, "--output", "new.fm", *args, *categories)
    assert not os.path.exists("new.fm")


def test_missing_model(here, capsys):
    for command in (("predict", "no.fm", "train.libsvm"), ("info", "no.fm")):
        assert failure(capsys, *command) == "fmfast: 'no.fm': No such file or directory."


def test_a_model_that_is_none(here, capsys):
    for command in (("predict", "train.libsvm", "train.libsvm"), ("info", "train.libsvm")):
        assert "Cannot load a model from 'train.libsvm'" in failure(capsys, *command)
    (here / "empty").mkdir()
    assert "Cannot open the data set 'empty'" in failure(capsys, "info", "empty")


@pytest.mark.parametrize(
    "command",
    [
        ("train", "bad.libsvm", "--output", "new.fm"),
        ("train", "train.libsvm", "--validation", "bad.libsvm", "--output", "new.fm"),
        ("train", "bad.libsvm", "--output", "new.fm", "--out-of-core"),
        ("predict", "model.fm", "bad.libsvm", "--output", "new.txt"),
        ("evaluate", "model.fm", "bad.libsvm"),
        ("convert", "bad.libsvm", "new.fmd"),
        ("convert", "bad.libsvm", "new.svm"),
    ],
)
def test_a_malformed_line_is_told_with_its_place(here, capsys, command):
    before = sorted(os.listdir())
    (here / "bad.libsvm").write_text("1.5 1:1 2:1\n2.5 3:one\n")
    assert "'bad.libsvm', line 2, column 5: '3:one'" in failure(capsys, *command)
    assert sorted(os.listdir()) == sorted([*before, "bad.libsvm"])


def test_advice_is_in_words_of_the_command(here, capsys):
    (here / "zero.libsvm").write_text("1.5 0:1 2:1\n")
    for command in (("train", "zero.libsvm", "--output", "new.fm"), ("convert", "zero.libsvm", "new.fmd")):
        assert failure(capsys, *command).endswith("; give --zero-based if they start at 0.")
    (here / "wide.libsvm").write_text("1.5 76:1\n")
    line = failure(capsys, "train", "wide.libsvm", "--n-features", "70", "--output", "new.fm")
    assert line.endswith("; give a larger --n-features.")
    (here / "names.csv").write_text("name,y\nanna,1\nbert,2\n")
    line = failure(capsys, "train", "names.csv", "--target", "y", "--output", "new.fm")
    assert "'names.csv', line 2, column 'name': 'anna'" in line
    assert "--categorical" in line


def test_wrong_number_of_columns(here, capsys):
    (here / "wide.libsvm").write_text("1.5 75:1\n2.5 76:1\n")
    for command in ("predict", "evaluate"):
        line = failure(capsys, command, "model.fm", "wide.libsvm")
        assert "'wide.libsvm', line 2" in line
        assert "leave out columns that the model does not have" in line
    succeed("convert", "wide.libsvm", "wide.fmd")
    assert "X has 76 features" in failure(capsys, "predict", "model.fm", "wide.fmd")
    (here / "narrow.csv").write_text("a,b\n1,2\n")
    assert "X has 2 features" in failure(capsys, "predict", "model.fm", "narrow.csv")


def test_missing_column_of_a_table(here, capsys):
    (here / "train.csv").write_text("a,b,y\n1,2,3\n4,5,6.5\n")
    (here / "test.csv").write_text("a,c\n1,2\n")
    line = failure(capsys, "train", "train.csv", "--target", "z", "--output", "new.fm")
    assert line == "fmfast: 'train.csv' has 0 columns named 'z', expected one; it has 'a', 'b', 'y'."
    succeed("train", "train.csv", "--target", "y", "--output", "new.fm")
    assert "'test.csv' has 0 columns named 'b'" in failure(capsys, "predict", "new.fm", "test.csv")


def test_missing_labels(here, capsys):
    text.dump("rows.libsvm", X)
    succeed("convert", "rows.libsvm", "rows.fmd")
    for name in ("rows.libsvm", "rows.fmd"):
        for command in (("evaluate", "model.fm", name), ("train", name, "--output", "new.fm")):
            assert f"'{name}' has no labels" in failure(capsys, *command)
        succeed("predict", "model.fm", name, "--output", "p.txt")


def test_an_unknown_label(here, capsys):
    text.dump("other.libsvm", X, np.arange(300) % 3)
    assert "unknown label 2" in failure(capsys, "evaluate", "classes.fm", "other.libsvm")


def test_no_rows(here, capsys):
    (here / "empty.libsvm").write_text("# nothing\n")
    (here / "empty.csv").write_text("a,y\n")
    for command in ("predict", "evaluate"):
        assert "has no rows" in failure(capsys, command, "model.fm", "empty.libsvm")
    assert "has no rows" in failure(capsys, "train", "empty.csv", "--target", "y", "--output", "new.fm")


def test_settings_that_a_solver_does_not_know(here, capsys):
    args = ("--solver", "als", "--learning-rate", "0.1")
    assert "learning_rate" in failure(capsys, "train", "train.libsvm", "--output", "new.fm", *args)


def test_divergence(here, capsys):
    args = ("--solver", "sgd", "--learning-rate", "1e9")
    line = failure(capsys, "train", "train.libsvm", "--output", "new.fm", *args)
    assert "diverged in epoch 1" in line
    assert not os.path.exists("new.fm")


def test_traceback_with_debug(here, capsys):
    assert run("info", "no.fm") == 1
    assert "Traceback" not in capsys.readouterr().err
    assert run("info", "no.fm", "--debug") == 1
    errors = capsys.readouterr().err
    assert errors.startswith("Traceback (most recent call last):")
    assert errors.endswith("\nfmfast: 'no.fm': No such file or directory.\n")


def test_a_warning_is_one_line(here, capsys, monkeypatch):
    def predict(self, X):
        warnings.warn("something\nodd", stacklevel=1)
        return np.zeros(X.shape[0])

    monkeypatch.setattr(fmfast.FMRegressor, "predict", predict)
    (here / "row.libsvm").write_text("1 1:1\n")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        succeed("predict", "model.fm", "row.libsvm")
    assert capsys.readouterr() == ("0.0\n", "fmfast: warning: something odd\n")


# -- output -----------------------------------------------------------------------------------------


def test_output_that_cannot_be_written_is_told_before_training(here, capsys, monkeypatch):
    def fit(*args, **kwargs):
        raise AssertionError("it was trained")

    monkeypatch.setattr(fmfast.FMRegressor, "fit", fit)
    assert "there is no directory" in failure(capsys, "train", "train.libsvm", "--output", "no/model.fm")
    assert "is a directory" in failure(capsys, "train", "train.libsvm", "--output", ".")


def test_predictions_are_never_half_written(here, capsys):
    long = "".join(f"{y} 1:1\n" for y in range(300_000))
    (here / "long.libsvm").write_text(long + "1 1:one\n")
    (here / "p.txt").write_text("as before\n")
    assert "line 300001" in failure(capsys, "predict", "model.fm", "long.libsvm", "--output", "p.txt")
    assert (here / "p.txt").read_text() == "as before\n"
    assert not [name for name in os.listdir() if name.startswith(".fmfast")]


def test_convert_replaces_only_if_told(here, capsys):
    succeed("convert", "train.libsvm", "train.fmd")
    for target in ("train.fmd", "model.fm.svm", "train.libsvm"):
        (here / "model.fm.svm").write_text("mine")
        line = failure(capsys, "convert", "train.libsvm", target)
        assert line == f"fmfast: {target!r} exists; give another name, or --overwrite."
    assert (here / "model.fm.svm").read_text() == "mine"
    succeed("convert", "train.libsvm", "train.fmd", "--overwrite")
    succeed("convert", "train.libsvm", "model.fm.svm", "--overwrite")
    assert (here / "model.fm.svm").read_bytes() == (here / "train.libsvm").read_bytes()


# -- usage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--n-factor", "3"), "unrecognized arguments: --n-factor 3"),
        (("--n-factors", "-3"), "argument --n-factors: '-3', expected an integer from 0 to 65536"),
        (("--learning-rate", "fast"), "argument --learning-rate: 'fast', expected a finite number > 0"),
        (("--solver", "newton"), "argument --solver: 'newton', expected one of adagrad, sgd, ftrl, als"),
        (("--dtype", "int8"), "argument --dtype: 'int8', expected"),
        (("--checkpoint-every", "0"), "argument --checkpoint-every: '0', expected an integer >= 1"),
        (("--task", "ranking"), "argument --task: invalid choice: 'ranking'"),
        (("--n-iter", "3"), "--n-iter goes only with --bayesian"),
        (("--bayesian", "--max-iter", "3"), "--max-iter goes only without --bayesian"),
        (("--checkpoint-every", "3"), "--checkpoint-every needs --checkpoint"),
        (("--cache", "x"), "--cache needs --out-of-core"),
        (("--target", "y"), "--target and --sample-weight are for CSV and Parquet files"),
        (("--categorical", "a"), "--categorical is for CSV and Parquet files"),
    ],
)
def test_wrong_options_of_train(here, capsys, args, expected):
    assert expected in failure(capsys, "train", "train.libsvm", "--output", "new.fm", *args, code=2)


def test_no_output(here, capsys):
    line = failure(capsys, "train", "train.libsvm", code=2)
    assert line.endswith("the following arguments are required: --output")


@pytest.mark.parametrize("n_distinct", [1, 3, 100])
def test_labels_that_may_be_ratings_or_classes(here, capsys, n_distinct):
    text.dump("labels.libsvm", X, np.arange(300) % n_distinct)
    line = failure(capsys, "train", "labels.libsvm", "--output", "new.fm", code=2)
    assert f"{n_distinct} distinct whole numbers" in line
    assert "--task" in line


def test_tables_need_a_target(here, capsys):
    (here / "train.csv").write_text("a,y\n1,2\n2,3.5\n")
    for command in (("train", "train.csv", "--output", "new.fm"), ("evaluate", "model.fm", "train.csv")):
        assert failure(capsys, *command, code=2).endswith("give the column to predict with --target")
    args = ("--target", "y", "--categorical", "a", "--out-of-core")
    line = failure(capsys, "train", "train.csv", "--output", "new.fm", *args, code=2)
    assert "--out-of-core" in line


def test_an_ending_that_tells_nothing(here, capsys):
    line = failure(capsys, "train", "train.data", "--output", "new.fm", code=2)
    assert "'train.data' does not tell its format" in line
    assert "give --format" in line


@pytest.mark.parametrize(
    ("model", "args"),
    [
        ("model.fm", ("--proba",)),
        ("model.fm", ("--interval", "0.9")),
        ("classes.fm", ("--interval", "0.9")),
        ("model.fm", ("--return-std",)),
        ("classes.fm", ("--proba", "--return-std")),
    ],
)
def test_what_a_model_cannot_say(here, capsys, model, args):
    line = failure(capsys, "predict", model, "train.libsvm", *args, "--output", "p.txt", code=2)
    assert [arg for arg in args if arg.startswith("--")][-1] in line
    assert not os.path.exists("p.txt")


@pytest.mark.parametrize("coverage", ["0", "1", "90", "nan", "most"])
def test_wrong_coverage(here, capsys, coverage):
    line = failure(capsys, "predict", "model.fm", "train.libsvm", "--interval", coverage, code=2)
    assert f"argument --interval: '{coverage}', expected a number between 0 and 1" in line


def test_a_bayesian_classifier_takes_no_weights(here, capsys):
    (here / "train.csv").write_text("a,y,w\n1,0,2\n2,1,3\n1,0,1\n")
    args = ("--target", "y", "--sample-weight", "w", "--bayesian", "--output", "new.fm")
    assert "no sample weights" in failure(capsys, "train", "train.csv", *args, code=2)


def test_what_convert_does_not_write(here, capsys):
    assert "csv is not written" in failure(capsys, "convert", "train.libsvm", "train.csv", code=2)
    succeed("convert", "train.libsvm", "train.fmd")
    assert "already" in failure(capsys, "convert", "train.fmd", "copy.fmd", code=2)
    assert "does not know the fields" in failure(capsys, "convert", "train.libsvm", "train.ffm")


# -- signals ----------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="a signal that only other systems send")
def test_interruption(here):
    process = subprocess.Popen(
        [*COMMAND, "train", "train.libsvm", "--output", "new.fm", "--max-iter", "100000000"],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        process.send_signal(signal.SIGINT)
        # All of it, so that the process never waits for a reader.
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "fmfast: interrupted.\n")
    assert not os.path.exists("new.fm")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way")
def test_a_reader_that_stops_reading(here):
    (here / "long.libsvm").write_text("1 1:1\n" * 300_000)
    process = subprocess.Popen(
        [*COMMAND, "predict", "model.fm", "long.libsvm"],
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), errors) == (1, b"")
