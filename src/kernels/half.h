/* float16 and bfloat16, one number at a time: the scalar twins of the vector conversions in vec.h.
 *
 * Widening is exact. Narrowing rounds once, to nearest and ties to even, keeps NaN (and the top of its payload) and
 * overflows to Inf, so that every level gives the same bits.
 */
#ifndef BN_HALF_H
#define BN_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t bn_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float bn_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float bn_from_bf16(uint16_t h) { return bn_float((uint32_t)h << 16); }

static inline uint16_t bn_to_bf16(float f)
{
    uint32_t u = bn_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* No step meets a float32 subnormal, so flush-to-zero modes change nothing. */
static inline float bn_from_f16(uint16_t h)
{
    const uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    uint32_t u = magnitude + 0x38000000;
    if (magnitude < 0x00800000) u = bn_bits((float)(h & 0x7fff) * 0x1p-24f); /* subnormal */
    if (magnitude >= 0x0f800000) u |= 0x7f800000;                            /* Inf and NaN */
    if (magnitude > 0x0f800000) u |= 0x400000;                               /* quiet, as the processor's instruction does */
    return bn_float(u | (uint32_t)(h & 0x8000) << 16);
}

static inline uint16_t bn_to_f16(float f)
{
    const uint32_t u = bn_bits(f), magnitude = u & 0x7fffffff;
    uint32_t h;
    if (magnitude > 0x7f800000) h = 0x7e00 | magnitude >> 13;                  /* NaN */
    else if (magnitude >= 0x47800000) h = 0x7c00;                              /* 65536 and above: Inf */
    else if (magnitude < 0x38800000) h = bn_bits(bn_float(magnitude) + 0.5f) - 0x3f000000; /* subnormal */
    else h = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    return (uint16_t)((h & 0x7fff) | (u >> 16 & 0x8000));
}

/* To float32 with the last bit set where anything was lost ("round to odd"): narrowing that again rounds only once. */
static inline float bn_to_odd(double d)
{
    const float f = (float)d;
    const uint32_t u = bn_bits(f);
    if ((double)f == d || d != d || u & 1 || (u & 0x7fffffff) == 0x7f800000) return f;
    return bn_float(fabs((double)f) < fabs(d) ? u + 1 : u - 1);
}

#endif
