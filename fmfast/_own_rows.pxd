# cython: language_level=3, cdivision=True
"""A thread's own copies of the table rows of frequent features; why, says `fmfast.solvers.threads`.

A copy stands in one of a few hundred *slots*, and a row of the table can have its copy in one slot only, the
one that its address hashes to. So looking for a copy costs one comparison, whether there is one or not.
"""
cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t

cdef extern from *:
    """
    /* Take a lock if it is free, never wait; what was written under it is seen by who takes it next. */
    #if defined(__GNUC__) || defined(__clang__)
    #define fmfast_try_lock(lock) (!__atomic_exchange_n((lock), 1, __ATOMIC_ACQUIRE))
    #define fmfast_unlock(lock) __atomic_store_n((lock), 0, __ATOMIC_RELEASE)
    #else
    #include <intrin.h>
    #define fmfast_try_lock(lock) (!_InterlockedExchange((volatile long*)(lock), 1))
    #define fmfast_unlock(lock) ((void)_InterlockedExchange((volatile long*)(lock), 0))
    #endif
    """
    # Not changed through any other pointer, without which the search for copies would not be vectorised.
    ctypedef const int64_t* owners "const int64_t* __restrict"
    bint try_lock "fmfast_try_lock"(int32_t* lock) noexcept nogil
    void unlock "fmfast_unlock"(int32_t* lock) noexcept nogil

ctypedef fused floating:  # parameters
    float
    double


cdef inline int log2_of(Py_ssize_t n_slots) noexcept nogil:
    """Of a power of two."""
    cdef int log2 = 0
    while (<Py_ssize_t>1 << log2) < n_slots:
        log2 += 1
    return log2


@cython.overflowcheck(False)  # of the product, the low 32 bits are what is wanted
cdef inline Py_ssize_t own_slot(Py_ssize_t address, int n_slots_log2) noexcept nogil:
    """The one slot in which a row can have its copy: multiplicative hashing (Knuth, TAOCP 6.4)."""
    return <Py_ssize_t>((<uint32_t>address * <uint32_t>0x9E3779B1) >> (32 - n_slots_log2))


cdef inline void merge_row(
    floating* row,                      # INOUT  of the table
    floating[:, :, ::1] own_rows,       # INOUT  (2, n_slots, stride) the copies, and what was last taken
    Py_ssize_t slot,
    floating share,
) noexcept nogil:
    """Give the table `share` of what the thread has changed, and take what is there then.

        row += share * (own - taken);  own = taken = row
    """
    cdef Py_ssize_t f
    cdef floating* own = &own_rows[0, slot, 0]
    cdef floating* taken = &own_rows[1, slot, 0]
    cdef floating merged
    for f in range(own_rows.shape[2]):
        merged = row[f] + share * (own[f] - taken[f])
        row[f] = merged
        own[f] = merged
        taken[f] = merged
