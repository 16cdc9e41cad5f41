# The passes on pieces of an array: the macro-kernels between the drivers (drive.pxi) and the kernels.

cdef enum:
    STATS = 1    # first pass: mean and M2
    REDUCE = 2   # first pass: sum dy, sum dy * xhat
    APPLY = 4    # second pass: y
    GRAD = 8     # second pass: dx

cdef struct Job:
    const bn_kernels *kernels
    bn_shape shape
    bn_operand x, dy, r, out, out2
    int layout
    int passes            # one first pass, one second pass, or both
    int flags             # BN_FROZEN, BN_STREAM
    int activation
    double parameter
    int threads
    double eps
    double divisor        # of the sums in the mean terms of dx
    bn_vector weight, bias
    bn_vector given_mean, given_var, given_dy, given_dy_xhat
    double *mean          # results of STATS
    double *var
    double *sum_dy        # results of REDUCE
    double *sum_dy_xhat
    int64_t blocks        # blocks of BN_BLOCK elements in a channel
    int64_t first, last   # the window of channels at work
    int64_t group         # channels taken together: one tile, one resident set
    int64_t flat          # width of the shared tile of gapless channels-last rows; 0: none
    bint grouped          # one thread does all of a group, both passes, before the next group
    bint adjacent         # rows of neighbouring channels follow one another
    bint tiled            # coefficients spread over several short rows at a time
    char *coef            # BN_NCOEF rows of cs elements
    int64_t cs
    char *flat_tile
    double *part_a        # the blocks' results
    double *part_b
    char *scratch         # of all threads
    int64_t scratch_bytes
    int64_t tile_width
    int stop
    double next_poll


cdef inline char *thread_scratch(Job *job, int t) noexcept nogil:
    return job.scratch + t * job.scratch_bytes


cdef inline int64_t row_length(Job *job) noexcept nogil:
    return job.shape.size[job.shape.nd - 1]


cdef inline int64_t rows_per_channel(Job *job) noexcept nogil:
    return job.shape.count // row_length(job)


cdef inline int64_t minimum(int64_t a, int64_t b) noexcept nogil:
    return a if a < b else b


cdef inline int64_t maximum(int64_t a, int64_t b) noexcept nogil:
    return a if a > b else b


