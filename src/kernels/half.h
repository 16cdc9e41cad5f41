/* formulas.h for C: numbers one at a time. The bn_ names are those of src/view.h. */
#ifndef BN_HALF_H
#define BN_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline unsigned float_bits(float f)
{
    unsigned u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float bits_float(unsigned u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

#define SCALAR static inline
#include "../formulas.h"

#define bn_from_bf16 bfloat16_to_float
#define bn_to_bf16 float_to_bfloat16
#define bn_from_f16 float16_to_float
#define bn_to_f16 float_to_float16
#define bn_to_odd double_to_odd

#endif
