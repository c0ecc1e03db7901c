# cython: language_level=3, cdivision=True
"""Column-wise updates: least squares (ALS) and Gibbs sampling, a block of factors at a time.

The score is linear in the parameters of one column j, theta_j = (v_jf for f in a block, w_j): with

    q_if = sum_l v_lf x_il,     h_if = x_ij (q_if - x_ij v_jf),     h_iw = x_ij            (Rendle 2012, eq. 7)

the residual e_i = score_i - y_i changes by h_i . delta when theta_j does by delta, whatever delta is. So all of
theta_j is updated at once: delta solves

    A delta = -alpha sum_i c_i h_i e_i - P (theta_j - mean),     A = alpha sum_i c_i h_i h_i^T + P

P being the diagonal of the penalties or prior precisions, c_i the weight of sample i. That is the exact
minimum of

    alpha / 2 sum_i c_i e_i^2 + 1/2 (theta_j - mean)^T P (theta_j - mean)

over theta_j (alternating least squares). With A = L L^T and z standard normal, delta + L^-T z is an exact draw
from the posterior of theta_j given all else (Gibbs). Drawing up to BLOCK + 1 numbers jointly mixes better
than one by one, and takes one pass over the column where libFM takes a pass per factor.

Symbols
    i sample    p position in the column    j feature (column)    f factor within the block
    q (n_samples, BLOCK) the factor sums of the block, e (n_samples,) the residuals

What makes it fast
    A column's samples are anywhere in q and e: `prefetch` a few nonzeros ahead, across the end of the column.
    BLOCK factors fill half a cache line in float32: one miss per nonzero serves all of them, where element-wise
    updates have one per factor.
    Columns that share no sample can be updated by several threads at once, with the same result.
"""
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t

from fmfast._chunks cimport floating, index_t, prefetch, prefetch_write, value_t

cdef enum:
    BLOCK = 8
    SIZE = 9                # BLOCK and w
    # Nonzeros between the prefetch of a sample's q and e and their use.
    AHEAD = 24
    # Products are summed up in the dtype of the table for so many samples, then in double: long columns
    # would lose digits in float32.
    SEGMENT = 256

BLOCK_SIZE = BLOCK

# Whether the block has factors, or w alone; known to the compiler.
cdef struct LinearOnly:
    char tag

cdef struct WithFactors:
    char tag

ctypedef fused Part:
    LinearOnly
    WithFactors


cdef struct System:
    # Of one column; the row and column of w stand last.
    double gram[SIZE][SIZE]     # sum_i c_i h_i h_i^T
    double slope[SIZE]          # sum_i c_i h_i e_i


def sum_factors(
    const value_t[::1] data,        # IN   (nnz,) or (0,): all values are 1
    const index_t[::1] indices,     # IN   (nnz,)
    const int64_t[::1] indptr,      # IN   (n_samples + 1,)
    Py_ssize_t first,               # IN   rows first .. stop - 1
    Py_ssize_t stop,
    const floating[:, ::1] table,   # IN   (n_features, stride)
    Py_ssize_t first_factor,
    floating[:, ::1] q,             # OUT  (n_samples, BLOCK)
):
    """q_if = sum_j v_jf x_ij for the factors of the block that begins at `first_factor`."""
    cdef const value_t* x = &data[0] if data.shape[0] else NULL
    cdef const index_t* columns = &indices[0] if indices.shape[0] else NULL
    cdef const floating* V = &table[0, 0] + first_factor
    cdef const floating* v
    cdef Py_ssize_t stride = table.shape[1]
    cdef Py_ssize_t i, p, f, end
    cdef floating s[BLOCK]
    cdef floating x_p
    with nogil:
        end = indptr[stop]
        for i in range(first, stop):
            for f in range(BLOCK):
                s[f] = 0
            for p in range(indptr[i], indptr[i + 1]):
                if p + AHEAD < end:
                    v = V + <Py_ssize_t>columns[p + AHEAD] * stride
                    prefetch(v)
                    prefetch(v + BLOCK - 1)
                v = V + <Py_ssize_t>columns[p] * stride
                x_p = <floating>x[p] if x != NULL else 1
                for f in range(BLOCK):
                    s[f] += v[f] * x_p
            for f in range(BLOCK):
                q[i, f] = s[f]


