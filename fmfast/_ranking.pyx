# cython: language_level=3, cdivision=True
"""Learning to rank: updates for (context, positive item, sampled negative item).

Contexts and items have columns of their own, so that the score of a pair splits,

    score(c, i) = const_c + <s_c, s_i> + b_i,       s = V^T x                       (see `fmfast.retrieval`)
    b_i         = <w, x_i> + 1/2 sum_f (s_if^2 - sum_j V_jf^2 x_ij^2)

and scoring one more item for the same context costs O(nnz_i * n_factors), not a whole row. What is minimised
is a function of the difference of two scores, in which const_c cancels out:

    diff = score(c, i) - score(c, n),        i a positive item of c, n one that is not
    bpr     log(1 + exp(-diff))                                                  (Rendle et al. 2009)
    warp    Phi(rank) max(0, 1 - diff),  Phi(r) = sum_{q <= r} 1 / q              (Weston et al. 2011)
            where n is the first of at most max_trials drawn negatives with diff < 1, and the rank of i is
            estimated from the number of draws that took.

    d diff / d w_j  = x_ij - x_nj
    d diff / d V_jf = x_ij (s_cf + s_if - V_jf x_ij) - x_nj (s_cf + s_nf - V_jf x_nj)   for j of the items
                      x_cj (s_if - s_nf)                                                for j of the context

Symbols
    c context   i positive item   n negative item   j feature   f factor   s factor sums

A row of the table is as in `_core.pyx`, with the state of `adagrad`. Every pair has random numbers of its own,
a function of (seed, pair): what is drawn for it depends neither on the order of the visit nor on threads.
"""
from libc.math cimport INFINITY, fabs
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from fmfast._chunks cimport floating, prefetch_row
from fmfast._losses cimport logistic_dloss, logistic_loss
from fmfast._negatives cimport Negatives, Positives, draw_negative, positives_of, slot_of
from fmfast._random cimport mix64
from fmfast._steps cimport AdaGrad, Settings, factor_state_size, step_factors, step_weight, weight_state_size
from fmfast._widths cimport (
    MAX_LOCAL_FACTORS, Width, Width8, Width16, Width32, Width64, Width128, WidthAny, known_width,
)

cdef enum:
    AHEAD = 8           # pairs between the prefetch of rows and their use
    N_VECTORS = 5       # of n_factors numbers: s_context, s_item, s_negative, q, apart

# |difference of scores| beyond which training has diverged.
cdef double DIVERGED_SCORE = 1e18


# Losses: tags without content, as `Width`.
cdef struct Bpr:
    char tag

cdef struct Warp:
    char tag

ctypedef fused Ranking:
    Bpr
    Warp

cdef enum RankingCode:
    BPR = 0
    WARP = 1

LOSSES = {"bpr": RankingCode.BPR, "warp": RankingCode.WARP}


cdef struct Side:
    # Rows of the contexts or of the items: CSR whose columns are places in the table.
    const int64_t* start        # (n_rows + 1,)
    const int64_t* address      # (nnz,)
    const void* x               # (nnz,) of the table's type
    bint is_single              # whether each row has one value, as ids have


cdef struct Pair:
    Py_ssize_t number           # its place among the pairs
    Py_ssize_t context
    Py_ssize_t item
    int32_t negative            # the first one
    uint64_t state              # of its random numbers
    Positives positives


# ---------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------

