/* Normalise: y = ((x - mean_hi) - mean_lo) * scale + bias, then + residual, then ReLU.
 *
 * Reads x (and the residual), writes y: 8 (12) bytes for each element in float32. The mean in two floats keeps large
 * offsets exact: x - mean_hi is exact where x is near the mean, and a constant channel gives exactly bias.
 */
#include "span.h"

INLINE void normalise(const struct row *p, int64_t j, const coefs *c, int flags, vec *first, vec *second)
{
    vec z = ((load(p->x + j) - c->mean_hi) - c->mean_lo) * c->scale + c->bias;
    if (flags & HAS_R) z += load(p->r + j);
    *first = flags & BN_RELU ? gate(z, z) : z;
    *second = *first;
}

void BN_NAME(apply)(const bn_span *a)
{
#define CASE(flags) case flags: run_span(normalise, a, (flags) | HAS_X); break;
    switch ((a->flags & (BN_RELU | BN_TILE)) | (a->r ? HAS_R : 0)) {
        CASE(0)
        CASE(BN_RELU)
        CASE(BN_TILE)
        CASE(BN_TILE | BN_RELU)
        CASE(HAS_R)
        CASE(HAS_R | BN_RELU)
        CASE(HAS_R | BN_TILE)
        CASE(HAS_R | BN_TILE | BN_RELU)
    }
#undef CASE
}
