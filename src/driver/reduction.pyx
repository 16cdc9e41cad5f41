"""The reductions on pieces of an array: rows of a group or a slab, panels of channels.

Between the driver, which shares pieces out, and the kernels, which see one run or one span at a time. Nothing here
changes a bit of the result (kernels.h: order of summation).
"""
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from bnkern._native.capi cimport *
from bnkern._native.job cimport *

cdef enum:
    FIRST_VALUES = 8  # of a block: its shift is chosen among them
    BN_NREADS = 3  # x, dy, y


# ---- one block of one channel -------------------------------------------------------------------------------------

cdef void begin_block(Job *job, int64_t c, int64_t i, bn_sums *z) noexcept nogil:
    """The block of channel c that begins with element i."""
    cdef bn_operand *x = &job.operands[BN_OPERAND_X]
    cdef int64_t n = minimum(BN_BLOCK, job.shape.count - i), few = minimum(n, FIRST_VALUES)
    cdef double first[FIRST_VALUES]
    if not job.passes & BN_STATS:
        memset(z, 0, sizeof(bn_sums))
    elif bn_run_length(&job.shape, i, few) == few:
        job.kernels.moments_begin(z, bn_at(&job.shape, x, c, i), n)
    else:
        bn_gather(&job.shape, x, c, i, few, <char *> first)
        job.kernels.moments_begin(z, first, n)


cdef inline void add_run(Job *job, bn_run *run, bn_sums *z) noexcept nogil:
    if job.passes & BN_STATS:
        job.kernels.moments_add(z, run)
    else:
        job.kernels.reduce_add(z, run)


cdef void end_block(Job *job, int64_t c, int64_t i, bn_sums *z, double *a, double *b, char *scratch) noexcept nogil:
    """The results of the block, summed in two passes where one has lost digits."""
    cdef int64_t n = minimum(BN_BLOCK, job.shape.count - i)
    if not job.passes & BN_STATS:
        job.kernels.reduce_end(z, n, a, b)
    elif not job.kernels.moments_end(z, n, a, b):
        bn_gather(&job.shape, &job.operands[BN_OPERAND_X], c, i, n, scratch)
        job.kernels.moments_two_pass(scratch, n, a, b)


cdef inline bn_run new_run(Job *job, int64_t c) noexcept nogil:
    cdef bn_run run
    memset(&run, 0, sizeof(run))
    run.coef = coef_of(job, c)
    run.cs = job.cs
    run.flags = job.flags
    run.activation = job.activation
    run.parameter = job.parameter
    run.channels = 1
    run.xc = job.operands[BN_OPERAND_X].cstride // job.shape.itemsize
    run.dyc = job.operands[BN_OPERAND_DY].cstride // job.shape.itemsize
    run.yc = job.operands[BN_OPERAND_Y].cstride // job.shape.itemsize
    return run


cdef inline void place_run(Job *job, bn_run *run, int64_t c, int64_t i) noexcept nogil:
    """The run begins with element i of channel c."""
    run.x = bn_at(&job.shape, &job.operands[BN_OPERAND_X], c, i)
    if not job.passes & BN_STATS:
        run.dy = bn_at(&job.shape, &job.operands[BN_OPERAND_DY], c, i)
        run.y = bn_at(&job.shape, &job.operands[BN_OPERAND_Y], c, i)


# ---- rows of several channels -------------------------------------------------------------------------------------

cdef inline int64_t joined_step(Job *job) noexcept nogil:
    """Elements from channel to channel of joined rows, with room for what a kernel reads before them."""
    return job.plan.joined + BN_LANES


cdef int64_t joined_scratch(Job *job) noexcept nogil:
    return BN_NREADS * job.plan.in_turn * joined_step(job) * job.shape.itemsize


cdef inline char *joined(Job *job, int operand, int64_t c, int64_t channels, int64_t i, int64_t n,
                         char *buffer) noexcept nogil:
    """Elements i .. i+n-1 of each channel side by side."""
    cdef int64_t item = job.shape.itemsize
    if job.operands[operand].data == NULL:
        return NULL
    buffer += BN_LANES * item
    bn_join(&job.shape, &job.operands[operand], c, channels, i, n, buffer, joined_step(job) * item)
    return buffer


cdef void join_run(Job *job, bn_run *run, int64_t c, int64_t i, char *scratch) noexcept nogil:
    """The run is a copy of elements i .. i+n-1 of its channels."""
    cdef int64_t bytes = job.plan.in_turn * joined_step(job) * job.shape.itemsize
    run.x = joined(job, BN_OPERAND_X, c, run.channels, i, run.n, scratch)
    run.xc = run.dyc = run.yc = joined_step(job)
    if not job.passes & BN_STATS:
        run.dy = joined(job, BN_OPERAND_DY, c, run.channels, i, run.n, scratch + bytes)
        run.y = joined(job, BN_OPERAND_Y, c, run.channels, i, run.n, scratch + 2 * bytes)