cdef inline floating add_up(
    const floating* table,
    const Side* side,
    Py_ssize_t row,
    Py_ssize_t n_factors,
    floating* s,                # OUT  (n_factors,)
    floating* q,                # OUT  (n_factors,)  scratch
) noexcept nogil:
    """s = V^T x of one context or item; returns <w, x> + 1/2 sum_f (s_f^2 - sum_j V_jf^2 x_j^2)."""
    cdef const int64_t* address = side.address + side.start[row]
    cdef const floating* x = <const floating*>side.x + side.start[row]
    cdef Py_ssize_t nnz = side.start[row + 1] - side.start[row]
    cdef Py_ssize_t p, f
    cdef const floating* v
    cdef floating vx, linear = 0, pairs = 0
    if nnz == 1:  # an id and nothing else has no pairs
        v = table + address[0]
        for f in range(n_factors):
            s[f] = v[f] * x[0]
        return v[n_factors] * x[0]
    for f in range(n_factors):
        s[f] = 0
        q[f] = 0
    for p in range(nnz):
        v = table + address[p]
        linear += v[n_factors] * x[p]
        for f in range(n_factors):
            vx = v[f] * x[p]
            s[f] += vx
            q[f] += vx * vx
    for f in range(n_factors):
        pairs += s[f] * s[f] - q[f]
    return linear + <floating>0.5 * pairs


cdef inline floating score_with(
    const floating* table,
    const Side* side,
    Py_ssize_t row,
    const floating* s_context,  # IN   (n_factors,)
    Py_ssize_t n_factors,
    floating* s,                # OUT  (n_factors,)  scratch
    floating* q,                # OUT  (n_factors,)  scratch
) noexcept nogil:
    """b + <s_context, s> of one item: its score without const_c."""
    cdef const floating* v
    cdef floating b
    if side.is_single:  # nothing to add up: straight from the table
        v = table + side.address[row]
        return (<const floating*>side.x)[row] * (v[n_factors] + dot(s_context, v, n_factors))
    b = add_up(table, side, row, n_factors, s, q)
    return b + dot(s_context, s, n_factors)


cdef inline floating dot(const floating* a, const floating* b, Py_ssize_t n_factors) noexcept nogil:
    cdef Py_ssize_t f
    cdef floating total = 0
    for f in range(n_factors):
        total += a[f] * b[f]
    return total


# ---------------------------------------------------------------------------------------------
# Updates
# ---------------------------------------------------------------------------------------------

cdef inline void step_item(
    Width* width,
    floating* row,              # INOUT  of one feature
    floating x,
    const floating* s,          # IN     (n_factors,) s_c + s of the item
    double dloss,               # IN     weight * d loss / d score of the item
    double weight,
    const Settings* settings,
) noexcept nogil:
    """Move one feature that only one of the two items has."""
    cdef Py_ssize_t n_factors = known_width(width, settings.n_factors)
    step_weight(<AdaGrad*>NULL, row + n_factors, dloss * x, weight, 0.0, settings.reg_w, settings)
    step_factors(
        <AdaGrad*>NULL, row, row + n_factors + 2, s, n_factors,
        x, <floating>dloss * x, <floating>weight, settings,
    )


cdef inline void step_items(
    Width* width,
    floating* table,            # INOUT
    const Side* items,
    Py_ssize_t item,
    Py_ssize_t negative,
    const floating* s_item,     # IN     (n_factors,) s_c + s_i
    const floating* s_negative,  # IN    (n_factors,) s_c + s_n
    floating* both,             # OUT    (n_factors,) scratch
    double dloss,               # IN     weight * d loss / d diff
    double weight,
    const Settings* settings,
) noexcept nogil:
    """Move the features of both items. One that both have is moved once, by the sum of its gradients."""
    cdef Py_ssize_t n_factors = known_width(width, settings.n_factors)
    cdef Py_ssize_t a = items.start[item], a_end = items.start[item + 1]
    cdef Py_ssize_t b = items.start[negative], b_end = items.start[negative + 1]
    cdef const floating* x = <const floating*>items.x
    cdef Py_ssize_t f
    cdef floating* row
    cdef double w_gradient
    # The order of two different ids would be mispredicted every other time.
    if a_end - a == 1 and b_end - b == 1 and items.address[a] != items.address[b]:
        step_item(width, table + items.address[a], x[a], s_item, dloss, weight, settings)
        step_item(width, table + items.address[b], x[b], s_negative, -dloss, weight, settings)
        return
    while a < a_end or b < b_end:
        if b == b_end or (a < a_end and items.address[a] < items.address[b]):
            step_item(width, table + items.address[a], x[a], s_item, dloss, weight, settings)
            a += 1
        elif a == a_end or items.address[b] < items.address[a]:
            step_item(width, table + items.address[b], x[b], s_negative, -dloss, weight, settings)
            b += 1
        else:
            row = table + items.address[a]
            w_gradient = dloss * (x[a] - x[b])
            step_weight(<AdaGrad*>NULL, row + n_factors, w_gradient, weight, 0.0, settings.reg_w, settings)
            for f in range(n_factors):
                both[f] = x[a] * s_item[f] - x[b] * s_negative[f]
            # g_f = dloss (both_f - (x_a^2 - x_b^2) v_f) + weight reg_V v_f
            step_factors(
                <AdaGrad*>NULL, row, row + n_factors + 2, both, n_factors,
                x[a] * x[a] - x[b] * x[b], <floating>dloss, <floating>weight, settings,
            )
            a += 1
            b += 1


