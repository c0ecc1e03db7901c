"""Where the commands read rows from, and where they write them to: text, tables and data sets on disk."""

from __future__ import annotations

import gzip
import os
import re
import time

import numpy as np
import pytest
import scipy.sparse as sp
from cli_calls import SETTINGS, X_TRAIN, Y_TRAIN, X, numbers, regressor, succeed, write_csv

import fmfast
from fmfast import text

USERS = np.random.default_rng(1).integers(0, 20, 300)
ITEMS = np.random.default_rng(2).integers(0, 15, 300)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with train.libsvm, in which commands run."""
    monkeypatch.chdir(tmp_path)
    text.dump("train.libsvm", X_TRAIN, Y_TRAIN)
    return tmp_path


# -- out of core ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [None, "new/cache"])
def test_out_of_core(here, cache):
    args = () if cache is None else ("--cache", cache)
    succeed("train", "train.libsvm", "--out-of-core", "--output", "model.fm", *args, *SETTINGS)
    expected = regressor().fit(X_TRAIN, Y_TRAIN)
    np.testing.assert_array_equal(fmfast.load("model.fm").V_, expected.V_)
    (data_set,) = (here / (cache or ".")).glob("train.libsvm.*.fmd")
    assert fmfast.open_dataset(data_set).n_samples == 600


def test_a_converted_data_set_is_used_again_until_the_source_changes(here):
    def train(*args):
        succeed("train", "train.libsvm", "--out-of-core", "--output", "model.fm", *args, *SETTINGS)
        return {path.name: (path / "meta.json").stat().st_mtime_ns for path in here.glob("*.fmd")}

    first = train()
    assert train() == first
    (name,) = first
    # Other ways to read the source have a data set of their own.
    assert len(train("--n-features", "80")) == 2
    later = time.time_ns() + 10**9
    os.utime("train.libsvm", ns=(later, later))
    assert train()[name] > first[name]


def test_a_data_set_is_trained_from_as_it_is(here):
    succeed("convert", "train.libsvm", "train.fmd")
    for args in ((), ("--out-of-core",)):
        succeed("train", "train.fmd", "--output", "model.fm", *args, *SETTINGS)
        expected = regressor().fit(X_TRAIN, Y_TRAIN)
        np.testing.assert_array_equal(fmfast.load("model.fm").V_, expected.V_)
    assert [path.name for path in here.glob("*.fmd")] == ["train.fmd"]


# -- tables -----------------------------------------------------------------------------------------


def write_table(path, columns):
    if path.endswith("csv"):
        write_csv(path, columns)
    else:
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.table(columns), path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_of_numbers(here, ending):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 2))
    y = values[:, 0] * values[:, 1]
    weight = rng.uniform(size=300)
    columns = {"a": values[:, 0], "y": y, "weight": weight, "b": values[:, 1]}
    write_table(f"train.{ending}", columns)
    # Its columns are found by name, and others do not matter.
    write_table(f"test.{ending}", {"other": y, "b": values[:, 1], "a": values[:, 0]})
    how = ("--target", "y", "--sample-weight", "weight")
    succeed("train", f"train.{ending}", "--output", "model.fm", *how, *SETTINGS)
    expected = regressor().fit(values, y, sample_weight=weight)
    assert fmfast.load("model.fm").feature_names_in_.tolist() == ["a", "b"]
    for test in ("test", "train"):
        succeed("predict", "model.fm", f"{test}.{ending}", "--output", "p.txt")
        np.testing.assert_array_equal(numbers("p.txt")[:, 0], expected.predict(values))
    succeed("evaluate", "model.fm", f"train.{ending}", "--target", "y")


def test_columns_of_validation_data_are_found_by_name(here):
    a, b = np.random.default_rng(0).normal(size=(2, 100))
    write_csv("train.csv", {"a": a, "y": a * b, "b": b})
    write_csv("test.csv", {"y": a * b, "b": b, "other": b, "a": a})
    how = ("--target", "y", "--validation", "test.csv")
    succeed("train", "train.csv", *how, "--output", "model.fm", *SETTINGS)
    values = np.stack([a, b], axis=1)
    expected = regressor().fit(values, a * b, eval_set=(values, a * b))
    model = fmfast.load("model.fm")
    assert [r["validation_score"] for r in model.history_] == [
        r["validation_score"] for r in expected.history_
    ]


def test_tables_out_of_core(here, capsys):
    """A data set has names, but sparse rows do not: columns count by their order."""
    a, b = np.random.default_rng(0).normal(size=(2, 100))
    write_csv("train.csv", {"a": a, "y": a * b, "b": b})
    how = ("--target", "y", "--validation", "train.csv")
    succeed("train", "train.csv", *how, "--out-of-core", "--output", "model.fm", *SETTINGS)
    succeed("predict", "model.fm", "train.csv", "--target", "y", "--output", "p.txt")
    values = np.stack([a, b], axis=1)
    expected = regressor().fit(values.astype(np.float32), a * b)
    np.testing.assert_allclose(numbers("p.txt")[:, 0], expected.predict(values), rtol=1e-6)
    assert capsys.readouterr().err == ""


def test_weights_count_in_an_evaluation(here, capsys):
    a = np.arange(20.0)
    y = a + (a == 3) * 50
    write_csv("train.csv", {"a": a, "y": a, "w": np.ones(20)})
    write_csv("test.csv", {"a": a, "y": y, "w": np.where(a == 3, 0.0, 1.0)})
    how = ("--target", "y", "--task", "regression", "--sample-weight", "w")
    succeed("train", "train.csv", *how, "--output", "model.fm", *SETTINGS)
    rmse = []
    for args in ((), ("--sample-weight", "w")):
        capsys.readouterr()
        succeed("evaluate", "model.fm", "test.csv", "--target", "y", *args)
        rmse.append(float(re.search(r"RMSE +(\S+)", capsys.readouterr().out).group(1)))
    error = fmfast.load("model.fm").predict(sp.csr_array(a[:, None])) - y
    expected = [np.sqrt(np.mean(error**2)), np.sqrt(np.mean(error[a != 3] ** 2))]
    assert rmse == pytest.approx(expected)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_of_categories(here, ending):
    pytest.importorskip("pyarrow")
    y = ((USERS % 2) * (ITEMS % 3) > 0).astype(int)
    labels = np.array(["no", "yes"])[y].tolist()
    columns = {"user": USERS.tolist(), "label": labels, "item": [f"i{item}" for item in ITEMS]}
    write_table(f"train.{ending}", columns)
    how = ("--target", "label", "--categorical", "user,item", "--min-count", "2")
    succeed("train", f"train.{ending}", "--output", "model.fm", *how, *SETTINGS)
    encoder = fmfast.FeatureEncoder(categorical=["user", "item"], min_count=2)
    expected = fmfast.FMClassifier(n_factors=4, max_iter=5, random_state=0, encoder=encoder)
    table = {name: columns[name] for name in ("user", "item")}
    expected.fit(table, labels)
    # Some are new, and the order of the columns is another.
    new = {"item": ["i3", "i999"], "user": [5, 77]}
    write_table(f"new.{ending}", new)
    succeed("predict", "model.fm", f"new.{ending}", "--proba", "--output", "p.txt")
    np.testing.assert_array_equal(numbers("p.txt"), expected.predict_proba(new))
    succeed("predict", "model.fm", f"new.{ending}", "--output", "p.txt")
    with open("p.txt") as file:
        assert file.read().split() == expected.predict(new).tolist()
    succeed("evaluate", "model.fm", f"train.{ending}", "--target", "label")


# -- convert ----------------------------------------------------------------------------------------


def test_convert_to_a_data_set_and_back(here):
    succeed("convert", "train.libsvm", "train.fmd")
    data = fmfast.open_dataset("train.fmd")
    np.testing.assert_array_equal(data.y, Y_TRAIN)
    assert (data.X != X_TRAIN).nnz == 0
    succeed("convert", "train.fmd", "back.libsvm.gz")
    with gzip.open("back.libsvm.gz") as back, open("train.libsvm", "rb") as first:
        assert back.read() == first.read()


def test_convert_text_and_tables_to_text(here):
    field = np.arange(X.shape[1]) // 30
    text.dump("train.ffm", X_TRAIN, Y_TRAIN, field=field, zero_based=True)
    succeed("convert", "train.ffm", "copy.libffm", "--zero-based")
    with open("train.ffm", "rb") as first, open("copy.libffm", "rb") as second:
        assert first.read() == second.read()
    write_csv("train.csv", {"a": [1.5, 0.0], "y": [1, 2], "b": [0.0, 4.0]})
    succeed("convert", "train.csv", "train.svm", "--target", "y")
    with open("train.svm") as file:
        assert file.read() == "1 1:1.5\n2 2:4\n"
