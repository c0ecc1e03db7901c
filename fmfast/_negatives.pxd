# cython: language_level=3
"""Random items that are no positives of a context.

Each context has a set of its positives, in which one look or two tell (`fill_sets` of `_ranking.pyx` makes
them). Popular items are drawn more often by the tables of Walker and Vose (`fill_alias`).
"""
cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef enum:
    MAX_ATTEMPTS = 64   # random items until a search begins: only contexts with nearly all items need it


cdef struct Negatives:
    # What `draw_negative` draws from.
    uint64_t n_items
    const int64_t* set_start    # (n_contexts + 1,) see `fill_sets`
    const int32_t* members
    const uint32_t* keep        # (n_items,) see `fill_alias`; NULL: all items alike
    const int32_t* alias        # (n_items,)


cdef struct Positives:
    # The positive items of one context: slots (a power of two) that hold an item or -1.
    const int32_t* slots
    uint32_t mask


@cython.overflowcheck(False)  # of an unsigned product, the low bits are what is wanted
cdef inline uint32_t slot_of(int32_t item, uint32_t mask) noexcept nogil:
    """Where the search for an item in a set begins."""
    return <uint32_t>((<uint64_t>item * <uint64_t>0x9E3779B97F4A7C15) >> 32) & mask


cdef inline Positives positives_of(const Negatives* negatives, Py_ssize_t context) noexcept nogil:
    cdef Positives positives
    positives.slots = negatives.members + negatives.set_start[context]
    positives.mask = <uint32_t>(negatives.set_start[context + 1] - negatives.set_start[context] - 1)
    return positives


cdef inline bint is_positive(const Positives* positives, int32_t item) noexcept nogil:
    """Whether an item is in the set, by linear probing."""
    cdef uint32_t slot = slot_of(item, positives.mask)
    while positives.slots[slot] >= 0:
        if positives.slots[slot] == item:
            return True
        slot = (slot + 1) & positives.mask
    return False


@cython.overflowcheck(False)
cdef inline uint64_t next_random(uint64_t* state) noexcept nogil:
    """The next number of a linear congruential generator (Knuth's MMIX), of which the upper bits are random.

    A pair takes a few from a start of its own that `mix64` has made; anything better would cost as much as all
    the rest of a draw.
    """
    state[0] = state[0] * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
    return state[0]


cdef inline int32_t draw_item(const Negatives* negatives, uint64_t* state) noexcept nogil:
    """A random item, in proportion to its popularity."""
    cdef uint64_t r = next_random(state)
    cdef int32_t is_exchanged, item = <int32_t>(((r >> 32) * negatives.n_items) >> 32)  # n_items < 2^31
    if negatives.keep != NULL:
        # The bits below choose between the item and its alias, by arithmetic: a branch would be mispredicted.
        is_exchanged = -<int32_t>(<uint32_t>(r >> 8) > negatives.keep[item])
        item ^= (item ^ negatives.alias[item]) & is_exchanged
    return item


cdef inline int32_t draw_again(
    const Negatives* negatives, const Positives* positives, uint64_t* state
) noexcept nogil:
    """`draw_negative` after a first one that was a positive."""
    cdef Py_ssize_t _attempt
    cdef int32_t item = 0
    for _attempt in range(1, MAX_ATTEMPTS):
        item = draw_item(negatives, state)
        if not is_positive(positives, item):
            return item
    while is_positive(positives, item):
        item = item + 1 if <uint64_t>(item + 1) < negatives.n_items else 0
    return item


cdef inline int32_t draw_negative(
    const Negatives* negatives, const Positives* positives, uint64_t* state
) noexcept nogil:
    """A random item that is no positive of the context; there is one."""
    cdef int32_t item = draw_item(negatives, state)
    return draw_again(negatives, positives, state) if is_positive(positives, item) else item
