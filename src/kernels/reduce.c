/* The two sums of the backward pass over one block: sum dy and sum dy * xhat, xhat = ((x - mean_hi) - mean_lo) * invstd.
 *
 * Reads dy and x once (8 bytes for each element in float32; y too where ReLU follows a residual), writes two numbers.
 * With ReLU dy counts where the forward output was not <= 0; the sign is recomputed by the very operations of normalise.c,
 * so it is the forward sign to the bit. xhat is formed before the product: dy * (x - mean) could leave the range.
 */
#include "reduce_cl.h"
#include "reduce_cf.h"

enum { WITH_RELU = 16, FROM_Y = 32 /* the sign is y's */ };

INLINE void products(struct elements p, const coefs *c, int flags, vec *a, vec *b)
{
    vec d = (load(p.x) - c->mean_hi) - c->mean_lo, g = load(p.dy);
    if (flags & WITH_RELU) g = gate(flags & FROM_Y ? load(p.y) : d * c->scale + c->bias, g);
    *a = g;
    *b = g * (d * c->invstd);
}

INLINE void add_products(const T *x, const T *dy, const T *y, const coefs *c, int flags, vec *s, vec *q)
{
    vec a, b;
    products((struct elements){x, dy, y}, c, flags, &a, &b);
    *s += a;
    *q += b;
}

INLINE void reduce_runs(bn_sums *z, const bn_run *a, int flags)
{
    for (int64_t k = 0; k < a->channels; k++) {
        const coefs c = coefs_of_channel((const A *)a->coef + k, a->cs);
        add_run(products, run_of_channel(a, k), a->at, a->n, &c, flags, z + k);
    }
}

void BN_NAME(reduce_add)(bn_sums *z, const bn_run *a)
{
    if (a->activation == BN_IDENTITY) reduce_runs(z, a, 0);
    else if (a->y) reduce_runs(z, a, WITH_RELU | FROM_Y);
    else reduce_runs(z, a, WITH_RELU);
}

void BN_NAME(reduce_end)(bn_sums *z, int64_t n, double *sum_dy, double *sum_dy_xhat)
{
    if (n % BN_SUB) fold_rest(z);
    *sum_dy = total(z->a);
    *sum_dy_xhat = total(z->b);
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
    if (a->activation == BN_IDENTITY) columns(add_products, a, coef, cs, flat, 0, &z);
    else if (a->y) columns(add_products, a, coef, cs, flat, WITH_RELU | FROM_Y, &z);
    else columns(add_products, a, coef, cs, flat, WITH_RELU, &z);
    for (int64_t c = 0; c < w; c++) {
        sum_dy[c] = column_total(z.acc_s, w, c);
        sum_dy_xhat[c] = column_total(z.acc_q, w, c);
    }
}
