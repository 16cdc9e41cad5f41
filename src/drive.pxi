# The drivers: plan, partition over threads, run. Nothing here changes a bit of the result (kernels.h: order of summation).

cdef enum:
    GRAIN = 1 << 14       # elements for each thread that repay a parallel region
    TILE_WIDTH = 2048     # elements of a coefficient tile of short rows
    FLAT_WIDTH = 256      # the same for gapless channels-last rows
    LONG_ROW = 512        # rows from here on are worth a call each
    GAPPED_GROUP = 128    # channels taken together where rows may have to be copied: a thread's copies stay in L2
    SHORT_ROW = 16        # rows below are taken several channels at a time
    CHANNEL = -2          # in place of an axis

ctypedef void (*worker)(Job *, int) noexcept nogil


cdef void parallel(worker work, Job *job) noexcept nogil:
    """The one parallel region of the library. An own, capped count: the runtime's settings are never trusted."""
    cdef int t
    if job.threads == 1:
        with_default_fenv(work, job, 0)
        return
    for t in prange(job.threads, num_threads=job.threads, schedule='static', chunksize=1):
        with_default_fenv(work, job, t)


cdef inline void with_default_fenv(worker work, Job *job, int t) noexcept nogil:
    """In the default floating-point mode: others hold for one thread alone, and bits would follow."""
    cdef unsigned mode = bn_fenv_begin()
    work(job, t)
    bn_fenv_end(mode)


cdef bint stopped(Job *job, int t) noexcept nogil:
    """Has Ctrl-C been pressed? The calling thread (t = 0) asks Python twenty times a second."""
    cdef double now
    if t == 0:
        now = bn_now()
        if now > job.next_poll:
            job.next_poll = now + 0.05
            with gil:
                if PyErr_CheckSignals() < 0:
                    bn_raise(&job.stop)
    return bn_raised(&job.stop)


cdef inline int64_t share(Job *job, int64_t units, int t) noexcept nogil:
    """Where thread t's part of `units` begins (and thread t-1's ends)."""
    return units // job.threads * t + minimum(t, units % job.threads)


cdef inline void fence(Job *job) noexcept nogil:
    if job.flags & BN_STREAM:
        bn_store_fence()


# ---- workers ----------------------------------------------------------------------------------------------------

cdef void work_prepare(Job *job, int t) noexcept nogil:
    prepare(job, share(job, job.shape.channels, t), share(job, job.shape.channels, t + 1))


cdef void work_first_cf(Job *job, int t) noexcept nogil:
    cdef int64_t unit, c, k, units = (job.last - job.first) * job.blocks
    for unit in range(share(job, units, t), share(job, units, t + 1)):
        if stopped(job, t):
            return
        c = job.first + unit // job.blocks
        k = unit % job.blocks
        first_block(job, c, k, job.part_a + c * job.blocks + k, job.part_b + c * job.blocks + k, thread_scratch(job, t))


cdef void work_first_cl(Job *job, int t) noexcept nogil:
    cdef int64_t unit, c, at, channels = job.shape.channels, groups = ceil_div(channels, job.group)
    for unit in range(share(job, job.blocks * groups, t), share(job, job.blocks * groups, t + 1)):
        if stopped(job, t):
            return
        c = unit % groups * job.group
        at = unit // groups * channels + c
        first_cl(job, c, minimum(job.group, channels - c), unit // groups, job.part_a + at, job.part_b + at,
                 thread_scratch(job, t))


cdef void work_conclude(Job *job, int t) noexcept nogil:
    cdef int64_t n = job.last - job.first, c0 = job.first + share(job, n, t), c1 = job.first + share(job, n, t + 1)
    if job.layout == BN_CHANNELS_FIRST:
        conclude(job, job.part_a + c0 * job.blocks, job.part_b + c0 * job.blocks, 1, job.blocks, c0, c1)
    else:
        conclude(job, job.part_a + c0, job.part_b + c0, job.shape.channels, 1, c0, c1)


