# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Filling and checking the parameter table, at the speed of memory.

Initial factors come from a counter-based generator: V_jf is a function of (seed, j, f) alone. So
any thread can fill any rows in any order, and a table that grows later has the same rows as one
that was made large from the start.
"""
from libc.math cimport sqrt
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fmfast._random cimport mix64

ctypedef fused floating:
    float
    double


cdef inline uint32_t mix32(uint32_t x) noexcept nogil:
    """An integer hash of 32 bits with low bias: multiplications and shifts that vectorise well."""
    x = (x ^ (x >> 16)) * <uint32_t>0x7FEB352D
    x = (x ^ (x >> 15)) * <uint32_t>0x846CA68B
    return x ^ (x >> 16)


def fill_rows(
    floating[:, ::1] rows,          # OUT    (n_rows, stride)
    int64_t first_feature,          # IN     the feature of rows[0]
    Py_ssize_t n_factors,
    double init_std,
    uint64_t seed,
    const double[::1] behind_V,     # IN     (stride - n_factors,) what follows V_j: zeros, w_j, state
):
    """V_j random with mean 0 and standard deviation init_std; behind it the same in every row.

    An element is the sum of four uniform numbers of 16 bits each: normal for all that matters here
    (kurtosis 2.7 instead of 3, nothing beyond 3.5 standard deviations), at a fraction of the cost.
    """
    cdef Py_ssize_t r, f, stride = rows.shape[1]
    cdef uint64_t key
    cdef uint32_t low, high, a, b
    cdef floating* row
    # The sum of four uniform numbers on 0 .. 65535 has variance 4 (65536^2 - 1) / 12.
    cdef floating scale = <floating>(init_std / sqrt((65536.0 * 65536.0 - 1.0) / 3.0))
    with nogil:
        for r in range(rows.shape[0]):
            row = &rows[r, 0]
            key = mix64(mix64(seed) + <uint64_t>(first_feature + r))
            low = <uint32_t>key
            high = <uint32_t>(key >> 32)
            for f in range(n_factors):
                a = mix32(low + <uint32_t>f * <uint32_t>0x9E3779B9)
                b = mix32(high + <uint32_t>f * <uint32_t>0x85EBCA6B)
                row[f] = scale * <floating>(
                    <int>((a & 0xFFFF) + (a >> 16) + (b & 0xFFFF) + (b >> 16)) - 2 * 65535
                )
            for f in range(n_factors, stride):
                row[f] = <floating>behind_V[f - n_factors]


def all_finite(const floating[:, ::1] rows):
    """Whether no element is NaN or infinite."""
    cdef Py_ssize_t r, f, n_finite
    cdef bint finite = True
    with nogil:
        for r in range(rows.shape[0]):
            n_finite = 0
            for f in range(rows.shape[1]):
                n_finite += rows[r, f] - rows[r, f] == 0
            if n_finite < rows.shape[1]:
                finite = False
                break
    return finite