cdef inline void add_segment(
    Part* part,
    const floating* x,          # IN   (nnz,) or NULL
    const index_t* rows,        # IN   (ahead,) the samples of the column, and those that follow
    Py_ssize_t nnz,
    Py_ssize_t ahead,
    const floating* v,          # IN   (BLOCK,)
    const floating* q,
    const floating* e,
    const floating* weight,     # IN   (n_samples,) or NULL
    System* system,             # INOUT
) noexcept nogil:
    """Add what a few samples of a column contribute to its system."""
    cdef floating g0[BLOCK]
    cdef floating g1[BLOCK]
    cdef floating g2[BLOCK]
    cdef floating g3[BLOCK]
    cdef floating g4[BLOCK]
    cdef floating g5[BLOCK]
    cdef floating g6[BLOCK]
    cdef floating g7[BLOCK]
    cdef floating border[BLOCK]     # sum_i c_i x_ij h_i
    cdef floating slope[BLOCK]
    cdef floating h[BLOCK]
    cdef floating c_h[BLOCK]
    cdef const floating* q_i
    cdef Py_ssize_t p, f, i
    cdef floating x_p, c_p, e_p
    cdef double squares = 0.0, linear_slope = 0.0
    if Part is WithFactors:
        for f in range(BLOCK):
            g0[f] = g1[f] = g2[f] = g3[f] = g4[f] = g5[f] = g6[f] = g7[f] = border[f] = slope[f] = 0
    for p in range(nnz):
        if p + AHEAD < ahead:
            i = rows[p + AHEAD]
            prefetch_write(e + i)
            if Part is WithFactors:
                prefetch_write(q + i * BLOCK)
        i = rows[p]
        x_p = x[p] if x != NULL else 1
        c_p = weight[i] if weight != NULL else 1
        e_p = e[i]
        squares += c_p * x_p * x_p
        linear_slope += c_p * x_p * e_p
        if Part is WithFactors:
            q_i = q + i * BLOCK
            for f in range(BLOCK):
                h[f] = x_p * (q_i[f] - x_p * v[f])
                c_h[f] = c_p * h[f]
            for f in range(BLOCK):
                border[f] += x_p * c_h[f]
                slope[f] += e_p * c_h[f]
                g0[f] += h[0] * c_h[f]
                g1[f] += h[1] * c_h[f]
                g2[f] += h[2] * c_h[f]
                g3[f] += h[3] * c_h[f]
                g4[f] += h[4] * c_h[f]
                g5[f] += h[5] * c_h[f]
                g6[f] += h[6] * c_h[f]
                g7[f] += h[7] * c_h[f]
    system.gram[BLOCK][BLOCK] += squares
    system.slope[BLOCK] += linear_slope
    if Part is WithFactors:
        for f in range(BLOCK):
            system.gram[BLOCK][f] += border[f]
            system.slope[f] += slope[f]
            system.gram[0][f] += g0[f]
            system.gram[1][f] += g1[f]
            system.gram[2][f] += g2[f]
            system.gram[3][f] += g3[f]
            system.gram[4][f] += g4[f]
            system.gram[5][f] += g5[f]
            system.gram[6][f] += g6[f]
            system.gram[7][f] += g7[f]


cdef inline void solve(
    System* system,             # INOUT  overwritten
    Py_ssize_t first,           # IN     rows and columns before it are left out
    const double* noise,        # IN     (SIZE,) standard normal numbers, or NULL
    double tolerance,           # IN     a pivot below this part of its diagonal element counts as 0
    double* delta,              # OUT    (SIZE,)
) noexcept nogil:
    """delta = A^-1 slope + L^-T noise, where A = gram = L L^T.

    Where A is singular, delta is 0 along what the others determine: least squares without a penalty, or the
    factors by which a block is padded.
    """
    cdef Py_ssize_t a, b, m
    cdef double pivot, value
    cdef double inverse[SIZE]
    for a in range(first, SIZE):
        for b in range(first, a):
            value = system.gram[a][b]
            for m in range(first, b):
                value -= system.gram[a][m] * system.gram[b][m]
            system.gram[a][b] = value * inverse[b]
        pivot = system.gram[a][a]
        value = system.slope[a]
        for m in range(first, a):
            pivot -= system.gram[a][m] * system.gram[a][m]
            value -= system.gram[a][m] * system.slope[m]
        inverse[a] = 1.0 / sqrt(pivot) if pivot > tolerance * system.gram[a][a] else 0.0
        system.slope[a] = value * inverse[a]
    for a in range(SIZE - 1, first - 1, -1):
        value = system.slope[a]
        if noise != NULL:
            value += noise[a]
        for m in range(a + 1, SIZE):
            value -= system.gram[m][a] * delta[m]
        delta[a] = value * inverse[a]


