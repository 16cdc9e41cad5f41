# The C side, as the drivers see it. Meaning and units stand in bn.h and view.h.
from libc.stdint cimport int64_t

cdef extern from "bn.h" nogil:
    enum:
        BN_SUB
        BN_BLOCK
        BN_GROUP
        BN_PAD
        BN_NCOEF
        BN_INVSTD
        BN_RELU
        BN_TILE
        BN_STREAM
        BN_FROZEN

    ctypedef struct bn_span:
        const void *x
        const void *dy
        const void *r
        void *out
        void *out2
        int64_t xs, dys, rs, outs, out2s
        int64_t rows, channels, width
        const void *coef
        int64_t cs
        int64_t prefetch
        int flags

    ctypedef struct bn_block:
        const void *x[8]
        const void *dy[8]
        const void *r[8]
        const char *next[8]
        int64_t next_dy
        int64_t n
        const void *coef
        int64_t cs
        int flags

    ctypedef struct bn_kernels:
        int itemsize, arithsize
        void (*stats_cf)(const bn_block *, double *, double *) noexcept nogil
        void (*stats_cl)(const bn_span *, double *, double *, void *) noexcept nogil
        void (*reduce_cf)(const bn_block *, double *, double *) noexcept nogil
        void (*reduce_cl)(const bn_span *, double *, double *, void *) noexcept nogil
        void (*apply)(const bn_span *) noexcept nogil
        void (*input_grad)(const bn_span *) noexcept nogil
        void (*coef_forward)(void *, int64_t, int64_t, double, double, double, double, double) noexcept nogil
        void (*coef_backward)(void *, int64_t, int64_t, double, double) noexcept nogil
        void (*coef_tile)(void *, int64_t, const void *, int64_t, int rows, int64_t, int64_t, int64_t,
                          int64_t) noexcept nogil
        void (*copy)(const bn_span *) noexcept nogil
        void (*triad)(const bn_span *) noexcept nogil

    int64_t bn_columns_scratch(int64_t width, int64_t rows)
    int bn_level_count()
    const char *bn_level_name(int level)
    bint bn_level_supported(int level)
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
    int64_t bn_run(const bn_shape *, int64_t, int64_t)
    void bn_sub_blocks(const bn_shape *, const bn_operand *, int64_t c, int64_t i, int64_t n, int64_t sub,
                       const void **, char *)
    double bn_get(const bn_vector *, int64_t, double)
    void bn_put(const bn_vector *, int64_t, double)
    int64_t bn_cache_bytes()
    int64_t bn_stream_bytes()
    double bn_now()
    void bn_store_fence()
    void bn_raise(int *)
    bint bn_raised(const int *)
    bint bn_forked()
    void bn_watch_fork()
