/* Every slot of the table in plain scalar C: the level "reference". Slow, and meant to be read beside the paper
 * (Ioffe & Szegedy 2015) and formulas.h; every other level gives its bits. The order of summation is that of
 * kernels.h, one element at a time.
 */
#include <assert.h>

#include "../simd/storage.h"

#include "kernels.h"

typedef A N;
#define NUMBER(a) ((N)(a))
#define choose(holds, a, b) ((holds) ? (a) : (b))
#define ELEMENT INLINE
#include "../formulas.h"

/* ---- sums -------------------------------------------------------------------------------------------------------- */

/* The lanes to the accumulators. */
static void fold(bn_sums *z)
{
    A *lanes_a = (A *)z->lanes_a, *lanes_b = (A *)z->lanes_b;
    for (int lane = 0; lane < BN_LANES; lane++) {
        z->a[lane % 8] += (double)lanes_a[lane];
        z->b[lane % 8] += (double)lanes_b[lane];
        lanes_a[lane] = lanes_b[lane] = 0;
    }
}

/* Element `at` of a block: its two terms to its lane. */
static void add_terms(bn_sums *z, int64_t at, A a, A b)
{
    ((A *)z->lanes_a)[at % BN_LANES] += a;
    ((A *)z->lanes_b)[at % BN_LANES] += b;
    if ((at + 1) % BN_SUB == 0) fold(z);
}

static double total(const double a[8]) { return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7])); }

/* ---- statistics -------------------------------------------------------------------------------------------------- */

static A first_shift(const T *x, int64_t step, int64_t n)
{
    A a[8];
    if (n < 8) return get(x);
    for (int i = 0; i < 8; i++) a[i] = get(x + i * step);
    return (((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))) * (A)0.125;
}

static void add_deviation(bn_sums *z, int64_t at, A x)
{
    const A d = x - (A)z->shift;
    add_terms(z, at, d, d * d);
}

void BN_NAME(moments_begin)(bn_sums *z, const void *first, int64_t n)
{
    memset(z, 0, sizeof *z);
    z->shift = (double)first_shift(first, 1, n);
}

void BN_NAME(moments_add)(bn_sums *z, const bn_run *a)
{
    for (int64_t c = 0; c < a->channels; c++)
        for (int64_t i = 0; i < a->n; i++) add_deviation(z + c, a->at + i, get((const T *)a->x + c * a->xc + i));
}

int BN_NAME(moments_end)(bn_sums *z, int64_t n, double *mean, double *m2)
{
    const double smallest = sizeof(A) == 4 ? 0x1p-100 : 0x1p-960;
    if (n % BN_SUB) fold(z);
    moments_of_sums((double)n, z->shift, total(z->a), total(z->b), mean, m2);
    return moments_are_sound((double)n, total(z->a), total(z->b), *m2, smallest);
}

static void moments_about(const T *x, int64_t n, double shift, double *mean, double *m2)
{
    double s[8] = {0}, q[8] = {0};
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)get(x + i) - shift;
        s[i % 8] += d;
        q[i % 8] += d * d;
    }
    moments_of_sums((double)n, shift, total(s), total(q), mean, m2);
}

void BN_NAME(moments_two_pass)(const void *block, int64_t n, double *mean, double *m2)
{
    const T *x = block;
    if (!memcmp(x, x + 1, (n - 1) * sizeof(T)) && isfinite((double)get(x))) { /* constant: to the bit */
        *mean = (double)get(x), *m2 = 0;
        return;
    }
    if (!isfinite(*mean)) moments_about(x, n, (double)get(x), mean, m2);
    moments_about(x, n, *mean, mean, m2);
    if (!isfinite(*mean)) { /* Inf and NaN as a plain sum has them */
        *mean = 0;
        for (int64_t i = 0; i < n; i++) *mean += (double)get(x + i);
        *mean /= (double)n;
    }
    if (*m2 < 0) *m2 = 0;
}

void BN_NAME(moments_cl)(const bn_span *a, double *mean, double *m2, void *scratch)
{
    T *column = scratch;
    for (int64_t c = 0; c < a->width; c++) {
        const T *x = (const T *)a->x + c;
        bn_sums z = {0};
        z.shift = (double)first_shift(x, a->xs, a->rows);
        for (int64_t i = 0; i < a->rows; i++) {
            column[i] = x[i * a->xs];
            add_deviation(&z, i, get(column + i));
        }
        if (!BN_NAME(moments_end)(&z, a->rows, mean + c, m2 + c))
            BN_NAME(moments_two_pass)(column, a->rows, mean + c, m2 + c);
    }
}

/* ---- the backward pass's sums ------------------------------------------------------------------------------------ */

typedef struct {
    A mean_hi, scale, shift, mean_dy, slope, invstd;
} coefs;

