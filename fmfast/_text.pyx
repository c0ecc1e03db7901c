# cython: language_level=3, cdivision=True
"""Lines of libsvm and libffm text to rows of numbers, and rows of numbers to such lines.

Arrays in, numbers out: of files, compression, line numbers and messages only `text` knows, the only
caller. It provides arrays that are large enough. Text ends with a line feed, at which every loop stops;
so none of them checks for the end.
"""
cimport cython
from libc.math cimport isinf
from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from fmfast._decimal cimport INFINITE, READ, Reading, is_digit, read_number, write_integer, write_number

ctypedef fused value_t:
    float
    double

ctypedef fused index_t:
    int32_t
    int64_t

cdef enum Finding:
    SOUND = 0
    NO_LABEL = 1            # where a label belongs stands something else
    NO_QID = 2
    NO_ENTRY = 3            # neither index:value nor the end of the line
    NOT_FINITE = 4          # inf, NaN, or beyond the range of the dtype
    INDEX_TOO_SMALL = 5
    INDEX_TOO_LARGE = 6
    INDEX_IS_WIDE = 7       # no fault: it needs indices of 64 bits
    NUMBER_TOO_LARGE = 8    # an integer of more than 63 bits, or a field of more than 31
    TWO_FIELDS = 9          # of one column in one row

FINDINGS = {
    "sound": Finding.SOUND,
    "no label": Finding.NO_LABEL,
    "no qid": Finding.NO_QID,
    "no entry": Finding.NO_ENTRY,
    "not finite": Finding.NOT_FINITE,
    "index too small": Finding.INDEX_TOO_SMALL,
    "index too large": Finding.INDEX_TOO_LARGE,
    "index is wide": Finding.INDEX_IS_WIDE,
    "number too large": Finding.NUMBER_TOO_LARGE,
    "two fields": Finding.TWO_FIELDS,
}

cdef enum:
    ITEM = 96               # bytes that a label with a qid, or an entry, takes at most, and some more


cdef inline bint is_blank(unsigned char c) noexcept nogil:
    return c == c' ' or c == c'\t' or c == c'\r'     # of a Windows line


cdef inline bint is_end(unsigned char c) noexcept nogil:
    """Whether a token ends here."""
    return c == c' ' or c == c'\n' or c == c'\t' or c == c'\r' or c == c'#'


@cython.overflowcheck(False)  # too many digits are noticed afterwards, by their number
cdef inline Finding read_integer(const unsigned char** cursor, int64_t* n) noexcept nogil:
    """Digits at the cursor, which moves behind them."""
    cdef const unsigned char* p = cursor[0]
    cdef const unsigned char* first
    cdef uint64_t value = 0
    while p[0] == c'0' and is_digit(p[1]):
        p += 1
    first = p
    while is_digit(p[0]):
        value = 10 * value + (p[0] - c'0')
        p += 1
    if p == first:
        return NO_ENTRY
    if p - first > 19 or value >= <uint64_t>INT64_MAX:     # below it: columns can be counted
        return NUMBER_TOO_LARGE
    cursor[0] = p
    n[0] = <int64_t>value
    return SOUND


# -- rows ---------------------------------------------------------------------------------------

cdef void sift(value_t* x, index_t* j, int32_t* field, Py_ssize_t root, Py_ssize_t stop) noexcept nogil:
    """Let the entry at `root` sink to its place in a heap with the largest column on top."""
    cdef value_t value = x[root]
    cdef index_t column = j[root]
    cdef int32_t its_field = field[root] if field != NULL else 0
    cdef Py_ssize_t child = 2 * root + 1
    while child < stop:
        if child + 1 < stop and j[child + 1] > j[child]:
            child += 1
        if j[child] <= column:
            break
        x[root], j[root] = x[child], j[child]
        if field != NULL:
            field[root] = field[child]
        root = child
        child = 2 * root + 1
    x[root], j[root] = value, column
    if field != NULL:
        field[root] = its_field


