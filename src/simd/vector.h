/* Vectors of VECTOR_BYTES in GNU C's vector extensions: types, what any vector can do, and a portable way to do what an
 * instruction set may do better (isa.h).
 *
 * BN_LANES elements are NV native vectors. (One 64-byte vector type for all levels is a trap: below AVX-512 gcc
 * keeps it on the stack.) Loads and stores take any alignment.
 */
#include "../kernels/kernels.h"

#define W (VECTOR_BYTES / ARITH_BYTES) /* elements of a native vector */
#define WD (VECTOR_BYTES / 8)          /* doubles of one */
#define HALVES (W / WD)                /* groups of WD elements in one */

/* Native vectors in BN_LANES, and independent chains of additions that hide their latency: as literals, because arrays
 * of accumulators stay in memory where gcc unrolls too late. REPEAT(n, M) is M(0) M(1) ... M(n-1). */
#if VECTOR_BYTES == 16 * ARITH_BYTES
#define NV 1
#define CHAINS 4
#elif VECTOR_BYTES == 8 * ARITH_BYTES
#define NV 2
#define CHAINS 4
#elif VECTOR_BYTES == 4 * ARITH_BYTES
#define NV 4
#define CHAINS 4
#else
#define NV 8
#define CHAINS 8
#endif
#if VECTOR_BYTES == 64
#define ND 1 /* native vectors in eight doubles */
#elif VECTOR_BYTES == 32
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

typedef A vec __attribute__((vector_size(VECTOR_BYTES)));
typedef I ivec __attribute__((vector_size(VECTOR_BYTES)));
typedef double vecd __attribute__((vector_size(VECTOR_BYTES)));
typedef A vec_lo __attribute__((vector_size(WD * ARITH_BYTES))); /* as many A as a native vector holds doubles */

INLINE vec splat(A a) { return a - (vec){0}; }

INLINE vec load_a(const A *p)
{
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store_a(A *p, vec v) { memcpy(p, &v, sizeof v); }

/* --- masks: all bits of a lane set, or none ---------------------------------------------------------------------- */

INLINE ivec choose_ints(ivec mask, ivec a, ivec b) { return (a & mask) | (b & ~mask); }
INLINE vec choose_lanes(ivec mask, vec a, vec b) { return (vec)choose_ints(mask, (ivec)a, (ivec)b); }

/* Lanes 0 .. n-1. */
INLINE ivec first_lanes(int64_t n)
{
    ivec lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    return lane < (ivec){0} + (I)n;
}

/* --- portable ways ------------------------------------------------------------------------------------------------ */

INLINE void portable_store_vec_lanes(A *p, vec v, int lo, int hi)
{
    A all[W];
    store_a(all, v);
    for (int i = lo; i < hi; i++) p[i] = all[i];
}

INLINE void portable_move_lanes(vec v[NV], int up)
{
#if defined(__clang__) /* which has no shuffle by a vector of indices */
    A three[3 * BN_LANES];
    memset(three, 0, sizeof three);
    for (int k = 0; k < NV; k++) store_a(three + BN_LANES + k * W, v[k]);
    for (int k = 0; k < NV; k++) v[k] = load_a(three + BN_LANES + k * W - up);
#else
    static const vec zero;
    vec moved[NV];
    ivec lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    lane += (I)((BN_LANES - up) % W);
    for (int k = 0; k < NV; k++) {
        const int at = (BN_LANES + k * W - up) / W - NV; /* lane 0 comes from v[at], the last from it or the next */
        const vec *low = at >= 0 && at < NV ? v + at : &zero, *high = at >= -1 && at < NV - 1 ? v + (at + 1) : &zero;
        moved[k] = __builtin_shuffle(*low, *high, lane);
    }
    for (int k = 0; k < NV; k++) v[k] = moved[k];
#endif
}

#if ARITH_BYTES == 4
typedef uint16_t bits __attribute__((vector_size(W * 2)));      /* of W 16-bit numbers in memory */
typedef uint16_t pair_bits __attribute__((vector_size(W * 4))); /* of twice as many */

INLINE void portable_store_bits_lanes(uint16_t *p, bits b, int lo, int hi)
{
    for (int i = lo; i < hi; i++) p[i] = b[i];
}

/* From 16-bit numbers in 32-bit lanes, and to them. */
INLINE vec portable_float16_to_vec(ivec h)
{
    const ivec magnitude = (h & 0x7fff) << 13;
    ivec u = (ivec)((vec)magnitude * 0x1p112f);
    u |= (magnitude >= 0x0f800000) & 0x7f800000;
    u |= (magnitude > 0x0f800000) & 0x400000;
    return (vec)(u | (h & 0x8000) << 16);
}

INLINE ivec portable_vec_to_float16(vec v)
{
    const ivec u = (ivec)v, magnitude = u & 0x7fffffff;
    ivec h = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    h = choose_ints(magnitude < 0x38800000, (ivec)((vec)magnitude + 0.5f) - 0x3f000000, h);
    h = choose_ints(magnitude >= 0x47800000, (ivec){0} + 0x7c00, h);
    h = choose_ints(magnitude > 0x7f800000, 0x7e00 | magnitude >> 13, h);
    return (h & 0x7fff) | (u >> 16 & 0x8000);
}
#endif
