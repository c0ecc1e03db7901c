# cython: language_level=3, cdivision=True
"""Chunks: the rows to visit next, in order, with every address and dtype resolved.

A *chunk* is a few thousand nonzeros that fit the second-level cache. `gather_row` copies rows into
it in the order in which they are to be visited, and turns every column index into the address of its
row in the parameter table. Thus the loops that compute see contiguous values and addresses, whatever
the order of the samples, the dtype of X, or the width of its indices; and the addresses of coming
samples are known long before they are needed, so their cache misses are started early (`prefetch`)
and overlap the arithmetic.
"""
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc

cdef extern from *:
    """
    /* Start loading a cache line that will be written, or only read, soon; a hint, never a fault. */
    #if defined(__GNUC__) || defined(__clang__)
    #define fmfast_prefetch_write(address) __builtin_prefetch((const void*)(address), 1, 3)
    #define fmfast_prefetch(address) __builtin_prefetch((const void*)(address), 0, 3)
    #elif defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
    #include <xmmintrin.h>
    #define fmfast_prefetch(address) _mm_prefetch((const char*)(address), _MM_HINT_T0)
    #define fmfast_prefetch_write(address) fmfast_prefetch(address)
    #else
    #define fmfast_prefetch_write(address) ((void)(address))
    #define fmfast_prefetch(address) ((void)(address))
    #endif
    """
    void prefetch "fmfast_prefetch"(const void* address) noexcept nogil
    void prefetch_write "fmfast_prefetch_write"(const void* address) noexcept nogil

cdef enum:
    CACHE_LINE = 64
    # Nonzeros gathered at a time: addresses and values take 12 bytes each, 96 kB in all, which
    # leaves most of a second-level cache of 256 kB or more to the rows of the table.
    CHUNK_NNZ = 8192
    CHUNK_ROWS = 4096
    # Least number of nonzeros between the prefetch of a table row and its use; see `prefetch_distance`.
    PREFETCH_NNZ = 40
    # What scoring loads ahead: half of a first-level cache, see `scoring_distance`.
    PREFETCH_BYTES = 24576

ctypedef fused value_t:  # values of X
    float
    double

ctypedef fused floating:  # parameters
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t


cdef struct Chunk:
    Py_ssize_t n_rows
    Py_ssize_t nnz
    Py_ssize_t max_rows         # rows that fit
    Py_ssize_t capacity         # nonzeros that fit
    Py_ssize_t* start           # (n_rows + 1,) where each row begins
    Py_ssize_t* address         # (nnz,) element offset of the parameter row of each nonzero
    void* x                     # (nnz,) values, of the dtype of the table
    double* y                   # (n_rows,) targets
    double* weight              # (n_rows,) sample weights
    void* s                     # (2 * n_factors,) sums, where they do not fit registers


cdef struct Order:
    # A visit of all rows: `runs` are taken n_lanes at a time, and their rows interleaved.
    const int64_t* runs         # (n_runs,) first row of each run
    Py_ssize_t n_runs
    Py_ssize_t run_length
    Py_ssize_t n_lanes
    Py_ssize_t n_samples
    # Where the visit stands: next is row r of run first + lane.
    Py_ssize_t first
    Py_ssize_t r
    Py_ssize_t lane


cdef inline void prefetch_line(const void* address, bint for_update) noexcept nogil:
    if for_update:
        prefetch_write(address)
    else:
        prefetch(address)


cdef inline void prefetch_row(const floating* row, Py_ssize_t n_used, bint for_update) noexcept nogil:
    """Every cache line of the first n_used elements of a table row.

    A line that will be written is fetched for this core alone, which saves asking again; lines that
    are only read stay shared, so that several threads can score with the same hot rows.
    """
    cdef const char* address = <const char*>row
    cdef Py_ssize_t offset = 0
    cdef Py_ssize_t last = n_used * <Py_ssize_t>sizeof(floating) - 1
    # Rows start at multiples of 16 bytes, so that what is nearer to the last byte shares its line.
    while offset + 16 <= last:
        prefetch_line(address + offset, for_update)
        offset += CACHE_LINE
    prefetch_line(address + last, for_update)


