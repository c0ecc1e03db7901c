# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""THE hot loop: score of CSR rows, and one pass of per-sample updates over them.

    score(x) = w0 + sum_j w_j x_j + sum_{j<l} <v_j, v_l> x_j x_l                       (Rendle 2010, eq. 1)
             = w0 + <w, x> + 1/2 sum_f (s_f^2 - sum_j V_jf^2 x_j^2)                     (Lemma 3.1)
    s_f      = sum_j V_jf x_j

    d score / d w0 = 1,   d score / d w_j = x_j,   d score / d V_jf = x_j (s_f - V_jf x_j)        (eq. 4)

The second form costs O(nnz * n_factors) where the first costs O(nnz^2 * n_factors). It holds only
if a row has no column twice; `validation` makes sure of it.

Symbols
    i sample (row of X)     p position in the chunk   j feature (column of X)   f factor
    s (n_factors,) the factor sums of the sample      q (n_factors,) sum_j V_jf^2 x_j^2
    score raw output        dloss d loss / d score

The way of the data
    CSR rows -> gather (order, dtype and addresses resolved) -> chunk -> train_chunk / score_chunk

A *chunk* is a few thousand nonzeros that fit the second-level cache. `gather_row` copies rows into
it in the order in which they are to be visited, and turns every column index into the address of its
row in the parameter table. Thus the loops that compute see contiguous values and addresses, whatever
the order of the samples, the dtype of X, or the width of its indices; and the addresses of coming
samples are known long before they are needed, so their cache misses are started early (`prefetch`)
and overlap the arithmetic.

A row of the table is   V_j (n_factors) | w_j | state of w_j | state of V_j | padding   (see
`fmfast.table`): one place in memory per feature, whatever the solver.

A solver is a tag type in `Solver` with its branch in `step_weight` and in `step_factors`; the
compiler makes one specialised loop of each. Likewise `Width` makes the common numbers of factors
constants of the compiled loop, so that `s` lives in registers.

