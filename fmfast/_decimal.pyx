# cython: language_level=3, cdivision=True, overflowcheck=False
"""Decimal numbers to binary and back, correctly rounded.

A decimal is w * 10^q, with w an integer of 64 bits. The nearest double is found by one or two products
with a power of five that is known to 128 bits (Lemire, "Number parsing at a gigabyte per second", 2021,
section 5); the exact powers of ten of Clinger (1990) serve the many short numbers. Where these few bits do
not settle the rounding, `nearest_double` says so instead of guessing, and Python's own `float` reads the
number under the GIL, which depends on no locale.

Writing goes the other way by trial: round to ever more digits until reading gives the number back. So what
is written is right because it has been read.

Nothing here knows of text files. Products of 64 bits are meant to overflow, so that no build checks that.
"""
from libc.float cimport FLT_MAX
from libc.math cimport fabs, isinf, nextafterf
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    LARGEST_POWER = 342         # 17 digits of the smallest double need 10^340
    EXACT_POWER = 22            # 10^22 is the last power of ten that a double holds exactly


cdef struct Powers:
    # 10^q = five[q] * 2^floor(log2 10^q) / 2^127, with 64 high and 64 low bits, the first of them set;
    # cut off for q >= 0, and above the true value by less than the last bit (q >= -27) or cut off below.
    uint64_t high[2 * LARGEST_POWER + 1]
    uint64_t low[2 * LARGEST_POWER + 1]
    double ten[EXACT_POWER + 1]


cdef Powers POWERS


cdef _fill_powers():
    for q in range(-LARGEST_POWER, LARGEST_POWER + 1):
        five = 5 ** abs(q)
        size = five.bit_length()
        if q >= 0:
            five = (five << 128) >> size
        elif q >= -27:
            five = (1 << (size + 127)) // five + 1
        else:
            five = (1 << (2 * size + 128)) // five + 1
            five >>= five.bit_length() - 128
        POWERS.high[q + LARGEST_POWER] = five >> 64
        POWERS.low[q + LARGEST_POWER] = five & 0xFFFFFFFFFFFFFFFF
    for q in range(EXACT_POWER + 1):
        POWERS.ten[q] = float(10 ** q)

_fill_powers()


cdef struct Wide:
    uint64_t high
    uint64_t low


cdef inline Wide multiply(uint64_t a, uint64_t b) noexcept nogil:
    """All 128 bits of a product, by halves: no compiler needs a type for them."""
    cdef uint64_t a1 = a >> 32, a0 = a & <uint64_t>0xFFFFFFFF
    cdef uint64_t b1 = b >> 32, b0 = b & <uint64_t>0xFFFFFFFF
    cdef uint64_t low = a0 * b0
    cdef uint64_t middle = a1 * b0 + (low >> 32)
    cdef uint64_t other = a0 * b1 + (middle & <uint64_t>0xFFFFFFFF)
    cdef Wide product
    product.high = a1 * b1 + (middle >> 32) + (other >> 32)
    product.low = (other << 32) | (low & <uint64_t>0xFFFFFFFF)
    return product


cdef inline int leading_zeros(uint64_t x) noexcept nogil:
    """Of x > 0."""
    cdef int n = 0
    if x >> 32 == 0:
        n += 32
        x <<= 32
    if x >> 48 == 0:
        n += 16
        x <<= 16
    if x >> 56 == 0:
        n += 8
        x <<= 8
    if x >> 60 == 0:
        n += 4
        x <<= 4
    if x >> 62 == 0:
        n += 2
        x <<= 2
    return n + (x >> 63 == 0)


cdef inline int64_t binary_exponent(int64_t q) noexcept nogil:
    """floor(log2 10^q) for |q| <= 342: 217706 / 2^16 is close enough to log2 10."""
    return (217706 * q) >> 16


cdef inline double from_bits(uint64_t bits) noexcept nogil:
    cdef double x
    memcpy(&x, &bits, 8)
    return x


