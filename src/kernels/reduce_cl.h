/* Two sums per column of a matrix (rows: elements, columns: channels), in the order of summation of kernels.h.
 *
 * The channels-last halves of moments.c and reduce.c are this loop nest around different terms. The sums of a sub-block's 16
 * lanes, [16][width], stay in L1 while its rows stream by, four rows of a lane at a time: few enough streams for the
 * processor, enough rows to pay for loading and storing the sums; the next four are fetched meanwhile. Narrow matrices without gaps (C = 1, 3, 64)
 * are read as rows of 16 * C columns: such a row is all lanes of all channels at once, and vectors are full whatever C is.
 */
#ifndef BN_COLUMNS_H
#define BN_COLUMNS_H

#include "vec.h"

#define ROWS_AT_ONCE 4

/* Adds the terms of W adjacent columns to s and q. */
typedef void add_terms(const T *x, const T *dy, const T *y, const coefs *c, int flags, vec *s, vec *q);

/* t rows, `step` rows of the matrix apart. */
struct strip {
    const T *x, *dy, *y; /* first row; dy and y may be NULL */
    int64_t xs, dys, ys; /* from row to row */
    int64_t t;
};

INLINE void advance(struct strip *p, int64_t xs, int64_t dys, int64_t ys)
{
    p->x += xs;
    if (p->dy) p->dy += dys;
    if (p->y) p->y += ys;
}

/* Columns j .. j + n * W - 1. */
#define STRIP(NAME, n)                                                                                                   \
    INLINE void NAME(add_terms *add, const struct strip *p, int64_t j, const A *coef, int64_t cs, int flags, A *sum_s,    \
                     A *sum_q)                                                                                           \
    {                                                                                                                    \
        struct strip at = *p;                                                                                            \
        advance(&at, j, j, j);                                                                                           \
        REPEAT(n, STRIP_BEGIN)                                                                                           \
        for (int64_t t = 0; t < p->t; t++) {                                                                             \
            REPEAT(n, STRIP_FETCH)                                                                                       \
            REPEAT(n, STRIP_ADD)                                                                                         \
            advance(&at, p->xs, p->dys, p->ys);                                                                          \
        }                                                                                                                \
        REPEAT(n, STRIP_END)                                                                                             \
    }
#define STRIP_BEGIN(i)                                   \
    const coefs c##i = coefs_of_columns(coef + j + i * W, cs); \
    vec s##i = load_a(sum_s + j + i * W), q##i = load_a(sum_q + j + i * W);
