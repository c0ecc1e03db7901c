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
    CSR rows -> fill_chunk (order, dtype and addresses resolved) -> chunk -> train_chunk / score_chunk

A row of the table is   V_j (n_factors, zeros up to a known width) | w_j | state of w_j | state of V_j | padding   (see
`fmfast.table`): one place in memory per feature, whatever the solver.

A solver is a tag type with two small functions (`_steps.pxd`); the compiler makes one specialised
loop of each. Likewise `Width` makes the common numbers of factors constants of the compiled loop,
so that `s` lives in registers.

Kernels receive arrays and return numbers. They import no Python module and allocate nothing inside
the loop.
"""
from libc.math cimport INFINITY, fabs
from libc.stdint cimport int32_t, int64_t

from fmfast._chunks cimport (
    CHUNK_NNZ, Chunk, Order, allocate_chunk, begin_visit, empty_chunk, fill_chunk, fill_with_ones,
    floating, free_chunk, gather_row, index_t, is_full, longest_row, prefetch_distance, prefetch_row,
    scoring_distance, value_t,
)
from fmfast._losses cimport Loss, loss_derivative, loss_value
from fmfast._own_rows cimport log2_of, merge_row, own_slot, owners, try_lock, unlock
from fmfast._steps cimport (
    ADAGRAD, FTRL, SGD, AdaGrad, Ftrl, Settings, Sgd, Solver, SolverCode, factor_state_size, step_factors,
    step_weight, weight_state_size,
)
from fmfast._widths cimport (
    MAX_LOCAL_FACTORS, Width, Width0, Width8, Width16, Width24, Width32, Width48, Width64, Width96, Width128,
    WidthAny, known_width,
)

# |score| beyond which training has diverged: far above any meaningful score, far below overflow.
cdef double DIVERGED_SCORE = 1e18


# ---------------------------------------------------------------------------------------------
# Score of one row
# ---------------------------------------------------------------------------------------------

cdef inline double score_row(
    const floating* table,
    const Py_ssize_t* address,  # IN   (ahead,) the row's nonzeros, and those that follow it
    const floating* x,          # IN   (nnz,)
    Py_ssize_t nnz,
    Py_ssize_t ahead,           # IN   nonzeros from the row's first one to the end of the chunk
    double w0,
    Py_ssize_t n_factors,
    Py_ssize_t n_used,          # IN   elements of a table row to prefetch
    Py_ssize_t prefetch_nnz,
    bint for_update,            # IN   whether the rows will be written (known to the compiler)
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
        if p + prefetch_nnz < ahead:
            prefetch_row(table + address[p + prefetch_nnz], n_used, for_update)
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
    cdef Py_ssize_t prefetch_nnz = settings.prefetch_nnz if settings.prefetch_nnz > 0 else prefetch_distance(chunk)
    cdef Py_ssize_t i, p, nnz
    cdef double score, dloss, weight, loss_sum = 0.0
    cdef floating dloss_x
    if Width is WidthAny:
        if n_factors > MAX_LOCAL_FACTORS:
            s = <floating*>chunk.s
    for i in range(chunk.n_rows):
        nnz = chunk.start[i + 1] - chunk.start[i]
        x = <const floating*>chunk.x + chunk.start[i]
        address = chunk.address + chunk.start[i]
        weight = chunk.weight[i]
        score = score_row(
            table, address, x, nnz, chunk.nnz - chunk.start[i], bias[0], n_factors, n_used,
            prefetch_nnz, True, s, s + n_factors,
        )
        if not fabs(score) < DIVERGED_SCORE:
            return INFINITY
        loss_sum += weight * loss_value(settings.loss, score, chunk.y[i])
        dloss = weight * loss_derivative(settings.loss, score, chunk.y[i])
        step_weight(solver, bias, dloss, weight, 0.0, 0.0, settings)
        for p in range(nnz):
            row = table + address[p]
            dloss_x = <floating>dloss * x[p]
            step_weight(solver, row + n_factors, dloss_x, weight, settings.l1_w, settings.reg_w, settings)
            step_factors(
                solver, row, row + n_factors + 1 + w_state, s, n_factors,
                x[p], dloss_x, <floating>weight, settings,
            )
    return loss_sum


cdef double train_any_width(
    Solver* solver, floating* table, double* bias, const Chunk* chunk, const Settings* settings
) noexcept nogil:
    """`train_chunk` compiled for this number of factors."""
    if settings.n_factors == 0:
        return train_chunk(solver, <Width0*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 8:
        return train_chunk(solver, <Width8*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 16:
        return train_chunk(solver, <Width16*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 24:
        return train_chunk(solver, <Width24*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 32:
        return train_chunk(solver, <Width32*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 48:
        return train_chunk(solver, <Width48*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 64:
        return train_chunk(solver, <Width64*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 96:
        return train_chunk(solver, <Width96*>NULL, table, bias, chunk, settings)
    if settings.n_factors == 128:
        return train_chunk(solver, <Width128*>NULL, table, bias, chunk, settings)
    return train_chunk(solver, <WidthAny*>NULL, table, bias, chunk, settings)


cdef double train_any_solver(
    SolverCode solver, floating* table, double* bias, const Chunk* chunk, const Settings* settings
) noexcept nogil:
    """`train_chunk` of this solver."""
    if solver == SGD:
        return train_any_width(<Sgd*>NULL, table, bias, chunk, settings)
    if solver == ADAGRAD:
        return train_any_width(<AdaGrad*>NULL, table, bias, chunk, settings)
    return train_any_width(<Ftrl*>NULL, table, bias, chunk, settings)


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
    cdef Py_ssize_t distance = scoring_distance(chunk, (k + 1) * <Py_ssize_t>sizeof(floating))
    if Width is WidthAny:
        if k > MAX_LOCAL_FACTORS:
            s = <floating*>chunk.s
    for i in range(chunk.n_rows):
        start = chunk.start[i]
        out[i] = score_row(
            table, chunk.address + start, <const floating*>chunk.x + start, chunk.start[i + 1] - start,
            chunk.nnz - start, w0, k, k + 1, distance, False, s, s + k,
        )


cdef void score_any_width(
    const floating* table, double w0, const Chunk* chunk, Py_ssize_t n_factors, double* out
) noexcept nogil:
    """`score_chunk` compiled for this number of factors."""
    if n_factors == 0:
        score_chunk(<Width0*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 8:
        score_chunk(<Width8*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 16:
        score_chunk(<Width16*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 24:
        score_chunk(<Width24*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 32:
        score_chunk(<Width32*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 48:
        score_chunk(<Width48*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 64:
        score_chunk(<Width64*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 96:
        score_chunk(<Width96*>NULL, table, w0, chunk, n_factors, out)
    elif n_factors == 128:
        score_chunk(<Width128*>NULL, table, w0, chunk, n_factors, out)
    else:
        score_chunk(<WidthAny*>NULL, table, w0, chunk, n_factors, out)


# ---------------------------------------------------------------------------------------------
# What Python calls
# ---------------------------------------------------------------------------------------------

cdef void redirect(
    Py_ssize_t* address,                # INOUT  (nnz,)
    Py_ssize_t nnz,
    owners owner,                       # IN     (n_slots,)
    int n_slots_log2,
    Py_ssize_t offset,                  # IN     address of the first copy
    Py_ssize_t stride,
) noexcept nogil:
    """Send the nonzeros of frequent features to the thread's own copies."""
    cdef Py_ssize_t p, slot, copy
    for p in range(nnz):
        slot = own_slot(address[p], n_slots_log2)
        copy = offset + slot * stride
        # By arithmetic: a branch would be mispredicted.
        address[p] += (copy - address[p]) * (owner[slot] == address[p])