cdef inline uint64_t to_bits(double x) noexcept nogil:
    cdef uint64_t bits
    memcpy(&bits, &x, 8)
    return bits


cdef inline double nearest_double(
    uint64_t w, int64_t q,      # IN   the decimal w * 10^q
    bint* sure,                 # OUT  whether the result is the nearest double, and normal or 0
) noexcept nogil:
    cdef Wide product, rest
    cdef uint64_t mantissa
    cdef int64_t exponent
    cdef int upper, shift
    sure[0] = True
    if w <= <uint64_t>1 << 53 and -EXACT_POWER <= q <= EXACT_POWER:
        # Both are exact, so the one operation rounds once.
        return <double>w / POWERS.ten[-q] if q < 0 else <double>w * POWERS.ten[q]
    if w == 0:
        return 0.0
    if not -LARGEST_POWER <= q <= LARGEST_POWER:
        sure[0] = False
        return 0.0
    shift = leading_zeros(w)
    w <<= shift
    product = multiply(w, POWERS.high[q + LARGEST_POWER])
    if product.high & 0x1FF == 0x1FF:
        # A carry from the other half of the power could reach the bits that are kept.
        rest = multiply(w, POWERS.low[q + LARGEST_POWER])
        product.low += rest.high
        product.high += product.low < rest.high
        if product.low == <uint64_t>0xFFFFFFFFFFFFFFFF and not -27 <= q <= 55:
            sure[0] = False
            return 0.0
    upper = product.high >> 63
    mantissa = product.high >> (upper + 9)      # 53 bits and one to round by
    exponent = binary_exponent(q) + 63 + upper - shift + 1023
    if exponent <= 0:
        sure[0] = False
        return 0.0
    if product.low <= 1 and -4 <= q <= 23 and mantissa & 3 == 1 and mantissa << (upper + 9) == product.high:
        mantissa -= 1                           # exactly between two doubles: to the even one
    mantissa = (mantissa + (mantissa & 1)) >> 1
    if mantissa >> 53:
        mantissa >>= 1
        exponent += 1
    if exponent >= 2047:
        sure[0] = False
        return 0.0
    return from_bits((<uint64_t>exponent << 52) | (mantissa & ((<uint64_t>1 << 52) - 1)))


cdef inline bint is_float_tie(double x) noexcept nogil:
    """Whether a double, rounded from something, might lie between two floats only by that rounding.

    Elsewhere, rounding a decimal to double and then to float gives the float nearest to the decimal.
    """
    cdef uint64_t bits = to_bits(x) & ~(<uint64_t>1 << 63)
    cdef double steps
    if bits < <uint64_t>(1023 - 126) << 52:     # floats below the normal ones lie 2^-149 apart
        steps = from_bits(bits) * from_bits(<uint64_t>(1023 + 149) << 52)
        return steps - <double><int64_t>steps == 0.5
    return bits & 0x1FFFFFFF == 0x10000000


cdef inline uint64_t rounded_digits(
    double x, int n_digits,     # IN   x > 0 and normal; at most 17
    int64_t* q,                 # OUT
) noexcept nogil:
    """A w of n_digits digits with w * 10^q close to x, mostly the closest one: to be checked by reading it."""
    cdef uint64_t bits = to_bits(x), w, limit = 1
    cdef uint64_t m = ((bits & ((<uint64_t>1 << 52) - 1)) | (<uint64_t>1 << 52)) << 11
    cdef int64_t e = <int64_t>(bits >> 52) - 1023 - 63      # x = m * 2^e
    cdef int64_t k = n_digits - 1 - (((e + 63) * 78913) >> 18)
    cdef int64_t shift
    for _ in range(n_digits):
        limit *= 10
    while True:
        # x * 10^k = high half of the product / 2^shift
        shift = -(e + binary_exponent(k) + 1)
        w = (multiply(m, POWERS.high[k + LARGEST_POWER]).high + (<uint64_t>1 << (shift - 1))) >> shift
        if w < limit:
            q[0] = -k
            return w
        k -= 1                                  # the logarithm was estimated from below


