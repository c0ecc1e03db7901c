"""Decimal to binary and back: always the nearest number, against Python's own `float` and exact fractions."""

from __future__ import annotations

import math
import struct
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmfast import _decimal

MANY = settings(max_examples=1000, deadline=None)
FLOAT32_MAX = float(np.finfo(np.float32).max)


def double_of(bits):
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def float_of(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def nearest_float32(text):
    """By exact arithmetic: the closest float32, of two the one whose last bit is 0."""
    value = Fraction(text)
    if value >= 2**128:
        return math.inf
    guess = np.float32(min(float(value), FLOAT32_MAX))
    with np.errstate(over="ignore"):
        candidates = [guess, np.nextafter(guess, np.float32(np.inf)), np.nextafter(guess, np.float32(0))]

    def key(x):
        exact = Fraction(2) ** 128 if np.isinf(x) else Fraction(float(x))
        return abs(exact - value), int(x.view(np.uint32)) & 1

    return float(min(candidates, key=key))


def exact_text(value):
    """All digits of a fraction whose denominator is a power of two."""
    with localcontext() as context:
        context.prec = 1200
        return format((Decimal(value.numerator) / Decimal(value.denominator)).normalize(), "e")


def n_digits(text):
    return len(text.lower().partition("e")[0].replace(".", "").strip("-0"))


SPELLING = r"[+-]?([0-9]{1,25}(\.[0-9]{0,25})?|\.[0-9]{1,25})([eE][+-]?[0-9]{1,3})?"
numbers = st.from_regex(SPELLING, fullmatch=True)
DOUBLES = st.integers(0, 0x7FEFFFFFFFFFFFFF).map(double_of)
FLOATS = st.integers(0, 0x7F7FFFFF).map(float_of)


@MANY
@given(numbers)
def test_any_decimal_is_read_as_python_reads_it(text):
    assert _decimal.read(text.encode(), False) == float(text)


@MANY
@given(numbers.map(lambda text: text.lstrip("+-")))
def test_any_decimal_becomes_the_nearest_float32(text):
    assert _decimal.read(text.encode(), True) == nearest_float32(text)


@MANY
@given(DOUBLES, st.integers(0, 40))
def test_doubles_with_any_number_of_digits(x, digits):
    text = f"{x:.{digits}e}"
    assert _decimal.read(text.encode(), False) == float(text)


@pytest.mark.parametrize("change", ["", "0000001", "minus"])
@MANY
@given(bits=st.integers(0, 0x7FEFFFFFFFFFFFFE))
def test_halfway_between_two_doubles(bits, change):
    """All digits of the midpoint, or a little more, or a little less."""
    middle = (Fraction(double_of(bits)) + Fraction(double_of(bits + 1))) / 2
    mantissa, _, exponent = exact_text(middle).partition("e")
    if change == "minus":
        assert mantissa[-1] != "0"
        mantissa = mantissa[:-1] + str(int(mantissa[-1]) - 1) + "9999"
    else:
        mantissa += change
    text = f"{mantissa}e{exponent}"
    assert _decimal.read(text.encode(), False) == float(text)


@pytest.mark.parametrize("change", ["", "0000001", "0" * 200 + "1", "minus"])
@MANY
@given(bits=st.integers(0, 0x7F7FFFFE))
def test_halfway_between_two_floats(bits, change):
    """Rounding to double first would hit the midpoint, and then go to the even one."""
    middle = (Fraction(float_of(bits)) + Fraction(float_of(bits + 1))) / 2
    mantissa, _, exponent = exact_text(middle).partition("e")
    mantissa = (
        mantissa[:-1] + str(int(mantissa[-1]) - 1) + "9" * 30 if change == "minus" else mantissa + change
    )
    if "." not in mantissa:  # a single digit
        mantissa = mantissa[0] + "." + mantissa[1:]
    text = f"{mantissa}e{exponent}"
    wanted = float_of(bits + (bits & 1 if not change else change != "minus"))
    assert _decimal.read(text.encode(), True) == wanted


def test_rounding_twice_would_be_wrong():
    """The decimal is above the midpoint of two floats, the double nearest to it is the midpoint."""
    text = b"1.00000005960464477539062500000001"
    assert np.float32(float(text)) == 1.0
    assert _decimal.read(text, True) == np.nextafter(np.float32(1), np.float32(2))


HARD = [
    "2.2250738585072011e-308", "2.2250738585072014e-308", "4.9e-324", "2.4703282292062327e-324",
    "2.4703282292062328e-324", "1e-400", "1.7976931348623157e308", "9007199254740993", "9007199254740992.5",
    "18446744073709551615", "18446744073709551616", "1" * 400, "0." + "0" * 400 + "1e401",
    "123456789012345678901234567890e-30", "1" + "0" * 400 + "e-400", "1.1754943157898258e-38",
    "7.0064923216240853546186479164495e-46", "7.0064923216240854e-46", "16777217", "16777219", "8388608.5",
    "8388609.5",
]  # fmt: skip
# Too long, or too far out, for exact arithmetic in Python.
EXTREME = [
    "0." + "3" * 9999, "9" * 9999 + "e-9990", "1e-99999999999999999999", "1e99999999999999999999",
    "0e999999999", "1e" + "0" * 5000 + "3", "1e400", "1.7976931348623159e308",
]  # fmt: skip


@pytest.mark.parametrize("text", [*HARD, *EXTREME], ids=lambda text: text[:25])
def test_hard_cases(text):
    assert _decimal.read(text.encode(), False) == float(text)


@pytest.mark.parametrize("text", HARD, ids=lambda text: text[:25])
def test_hard_cases_as_float32(text):
    assert _decimal.read(text.encode(), True) == nearest_float32(text)


@pytest.mark.parametrize("text", EXTREME, ids=lambda text: text[:25])
def test_extreme_cases_as_float32(text):
    with np.errstate(over="ignore"):
        assert _decimal.read(text.encode(), True) == np.float32(float(text))  # none is near a midpoint


def test_the_largest_float32():
    top = (Fraction(FLOAT32_MAX) + Fraction(2) ** 128) / 2
    text = exact_text(top).replace("e", "{}e")
    assert _decimal.read(text.format("").encode(), True) == math.inf  # to the even one
    assert _decimal.read(exact_text(top - 1).encode(), True) == FLOAT32_MAX
    assert _decimal.read(text.format("1").encode(), True) == math.inf


@pytest.mark.parametrize("power", range(-342, 330))
def test_powers_of_ten(power):
    for digits in ("1", "9007199254740993", "9999999999999999999", "12345678901234567890123"):
        text = f"{digits}e{power}"
        assert _decimal.read(text.encode(), False) == float(text)


@pytest.mark.parametrize(
    "text", ["", ".", "+", "-", "e5", "1e", "1e+", "--1", "0x10", "1_0", "nan", "inf", " 1", "1 ", "1,5"]
)  # fmt: skip
def test_other_spellings_are_no_numbers(text):
    assert _decimal.read(text.encode(), False) is None
    assert _decimal.read(text.encode(), True) is None


@pytest.mark.parametrize("text", ["+1", "1.", ".5", "-.5e1", "00012", "1E5", "1e+05", "-0"])
def test_all_spellings_that_are(text):
    assert _decimal.read(text.encode(), False) == float(text)


# -- writing ------------------------------------------------------------------------------------


@MANY
@given(DOUBLES)
def test_doubles_are_written_with_as_few_digits_as_python_does(x):
    text = _decimal.written(x, False).decode()
    assert float(text) == x
    if x != int(x) or x > 2**53:
        assert n_digits(text) == n_digits(repr(x))
    assert _decimal.written(-x, False).decode() == "-" + text
    assert len(text) <= 24


@MANY
@given(FLOATS)
def test_floats_are_written_with_as_few_digits_as_numpy_does(x):
    text = _decimal.written(x, True)
    assert _decimal.read(text, True) == x
    assert np.float32(float(text)) == np.float32(x)  # as others read it
    if x != int(x) or x > 2**24:
        shortest = np.format_float_scientific(np.float32(x), unique=True)
        bits = int(np.float32(x).view(np.uint32))
        halfway = [
            (Fraction(x) + Fraction(float_of(other))) / 2
            for other in (max(bits - 1, 0), min(bits + 1, 0x7F7FFFFF))
        ]
        assert n_digits(text.decode()) == n_digits(shortest) or Fraction(shortest) in halfway


def test_many_floats():
    rng = np.random.default_rng(0)
    for bits in rng.integers(0, 0x7F800000, 100_000).tolist():
        x = float_of(bits)
        assert _decimal.read(_decimal.written(x, True), True) == x


@pytest.mark.parametrize("exponent", range(-1074, 1024, 7))
def test_powers_of_two(exponent):
    x = 2.0**exponent
    text = _decimal.written(x, False).decode()
    assert float(text) == x
    if not 0 <= exponent <= 53:
        assert n_digits(text) == n_digits(repr(x))


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.0, "0"), (-0.0, "-0"), (1.0, "1"), (0.1, "0.1"), (-2.5, "-2.5"), (1e16, "10000000000000000"),
     (1e17, "1e17"), (1e22, "1e22"), (1.5e-7, "1.5e-7"), (0.00001234, "0.00001234"),
     (123456.789, "123456.789"), (5e-324, "5e-324")],
)  # fmt: skip
def test_spelling(x, text):
    assert _decimal.written(x, False).decode() == text
