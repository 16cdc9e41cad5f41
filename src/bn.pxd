# The C side, as the drivers see it. Meaning and units stand in bn.h and view.h.
from libc.stdint cimport int64_t

cdef extern from "kernels/kernels.h" nogil:
    enum:
        BN_SUB
        BN_BLOCK
        BN_LANES
        BN_GROUP
        BN_PAD
        BN_NCOEF
        BN_INVSTD
        BN_IDENTITY
        BN_RELU
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
    const bn_kernels *bn_table(const char *dtype, int level)

cdef extern from "view.h" nogil:
    enum:
        BN_F32
        BN_F64
        BN_F16
        BN_BF16
        BN_NTYPE
        BN_MAXDIM
        BN_MAXOPERAND
        BN_NONE
        BN_CHANNELS_FIRST
        BN_CHANNELS_LAST

    ctypedef struct bn_shape:
        int nd
        int64_t size[BN_MAXDIM]
        int64_t channels, count
        int itemsize

    ctypedef struct bn_operand:
        char *data
        int64_t cstride
        int64_t stride[BN_MAXDIM]

    ctypedef struct bn_vector:
        char *data
        int64_t stride
        int type

    bint bn_collapse(bn_shape *, int, const int64_t *, int, int, bn_operand **, const int64_t **, int)
    int bn_layout(const bn_shape *, bn_operand **, int)
    char *bn_at(const bn_shape *, const bn_operand *, int64_t, int64_t)
    int64_t bn_run_length(const bn_shape *, int64_t, int64_t)
    void bn_gather(const bn_shape *, const bn_operand *, int64_t c, int64_t i, int64_t n, char *)
    double bn_get(const bn_vector *, int64_t, double)
    void bn_put(const bn_vector *, int64_t, double)
    int64_t bn_cache_bytes()
    int64_t bn_stream_bytes()
    double bn_now()
    unsigned bn_fenv_begin()
    void bn_fenv_end(unsigned)
    void bn_store_fence()
    void bn_raise(int *)
    bint bn_raised(const int *)
    bint bn_forked()
    void bn_watch_fork()

cdef extern from "pool.h" nogil:
    ctypedef struct bn_pool_facts:
        int64_t used, free, limit
        int64_t free_blocks

    void *bn_pool_malloc(void *, size_t)
    void *bn_pool_calloc(void *, size_t, size_t)
    void *bn_pool_realloc(void *, void *, size_t)
    void bn_pool_free(void *, void *, size_t)
    bn_pool_facts bn_pool_state()
    void bn_pool_set_limit(int64_t)
    void bn_pool_trim(int64_t)
    void bn_pool_begin()
