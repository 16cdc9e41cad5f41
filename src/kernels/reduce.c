/* The two sums of the backward pass over one block: sum dy and sum dy * xhat, xhat = ((x - mean_hi) - mean_lo) * invstd.
 *
 * Reads dy and x once (8 bytes for each element in float32; y too where ReLU follows a residual), writes two numbers.
 * With ReLU dy counts where the forward output was not <= 0; the sign is recomputed by the very operations of apply.c,
 * so it is the forward sign to the bit. xhat is formed before the product: dy * (x - mean) could leave the range.
 */
#include "columns.h"

#define FROM_Y 16 /* with BN_RELU: the sign is y's */

INLINE void add_products(const T *x, const T *dy, const T *r, const coefs *c, int flags, vec *s, vec *q)
{
    vec d = (load(x) - c->mean_hi) - c->mean_lo, g = load(dy);
    if (flags & BN_RELU) g = gate(flags & FROM_Y ? load(r) : d * c->scale + c->bias, g);
    *s += g;
    *q += g * (d * c->invstd);
}

/* Elements of a sub-block that do not fill its 16 lanes: dy = 0 in the lanes past the end. */
INLINE void last_lanes(const bn_span *a, int64_t i, const coefs *c, int flags, vec *s, vec *q)
{
    const int64_t n = a->width - i;
    T x[BN_LANES], dy[BN_LANES], r[BN_LANES];
    memset(dy, 0, sizeof dy), memset(r, 0, sizeof r);
    for (int64_t j = 0; j < BN_LANES; j++) x[j] = ((const T *)a->x)[j < n ? i + j : i];
    memcpy(dy, (const T *)a->dy + i, n * sizeof(T));
    if (flags & FROM_Y) memcpy(r, (const T *)a->r + i, n * sizeof(T));
    A sums[2][BN_LANES];
    for (int k = 0; k < NV; k++) {
        vec s1 = {0}, q1 = {0};
        add_products(x + k * W, dy + k * W, r + k * W, c, flags, &s1, &q1);
        store_a(sums[0] + k * W, s1), store_a(sums[1] + k * W, q1);
    }
    for (int64_t j = n; j < BN_LANES; j++) sums[1][j] = 0; /* 0 * xhat is NaN where x is not finite */
    for (int k = 0; k < NV; k++) s[k] += load_a(sums[0] + k * W), q[k] += load_a(sums[1] + k * W);
}

/* Chain i is vector i % NV of sub-block i / NV, as in stats.c. */
#if NV > 2
#define TOGETHER NV
#else
#define TOGETHER 2
#endif
#define AT(i) ((i) / NV * BN_SUB + (i) % NV * W)
#define BEGIN(i) vec s##i = {0}, q##i = {0};
#define ADD(i) add_products(x + j + AT(i), dy + j + AT(i), flags & FROM_Y ? r + j + AT(i) : r, c, flags, &s##i, &q##i);
#define FOLD(i)                      \
    fold_lanes(acc_s, s##i, i % NV); \
    fold_lanes(acc_q, q##i, i % NV);
#define SUB_BLOCKS(NAME, n)                                                                                       \
    INLINE void NAME(const T *x, const T *dy, const T *r, const coefs *c, int flags, double *acc_s, double *acc_q) \
    {                                                                                                             \
        REPEAT(n, BEGIN)                                                                                          \
        _Pragma("GCC unroll 1") for (int64_t j = 0; j < BN_SUB; j += BN_LANES) { REPEAT(n, ADD) }                  \
        REPEAT(n, FOLD)                                                                                           \
    }
SUB_BLOCKS(sub_blocks, TOGETHER)
SUB_BLOCKS(sub_block, NV)

INLINE void reduce_block(const bn_span *a, int flags, double *sum_dy, double *sum_dy_xhat)
{
    const coefs c = coefs_of_channel(a->coef, a->cs);
    const T *x = a->x, *dy = a->dy, *r = a->r;
    double s[8] = {0}, q[8] = {0};
    int64_t i = 0;
#define HERE x + i, dy + i, flags & FROM_Y ? r + i : NULL, &c, flags, s, q
    for (; i + TOGETHER / NV * BN_SUB <= a->width; i += TOGETHER / NV * BN_SUB) sub_blocks(HERE);
    for (; i + BN_SUB <= a->width; i += BN_SUB) sub_block(HERE);
#undef HERE
    if (i < a->width) {
        vec s1[NV], q1[NV];
        memset(s1, 0, sizeof s1), memset(q1, 0, sizeof q1);
        for (; i + BN_LANES <= a->width; i += BN_LANES)
            for (int k = 0; k < NV; k++)
                add_products(x + i + k * W, dy + i + k * W, flags & FROM_Y ? r + i + k * W : NULL, &c, flags, s1 + k, q1 + k);
        if (i < a->width) last_lanes(a, i, &c, flags, s1, q1);
        for (int k = 0; k < NV; k++) fold_lanes(s, s1[k], k), fold_lanes(q, q1[k], k);
    }
    *sum_dy = total(s);
    *sum_dy_xhat = total(q);
}

void BN_NAME(reduce_cf)(const bn_span *a, double *sum_dy, double *sum_dy_xhat)
{
    if (!(a->flags & BN_RELU)) reduce_block(a, 0, sum_dy, sum_dy_xhat);
    else if (a->r) reduce_block(a, BN_RELU | FROM_Y, sum_dy, sum_dy_xhat);
    else reduce_block(a, BN_RELU, sum_dy, sum_dy_xhat);
}

void BN_NAME(reduce_cl)(const bn_span *a, double *sum_dy, double *sum_dy_xhat, void *scratch)
{
    struct columns_scratch z = columns_scratch(scratch, a->width);
    const int64_t w = a->width;
    const int flat = is_flat(a);
    const A *coef = a->coef;
    int64_t cs = a->cs;
    if (flat) {
        for (int k = BN_MEAN_HI; k <= BN_INVSTD; k++)
            for (int64_t j = 0; j < BN_LANES; j++) memcpy(z.coef + k * z.cs + j * w, coef + k * cs, w * sizeof(A));
        coef = z.coef;
        cs = z.cs;
    }
    if (!(a->flags & BN_RELU)) columns(add_products, a, coef, cs, flat, 0, z.acc_s, z.acc_q);
    else if (a->r) columns(add_products, a, coef, cs, flat, BN_RELU | FROM_Y, z.acc_s, z.acc_q);
    else columns(add_products, a, coef, cs, flat, BN_RELU, z.acc_s, z.acc_q);
    for (int64_t c = 0; c < w; c++) {
        sum_dy[c] = column_total(z.acc_s, w, c);
        sum_dy_xhat[c] = column_total(z.acc_q, w, c);
    }
}