cdef Py_ssize_t tidy_row(
    value_t* x, index_t* j, int32_t* field,     # INOUT one row; field may be NULL
    Py_ssize_t n,
    Finding* finding,                           # OUT
) noexcept nogil:
    """Sort a row by its columns, add up duplicates, and leave out sums of 0; returns what is left of n.

    By a heap, which no order of the columns makes slow.
    """
    cdef Py_ssize_t i, kept = 0
    cdef double total
    for i in range(n // 2 - 1, -1, -1):
        sift(x, j, field, i, n)
    for i in range(n - 1, 0, -1):
        x[0], x[i] = x[i], x[0]
        j[0], j[i] = j[i], j[0]
        if field != NULL:
            field[0], field[i] = field[i], field[0]
        sift(x, j, field, 0, i)
    i = 0
    finding[0] = SOUND
    while i < n:
        total = x[i]
        x[kept], j[kept] = x[i], j[i]
        if field != NULL:
            field[kept] = field[i]
        i += 1
        while i < n and j[i] == j[kept]:
            total += x[i]
            if field != NULL and field[i] != field[kept]:
                finding[0] = TWO_FIELDS
            i += 1
        x[kept] = <value_t>total
        if isinf(x[kept]):
            finding[0] = NOT_FINITE
        kept += x[kept] != 0
    return kept


def parse(
    const unsigned char[::1] text,          # IN   whole lines, the last one ended as well
    bint has_label, bint has_qid, bint has_field,
    int64_t lowest, int64_t highest,        # IN   columns that are allowed
    double[::1] y, int64_t[::1] qid,        # OUT  (n_rows,), or not used
    int64_t[::1] indptr,                    # OUT  (n_rows + 1,)
    value_t[::1] data, index_t[::1] indices, int32_t[::1] field,    # OUT  (nnz,); field may not be used
):
    """Fill the arrays from the text.

    They need room for a row per 2 bytes, and an entry per 4. Columns are stored as they are written, counted
    from 0 or 1; each row is sorted, duplicates are added up, zeros left out.

    Returns (finding, its position in the text, n_rows, nnz, n_lines, smallest column, largest column,
    position of the largest), the columns among all entries, those of value 0 included.
    """
    cdef const unsigned char* start = &text[0]
    cdef const unsigned char* end = start + text.shape[0]
    cdef const unsigned char* p = start
    cdef const unsigned char* token = p
    cdef const unsigned char* largest_at = p
    cdef Py_ssize_t row = 0, nnz = 0, n_lines = 0, row_start
    cdef int64_t column = 0, previous, number = 0, smallest = INT64_MAX, largest = -1
    cdef double x = 0
    cdef bint sorted
    cdef Finding finding = SOUND
    cdef Reading reading
    indptr[0] = 0
    with nogil:
        while p < end and finding == SOUND:
            while is_blank(p[0]):
                p += 1
            token = p
            if p[0] == c'#':
                p = <const unsigned char*>memchr(p, c'\n', end - p)
            if p[0] == c'\n':
                p += 1
                n_lines += 1
                continue
            if has_label:
                reading = read_number(&p, False, &x)
                if reading != READ or not is_end(p[0]):
                    finding = NOT_FINITE if reading == INFINITE else NO_LABEL
                    break
                y[row] = x
                while is_blank(p[0]):
                    p += 1
            if has_qid:
                token = p
                if end - p < 5 or memcmp(p, "qid:", 4) != 0:
                    finding = NO_QID
                    break
                p += 4
                finding = read_integer(&p, &number)
                if finding != SOUND or not is_end(p[0]):
                    finding = NO_QID if finding != NUMBER_TOO_LARGE else NUMBER_TOO_LARGE
                    break
                qid[row] = number
            row_start = nnz
            previous = -1
            sorted = True
            while True:
                while is_blank(p[0]):
                    p += 1
                if p[0] == c'#':
                    p = <const unsigned char*>memchr(p, c'\n', end - p)
                if p[0] == c'\n':
                    break
                token = p
                if has_field:
                    finding = read_integer(&p, &number)
                    if finding != SOUND:
                        break
                    if p[0] != c':':
                        finding = NO_ENTRY
                        break
                    if number >= INT32_MAX:
                        finding = NUMBER_TOO_LARGE
                        break
                    p += 1
                finding = read_integer(&p, &column)
                if finding != SOUND:
                    break
                if p[0] != c':':
                    finding = NO_ENTRY
                    break
                p += 1
                if p[0] == c'1' and is_end(p[1]):     # most values of one-hot data
                    x = 1
                    p += 1
                else:
                    reading = read_number(&p, value_t is float, &x)
                    if reading != READ or not is_end(p[0]):
                        finding = NOT_FINITE if reading == INFINITE else NO_ENTRY
                        break
                if column < smallest:
                    smallest = column
                    if column < lowest:
                        finding = INDEX_TOO_SMALL
                        break
                if column > largest:
                    if column > highest:
                        finding = INDEX_TOO_LARGE
                        break
                    largest = column
                    largest_at = token
                    if index_t is int32_t:
                        if column > INT32_MAX:
                            finding = INDEX_IS_WIDE
                            break
                sorted &= column > previous
                previous = column
                if x != 0:
                    data[nnz] = <value_t>x
                    indices[nnz] = <index_t>column
                    if has_field:
                        field[nnz] = <int32_t>number
                    nnz += 1
            if finding == SOUND and not sorted and nnz > row_start:
                nnz = row_start + tidy_row(
                    &data[row_start], &indices[row_start], &field[row_start] if has_field else NULL,
                    nnz - row_start, &finding,
                )
            row += 1
            indptr[row] = nnz
    return <int>finding, token - start, row, nnz, n_lines, smallest, largest, largest_at - start


def merge_fields(const int32_t[::1] field, const index_t[::1] indices, int32_t[::1] field_of):
    """Note the field of each column, plus 1, in `field_of`, where 0 means none so far.

    Returns the position of the first entry whose column has another field already, or -1.
    """
    cdef Py_ssize_t p, found = -1
    cdef int32_t known
    with nogil:
        for p in range(indices.shape[0]):
            known = field_of[indices[p]]
            if known != field[p] + 1:
                if known != 0:
                    found = p
                    break
                field_of[indices[p]] = field[p] + 1
    return found


# -- writing ------------------------------------------------------------------------------------

cdef inline unsigned char* write_entry(
    unsigned char* p, const int32_t[::1] field, bint has_field, int64_t column, int64_t base, double x, bint single
) except NULL nogil:
    """[field:]index:value"""
    if has_field:
        p = write_integer(p, field[column])
        p[0] = c':'
        p += 1
    p = write_integer(p, column + base)
    p[0] = c':'
    p += 1
    if x == 1:
        p[0] = c'1'
        return p + 1
    return write_number(p, x, single)


def write(
    const double[::1] y, const int64_t[::1] qid,            # IN   (n_rows,) each, or empty
    const int32_t[::1] field,                               # IN   (n_features,), or empty
    const value_t[::1] data, const index_t[::1] indices, const int64_t[::1] indptr,     # IN   data (nnz,) or empty
    int64_t base,                                           # IN   number of the first column, 0 or 1
    Py_ssize_t row, Py_ssize_t entry,                       # IN   where to go on
    unsigned char[::1] text,                                # OUT  of 4 * ITEM bytes at least
):
    """Write rows until the text is full. Returns (n_bytes, row and entry to go on with).

    A row without label, qid and entries gets an entry of value 0: else its line would be blank.
    """
    cdef unsigned char* start = &text[0]
    cdef unsigned char* end = start + text.shape[0]
    cdef unsigned char* p = start
    cdef bint has_label = y.shape[0] > 0, has_qid = qid.shape[0] > 0, has_field = field.shape[0] > 0
    cdef bint all_ones = data.shape[0] == 0
    with nogil:
        while row < indptr.shape[0] - 1 and end - p >= 3 * ITEM:
            if entry == indptr[row]:
                if has_label:
                    p = write_number(p, y[row], False)
                    p[0] = c' '
                    p += 1
                if has_qid:
                    memcpy(p, <const char*>"qid:", 4)
                    p = write_integer(p + 4, qid[row])
                    p[0] = c' '
                    p += 1
                if not has_label and not has_qid and entry == indptr[row + 1]:
                    p = write_entry(p, field, has_field, 0, base, 0, False)
                    p[0] = c' '
                    p += 1
            while entry < indptr[row + 1] and end - p >= ITEM:
                p = write_entry(
                    p, field, has_field, indices[entry], base, 1 if all_ones else data[entry], value_t is float
                )
                p[0] = c' '
                p += 1
                entry += 1
            if entry < indptr[row + 1]:
                break
            (p - 1)[0] = c'\n'                        # in place of the last blank
            row += 1
    return p - start, row, entry