cdef inline void move_column(
    Part* part,
    const floating* x,          # IN     (nnz,) or NULL
    const index_t* rows,        # IN     (nnz,)
    Py_ssize_t nnz,
    floating* v,                # INOUT  (BLOCK,)
    floating* w,                # INOUT  w_j
    const double* delta,        # IN     (SIZE,)
    floating* q,                # INOUT
    floating* e,                # INOUT
) noexcept nogil:
    """Add delta to the parameters of a column, and what follows from it to q and e.

        e_i += h_i . delta = x_ij (delta_w + q_i . delta_v) - x_ij^2 v . delta_v,     q_i += x_ij delta_v
    """
    cdef floating d[BLOCK]
    cdef floating* q_i
    cdef floating x_p, q_d, v_d = 0, delta_w = <floating>delta[BLOCK]
    cdef Py_ssize_t p, f, i
    if Part is WithFactors:
        for f in range(BLOCK):
            d[f] = <floating>delta[f]
            v_d += v[f] * d[f]
    for p in range(nnz):
        if p + AHEAD < nnz:
            i = rows[p + AHEAD]
            prefetch_write(e + i)
            if Part is WithFactors:
                prefetch_write(q + i * BLOCK)
        i = rows[p]
        x_p = x[p] if x != NULL else 1
        q_d = 0
        if Part is WithFactors:
            q_i = q + i * BLOCK
            for f in range(BLOCK):
                q_d += q_i[f] * d[f]
                q_i[f] += x_p * d[f]
        e[i] += x_p * (delta_w + q_d - x_p * v_d)
    w[0] += delta_w
    if Part is WithFactors:
        for f in range(BLOCK):
            v[f] += d[f]


cdef void update_part(
    Part* part,
    const floating* x,
    const index_t* rows,
    const int64_t* starts,
    Py_ssize_t first,
    Py_ssize_t stop,
    floating* table,
    Py_ssize_t stride,
    Py_ssize_t first_factor,
    Py_ssize_t w_position,
    floating* q,
    floating* e,
    const floating* weight,
    double alpha,
    const int32_t* groups,
    const double* mean,
    const double* precision,
    const double* penalty,
    const double* counts,
    const double* noise,
) noexcept nogil:
    """`update_columns` with or without factors."""
    cdef Py_ssize_t lowest = BLOCK
    cdef Py_ssize_t j, a, b, start, length, group
    cdef floating* row
    cdef floating* v
    cdef System system
    cdef double delta[SIZE]
    cdef double theta, prior, count
    # Sums in float32 are no better than that: below, a pivot is what rounding left of 0.
    cdef double tolerance = 1e-6 if sizeof(floating) == 4 else 1e-14
    if Part is WithFactors:
        lowest = 0
    for j in range(first, stop):
        row = table + j * stride
        v = row + first_factor
        for a in range(SIZE):
            system.slope[a] = 0.0
            for b in range(SIZE):
                system.gram[a][b] = 0.0
        start = starts[j]
        while start < starts[j + 1]:
            length = min(starts[j + 1] - start, <Py_ssize_t>SEGMENT)
            add_segment(
                part, x + start if x != NULL else NULL, rows + start, length, starts[stop] - start,
                v, q, e, weight, &system,
            )
            start += length
        group = groups[j] * SIZE
        count = counts[j] if counts != NULL else 0.0
        for a in range(lowest, SIZE):
            for b in range(lowest, a + 1):
                system.gram[a][b] *= alpha
            prior = precision[group + a] + penalty[a] * count
            theta = row[w_position] if a == BLOCK else v[a]
            system.gram[a][a] += prior
            system.slope[a] = -alpha * system.slope[a] - prior * (theta - mean[group + a])
        solve(&system, lowest, noise + (j - first) * SIZE if noise != NULL else NULL, tolerance, delta)
        move_column(
            part, x + starts[j] if x != NULL else NULL, rows + starts[j], starts[j + 1] - starts[j],
            v, row + w_position, delta, q, e,
        )