cdef void reduce_row(Job *job, bn_run *run, int64_t c0, int64_t i, int64_t end, bn_sums *sums, double *a, double *b,
                     char *scratch) noexcept nogil:
    """Elements i .. end-1 of the run's channels, c0 and those after it: one row, where the run is placed, or several
    to be joined. Each channel adds to its own block under way. Results of block k: a[channel, k]."""
    cdef int64_t blocks = job.plan.blocks, item = job.shape.itemsize, c, k, last
    while True:
        k = i // BN_BLOCK
        last = minimum((k + 1) * BN_BLOCK, job.shape.count)
        run.at = i % BN_BLOCK
        run.n = minimum(end, last) - i
        if run.at == 0:
            for c in range(run.channels):
                begin_block(job, c0 + c, i, sums + c)
        if job.plan.joined:
            join_run(job, run, c0, i, scratch)
        add_run(job, run, sums)
        i += run.n
        if i == last:
            for c in range(run.channels):
                end_block(job, c0 + c, k * BN_BLOCK, sums + c, a + c * blocks + k, b + c * blocks + k, scratch)
        if i == end:
            return
        move_run(run, run.n * item)


cdef inline void move_run(bn_run *run, int64_t bytes) noexcept nogil:
    run.x = <const char *> run.x + bytes
    if run.dy != NULL:
        run.dy = <const char *> run.dy + bytes
    if run.y != NULL:
        run.y = <const char *> run.y + bytes


cdef inline int64_t stretch(Job *job, int64_t i) noexcept nogil:
    """How many elements from i on are taken together: the rest of a row, or what is joined, wherever rows end."""
    return job.plan.joined if job.plan.joined else row_length(job) - i % row_length(job)


cdef void reduce_rows(Job *job, int64_t c0, int64_t c1, int64_t i, int64_t end, bn_sums *sums, double *a, double *b,
                      char *scratch) noexcept nogil:
    """Elements i .. end-1 of channels c0 .. c1-1 in the order of memory, which is read at full speed."""
    cdef int64_t blocks = job.plan.blocks, c, d, n
    cdef bn_run first = new_run(job, c0), run
    while i < end:
        n = minimum(stretch(job, i), end - i)
        place_run(job, &first, c0, i)
        c = c0
        while c < c1:
            run = first
            d = c - c0
            run.channels = minimum(job.plan.in_turn, c1 - c)
            run.x = <const char *> run.x + d * job.operands[BN_OPERAND_X].cstride
            if run.dy != NULL:
                run.dy = <const char *> run.dy + d * job.operands[BN_OPERAND_DY].cstride
            if run.y != NULL:
                run.y = <const char *> run.y + d * job.operands[BN_OPERAND_Y].cstride
            run.coef = coef_of(job, c)
            reduce_row(job, &run, c, i, i + n, sums + d, a + d * blocks, b + d * blocks, scratch)
            c += job.plan.in_turn
        i += n


# ---- a panel of channels, channels last ---------------------------------------------------------------------------

cdef const char *rows_in_place(Job *job, int operand, int64_t c, int64_t i, int64_t n, int64_t width, char *buffer,
                               int64_t *step) noexcept nogil:
    """`width` channels of elements i .. i+n-1: in place at one distance, or copied where they cross a gap."""
    cdef bn_operand *o = &job.operands[operand]
    cdef int64_t item = job.shape.itemsize, k
    if o.data == NULL:
        return NULL
    if bn_run_length(&job.shape, i, n) == n:
        step[0] = o.stride[job.shape.nd - 1] // item
        return bn_at(&job.shape, o, c, i)
    step[0] = width
    for k in range(n):
        memcpy(buffer + k * width * item, bn_at(&job.shape, o, c, i + k), width * item)
    return buffer


cdef void reduce_panel(Job *job, int64_t c, int64_t width, int64_t k, double *a, double *b,
                       char *scratch) noexcept nogil:
    """Block k of channels c .. c+width-1, channels without gaps. The operands' copies lie one after the other."""
    cdef int64_t i = k * BN_BLOCK, n = minimum(BN_BLOCK, job.shape.count - i), bytes = n * width * job.shape.itemsize
    cdef char *buffer = scratch + bn_columns_scratch(width, n)
    cdef bn_span span
    memset(&span, 0, sizeof(span))
    span.x = rows_in_place(job, BN_OPERAND_X, c, i, n, width, buffer, &span.xs)
    span.dy = rows_in_place(job, BN_OPERAND_DY, c, i, n, width, buffer + bytes, &span.dys)
    span.y = rows_in_place(job, BN_OPERAND_Y, c, i, n, width, buffer + 2 * bytes, &span.ys)
    span.rows = n
    span.width = width
    span.coef = coef_of(job, c)
    span.cs = job.cs
    span.flags = job.flags
    span.prefetch = job.plan.from_memory
    span.activation = job.activation
    span.parameter = job.parameter
    if job.passes & BN_STATS:
        job.kernels.moments_cl(&span, a, b, scratch)
    else:
        job.kernels.reduce_cl(&span, a, b, scratch)
