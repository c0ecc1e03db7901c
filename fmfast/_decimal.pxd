# cython: language_level=3
"""Numbers in text, read and written: what `_decimal.pyx` offers to other kernels."""
from libc.stdint cimport uint64_t


cdef enum Reading:
    FAILED = -1             # an exception is set: out of memory
    READ = 0
    NO_NUMBER = 1
    INFINITE = 2            # beyond the range of the type


cdef inline bint is_digit(unsigned char c) noexcept nogil:
    return <unsigned char>(c - c'0') <= 9


cdef inline unsigned char* write_integer(unsigned char* p, uint64_t n) noexcept nogil:
    """At most 20 digits; returns their end."""
    cdef unsigned char reversed[20]
    cdef int size = 0
    while True:
        reversed[size] = c'0' + n % 10
        size += 1
        n //= 10
        if n == 0:
            break
    while size > 0:
        size -= 1
        p[0] = reversed[size]
        p += 1
    return p


# A finite decimal at the cursor, which moves behind it: [+-]digits[.digits][e[+-]digits], no other spelling.
# Correctly rounded to double, or to float if `single`, also where rounding to double first would be wrong.
cdef Reading read_number(const unsigned char** cursor, bint single, double* x) except FAILED nogil

# The fewest digits that are read as the same double, or float, 24 bytes at most; returns their end.
cdef unsigned char* write_number(unsigned char* p, double x, bint single) except NULL nogil
