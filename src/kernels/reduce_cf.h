/* Sums of a channel's elements run by run (bn_run), in the order of summation of kernels.h: the frame of the
 * channels-first reductions. Rows may end anywhere in a group of 16 lanes: the terms of the 16 elements at a row's
 * end are then moved to their lanes, so nothing is copied and nothing outside the rows is read.
 */
#ifndef BN_REDUCE_CF_H
#define BN_REDUCE_CF_H

#include "sums.h"

/* Channel c of a run. */
INLINE row row_of_run(const bn_run *a, int64_t c, int flags)
{
    row p = {0};
    p.x = (const T *)a->x + c * a->xc;
    if (flags & HAS_DY) p.dy = (const T *)a->dy + c * a->dyc;
    if (flags & HAS_Y) p.y = (const T *)a->y + c * a->yc;
    return p;
}

/* The terms of the BN_LANES elements from p on, moved `up` lanes. */
INLINE void moved_terms(const row *p, int up, const coefs *c, variant v, vec a[NV], vec b[NV])
{
    for (int k = 0; k < NV; k++) terms(p, k * W, c, v, a + k, b + k);
    move_lanes(a, up);
    move_lanes(b, up);
}

/* The lanes of both sums, in registers: variables a0, b0 .. of add_run, because an array of them would stay in memory.
 * BEGIN and END fetch and leave them, ADD the terms of the elements from j on, FOLD those of a full sub-block. */
#define BEGIN(k) vec a##k = load_a(lanes_a + k * W), b##k = load_a(lanes_b + k * W);
#define ADD(k)                              \
    {                                       \
        vec a, b;                           \
        terms(&p, j + k * W, c, v, &a, &b); \
        a##k += a;                          \
        b##k += b;                          \
    }
#define ADD_MOVED(k) a##k += moved_a[k], b##k += moved_b[k];
#define FOLD(k)                \
    fold_lanes(z->a, a##k, k); \
    fold_lanes(z->b, b##k, k); \
    a##k = b##k = (vec){0};
#define END(k)                      \
    store_a(lanes_a + k * W, a##k); \
    store_a(lanes_b + k * W, b##k);

/* One channel's run of n elements, `at` elements into its block. */
INLINE void add_run(row p, int64_t at, int64_t n, const coefs *c, variant v, bn_sums *z)
{
    A *lanes_a = (A *)z->lanes_a, *lanes_b = (A *)z->lanes_b;
    vec moved_a[NV], moved_b[NV];
    const int lane = (int)(at % BN_LANES);
    REPEAT(NV, BEGIN)
    if (lane) { /* the lanes left of a group that another row began */
        moved_terms(&p, lane, c, v, moved_a, moved_b);
        REPEAT(NV, ADD_MOVED)
        move_columns(&p, BN_LANES - lane, v.flags), at += BN_LANES - lane, n -= BN_LANES - lane;
        if (at % BN_SUB == 0) {
            REPEAT(NV, FOLD)
        }
    }
    while (n >= BN_LANES) {
        const int64_t left = BN_SUB - at % BN_SUB, whole = n / BN_LANES * BN_LANES, m = whole < left ? whole : left;
#pragma GCC unroll 1
        for (int64_t j = 0; j < m; j += BN_LANES) {
            REPEAT(NV, ADD)
        }
        move_columns(&p, m, v.flags), at += m, n -= m;
        if (at % BN_SUB == 0) {
            REPEAT(NV, FOLD)
        }
    }
    if (n > 0) {
        move_columns(&p, n - BN_LANES, v.flags);
        moved_terms(&p, (int)n - BN_LANES, c, v, moved_a, moved_b);
        REPEAT(NV, ADD_MOVED)
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

/* What a driver promises of a run (kernels.h). */
INLINE void check_run(const bn_run *a)
{
    assert(a->x && a->channels > 0 && a->n > 0 && a->at >= 0 && a->at + a->n <= BN_BLOCK);
    assert(a->at % BN_LANES == 0 || a->at % BN_LANES + a->n >= BN_LANES);
    (void)a;
}

#endif
