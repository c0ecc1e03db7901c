# cython: language_level=3
"""Random numbers from counters: the number is a function of its place, not of what was drawn before it."""
from libc.stdint cimport uint64_t


cdef inline uint64_t mix64(uint64_t x) noexcept nogil:
    """SplitMix64 (Steele, Lea, Flood 2014): the finalizer that makes a stream of a counter."""
    x += <uint64_t>0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)
