/* Normalise: y = ((x - mean_hi) - mean_lo) * scale + bias, then + residual, then ReLU.
 *
 * Reads x (and the residual), writes y: 8 (12) bytes for each element in float32. The mean in two floats keeps large
 * offsets exact: x - mean_hi is exact where x is near the mean, and a constant channel gives with_default_fenv bias.
 */
#include "elementwise.h"

INLINE void normalise(const struct row *p, int64_t j, const coefs *c, int flags, vec *first, vec *second)
{
    vec z = ((load(p->x + j) - c->mean_hi) - c->mean_lo) * c->scale + c->bias;
    if (flags & HAS_RESIDUAL) z += load(p->residual + j);
    *first = flags & WITH_RELU ? gate(z, z) : z;
    *second = *first;
}

void BN_NAME(normalise)(const bn_span *a)
{
#define CASE(flags) case flags: run_span(normalise, a, (flags) | HAS_X); break;
    switch ((a->activation == BN_RELU ? WITH_RELU : 0) | (a->flags & BN_TILE) | (a->residual ? HAS_RESIDUAL : 0)) {
        CASE(0)
        CASE(WITH_RELU)
        CASE(BN_TILE)
        CASE(BN_TILE | WITH_RELU)
        CASE(HAS_RESIDUAL)
        CASE(HAS_RESIDUAL | WITH_RELU)
        CASE(HAS_RESIDUAL | BN_TILE)
        CASE(HAS_RESIDUAL | BN_TILE | WITH_RELU)
    }
#undef CASE
}
