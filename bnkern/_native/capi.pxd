# The C side as Cython sees it. Meaning and units stand in the headers, installed under bnkern/_native/include.
from libc.stdint cimport int64_t, uint64_t

cdef extern from "kernels/kernels.h" nogil:
    enum:
        BN_BLOCK
        BN_LANES
        BN_PAD
        BN_NCOEF
        BN_SHIFT
        BN_SLOPE
        BN_NACTIVATION
        BN_TILE
        BN_STREAM
        BN_FROZEN

    ctypedef struct bn_span:
        const void *x
        const void *dy
        const void *residual
        const void *y
        void *out
        void *dresidual
        int64_t xs, dys, residuals, ys, outs, dresiduals
        int64_t rows, channels, width
        const void *coef
        int64_t cs
        int64_t prefetch
        int flags, activation
        double parameter

    ctypedef struct bn_sums:
        pass

    ctypedef struct bn_run:
        const void *x
        const void *dy
        const void *y
        int64_t xc, dyc, yc
        int64_t channels, at, n
        const void *coef
        int64_t cs
        int flags, activation
        double parameter

    ctypedef struct bn_parts:
        const double *a
        const double *b
        int64_t next_block, next_channel, blocks, channels, count

    ctypedef struct bn_kernels:
        int itemsize, arithsize
        void (*moments_begin)(bn_sums *, const void *, int64_t) noexcept nogil
        void (*moments_add)(bn_sums *, const bn_run *) noexcept nogil
        bint (*moments_end)(bn_sums *, int64_t, double *, double *) noexcept nogil
        void (*moments_two_pass)(const void *, int64_t, double *, double *) noexcept nogil
        void (*moments_cl)(const bn_span *, double *, double *, void *) noexcept nogil
        void (*reduce_add)(bn_sums *, const bn_run *) noexcept nogil
        void (*reduce_end)(bn_sums *, int64_t, double *, double *) noexcept nogil
        void (*reduce_cl)(const bn_span *, double *, double *, void *) noexcept nogil
        void (*normalise)(const bn_span *) noexcept nogil
        void (*input_grad)(const bn_span *) noexcept nogil
        void (*merge_moments)(const bn_parts *, double *, double *) noexcept nogil
        void (*merge_sums)(const bn_parts *, const void *, int64_t, double *, double *) noexcept nogil
        void (*coefs_forward)(void *, int64_t, int64_t, const double *, const double *, double, const double *,
                              const double *) noexcept nogil
        void (*coefs_backward)(void *, int64_t, int64_t, const double *, const double *, double) noexcept nogil
        void (*coefs_tile)(void *, int64_t, const void *, int64_t, int rows, int64_t, int64_t, int64_t,
                           int64_t) noexcept nogil
        void (*stream_copy)(const bn_span *) noexcept nogil
        void (*stream_triad)(const bn_span *) noexcept nogil

    int64_t bn_columns_scratch(int64_t width, int64_t rows)
    int bn_level_count()
    const char *bn_level_name(int level)
    bint bn_level_supported(int level)
    bint bn_level_by_request(int level)
    bint bn_level_by_request(int level)
    const bn_kernels *bn_table(const char *dtype, int level)

cdef extern from "driver/view.h" nogil:
    enum:
        BN_MAXDIM
        BN_NONE
        BN_CHANNELS_FIRST
        BN_CHANNELS_LAST
        BN_OPERAND_X
        BN_OPERAND_DY
        BN_OPERAND_RESIDUAL
        BN_OPERAND_Y
        BN_OPERAND_OUT
        BN_OPERAND_DRESIDUAL
        BN_NOPERAND

    ctypedef struct bn_shape:
        int nd
        int64_t size[BN_MAXDIM]
        int64_t channels, count
        int itemsize

    ctypedef struct bn_operand:
        char *data
        int64_t cstride
        int64_t stride[BN_MAXDIM]

    bint bn_collapse(bn_shape *, int, const int64_t *, int, int, bn_operand *, const int64_t *const *)
    int bn_layout(const bn_shape *, const bn_operand *, const int64_t *const *)
    char *bn_at(const bn_shape *, const bn_operand *, int64_t c, int64_t i)
    int64_t bn_run_length(const bn_shape *, int64_t i, int64_t most)
    void bn_gather(const bn_shape *, const bn_operand *, int64_t c, int64_t i, int64_t n, char *)
    void bn_join(const bn_shape *, const bn_operand *, int64_t c, int64_t channels, int64_t i, int64_t n, char *,
                 int64_t step)

cdef extern from "driver/vector.h" nogil:
    enum:
        BN_F32
        BN_F64
        BN_F16
        BN_BF16
        BN_NTYPE

    ctypedef struct bn_vector:
        char *data
        int64_t stride
        int type

    void bn_vector_read(const bn_vector *, int64_t c, int64_t n, double missing, double *)
    void bn_vector_write(const bn_vector *, int64_t c, int64_t n, const double *)
    void bn_ema(double *running, const double *value, int64_t n, double momentum, double scale)

cdef extern from "driver/passes.h" nogil:
    int bn_backward_passes(bint dx, bint dresidual, bint sums, bint frozen, bint active, bint *fixed)
    bint bn_reads_x(int passes, bint fixed, int activation, bint has_y)

cdef extern from "driver/plan.h" nogil:
    enum:
        BN_STATS
        BN_REDUCE
        BN_NORMALISE
        BN_INPUT_GRAD
        BN_REDUCTIONS
        BN_ELEMENTWISE
        BN_ANY

    enum bn_reduction:
        BN_NO_REDUCTION
        BN_GROUPS
        BN_SLABS
        BN_PANELS
        BN_COLUMNS
        BN_NREDUCTION

    enum bn_elementwise:
        BN_NO_ELEMENTWISE
        BN_RUNS
        BN_TILED_ROWS
        BN_ROWS
        BN_FLAT_ROWS
        BN_NELEMENTWISE

    ctypedef struct bn_machine:
        int64_t stream_bytes, group_bytes, grain
        int reduction, elementwise

    ctypedef struct bn_problem:
        int layout, passes, itemsize, threads, reads, axes, in_place, adjacent, gapless
        int64_t channels, count, row, out_step

    ctypedef struct bn_plan:
        bn_reduction reduction
        bn_elementwise elementwise
        int threads, stream, backwards, from_memory, from_cache
        int64_t blocks, group, in_turn, piece, row_pieces, run_group, row_parts, chunk, flat, tile_width
        int64_t period, prefetch, joined, slab_channels, slab_blocks

    bn_machine bn_this_machine()
    bn_problem bn_problem_of(const bn_shape *, int layout, const bn_operand *, const int64_t *const *, int passes,
                             int threads)
    bn_plan bn_plan_of(const bn_problem *, const bn_machine *)
    int64_t bn_bytes_moved(const bn_problem *, const bn_plan *)
    int64_t bn_bytes_least(const bn_problem *)
    const char *bn_reduction_name(int)
    const char *bn_elementwise_name(int)

cdef extern from "platform/fenv.h" nogil:
    uint64_t bn_fenv_begin()
    void bn_fenv_end(uint64_t)

cdef extern from "platform/clock.h" nogil:
    double bn_now()

cdef extern from "platform/sync.h" nogil:
    void bn_store_fence()
    void bn_raise(int *)
    int bn_raised(const int *)
    void bn_add(int *, int)

cdef extern from "platform/fork.h" nogil:
    bint bn_forked()
    void bn_watch_fork()