LOSSES = {"squared": Loss.SQUARED, "logistic": Loss.LOGISTIC}
SOLVERS = {"sgd": SolverCode.SGD, "adagrad": SolverCode.ADAGRAD, "ftrl": SolverCode.FTRL}


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
    double l1_w=0.0,
    const int64_t[::1] owner=None,      # IN     (n_slots,) see `own_slots`; None: the thread has no own rows
    floating[:, :, ::1] own_rows=None,  # INOUT  (2, n_slots, stride) see `merge_rows`
    const int64_t[::1] period=None,     # IN     (n_slots,) merges until it is a row's turn, powers of two
    double share=1.0,                   # IN     as in `merge_rows`
    Py_ssize_t rows_per_merge=0,
    int32_t[::1] merge_lock=None,       # INOUT  (1,) the same for all threads; 0: free
    Py_ssize_t prefetch_nnz=0,          # IN     for the bench; 0: chosen by the length of the rows
):
    """Visit every row of the given runs once; returns the sum of weight * loss.

    A run is `run_length` consecutive rows (fewer at the end of X). The runs are taken `n_lanes` at
    a time and their rows interleaved: first rows of all, second rows of all, and so on. So
    neighbours in the visit come from places far apart, while memory is read in short sequences.
    A thread with own rows merges them every `rows_per_merge` rows of X, or later if another thread is
    merging just then; what is left in the end is for `merge_rows`.
    Returns infinity if a score diverged; the parameters are then meaningless.
    """
    cdef Settings settings
    cdef Order order
    cdef Chunk chunk
    cdef const value_t* values = &data[0] if data.shape[0] else NULL
    cdef const index_t* columns = &indices[0] if indices.shape[0] else NULL
    cdef const double* weights = &sample_weight[0] if sample_weight.shape[0] else NULL
    cdef floating* parameters = &table[0, 0]
    cdef Py_ssize_t capacity
    cdef const int64_t* own = NULL
    cdef int n_slots_log2 = 0
    cdef Py_ssize_t own_offset = 0
    cdef Py_ssize_t slot, n_merges = 0
    cdef double loss_sum = 0.0
    cdef int failed
    settings.n_factors = n_factors
    settings.loss = <Loss>loss
    settings.learning_rate = learning_rate
    settings.reg_w = reg_w
    settings.reg_V = reg_V
    settings.l1_w = l1_w
    settings.prefetch_nnz = prefetch_nnz
    if owner is not None:
        own = &owner[0]
        n_slots_log2 = log2_of(owner.shape[0])
        # Exact, as both arrays are aligned to the size of their elements.
        own_offset = (<Py_ssize_t>&own_rows[0, 0, 0] - <Py_ssize_t>parameters) // <Py_ssize_t>sizeof(floating)
    begin_visit(
        &order, &runs[0] if runs.shape[0] else NULL, runs.shape[0], run_length, n_lanes, indptr.shape[0] - 1
    )
    with nogil:
        capacity = max(<Py_ssize_t>CHUNK_NNZ, longest_row(&indptr[0], 0, order.n_samples))
        failed = allocate_chunk(&chunk, capacity, n_factors, sizeof(floating))
        if not failed:
            if values == NULL:
                fill_with_ones(<floating*>chunk.x, capacity)
            if own != NULL:
                chunk.max_rows = max(<Py_ssize_t>1, min(chunk.max_rows, rows_per_merge))
            while fill_chunk(
                values, columns, &indptr[0], &y[0], weights, &order, parameters, table.shape[1], &chunk
            ):
                if own != NULL:
                    redirect(chunk.address, chunk.nnz, own, n_slots_log2, own_offset, table.shape[1])
                loss_sum += train_any_solver(<SolverCode>solver, parameters, &bias[0], &chunk, &settings)
                if own != NULL and try_lock(&merge_lock[0]):
                    n_merges += 1
                    for slot in range(owner.shape[0]):
                        if owner[slot] >= 0 and n_merges & (period[slot] - 1) == 0:
                            merge_row(parameters + owner[slot], own_rows, slot, <floating>share)
                    unlock(&merge_lock[0])
        free_chunk(&chunk)
    if failed:
        raise MemoryError("no memory for the buffers of an epoch")
    return loss_sum


