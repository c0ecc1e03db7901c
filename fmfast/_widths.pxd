# cython: language_level=3
"""Numbers of factors that kernels are compiled for.

`Width` is a tag type: `if Width is Width8` is decided by the compiler, which makes one specialised loop of
each, so that the sums over the factors live in registers.
"""

cdef enum:
    # Sums of up to so many factors stand on the stack, where the compiler sees that no row of the table
    # overlaps them; beyond, on the heap.
    MAX_LOCAL_FACTORS = 256

# Numbers of factors known to the compiler (`fmfast.table` pads with zeros to the next of them);
# WidthAny serves all others.
cdef struct Width0:
    char tag

cdef struct Width8:
    char tag

cdef struct Width16:
    char tag

cdef struct Width24:
    char tag

cdef struct Width32:
    char tag

cdef struct Width48:
    char tag

cdef struct Width64:
    char tag

cdef struct Width96:
    char tag

cdef struct Width128:
    char tag

cdef struct WidthAny:
    char tag

ctypedef fused Width:
    Width0
    Width8
    Width16
    Width24
    Width32
    Width48
    Width64
    Width96
    Width128
    WidthAny


cdef inline Py_ssize_t known_width(Width* width, Py_ssize_t n_factors) noexcept nogil:
    """n_factors as a constant where the specialisation knows it."""
    if Width is Width0:
        return 0
    elif Width is Width8:
        return 8
    elif Width is Width16:
        return 16
    elif Width is Width24:
        return 24
    elif Width is Width32:
        return 32
    elif Width is Width48:
        return 48
    elif Width is Width64:
        return 64
    elif Width is Width96:
        return 96
    elif Width is Width128:
        return 128
    return n_factors
