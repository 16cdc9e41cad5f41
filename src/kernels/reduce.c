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

#define BEGIN(k) vec s##k = {0}, q##k = {0};
#define ADD(k) add_products(x + j + k * W, dy + j + k * W, flags & FROM_Y ? r + j + k * W : r, c, flags, &s##k, &q##k);
#define FOLD(k)                 \
    fold_lanes(acc_s, s##k, k); \
    fold_lanes(acc_q, q##k, k);

INLINE void full_sub_block(const T *x, const T *dy, const T *r, const char *next, int64_t next_dy, const coefs *c, int flags,
                           double *acc_s, double *acc_q)
{
    REPEAT(NV, BEGIN)
#pragma GCC unroll 1
    for (int64_t j = 0; j < BN_SUB; j += BN_LANES) {
        if (next) __builtin_prefetch(next + j * sizeof(T), 0, 2);
        if (next) __builtin_prefetch(next + next_dy + j * sizeof(T), 0, 2);
        REPEAT(NV, ADD)
    }
    REPEAT(NV, FOLD)
}

/* A sub-block that is not full: whole groups of 16 lanes, then no terms in the lanes past the end. */
INLINE void last_sub_block(const T *x, const T *dy, const T *r, int64_t n, const coefs *c, int flags, double *acc_s,
                           double *acc_q)
{
    vec s[NV], q[NV];
    int64_t i = 0;
    memset(s, 0, sizeof s), memset(q, 0, sizeof q);
    for (; i + BN_LANES <= n; i += BN_LANES)
        for (int k = 0; k < NV; k++) {
            int64_t j = i + k * W;
            add_products(x + j, dy + j, flags & FROM_Y ? r + j : r, c, flags, s + k, q + k);
        }
    A sums[2][BN_LANES] = {0};
    if (i < n) {
        T end[3][BN_LANES];
        memset(end, 0, sizeof end);
        memcpy(end[0], x + i, (n - i) * sizeof(T));
        memcpy(end[1], dy + i, (n - i) * sizeof(T));
        if (flags & FROM_Y) memcpy(end[2], r + i, (n - i) * sizeof(T));
        for (int k = 0; k < NV; k++) {
            vec s1 = {0}, q1 = {0};
            add_products(end[0] + k * W, end[1] + k * W, end[2] + k * W, c, flags, &s1, &q1);
            store_a(sums[0] + k * W, s1), store_a(sums[1] + k * W, q1);
        }
        for (int64_t j = n - i; j < BN_LANES; j++) sums[0][j] = sums[1][j] = 0;
    }
    for (int k = 0; k < NV; k++) {
        fold_lanes(acc_s, s[k] + load_a(sums[0] + k * W), k);
        fold_lanes(acc_q, q[k] + load_a(sums[1] + k * W), k);
    }
}

INLINE void reduce_block(const bn_block *a, int flags, double *sum_dy, double *sum_dy_xhat)
{
    const coefs c = coefs_of_channel(a->coef, a->cs);
    double s[8] = {0}, q[8] = {0};
    for (int64_t i = 0, k = 0; i < a->n; i += BN_SUB, k++) {
        const T *r = flags & FROM_Y ? a->r[k] : NULL;
        if (i + BN_SUB <= a->n && a->next[0])
            full_sub_block(a->x[k], a->dy[k], r, a->next[k], a->next_dy, &c, flags, s, q);
        else if (i + BN_SUB <= a->n) full_sub_block(a->x[k], a->dy[k], r, NULL, 0, &c, flags, s, q);
        else last_sub_block(a->x[k], a->dy[k], r, a->n - i, &c, flags, s, q);
    }
    *sum_dy = total(s);
    *sum_dy_xhat = total(q);
}

void BN_NAME(reduce_cf)(const bn_block *a, double *sum_dy, double *sum_dy_xhat)
{
    if (!(a->flags & BN_RELU)) reduce_block(a, 0, sum_dy, sum_dy_xhat);
    else if (a->r[0]) reduce_block(a, BN_RELU | FROM_Y, sum_dy, sum_dy_xhat);
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
    if (!(a->flags & BN_RELU)) columns(add_products, a, coef, cs, flat, 0, &z);
    else if (a->r) columns(add_products, a, coef, cs, flat, BN_RELU | FROM_Y, &z);
    else columns(add_products, a, coef, cs, flat, BN_RELU, &z);
    for (int64_t c = 0; c < w; c++) {
        sum_dy[c] = column_total(z.acc_s, w, c);
        sum_dy_xhat[c] = column_total(z.acc_q, w, c);
    }
}
