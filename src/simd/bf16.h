/* bfloat16, as its bits: the upper half of a float32. Its own instructions flush subnormals and are in no level. */
typedef uint16_t T;
typedef float A;
typedef int32_t I;
#define ARITH_BYTES 4

INLINE A get(const T *p) { return bfloat16_to_float(*p); }
INLINE void put(T *p, A a) { *p = float_to_bfloat16(a); }

#ifdef BN_SIMD
#include "isa.h"
#define LARGEST_ZERO 0x1p-134f /* what rounds to 0 */
INLINE vec widen_bits(bits b) { return (vec)(bits_to_ints(b) << 16); }

/* The upper half, rounded, as the lower one. A NaN needs no case of its own: those that come from memory, from arithmetic
 * and from the coefficients (coef_nearest) have zeros in their lower half, and are kept by the rounding. */
INLINE ivec upper_half(vec v)
{
    typedef uint32_t uvec __attribute__((vector_size(VECTOR_BYTES)));
    const uvec u = (uvec)v;
    return (ivec)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

INLINE bits narrow_bits(vec v) { return ints_to_bits(upper_half(v)); }

/* Two vectors from, and to, one vector's load and store: half the instructions of widening each. */
#define PAIRS 1

INLINE vec load_of_pair(const T *p, int second)
{
    pair_bits b;
    memcpy(&b, p, sizeof b);
    return (vec)(second ? pair_second(b) : pair_first(b));
}

INLINE void store_pair(T *p, vec a, vec b)
{
    const pair_bits joined = pair_join(upper_half(a), upper_half(b));
    memcpy(p, &joined, sizeof joined);
}

INLINE void stream_pair(T *p, vec a, vec b) { stream_vec(p, (vec)pair_join(upper_half(a), upper_half(b))); }
#include "sixteen.h"
#endif
