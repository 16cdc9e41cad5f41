/* Vectors of the level's native width, in GNU C's vector extensions, for one storage type T and arithmetic type A.
 *
 * BN_LANES elements are NV native vectors. (One 64-byte vector type for all levels is a trap: below AVX-512 gcc
 * keeps it on the stack.) Loads and stores take any alignment of T.
 */
#ifndef BN_VEC_H
#define BN_VEC_H

#include <math.h>
#include <string.h>

#include "kernels.h"
#include "half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define BN_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define BN_VECTOR_BYTES 32
#else
#define BN_VECTOR_BYTES 16
#endif

#if defined(BN_DTYPE_F32)
typedef float T;
typedef float A;
typedef int32_t I;
#define ARITH_BYTES 4
#elif defined(BN_DTYPE_F64)
typedef double T;
typedef double A;
typedef int64_t I;
#define ARITH_BYTES 8
#elif defined(BN_DTYPE_F16) || defined(BN_DTYPE_BF16)
typedef uint16_t T; /* the bits */
typedef float A;
typedef int32_t I;
#define ARITH_BYTES 4
#define IN_HALF
#else
#error "no storage type chosen"
#endif

#define W (BN_VECTOR_BYTES / ARITH_BYTES) /* elements of a native vector */
#define WD (BN_VECTOR_BYTES / 8)          /* doubles of one */
#define HALVES (W / WD)                   /* groups of WD elements in one */

/* Native vectors in BN_LANES, and independent chains of additions that hide their latency: as literals, because arrays
 * of accumulators stay in memory where gcc unrolls too late. REPEAT(n, M) is M(0) M(1) ... M(n-1). */
#if BN_VECTOR_BYTES == 16 * ARITH_BYTES
#define NV 1
#define CHAINS 4
#elif BN_VECTOR_BYTES == 8 * ARITH_BYTES
#define NV 2
#define CHAINS 4
#elif BN_VECTOR_BYTES == 4 * ARITH_BYTES
#define NV 4
#define CHAINS 4
#else
#define NV 8
#define CHAINS 8
#endif
#if BN_VECTOR_BYTES == 64
#define ND 1 /* native vectors in eight doubles */
#elif BN_VECTOR_BYTES == 32
#define ND 2
#else
#define ND 4
#endif
#define REPEAT_1(M) M(0)
#define REPEAT_2(M) REPEAT_1(M) M(1)
#define REPEAT_4(M) REPEAT_2(M) M(2) M(3)
#define REPEAT_8(M) REPEAT_4(M) M(4) M(5) M(6) M(7)
#define REPEAT_(n, M) REPEAT_##n(M)
#define REPEAT(n, M) REPEAT_(n, M)

typedef A vec __attribute__((vector_size(BN_VECTOR_BYTES)));
typedef I ivec __attribute__((vector_size(BN_VECTOR_BYTES)));
typedef double vecd __attribute__((vector_size(BN_VECTOR_BYTES)));
typedef A half __attribute__((vector_size(WD * sizeof(A)))); /* as many A as a native vector holds doubles */

#define INLINE static inline __attribute__((always_inline))
#define PASTE_(a, b, c) bn_##a##_##b##_##c
#define PASTE(a, b, c) PASTE_(a, b, c)
#define BN_NAME(pass) PASTE(pass, BN_DTYPE_NAME, BN_LEVEL_NAME) /* bn_stats_cf_f32_x86_v3 */

INLINE vec splat(A a) { return a - (vec){0}; }

