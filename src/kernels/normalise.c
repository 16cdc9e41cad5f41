/* Normalise: y = (x - mean_hi) * scale + shift, then + residual, then the activation.
 *
 * Reads x (and the residual), writes y: 8 (12) bytes for each element in float32. The mean in two numbers, of which
 * shift has the lower, keeps large offsets exact: x - mean_hi is exact where x is near the mean (formulas.h).
 */
#include "elementwise.h"

INLINE void results(const row *p, int64_t j, const coefs *c, variant v, vec *first, vec *second)
{
    vec z = affine(centred(load_as(p->x + j, v), c->mean_hi), c->scale, c->shift);
    if (v.flags & HAS_RESIDUAL) z += load_as(p->residual + j, v);
    *first = *second = activate(v.activation, z, splat(v.parameter));
}

void BN_NAME(normalise)(const bn_span *a)
{
    variant v = variant_of(a);
    v.flags = (v.flags & (BN_TILE | HAS_RESIDUAL)) | HAS_X;
    assert(a->x);
    COMMON(HAS_X, BN_IDENTITY)
    COMMON(HAS_X, BN_RELU)
    COMMON(HAS_X | HAS_RESIDUAL, BN_IDENTITY)
    COMMON(HAS_X | HAS_RESIDUAL, BN_RELU)
    COMMON(HAS_X | BN_TILE, BN_IDENTITY)
    COMMON(HAS_X | BN_TILE, BN_RELU)
    COMMON(HAS_X | HAS_RESIDUAL | BN_TILE, BN_IDENTITY)
    COMMON(HAS_X | HAS_RESIDUAL | BN_TILE, BN_RELU)
    if (v.flags & BN_TILE) run_span(a, (variant){v.flags | BN_TILE, v.activation, v.parameter, NO_PAIR});
    else run_span(a, (variant){v.flags & ~BN_TILE, v.activation, v.parameter, NO_PAIR});
}
