# cython: language_level=3, cdivision=True
# The same kernel, compiled for x86-64-v3 (AVX2, FMA).
include "_core.pyx"
