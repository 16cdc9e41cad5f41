/* The order of summation of kernels.h: lanes of the arithmetic type into eight float64 accumulators, and those into
 * one. */
#ifndef BN_SUMS_H
#define BN_SUMS_H

#include "elements.h"

/* The terms of a reduction for the W elements from column j on: what its two sums add up. Each pass defines its own. */
INLINE void terms(const row *p, int64_t j, const coefs *c, variant v, vec *a, vec *b);

/* Part 0 and 1 of v. By shuffles: a partial load would keep the accumulator v in memory. */
#if HALVES == 1
#define PARTS(v) {v, v}
#elif !defined(__has_builtin)
#define PARTS(v) PARTS_BY_UNION(v)
#elif !__has_builtin(__builtin_shufflevector) /* gcc before 12 */
#define PARTS(v) PARTS_BY_UNION(v)
#elif W == 16
#define PARTS(v) \
    {__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15)}
#elif W == 8
#define PARTS(v) {__builtin_shufflevector(v, v, 0, 1, 2, 3), __builtin_shufflevector(v, v, 4, 5, 6, 7)}
#else
#define PARTS(v) {__builtin_shufflevector(v, v, 0, 1), __builtin_shufflevector(v, v, 2, 3)}
#endif

typedef union {
    vec all;
    vec_lo part[HALVES];
} parts_union;
#define PARTS_BY_UNION(v) {((parts_union){v}).part[0], ((parts_union){v}).part[1]}

/* acc[0 .. WD-1] += part, in float64. */
INLINE void widen_add(double *acc, vec_lo part)
{
    vecd sum;
    memcpy(&sum, acc, sizeof sum);
    sum += widen(part);
    memcpy(acc, &sum, sizeof sum);
}

/* Add vector k of a channel's lane sums to its eight accumulators: lanes 0..7, then 8..15. */
INLINE void fold_lanes(double acc[8], vec v, int k)
{
    const vec_lo part[2] = PARTS(v);
    widen_add(acc + k * W % 8, part[0]);
    if (HALVES > 1) widen_add(acc + (k * W + WD) % 8, part[1]);
}

INLINE double tree(double a0, double a1, double a2, double a3, double a4, double a5, double a6, double a7)
{
    return ((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7));
}

INLINE double total(const double a[8]) { return tree(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]); }

#endif
