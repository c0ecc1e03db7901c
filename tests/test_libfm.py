"""Models in the text format of libFM: out and in, and what is no such file."""

from __future__ import annotations

import os
import time
import tracemalloc

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from refusal import assert_one_sentence, assert_refused

import fmfast
from fmfast import BayesianFMRegressor, FMClassifier, FMRegressor, TextFormatError, libfm

rng = np.random.default_rng(0)
X = sp.random_array((100, 6), density=0.5, format="csr", rng=rng)
Y = 50.0 + 7.0 * (X @ rng.normal(size=6))

# As libFM 1.4.4 writes them: six digits, a number per line for w, a line per feature for V.
FILE = """\
#global bias W0
3.52986
#unary interactions Wj
0.182331
-1.5e-05
0
#pairwise interactions Vj,f
0.0104 -0.0203
1.25 2e-3
-0.5 .25
"""
W0, W = 3.52986, np.array([0.182331, -1.5e-05, 0.0])
V = np.array([[0.0104, -0.0203], [1.25, 2e-3], [-0.5, 0.25]])
ROWS = np.array([[1.0, 0.0, 1.0], [0.5, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])


def written(tmp_path, text):
    path = tmp_path / "model.libfm"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_of_libfm(tmp_path):
    path = written(tmp_path, FILE)
    fm = libfm.load(path, dtype="float64")
    assert type(fm) is FMRegressor
    assert fm.w0_ == W0
    assert_array_equal(fm.w_, W)
    assert_array_equal(fm.V_, V)
    assert fm.predict(ROWS) == pytest.approx(reference.score(ROWS, W0, W, V), rel=1e-14)
    single = libfm.load(path)
    assert single.V_.dtype == np.float32
    assert single.predict(ROWS) == pytest.approx(reference.score(ROWS, W0, W, V), rel=1e-6)


def test_a_classification_has_the_logistic_link(tmp_path):
    path = written(tmp_path, FILE.replace("3.52986", "0.25"))
    fm = libfm.load(path, task="classification", classes=["no", "yes"], dtype="float64")
    score = reference.score(ROWS, 0.25, W, V)
    assert (score > 0).any()
    assert (score < 0).any()
    assert fm.decision_function(ROWS) == pytest.approx(score, rel=1e-14)
    assert fm.predict_proba(ROWS)[:, 1] == pytest.approx(1 / (1 + np.exp(-score)))
    assert_array_equal(fm.predict(ROWS), np.where(score > 0, "yes", "no"))
    assert libfm.load(path, task="classification").classes_.tolist() == [0, 1]


@pytest.mark.parametrize("cls", [FMRegressor, FMClassifier])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_factors", [0, 1, 5])
def test_out_and_in_again(tmp_path, cls, dtype, n_factors):
    y = Y if cls is FMRegressor else np.where(Y > 50, "b", "a")
    fm = cls(n_factors=n_factors, dtype=dtype, random_state=0).fit(X, y)
    libfm.dump(fm, tmp_path / "model.libfm")
    task = {} if cls is FMRegressor else {"task": "classification", "classes": ["a", "b"]}
    read = libfm.load(tmp_path / "model.libfm", dtype=dtype, **task)
    assert type(read) is cls
    assert read.w0_ == fm.w0_
    for name in ("w_", "V_"):
        assert_array_equal(getattr(read, name), getattr(fm, name))
        assert getattr(read, name).dtype == dtype
    score = read.predict if cls is FMRegressor else read.decision_function
    dense = X.toarray().astype(dtype)
    error = np.abs(score(X) - reference.score(dense, fm.w0_, fm.w_, fm.V_))
    bound = 1e-6 if dtype == "float32" else 1e-14
    assert (error <= bound * reference.magnitude(dense, fm.w0_, fm.w_, fm.V_)).all()


def test_the_lines_are_those_of_libfm(tmp_path):
    arrays = {"w0": 0.1, "w": [1e-7, -2.0], "V": [[1 / 3, 1e22], [0.0, 5e-324]]}
    libfm.dump(FMRegressor.from_arrays(**arrays), tmp_path / "model.libfm")
    assert (tmp_path / "model.libfm").read_bytes().decode() == (
        "#global bias W0\n0.1\n#unary interactions Wj\n1e-07\n-2.0\n#pairwise interactions Vj,f\n"
        "0.3333333333333333 1e+22\n0.0 5e-324\n"
    )


def test_missing_parts_are_0(tmp_path):
    """libFM leaves them out with -dim 0,...: no bias, or no weights."""
    pairs = "#pairwise interactions Vj,f\n0.1 0.2\n0.3 0.4\n"
    for text, w0, w in (
        (pairs, 0.0, [0.0, 0.0]),
        ("#global bias W0\n2\n" + pairs, 2.0, [0.0, 0.0]),
        ("#unary interactions Wj\n5\n6\n" + pairs, 0.0, [5.0, 6.0]),
    ):
        fm = libfm.load(written(tmp_path, text), dtype="float64")
        assert (fm.w0_, fm.w_.tolist(), fm.V_.tolist()) == (w0, w, [[0.1, 0.2], [0.3, 0.4]])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.rstrip("\n"),
        lambda t: t.replace("0.0104 ", " 0.0104 \t ").replace("3.5", "+3.5"),
    ],
)
def test_white_space(tmp_path, change):
    fm = libfm.load(written(tmp_path, change(FILE)), dtype="float64")
    assert (fm.w0_, fm.V_.tolist()) == (W0, V.tolist())