def own_slots(
    const int64_t[::1] features,        # IN     in the order of their precedence
    Py_ssize_t stride,
    int64_t[::1] owner,                 # OUT    (n_slots,) a power of two
):
    """Owners of the slots: addresses of rows in the table, or -1. A feature whose slot is taken gets none."""
    cdef Py_ssize_t i, slot, address
    cdef int n_slots_log2 = log2_of(owner.shape[0])
    for slot in range(owner.shape[0]):
        owner[slot] = -1
    for i in range(features.shape[0]):
        address = <Py_ssize_t>features[i] * stride
        slot = own_slot(address, n_slots_log2)
        if owner[slot] < 0:
            owner[slot] = address


def merge_rows(
    floating[:, ::1] table,             # INOUT  (n_features, stride)
    const int64_t[::1] owner,           # IN     (n_slots,)
    floating[:, :, ::1] own_rows,       # INOUT  (2, n_slots, stride) the copies, and what was last taken
    double share,
):
    """Add to the table `share` of what a thread has changed in its own rows, and take what is there then."""
    cdef Py_ssize_t slot
    for slot in range(owner.shape[0]):
        if owner[slot] >= 0:
            merge_row(&table[0, 0] + owner[slot], own_rows, slot, <floating>share)


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
        nnz = max(nnz, longest_row(rows, first, stop))
        failed = allocate_chunk(&chunk, nnz, n_factors, sizeof(floating))
        if not failed:
            if values == NULL:
                fill_with_ones(<floating*>chunk.x, nnz)
            for i in range(first, stop):
                nnz = rows[i + 1] - rows[i]
                if is_full(&chunk, nnz):
                    score_any_width(parameters, w0, &chunk, n_factors, &out[done])
                    done += chunk.n_rows
                    empty_chunk(&chunk)
                gather_row(
                    values + rows[i] if values != NULL else NULL,
                    columns + rows[i], nnz, stride, parameters, &chunk,
                )
            if done < stop:
                score_any_width(parameters, w0, &chunk, n_factors, &out[done])
        free_chunk(&chunk)
    if failed:
        raise MemoryError("no memory for the buffers of the scorer")