static coefs coefs_at(const void *coef, int64_t cs, int64_t c)
{
    const A *p = (const A *)coef + c;
    return (coefs){p[BN_MEAN_HI * cs], p[BN_SCALE * cs], p[BN_SHIFT * cs],
                   p[BN_MEAN_DY * cs], p[BN_SLOPE * cs], p[BN_INVSTD * cs]};
}

static A rounded(A v)
{
    T stored;
    put(&stored, v);
    return get(&stored);
}

/* dy behind the activation: where there is no y, z is computed again, as the forward pass did and stored it. */
static A behind(const T *dy, const T *y, A d, coefs c, int activation, double parameter)
{
    if (activation == BN_IDENTITY) return get(dy);
    const A z = y ? get(y) : rounded(affine(d, c.scale, c.shift));
    return activation_grad(activation, z, get(dy), (A)parameter);
}

void BN_NAME(reduce_add)(bn_sums *z, const bn_run *a)
{
    for (int64_t k = 0; k < a->channels; k++) {
        const coefs c = coefs_at(a->coef, a->cs, k);
        const T *x = (const T *)a->x + k * a->xc, *dy = (const T *)a->dy + k * a->dyc;
        const T *y = a->y ? (const T *)a->y + k * a->yc : NULL;
        for (int64_t i = 0; i < a->n; i++) {
            const A d = centred(get(x + i), c.mean_hi);
            const A g = behind(dy + i, y ? y + i : NULL, d, c, a->activation, a->parameter);
            add_terms(z + k, a->at + i, g, g * standardised(d, c.invstd));
        }
    }
}

void BN_NAME(reduce_end)(bn_sums *z, int64_t n, double *sum_dy, double *sum_dy_xhat)
{
    if (n % BN_SUB) fold(z);
    *sum_dy = total(z->a);
    *sum_dy_xhat = total(z->b);
}

/* A column is a run whose elements are a row apart. */
void BN_NAME(reduce_cl)(const bn_span *a, double *sum_dy, double *sum_dy_xhat, void *scratch)
{
    (void)scratch;
    for (int64_t c = 0; c < a->width; c++) {
        bn_sums z = {0};
        for (int64_t i = 0; i < a->rows; i++) {
            const bn_run one = {.x = (const T *)a->x + i * a->xs + c,
                                .dy = (const T *)a->dy + i * a->dys + c,
                                .y = a->y ? (const T *)a->y + i * a->ys + c : NULL,
                                .channels = 1,
                                .at = i,
                                .n = 1,
                                .coef = (const A *)a->coef + c,
                                .cs = a->cs,
                                .activation = a->activation,
                                .parameter = a->parameter};
            BN_NAME(reduce_add)(&z, &one);
        }
        BN_NAME(reduce_end)(&z, a->rows, sum_dy + c, sum_dy_xhat + c);
    }
}

/* ---- element by element ------------------------------------------------------------------------------------------ */

/* Element j of a row has coefficient j in a tile, that of its run otherwise. */
static coefs coefs_of(const bn_span *a, int64_t j)
{
    return coefs_at(a->coef, a->cs, a->flags & BN_TILE ? j : j / a->width);
}

void BN_NAME(normalise)(const bn_span *a)
{
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->channels * a->width; j++) {
            const coefs c = coefs_of(a, j);
            A z = affine(centred(get((const T *)a->x + i * a->xs + j), c.mean_hi), c.scale, c.shift);
            if (a->residual) z += get((const T *)a->residual + i * a->residuals + j);
            put((T *)a->out + i * a->outs + j, activate(a->activation, z, (A)a->parameter));
        }
}

void BN_NAME(input_grad)(const bn_span *a)
{
    const int frozen = a->flags & BN_FROZEN;
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->channels * a->width; j++) {
            const coefs c = coefs_of(a, j);
            const T *dy = (const T *)a->dy + i * a->dys + j, *y = a->y ? (const T *)a->y + i * a->ys + j : NULL;
            const A d = a->x ? centred(get((const T *)a->x + i * a->xs + j), c.mean_hi) : 0;
            const A g = behind(dy, y, d, c, a->activation, a->parameter);
            const A dx = frozen ? frozen_grad(g, c.scale) : batch_grad(g, d, c.mean_dy, c.slope, c.scale);
            put((T *)a->out + i * a->outs + j, dx);
            if (a->dresidual) put((T *)a->dresidual + i * a->dresiduals + j, g);
        }
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

void BN_NAME(stream_copy)(const bn_span *a) { memcpy(a->out, a->x, a->width * sizeof(T)); }

void BN_NAME(stream_triad)(const bn_span *a)
{
    for (int64_t j = 0; j < a->width; j++) put((T *)a->out + j, get((const T *)a->x + j) + get((const T *)a->dy + j));
}
