/* The two sums of the backward pass over one block: sum g and sum g * (d * invstd), d = x - mean_hi, where g is dy
 * behind the activation. What the second lacks of sum g * xhat is added for a whole channel (merge.c).
 *
 * Reads dy and x once (8 bytes for each element in float32; y too where the activation follows a residual), writes two
 * numbers. d * invstd is formed before the product: dy * d could leave the range.
 */
#include "reduce_cf.h"
#include "reduce_cl.h"

INLINE void terms(const row *p, int64_t j, const coefs *c, variant v, vec *a, vec *b)
{
    const vec d = centred(load(p->x + j), c->mean_hi);
    *a = dy_behind_activation(p, j, d, c, v);
    *b = *a * standardised(d, c->invstd);
}

enum { BOTH = HAS_X | HAS_DY };

INLINE variant variant_of(const void *y, int activation, double parameter)
{
    return (variant){activation != BN_IDENTITY && y ? BOTH | HAS_Y : BOTH, activation, (A)parameter, NO_PAIR};
}

INLINE void reduce_runs(bn_sums *z, const bn_run *a, variant v)
{
    for (int64_t k = 0; k < a->channels; k++) {
        const coefs c = coefs_of_channel((const A *)a->coef + k, a->cs);
        add_run(row_of_run(a, k, v.flags), a->at, a->n, &c, v, z + k);
    }
}

void BN_NAME(reduce_add)(bn_sums *z, const bn_run *a)
{
    const variant v = variant_of(a->y, a->activation, a->parameter);
    check_run(a);
    assert(a->dy && a->coef);
    if (is_variant(v, BOTH, BN_IDENTITY)) reduce_runs(z, a, common(BOTH, BN_IDENTITY));
    else if (is_variant(v, BOTH, BN_RELU)) reduce_runs(z, a, common(BOTH, BN_RELU));
    else if (is_variant(v, BOTH | HAS_Y, BN_RELU)) reduce_runs(z, a, common(BOTH | HAS_Y, BN_RELU));
    else reduce_runs(z, a, v);
}

void BN_NAME(reduce_end)(bn_sums *z, int64_t n, double *sum_dy, double *sum_dy_xhat)
{
    if (n % BN_SUB) fold_rest(z);
    *sum_dy = total(z->a);
    *sum_dy_xhat = total(z->b);
}

/* Every activation, its z computed or read, is a variant of its own: to look it up for each vector costs as much as the
 * sums. */
#define COLUMNS_VARIANT(NAME, forward, gradient)                                          \
    case BN_##NAME: add_columns(a, coef, cs, flat, RUN_TIME(BOTH, BN_##NAME), &z); break; \
    case BN_##NAME + BN_NACTIVATION: add_columns(a, coef, cs, flat, RUN_TIME(BOTH | HAS_Y, BN_##NAME), &z); break;
#define RUN_TIME(flags, activation) ((variant){flags, activation, v.parameter, NO_PAIR})

void BN_NAME(reduce_cl)(const bn_span *a, double *sum_dy, double *sum_dy_xhat, void *scratch)
{
    struct columns_scratch z = columns_scratch(scratch, a->width);
    const variant v = variant_of(a->y, a->activation, a->parameter);
    const int64_t w = a->width;
    const int flat = is_flat(a, v.flags);
    const A *coef = a->coef;
    int64_t cs = a->cs;
    check_matrix(a);
    assert(a->dy && a->coef);
    if (flat) {
        static const int rows[] = {BN_MEAN_HI, BN_INVSTD, BN_SCALE, BN_SHIFT}; /* the last two for z alone */
        for (int r = 0; r < (v.activation == BN_IDENTITY ? 2 : 4); r++)
            for (int64_t j = 0; j < BN_LANES; j++)
                memcpy(z.coef + rows[r] * z.cs + j * w, coef + rows[r] * cs, w * sizeof(A));
        coef = z.coef;
        cs = z.cs;
    }
    switch (v.activation + (v.flags & HAS_Y ? BN_NACTIVATION : 0)) {
        BN_ACTIVATIONS(COLUMNS_VARIANT)
    }
    for (int64_t c = 0; c < w; c++) {
        sum_dy[c] = column_total(z.acc_s, w, c);
        sum_dy_xhat[c] = column_total(z.acc_q, w, c);
    }
}
