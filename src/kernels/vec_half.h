/* load, store and stream of float16 and bfloat16 (half.h, W numbers at a time); included by vec.h alone.
 *
 * float16 has instructions from x86_v3 on (F16C); everything else is integer arithmetic on 32-bit lanes. bfloat16's own
 * instructions flush subnormals and are in no level.
 */
typedef uint16_t bits __attribute__((vector_size(W * 2))); /* of W numbers in memory */

/* 16-bit lanes to 32-bit lanes, and back what fits. */
INLINE ivec from_bits(bits b)
{
#if defined(__AVX512F__)
    return (ivec)_mm512_cvtepu16_epi32((__m256i)b);
#elif defined(__AVX2__)
    return (ivec)_mm256_cvtepu16_epi32((__m128i)b);
#elif defined(__SSE4_1__)
    int64_t low;
    memcpy(&low, &b, sizeof low);
    return (ivec)_mm_cvtepu16_epi32(_mm_cvtsi64_si128(low));
#else
    return __builtin_convertvector(b, ivec);
#endif
}

INLINE bits to_bits(ivec v)
{
#if defined(__AVX512F__)
    return (bits)_mm512_cvtepi32_epi16((__m512i)v);
#elif defined(__AVX2__)
    return (bits)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
#elif defined(__SSE4_1__)
    int64_t low = _mm_cvtsi128_si64(_mm_packus_epi32((__m128i)v, (__m128i)v));
    bits b;
    memcpy(&b, &low, sizeof b);
    return b;
#else
    return __builtin_convertvector(v, bits);
#endif
}

INLINE ivec either(ivec mask, ivec a, ivec b) { return (a & mask) | (b & ~mask); }

#if defined(BN_DTYPE_BF16)
INLINE A get(const T *p) { return bn_from_bf16(*p); }

INLINE vec widen_bits(bits b) { return (vec)(from_bits(b) << 16); }

/* A NaN needs no case of its own: those that come from memory, from arithmetic and from the coefficients (coefs.c) have
 * zeros in their lower half, and are kept by the rounding. */
INLINE bits narrow_bits(vec v)
{
    typedef uint32_t uvec __attribute__((vector_size(BN_VECTOR_BYTES)));
    const uvec u = (uvec)v;
    return to_bits((ivec)((u + 0x7fff + (u >> 16 & 1)) >> 16));
}
#else
INLINE A get(const T *p) { return bn_from_f16(*p); }

INLINE vec widen_bits(bits b)
{
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps((__m256i)b);
#elif defined(__AVX2__)
    return (vec)_mm256_cvtph_ps((__m128i)b);
#else
    const ivec h = from_bits(b), magnitude = (h & 0x7fff) << 13;
    ivec u = (ivec)((vec)magnitude * 0x1p112f);
    u |= (magnitude >= 0x0f800000) & 0x7f800000;
    u |= (magnitude > 0x0f800000) & 0x400000;
    return (vec)(u | (h & 0x8000) << 16);
#endif
}

INLINE bits narrow_bits(vec v)
{
#if defined(__AVX512F__)
    return (bits)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
    return (bits)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const ivec u = (ivec)v, magnitude = u & 0x7fffffff;
    ivec h = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    h = either(magnitude < 0x38800000, (ivec)((vec)magnitude + 0.5f) - 0x3f000000, h);
    h = either(magnitude >= 0x47800000, (ivec){0} + 0x7c00, h);
    h = either(magnitude > 0x7f800000, 0x7e00 | magnitude >> 13, h);
    return to_bits((h & 0x7fff) | (u >> 16 & 0x8000));
#endif
}
#endif

INLINE vec load(const T *p)
{
    bits b;
    memcpy(&b, p, sizeof b);
    return widen_bits(b);
}

INLINE half load_half(const T *p)
{
    half v;
    for (int i = 0; i < WD; i++) v[i] = get(p + i);
    return v;
}

INLINE void store(T *p, vec v)
{
    const bits b = narrow_bits(v);
    memcpy(p, &b, sizeof b);
}

INLINE void stream(T *p, vec v)
{
    const bits b = narrow_bits(v);
#if defined(__AVX512F__)
    _mm256_stream_si256((void *)p, (__m256i)b);
#elif defined(__AVX2__)
    _mm_stream_si128((void *)p, (__m128i)b);
#elif defined(__x86_64__)
    long long low;
    memcpy(&low, &b, sizeof low);
    _mm_stream_si64((void *)p, low);
#else
    memcpy(p, &b, sizeof b);
#endif
}

INLINE void store_lanes(T *p, vec v, int lo, int hi)
{
#if defined(__AVX512F__)
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << hi) - (1u << lo)), (__m256i)narrow_bits(v));
#else
    T all[W];
    store(all, v);
    for (int i = lo; i < hi; i++) p[i] = all[i];
#endif
}
