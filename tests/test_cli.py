"""The commands train, predict, evaluate, convert and info: what they write is what the Python API gives."""

from __future__ import annotations

import gzip
import inspect
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from cli_calls import (
    COMMAND,
    ENV,
    SETTINGS,
    X_TEST,
    X_TRAIN,
    Y_TEST,
    Y_TRAIN,
    X,
    Y,
    numbers,
    regressor,
    run,
    succeed,
    write_csv,
)
from problems import planted, quantile_classes

import fmfast
from fmfast import text
from fmfast.cli import options, progress
from fmfast.parameters import CONSTRAINTS


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with train.libsvm and test.libsvm, in which commands run."""
    monkeypatch.chdir(tmp_path)
    text.dump("train.libsvm", X_TRAIN, Y_TRAIN)
    text.dump("test.libsvm", X_TEST, Y_TEST)
    return tmp_path


# -- from a file to predictions ---------------------------------------------------------------------


def test_three_shell_commands(here):
    """As the README has them: the program itself, from a libsvm file to predictions."""
    for args in (
        ("train", "train.libsvm", "--validation", "test.libsvm", "--output", "model.fm", *SETTINGS),
        ("evaluate", "model.fm", "test.libsvm"),
        ("predict", "model.fm", "test.libsvm", "--output", "predictions.txt"),
    ):
        process = subprocess.run([*COMMAND, *args], env=ENV, capture_output=True, text=True, timeout=60)
        assert (process.returncode, process.stderr) == (0, "")
    data = text.load("train.libsvm")
    test = text.load("test.libsvm", n_features=data.X.shape[1])
    expected = regressor().fit(data.X, data.y).predict(test.X)
    np.testing.assert_array_equal(numbers("predictions.txt")[:, 0], expected)  # to the bit
    assert len(expected) == 200


def test_predictions_on_standard_output(here, capsys):
    succeed("train", "train.libsvm", "--output", "model.fm", "--quiet", *SETTINGS)
    assert capsys.readouterr() == ("", "")
    succeed("predict", "model.fm", "test.libsvm")
    lines = capsys.readouterr().out
    succeed("predict", "model.fm", "test.libsvm", "--output", "p.txt.gz", "--n-jobs", "2")
    with gzip.open("p.txt.gz", "rt") as file:
        assert file.read() == lines
    assert lines.count("\n") == 200


def test_long_text_is_predicted_in_blocks(here, monkeypatch):
    """As many blocks as the reader has, and the same predictions."""
    sizes = []
    predict = fmfast.FMRegressor.predict
    monkeypatch.setattr(
        fmfast.FMRegressor, "predict", lambda self, X: sizes.append(X.shape[0]) or predict(self, X)
    )
    X_long, y_long = planted(60_000)
    text.dump("long.libsvm", X_long, y_long)
    succeed("train", "train.libsvm", "--output", "model.fm", *SETTINGS)
    succeed("predict", "model.fm", "long.libsvm", "--output", "p.txt")
    assert len(sizes) > 1
    assert sum(sizes) == 60_000
    np.testing.assert_array_equal(numbers("p.txt")[:, 0], predict(fmfast.load("model.fm"), X_long))


@pytest.mark.parametrize("ending", [".svm", ".svmlight", ".txt", ".libsvm.gz", ".txt.zst", ".data"])
def test_names_of_text(here, ending):
    text.dump(f"copy{ending}", X_TRAIN, Y_TRAIN)
    how = ("--format", "libsvm") if ending == ".data" else ()
    succeed("train", f"copy{ending}", "--output", "model.fm", *how, *SETTINGS)
    expected = regressor().fit(X_TRAIN, Y_TRAIN)
    np.testing.assert_array_equal(fmfast.load("model.fm").V_, expected.V_)


def test_columns_counted_from_0(here):
    text.dump("zero.libsvm", X_TRAIN, Y_TRAIN, zero_based=True)
    # Without an entry in the first column: nothing but the option tells how its columns are counted.
    rows = X_TEST[X_TEST[:, [0]].toarray()[:, 0] == 0]
    text.dump("test0.libsvm", rows, zero_based=True)
    succeed("train", "zero.libsvm", "--zero-based", "--output", "model.fm", *SETTINGS)
    succeed("predict", "model.fm", "test0.libsvm", "--zero-based", "--output", "p.txt")
    expected = regressor().fit(X_TRAIN, Y_TRAIN).predict(rows)
    np.testing.assert_array_equal(numbers("p.txt")[:, 0], expected)


def test_test_data_with_fewer_columns(here):
    """The model knows how many there are: each format gets the missing ones."""
    last = X_TEST[:, [X.shape[1] - 1]].toarray()[:, 0]
    rows = X_TEST[last == 0]
    text.dump("few.libsvm", rows, Y_TEST[last == 0])
    succeed("convert", "few.libsvm", "few.fmd")
    assert fmfast.open_dataset("few.fmd").n_features == X.shape[1] - 1
    succeed("train", "train.libsvm", "--output", "model.fm", "--validation", "few.libsvm", *SETTINGS)
    for name in ("few.libsvm", "few.fmd"):
        succeed("predict", "model.fm", name, "--output", "p.txt")
        expected = regressor().fit(X_TRAIN, Y_TRAIN).predict(rows)
        np.testing.assert_array_equal(numbers("p.txt")[:, 0], expected)


def test_room_for_columns_to_come(here):
    succeed("train", "train.libsvm", "--n-features", "100", "--output", "model.fm", *SETTINGS)
    assert fmfast.load("model.fm").n_features_in_ == 100


# -- tasks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [(0, 1), (-1, 1)])
def test_two_classes(here, capsys, labels):
    y = np.asarray(labels)[quantile_classes(Y, 2)]
    text.dump("train.libsvm", X_TRAIN, y[:600])
    text.dump("test.libsvm", X_TEST, y[600:])
    succeed("train", "train.libsvm", "--output", "model.fm", *SETTINGS)
    expected = fmfast.FMClassifier(n_factors=4, max_iter=5, random_state=0).fit(X_TRAIN, y[:600])
    succeed("predict", "model.fm", "test.libsvm", "--output", "p.txt")
    with open("p.txt") as file:
        assert file.read().split("\n")[:-1] == [str(label) for label in expected.predict(X_TEST)]
    succeed("predict", "model.fm", "test.libsvm", "--proba", "--output", "p.txt")
    np.testing.assert_array_equal(numbers("p.txt"), expected.predict_proba(X_TEST))
    capsys.readouterr()
    succeed("evaluate", "model.fm", "test.libsvm")
    measured = dict(re.findall(r"^(\S.*?) +([\d.e+-]+)$", capsys.readouterr().out, re.M))
    assert set(measured) == {"rows", "log loss", "AUC", "accuracy"}
    assert float(measured["accuracy"]) == pytest.approx(expected.score(X_TEST, y[600:]))


def test_more_classes(here, capsys):
    y = quantile_classes(Y, 4)
    text.dump("train.libsvm", X_TRAIN, y[:600])
    text.dump("test.libsvm", X_TEST, y[600:])
    succeed("train", "train.libsvm", "--output", "model.fm", "--task", "classification", *SETTINGS)
    succeed("predict", "model.fm", "test.libsvm", "--proba", "--output", "p.txt")
    expected = fmfast.FMClassifier(n_factors=4, max_iter=5, random_state=0).fit(X_TRAIN, y[:600])
    np.testing.assert_array_equal(numbers("p.txt"), expected.predict_proba(X_TEST))
    capsys.readouterr()
    succeed("evaluate", "model.fm", "test.libsvm")
    assert re.findall(r"^\S+(?: loss)?", capsys.readouterr().out, re.M) == ["rows", "log loss", "accuracy"]


def test_evaluation_of_a_regressor(here, capsys):
    succeed("train", "train.libsvm", "--output", "model.fm", *SETTINGS)
    capsys.readouterr()
    succeed("evaluate", "model.fm", "test.libsvm")
    measured = dict(line.split() for line in capsys.readouterr().out.splitlines())
    error = regressor().fit(X_TRAIN, Y_TRAIN).predict(X_TEST) - Y_TEST
    assert measured["rows"] == "200"
    assert float(measured["RMSE"]) == pytest.approx(np.sqrt(np.mean(error**2)))
    assert float(measured["MAE"]) == pytest.approx(np.mean(np.abs(error)))
    assert float(measured["R2"]) == pytest.approx(1 - np.mean(error**2) / np.var(Y_TEST))


@pytest.mark.parametrize(
    ("y", "task"),
    [
        (np.arange(600) / 2, "regression"),
        (np.arange(600), "regression"),  # whole, but too many for classes
        (np.arange(600) % 2, "classification"),
        (np.arange(600) % 2 * 2 - 1, "classification"),
    ],
)
def test_the_task_is_seen_from_the_labels(here, y, task):
    text.dump("train.libsvm", X_TRAIN, y)
    succeed("train", "train.libsvm", "--output", "model.fm", *SETTINGS)
    kind = {"regression": fmfast.FMRegressor, "classification": fmfast.FMClassifier}[task]
    assert type(fmfast.load("model.fm")) is kind


def test_the_task_can_be_told(here):
    text.dump("train.libsvm", X_TRAIN, np.arange(600) % 2)
    succeed("train", "train.libsvm", "--output", "model.fm", "--task", "regression", *SETTINGS)
    assert type(fmfast.load("model.fm")) is fmfast.FMRegressor


def test_bayesian_regression(here):
    args = ("--bayesian", "--n-iter", "15", "--n-burn-in", "3", "--n-factors", "2", "--random-state", "0")
    succeed("train", "train.libsvm", "--output", "model.fm", *args)
    expected = fmfast.BayesianFMRegressor(n_factors=2, n_iter=15, n_burn_in=3, random_state=0)
    expected.fit(X_TRAIN, Y_TRAIN)
    succeed("predict", "model.fm", "test.libsvm", "--return-std", "--interval", "0.8", "--output", "p.txt")
    columns = [*expected.predict(X_TEST, return_std=True), *expected.predict_interval(X_TEST, 0.8)]
    np.testing.assert_array_equal(numbers("p.txt"), np.stack(columns, axis=1))


def test_bayesian_classification(here):
    y = quantile_classes(Y_TRAIN, 2)
    text.dump("train.libsvm", X_TRAIN, y)
    args = ("--bayesian", "--n-iter", "15", "--n-factors", "2", "--random-state", "0")
    succeed("train", "train.libsvm", "--output", "model.fm", *args)
    succeed("predict", "model.fm", "train.libsvm", "--proba", "--return-std", "--output", "p.txt")
    expected = fmfast.BayesianFMClassifier(n_factors=2, n_iter=15, random_state=0).fit(X_TRAIN, y)
    columns = np.hstack(expected.predict_proba(X_TRAIN, return_std=True))
    np.testing.assert_array_equal(numbers("p.txt"), columns)


def test_fields_are_the_groups_of_a_bayesian_machine(here):
    field = np.arange(X.shape[1]) // 30
    text.dump("train.ffm", X_TRAIN, Y_TRAIN, field=field)
    succeed("train", "train.ffm", "--output", "model.fm", "--bayesian", "--n-iter", "12")
    np.testing.assert_array_equal(fmfast.load("model.fm").groups_, field)


# -- training ---------------------------------------------------------------------------------------


def test_early_stopping_on_validation_data(here):
    args = ("--early-stopping", "--max-iter", "200", "--n-iter-no-change", "2", "--random-state", "0")
    succeed("train", "train.libsvm", "--validation", "test.libsvm", "--output", "model.fm", *args)
    expected = fmfast.FMRegressor(early_stopping=True, max_iter=200, n_iter_no_change=2, random_state=0)
    expected.fit(X_TRAIN, Y_TRAIN, eval_set=(X_TEST, Y_TEST))
    model = fmfast.load("model.fm")
    assert model.n_iter_ == expected.n_iter_ < 200
    np.testing.assert_array_equal(model.w_, expected.w_)


def test_lines_of_progress(here, capsys):
    succeed("train", "train.libsvm", "--validation", "test.libsvm", "--output", "model.fm", *SETTINGS)
    first, second, *lines, last = capsys.readouterr().out.splitlines()
    assert first == "train.libsvm: 600 rows, 75 columns; regression"
    assert second == "FMRegressor(n_factors=4, max_iter=5, random_state=0)"
    line = r"epoch +(\d) +loss ([\d.e-]+)  validation score (-[\d.e-]+)  ([\d,]+) rows/s"
    facts = [re.fullmatch(line, text).groups() for text in lines]
    history = fmfast.load("model.fm").history_
    assert [int(epoch) for epoch, *_ in facts] == [1, 2, 3, 4, 5]
    assert [float(loss) for _, loss, *_ in facts] == pytest.approx([r["loss"] for r in history], rel=1e-5)
    assert [float(facts[-1][2])] == pytest.approx([history[-1]["validation_score"]], rel=1e-5)
    assert int(facts[-1][3].replace(",", "")) == pytest.approx(600 / history[-1]["seconds"], rel=1e-3, abs=1)
    assert re.fullmatch(r"model.fm: 5 epochs in [\d.e-]+ s", last)


def test_rows_set_apart_for_validation_do_not_count_as_trained(here, capsys):
    succeed("train", "train.libsvm", "--early-stopping", "--output", "model.fm", *SETTINGS)
    rate = re.findall(r"([\d,]+) rows/s", capsys.readouterr().out)[-1]
    seconds = fmfast.load("model.fm").history_[-1]["seconds"]
    assert int(rate.replace(",", "")) == pytest.approx(540 / seconds, rel=1e-3, abs=1)


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with progress.Progress("epoch", 2, 10) as bar:
        for epoch in (1, 2):
            bar({"epoch": epoch, "loss": 0.5, "validation_score": -0.25, "seconds": 0.1})
    out = capsys.readouterr().out
    assert "2/2" in out
    assert "loss 0.5  validation score -0.25  100 rows/s" in out
    assert not re.search(r"^epoch", out, re.M)


def test_lines_on_a_terminal_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with progress.Progress("iteration", 2, 10) as lines:
        lines({"iteration": 1, "loss": 0.5, "validation_loss": None, "seconds": 0.1})
    assert capsys.readouterr().out == "iteration    1  loss 0.5  100 rows/s\n"


class StandIn:
    """What `fmfast.Checkpoint` promises, and a `fit` that remembers what it was given."""

    made: list = []  # noqa: RUF012

    def __init__(self, directory, every=1):
        self.made.append((directory, every))

    def __call__(self, record):
        return None


@pytest.mark.parametrize("exists", [False, True])
def test_checkpoints(here, monkeypatch, exists):
    given = []
    fit = fmfast.FMRegressor.fit

    def noted(self, X, y, *args, resume_from=None, **kwargs):
        given.append((resume_from, [type(callback) for callback in self.callbacks]))
        return fit(self, X, y, *args, **kwargs)

    monkeypatch.setattr(fmfast.FMRegressor, "fit", noted)
    monkeypatch.setattr(fmfast, "Checkpoint", StandIn)
    monkeypatch.setattr(StandIn, "made", [])
    if exists:
        (here / "state").mkdir()
    args = ("--checkpoint", "state", "--checkpoint-every", "3")
    succeed("train", "train.libsvm", "--output", "model.fm", *args, *SETTINGS)
    assert StandIn.made == [("state", 3)]
    assert given == [("state" if exists else None, [progress.Progress, StandIn])]


def test_the_same_command_goes_on_after_an_interruption(here, monkeypatch):
    command = ("train", "train.libsvm", "--output", "model.fm", "--checkpoint", "state", *SETTINGS)
    epochs = []

    def stop(self, record):
        epochs.append(record["epoch"])
        if epochs == [1, 2, 3]:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "__call__", stop)
    assert run(*command) == 130
    assert os.listdir("state")
    assert not os.path.exists("model.fm")
    succeed(*command)
    assert epochs in ([1, 2, 3, 3, 4, 5], [1, 2, 3, 4, 5])  # the third may have come before its checkpoint
    np.testing.assert_array_equal(fmfast.load("model.fm").V_, regressor().fit(X_TRAIN, Y_TRAIN).V_)


# -- info -------------------------------------------------------------------------------------------


def facts_of(path, capsys):
    capsys.readouterr()
    succeed("info", path)
    return dict(
        re.split(r" {2,}|(?<=.{17}) ", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()
    )


def test_info_of_a_model(here, capsys):
    succeed("train", "train.libsvm", "--output", "model.fm", "--solver", "als", *SETTINGS)
    facts = facts_of("model.fm", capsys)
    assert facts.pop("file size") == f"{os.path.getsize('model.fm'):,} bytes"
    assert float(facts.pop("loss")) > 0
    assert facts == {
        "model": "FMRegressor",
        "solver": "als",
        "n_features": "75",
        "n_factors": "4",
        "dtype": "float32",
        "epochs": "5",
        "parameters": "n_factors=4, solver='als', max_iter=5, random_state=0",
    }


def test_info_of_a_bayesian_classifier(here, capsys):
    text.dump("train.libsvm", X_TRAIN, quantile_classes(Y_TRAIN, 2))
    args = ("--bayesian", "--n-iter", "15", "--validation", "train.libsvm")
    succeed("train", "train.libsvm", "--output", "model.fm", *args)
    facts = facts_of("model.fm", capsys)
    assert facts["model"] == "BayesianFMClassifier"
    assert (facts["iterations"], facts["kept samples"], facts["classes"]) == ("15", "5", "2: 0, 1")
    assert facts["validation loss"].endswith("(last)")
    assert "solver" not in facts


def test_info_of_a_data_set(here, capsys):
    write_csv("train.csv", {"a": [1.5, 0.0], "y": [1, 2], "b": [0.0, 4.0]})
    succeed("convert", "train.csv", "train.fmd", "--target", "y")
    facts = facts_of("train.fmd", capsys)
    assert facts["data set"] == "2 rows x 2 columns"
    assert facts["values"] == "2, 1 in a row, float32"
    assert (facts["with"], facts["feature names"]) == ("y", "2: a, b")
    assert facts["y.npy"] == "144 bytes"


# -- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls", [fmfast.FMRegressor, fmfast.FMClassifier, fmfast.BayesianFMRegressor, fmfast.FeatureEncoder]
)
def test_every_parameter_is_an_option_with_its_help(cls, capsys):
    assert run("train", "--help") == 0
    help_text = capsys.readouterr().out
    python_only = {"scoring", "groups", "warm_start", "callbacks", "verbose", "encoder"}
    names = set(inspect.signature(cls).parameters) - python_only
    assert set(options.parameter_names(cls)) == names
    for name in names:
        entry = re.search(rf"^  {options.option_of(name)}[ ,](.+\n(?: {{10,}}.*\n)*)", help_text, re.M)
        assert entry, name
        assert len(entry.group(1).split()) > 3, name
        assert name in CONSTRAINTS
    assert "--n-factors N         Length of the vector" in help_text
    assert re.search(r"Epochs \(passes over the data\)\. \(default: 10\)", help_text)


def test_options_become_values_of_their_types(here):
    args = ["--n-factors", "3", "--learning-rate", "0.25", "--no-early-stopping", "--reg-V", "1e-3"]
    args += ["--dtype", "float64", "--l1-w", "0", "--n-jobs", "-1", "--random-state", "7"]
    succeed("train", "train.libsvm", "--output", "model.fm", *args)
    params = fmfast.load("model.fm").get_params()
    assert {name: params[name] for name in ("n_factors", "learning_rate", "early_stopping", "reg_V")} == {
        "n_factors": 3, "learning_rate": 0.25, "early_stopping": False, "reg_V": 1e-3,
    }  # fmt: skip
    assert (params["dtype"], params["n_jobs"], params["random_state"]) == ("float64", -1, 7)
    default = fmfast.FMRegressor().get_params()
    assert all(params[name] == default[name] for name in ("solver", "max_iter", "reg_w", "init_std"))
