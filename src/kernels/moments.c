/* Statistics of one block: mean and M2 = sum (x - mean)^2 of up to BN_BLOCK elements of a channel.
 *
 *     d = x - shift,  S = sum d,  Q = sum d^2,  mean = shift + S / n,  M2 = Q - S^2 / n
 *
 * Reads each element once from memory (4 bytes in float32), writes nothing but the result. 1 subtraction, 2 additions
 * and 1 product for each element; lanes in the arithmetic type, sub-blocks in float64 (kernels.h).
 * The shift is the mean of the block's first eight elements, so |S / n| is a fraction of the standard deviation unless
 * the block is unlike its beginning. Where M2 cannot be trusted (moments_are_sound) the block, still in L1, is summed
 * again in float64, about the mean just found. A constant block gives exactly its value and 0.
 */
#include "reduce_cf.h"
#include "reduce_cl.h"

#define SMALLEST (sizeof(A) == 4 ? 0x1p-100 : 0x1p-960) /* mean squares below were rounded to subnormals */

/* d and d^2; the shift takes the place of the mean. */
INLINE void terms(const row *p, int64_t j, const coefs *c, variant v, vec *a, vec *b)
{
    (void)v;
    *a = load(p->x + j) - c->mean_hi;
    *b = *a * *a;
}

INLINE A first_shift(const T *x, int64_t step, int64_t n)
{
    if (n < 8) return get(x);
    A a[8];
    for (int i = 0; i < 8; i++) a[i] = get(x + i * step);
    return (((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))) * (A)0.125;
}

/* The result from the sums about shift; false if it cannot be trusted. */
INLINE int finish(int64_t n, double shift, double s, double q, double *mean, double *m2)
{
    moments_of_sums((double)n, shift, s, q, mean, m2);
    return moments_are_sound((double)n, s, q, *m2, SMALLEST);
}

/* ---- two passes over a block in L1 ------------------------------------------------------------------------------ */

#define WIDE_BEGIN(k) vecd s##k = {0}, q##k = {0};
#define WIDE_ADD(k)                                 \
    vecd d##k = widen(load_lo(x + i + k * WD)) - m; \
    s##k += d##k;                                   \
    q##k += d##k * d##k;
#define WIDE_END(k)                         \
    memcpy(s + k * WD, &s##k, sizeof s##k); \
    memcpy(q + k * WD, &q##k, sizeof q##k);

/* The moments in float64 about `shift`: element i belongs to accumulator i % 8. */
static void in_float64(const T *x, int64_t n, double shift, double *mean, double *m2)
{
    double s[8], q[8];
    int64_t i = 0;
    const vecd m = shift - (vecd){0};
    REPEAT(ND, WIDE_BEGIN)
    for (; i + 8 <= n; i += 8) {
        REPEAT(ND, WIDE_ADD)
    }
    REPEAT(ND, WIDE_END)
    for (int k = 0; i + k < n; k++) {
        double d = (double)get(x + i + k) - shift;
        s[k] += d;
        q[k] += d * d;
    }
    moments_of_sums((double)n, shift, total(s), total(q), mean, m2);
}

void BN_NAME(moments_two_pass)(const void *block, int64_t n, double *mean, double *m2)
{
    const T *x = block;
    assert(x && n > 0 && n <= BN_BLOCK);
    if (!memcmp(x, x + 1, (n - 1) * sizeof(T)) && isfinite((double)get(x))) {
        *mean = (double)get(x), *m2 = 0;
        return;
    }
    if (!isfinite(*mean)) in_float64(x, n, (double)get(x), mean, m2);
    in_float64(x, n, *mean, mean, m2);
    if (!isfinite(*mean)) { /* Inf and NaN as a plain sum has them */
        *mean = 0;
        for (int64_t i = 0; i < n; i++) *mean += (double)get(x + i);
        *mean /= (double)n;
    }
    if (*m2 < 0) *m2 = 0; /* keeps NaN */
}

/* ---- channels first --------------------------------------------------------------------------------------------- */

void BN_NAME(moments_begin)(bn_sums *z, const void *first, int64_t n)
{
    memset(z, 0, sizeof *z);
    z->shift = (double)first_shift(first, 1, n);
}

void BN_NAME(moments_add)(bn_sums *z, const bn_run *a)
{
    const variant v = common(HAS_X, BN_IDENTITY);
    check_run(a);
    for (int64_t c = 0; c < a->channels; c++) {
        const coefs shift = {.mean_hi = splat((A)z[c].shift)};
        add_run(row_of_run(a, c, v.flags), a->at, a->n, &shift, v, z + c);
    }
}

int BN_NAME(moments_end)(bn_sums *z, int64_t n, double *mean, double *m2)
{
    if (n % BN_SUB) fold_rest(z);
    return finish(n, z->shift, total(z->a), total(z->b), mean, m2);
}

/* ---- channels last ---------------------------------------------------------------------------------------------- */

/* first_shift of all columns. */
INLINE void first_shifts(const bn_span *a, A *shift)
{
    const T *x = a->x;
    int64_t c = 0;
    for (; a->rows >= 8 && c + W <= a->width; c += W) {
        vec v[8];
        for (int i = 0; i < 8; i++) v[i] = load(x + i * a->xs + c);
        store_a(shift + c, (((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))) * (A)0.125);
    }
    for (; c < a->width; c++) shift[c] = first_shift(x + c, a->xs, a->rows);
}

/* Up to BN_GROUP channels side by side; a channel that needs it is gathered and summed again. */
void BN_NAME(moments_cl)(const bn_span *a, double *mean, double *m2, void *scratch)
{
    struct columns_scratch z = columns_scratch(scratch, a->width);
    const variant v = common(HAS_X, BN_IDENTITY);
    const T *x = a->x;
    const int64_t w = a->width, n = a->rows;
    const int flat = is_flat(a, v.flags);
    check_matrix(a);
    first_shifts(a, z.coef);
    for (int64_t c = w; flat && c < BN_LANES * w; c++) z.coef[c] = z.coef[c - w];
    add_columns(a, z.coef, z.cs, flat, v, &z);
    for (int64_t c = 0; c < w; c++) {
        double s = column_total(z.acc_s, w, c), q = column_total(z.acc_q, w, c);
        if (finish(n, (double)z.coef[c], s, q, mean + c, m2 + c)) continue;
        for (int64_t i = 0; i < n; i++) z.column[i] = x[i * a->xs + c];
        BN_NAME(moments_two_pass)(z.column, n, mean + c, m2 + c);
    }
}
