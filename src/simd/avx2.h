/* x86-64-v3: 32-byte vectors of AVX2; float16 by F16C. */
#include <immintrin.h>

#define VECTOR_BYTES 32
#include "vector.h"

INLINE void stream_vec(void *p, vec v) { _mm256_stream_si256(p, (__m256i)v); }
INLINE void store_vec_lanes(A *p, vec v, int lo, int hi) { portable_store_vec_lanes(p, v, lo, hi); }
INLINE vecd widen(vec_lo part) { return __builtin_convertvector(part, vecd); }
INLINE void move_lanes(vec v[NV], int up) { portable_move_lanes(v, up); }

#if ARITH_BYTES == 4
INLINE ivec bits_to_ints(bits b) { return (ivec)_mm256_cvtepu16_epi32((__m128i)b); }

INLINE bits ints_to_bits(ivec v)
{
    return (bits)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
}

INLINE ivec pair_first(pair_bits b) { return (ivec)_mm256_unpacklo_epi16(_mm256_setzero_si256(), (__m256i)b); }
INLINE ivec pair_second(pair_bits b) { return (ivec)_mm256_unpackhi_epi16(_mm256_setzero_si256(), (__m256i)b); }
INLINE pair_bits pair_join(ivec a, ivec b) { return (pair_bits)_mm256_packus_epi32((__m256i)a, (__m256i)b); }
INLINE void stream_bits(void *p, bits b) { _mm_stream_si128(p, (__m128i)b); }
INLINE void store_bits_lanes(uint16_t *p, bits b, int lo, int hi) { portable_store_bits_lanes(p, b, lo, hi); }
INLINE vec float16_to_vec(bits b) { return (vec)_mm256_cvtph_ps((__m128i)b); }

INLINE bits vec_to_float16(vec v)
{
    return (bits)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#endif