cdef inline int64_t ceil_div(int64_t a, int64_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline int coef_rows(Job *job) noexcept nogil:
    return BN_NCOEF if job.passes & GRAD else BN_INVSTD


cdef inline const char *coef_of(Job *job, int64_t c) noexcept nogil:
    return job.coef + c * job.kernels.arithsize


# ---- per channel ------------------------------------------------------------------------------------------------

cdef void prepare(Job *job, int64_t c0, int64_t c1) noexcept nogil:
    """Coefficients of channels c0 .. c1-1 from statistics, and sums, that were given."""
    cdef double mean[64], var[64]
    cdef int64_t c, n, k
    if job.passes == STATS:
        return
    for c in range(c0, c1, 64):
        n = minimum(64, c1 - c)
        for k in range(n):
            mean[k] = bn_get(&job.given_mean, c + k, 0.0)
            var[k] = bn_get(&job.given_var, c + k, 0.0)
        forward(job, c, n, mean, var)
        if job.passes == GRAD and not job.flags & BN_FROZEN:
            for k in range(n):
                mean[k] = bn_get(&job.given_dy, c + k, 0.0)
                var[k] = bn_get(&job.given_dy_xhat, c + k, 0.0)
            job.kernels.coefs_backward(<void *> coef_of(job, c), job.cs, n, mean, var, job.divisor)


cdef void forward(Job *job, int64_t c, int64_t n, const double *mean, const double *var) noexcept nogil:
    """The forward coefficients of n <= 64 channels from c on."""
    cdef double weight[64], bias[64]
    cdef int64_t k
    for k in range(n):
        weight[k] = bn_get(&job.weight, c + k, 1.0)
        bias[k] = bn_get(&job.bias, c + k, 0.0)
    job.kernels.coefs_forward(<void *> coef_of(job, c), job.cs, n, mean, var, job.eps, weight, bias)


cdef void merge(Job *job, const double *mean, const double *m2, int64_t step, int64_t c) noexcept nogil:
    """Blocks into a channel: Chan's formula about the first block's mean, so that a constant stays exact."""
    cdef int64_t k, n, m = job.shape.count
    cdef double pivot = mean[0], shift = 0, total = 0, plain = 0, d
    for k in range(job.blocks):
        n = minimum(BN_BLOCK, m - k * BN_BLOCK)
        shift += n * (mean[k * step] - pivot)
        plain += n * mean[k * step]
    shift /= m
    for k in range(job.blocks):
        n = minimum(BN_BLOCK, m - k * BN_BLOCK)
        d = (mean[k * step] - pivot) - shift
        total += m2[k * step] + n * (d * d)
    job.mean[c] = pivot + shift if isfinite(pivot + shift) else plain / m
    job.var[c] = total / m


cdef void conclude(Job *job, const double *a, const double *b, int64_t next_block, int64_t next_channel, int64_t c0,
                   int64_t c1) noexcept nogil:
    """The first pass's results of channels from those of their blocks, and the second pass's coefficients."""
    cdef int64_t c, k
    for c in range(c0, c1):
        if job.passes & STATS:
            merge(job, a, b, next_block, c)
        else:
            job.sum_dy[c] = job.sum_dy_xhat[c] = 0
            for k in range(job.blocks):
                job.sum_dy[c] += a[k * next_block]
                job.sum_dy_xhat[c] += b[k * next_block]
        a += next_channel
        b += next_channel
    if job.passes & APPLY:
        for c in range(c0, c1, 64):
            forward(job, c, minimum(64, c1 - c), job.mean + c, job.var + c)
    elif job.passes & GRAD:
        job.kernels.coefs_backward(<void *> coef_of(job, c0), job.cs, c1 - c0, job.sum_dy + c0, job.sum_dy_xhat + c0,
                                  job.divisor)


# ---- first pass -------------------------------------------------------------------------------------------------

cdef void begin_block(Job *job, int64_t c, int64_t i, bn_sums *z) noexcept nogil:
    """The block of channel c that begins with element i."""
    cdef int64_t n = minimum(BN_BLOCK, job.shape.count - i), few = minimum(n, 8)
    cdef double first[8]
    if not job.passes & STATS:
        memset(z, 0, sizeof(bn_sums))
    elif bn_run_length(&job.shape, i, few) == few:
        job.kernels.moments_begin(z, bn_at(&job.shape, &job.x, c, i), n)
    else:
        bn_gather(&job.shape, &job.x, c, i, few, <char *> first)
        job.kernels.moments_begin(z, first, n)


cdef inline void add_run(Job *job, bn_run *run, bn_sums *z) noexcept nogil:
    if job.passes & STATS:
        job.kernels.moments_add(z, run)
    else:
        job.kernels.reduce_add(z, run)


cdef void end_block(Job *job, int64_t c, int64_t i, bn_sums *z, double *a, double *b, char *scratch) noexcept nogil:
    cdef int64_t n = minimum(BN_BLOCK, job.shape.count - i)
    if not job.passes & STATS:
        job.kernels.reduce_end(z, n, a, b)
    elif not job.kernels.moments_end(z, n, a, b):
        bn_gather(&job.shape, &job.x, c, i, n, scratch)
        job.kernels.moments_two_pass(scratch, n, a, b)


cdef void gathered_block(Job *job, int64_t c, int64_t i, double *a, double *b, char *scratch) noexcept nogil:
    """A block whose rows are shorter than a group of lanes, through a copy."""
    cdef int64_t slack = BN_LANES * job.shape.itemsize, bytes = BN_BLOCK * job.shape.itemsize + slack
    cdef bn_sums z
    cdef bn_run run = new_run(job, c)
    run.n = minimum(BN_BLOCK, job.shape.count - i)
    scratch += slack
    bn_gather(&job.shape, &job.x, c, i, run.n, scratch)
    run.x = scratch
    if job.dy.data != NULL:
        bn_gather(&job.shape, &job.dy, c, i, run.n, scratch + bytes)
        run.dy = scratch + bytes
    if job.r.data != NULL:
        bn_gather(&job.shape, &job.r, c, i, run.n, scratch + 2 * bytes)
        run.y = scratch + 2 * bytes
    begin_block(job, c, i, &z)
    add_run(job, &run, &z)
    end_block(job, c, i, &z, a, b, scratch)


cdef inline bn_run new_run(Job *job, int64_t c) noexcept nogil:
    cdef bn_run run
    memset(&run, 0, sizeof(run))
    run.coef = coef_of(job, c)
    run.cs = job.cs
    run.flags = job.flags
    run.activation = job.activation
    run.parameter = job.parameter
    run.channels = 1
    run.xc = job.x.cstride // job.shape.itemsize
    run.dyc = job.dy.cstride // job.shape.itemsize
    run.yc = job.r.cstride // job.shape.itemsize
    return run


cdef inline void place_run(Job *job, bn_run *run, int64_t c, int64_t i) noexcept nogil:
    """The run begins with element i of channel c."""
    run.x = bn_at(&job.shape, &job.x, c, i)
    run.dy = bn_at(&job.shape, &job.dy, c, i) if job.dy.data != NULL else NULL
    run.y = bn_at(&job.shape, &job.r, c, i) if job.r.data != NULL else NULL


cdef void first_block(Job *job, int64_t c, int64_t k, double *a, double *b, char *scratch) noexcept nogil:
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


cdef void first_row(Job *job, int64_t c0, int64_t c1, int64_t q, bn_sums *sums, double *a, double *b,
                    char *scratch) noexcept nogil:
    """Row q of channels c0 .. c1-1: each adds to its own block under way."""
    cdef int64_t r = row_length(job), i = q * r, end = i + r, c, k, last
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
                end_block(job, c, k * BN_BLOCK, sums + (c - c0), a + (c - c0) * job.blocks + k,
                          b + (c - c0) * job.blocks + k, scratch)


cdef const char *rows_in_place(Job *job, bn_operand *operand, int64_t c, int64_t i, int64_t n, int64_t width,
                               char *buffer, int64_t *step) noexcept nogil:
    """`width` channels of elements i .. i+n-1: in place at one distance, or copied when they cross a gap."""
    cdef int64_t item = job.shape.itemsize, k
    if bn_run_length(&job.shape, i, n) == n:
        step[0] = operand.stride[job.shape.nd - 1] // item
        return bn_at(&job.shape, operand, c, i)
    step[0] = width
    for k in range(n):
        memcpy(buffer + k * width * item, bn_at(&job.shape, operand, c, i + k), width * item)
    return buffer


cdef void first_cl(Job *job, int64_t c, int64_t width, int64_t k, double *a, double *b, char *scratch) noexcept nogil:
    """Block k of channels c .. c+width-1, channels without gaps."""
    cdef int64_t i = k * BN_BLOCK, n = minimum(BN_BLOCK, job.shape.count - i)
    cdef int64_t bytes = n * width * job.shape.itemsize
    cdef char *buffer = scratch + bn_columns_scratch(width, n)
    cdef bn_span span
    memset(&span, 0, sizeof(span))
    span.x = rows_in_place(job, &job.x, c, i, n, width, buffer, &span.xs)
    span.rows = n
    span.width = width
    if job.passes & STATS:
        job.kernels.moments_cl(&span, a, b, scratch)
        return
    span.dy = rows_in_place(job, &job.dy, c, i, n, width, buffer + bytes, &span.dys)
    if job.r.data != NULL:
        span.y = rows_in_place(job, &job.r, c, i, n, width, buffer + 2 * bytes, &span.ys)
    span.coef = job.coef + c * job.kernels.arithsize
    span.cs = job.cs
    span.flags = job.flags
    span.activation = job.activation
    span.parameter = job.parameter
    job.kernels.reduce_cl(&span, a, b, scratch)


# ---- second pass ------------------------------------------------------------------------------------------------

cdef inline int64_t row_step(Job *job, bn_operand *operand, int axis) noexcept nogil:
    return operand.stride[axis] // job.shape.itemsize


cdef void second(Job *job, int64_t c, int64_t i, int64_t rows, int64_t channels, int64_t width, int axis,
                 const char *coef, int64_t cs, int flags, int64_t prefetch) noexcept nogil:
    """One span from element i of channel c on, its rows one step apart along the sequence's axis `axis`."""
    cdef bn_span span
    memset(&span, 0, sizeof(span))
    if job.x.data != NULL:
        span.x = bn_at(&job.shape, &job.x, c, i)
        span.xs = row_step(job, &job.x, axis)
    if job.dy.data != NULL:
        span.dy = bn_at(&job.shape, &job.dy, c, i)
        span.dys = row_step(job, &job.dy, axis)
    if job.r.data != NULL:
        span.residual = span.y = bn_at(&job.shape, &job.r, c, i)
        span.residuals = span.ys = row_step(job, &job.r, axis)
    span.out = bn_at(&job.shape, &job.out, c, i)
    span.outs = row_step(job, &job.out, axis)
    if job.out2.data != NULL:
        span.dresidual = bn_at(&job.shape, &job.out2, c, i)
        span.dresiduals = row_step(job, &job.out2, axis)
    span.rows = rows
    span.channels = channels
    span.width = width
    span.coef = coef
    span.cs = cs
    span.flags = flags
    span.activation = job.activation
    span.parameter = job.parameter
    span.prefetch = prefetch
    if job.passes & APPLY:
        job.kernels.normalise(&span)
    else:
        job.kernels.input_grad(&span)


cdef void second_rows(Job *job, int64_t c, int64_t q0, int64_t q1, int64_t channels, int64_t width, const char *coef,
                      int64_t cs, int flags, int64_t prefetch) noexcept nogil:
    """Rows q0 .. q1-1 of the sequence, as few spans as the outer axes allow."""
    cdef int64_t r = row_length(job), n
    cdef int outer = job.shape.nd - 2
    while q0 < q1:
        n = 1 if outer < 0 else minimum(q1 - q0, job.shape.size[outer] - q0 % job.shape.size[outer])
        second(job, c, q0 * r, n, channels, width, maximum(outer, 0), coef, cs, flags, prefetch)
        q0 += n


cdef void second_group(Job *job, int64_t c0, int64_t c1, int64_t q0, int64_t q1, char *tile,
                       int64_t prefetch) noexcept nogil:
    """Rows q0 .. q1-1 of channels c0 .. c1-1, rows without gaps."""
    cdef int64_t r = row_length(job), c
    if job.tiled:
        job.kernels.coefs_tile(tile, job.tile_width, job.coef, job.cs, coef_rows(job), c0, c1 - c0, r, 1)
        second_rows(job, c0, q0, q1, 1, (c1 - c0) * r, tile, job.tile_width, job.flags | BN_TILE, prefetch)
    elif job.adjacent:
        second_rows(job, c0, q0, q1, c1 - c0, r, coef_of(job, c0), job.cs, job.flags, prefetch)
    else:
        for c in range(c0, c1):
            second_rows(job, c, q0, q1, 1, r, coef_of(job, c), job.cs, job.flags, prefetch)


cdef void second_cl(Job *job, int64_t i, int64_t end) noexcept nogil:
    """Elements i .. end-1 of all channels, channels without gaps."""
    cdef int64_t channels = job.shape.channels, n
    if job.flat:
        second_flat(job, i * channels, end * channels)
        return
    while i < end:
        n = bn_run_length(&job.shape, i, end - i)
        second(job, 0, i, n, 1, channels, job.shape.nd - 1, coef_of(job, 0), job.cs, job.flags | BN_TILE, 0)
        i += n


cdef void second_flat(Job *job, int64_t at, int64_t end) noexcept nogil:
    """Positions at .. end-1 of gapless channels-last memory, counted over elements and channels.

    Rows of `flat` positions begin where a cache line of the output does; the tile goes round, so it may begin anywhere.
    """
    cdef int64_t item = job.shape.itemsize, phase, n
    if job.flags & BN_STREAM:
        n = -(<int64_t> job.out.data + at * item) % 64
        n = minimum((n + 64) % 64 // item, end - at)
        flat_span(job, at, 1, n)
        at += n
    n = (end - at) // job.flat
    flat_span(job, at, n, job.flat)
    at += n * job.flat
    flat_span(job, at, 1, end - at)


cdef void flat_span(Job *job, int64_t at, int64_t rows, int64_t width) noexcept nogil:
    cdef int64_t item = job.shape.itemsize, phase = at % job.shape.channels
    cdef bn_span span
    if rows == 0 or width == 0:
        return
    memset(&span, 0, sizeof(span))
    span.x = job.x.data + at * item if job.x.data != NULL else NULL
    span.dy = job.dy.data + at * item if job.dy.data != NULL else NULL
    span.residual = span.y = job.r.data + at * item if job.r.data != NULL else NULL
    span.out = job.out.data + at * item
    span.dresidual = job.out2.data + at * item if job.out2.data != NULL else NULL
    span.xs = span.dys = span.residuals = span.ys = span.outs = span.dresiduals = job.flat
    span.rows = rows
    span.channels = 1
    span.width = width
    span.coef = job.flat_tile + phase * job.kernels.arithsize
    span.cs = job.tile_width
    span.flags = job.flags | BN_TILE
    span.activation = job.activation
    span.parameter = job.parameter
    span.prefetch = job.flat * item * 8 if job.flags & BN_STREAM else 0
    if job.passes & APPLY:
        job.kernels.normalise(&span)
    else:
        job.kernels.input_grad(&span)
