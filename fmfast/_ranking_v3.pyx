# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# The same kernel, compiled for x86-64-v3 (AVX2, FMA).
include "_ranking.pyx"