# What is changed in the file, the line that the message names, and its words.
PAIRS = "#pairwise interactions Vj,f"
BAD_FILES = {
    "empty": ("", 1, "the end of the file", "'#pairwise interactions Vj,f'"),
    "other text": ("hello\n", 1, "'hello'", "such as '#global bias W0'"),
    "numbers at once": ("1.0\n", 1, "'1.0'", "such as '#global bias W0'"),
    "binary": (b"\x80\x04\x95\x00\xff", 1, "such as '#global bias W0'"),
    "another head": (FILE.replace("#unary", "#linear"), 3, "'#linear interactions Wj'", "'#unary"),
    "a head twice": (FILE.replace(PAIRS, "#unary interactions Wj"), 7, "'#unary", "expected '#pairwise"),
    "no pairs": (FILE[: FILE.index("#pair")], 7, "the end of the file", "'#pairwise"),
    "heads in another order": (PAIRS + "\n1 2\n#global bias W0\n1\n", 3, "'#global bias W0'", "numbers"),
    "two biases": (FILE.replace("3.52986", "1\n2"), 1, "with 2 numbers", "expected 1"),
    "no bias": (FILE.replace("3.52986\n", ""), 1, "with 0 numbers", "expected 1"),
    "a weight too few": (FILE.replace("0.182331\n", ""), 3, "with 2 numbers", "expected 3, for 3 lines of V"),
    "a weight too many": (FILE.replace("0\n#p", "0\n1\n#p"), 3, "with 4 numbers", "expected 3"),
    "two weights in a line": (FILE.replace("0\n#p", "0 1\n#p"), 6, "2 numbers", "expected 1"),
    "an empty weight": (FILE.replace("0\n#p", "\n#p"), 6, "0 numbers", "expected 1"),
    "a factor too few": (FILE.replace("1.25 2e-3", "1.25"), 9, "1 numbers", "expected 2"),
    "a factor too many": (FILE.replace("-0.5 .25", "-0.5 .25 1"), 10, "3 numbers", "expected 2"),
    "an empty line": (FILE + "\n", 11, "0 numbers", "expected 2"),
    "no features": (PAIRS + "\n", 2, "the end of the file", "a line of V"),
    "nan": (FILE.replace("1.25", "nan"), 9, "'nan 2e-3'", "numbers separated by spaces"),
    "inf": (FILE.replace("1.25", "-inf"), 9, "'-inf 2e-3'", "numbers"),
    "too large": (FILE.replace("1.25", "1e999"), 9, "a number too large", "finite numbers"),
    "too large a bias": (FILE.replace("3.52986", "-1e999"), 2, "a number too large", "finite"),
    "underscore": (FILE.replace("1.25", "1_0"), 9, "'1_0 2e-3'", "numbers"),
    "hexadecimal": (FILE.replace("1.25", "0x10"), 9, "'0x10 2e-3'", "numbers"),
    "comma": (FILE.replace("1.25", "1,25"), 9, "'1,25 2e-3'", "numbers"),
    "other digits": (FILE.replace("1.25", "\u0661"), 9, "numbers"),
    "null byte": (FILE.replace("1.25", "1\0"), 9, "numbers"),
    "a long line": (FILE.replace("1.25", "x" * 10**6), 9, "xxx...'", "numbers"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_no_models(tmp_path, name):
    text, line, *words = BAD_FILES[name]
    assert text != FILE
    path = written(tmp_path, text)
    with pytest.raises(TextFormatError) as caught:
        libfm.load(path)
    assert caught.value.line == line
    message = str(caught.value).replace(str(tmp_path), "x")
    assert_one_sentence(message, f"line {line} is ", "-save_model", *words)


def test_too_large_for_float32_is_found_after_reading(tmp_path):
    path = written(tmp_path, FILE.replace("1.25", "1e300"))
    assert libfm.load(path, dtype="float64").V_[1, 0] == 1e300
    with pytest.raises(TextFormatError, match=r"line 9 is a number too large, .* float32 \(dtype='float64'"):
        libfm.load(path)


def test_long_nonsense_takes_no_long_time(tmp_path):
    path = written(tmp_path, FILE.replace("1.25", "1" * 300_000 + "x"))
    started = time.perf_counter()
    with pytest.raises(TextFormatError):
        libfm.load(path)
    assert time.perf_counter() - started < 2


def test_memory_is_in_proportion_to_the_file(tmp_path):
    text = "#global bias W0\n1\n#unary interactions Wj\n" + "0\n" * 50_000 + PAIRS + "\n" + "1 2\n" * 50_000
    path = written(tmp_path, text)
    tracemalloc.start()
    libfm.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * len(text)


def test_what_cannot_be_written(tmp_path):
    path = tmp_path / "model.libfm"
    multi = FMClassifier(random_state=0).fit(X, np.arange(100) % 3)
    assert_refused(lambda: libfm.dump(multi, path), [multi], "3 classes, expected two")
    assert_refused(lambda: libfm.dump(FMRegressor(), path), [], "not fitted yet", "dump")
    bayesian = BayesianFMRegressor(n_iter=12, random_state=0).fit(X, Y)
    words = ("estimator is a BayesianFMRegressor", "expected a FMRegressor or FMClassifier")
    assert_refused(lambda: libfm.dump(bayesian, path), [], *words, error=TypeError)
    assert_refused(lambda: libfm.load(path, task="ranking"), [], "task is 'ranking'", "'classification'")
    with pytest.raises(FileNotFoundError):
        libfm.load(path)
    fm = FMRegressor(random_state=0).fit(X, Y)
    libfm.dump(fm, path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="nowhere"):
        libfm.dump(fm, tmp_path / "nowhere" / "model")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.libfm"]


def test_it_is_public():
    assert fmfast.libfm is libfm
    assert "libfm" in fmfast.__all__
