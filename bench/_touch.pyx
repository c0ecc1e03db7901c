# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The touch kernel: what an epoch costs in memory traffic alone.

The same rows in the same order, gathered into the same chunks, with the same prefetch as in
`fmfast/_core.pyx`; of each nonzero the row of the table is read and written back, without arithmetic.
No training can be faster, and how much slower one is tells how far its mathematics is from free.

"Written back" must not be optimised away: every word is combined with `zero`, which is 0 but which the
compiler does not know.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t

from fmfast._chunks cimport (
    CHUNK_NNZ, Chunk, Order, allocate_chunk, begin_visit, fill_chunk, fill_with_ones, free_chunk, longest_row,
    prefetch_distance, prefetch_row,
)


cdef inline void touch_chunk(
    float* table, const Chunk* chunk, Py_ssize_t n_words, uint32_t zero
) noexcept nogil:
    """Read and write back the first n_words words of every row of the table that the chunk names."""
    cdef Py_ssize_t i, p, f
    cdef Py_ssize_t distance = prefetch_distance(chunk)
    cdef uint32_t* row
    for i in range(chunk.n_rows):
        for p in range(chunk.start[i], chunk.start[i + 1]):
            if p + distance < chunk.nnz:
                prefetch_row(table + chunk.address[p + distance], n_words, True)
            row = <uint32_t*>(table + chunk.address[p])
            for f in range(n_words):
                row[f] ^= zero


cdef void touch_any_width(
    float* table, const Chunk* chunk, Py_ssize_t n_words, uint32_t zero
) noexcept nogil:
    """`touch_chunk` compiled for the row lengths of 8, 16, 32 and 64 factors, as the kernels are."""
    if n_words == 12:
        touch_chunk(table, chunk, 12, zero)
    elif n_words == 20:
        touch_chunk(table, chunk, 20, zero)
    elif n_words == 36:
        touch_chunk(table, chunk, 36, zero)
    elif n_words == 68:
        touch_chunk(table, chunk, 68, zero)
    else:
        touch_chunk(table, chunk, n_words, zero)


def touch_rows(
    const int32_t[::1] indices,         # IN     (nnz,); all values of X are 1
    const int64_t[::1] indptr,          # IN     (n_samples + 1,)
    const double[::1] y,                # IN     (n_samples,) read like the kernels do
    const int64_t[::1] runs,            # IN     as in train_rows
    Py_ssize_t run_length,
    Py_ssize_t n_lanes,
    float[:, ::1] table,                # INOUT  (n_features, stride), unchanged in the end
    uint32_t zero,
):
    """Visit every row of the given runs once."""
    cdef Order order
    cdef Chunk chunk
    cdef float* parameters = &table[0, 0]
    cdef Py_ssize_t capacity
    cdef int failed
    begin_visit(&order, &runs[0], runs.shape[0], run_length, n_lanes, indptr.shape[0] - 1)
    with nogil:
        capacity = max(<Py_ssize_t>CHUNK_NNZ, longest_row(&indptr[0], 0, order.n_samples))
        failed = allocate_chunk(&chunk, capacity, 0, sizeof(float))
        if not failed:
            fill_with_ones(<float*>chunk.x, capacity)
            while fill_chunk(
                <const float*>NULL, &indices[0], &indptr[0], &y[0], NULL, &order,
                <const float*>parameters, table.shape[1], &chunk,
            ):
                touch_any_width(parameters, &chunk, table.shape[1], zero)
        free_chunk(&chunk)
    if failed:
        raise MemoryError("no memory for the buffers of an epoch")