cdef inline int allocate_chunk(
    Chunk* chunk, Py_ssize_t capacity, Py_ssize_t n_factors, Py_ssize_t itemsize
) noexcept nogil:
    """Buffers of a chunk; -1 if memory is short. `free_chunk` in either case."""
    capacity = max(capacity, <Py_ssize_t>1)
    chunk.capacity = capacity
    chunk.max_rows = CHUNK_ROWS
    chunk.n_rows = 0
    chunk.nnz = 0
    chunk.start = <Py_ssize_t*>malloc((CHUNK_ROWS + 1) * sizeof(Py_ssize_t))
    chunk.address = <Py_ssize_t*>malloc(capacity * sizeof(Py_ssize_t))
    chunk.x = malloc(capacity * itemsize)
    chunk.y = <double*>malloc(CHUNK_ROWS * sizeof(double))
    chunk.weight = <double*>malloc(CHUNK_ROWS * sizeof(double))
    chunk.s = malloc((2 * n_factors + 1) * itemsize)
    if not (chunk.start and chunk.address and chunk.x and chunk.y and chunk.weight and chunk.s):
        return -1
    chunk.start[0] = 0
    return 0


cdef inline void free_chunk(Chunk* chunk) noexcept nogil:
    free(chunk.start)
    free(chunk.address)
    free(chunk.x)
    free(chunk.y)
    free(chunk.weight)
    free(chunk.s)


cdef inline bint is_full(const Chunk* chunk, Py_ssize_t nnz) noexcept nogil:
    """Whether a row of nnz nonzeros does not fit any more."""
    return chunk.n_rows == chunk.max_rows or chunk.nnz + nnz > chunk.capacity


cdef inline void empty_chunk(Chunk* chunk) noexcept nogil:
    chunk.n_rows = 0
    chunk.nnz = 0