def update_columns(
    const floating[::1] data,       # IN     (nnz,) or (0,): all values are 1; the matrix by columns
    const index_t[::1] rows,        # IN     (nnz,)
    const int64_t[::1] starts,      # IN     (n_features + 1,)
    Py_ssize_t first,               # IN     columns first .. stop - 1, in turn
    Py_ssize_t stop,
    floating[:, ::1] table,         # INOUT  (n_features, stride)
    Py_ssize_t first_factor,        # IN     of the block
    Py_ssize_t w_position,          # IN     of w_j in a row of the table
    floating[:, ::1] q,             # INOUT  (n_samples, BLOCK), or (0, BLOCK) without factors
    floating[::1] e,                # INOUT  (n_samples,)
    const floating[::1] weight,     # IN     (n_samples,) or (0,): all weights are 1
    double alpha,                   # IN     precision of the residuals
    const int32_t[::1] groups,      # IN     (n_features,)
    const double[:, ::1] mean,      # IN     (n_groups, SIZE) of the prior
    const double[:, ::1] precision,  # IN    (n_groups, SIZE) of the prior
    const double[::1] penalty,      # IN     (SIZE,) precision besides, times the count of the column
    const double[::1] counts,       # IN     (n_features,) or (0,): all are 0
    const double[:, ::1] noise,     # IN     (stop - first, SIZE), or (0, SIZE): least squares
):
    """Update the parameters of columns, and q and e with them.

    Arrays of SIZE hold the factors of the block, then w. Concurrent calls are safe, and their order
    does not matter, if no two of their columns share a sample.
    """
    cdef const floating* x = &data[0] if data.shape[0] else NULL
    cdef const index_t* row_of = &rows[0] if rows.shape[0] else NULL
    cdef const floating* weights = &weight[0] if weight.shape[0] else NULL
    cdef const double* count = &counts[0] if counts.shape[0] else NULL
    cdef const double* normal = &noise[0, 0] if noise.shape[0] else NULL
    with nogil:
        if q.shape[0]:
            update_part(
                <WithFactors*>NULL, x, row_of, &starts[0], first, stop, &table[0, 0], table.shape[1],
                first_factor, w_position, &q[0, 0], &e[0], weights, alpha, &groups[0], &mean[0, 0],
                &precision[0, 0], &penalty[0], count, normal,
            )
        else:
            update_part(
                <LinearOnly*>NULL, x, row_of, &starts[0], first, stop, &table[0, 0], table.shape[1],
                first_factor, w_position, <floating*>NULL, &e[0], weights, alpha, &groups[0], &mean[0, 0],
                &precision[0, 0], &penalty[0], count, normal,
            )


def sum_residuals(const floating[::1] e, const floating[::1] weight, Py_ssize_t first, Py_ssize_t stop):
    """(sum c_i e_i, sum c_i e_i^2) of samples first .. stop - 1."""
    cdef double linear = 0.0, square = 0.0
    cdef Py_ssize_t i
    cdef bint weighted = weight.shape[0] > 0
    with nogil:
        for i in range(first, stop):
            linear += <double>e[i] * (weight[i] if weighted else 1)
            square += <double>e[i] * e[i] * (weight[i] if weighted else 1)
    return linear, square


def sum_parameters(
    const floating[:, ::1] table,   # IN     (n_features, stride)
    Py_ssize_t n_factors,
    Py_ssize_t w_position,
    const int32_t[::1] groups,      # IN     (n_features,)
    double[:, ::1] linear,          # INOUT  (n_groups, n_factors + 1)
    double[:, ::1] square,          # INOUT  (n_groups, n_factors + 1)
):
    """Add the parameters of every column, and their squares, to the sums of its group: factors, then w."""
    cdef Py_ssize_t j, f
    cdef const floating* row
    cdef double* total
    cdef double* total_square
    cdef double w
    with nogil:
        for j in range(table.shape[0]):
            row = &table[j, 0]
            total = &linear[groups[j], 0]
            total_square = &square[groups[j], 0]
            for f in range(n_factors):
                total[f] += row[f]
                total_square[f] += <double>row[f] * row[f]
            w = row[w_position]
            total[n_factors] += w
            total_square[n_factors] += w * w


def find_fields(
    const index_t[::1] rows,        # IN     (nnz,) the matrix by columns
    const int64_t[::1] starts,      # IN     (n_features + 1,)
    int32_t[::1] last_field,        # INOUT  (n_samples,) filled with -1
    int32_t[::1] field,             # OUT    (n_features,)
):
    """Number consecutive columns by field, so that no two columns of a field share a sample.

    Greedy: a column that shares a sample with the present field begins the next one.
    """
    cdef Py_ssize_t j, p
    cdef int32_t present = 0
    with nogil:
        for j in range(field.shape[0]):
            for p in range(starts[j], starts[j + 1]):
                if last_field[rows[p]] == present:
                    present += 1
                    break
            for p in range(starts[j], starts[j + 1]):
                last_field[rows[p]] = present
            field[j] = present
