/* Sums of a channel's elements run by run (bn_run), in the order of summation of kernels.h: the frame of the channels-first
 * kernels. Rows may end anywhere in a group of 16 lanes: the terms of the 16 elements at a row's end are then moved to
 * their lanes, so nothing is copied and nothing outside the rows is read.
 */
#ifndef BN_RUNS_H
#define BN_RUNS_H

#include "vec.h"

struct elements {
    const T *x, *dy, *y;
};

/* Channel c's; what is not given points to x: no arithmetic on NULL. */
INLINE struct elements run_of_channel(const bn_run *a, int64_t c)
{
    const T *x = (const T *)a->x + c * a->xc;
    return (struct elements){x, a->dy ? (const T *)a->dy + c * a->dyc : x, a->y ? (const T *)a->y + c * a->yc : x};
}

INLINE struct elements from(struct elements p, int64_t n) { return (struct elements){p.x + n, p.dy + n, p.y + n}; }

/* The terms of W elements. */
typedef void terms(struct elements p, const coefs *c, int flags, vec *a, vec *b);

/* 16 terms moved `up` lanes (down where negative); zeros move in. */
INLINE void shift_lanes(vec v[NV], int up)
{
#if defined(__AVX512F__) && ARITH_BYTES == 4
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __mmask16 kept = (__mmask16)(up < 0 ? 0xffff >> -up : 0xffff << up);
    v[0] = (vec)_mm512_maskz_permutexvar_ps(kept, _mm512_sub_epi32(lane, _mm512_set1_epi32(up)), (__m512)v[0]);
#elif defined(__clang__) /* which has no shuffle by a vector of indices */
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
        const vec *low = at >= 0 && at < NV ? v + at : &zero, *high = at >= -1 && at < NV - 1 ? v + at + 1 : &zero;
        moved[k] = __builtin_shuffle(*low, *high, lane);
    }
    for (int k = 0; k < NV; k++) v[k] = moved[k];
#endif
}

#define BEGIN(k) vec a##k = load_a(lanes_a + k * W), b##k = load_a(lanes_b + k * W);
#define ADD(k)                                   \
    {                                            \
        vec a, b;                                \
        f(from(p, j + k * W), c, flags, &a, &b); \
        a##k += a;                               \
        b##k += b;                               \
    }
#define ADD_SHIFTED(k) a##k += up_a[k], b##k += up_b[k];
#define FOLD(k)                     \
    fold_lanes(z->a, a##k, k);      \
    fold_lanes(z->b, b##k, k);      \
    a##k = b##k = (vec){0};
#define END(k)                      \
    store_a(lanes_a + k * W, a##k); \
    store_a(lanes_b + k * W, b##k);

/* The terms of 16 elements from p on, moved `up` lanes. */
#define SHIFTED(p, up)                                                                \
    vec up_a[NV], up_b[NV];                                                           \
    for (int k = 0; k < NV; k++) f(from(p, k * W), c, flags, up_a + k, up_b + k);     \
    shift_lanes(up_a, up), shift_lanes(up_b, up);                                     \
    REPEAT(NV, ADD_SHIFTED)

/* One channel's run of n elements, `at` elements into its block. */
INLINE void add_run(terms *f, struct elements p, int64_t at, int64_t n, const coefs *c, int flags, bn_sums *z)
{
    A *lanes_a = (A *)z->lanes_a, *lanes_b = (A *)z->lanes_b;
    const int lane = (int)(at % BN_LANES);
    REPEAT(NV, BEGIN)
    if (lane) { /* the lanes left of a group that another row began */
        SHIFTED(p, lane)
        p = from(p, BN_LANES - lane), at += BN_LANES - lane, n -= BN_LANES - lane;
        if (at % BN_SUB == 0) { REPEAT(NV, FOLD) }
    }
    while (n >= BN_LANES) {
        const int64_t left = BN_SUB - at % BN_SUB, whole = n / BN_LANES * BN_LANES, m = whole < left ? whole : left;
#pragma GCC unroll 1
        for (int64_t j = 0; j < m; j += BN_LANES) {
            REPEAT(NV, ADD)
        }
        p = from(p, m), at += m, n -= m;
        if (at % BN_SUB == 0) { REPEAT(NV, FOLD) }
    }
    if (n) {
        SHIFTED(from(p, n - BN_LANES), (int)n - BN_LANES)
    }
    REPEAT(NV, END)
}

/* The end of a sub-block that is not full. */
INLINE void fold_rest(bn_sums *z)
{
    for (int k = 0; k < NV; k++) {
        fold_lanes(z->a, load_a((A *)z->lanes_a + k * W), k);
        fold_lanes(z->b, load_a((A *)z->lanes_b + k * W), k);
    }
}

#endif
