/* The gradient of the input: dx = scale * ((dy - mean dy) - xhat * mean(dy * xhat)), or scale * dy with frozen statistics.
 *
 * Reads dy and x (y where ReLU follows a residual), writes dx (and the residual's gradient, dy past ReLU): 12 bytes for
 * each element in float32; frozen without ReLU reads dy alone, 8 bytes. scale = weight * invstd.
 */
#include "elementwise.h"

INLINE void gradient(const struct row *p, int64_t j, const coefs *c, int flags, vec *first, vec *second)
{
    vec g = load(p->dy + j), d = {0};
    if (flags & HAS_X) d = (load(p->x + j) - c->mean_hi) - c->mean_lo;
    if (flags & WITH_RELU) g = gate(flags & HAS_Y ? load(p->y + j) : d * c->scale + c->bias, g);
    *second = g;
    if (!(flags & BN_FROZEN)) g = (g - c->dy) - (d * c->invstd) * c->dy_xhat;
    *first = g * c->scale;
}

/* x is read unless frozen, then only for the sign of ReLU; y and dresidual occur with ReLU alone. */
void BN_NAME(input_grad)(const bn_span *a)
{
    const int relu = a->activation == BN_RELU;
#define CASE(flags) \
    case flags: run_span(gradient, a, (flags) | HAS_DY | (((flags) & BN_FROZEN) && ((flags) & HAS_Y || !((flags) & WITH_RELU)) ? 0 : HAS_X)); break;
#define CASES(flags) CASE(flags) CASE((flags) | BN_TILE) CASE((flags) | BN_FROZEN) CASE((flags) | BN_FROZEN | BN_TILE)
    switch ((relu ? WITH_RELU : 0) | (a->flags & (BN_TILE | BN_FROZEN)) | (relu && a->y ? HAS_Y : 0) | (relu && a->dresidual ? HAS_DRESIDUAL : 0)) {
        CASES(0)
        CASES(WITH_RELU)
        CASES(WITH_RELU | HAS_Y)
        CASES(WITH_RELU | HAS_DRESIDUAL)
        CASES(WITH_RELU | HAS_Y | HAS_DRESIDUAL)
    }
#undef CASES
#undef CASE
}