#define STRIP_ADD(i) \
    add(at.x + i * W, at.dy ? at.dy + i * W : NULL, at.y ? at.y + i * W : NULL, &c##i, flags, &s##i, &q##i);
#define STRIP_FETCH(i)                                                                \
    __builtin_prefetch(at.x + ROWS_AT_ONCE * p->xs + i * W, 0, 2);                    \
    if (at.dy) __builtin_prefetch(at.dy + ROWS_AT_ONCE * p->dys + i * W, 0, 2);
#define STRIP_END(i)                  \
    store_a(sum_s + j + i * W, s##i); \
    store_a(sum_q + j + i * W, q##i);
STRIP(strip_wide, CHAINS)
STRIP(strip_one, 1)

/* The last W columns, of which those before `from` have been added: their terms are masked out. */
INLINE void strip_last(add_terms *add, const struct strip *p, int64_t from, int64_t to, const A *coef, int64_t cs, int flags,
                       A *sum_s, A *sum_q)
{
    const int64_t j = to - W;
    const vec all = (vec)((ivec){0} - 1);
    const ivec fresh = (ivec)first_lanes((vec){0}, all, from - j);
    struct strip at = *p;
    advance(&at, j, j, j);
    REPEAT(1, STRIP_BEGIN)
    for (int64_t t = 0; t < p->t; t++) {
        vec s = {0}, q = {0};
        REPEAT(1, STRIP_FETCH)
        add(at.x, at.dy, at.y, &c0, flags, &s, &q);
        s0 += (vec)((ivec)s & fresh);
        q0 += (vec)((ivec)q & fresh);
        advance(&at, p->xs, p->dys, p->ys);
    }
    REPEAT(1, STRIP_END)
}

/* A matrix of fewer than W columns: a vector of padded copies. */
static inline void strip_narrow(add_terms *add, const struct strip *p, int64_t j, int64_t width, const A *coef, int64_t cs,
                             int flags, A *sum_s, A *sum_q)
{
    T x[W], dy[W], y[W];
    A sums[2][W] = {0};
    const int64_t bytes = width * (int64_t)sizeof(A);
    memcpy(sums[0], sum_s + j, bytes), memcpy(sums[1], sum_q + j, bytes);
    vec s = load_a(sums[0]), q = load_a(sums[1]);
    const coefs c = coefs_of_columns(coef + j, cs);
    memset(x, 0, sizeof x), memset(dy, 0, sizeof dy), memset(y, 0, sizeof y);
    for (int64_t t = 0; t < p->t; t++) {
        memcpy(x, p->x + j + t * p->xs, width * sizeof(T));
        if (p->dy) memcpy(dy, p->dy + j + t * p->dys, width * sizeof(T));
        if (p->y) memcpy(y, p->y + j + t * p->ys, width * sizeof(T));
        add(x, dy, p->y ? y : NULL, &c, flags, &s, &q);
    }
    store_a(sums[0], s), store_a(sums[1], q);
    memcpy(sum_s + j, sums[0], bytes), memcpy(sum_q + j, sums[1], bytes);
}

/* The strip's columns from .. to - 1, added to the lane sums. */
INLINE void strip(add_terms *add, const struct strip *p, int64_t from, int64_t to, const A *coef, int64_t cs, int flags,
                  A *sum_s, A *sum_q)
{
    int64_t j = from;
    if (p->t <= 0) return;
    for (; j + CHAINS * W <= to; j += CHAINS * W) strip_wide(add, p, j, coef, cs, flags, sum_s, sum_q);
    for (; j + W <= to; j += W) strip_one(add, p, j, coef, cs, flags, sum_s, sum_q);
    if (j < to && to >= W) strip_last(add, p, j, to, coef, cs, flags, sum_s, sum_q);
    else if (j < to) strip_narrow(add, p, j, to - j, coef, cs, flags, sum_s, sum_q);
}

/* Can the matrix be read as rows of 16 * C columns? */
INLINE int is_flat(const bn_span *a)
{
    int64_t w = a->width;
    return w <= BN_FLAT && a->xs == w && (!a->dy || a->dys == w) && (!a->y || a->ys == w);
}

/* Rows of one lane between `from` and `from + ROWS_AT_ONCE`, of `have`. */
INLINE int64_t rows_left(int64_t have, int64_t from)
{
    return have - from < ROWS_AT_ONCE ? have - from : ROWS_AT_ONCE;
}

/* The lane sums of a sub-block of n rows from p on. The first n % 16 lanes have a row more than the others. */
INLINE void sub_block_sums(add_terms *add, struct strip p, const bn_span *a, int64_t n, const A *coef, int64_t cs, int flat,
                           int flags, A *sum_s, A *sum_q)
{
    const int64_t w = a->width, full = n / BN_LANES, more = n % BN_LANES;
    memset(sum_s, 0, BN_LANES * w * sizeof(A));
    memset(sum_q, 0, BN_LANES * w * sizeof(A));
    for (int64_t from = 0; from < full + (more > 0); from += ROWS_AT_ONCE) {
        if (flat) {
            p.t = rows_left(full + 1, from);
            strip(add, &p, 0, more * w, coef, cs, flags, sum_s, sum_q);
            p.t = rows_left(full, from);
            strip(add, &p, more * w, BN_LANES * w, coef, cs, flags, sum_s, sum_q);
        } else {
            struct strip q = p;
            for (int lane = 0; lane < BN_LANES; lane++) {
                q.t = rows_left(full + (lane < more), from);
                if (q.t > 0) strip(add, &q, 0, w, coef, cs, flags, sum_s + lane * w, sum_q + lane * w);
                advance(&q, a->xs, a->dys, a->ys);
            }
        }
        advance(&p, ROWS_AT_ONCE * p.xs, ROWS_AT_ONCE * p.dys, ROWS_AT_ONCE * p.ys);
    }
}

INLINE void widen_all(double *restrict acc, const A *restrict s, int64_t n)
{
    for (int64_t j = 0; j < n; j++) acc[j] += (double)s[j];
}

/* The scratch of a channels-last kernel, cut up (bn_columns_scratch). */
struct columns_scratch {
    double *acc_s, *acc_q; /* eight float64 accumulators for each column, [8][width] */
    A *sum_s, *sum_q;      /* lane sums, [16][width] */
    A *coef;
    int64_t cs;
    T *column;
};

INLINE struct columns_scratch columns_scratch(void *memory, int64_t width)
{
    struct columns_scratch z;
    z.acc_s = memory;
    z.acc_q = z.acc_s + 8 * width;
    z.sum_s = (A *)(z.acc_q + 8 * width);
    z.sum_q = z.sum_s + BN_LANES * width;
    z.coef = z.sum_q + BN_LANES * width;
    z.cs = (width <= BN_FLAT ? BN_LANES * width : width) + BN_PAD;
    z.column = (T *)(z.coef + BN_NCOEF * z.cs);
    return z;
}

INLINE void columns(add_terms *add, const bn_span *a, const A *coef, int64_t cs, int flat, int flags,
                    const struct columns_scratch *z)
{
    const int64_t w = a->width;
    memset(z->acc_s, 0, 8 * w * sizeof(double));
    memset(z->acc_q, 0, 8 * w * sizeof(double));
    struct strip p = {a->x, a->dy, a->y, BN_LANES * a->xs, BN_LANES * a->dys, BN_LANES * a->ys, 0};
    for (int64_t row = 0; row < a->rows; row += BN_SUB) {
        int64_t n = a->rows - row < BN_SUB ? a->rows - row : BN_SUB;
        sub_block_sums(add, p, a, n, coef, cs, flat, flags, z->sum_s, z->sum_q);
        widen_all(z->acc_s, z->sum_s, 8 * w), widen_all(z->acc_s, z->sum_s + 8 * w, 8 * w);
        widen_all(z->acc_q, z->sum_q, 8 * w), widen_all(z->acc_q, z->sum_q + 8 * w, 8 * w);
        advance(&p, BN_SUB * a->xs, BN_SUB * a->dys, BN_SUB * a->ys);
    }
}

INLINE double column_total(const double *acc, int64_t w, int64_t c)
{
    acc += c;
    return tree(acc[0], acc[w], acc[2 * w], acc[3 * w], acc[4 * w], acc[5 * w], acc[6 * w], acc[7 * w]);
}

#endif
