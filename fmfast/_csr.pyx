# cython: language_level=3, cdivision=True
"""Inspection of CSR arrays, before any kernel may trust them.

Pure reading: nothing here changes its arguments. What a finding means to the user is told by
`validation`, the only caller.
"""
from libc.math cimport fabs
from libc.stdint cimport int32_t, int64_t, uint32_t

ctypedef fused value_t:
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t

cdef enum Finding:
    CANONICAL = 0
    NOT_CANONICAL = 1       # legal, but unsorted or with duplicates in some row
    NEGATIVE_COLUMN = 2
    COLUMN_TOO_LARGE = 3

FINDINGS = {
    "canonical": Finding.CANONICAL,
    "not canonical": Finding.NOT_CANONICAL,
    "negative column": Finding.NEGATIVE_COLUMN,
    "column too large": Finding.COLUMN_TOO_LARGE,
}


def first_decrease(const index_t[::1] indptr):
    """First i with indptr[i + 1] < indptr[i], or -1."""
    cdef Py_ssize_t i, found = -1
    with nogil:
        for i in range(indptr.shape[0] - 1):
            if indptr[i + 1] < indptr[i]:
                found = i
                break
    return found


def inspect_columns(const index_t[::1] indices, const int64_t[::1] indptr, int64_t n_features):
    """Check every column index of every row; `indptr` must be monotone and within `indices`.

    Returns (finding, position), the position being that of the offending element of `indices`. Columns
    that ascend strictly within each row are canonical.
    """
    cdef Py_ssize_t i, p, position = -1
    cdef int64_t column, previous
    cdef Finding finding = CANONICAL
    with nogil:
        for i in range(indptr.shape[0] - 1):
            previous = -1
            for p in range(indptr[i], indptr[i + 1]):
                column = indices[p]
                if column <= previous:
                    if column < 0:
                        finding = NEGATIVE_COLUMN
                        position = p
                        break
                    finding = NOT_CANONICAL
                if column >= n_features:
                    finding = COLUMN_TOO_LARGE
                    position = p
                    break
                previous = column
            if position >= 0:
                break
    return <int>finding, position


def inspect_values(const value_t[::1] data, double limit):
    """(position of the first value that is NaN or beyond +-limit, or -1; whether all values are 1)."""
    cdef Py_ssize_t start = 0, stop, p, position = -1
    cdef Py_ssize_t n = data.shape[0]
    cdef Py_ssize_t n_good, n_ones, ones = 0
    with nogil:
        while start < n:
            # Counted block by block without branches, so that the compiler can vectorise.
            stop = min(start + 4096, n)
            n_good = 0
            n_ones = 0
            for p in range(start, stop):
                n_good += fabs(data[p]) <= limit
                n_ones += data[p] == 1
            ones += n_ones
            if n_good < stop - start:
                for p in range(start, stop):
                    if not fabs(data[p]) <= limit:
                        position = p
                        break
                break
            start = stop
    return position, ones == n


def count_columns(
    const index_t[::1] indices,     # IN     (nnz,)
    const int64_t[::1] indptr,      # IN     (n_samples + 1,)
    const int64_t[::1] runs,        # IN     first row of each run
    Py_ssize_t run_length,
    uint32_t[::1] counts,           # INOUT  (n_features,)
    int64_t[::1] found,             # OUT    (n_found,) columns whose count was 0 before
):
    """Count the columns of the rows of some runs (fewer rows at the end of X); returns n_found."""
    cdef Py_ssize_t r, p, start, stop, n_found = 0, n_samples = indptr.shape[0] - 1
    cdef Py_ssize_t column
    with nogil:
        for r in range(runs.shape[0]):
            start = runs[r]
            stop = min(start + run_length, n_samples)
            for p in range(indptr[start], indptr[stop]):
                column = indices[p]
                if counts[column] == 0:
                    found[n_found] = column
                    n_found += 1
                counts[column] += 1
    return n_found
