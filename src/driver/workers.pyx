"""What a thread does in each phase of a call: its share of the pieces that the plan has cut.

What is done with a piece stands in reduction.pyx, elementwise.pyx and coefs.pyx.
"""
from libc.stdint cimport int64_t
from libc.string cimport memset

from bnkern._native.capi cimport *
from bnkern._native.coefs cimport coefs_from_saved, finish_reduction
from bnkern._native.elementwise cimport run_chunk, run_columns, run_group, run_piece
from bnkern._native.job cimport *
from bnkern._native.reduction cimport reduce_panel, reduce_rows

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept

cdef enum:
    POLLED = 1 << 16  # elements between two looks at the clock


cdef bint stopped(Job *job, int t) noexcept nogil:
    """Has Ctrl-C been pressed? The calling thread (t = 0) asks Python twenty times a second."""
    cdef double now
    if t == 0:
        now = bn_now()
        if now > job.next_poll:
            job.next_poll = now + POLL
            with gil:
                if PyErr_CheckSignals() < 0:
                    bn_raise(&job.stop)
    return bn_raised(&job.stop)


cdef inline int64_t share(Job *job, int64_t units, int t) noexcept nogil:
    """Where thread t's part of `units` begins (and thread t-1's ends)."""
    return units // job.plan.threads * t + minimum(t, units % job.plan.threads)


cdef inline void fence(Job *job) noexcept nogil:
    if job.plan.stream:
        bn_store_fence()


# ---- phases -------------------------------------------------------------------------------------------------------

cdef worker next_worker(Job *job) noexcept nogil:
    """What all threads do next: coefficients, then reduce, finish, elementwise. NULL: done."""
    while job.phase != PHASE_DONE and not job.stop:
        if job.phase == PHASE_BEGIN:
            job.phase = PHASE_REDUCE
            if job.plan.reduction == BN_GROUPS or job.plan.reduction == BN_COLUMNS:
                job.phase = PHASE_DONE
                return work_groups if job.plan.reduction == BN_GROUPS else work_columns
            if not job.passes & BN_STATS:
                return work_coefs
        elif job.phase == PHASE_REDUCE:
            job.phase = PHASE_FINISH
            if job.passes & BN_REDUCTIONS:
                return work_slabs if job.plan.reduction == BN_SLABS else work_panels
        elif job.phase == PHASE_FINISH:
            job.phase = PHASE_ELEMENTWISE
            if not job.passes & BN_ELEMENTWISE:
                job.phase = PHASE_DONE
            if job.passes & BN_REDUCTIONS:
                return work_finish
        elif job.phase == PHASE_ELEMENTWISE:
            job.phase = PHASE_DONE
            if job.passes & BN_ELEMENTWISE:
                return elementwise_worker(job)
        else:
            job.phase = PHASE_DONE
            return work_stream
    return NULL