INLINE vec load_a(const A *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store_a(A *p, vec v) { memcpy(p, &v, sizeof v); }

/* --- between memory (T) and registers (A) --- */

#define STORE_BYTES (W * (int)sizeof(T)) /* of one vector in memory */
#ifdef IN_HALF
#include "vec_half.h"
#else
INLINE vec load(const T *p) { return load_a(p); }
INLINE half load_half(const T *p)
{
    half v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void store(T *p, vec v) { store_a(p, v); }
INLINE A get(const T *p) { return *p; }

/* A store past the caches; p is aligned to STORE_BYTES. The driver fences (bn_store_fence). */
INLINE void stream(T *p, vec v)
{
#if defined(__AVX512F__)
    _mm512_stream_si512((void *)p, (__m512i)v);
#elif defined(__AVX2__)
    _mm256_stream_si256((void *)p, (__m256i)v);
#elif defined(__x86_64__)
    _mm_stream_si128((void *)p, (__m128i)v);
#else
    store(p, v);
#endif
}

/* Lanes lo .. hi-1 of v to p + lo .. p + hi-1. */
INLINE void store_lanes(T *p, vec v, int lo, int hi)
{
#if defined(__AVX512F__) && ARITH_BYTES == 4
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << hi) - (1u << lo)), (__m512)v);
#elif defined(__AVX512F__)
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << hi) - (1u << lo)), (__m512d)v);
#else
    T all[W];
    store(all, v);
    for (int i = lo; i < hi; i++) p[i] = all[i];
#endif
}
#endif

/* --- in registers --- */

/* Lanes 0 .. n-1 of a, the others of b. */
INLINE vec first_lanes(vec a, vec b, int64_t n)
{
    ivec lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    const ivec take = lane < (ivec){0} + (I)n;
    return (vec)(((ivec)a & take) | ((ivec)b & ~take));
}

/* g where not (z <= 0), else 0: ReLU of z for g = z, ReLU's gradient for g = dy. A NaN z lets g pass. */
INLINE vec gate(vec z, vec g) { return (vec)((ivec)g & ~(ivec)(z <= (vec){0})); }

/* Part 0 or 1 of v, in float64. By shuffles: a partial load would keep the accumulator v in memory. */
#if HALVES == 1
#define PARTS(v) {v, v}
#elif W == 16
#define PARTS(v) {__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), \
                  __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)}
#elif W == 8
#define PARTS(v) {__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7)}
#else
#define PARTS(v) {__builtin_shufflevector(v, v, 0, 1), __builtin_shufflevector(v, v, 2, 3)}
#endif

INLINE vecd widen(half part)
{
#if defined(__AVX512F__) && ARITH_BYTES == 4
    return (vecd)_mm512_cvtps_pd((__m256)part); /* gcc 12 splits it in two */
#else
    return __builtin_convertvector(part, vecd);
#endif
}

/* acc[0 .. WD-1] += part, in float64. */
INLINE void widen_add(double *acc, half part)
{
    vecd sum;
    memcpy(&sum, acc, sizeof sum);
    sum += widen(part);
    memcpy(acc, &sum, sizeof sum);
}

/* Add vector k of a channel's lane sums to its eight accumulators: lanes 0..7, then 8..15. */
INLINE void fold_lanes(double acc[8], vec v, int k)
{
    const half part[2] = PARTS(v);
    widen_add(acc + k * W % 8, part[0]);
    if (HALVES > 1) widen_add(acc + (k * W + WD) % 8, part[1]);
}

INLINE double tree(double a0, double a1, double a2, double a3, double a4, double a5, double a6, double a7)
{
    return ((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7));
}

INLINE double total(const double a[8]) { return tree(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]); }

/* The coefficients of W columns, or of one channel W times. What a kernel does not use costs nothing. */
typedef struct {
    vec mean_hi, mean_lo, scale, bias, invstd, dy, dy_xhat;
} coefs;

INLINE coefs coefs_of_columns(const A *p, int64_t cs)
{
    return (coefs){load_a(p + BN_MEAN_HI * cs), load_a(p + BN_MEAN_LO * cs), load_a(p + BN_SCALE * cs),
                   load_a(p + BN_BIAS * cs), load_a(p + BN_INVSTD * cs), load_a(p + BN_MEAN_DY * cs),
                   load_a(p + BN_MEAN_DY_XHAT * cs)};
}

INLINE coefs coefs_of_channel(const A *p, int64_t cs)
{
    return (coefs){splat(p[BN_MEAN_HI * cs]), splat(p[BN_MEAN_LO * cs]), splat(p[BN_SCALE * cs]), splat(p[BN_BIAS * cs]),
                   splat(p[BN_INVSTD * cs]), splat(p[BN_MEAN_DY * cs]), splat(p[BN_MEAN_DY_XHAT * cs])};
}

#endif
