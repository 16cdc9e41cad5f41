"""The driver: carries a plan out. It takes scratch, and runs one phase after the other on every thread.

`Job` in, results in the arrays it points to: no Python object is touched while it runs. How the work is cut stands in
the plan (plan.h); the phases in workers.pyx. For others: driver.pxd.
"""
from cpython.exc cimport PyErr_Occurred
from cython.parallel cimport parallel
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free

from bnkern._native.capi cimport *
from bnkern._native.job cimport *
from bnkern._native.plan cimport call_begins, call_ends, threads_of
from bnkern._native.reduction cimport joined_scratch
from bnkern._native.workers cimport *

cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **, size_t, size_t)

cdef extern from "driver/team.h" nogil:
    int bn_rank()
    int bn_team()
    void bn_barrier()  # of the threads of the parallel region around it
    void bn_region(int threads, void (*work)(void *, int, int) noexcept nogil, void *task)

cdef enum:
    NEARBY = 1 << 15  # bytes of scratch that a call finds on the stack


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
