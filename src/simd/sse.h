/* x86-64-v2: 16-byte vectors of SSE4. */
#include <smmintrin.h>

#define VECTOR_BYTES 16
#include "vector.h"

INLINE void stream_vec(void *p, vec v) { _mm_stream_si128(p, (__m128i)v); }
INLINE void store_vec_lanes(A *p, vec v, int lo, int hi) { portable_store_vec_lanes(p, v, lo, hi); }
INLINE vecd widen(vec_lo part) { return __builtin_convertvector(part, vecd); }
INLINE void move_lanes(vec v[NV], int up) { portable_move_lanes(v, up); }

#if ARITH_BYTES == 4
INLINE ivec bits_to_ints(bits b)
{
    long long low;
    memcpy(&low, &b, sizeof low);
    return (ivec)_mm_cvtepu16_epi32(_mm_cvtsi64_si128(low));
}

INLINE bits ints_to_bits(ivec v)
{
    const long long low = _mm_cvtsi128_si64(_mm_packus_epi32((__m128i)v, (__m128i)v));
    bits b;
    memcpy(&b, &low, sizeof b);
    return b;
}

INLINE ivec pair_first(pair_bits b) { return (ivec)_mm_unpacklo_epi16(_mm_setzero_si128(), (__m128i)b); }
INLINE ivec pair_second(pair_bits b) { return (ivec)_mm_unpackhi_epi16(_mm_setzero_si128(), (__m128i)b); }
INLINE pair_bits pair_join(ivec a, ivec b) { return (pair_bits)_mm_packus_epi32((__m128i)a, (__m128i)b); }

INLINE void stream_bits(void *p, bits b)
{
    long long low;
    memcpy(&low, &b, sizeof low);
    _mm_stream_si64(p, low);
}

INLINE void store_bits_lanes(uint16_t *p, bits b, int lo, int hi) { portable_store_bits_lanes(p, b, lo, hi); }
INLINE vec float16_to_vec(bits b) { return portable_float16_to_vec(bits_to_ints(b)); }
INLINE bits vec_to_float16(vec v) { return ints_to_bits(portable_vec_to_float16(v)); }
#endif