cdef void work_second_cf(Job *job, int t) noexcept nogil:
    """Units are runs of whole channels, or parts of a long one, in memory order.

    Reversed after a first pass: its last rows are still in cache.
    """
    cdef int64_t channels = job.last - job.first, rows = rows_per_channel(job), r = row_length(job)
    cdef int64_t piece = maximum(1 << 12, minimum(1 << 16, rows * channels * r // (8 * job.threads) // 16 * 16))
    cdef int64_t together = minimum(channels, maximum(1, piece // r)), groups = ceil_div(channels, together)
    cdef int64_t parts = 1 if piece > r else ceil_div(r, piece), units = rows * groups * parts
    cdef int64_t unit, k, q, c, i, begin = share(job, units, t), end = share(job, units, t + 1)
    for k in range(begin, end):
        if stopped(job, t):
            break
        unit = end - 1 - (k - begin) if job.passes & (STATS | REDUCE) else k
        q = unit // parts // groups
        c = job.first + unit // parts % groups * together
        if parts == 1:
            second_group(job, c, minimum(c + together, job.last), q, q + 1, NULL, 0)
        else:
            i = unit % parts * piece
            second(job, c, q * r + i, 1, 1, minimum(piece, r - i), 0, coef_of(job, c), job.cs, job.flags, 0)
    fence(job)


cdef void work_second_tiled(Job *job, int t) noexcept nogil:
    """Short rows: a tile of channels at a time, over a part of the rows where there are few tiles."""
    cdef int64_t channels = job.last - job.first, rows = rows_per_channel(job)
    cdef int64_t groups = ceil_div(channels, job.group), unit, c, part
    cdef int64_t parts = minimum(rows, maximum(ceil_div(4 * job.threads, groups), job.shape.count * job.group >> 18))
    parts = maximum(parts, 1)
    for unit in range(share(job, groups * parts, t), share(job, groups * parts, t + 1)):
        if stopped(job, t):
            break
        c = job.first + unit // parts * job.group
        part = unit % parts
        second_group(job, c, minimum(c + job.group, job.last), rows * part // parts, rows * (part + 1) // parts,
                     thread_scratch(job, t), 8 * job.out.stride[0])
    fence(job)


cdef void work_second_cl(Job *job, int t) noexcept nogil:
    """Chunks of rows, reversed after a first pass."""
    cdef int64_t chunk = maximum(8, (1 << 17) // (job.shape.channels * job.shape.itemsize)), unit, at
    cdef int64_t units, begin, end
    if job.flat:  # enough rows of the tile to be taken together
        chunk = maximum(chunk, minimum(32 * job.flat // job.shape.channels, ceil_div(job.shape.count, job.threads)))
    units = ceil_div(job.shape.count, chunk)
    begin = share(job, units, t)
    end = share(job, units, t + 1)
    for unit in range(begin, end):
        if stopped(job, t):
            break
        at = (end - 1 - (unit - begin) if job.passes & (STATS | REDUCE) else unit) * chunk
        second_cl(job, at, minimum(at + chunk, job.shape.count))
    fence(job)


cdef void work_groups(Job *job, int t) noexcept nogil:
    """Both passes (or the first) over one group of channels after the other, the second while the group is in cache."""
    cdef int64_t channels = job.shape.channels, groups = ceil_div(channels, job.group), unit, c, c0, c1, q
    cdef int64_t together = 1 if row_length(job) >= LONG_ROW else job.group
    cdef bn_sums *sums = <bn_sums *> thread_scratch(job, t)
    cdef double *a = <double *> (sums + job.group)
    cdef double *b = a + job.group * job.blocks
    cdef char *scratch = <char *> (b + job.group * job.blocks)
    for unit in range(share(job, groups, t), share(job, groups, t + 1)):
        c0 = unit * job.group
        c1 = minimum(c0 + job.group, channels)
        if not job.passes & STATS:
            prepare(job, c0, c1)
        for q in range(rows_per_channel(job)):
            c = c0
            while c < c1:  # in the order of memory: that reads at full speed
                first_row(job, c, minimum(c + together, c1), q, sums + (c - c0), a + (c - c0) * job.blocks,
                          b + (c - c0) * job.blocks, scratch)
                c += together
            if stopped(job, t):
                fence(job)
                return
        conclude(job, a, b, 1, job.blocks, c0, c1)
        if job.passes & (APPLY | GRAD):
            second_group(job, c0, c1, 0, rows_per_channel(job), scratch, 0)
    fence(job)


cdef void work_limit(Job *job, int t) noexcept nogil:
    """A streaming copy or triad of gapless arrays."""
    cdef bn_span span
    cdef int64_t item = job.kernels.itemsize, begin = share(job, job.shape.count, t)
    memset(&span, 0, sizeof(span))
    span.x = job.x.data + begin * item
    span.dy = job.dy.data + begin * item if job.dy.data != NULL else NULL
    span.out = job.out.data + begin * item
    span.width = share(job, job.shape.count, t + 1) - begin
    if span.dy != NULL:
        job.kernels.stream_triad(&span)
    else:
        job.kernels.stream_copy(&span)
    bn_store_fence()


# ---- plan -------------------------------------------------------------------------------------------------------

cdef void plan(Job *job, int threads) noexcept nogil:
    """Everything that speed asks for and results do not depend on."""
    cdef int64_t channels = job.shape.channels, count = job.shape.count, r = row_length(job), item = job.shape.itemsize
    cdef int64_t lcm, groups
    cdef bint both = job.passes & (STATS | REDUCE) and job.passes & (APPLY | GRAD)
    job.threads = <int> maximum(1, minimum(1 if bn_forked() else threads, channels * count // GRAIN))
    job.blocks = ceil_div(count, BN_BLOCK)
    job.cs = channels + BN_PAD
    job.first = 0
    job.last = channels
    job.group = 1
    job.tile_width = TILE_WIDTH + BN_PAD
    if job.passes & (APPLY | GRAD) and not in_place(job) and \
            channels * count * item >= (stream_bytes if job.layout == BN_CHANNELS_FIRST else stream_bytes // 2):
        job.flags |= BN_STREAM
    if job.layout == BN_CHANNELS_LAST:
        # whole rows, in the order of memory, unless that leaves threads idle
        groups = minimum(ceil_div(2 * job.threads, job.blocks), ceil_div(channels, 64))
        groups = maximum(groups, ceil_div(channels, BN_GROUP if job.shape.nd == 1 else GAPPED_GROUP))
        job.group = ceil_div(ceil_div(channels, groups), 16) * 16 if groups > 1 else channels
        lcm = channels * 16 // gcd16(channels)
        # one run of gapless memory in every operand: with more axes left, something lies between or in another order
        if job.passes & (APPLY | GRAD) and lcm <= 1 << 14 and job.shape.nd == 1 and \
                all_spaced(job, 0, channels * item):
            job.flat = lcm * ceil_div(minimum(FLAT_WIDTH, channels * count), lcm)
            job.tile_width = job.flat + channels + BN_PAD
        return
    job.adjacent = all_spaced(job, CHANNEL, r * item)
    # Both passes: what stays in this thread's share of the last cache. One pass: channels whose sums stay in L2.
    job.group = maximum(1, minimum(channels, stream_bytes // 4 // (count * item) if both else 256))
    if job.passes & (APPLY | GRAD) and r < SHORT_ROW and rows_per_channel(job) >= 4 and job.adjacent:
        job.tiled = True
        job.group = minimum(job.group, maximum(1, TILE_WIDTH // r))
    groups = ceil_div(ceil_div(channels, job.group), job.threads) * job.threads
    job.group = ceil_div(channels, groups)  # as many groups for every thread
    groups = ceil_div(channels, job.group)
    job.grouped = job.passes & (STATS | REDUCE) and r >= BN_LANES and count <= 1 << 24 and \
        10 * ceil_div(groups, job.threads) * job.group * job.threads <= 11 * channels  # evenly shared


cdef inline int64_t gcd16(int64_t n) noexcept nogil:
    cdef int64_t g = 1
    while g < 16 and n % (2 * g) == 0:
        g *= 2
    return g


cdef inline bint in_place(Job *job) noexcept nogil:
    return job.out.data == job.x.data or job.out.data == job.dy.data or job.out.data == job.r.data


cdef inline bint spaced(bn_operand *o, int axis, int64_t step) noexcept nogil:
    """Is the operand absent, or are its elements `step` bytes apart along the axis (or the channels)?"""
    return o.data == NULL or (o.cstride if axis == CHANNEL else o.stride[axis]) == step


cdef bint all_spaced(Job *job, int axis, int64_t step) noexcept nogil:
    return (spaced(&job.x, axis, step) and spaced(&job.dy, axis, step) and spaced(&job.r, axis, step)
            and spaced(&job.out, axis, step) and spaced(&job.out2, axis, step))


cdef bint allocate(Job *job) noexcept nogil:
    """All scratch at once, before anything is written. False where memory lacks."""
    cdef size_t item = job.kernels.arithsize, bytes = 0, partials = 0, coef, tile = 0, scratch, rows
    coef = round_up((BN_NCOEF * job.cs + BN_PAD) * item)
    if job.tiled or job.flat:
        tile = round_up(BN_NCOEF * job.tile_width * item)
    rows = minimum(BN_BLOCK, job.shape.count)
    scratch = 0
    if job.tiled:
        scratch = tile
    if job.layout == BN_CHANNELS_LAST and job.passes & (STATS | REDUCE):
        scratch = round_up(bn_columns_scratch(job.group, rows))
        if job.shape.nd > 1:
            scratch += 3 * rows * job.group * item
    if job.layout == BN_CHANNELS_FIRST and job.passes & (STATS | REDUCE):
        scratch = maximum(scratch, 3 * (BN_BLOCK + BN_LANES) * item)
    if job.grouped:
        scratch += job.group * (sizeof(bn_sums) + 2 * job.blocks * sizeof(double))
    elif job.passes & (STATS | REDUCE):
        partials = round_up(job.blocks * job.shape.channels * sizeof(double))
    job.scratch_bytes = round_up(scratch)
    bytes = coef + (tile if job.flat else 0) + 2 * partials + job.threads * job.scratch_bytes
    if posix_memalign(<void **> &job.coef, 64, bytes) != 0:
        job.coef = NULL
        return False
    job.flat_tile = job.coef + coef
    job.part_a = <double *> (job.flat_tile + (tile if job.flat else 0))
    job.part_b = <double *> (<char *> job.part_a + partials)
    job.scratch = <char *> job.part_b + partials
    return True


cdef inline size_t round_up(size_t bytes) noexcept nogil:
    return (bytes + 63) // 64 * 64


cdef void drive(Job *job) noexcept nogil:
    """Run the passes. A window of channels at a time where both passes are wanted and few channels fill the cache."""
    cdef int64_t window = job.shape.channels
    job.next_poll = bn_now() + 0.05
    if job.grouped:
        parallel(work_groups, job)
        return
    if not job.passes & STATS:
        parallel(work_prepare, job)
    if job.layout == BN_CHANNELS_FIRST and job.passes & (STATS | REDUCE) and job.passes & (APPLY | GRAD):
        window = maximum(job.group, (8 << 20) // (job.shape.count * job.shape.itemsize) // job.group * job.group)
    while job.first < job.shape.channels and not job.stop:
        job.last = minimum(job.first + window, job.shape.channels)
        if job.passes & (STATS | REDUCE):
            parallel(work_first_cf if job.layout == BN_CHANNELS_FIRST else work_first_cl, job)
            if not job.stop:
                parallel(work_conclude, job)
        if job.passes & (APPLY | GRAD) and not job.stop:
            if job.layout == BN_CHANNELS_LAST:
                if job.flat:
                    job.kernels.coefs_tile(job.flat_tile, job.tile_width, job.coef, job.cs, coef_rows(job), 0,
                                          job.shape.channels, 1, job.flat // job.shape.channels + 1)
                parallel(work_second_cl, job)
            else:
                parallel(work_second_tiled if job.tiled else work_second_cf, job)
        job.first = job.last
