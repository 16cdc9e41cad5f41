/* x86-64-v4: 64-byte vectors of AVX-512 (F, BW, CD, DQ, VL). */
#include <immintrin.h>

#define VECTOR_BYTES 64
#include "vector.h"

INLINE void stream_vec(void *p, vec v) { _mm512_stream_si512(p, (__m512i)v); }

#if ARITH_BYTES == 4
INLINE void store_vec_lanes(A *p, vec v, int lo, int hi)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << hi) - (1u << lo)), (__m512)v);
}

INLINE vecd widen(vec_lo part) { return (vecd)_mm512_cvtps_pd((__m256)part); /* gcc 12 would split it in two */ }

INLINE void move_lanes(vec v[NV], int up)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 kept = (__mmask16)(up < 0 ? 0xffff >> -up : 0xffff << up);
    v[0] = (vec)_mm512_maskz_permutexvar_ps(kept, _mm512_sub_epi32(lane, _mm512_set1_epi32(up)), (__m512)v[0]);
}

INLINE ivec bits_to_ints(bits b) { return (ivec)_mm512_cvtepu16_epi32((__m256i)b); }
INLINE bits ints_to_bits(ivec v) { return (bits)_mm512_cvtepi32_epi16((__m512i)v); }
INLINE ivec pair_first(pair_bits b) { return (ivec)_mm512_unpacklo_epi16(_mm512_setzero_si512(), (__m512i)b); }
INLINE ivec pair_second(pair_bits b) { return (ivec)_mm512_unpackhi_epi16(_mm512_setzero_si512(), (__m512i)b); }
INLINE pair_bits pair_join(ivec a, ivec b) { return (pair_bits)_mm512_packus_epi32((__m512i)a, (__m512i)b); }
INLINE void stream_bits(void *p, bits b) { _mm256_stream_si256(p, (__m256i)b); }

INLINE void store_bits_lanes(uint16_t *p, bits b, int lo, int hi)
{
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << hi) - (1u << lo)), (__m256i)b);
}

INLINE vec float16_to_vec(bits b) { return (vec)_mm512_cvtph_ps((__m256i)b); }

INLINE bits vec_to_float16(vec v)
{
    return (bits)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
INLINE void store_vec_lanes(A *p, vec v, int lo, int hi)
{
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << hi) - (1u << lo)), (__m512d)v);
}

INLINE vecd widen(vec_lo part) { return part; }
INLINE void move_lanes(vec v[NV], int up) { portable_move_lanes(v, up); }
#endif