cdef worker elementwise_worker(Job *job) noexcept nogil:
    if job.plan.elementwise == BN_RUNS:
        return work_runs
    if job.plan.elementwise == BN_TILED_ROWS:
        return work_tiled_rows
    if job.plan.elementwise == BN_FLAT_ROWS:
        job.kernels.coefs_tile(job.flat_tile, job.plan.tile_width, job.coef, job.cs, coef_rows(job), 0,
                               job.shape.channels, job.plan.period // job.shape.channels,
                               job.plan.flat // job.plan.period + 1)
    return work_rows


cdef void work_coefs(Job *job, int t) noexcept nogil:
    coefs_from_saved(job, share(job, job.shape.channels, t), share(job, job.shape.channels, t + 1))


cdef inline int64_t until_poll(Job *job, int64_t channels, int64_t i) noexcept nogil:
    """Where a group's reduction, at element i, looks whether it is to stop."""
    cdef int64_t unit = job.plan.joined if job.plan.joined else row_length(job)
    return minimum(i + maximum(1, POLLED // (channels * unit)) * unit, job.shape.count)


cdef void work_groups(Job *job, int t) noexcept nogil:
    """All passes over one group of channels after the other, the elementwise one while the group is in cache.

    Scratch: sums under way and the results of the blocks, for each channel of the group; then what a block needs.
    """
    cdef int64_t channels = job.shape.channels, group = job.plan.group, groups = ceil_div(channels, group)
    cdef int64_t blocks = job.plan.blocks, unit, c0, c1, i, end
    cdef bn_sums *sums = <bn_sums *> thread_scratch(job, t)
    cdef double *a = <double *> (sums + group)
    cdef double *b = a + group * blocks
    cdef char *scratch = <char *> (b + group * blocks)
    for unit in range(share(job, groups, t), share(job, groups, t + 1)):
        c0 = unit * group
        c1 = minimum(c0 + group, channels)
        if not job.passes & BN_STATS:
            coefs_from_saved(job, c0, c1)
        i = 0
        while i < job.shape.count:
            end = until_poll(job, group, i)
            reduce_rows(job, c0, c1, i, end, sums, a, b, scratch)
            i = end
            if stopped(job, t):
                fence(job)
                return
        finish_reduction(job, a, b, 1, blocks, c0, c1)
        if job.passes & BN_ELEMENTWISE:
            run_group(job, c0, c1, 0, rows_per_channel(job), scratch,
                      job.plan.prefetch if unit + 1 < share(job, groups, t + 1) else 0)
    fence(job)


cdef void work_slabs(Job *job, int t) noexcept nogil:
    """Units are some blocks of some channels. Scratch: sums under way; then what rows that are joined need."""
    cdef int64_t channels = job.shape.channels, panel = job.plan.slab_channels, panels = ceil_div(channels, panel)
    cdef int64_t blocks = job.plan.blocks, elements = job.plan.slab_blocks * BN_BLOCK
    cdef int64_t units = panels * ceil_div(blocks, job.plan.slab_blocks), unit, c, i
    cdef bn_sums *sums = <bn_sums *> thread_scratch(job, t)
    for unit in range(share(job, units, t), share(job, units, t + 1)):
        if stopped(job, t):
            return
        c = unit % panels * panel
        i = unit // panels * elements
        reduce_rows(job, c, minimum(c + panel, channels), i, minimum(i + elements, job.shape.count), sums,
                    job.part_a + c * blocks, job.part_b + c * blocks, <char *> (sums + panel))


cdef void work_panels(Job *job, int t) noexcept nogil:
    cdef int64_t channels = job.shape.channels, panel = job.plan.group, panels = ceil_div(channels, panel)
    cdef int64_t blocks = job.plan.blocks, units = blocks * panels, unit, c, at
    for unit in range(share(job, units, t), share(job, units, t + 1)):
        if stopped(job, t):
            return
        c = unit // blocks * panel
        at = unit % blocks * channels + c
        reduce_panel(job, c, minimum(panel, channels - c), unit % blocks, job.part_a + at, job.part_b + at,
                     thread_scratch(job, t))


cdef inline int64_t in_order(Job *job, int64_t k, int64_t begin, int64_t end) noexcept nogil:
    """Unit k of begin .. end-1, from the end where the reduction has just been there."""
    return end - 1 - (k - begin) if job.plan.backwards else k


cdef int64_t panel_border(Job *job, int64_t unit) noexcept nogil:
    """Where panel `unit` begins: on a cache line of the output, so that no two threads write to one."""
    cdef bn_operand *out = &job.operands[BN_OPERAND_OUT]
    cdef int64_t at = unit * job.plan.group
    if at >= job.shape.channels or at == 0 or out.stride[job.shape.nd - 1] % LINE != 0:
        return minimum(at, job.shape.channels)
    return at - <int64_t> out.data % LINE // job.shape.itemsize


cdef void work_columns(Job *job, int t) noexcept nogil:
    """All passes over one panel of channels after the other: what a thread has read is in its own caches.

    Scratch: the results of the panel's blocks, then what a block needs.
    """
    cdef int64_t channels = job.shape.channels, panel = job.plan.group, panels = ceil_div(channels, panel)
    cdef int64_t blocks = job.plan.blocks, chunk = job.plan.chunk, chunks, unit, c0, c1, width, k, at
    cdef double *a = <double *> thread_scratch(job, t)
    cdef double *b = a + (panel + columns_of_a_line(job)) * blocks
    cdef char *scratch = <char *> (b + (panel + columns_of_a_line(job)) * blocks)
    for unit in range(share(job, panels, t), share(job, panels, t + 1)):
        c0 = panel_border(job, unit)
        c1 = panel_border(job, unit + 1)
        width = c1 - c0
        if not job.passes & BN_STATS:
            coefs_from_saved(job, c0, c1)
        for k in range(blocks):
            if stopped(job, t):
                fence(job)
                return
            reduce_panel(job, c0, width, k, a + k * width, b + k * width, scratch)
        finish_reduction(job, a, b, width, 1, c0, c1)
        chunks = ceil_div(job.shape.count, chunk) if job.passes & BN_ELEMENTWISE else 0
        for k in range(chunks):
            at = in_order(job, k, 0, chunks) * chunk
            run_columns(job, c0, c1, at, minimum(at + chunk, job.shape.count))
    fence(job)


cdef void work_finish(Job *job, int t) noexcept nogil:
    cdef int64_t channels = job.shape.channels, c0 = share(job, channels, t), c1 = share(job, channels, t + 1)
    cdef int64_t blocks = job.plan.blocks
    if job.plan.reduction == BN_SLABS:
        finish_reduction(job, job.part_a + c0 * blocks, job.part_b + c0 * blocks, 1, blocks, c0, c1)
    else:
        finish_reduction(job, job.part_a + c0, job.part_b + c0, channels, 1, c0, c1)


cdef void work_runs(Job *job, int t) noexcept nogil:
    """Units are runs of whole channels, or pieces of a long row."""
    cdef int64_t together = job.plan.run_group, channels = job.shape.channels, groups = ceil_div(channels, together)
    cdef int64_t pieces = job.plan.row_pieces, r = row_length(job), units = rows_per_channel(job) * groups * pieces
    cdef int64_t begin = share(job, units, t), end = share(job, units, t + 1), unit, k, q, c, i
    for k in range(begin, end):
        if stopped(job, t):
            break
        unit = in_order(job, k, begin, end)
        q = unit // pieces // groups
        c = unit // pieces % groups * together
        if pieces == 1:
            run_group(job, c, minimum(c + together, channels), q, q + 1, NULL, 0)
        else:
            i = unit % pieces * job.plan.piece
            run_piece(job, c, q * r + i, minimum(job.plan.piece, r - i))
    fence(job)


cdef void work_tiled_rows(Job *job, int t) noexcept nogil:
    """Units are a tile of channels, over all rows or a part of them."""
    cdef int64_t group = job.plan.group, channels = job.shape.channels, rows = rows_per_channel(job)
    cdef int64_t parts = job.plan.row_parts, units = ceil_div(channels, group) * parts, unit, c, part
    for unit in range(share(job, units, t), share(job, units, t + 1)):
        if stopped(job, t):
            break
        c = unit // parts * group
        part = unit % parts
        run_group(job, c, minimum(c + group, channels), rows * part // parts, rows * (part + 1) // parts,
                  thread_scratch(job, t), job.plan.prefetch)
    fence(job)


cdef void work_rows(Job *job, int t) noexcept nogil:
    """Rows, or the periods of flat rows, shared out to the row and taken in chunks."""
    cdef int64_t rows = job.shape.count, chunk = job.plan.chunk, begin, end, chunks, k, at
    if job.plan.elementwise == BN_FLAT_ROWS:
        rows = rows * job.shape.channels // job.plan.period
    begin = share(job, rows, t)
    end = share(job, rows, t + 1)
    chunks = ceil_div(end - begin, chunk)
    for k in range(chunks):
        if stopped(job, t):
            break
        at = begin + in_order(job, k, 0, chunks) * chunk
        run_chunk(job, at, minimum(at + chunk, end))
    fence(job)


cdef void work_stream(Job *job, int t) noexcept nogil:
    """A streaming copy or triad of gapless arrays."""
    cdef bn_span span
    cdef int64_t item = job.kernels.itemsize, begin = share(job, job.shape.count, t)
    memset(&span, 0, sizeof(span))
    span.x = job.operands[BN_OPERAND_X].data + begin * item
    span.out = job.operands[BN_OPERAND_OUT].data + begin * item
    span.width = share(job, job.shape.count, t + 1) - begin
    if job.operands[BN_OPERAND_DY].data != NULL:
        span.dy = job.operands[BN_OPERAND_DY].data + begin * item
        job.kernels.stream_triad(&span)
    else:
        job.kernels.stream_copy(&span)
    bn_store_fence()
