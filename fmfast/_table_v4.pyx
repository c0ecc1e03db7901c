# cython: language_level=3, cdivision=True
# The same functions, compiled for x86-64-v4 (see `_dispatch.py`).
include "_table.pyx"