# -- reading ------------------------------------------------------------------------------------

cdef object _exact(bytes number):
    """(w, q) with w * 10^q = number; digits beyond those that can matter are only "more"."""
    mantissa, _, exponent = number.lower().partition(b"e")
    whole, _, fraction = mantissa.lstrip(b"+-").partition(b".")
    digits = (whole + fraction).lstrip(b"0")
    q = int(exponent.lstrip(b"+-0") or b"0") * (-1 if exponent.startswith(b"-") else 1) - len(fraction)
    if len(digits) > 130:                       # 113 digits hold any number half-way between two floats
        q += len(digits) - 130
        digits = digits[:129] + (b"1" if digits[129:].strip(b"0") else b"0")
    return int(digits or b"0"), q


cdef double slow_number(const unsigned char* start, Py_ssize_t length, bint single) except? -1.0 with gil:
    """The double, or float, nearest to the magnitude of a decimal number of any length."""
    cdef bytes number = start[:length]
    cdef double x = fabs(float(number)), below, above
    if not single:
        return x
    below = above = <float>x
    if isinf(above):
        below, above = FLT_MAX, 2.0 ** 128      # what is closer to FLT_MAX than to that is finite
    elif below > x:
        below = nextafterf(<float>below, 0)
    else:
        above = nextafterf(<float>above, <float>(2 * x + 1))
    if x - below != above - x:
        return <float>x
    # Half-way, perhaps only because it was rounded: the decimal itself decides.
    w, q = _exact(number)
    top, bottom = x.as_integer_ratio()
    excess = w * 10 ** max(q, 0) * bottom - top * 10 ** max(-q, 0)
    return <float>(above if excess > 0 else below if excess < 0 else x)


cdef Reading read_number(const unsigned char** cursor, bint single, double* x) except FAILED nogil:
    """A finite decimal at the cursor, which moves behind it: [+-]digits[.digits][e[+-]digits], no other spelling."""
    cdef const unsigned char* start = cursor[0]
    cdef const unsigned char* p = start
    cdef const unsigned char* first
    cdef const unsigned char* fraction
    cdef bint negative = p[0] == c'-', minus, sure
    cdef uint64_t w = 0
    cdef int64_t q = 0, e = 0, n_digits
    if negative or p[0] == c'+':
        p += 1
    first = p
    while is_digit(p[0]):
        w = 10 * w + (p[0] - c'0')
        p += 1
    n_digits = p - first
    if p[0] == c'.':
        p += 1
        fraction = p
        while is_digit(p[0]):
            w = 10 * w + (p[0] - c'0')
            p += 1
        q = fraction - p
        n_digits -= q
    if n_digits == 0:
        return NO_NUMBER
    if p[0] | 32 == c'e':
        p += 1
        minus = p[0] == c'-'
        if minus or p[0] == c'+':
            p += 1
        if not is_digit(p[0]):
            return NO_NUMBER
        while is_digit(p[0]):
            if e < <int64_t>1000000000000000:            # more digits than any text has
                e = 10 * e + (p[0] - c'0')
            p += 1
        q += -e if minus else e
    cursor[0] = p
    if n_digits <= 19:
        x[0] = nearest_double(w, q, &sure)
    else:
        x[0] = long_number(first, q, n_digits, &sure)
    if single:
        # A whole number of 53 bits is exact: if it is a tie, then a true one.
        if not sure or (is_float_tie(x[0]) and not (q == 0 and w <= <uint64_t>1 << 53 and n_digits <= 19)):
            x[0] = slow_number(start, p - start, True)
        x[0] = <float>x[0]
    elif not sure:
        x[0] = slow_number(start, p - start, False)
    if negative:
        x[0] = -x[0]
    return INFINITE if isinf(x[0]) else READ


