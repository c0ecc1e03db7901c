"""Every fault of a text file is told with its place; nothing crashes, hangs, or takes memory."""

from __future__ import annotations

import io
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refusal import assert_one_sentence

from fmfast import TextFormatError, text


def load(content, **more):
    return text.load(io.BytesIO(content), **more)


def attempt(content, **more):
    """(data, None) or (None, error)"""
    try:
        return load(content, **more), None
    except TextFormatError as error:
        return None, error


@pytest.mark.parametrize(
    ("content", "line", "column", "words"),
    [
        # labels
        (b"1 1:1\n1,2 3:1", 2, 1, ["'1,2'", "expected one label"]),
        (b"1 1:1\n\n  3:1", 3, 3, ["'3:1'", "expected a label, as the first row has one"]),
        (b"1 1:1\nx 3:1", 2, 1, ["'x'", "expected a label that is a number"]),
        (b"nan 3:1", 1, 1, ["'nan'", "expected finite"]),
        (b"-Infinity", 1, 1, ["expected finite"]),
        (b"1e400 3:1", 1, 1, ["'1e400'", "float64"]),
        (b"1:1\n1 1:1", 2, 1, ["'1'", "if it is a label"]),
        # entries
        (b"1 1:1 2", 1, 7, ["'2'", "expected index:value"]),
        (b"1 1:1 :2", 1, 7, ["':2'", "expected index:value"]),
        (b"1 1:1 2:", 1, 7, ["'2:'", "expected index:value"]),
        (b"1 1:1 2 :3", 1, 7, ["'2'", "expected index:value"]),
        (b"1 1:1 2: 3", 1, 7, ["'2:'", "expected index:value"]),
        (b"1 1:1 -2:3", 1, 7, ["'-2:3'", "expected index:value"]),
        (b"1 1:1 +2:3", 1, 7, ["'+2:3'", "expected index:value"]),
        (b"1 1:1 1.5:3", 1, 7, ["'1.5:3'", "expected index:value"]),
        (b"1 1:1 2:3x", 1, 7, ["'2:3x'", "expected index:value"]),
        (b"1 1:1 2:0x3", 1, 7, ["expected index:value"]),
        (b"1 1:1 2:1_0", 1, 7, ["expected index:value"]),
        (b"1 1:1 2:1:1", 1, 7, ["'2:1:1'", "expected index:value"]),
        (b"1 1:1 2:\x00", 1, 7, ["expected index:value"]),
        (b"1 1:1 \x0c2:1", 1, 7, ["expected index:value"]),
        (b"\x0c\n", 1, 1, ["expected a label"]),
        (b"\xff\xfe1\x00", 1, 1, ["expected a label"]),
        (b"1 0:1:1 2:1", 1, 9, ["'2:1'", "expected field:index:value"]),
        (b"1 0:1:1 2:x:1", 1, 9, ["expected field:index:value"]),
        (b"1 0:1:1 2:3:4:5", 1, 9, ["expected field:index:value"]),
        (b"1 1:1 2:nan", 1, 7, ["'2:nan'", "expected finite"]),
        (b"1 1:1 2:-inf", 1, 7, ["'2:-inf'", "expected finite"]),
        (b"1 1:1 2:1e39", 1, 7, ["'2:1e39'", "float32"]),
        (b"1 1:3e38 1:3e38", 1, 10, ["expected finite", "sums"]),
        # indices
        (b"1 1:1 9223372036854775807:1", 1, 7, ["below 2^63"]),
        (b"1 1:1 99999999999999999999999:1", 1, 7, ["below 2^63"]),
        (b"1 2147483647:1:1", 1, 3, ["fields below 2^31"]),
        # qid
        (b"1 qid:1 1:1\n1 1:1", 2, 3, ["'1:1'", "as the first row has a qid"]),
        (b"1 qid:1 1:1\n1", 2, 2, ["the end of the line", "as the first row has a qid"]),
        (b"1 qid:1 1:1\n1 qid:x", 2, 3, ["'qid:x'", "a whole number"]),
        (b"1 qid:-1", 1, 3, ["'qid:-1'", "a whole number"]),
        (b"1 qid:1.5", 1, 3, ["'qid:1.5'", "a whole number"]),
        (b"1 1:1\n1 qid:1 1:1", 2, 3, ["'qid:1'", "as the first row has no qid"]),
        (b"1 qid:99999999999999999999", 1, 3, ["below 2^63"]),
        # fields
        (b"1 1:1:1 2:1:1", 1, 9, ["expected one field for each index"]),
        (b"1 1:1:1\n# c\n\n1 3:2:1\n1 2:1:1", 5, None, ["index 1 has field 2, but field 1 before"]),
        (b"1 1:1:1 1:1000000000000000000:1", 1, None, ["index 1000000000000000000", "renumber"]),
    ],
)  # fmt: skip
def test_the_place_and_what_was_expected(content, line, column, words):
    for end in (b"", b"\n", b"\n1 1:1\n"):
        with pytest.raises(TextFormatError) as caught:
            load(content + end)
        assert (caught.value.line, caught.value.column) == (line, column)
        assert_one_sentence(str(caught.value), f"line {line}", *words)


