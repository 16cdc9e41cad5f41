/* Any processor: 16-byte vectors, by what GNU C says alone. */
#define VECTOR_BYTES 16
#include "vector.h"

INLINE void stream_vec(void *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE void store_vec_lanes(A *p, vec v, int lo, int hi) { portable_store_vec_lanes(p, v, lo, hi); }
INLINE vecd widen(vec_lo part) { return __builtin_convertvector(part, vecd); }
INLINE void move_lanes(vec v[NV], int up) { portable_move_lanes(v, up); }

#if ARITH_BYTES == 4
INLINE ivec bits_to_ints(bits b) { return __builtin_convertvector(b, ivec); }
INLINE bits ints_to_bits(ivec v) { return __builtin_convertvector(v, bits); }
INLINE ivec pair_first(pair_bits b)
{
    bits half[2];
    memcpy(half, &b, sizeof half);
    return bits_to_ints(half[0]) << 16;
}

INLINE ivec pair_second(pair_bits b)
{
    bits half[2];
    memcpy(half, &b, sizeof half);
    return bits_to_ints(half[1]) << 16;
}

INLINE pair_bits pair_join(ivec a, ivec b)
{
    const bits half[2] = {ints_to_bits(a), ints_to_bits(b)};
    pair_bits joined;
    memcpy(&joined, half, sizeof joined);
    return joined;
}

INLINE void stream_bits(void *p, bits b) { memcpy(p, &b, sizeof b); }
INLINE void store_bits_lanes(uint16_t *p, bits b, int lo, int hi) { portable_store_bits_lanes(p, b, lo, hi); }
INLINE vec float16_to_vec(bits b) { return portable_float16_to_vec(bits_to_ints(b)); }
INLINE bits vec_to_float16(vec v) { return ints_to_bits(portable_vec_to_float16(v)); }
#endif