cdef inline void step_context(
    Width* width,
    floating* table,            # INOUT
    const Side* contexts,
    Py_ssize_t context,
    const floating* apart,      # IN     (n_factors,) s_i - s_n
    double dloss,
    double weight,
    const Settings* settings,
) noexcept nogil:
    """Move the features of the context; their w cancel out of every difference."""
    cdef Py_ssize_t n_factors = known_width(width, settings.n_factors)
    cdef const floating* x = <const floating*>contexts.x
    cdef Py_ssize_t p
    cdef floating* row
    for p in range(contexts.start[context], contexts.start[context + 1]):
        row = table + contexts.address[p]
        step_factors(
            <AdaGrad*>NULL, row, row + n_factors + 2, apart, n_factors,
            <floating>0, <floating>dloss * x[p], <floating>weight, settings,
        )


# ---------------------------------------------------------------------------------------------
# Pairs
# ---------------------------------------------------------------------------------------------

cdef struct Task:
    # All that a thread needs of its share of an epoch.
    Side contexts
    Side items
    Negatives negatives
    Settings settings
    const int32_t* context      # (n_pairs,)
    const int32_t* item         # (n_pairs,)
    const double* weight        # (n_pairs,), NULL: all are 1
    Py_ssize_t n_pairs
    const int64_t* runs         # (n_runs,) first pair of each run
    Py_ssize_t n_runs
    Py_ssize_t run_length
    const double* phi           # (max_trials,) Phi of the estimated rank, by the number of draws
    Py_ssize_t max_trials
    uint64_t seed
    int64_t n_updates           # OUT
    int64_t n_draws             # OUT


cdef inline void prefetch_side(
    const floating* table, const Side* side, Py_ssize_t row, Py_ssize_t n_used
) noexcept nogil:
    cdef Py_ssize_t p
    for p in range(side.start[row], side.start[row + 1]):
        prefetch_row(table + side.address[p], n_used, True)


cdef inline bint next_pair(
    Task* task, Py_ssize_t* run, Py_ssize_t* place, Pair* pair
) noexcept nogil:
    """Take the next pair of the visit and draw its first negative; false at the end."""
    cdef Py_ssize_t number
    if run[0] == task.n_runs:
        return False
    number = task.runs[run[0]] + place[0]
    place[0] += 1
    if place[0] == task.run_length or number + 1 == task.n_pairs:
        run[0] += 1
        place[0] = 0
    pair.number = number
    pair.context = task.context[number]
    pair.item = task.item[number]
    pair.state = mix64(task.seed + <uint64_t>number)
    pair.positives = positives_of(&task.negatives, pair.context)
    pair.negative = draw_negative(&task.negatives, &pair.positives, &pair.state)
    return True


