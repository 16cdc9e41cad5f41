"""The reductions on pieces of an array: blocks of a channel, rows of a group, panels of channels.

Between the driver, which shares pieces out, and the kernels, which see one run or one span at a time. Nothing here
changes a bit of the result (kernels.h: order of summation).
"""
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from bnkern._native.capi cimport *
from bnkern._native.job cimport *

cdef enum:
    FIRST_VALUES = 8  # of a block: its shift is chosen among them


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


cdef inline char *gathered(Job *job, int operand, int64_t c, int64_t i, int64_t n, char *buffer) noexcept nogil:
    """Elements i .. i+n-1 of a channel side by side in the buffer; NULL where the operand is not there."""
    if job.operands[operand].data == NULL:
        return NULL
    bn_gather(&job.shape, &job.operands[operand], c, i, n, buffer)
    return buffer


cdef void gathered_block(Job *job, int64_t c, int64_t i, double *a, double *b, char *scratch) noexcept nogil:
    """A block whose rows are shorter than the lanes, through a copy with room for what a kernel reads before it."""
    cdef int64_t slack = BN_LANES * job.shape.itemsize, bytes = BN_BLOCK * job.shape.itemsize + slack
    cdef bn_sums z
    cdef bn_run run = new_run(job, c)
    run.n = minimum(BN_BLOCK, job.shape.count - i)
    scratch += slack
    run.x = gathered(job, BN_OPERAND_X, c, i, run.n, scratch)
    run.dy = gathered(job, BN_OPERAND_DY, c, i, run.n, scratch + bytes)
    run.y = gathered(job, BN_OPERAND_Y, c, i, run.n, scratch + 2 * bytes)
    begin_block(job, c, i, &z)
    add_run(job, &run, &z)
    end_block(job, c, i, &z, a, b, scratch)


cdef void reduce_block(Job *job, int64_t c, int64_t k, double *a, double *b, char *scratch) noexcept nogil:
    """Block k of channel c, rows without gaps."""
    cdef int64_t i = k * BN_BLOCK, begin = i, end = minimum(i + BN_BLOCK, job.shape.count)
    cdef bn_sums z
    cdef bn_run run
    if row_length(job) < BN_LANES:
        gathered_block(job, c, i, a, b, scratch)
        return
    run = new_run(job, c)
    begin_block(job, c, i, &z)
    while i < end:
        run.at = i - begin
        run.n = bn_run_length(&job.shape, i, end - i)
        place_run(job, &run, c, i)
        add_run(job, &run, &z)
        i += run.n
    end_block(job, c, begin, &z, a, b, scratch)


# ---- a group of channels, row by row ------------------------------------------------------------------------------

cdef void reduce_row(Job *job, int64_t c0, int64_t c1, int64_t q, bn_sums *sums, double *a, double *b,
                     char *scratch) noexcept nogil:
    """Row q of channels c0 .. c1-1: each adds to its own block under way. Results of block k: a[channel, k]."""
    cdef int64_t r = row_length(job), i = q * r, end = i + r, blocks = job.plan.blocks, c, k, last
    cdef bn_run run = new_run(job, c0)
    run.channels = c1 - c0
    while i < end:
        k = i // BN_BLOCK
        last = minimum((k + 1) * BN_BLOCK, job.shape.count)
        run.at = i % BN_BLOCK
        run.n = minimum(end, last) - i
        if run.at == 0:
            for c in range(c0, c1):
                begin_block(job, c, i, sums + (c - c0))
        place_run(job, &run, c0, i)
        add_run(job, &run, sums)
        i += run.n
        if i == last:
            for c in range(c0, c1):
                end_block(job, c, k * BN_BLOCK, sums + (c - c0), a + (c - c0) * blocks + k, b + (c - c0) * blocks + k,
                          scratch)


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
