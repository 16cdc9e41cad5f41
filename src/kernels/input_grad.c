/* The gradient of the input: dx = scale * ((dy - mean dy) - xhat * mean(dy * xhat)), or scale * dy with frozen statistics.
 *
 * Reads dy and x (y where ReLU follows a residual), writes dx (and the residual's gradient, dy past ReLU): 12 bytes for
 * each element in float32; frozen without ReLU reads dy alone, 8 bytes. scale = weight * invstd.
 */
#include "span.h"

INLINE void gradient(const struct row *p, int64_t j, const coefs *c, int flags, vec *first, vec *second)
{
    vec g = load(p->dy + j), d = {0};
    if (flags & HAS_X) d = (load(p->x + j) - c->mean_hi) - c->mean_lo;
    if (flags & BN_RELU) g = gate(flags & HAS_R ? load(p->r + j) : d * c->scale + c->bias, g);
    *second = g;
    if (!(flags & BN_FROZEN)) g = (g - c->dy) - (d * c->invstd) * c->dy_xhat;
    *first = g * c->scale;
}

/* x is read unless frozen, then only for the sign of ReLU; r and out2 occur with ReLU alone. */
void BN_NAME(input_grad)(const bn_span *a)
{
    const int relu = a->flags & BN_RELU;
#define CASE(flags) \
    case flags: run_span(gradient, a, (flags) | HAS_DY | (((flags) & BN_FROZEN) && ((flags) & HAS_R || !((flags) & BN_RELU)) ? 0 : HAS_X)); break;
#define CASES(flags) CASE(flags) CASE((flags) | BN_TILE) CASE((flags) | BN_FROZEN) CASE((flags) | BN_FROZEN | BN_TILE)
    switch ((a->flags & (BN_RELU | BN_TILE | BN_FROZEN)) | (relu && a->r ? HAS_R : 0) | (relu && a->out2 ? HAS_OUT2 : 0)) {
        CASES(0)
        CASES(BN_RELU)
        CASES(BN_RELU | HAS_R)
        CASES(BN_RELU | HAS_OUT2)
        CASES(BN_RELU | HAS_R | HAS_OUT2)
    }
#undef CASES
#undef CASE
}