cdef double train_task(
    Ranking* ranking,
    Width* width,
    floating* table,            # INOUT
    Task* task,                 # INOUT
    floating* buffer,           # (N_VECTORS, n_factors)
) noexcept nogil:
    """Visit the pairs of all runs; returns the sum of weight * loss, infinity if a score diverged."""
    cdef Settings local_settings = task.settings  # where no store can change them, as the compiler sees
    cdef const Settings* settings = &local_settings
    cdef Negatives negatives = task.negatives
    cdef Side items = task.items
    cdef floating threshold, other
    cdef int64_t n_draws = 0
    cdef Py_ssize_t n_factors = known_width(width, settings.n_factors)
    cdef Py_ssize_t w_state = weight_state_size(<AdaGrad*>NULL)
    cdef Py_ssize_t n_used = n_factors + 1 + w_state + factor_state_size(<AdaGrad*>NULL, n_factors)
    cdef floating local[N_VECTORS * MAX_LOCAL_FACTORS]
    cdef floating* s_context = local
    cdef floating* s_item
    cdef floating* s_negative
    cdef floating* q
    cdef floating* apart
    cdef Pair ring[AHEAD]
    cdef Pair* pair
    cdef Py_ssize_t run = 0, place = 0, n_ahead = 0, turn = 0, trial = 0, f
    cdef double loss_sum = 0.0, score, diff, dloss, weight
    cdef uint64_t state
    cdef int32_t negative
    cdef Positives positives
    if Width is WidthAny:
        if n_factors > MAX_LOCAL_FACTORS:
            s_context = buffer
    s_item = s_context + n_factors
    s_negative = s_item + n_factors
    q = s_negative + n_factors
    apart = q + n_factors
    while n_ahead < AHEAD and next_pair(task, &run, &place, &ring[n_ahead]):
        pair = &ring[n_ahead]
        prefetch_side(table, &task.contexts, pair.context, n_used)
        prefetch_side(table, &task.items, pair.item, n_used)
        prefetch_side(table, &task.items, pair.negative, n_used)
        n_ahead += 1
    while n_ahead > 0:
        pair = &ring[turn]
        add_up(table, &task.contexts, pair.context, n_factors, s_context, q)
        score = add_up(table, &task.items, pair.item, n_factors, s_item, q)
        score += dot(s_context, s_item, n_factors)
        weight = task.weight[pair.number] if task.weight != NULL else 1.0
        negative = pair.negative
        if Ranking is Bpr:
            diff = score - score_with(table, &task.items, negative, s_context, n_factors, s_negative, q)
            task.n_draws += 1
            loss_sum += weight * logistic_loss(-diff, 0.0)
            dloss = -logistic_dloss(-diff, 0.0)  # not sigma(diff) - 1, which loses its digits
        else:
            state = pair.state
            positives = pair.positives
            dloss = 0.0
            threshold = <floating>(score - 1.0)
            other = 0
            diff = 0.0
            for trial in range(task.max_trials):
                other = score_with(table, &items, negative, s_context, n_factors, s_negative, q)
                if not other <= threshold:  # also NaN
                    dloss = -task.phi[trial]
                    break
                negative = draw_negative(&negatives, &positives, &state)
            n_draws += trial + 1
            diff = score - other
            loss_sum -= weight * dloss * (1.0 - diff)
        if not fabs(diff) < DIVERGED_SCORE:
            return INFINITY
        if dloss != 0.0:
            task.n_updates += 1
            dloss *= weight
            add_up(table, &task.items, negative, n_factors, s_negative, q)
            for f in range(n_factors):
                apart[f] = s_item[f] - s_negative[f]
                s_item[f] += s_context[f]
                s_negative[f] += s_context[f]
            step_items(
                width, table, &task.items, pair.item, negative, s_item, s_negative, q, dloss, weight, settings
            )
            step_context(width, table, &task.contexts, pair.context, apart, dloss, weight, settings)
        if next_pair(task, &run, &place, pair):
            prefetch_side(table, &task.contexts, pair.context, n_used)
            prefetch_side(table, &task.items, pair.item, n_used)
            prefetch_side(table, &task.items, pair.negative, n_used)
        else:
            n_ahead -= 1
        turn = turn + 1 if turn + 1 < AHEAD else 0
    task.n_draws += n_draws
    return loss_sum