cdef double long_number(const unsigned char* p, int64_t q, int64_t n_digits, bint* sure) noexcept nogil:
    """From its first 19 digits, if those decide; q is the exponent of the last digit."""
    cdef uint64_t w = 0
    cdef int taken = 0
    cdef double x
    while taken < 19 and n_digits > 0:
        if p[0] != c'.':
            n_digits -= 1
            if w > 0 or p[0] != c'0':
                w = 10 * w + (p[0] - c'0')
                taken += 1
        p += 1
    x = nearest_double(w, q + n_digits, sure)
    if sure[0] and n_digits > 0 and nearest_double(w + 1, q + n_digits, sure) != x:
        sure[0] = False
    return x


# -- writing ------------------------------------------------------------------------------------

cdef unsigned char* write_decimal(unsigned char* p, uint64_t w, int64_t q) noexcept nogil:
    """w * 10^q for w > 0: written out if it is of moderate size, else with an exponent."""
    cdef unsigned char digits[20]
    cdef int64_t n_digits, point, i, exponent = 0
    while w % 10 == 0:
        w //= 10
        q += 1
    n_digits = write_integer(digits, w) - digits
    point = n_digits + q                        # the number is 0.digits * 10^point
    if not -4 <= point <= 17:
        exponent = point - 1
        point = 1
    if point <= 0:
        p[0], p[1] = c'0', c'.'
        p += 2
        for i in range(point, n_digits):
            p[0] = digits[i] if i >= 0 else c'0'
            p += 1
    else:
        for i in range(max(point, n_digits)):
            if i == point:
                p[0] = c'.'
                p += 1
            p[0] = digits[i] if i < n_digits else c'0'
            p += 1
    if exponent != 0:
        p[0] = c'e'
        p += 1
        if exponent < 0:
            p[0] = c'-'
            p += 1
        p = write_integer(p, exponent if exponent > 0 else -exponent)
    return p


cdef unsigned char* write_repr(unsigned char* p, double x) except NULL with gil:
    cdef bytes text = repr(x).encode()
    memcpy(p, <const unsigned char*>text, len(text))
    return p + len(text)


cdef unsigned char* write_number(unsigned char* p, double x, bint single) except NULL nogil:
    """The fewest digits that are read as the same double, or float.

    All numbers of 6 digits are different floats, and all of 15 different doubles, so there the search starts;
    below the normal numbers there is no such minimum. No decimal half-way between two floats is taken: not
    every reader goes to the even one.
    """
    cdef int n, step, fewest = 6 if single else 15, most = 9 if single else 17
    cdef uint64_t w
    cdef int64_t q
    cdef double y
    cdef bint sure, is_power_of_two
    if to_bits(x) >> 63:
        p[0] = c'-'
        p += 1
        x = fabs(x)
    if x < (16777216.0 if single else 9007199254740992.0) and x == <double><int64_t>x:
        return write_integer(p, <uint64_t>x)
    if single and x < 1.1754943508222875e-38:
        fewest = 1
    if x >= 2.2250738585072014e-308:
        is_power_of_two = to_bits(x) << 12 == 0
        for n in range(fewest, most + 1):
            w = rounded_digits(x, n, &q)
            # Numbers below a power of two lie closer: the decimal above it may do where the closest does not.
            for step in range(1 + is_power_of_two):
                y = nearest_double(w + step, q, &sure)
                if sure and (<float>y == <float>x and not is_float_tie(y) if single else y == x):
                    return write_decimal(p, w + step, q)
    return write_repr(p, x)


# -- for tests ----------------------------------------------------------------------------------

def read(bytes text, bint single):
    """The number that is all of the text, None if it is none, or infinity."""
    cdef bytes line = text + b"\n"
    cdef const unsigned char* start = line
    cdef const unsigned char* p = start
    cdef double x = 0
    cdef Reading reading
    with nogil:
        reading = read_number(&p, single, &x)
    return x if reading != NO_NUMBER and p - start == len(text) else None


def written(double x, bint single):
    cdef unsigned char text[32]
    cdef unsigned char* end
    with nogil:
        end = write_number(text, x, single)
    return text[: end - text]