Kernels receive arrays and return numbers. They import no Python module and allocate nothing inside
the loop.
"""
from libc.math cimport INFINITY, fabs, sqrt
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
cimport cython

from fmfast._losses cimport Loss, loss_derivative, loss_value

cdef extern from *:
    """
    /* Start loading a cache line that will be read and written soon; a hint, never a fault. */
    #if defined(__GNUC__) || defined(__clang__)
    #define fmfast_prefetch(address) __builtin_prefetch((const void*)(address), 1, 3)
    #elif defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
    #include <xmmintrin.h>
    #define fmfast_prefetch(address) _mm_prefetch((const char*)(address), _MM_HINT_T0)
    #else
    #define fmfast_prefetch(address) ((void)(address))
    #endif
    """
    void prefetch "fmfast_prefetch"(const void* address) noexcept nogil

cdef enum:
    CACHE_LINE = 64
    # Nonzeros gathered at a time: addresses and values take 12 bytes each, 96 kB in all, which
    # leaves most of a second-level cache of 256 kB or more to the rows of the table.
    CHUNK_NNZ = 8192
    CHUNK_ROWS = 4096
    # Nonzeros between the prefetch of a row and its use; bench/README.md says how it was chosen.
    PREFETCH_NNZ = 40
    MAX_LOCAL_FACTORS = 64

# |score| beyond which training has diverged: far above any meaningful score, far below overflow.
cdef double DIVERGED_SCORE = 1e18

ctypedef fused value_t:  # values of X
    float
    double

ctypedef fused floating:  # parameters
    float
    double

ctypedef fused scalar_t:  # w_j (as the table) or w0 (always double)
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t


# Solvers: tags without content; `if Solver is Sgd` is decided by the compiler.
cdef struct Sgd:
    char tag

cdef struct AdaGrad:
    char tag

ctypedef fused Solver:
    Sgd
    AdaGrad


# Numbers of factors known to the compiler; WidthAny serves all others.
cdef struct Width8:
    char tag

cdef struct Width16:
    char tag

cdef struct Width32:
    char tag

cdef struct Width64:
    char tag

cdef struct WidthAny:
    char tag

ctypedef fused Width:
    Width8
    Width16
    Width32
    Width64
    WidthAny


cdef struct Settings:
    Py_ssize_t n_factors
    Loss loss
    double learning_rate
    double reg_w
    double reg_V


cdef struct Chunk:
    Py_ssize_t n_rows
    Py_ssize_t nnz
    Py_ssize_t capacity         # nonzeros that fit
    Py_ssize_t* start           # (n_rows + 1,) where each row begins
    Py_ssize_t* address         # (nnz,) element offset of the parameter row of each nonzero
    void* x                     # (nnz,) values, of the dtype of the table
    double* y                   # (n_rows,) targets
    double* weight              # (n_rows,) sample weights
    void* s                     # (2 * n_factors,) sums, where they do not fit registers


ctypedef double (*train_chunk_f)(float*, double*, const Chunk*, const Settings*) noexcept nogil
ctypedef double (*train_chunk_d)(double*, double*, const Chunk*, const Settings*) noexcept nogil


# ---------------------------------------------------------------------------------------------
# Solvers: how one gradient moves the parameters
# ---------------------------------------------------------------------------------------------

cdef inline void step_weight(
    Solver* solver,
    scalar_t* w,                # INOUT  the weight; behind it, its state
    double gradient,            # IN     without regularisation
    double reg,
    const Settings* settings,
) noexcept nogil:
    """Move one weight (w_j, or w0 with reg = 0) against its gradient.

        sgd      w -= learning_rate * g
        adagrad  G += g^2;  w -= learning_rate / sqrt(G) * g      (Duchi, Hazan, Singer 2011)
    with g = gradient + reg * w.
    """
    cdef scalar_t g = <scalar_t>gradient + <scalar_t>reg * w[0]
    if Solver is Sgd:
        w[0] -= <scalar_t>settings.learning_rate * g
    elif Solver is AdaGrad:
        w[1] += g * g
        w[0] -= <scalar_t>settings.learning_rate / <scalar_t>sqrt(w[1]) * g


cdef inline void step_factors(
    Solver* solver,
    floating* v,                # INOUT  (n_factors,)
    floating* state,            # INOUT  state of v
    const floating* s,          # IN     (n_factors,) factor sums of the sample
    Py_ssize_t n_factors,
    floating dloss_x,           # IN     dloss * x_j
    floating decay,             # IN     reg_V - dloss * x_j^2
    const Settings* settings,
) noexcept nogil:
    """Move the factors of one feature against their gradient

        g_f = dloss x_j (s_f - v_f x_j) + reg_V v_f = dloss_x s_f + decay v_f

        sgd      v -= learning_rate * g
        adagrad  G += sum_f g_f^2;  v -= learning_rate / sqrt(G) * g
                 (one accumulator per row: half the memory traffic of one per element, and
                 the best learning rate does not depend on n_factors)
    """
    cdef Py_ssize_t f
    cdef floating g, rate
    cdef floating total = 0
    if Solver is Sgd:
        rate = <floating>settings.learning_rate
        for f in range(n_factors):
            v[f] -= rate * (dloss_x * s[f] + decay * v[f])
    elif Solver is AdaGrad:
        for f in range(n_factors):
            g = dloss_x * s[f] + decay * v[f]
            total += g * g
        if n_factors > 0:
            state[0] += total
            rate = <floating>settings.learning_rate / <floating>sqrt(state[0])
            for f in range(n_factors):
                v[f] -= rate * (dloss_x * s[f] + decay * v[f])


cdef inline Py_ssize_t weight_state_size(Solver* solver) noexcept nogil:
    if Solver is AdaGrad:
        return 1
    return 0


cdef inline Py_ssize_t factor_state_size(Solver* solver, Py_ssize_t n_factors) noexcept nogil:
    if Solver is AdaGrad:
        return 1
    return 0


# ---------------------------------------------------------------------------------------------
# Score of one row
# ---------------------------------------------------------------------------------------------

cdef inline Py_ssize_t known_width(Width* width, Py_ssize_t n_factors) noexcept nogil:
    """n_factors as a constant where the specialisation knows it."""
    if Width is Width8:
        return 8
    elif Width is Width16:
        return 16
    elif Width is Width32:
        return 32
    elif Width is Width64:
        return 64
    return n_factors


cdef inline void prefetch_row(const floating* row, Py_ssize_t n_used) noexcept nogil:
    """Every cache line of the first n_used elements of a table row."""
    cdef const char* address = <const char*>row
    cdef Py_ssize_t offset = 0
    cdef Py_ssize_t last = n_used * <Py_ssize_t>sizeof(floating) - 1
    while offset < last:
        prefetch(address + offset)
        offset += CACHE_LINE
    prefetch(address + last)


cdef inline double score_row(
    const floating* table,
    const Py_ssize_t* address,  # IN   (ahead,) the row's nonzeros, and those that follow it
    const floating* x,          # IN   (nnz,)
    Py_ssize_t nnz,
    Py_ssize_t ahead,           # IN   nonzeros from the row's first one to the end of the chunk
    double w0,
    Py_ssize_t n_factors,
    Py_ssize_t n_used,          # IN   elements of a table row to prefetch
    floating* s,                # OUT  (n_factors,)
    floating* q,                # OUT  (n_factors,)
) noexcept nogil:
    """Raw score of one row, O(nnz * n_factors) (Lemma 3.1); `s` is left filled for the gradient.

    s_f and q_f are summed element-wise over f and reduced once, at the end: no reduction inside
    the loop over the nonzeros.
    """
    cdef Py_ssize_t p, f
    cdef const floating* v
    cdef floating vx, x_p
    cdef floating pairs = 0
    cdef double linear = 0.0
    for f in range(n_factors):
        s[f] = 0
        q[f] = 0
    for p in range(nnz):
        if p + PREFETCH_NNZ < ahead:
            prefetch_row(table + address[p + PREFETCH_NNZ], n_used)
        v = table + address[p]
        x_p = x[p]
        linear += v[n_factors] * x_p
        for f in range(n_factors):
            vx = v[f] * x_p
            s[f] += vx
            q[f] += vx * vx
    for f in range(n_factors):
        pairs += s[f] * s[f] - q[f]
    return w0 + linear + 0.5 * pairs


# ---------------------------------------------------------------------------------------------
# Chunks
# ---------------------------------------------------------------------------------------------

cdef double train_chunk(
    Solver* solver,
    Width* width,
    floating* table,            # INOUT
    double* bias,               # INOUT  w0 and its state
    const Chunk* chunk,
    const Settings* settings,
) noexcept nogil:
    """Score and update the rows of a chunk one by one.

    Returns the sum of weight * loss, each loss taken before its sample's update; infinity as soon as
    a score shows divergence.
    """
    cdef Py_ssize_t n_factors = known_width(width, settings.n_factors)
    cdef Py_ssize_t w_state = weight_state_size(solver)
    cdef Py_ssize_t n_used = n_factors + 1 + w_state + factor_state_size(solver, n_factors)
    cdef floating local_sums[2 * MAX_LOCAL_FACTORS]
    cdef floating* s = local_sums
    cdef const floating* x
    cdef const Py_ssize_t* address
    cdef floating* row
    cdef Py_ssize_t i, p, nnz
    cdef double score, dloss, weight, loss_sum = 0.0
    cdef floating dloss_x, reg_V
    if Width is WidthAny:
        if n_factors > MAX_LOCAL_FACTORS:
            s = <floating*>chunk.s
    for i in range(chunk.n_rows):
        nnz = chunk.start[i + 1] - chunk.start[i]
        x = <const floating*>chunk.x + chunk.start[i]
        address = chunk.address + chunk.start[i]
        weight = chunk.weight[i]
        score = score_row(
            table, address, x, nnz, chunk.nnz - chunk.start[i], bias[0], n_factors, n_used, s, s + n_factors
        )
        if not fabs(score) < DIVERGED_SCORE:
            return INFINITY
        loss_sum += weight * loss_value(settings.loss, score, chunk.y[i])
        dloss = weight * loss_derivative(settings.loss, score, chunk.y[i])
        reg_V = <floating>(weight * settings.reg_V)
        step_weight(solver, bias, dloss, 0.0, settings)
        for p in range(nnz):
            row = table + address[p]
            dloss_x = <floating>dloss * x[p]
            step_weight(solver, row + n_factors, dloss_x, weight * settings.reg_w, settings)
            step_factors(
                solver, row, row + n_factors + 1 + w_state, s, n_factors,
                dloss_x, reg_V - dloss_x * x[p], settings,
            )
    return loss_sum


cdef double train_any_width(
    Solver* solver, floating* table, double* bias, const Chunk* chunk, const Settings* settings
) noexcept nogil:
    """`train_chunk` compiled for this number of factors."""
    if settings.n_factors == 8:
        return train_chunk(solver, <Width8*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 16:
        return train_chunk(solver, <Width16*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 32:
        return train_chunk(solver, <Width32*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 64:
        return train_chunk(solver, <Width64*>NULL, table, bias, chunk, settings)
    return train_chunk(solver, <WidthAny*>NULL, table, bias, chunk, settings)


cdef void score_chunk(
    Width* width,
    const floating* table,
    double w0,
    const Chunk* chunk,
    Py_ssize_t n_factors,
    double* out,                # OUT    (n_rows,)
) noexcept nogil:
    """Raw scores of the rows of a chunk."""
    cdef Py_ssize_t k = known_width(width, n_factors)
    cdef floating local_sums[2 * MAX_LOCAL_FACTORS]
    cdef floating* s = local_sums
    cdef Py_ssize_t i, start
    if Width is WidthAny:
        if k > MAX_LOCAL_FACTORS:
            s = <floating*>chunk.s
    for i in range(chunk.n_rows):
        start = chunk.start[i]
        out[i] = score_row(
            table, chunk.address + start, <const floating*>chunk.x + start, chunk.start[i + 1] - start,
            chunk.nnz - start, w0, k, k + 1, s, s + k,
        )


cdef void score_any_width(
    const floating* table, double w0, const Chunk* chunk, Py_ssize_t n_factors, double* out
) noexcept nogil:
    """`score_chunk` compiled for this number of factors."""
    if n_factors == 8:
        score_chunk(<Width8*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 16:
        score_chunk(<Width16*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 32:
        score_chunk(<Width32*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 64:
        score_chunk(<Width64*>NULL, table, w0, chunk, n_factors, out)
    else:
        score_chunk(<WidthAny*>NULL, table, w0, chunk, n_factors, out)


# ---------------------------------------------------------------------------------------------
# Gathering rows into a chunk
# ---------------------------------------------------------------------------------------------

cdef int allocate_chunk(Chunk* chunk, Py_ssize_t capacity, Py_ssize_t n_factors, Py_ssize_t itemsize) noexcept nogil:
    """Buffers of a chunk; -1 if memory is short. `free_chunk` in either case."""
    capacity = max(capacity, <Py_ssize_t>1)
    chunk.capacity = capacity
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


cdef void free_chunk(Chunk* chunk) noexcept nogil:
    free(chunk.start)
    free(chunk.address)
    free(chunk.x)
    free(chunk.y)
    free(chunk.weight)
    free(chunk.s)


cdef inline bint is_full(const Chunk* chunk, Py_ssize_t nnz) noexcept nogil:
    """Whether a row of nnz nonzeros does not fit any more."""
    return chunk.n_rows == CHUNK_ROWS or chunk.nnz + nnz > chunk.capacity


cdef inline void empty_chunk(Chunk* chunk) noexcept nogil:
    chunk.n_rows = 0
    chunk.nnz = 0


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
            prefetch_row(table + address[p], stride)
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


cdef Py_ssize_t longest_row(const int64_t[::1] indptr, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t i, longest = 0
    for i in range(start, stop):
        longest = max(longest, indptr[i + 1] - indptr[i])
    return longest


cdef void fill_with_ones(void* x, Py_ssize_t capacity, const floating* table) noexcept nogil:
    cdef Py_ssize_t p
    for p in range(capacity):
        (<floating*>x)[p] = 1


# ---------------------------------------------------------------------------------------------
# What Python calls
# ---------------------------------------------------------------------------------------------

LOSSES = {"squared": Loss.SQUARED, "logistic": Loss.LOGISTIC}
SOLVERS = {"sgd": 0, "adagrad": 1}


def train_rows(
    const value_t[::1] data,            # IN     (nnz,) or (0,): all values are 1
    const index_t[::1] indices,         # IN     (nnz,)
    const int64_t[::1] indptr,          # IN     (n_samples + 1,)
    const double[::1] y,                # IN     (n_samples,)
    const double[::1] sample_weight,    # IN     (n_samples,) or (0,): all weights are 1
    const int64_t[::1] runs,            # IN     first row of each run, in the order of the visit
    Py_ssize_t run_length,
    Py_ssize_t n_lanes,
    floating[:, ::1] table,             # INOUT  (n_features, stride)
    double[::1] bias,                   # INOUT  w0 and its state
    Py_ssize_t n_factors,
    int solver,
    int loss,
    double learning_rate,
    double reg_w,
    double reg_V,
):
    """Visit every row of the given runs once; returns the sum of weight * loss.

    A run is `run_length` consecutive rows (fewer at the end of X). The runs are taken `n_lanes` at
    a time and their rows interleaved: first rows of all, second rows of all, and so on. So
    neighbours in the visit come from places far apart, while memory is read in short sequences.
    Returns infinity if a score diverged; the parameters are then meaningless.
    """
    cdef Settings settings
    cdef Chunk chunk
    cdef const value_t* values = &data[0] if data.shape[0] else NULL
    cdef const index_t* columns = &indices[0] if indices.shape[0] else NULL
    cdef const int64_t* rows = &indptr[0]
    cdef floating* parameters = &table[0, 0]
    cdef Py_ssize_t stride = table.shape[1]
    cdef Py_ssize_t n_samples = indptr.shape[0] - 1
    cdef Py_ssize_t n_runs = runs.shape[0]
    cdef Py_ssize_t first, lane, r, i, nnz, ahead
    cdef double loss_sum = 0.0
    cdef bint weighted = sample_weight.shape[0] > 0
    settings.n_factors = n_factors
    settings.loss = <Loss>loss
    settings.learning_rate = learning_rate
    settings.reg_w = reg_w
    settings.reg_V = reg_V
    with nogil:
        nnz = max(<Py_ssize_t>CHUNK_NNZ, longest_row(indptr, 0, n_samples))
        if allocate_chunk(&chunk, nnz, n_factors, sizeof(floating)) == 0:
            if values == NULL:
                fill_with_ones(chunk.x, nnz, parameters)
            first = 0
            while first < n_runs:
                for r in range(run_length):
                    for lane in range(first, min(first + n_lanes, n_runs)):
                        i = runs[lane] + r
                        if i >= n_samples:
                            continue
                        nnz = rows[i + 1] - rows[i]
                        if is_full(&chunk, nnz):
                            loss_sum += train_any_solver(solver, parameters, &bias[0], &chunk, &settings)
                            empty_chunk(&chunk)
                        gather_row(values + rows[i] if values != NULL else NULL, columns + rows[i], nnz, stride, parameters, &chunk)
                        chunk.y[chunk.n_rows - 1] = y[i]
                        chunk.weight[chunk.n_rows - 1] = sample_weight[i] if weighted else 1.0
                        # What this lane visits next.
                        ahead = i + 1
                        if r + 1 == run_length and lane + n_lanes < n_runs:
                            ahead = runs[lane + n_lanes]
                        if ahead < n_samples:
                            prefetch_csr_row(values, columns, rows, ahead)
                first += n_lanes
            loss_sum += train_any_solver(solver, parameters, &bias[0], &chunk, &settings)
        else:
            loss_sum = -1.0
        free_chunk(&chunk)
    if loss_sum < 0.0:
        raise MemoryError("no memory for the buffers of an epoch")
    return loss_sum


cdef double train_any_solver(
    int solver, floating* table, double* bias, const Chunk* chunk, const Settings* settings
) noexcept nogil:
    if solver == 0:
        return train_any_width(<Sgd*>NULL, table, bias, chunk, settings)
    return train_any_width(<AdaGrad*>NULL, table, bias, chunk, settings)


def score_rows(
    const value_t[::1] data,            # IN     (nnz,) or (0,): all values are 1
    const index_t[::1] indices,         # IN     (nnz,)
    const int64_t[::1] indptr,          # IN     (n_samples + 1,)
    Py_ssize_t first,                   # IN     rows first .. stop - 1 are scored
    Py_ssize_t stop,
    const floating[:, ::1] table,       # IN     (n_features, stride)
    double w0,
    Py_ssize_t n_factors,
    double[::1] out,                    # OUT    (n_samples,)
):
    """Raw scores of consecutive rows."""
    cdef Chunk chunk
    cdef const value_t* values = &data[0] if data.shape[0] else NULL
    cdef const index_t* columns = &indices[0] if indices.shape[0] else NULL
    cdef const int64_t* rows = &indptr[0]
    cdef const floating* parameters = &table[0, 0]
    cdef Py_ssize_t stride = table.shape[1]
    cdef Py_ssize_t i, nnz
    cdef Py_ssize_t done = first            # rows that are scored already
    cdef int failed
    with nogil:
        nnz = min(<Py_ssize_t>CHUNK_NNZ, rows[stop] - rows[first])
        nnz = max(nnz, longest_row(indptr, first, stop))
        failed = allocate_chunk(&chunk, nnz, n_factors, sizeof(floating))
        if not failed:
            if values == NULL:
                fill_with_ones(chunk.x, nnz, parameters)
            for i in range(first, stop):
                nnz = rows[i + 1] - rows[i]
                if is_full(&chunk, nnz):
                    score_any_width(parameters, w0, &chunk, n_factors, &out[done])
                    done += chunk.n_rows
                    empty_chunk(&chunk)
                gather_row(
                    values + rows[i] if values != NULL else NULL, columns + rows[i], nnz, stride, parameters, &chunk
                )
            if done < stop:
                score_any_width(parameters, w0, &chunk, n_factors, &out[done])
        free_chunk(&chunk)
    if failed:
        raise MemoryError("no memory for the buffers of the scorer")