cdef double train_any_width(
    Ranking* ranking, floating* table, Task* task, floating* buffer
) noexcept nogil:
    """`train_task` compiled for this number of factors: for the usual ones, since each takes 30 kB."""
    cdef Py_ssize_t n_factors = task.settings.n_factors
    if n_factors == 8:
        return train_task(ranking, <Width8*>NULL, table, task, buffer)
    if n_factors == 16:
        return train_task(ranking, <Width16*>NULL, table, task, buffer)
    if n_factors == 32:
        return train_task(ranking, <Width32*>NULL, table, task, buffer)
    if n_factors == 64:
        return train_task(ranking, <Width64*>NULL, table, task, buffer)
    if n_factors == 128:
        return train_task(ranking, <Width128*>NULL, table, task, buffer)
    return train_task(ranking, <WidthAny*>NULL, table, task, buffer)


# ---------------------------------------------------------------------------------------------
# What Python calls
# ---------------------------------------------------------------------------------------------

def fill_sets(
    const int64_t[::1] indptr,          # IN     (n_contexts + 1,) positives of each context
    const int32_t[::1] items,           # IN     (n_positives,)
    const int64_t[::1] set_start,       # IN     (n_contexts + 1,) sizes are powers of two, more than positives
    int32_t[::1] members,               # OUT    (set_start[-1],) items, -1 in empty slots
):
    """Sets of the contexts' positive items, in which a kernel finds one with a look or two."""
    cdef Py_ssize_t context, p
    cdef uint32_t mask, slot
    cdef int32_t* slots
    with nogil:
        for p in range(members.shape[0]):
            members[p] = -1
        for context in range(indptr.shape[0] - 1):
            slots = &members[0] + set_start[context]
            mask = <uint32_t>(set_start[context + 1] - set_start[context] - 1)
            for p in range(indptr[context], indptr[context + 1]):
                slot = slot_of(items[p], mask)
                while slots[slot] >= 0:
                    slot = (slot + 1) & mask
                slots[slot] = items[p]


def fill_alias(
    double[::1] odds,                   # INOUT  (n_items,) n_items * probability; scratch
    uint32_t[::1] keep,                 # OUT    (n_items,) in parts of 2^32
    int32_t[::1] alias,                 # OUT    (n_items,) what is drawn otherwise
    int32_t[::1] stack,                 # OUT    (n_items,) scratch
):
    """Tables for drawing items with given probabilities by one look (Walker 1977, Vose 1991).

    An item drawn uniformly stays with probability keep, and is exchanged for its alias otherwise.
    """
    cdef Py_ssize_t n = odds.shape[0], item, n_small = 0, n_large = 0
    cdef int32_t small, large
    # One array holds both stacks: small ones from the left, large ones from the right.
    for item in range(n):
        alias[item] = <int32_t>item
        if odds[item] < 1.0:
            stack[n_small] = <int32_t>item
            n_small += 1
        else:
            n_large += 1
            stack[n - n_large] = <int32_t>item
    while n_small > 0 and n_large > 0:
        n_small -= 1
        small = stack[n_small]
        large = stack[n - n_large]
        alias[small] = large
        odds[large] -= 1.0 - odds[small]
        if odds[large] < 1.0:
            n_large -= 1
            stack[n_small] = large
            n_small += 1
    # What never got an alias stays, whatever rounding has left of its odds.
    for item in range(n):
        keep[item] = <uint32_t>0xFFFFFFFF
        if alias[item] != item:
            keep[item] = <uint32_t>(min(max(odds[item], 0.0), 1.0) * 4294967295.0)