cdef inline Py_ssize_t prefetch_distance(const Chunk* chunk) noexcept nogil:
    """Nonzeros between the prefetch of a table row and its use, for the rows of a chunk.

    At least one sample ahead: the rows of one sample are needed all at once, so that a prefetch within
    the sample comes too late (bench/README.md has the figures).
    """
    return max(<Py_ssize_t>PREFETCH_NNZ, chunk.nnz // max(chunk.n_rows, <Py_ssize_t>1) + 1)


cdef inline Py_ssize_t scoring_distance(const Chunk* chunk, Py_ssize_t row_bytes) noexcept nogil:
    """The same for scoring, where a row of the table costs a third of the time, so that more must be under way.

    No row is written here, and none is taken away by other threads: all that counts is that rows are still
    in the cache when they are used.
    """
    return max(prefetch_distance(chunk), <Py_ssize_t>PREFETCH_BYTES // (row_bytes + CACHE_LINE))


cdef inline void gather_row(
    const value_t* data,        # IN     (nnz,), NULL: all values are 1 and chunk.x is filled with 1
    const index_t* indices,     # IN     (nnz,)
    Py_ssize_t nnz,
    Py_ssize_t stride,
    const floating* table,
    Chunk* chunk,               # INOUT
) noexcept nogil:
    """Append one CSR row to a chunk in which it fits."""
    cdef Py_ssize_t p
    cdef Py_ssize_t* address = chunk.address + chunk.nnz
    cdef floating* x = <floating*>chunk.x + chunk.nnz
    for p in range(nnz):
        # Widened before it is multiplied: n_features * stride exceeds 2^31 in large models.
        address[p] = <Py_ssize_t>indices[p] * stride
    if data != NULL:
        for p in range(nnz):
            x[p] = <floating>data[p]
    if chunk.nnz < PREFETCH_NNZ:
        # The first rows of a chunk have nothing before them that could prefetch them.
        for p in range(min(nnz, PREFETCH_NNZ - chunk.nnz)):
            prefetch_row(table + address[p], stride, False)
    chunk.nnz += nnz
    chunk.n_rows += 1
    chunk.start[chunk.n_rows] = chunk.nnz


cdef inline void prefetch_csr_row(
    const value_t* data, const index_t* indices, const int64_t* indptr, Py_ssize_t i
) noexcept nogil:
    """A row that will be gathered soon, from a place that no hardware prefetcher can guess."""
    cdef Py_ssize_t start = indptr[i]
    cdef Py_ssize_t nnz = indptr[i + 1] - start
    cdef Py_ssize_t p = 0
    while p < nnz:
        prefetch(indices + start + p)
        if data != NULL:
            prefetch(data + start + p)
        p += CACHE_LINE // <Py_ssize_t>sizeof(index_t)


cdef inline void begin_visit(
    Order* order,               # OUT
    const int64_t* runs,        # IN     (n_runs,) kept as a pointer
    Py_ssize_t n_runs,
    Py_ssize_t run_length,
    Py_ssize_t n_lanes,
    Py_ssize_t n_samples,
) noexcept nogil:
    order.runs = runs
    order.n_runs = n_runs
    order.run_length = run_length
    order.n_lanes = n_lanes
    order.n_samples = n_samples
    order.first = order.r = order.lane = 0


cdef inline void advance(Order* order) noexcept nogil:
    """On to the next lane, the next row of all lanes, the next runs."""
    order.lane += 1
    if order.lane == order.n_lanes or order.first + order.lane == order.n_runs:
        order.lane = 0
        order.r += 1
        if order.r == order.run_length:
            order.r = 0
            order.first += order.n_lanes


cdef inline bint fill_chunk(
    const value_t* data,        # IN     (nnz,), or NULL: all values are 1
    const index_t* indices,     # IN     (nnz,)
    const int64_t* indptr,      # IN     (n_samples + 1,)
    const double* y,            # IN     (n_samples,)
    const double* sample_weight,  # IN   (n_samples,), or NULL: all weights are 1
    Order* order,               # INOUT
    const floating* table,
    Py_ssize_t stride,
    Chunk* chunk,               # OUT
) noexcept nogil:
    """Gather the next rows of the order; false if there are none left."""
    cdef Py_ssize_t run, i, nnz, following
    empty_chunk(chunk)
    while order.first < order.n_runs:
        run = order.first + order.lane
        i = order.runs[run] + order.r
        if i < order.n_samples:  # the last rows of X may make a shorter run
            nnz = indptr[i + 1] - indptr[i]
            if is_full(chunk, nnz):
                return True
            chunk.y[chunk.n_rows] = y[i]
            chunk.weight[chunk.n_rows] = sample_weight[i] if sample_weight != NULL else 1.0
            gather_row(
                data + indptr[i] if data != NULL else NULL, indices + indptr[i], nnz, stride, table, chunk
            )
            # What this lane visits next.
            following = i + 1
            if order.r + 1 == order.run_length and run + order.n_lanes < order.n_runs:
                following = order.runs[run + order.n_lanes]
                if run + 2 * order.n_lanes < order.n_runs:
                    prefetch(indptr + order.runs[run + 2 * order.n_lanes])
            if following < order.n_samples:
                prefetch_csr_row(data, indices, indptr, following)
                prefetch(y + following)
                if sample_weight != NULL:
                    prefetch(sample_weight + following)
                # Needed one visit earlier than the rest, to know what to prefetch then.
                prefetch(indptr + following + 2)
        advance(order)
    return chunk.n_rows > 0


cdef inline Py_ssize_t longest_row(const int64_t* indptr, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Nonzeros of the longest of some rows: a chunk must have room for it."""
    cdef Py_ssize_t i, longest = 0
    for i in range(start, stop):
        longest = max(longest, indptr[i + 1] - indptr[i])
    return longest


cdef inline void fill_with_ones(floating* x, Py_ssize_t capacity) noexcept nogil:
    cdef Py_ssize_t p
    for p in range(capacity):
        x[p] = 1
