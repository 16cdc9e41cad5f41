"""The elementwise passes on pieces of an array: each becomes as few spans as its axes allow.

Between the driver, which shares pieces out, and the kernels, which see one span at a time.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from bnkern._native.capi cimport *
from bnkern._native.job cimport *


cdef inline void run_kernel(Job *job, bn_span *span, const char *coef, int64_t cs, int flags,
                            int64_t prefetch) noexcept nogil:
    span.coef = coef
    span.cs = cs
    span.flags = flags | job.flags
    span.prefetch = prefetch
    span.activation = job.activation
    span.parameter = job.parameter
    if job.passes & BN_NORMALISE:
        job.kernels.normalise(span)
    else:
        job.kernels.input_grad(span)


cdef inline char *place(Job *job, int operand, int64_t c, int64_t i, int axis, int64_t *step) noexcept nogil:
    """Element i of channel c, and the elements from row to row of this very operand: no two need have the same."""
    cdef bn_operand *o = &job.operands[operand]
    if o.data == NULL:
        return NULL
    step[0] = o.stride[axis] // job.shape.itemsize
    return bn_at(&job.shape, o, c, i)


cdef void run_rows(Job *job, int64_t c, int64_t i, int64_t rows, int64_t channels, int64_t width, int axis,
                   const char *coef, int64_t cs, int flags, int64_t prefetch) noexcept nogil:
    """`rows` rows from element i of channel c on, one step apart along the sequence's axis `axis`."""
    cdef bn_span span
    memset(&span, 0, sizeof(span))
    span.x = place(job, BN_OPERAND_X, c, i, axis, &span.xs)
    span.dy = place(job, BN_OPERAND_DY, c, i, axis, &span.dys)
    span.residual = place(job, BN_OPERAND_RESIDUAL, c, i, axis, &span.residuals)
    span.y = place(job, BN_OPERAND_Y, c, i, axis, &span.ys)
    span.out = place(job, BN_OPERAND_OUT, c, i, axis, &span.outs)
    span.dresidual = place(job, BN_OPERAND_DRESIDUAL, c, i, axis, &span.dresiduals)
    span.rows = rows
    span.channels = channels
    span.width = width
    run_kernel(job, &span, coef, cs, flags, prefetch)


# ---- channels first -----------------------------------------------------------------------------------------------

cdef void run_sequence(Job *job, int64_t c, int64_t q0, int64_t q1, int64_t channels, int64_t width, const char *coef,
                       int64_t cs, int flags, int64_t prefetch) noexcept nogil:
    """Rows q0 .. q1-1 of the sequence, as few spans as the outer axes allow."""
    cdef int64_t r = row_length(job), n
    cdef int outer = job.shape.nd - 2
    while q0 < q1:
        n = 1 if outer < 0 else minimum(q1 - q0, job.shape.size[outer] - q0 % job.shape.size[outer])
        run_rows(job, c, q0 * r, n, channels, width, maximum(outer, 0), coef, cs, flags, prefetch)
        q0 += n


cdef inline bint adjacent(Job *job) noexcept nogil:
    """Do rows of neighbouring channels follow one another, in every operand?"""
    cdef int64_t step = row_length(job) * job.shape.itemsize
    cdef int k
    for k in range(BN_NOPERAND):
        if job.operands[k].data != NULL and job.operands[k].cstride != step:
            return False
    return True


cdef void run_group(Job *job, int64_t c0, int64_t c1, int64_t q0, int64_t q1, char *tile,
                    int64_t prefetch) noexcept nogil:
    """Rows q0 .. q1-1 of channels c0 .. c1-1, rows without gaps."""
    cdef int64_t r = row_length(job), width = job.plan.tile_width, c
    if job.plan.elementwise == BN_TILED_ROWS:
        job.kernels.coefs_tile(tile, width, job.coef, job.cs, coef_rows(job), c0, c1 - c0, r, 1)
        run_sequence(job, c0, q0, q1, 1, (c1 - c0) * r, tile, width, BN_TILE, prefetch)
    elif adjacent(job):
        run_sequence(job, c0, q0, q1, c1 - c0, r, coef_of(job, c0), job.cs, 0, prefetch)
    else:
        for c in range(c0, c1):
            run_sequence(job, c, q0, q1, 1, r, coef_of(job, c), job.cs, 0, prefetch)


cdef void run_piece(Job *job, int64_t c, int64_t i, int64_t n) noexcept nogil:
    """Elements i .. i+n-1 of channel c, which lie in one row."""
    run_rows(job, c, i, 1, 1, n, 0, coef_of(job, c), job.cs, 0, 0)


# ---- channels last ------------------------------------------------------------------------------------------------

cdef void run_columns(Job *job, int64_t c0, int64_t c1, int64_t i, int64_t end) noexcept nogil:
    """Elements i .. end-1 of channels c0 .. c1-1, channels without gaps."""
    cdef int64_t n
    while i < end:
        n = bn_run_length(&job.shape, i, end - i)
        run_rows(job, c0, i, n, 1, c1 - c0, job.shape.nd - 1, coef_of(job, c0), job.cs, BN_TILE, job.plan.prefetch)
        i += n


cdef void run_chunk(Job *job, int64_t i, int64_t end) noexcept nogil:
    """Elements i .. end-1 of all channels, channels without gaps; or these periods of flat rows."""
    if job.plan.elementwise == BN_FLAT_ROWS:
        run_flat(job, i * job.plan.period, end * job.plan.period)
    else:
        run_columns(job, 0, job.shape.channels, i, end)


cdef void run_flat(Job *job, int64_t at, int64_t end) noexcept nogil:
    """Positions at .. end-1 of gapless memory, counted over elements and channels.

    Streamed rows begin where a cache line of the output does; the tile goes round, so a row may begin at any channel.
    """
    cdef int64_t item = job.shape.itemsize, n
    if job.plan.stream:
        n = -(<int64_t> job.operands[BN_OPERAND_OUT].data + at * item) % 64
        n = minimum((n + 64) % 64 // item, end - at)
        run_flat_rows(job, at, 1, n)
        at += n
    n = (end - at) // job.plan.flat
    run_flat_rows(job, at, n, job.plan.flat)
    at += n * job.plan.flat
    run_flat_rows(job, at, 1, end - at)


cdef inline char *position(Job *job, int operand, int64_t at) noexcept nogil:
    cdef char *data = job.operands[operand].data
    return data + at * job.shape.itemsize if data != NULL else NULL


cdef void run_flat_rows(Job *job, int64_t at, int64_t rows, int64_t width) noexcept nogil:
    """`rows` flat rows of `width` positions."""
    cdef bn_span span
    if rows == 0 or width == 0:
        return
    memset(&span, 0, sizeof(span))
    span.x = position(job, BN_OPERAND_X, at)
    span.dy = position(job, BN_OPERAND_DY, at)
    span.residual = position(job, BN_OPERAND_RESIDUAL, at)
    span.y = position(job, BN_OPERAND_Y, at)
    span.out = position(job, BN_OPERAND_OUT, at)
    span.dresidual = position(job, BN_OPERAND_DRESIDUAL, at)
    span.xs = span.dys = span.residuals = span.ys = span.outs = span.dresiduals = job.plan.flat
    span.rows = rows
    span.channels = 1
    span.width = width
    run_kernel(job, &span, job.flat_tile + at % job.plan.period * job.kernels.arithsize, job.plan.tile_width,
               BN_TILE, job.plan.prefetch)
