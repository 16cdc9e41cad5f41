"""The driver: carries a plan out. It takes scratch, shares pieces out to threads and runs one phase after the other.

`Job` in, results in the arrays it points to: no Python object is touched while it runs. How the work is cut stands in
the plan (plan.h); what is done with a piece in reduction.pyx, elementwise.pyx and coefs.pyx. For others: driver.pxd.
"""
from cpython.exc cimport PyErr_Occurred
from cython.parallel cimport parallel
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from bnkern._native.capi cimport *
from bnkern._native.coefs cimport coefs_from_saved, finish_reduction
from bnkern._native.elementwise cimport run_chunk, run_columns, run_group, run_piece
from bnkern._native.job cimport *
from bnkern._native.plan cimport call_begins, call_ends, threads_of
from bnkern._native.reduction cimport joined_scratch, reduce_panel, reduce_rows

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **, size_t, size_t)

cdef extern from "driver/team.h" nogil:
    int bn_rank()
    int bn_team()
    void bn_barrier()  # of the threads of the parallel region around it
    void bn_region(int threads, void (*work)(void *, int, int) noexcept nogil, void *task)

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept

cdef enum:
    LINE = 64  # bytes of a cache line: scratch of two threads never shares one
    POLLED = 1 << 16  # elements between two looks at the clock
    NEARBY = 1 << 15  # bytes of scratch that a call finds on the stack
    PHASE_BEGIN = 0
    PHASE_REDUCE
    PHASE_FINISH
    PHASE_ELEMENTWISE
    PHASE_DONE
    PHASE_STREAM

cdef double POLL = 0.05  # seconds between two looks at Ctrl-C

ctypedef void (*worker)(Job *, int) noexcept nogil


# ---- threads ------------------------------------------------------------------------------------------------------

cdef int drive(Job *job) except -1:
    """Takes the scratch, then runs every phase on every thread, in one parallel region.

    An own, capped count: the runtime's settings are never trusted. Entered with the GIL, so that Cython releases what
    it knows to be held; in a function that might be called either way it asks PyGILState_Check, which any
    sub-interpreter makes useless for the rest of the process: hence `drive_anywhere`.
    """
    cdef char nearby[NEARBY + LINE]  # a small call's scratch: malloc would cost as much as its kernels
    cdef void *taken = NULL
    if job.shape.channels * job.shape.count == 0:
        return 0
    if not take_scratch(job, nearby, &taken):
        raise MemoryError("bnkern: no memory for the scratch of this call")
    with nogil:
        call_begins()
        job.next_poll = bn_now() + POLL
        job.work = <void *> next_worker(job)
        if job.plan.threads == 1:
            run_phases(job, 0, 1)
        else:
            with parallel(num_threads=job.plan.threads):
                run_phases(job, bn_rank(), bn_team())
        call_ends()
        free(taken)
    if job.stop:
        if not PyErr_Occurred():
            raise KeyboardInterrupt
        return -1
    return 0


cdef void phases_of_a_thread(void *job, int rank, int team) noexcept nogil:
    run_phases(<Job *> job, rank, team)


cdef bint drive_anywhere(Job *job) noexcept nogil:
    """The same on a thread that may be none of Python's: nobody asks for the GIL, or for Ctrl-C."""
    cdef char nearby[NEARBY + LINE]
    cdef void *taken = NULL
    if job.shape.channels * job.shape.count == 0:
        return True
    if not take_scratch(job, nearby, &taken):
        return False
    call_begins()
    job.next_poll = INFINITY
    job.work = <void *> next_worker(job)
    bn_region(job.plan.threads, phases_of_a_thread, job)
    call_ends()
    free(taken)
    return True


cdef int stream(Job *job, int64_t count, int threads) except -1:
    job.shape.channels, job.shape.count = 1, count
    job.plan.threads = threads_of(threads)
    job.phase = PHASE_STREAM
    return drive(job)