def test_the_name_of_the_file(tmp_path):
    path = tmp_path / "train.libsvm"
    path.write_bytes(b"x")
    with pytest.raises(TextFormatError, match=r"train\.libsvm', line 1, column 1"):
        text.load(path)
    with open(path, "rb") as file, pytest.raises(TextFormatError, match=r"train\.libsvm', line 1, column 1"):
        text.load(file)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"# nothing\n"])
def test_no_rows(content):
    with pytest.raises(TextFormatError, match="no rows"):
        load(content)


def test_told_one_based():
    with pytest.raises(TextFormatError, match="line 2, column 3: '0:1', expected indices from 1 on"):
        load(b"1 1:1\n1 0:1\n", zero_based=False)


@pytest.mark.parametrize(
    "arguments",
    [{"format": "csv"}, {"zero_based": "yes"}, {"n_features": 0}, {"n_features": 1.5}, {"dtype": "int32"},
     {"n_jobs": 0}, {"n_jobs": "all"}],
)  # fmt: skip
def test_arguments(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))) as caught:
        load(b"1 1:1\n", **arguments)
    assert_one_sentence(str(caught.value))


ALPHABET = b"0123456789:.-+eE \t\r\n#,qidnaf\x00\xff"


@settings(deadline=None, max_examples=1500)
@given(
    st.binary(max_size=60) | st.lists(st.sampled_from(ALPHABET), max_size=80).map(bytes),
    st.sampled_from(["auto", "libsvm", "libffm"]),
)
@example(b"\x0c\n", "auto")
@example(b"qid:", "auto")
@example(b"1 qid:", "auto")
@example(b"\x1f\x8b", "auto")
@example(b"#", "auto")
@example(b"1 5", "libffm")
def test_random_bytes(content, form):
    data, error = attempt(content, format=form)
    if error is not None:
        assert_one_sentence(str(error))
        assert error.line is not None or "no rows" in str(error) or "damaged" in str(error)
    else:
        assert data.X.has_canonical_format
        rows = [line for line in content.split(b"\n") if line.partition(b"#")[0].strip(b" \t\r")]
        assert data.X.shape[0] == len(rows)


@settings(deadline=None, max_examples=300)
@given(st.integers(2, 400), st.binary(min_size=1, max_size=3))  # the first two might turn it into gzip
def test_damaged_files(position, damage):
    """A sound file with a few bytes replaced: read, or an error with its line."""
    content = b"".join(b"%d 0:%d:1 1:%d:0.25\n" % (i % 2, i, i + 50) for i in range(20))
    content = content[:position] + damage + content[position + len(damage) :]
    _, error = attempt(content)
    assert error is None or error.line is not None


@pytest.mark.parametrize(
    "content",
    [
        b"1 1:1 1000000000000000000:1\n",
        b"1 1:1:1 1:1000000000000000000:1\n",
        b":" * 1000,
        b"1 " + b"9" * 1000 + b":1",
    ],
)
def test_memory_is_in_proportion_to_the_file(content):
    tracemalloc.start()
    try:
        attempt(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_many_columns_with_fields_if_they_are_wanted():
    data = load(b"1 1:20000000:1\n", n_features=20_000_000)
    assert len(data.field) == 20_000_000
    assert data.field[-1] == 1
