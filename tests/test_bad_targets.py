"""Bad targets, labels, classes and weights get one clear sentence, and change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from refusal import (
    CLASSES,
    GOOD_X,
    GOOD_Y,
    INF,
    N_SAMPLES,
    NAN,
    assert_refused,
    every_way_in,
    fitted,
    new,
    partial_fit,
    replaced,
)

from fmfast import FMClassifier, FMRegressor

Y = GOOD_Y[FMRegressor]
BAD_TARGETS = {
    "none": (None, ["requires y to be passed", "is None"]),
    "too short": (Y[:-1], ["inconsistent numbers of samples", "11 values for 12 rows"]),
    "too long": (np.append(Y, 1.0), ["inconsistent numbers of samples", "13 values for 12 rows"]),
    "a number": (1.0, ["should be a 1d array", "()"]),
    "two columns": (np.stack([Y, Y], axis=1), ["should be a 1d array", "(12, 2)"]),
    "NaN": (replaced(Y, 4, NAN), ["contains NaN (at position 4)", "expected finite numbers"]),
    "infinity": (replaced(Y, 4, -INF), ["contains infinity (at position 4)", "expected finite numbers"]),
    "infinity float16": (replaced(Y.astype("f2"), 4, INF), ["contains infinity (at position 4)"]),
    "huge": (replaced(Y, 4, 1e200), ["1e+200", "too large (at position 4)", "within +-1e+"]),
    "beyond float64": (replaced(Y.astype(np.longdouble), 4, np.longdouble("1e999")), ["contains infinity"]),
    "complex": (Y.astype(complex), ["Complex data not supported", "complex128", "expected real numbers"]),
    "strings": (Y.astype(str), ["dtype <U", "expected numbers"]),
    "dates": (Y.astype("M8[s]"), ["datetime64", "expected numbers"]),
    "sparse": (sp.csr_array(Y[:, None]), ["sparse matrix of shape (12, 1)", "expected a dense array"]),
    "a list with None": ([None, *Y[1:]], ["contains NaN (at position 0)"]),
    "a list with a string": (["a", *Y[1:]], ["dtype <U", "expected numbers"]),
    "objects with a string": (
        replaced(Y.astype(object), 2, "a"),
        ["strings such as 'a'", "expected numbers"],
    ),
    "objects": ([{}] * 12, ["no numbers", "dict"]),
}
CODES = GOOD_Y[FMClassifier]
BAD_LABELS = {
    "none": (None, ["requires y to be passed", "is None"]),
    "sparse": (sp.csr_array(CODES[:, None]), ["sparse matrix of shape (12, 1)", "expected a dense array"]),
    "too short": (CODES[:-1], ["inconsistent numbers of samples", "11 values for 12 rows"]),
    "a word": ("spam", ["should be a 1d array", "()"]),
    "two columns": (np.stack([CODES, CODES], axis=1), ["should be a 1d array", "(12, 2)"]),
    "NaN": (replaced(CODES.astype(float), 4, NAN), ["contains NaN (at position 4)", "expected class labels"]),
    "NaN among objects": (replaced(CODES.astype(object), 4, NAN), ["contains NaN (at position 4)"]),
    "None": (replaced(CODES.astype(object), 4, None), ["contains NaN (at position 4)"]),
    "None in a list": ([None, *CODES[1:]], ["contains NaN (at position 0)"]),
    "not a time": (replaced(CODES.astype("M8[s]"), 4, "NaT"), ["contains NaN (at position 4)"]),
    "infinity": (replaced(CODES.astype(float), 4, INF), ["contains infinity (at position 4)"]),
    "complex": (CODES.astype(complex), ["Complex data not supported", "complex128", "class labels"]),
    "records": (np.zeros(12, "i4,i4"), ["dtype [", "expected class labels"]),
    "continuous": (CODES + 0.25, ["continuous", "0.25", "expected class labels"]),
}
UNSORTABLE_LABELS = {
    "mixed": (replaced(CODES.astype(object), 4, "a"), ["type int, str", "expected labels of one type"]),
    "mixed in a list": (["a", *CODES[1:].tolist()], ["type int, str", "expected labels of one type"]),
    "dicts": ([{}, {"a": 1}] * 6, ["type dict", "expected labels of one type"]),
}


def ways_of_y(cls, y):
    for way, fm, call in every_way_in(cls, GOOD_X, y):
        if not way.startswith(("predict", "decision")):
            yield way, fm, call


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_bad_target(name):
    y, words = BAD_TARGETS[name]
    for way, fm, call in ways_of_y(FMRegressor, y):
        expected = [*words, "y of eval_set"] if way.startswith("eval_set") else [*words, "y"]
        assert_refused(call, [fm, GOOD_X, y], *expected, error=(ValueError, TypeError))


def test_target_must_fit_the_range_of_the_model():
    y = 1e30 * Y
    assert_refused(lambda: FMRegressor().fit(GOOD_X, y), [y], "too large", "within +-1e+18")
    fm = FMRegressor(dtype="float64", random_state=0).fit(GOOD_X, y)
    assert np.isfinite(fm.w_).all()
    assert np.isfinite(fm.V_).all()
    assert np.isfinite(fm.predict(GOOD_X)).all()


@pytest.mark.parametrize("name", BAD_LABELS)
def test_bad_labels(name):
    y, words = BAD_LABELS[name]
    for way, fm, call in ways_of_y(FMClassifier, y):
        expected = [*words, "y of eval_set"] if way.startswith("eval_set") else [*words, "y"]
        assert_refused(call, [fm, GOOD_X, y], *expected)


@pytest.mark.parametrize("name", UNSORTABLE_LABELS)
def test_labels_that_cannot_be_sorted(name):
    y, words = UNSORTABLE_LABELS[name]
    for fm in (new(FMClassifier), fitted(FMClassifier)):
        assert_refused(lambda fm=fm: fm.fit(GOOD_X, y), [fm, y], *words, error=TypeError)
    fm = new(FMClassifier)
    classes = list(y)
    assert_refused(
        lambda: fm.partial_fit(GOOD_X, CODES, classes=classes), [fm, y], "classes", *words, error=TypeError
    )


def test_missing_labels_of_pandas():
    pd = pytest.importorskip("pandas")
    for values in (pd.array([0, 1] * 5 + [0, pd.NA], dtype="Int64"), pd.array(["a", "b"] * 5 + ["a", pd.NA])):
        for y in (values, pd.Series(values)):
            fm = fitted(FMClassifier)
            assert_refused(lambda fm=fm, y=y: fm.fit(GOOD_X, y), [fm], "contains NaN (at position 11)")


@pytest.mark.parametrize("label", [1, "spam", True])
def test_labels_of_one_class(label):
    y = np.array([label] * N_SAMPLES)
    for fm in (new(FMClassifier), fitted(FMClassifier)):
        assert_refused(
            lambda fm=fm: fm.fit(GOOD_X, y),
            [fm, y],
            f"y has only one class, {label!r}",
            "at least two classes",
        )
    fm = new(FMClassifier)
    assert_refused(
        lambda: fm.partial_fit(GOOD_X, y, classes=[label]),
        [fm, y],
        "classes has only one class",
        "at least two",
    )


@pytest.mark.parametrize(
    ("classes", "label"),
    [([0, 1], 2), ([0, 1], -1), ([0, 1], "1"), (["a", "c"], "b"), (["a", "c"], 1), ([False, True], 2)],
)
def test_unseen_labels(classes, label):
    y = [classes[i % 2] for i in range(N_SAMPLES)]
    bad = [*y[:-1], label] if type(label) is type(classes[0]) else [label] * N_SAMPLES
    words = ["unknown label", repr(label), "expected one of the classes", f"{classes[0]!r}, {classes[1]!r}"]

    fm = new(FMClassifier)
    assert_refused(lambda: fm.partial_fit(GOOD_X, bad, classes=classes), [fm, bad], *words)
    fm = new(FMClassifier).partial_fit(GOOD_X, y, classes=classes)
    assert_refused(lambda: fm.partial_fit(GOOD_X, bad), [fm, bad], *words)
    fm = new(FMClassifier, warm_start=True).fit(GOOD_X, y)
    assert_refused(lambda: fm.fit(GOOD_X, bad), [fm, bad], *words)
    assert_refused(lambda: fm.fit(GOOD_X, y, eval_set=(GOOD_X, bad)), [fm, bad], "y of eval_set", *words)
    fm = new(FMClassifier)
    assert_refused(lambda: fm.fit(GOOD_X, y, eval_set=(GOOD_X, bad)), [fm, bad], "y of eval_set", *words)


def test_unseen_label_of_a_type_that_cannot_be_compared():
    y = np.array([0, 1] * 6, dtype=object)
    fm = new(FMClassifier).fit(GOOD_X, y)
    bad = replaced(y, 7, "a")
    assert_refused(lambda: fm.partial_fit(GOOD_X, bad), [fm, bad], "unknown label 'a'", "classes 0, 1")


def test_score_of_labels_of_another_kind():
    fm = fitted(FMClassifier)
    y = CODES.astype(str)
    assert_refused(lambda: fm.score(GOOD_X, y), [fm, y], "labels of dtype <U", "'0'", "like the classes 0, 1")
    # A label that no sample had is merely never predicted.
    assert fm.score(GOOD_X, CODES + 2) == 0.0


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (None, ["classes must be passed on the first call to partial_fit"]),
        ([], ["classes has only one class", "at least two"]),
        ([[0, 1]], ["classes should be a 1d array", "(1, 2)"]),
        ([0.0, NAN], ["classes contains NaN (at position 1)"]),
        ([0.5, 1.5], ["classes holds fractions such as 0.5"]),
    ],
)
def test_bad_classes(classes, words):
    fm = new(FMClassifier)
    if classes == []:
        words = ["classes", "at least two"]
    assert_refused(lambda: fm.partial_fit(GOOD_X, CODES, classes=classes), [fm, classes], *words)


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 2], ["0", "1"]])
def test_changed_classes(classes):
    fm = new(FMClassifier).partial_fit(GOOD_X, CODES, classes=[1, 0])
    assert_refused(
        lambda: fm.partial_fit(GOOD_X, CODES, classes=classes),
        [fm],
        repr(classes),
        "the first call to partial_fit had [0, 1]",
    )
    fm.partial_fit(GOOD_X, CODES, classes=[0, 1])


# -- weights -----------------------------------------------------------------------------------

ONES = np.ones(N_SAMPLES)
BAD_WEIGHTS = {
    "too short": (ONES[:-1], ["sample_weight has 11 values for 12 rows"]),
    "two-dimensional": (ONES[:, None], ["must be 1D array or scalar", "(12, 1)", "one weight per sample"]),
    "NaN": (replaced(ONES, 4, NAN), ["sample_weight contains NaN (at position 4)", "finite numbers"]),
    "infinity": (replaced(ONES, 4, INF), ["sample_weight contains infinity (at position 4)"]),
    "huge": (replaced(ONES, 4, 1e200), ["1e+200", "too large (at position 4)", "within +-1e+100"]),
    "negative": (replaced(ONES, 4, -2.5), ["negative value -2.5 (at position 4)", "expected numbers >= 0"]),
    "all zero": (0 * ONES, ["sample_weight is zero for every sample", "expected a positive number"]),
    "zero": (0, ["sample_weight is zero for every sample"]),
    "complex": (ONES + 0j, ["Complex data not supported", "sample_weight", "complex128"]),
    "strings": (["a"] * N_SAMPLES, ["sample_weight has dtype <U1", "expected numbers"]),
    "objects": ([{}] * N_SAMPLES, ["sample_weight holds objects that are no numbers", "dict"]),
}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_bad_sample_weight(name, cls):
    weight, words = BAD_WEIGHTS[name]
    y = GOOD_Y[cls]
    for fm in (new(cls), fitted(cls), fitted(cls, warm_start=True)):
        for call in (
            lambda fm=fm: fm.fit(GOOD_X, y, sample_weight=weight),
            lambda fm=fm: partial_fit(fm, GOOD_X, y, sample_weight=weight),
        ):
            assert_refused(call, [fm, weight], *words, error=(ValueError, TypeError))
    fm = fitted(cls)
    assert_refused(lambda: fm.score(GOOD_X, y, weight), [fm, weight], *words, error=(ValueError, TypeError))