cdef void run_phases(Job *job, int rank, int team) noexcept nogil:
    """One phase after the other on one of `team` threads, with a barrier between two: beginning a region costs more.

    In the default floating-point mode: others hold for one thread alone, and bits would follow. A runtime that gives
    fewer threads than were asked for gives each several parts of the work.
    """
    cdef uint64_t mode = bn_fenv_begin()
    cdef worker work = <worker> job.work
    cdef bint last
    cdef int t
    while work != NULL:
        last = job.phase == PHASE_DONE  # thread 0 alone writes it, between the barriers
        t = rank
        while t < job.plan.threads:
            work(job, t)
            t += team
        if last:
            break
        if team > 1:
            bn_barrier()
        if rank == 0:
            job.work = <void *> next_worker(job)
        if team > 1:
            bn_barrier()
        work = <worker> job.work
    bn_fenv_end(mode)


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


cdef inline char *thread_scratch(Job *job, int t) noexcept nogil:
    return job.scratch + t * job.scratch_bytes


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


cdef inline int64_t columns_of_a_line(Job *job) noexcept nogil:
    return LINE // job.shape.itemsize


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


# ---- scratch ------------------------------------------------------------------------------------------------------

cdef inline size_t round_up(size_t bytes) noexcept nogil:
    return (bytes + LINE - 1) // LINE * LINE


cdef size_t scratch_of_a_thread(Job *job, size_t tile) noexcept nogil:
    """What the reduction's worker lays out, or the tile of short rows; a group needs one after the other."""
    cdef bn_plan *plan = &job.plan
    cdef size_t item = job.kernels.arithsize, bytes = tile if plan.elementwise == BN_TILED_ROWS else 0
    cdef size_t rows = minimum(BN_BLOCK, job.shape.count), width = plan.group
    if plan.reduction == BN_COLUMNS:
        width += columns_of_a_line(job)
    if plan.reduction == BN_PANELS or plan.reduction == BN_COLUMNS:
        bytes = round_up(bn_columns_scratch(width, rows))
        if job.shape.nd > 1:  # copies of rows that cross a gap
            bytes += 3 * rows * width * item
    elif plan.reduction != BN_NO_REDUCTION:
        bytes = maximum(bytes, 3 * (BN_BLOCK + BN_LANES) * item)  # copies of a block
        if plan.joined:
            bytes = maximum(bytes, joined_scratch(job))
    if plan.reduction == BN_COLUMNS:
        bytes += 2 * width * plan.blocks * sizeof(double)
    if plan.reduction == BN_GROUPS:
        bytes += plan.group * (sizeof(bn_sums) + 2 * plan.blocks * sizeof(double))
    elif plan.reduction == BN_SLABS:
        bytes += plan.slab_channels * sizeof(bn_sums)
    return round_up(bytes)


cdef bint take_scratch(Job *job, char *nearby, void **taken) noexcept nogil:
    """Before anything is written: `nearby` (NEARBY + LINE bytes) where that is enough, else *taken, to be freed."""
    cdef char *memory = nearby + -<int64_t> nearby % LINE + LINE
    cdef size_t bytes = lay_out(job, memory)
    if bytes > NEARBY:
        if posix_memalign(taken, LINE, bytes) != 0:
            return False
        lay_out(job, <char *> taken[0])
    return True


cdef size_t lay_out(Job *job, char *memory) noexcept nogil:
    """Places all scratch of a call in `memory`, which begins on a cache line; returns how many bytes that takes."""
    cdef size_t item = job.kernels.arithsize, coef, tile, flat, partials = 0
    job.cs = job.shape.channels + BN_PAD
    coef = round_up((BN_NCOEF * job.cs + BN_PAD) * item)
    tile = round_up(BN_NCOEF * job.plan.tile_width * item)
    flat = tile if job.plan.elementwise == BN_FLAT_ROWS else 0
    if job.plan.reduction != BN_NO_REDUCTION and job.plan.reduction != BN_GROUPS:
        partials = round_up(job.plan.blocks * job.shape.channels * sizeof(double))
    job.scratch_bytes = scratch_of_a_thread(job, tile)
    job.coef = memory
    job.flat_tile = memory + coef
    job.part_a = <double *> (memory + coef + flat)
    job.part_b = <double *> (memory + coef + flat + partials)
    job.scratch = memory + coef + flat + 2 * partials
    return coef + flat + 2 * partials + job.plan.threads * job.scratch_bytes
