/* The gradient of the input: dx = ((x - mean_hi) * slope + (g - mean_dy)) * scale, or g * scale with frozen
 * statistics, where g is dy behind the activation (formulas.h).
 *
 * Reads dy and x (y where the activation follows a residual), writes dx (and g, the residual's gradient): 12 bytes
 * for each element in float32; frozen without an activation reads dy alone, 8 bytes.
 */
#include "elementwise.h"

INLINE void results(const row *p, int64_t j, const coefs *c, variant v, vec *first, vec *second)
{
    vec d = {0};
    if (v.flags & HAS_X) d = centred(load_as(p->x + j, v), c->mean_hi);
    const vec g = dy_behind_activation(p, j, d, c, v);
    *second = g;
    if (v.flags & BN_FROZEN) *first = frozen_grad(g, c->scale);
    else *first = batch_grad(g, d, c->mean_dy, c->slope, c->scale);
}

void BN_NAME(input_grad)(const bn_span *a)
{
    variant v = variant_of(a);
    const int for_z = v.activation != BN_IDENTITY && !(v.flags & HAS_Y);
    v.flags &= ~HAS_RESIDUAL;
    if (!(v.flags & BN_FROZEN) || for_z) v.flags |= HAS_X;
    assert(a->dy && (a->x || !(v.flags & HAS_X)));
    COMMON(HAS_X | HAS_DY, BN_IDENTITY)
    COMMON(HAS_X | HAS_DY, BN_RELU)
    COMMON(HAS_X | HAS_DY | HAS_Y | HAS_DRESIDUAL, BN_RELU)
    COMMON(HAS_DY | BN_FROZEN, BN_IDENTITY)
    COMMON(HAS_X | HAS_DY | BN_TILE, BN_IDENTITY)
    COMMON(HAS_X | HAS_DY | BN_TILE, BN_RELU)
    COMMON(HAS_X | HAS_DY | HAS_Y | HAS_DRESIDUAL | BN_TILE, BN_RELU)
    COMMON(HAS_DY | BN_FROZEN | BN_TILE, BN_IDENTITY)
    if (v.flags & BN_TILE) run_span(a, (variant){v.flags | BN_TILE, v.activation, v.parameter, NO_PAIR});
    else run_span(a, (variant){v.flags & ~BN_TILE, v.activation, v.parameter, NO_PAIR});
}