cdef Side side_of(const int64_t[::1] start, const int64_t[::1] address, const floating[::1] x):
    cdef Side side
    cdef Py_ssize_t row
    side.start = &start[0]
    side.address = &address[0] if address.shape[0] else NULL
    side.x = &x[0] if x.shape[0] else NULL
    side.is_single = True
    for row in range(start.shape[0] - 1):
        if start[row + 1] - start[row] != 1:
            side.is_single = False
            break
    return side


def train_pairs(
    const int32_t[::1] context,         # IN     (n_pairs,) contexts of the positive pairs
    const int32_t[::1] item,            # IN     (n_pairs,)
    const double[::1] weight,           # IN     (n_pairs,) or (0,): all weights are 1
    const int64_t[::1] runs,            # IN     first pair of each run, in the order of the visit
    Py_ssize_t run_length,
    const int64_t[::1] context_start,   # IN     (n_contexts + 1,) rows of the contexts
    const int64_t[::1] context_address,  # IN    places in the table, ascending in each row
    const floating[::1] context_x,      # IN
    const int64_t[::1] item_start,      # IN     (n_items + 1,) rows of the items
    const int64_t[::1] item_address,    # IN
    const floating[::1] item_x,         # IN
    const int64_t[::1] set_start,       # IN     as in `fill_sets`
    const int32_t[::1] members,         # IN
    const uint32_t[::1] keep,           # IN     (n_items,) as in `fill_alias`, or (0,): all items alike
    const int32_t[::1] alias,           # IN
    floating[:, ::1] table,             # INOUT  (n_features, stride)
    Py_ssize_t n_factors,
    int loss,
    const double[::1] phi,              # IN     (max_trials,)
    double learning_rate,
    double reg_w,
    double reg_V,
    uint64_t seed,                      # IN     of the epoch
):
    """Visit every pair of the given runs once.

    Returns (sum of weight * loss, updates, draws); the sum is infinity if a score diverged, and the
    parameters are then meaningless.
    """
    cdef Task task
    cdef double loss_sum = 0.0
    cdef floating* parameters = &table[0, 0]
    cdef floating* buffer = NULL
    task.contexts = side_of(context_start, context_address, context_x)
    task.items = side_of(item_start, item_address, item_x)
    task.negatives.n_items = <uint64_t>(item_start.shape[0] - 1)
    task.negatives.set_start = &set_start[0]
    task.negatives.members = &members[0]
    task.negatives.keep = &keep[0] if keep.shape[0] else NULL
    task.negatives.alias = &alias[0] if alias.shape[0] else NULL
    task.settings.n_factors = n_factors
    task.settings.learning_rate = learning_rate
    task.settings.reg_w = reg_w
    task.settings.reg_V = reg_V
    task.context = &context[0]
    task.item = &item[0]
    task.weight = &weight[0] if weight.shape[0] else NULL
    task.n_pairs = context.shape[0]
    task.runs = &runs[0] if runs.shape[0] else NULL
    task.n_runs = runs.shape[0]
    task.run_length = run_length
    task.phi = &phi[0]
    task.max_trials = phi.shape[0]
    task.seed = seed
    task.n_updates = 0
    task.n_draws = 0
    with nogil:
        buffer = <floating*>malloc(N_VECTORS * <size_t>max(<Py_ssize_t>1, n_factors) * sizeof(floating))
        if buffer != NULL:
            if loss == RankingCode.BPR:
                loss_sum = train_any_width(<Bpr*>NULL, parameters, &task, buffer)
            else:
                loss_sum = train_any_width(<Warp*>NULL, parameters, &task, buffer)
            free(buffer)
    if buffer == NULL:
        raise MemoryError("no memory for the buffers of an epoch")
    return loss_sum, task.n_updates, task.n_draws
