/* Two sums per column of a matrix (rows: elements, columns: channels), in the order of summation of bn.h.
 *
 * The channels-last halves of stats.c and reduce.c are this loop nest around different terms. A "strip" is its core: for
 * every column, the terms of t rows that lie BN_LANES rows apart - one lane of one sub-block - are added in registers
 * and then to the column's float64 accumulator. Narrow matrices without gaps (C = 1, 3, 64) are read as rows of 16 * C
 * columns: such a row is all lanes of all channels at once, and vectors are full whatever C is.
 */
#ifndef BN_COLUMNS_H
#define BN_COLUMNS_H

#include "vec.h"

/* Adds the terms of W adjacent columns to s and q. */
typedef void add_terms(const T *x, const T *dy, const T *r, const coefs *c, int flags, vec *s, vec *q);

struct strip {
    const T *x, *dy, *r; /* first row; dy and r may be NULL */
    int64_t xs, dys, rs; /* from row to row */
    int64_t t;           /* rows */
};

/* Columns j .. j + n * W - 1; what becomes of the sums is up to END. */
#define STRIP(NAME, n, END)                                                                                             \
    INLINE void NAME(add_terms *add, const struct strip *p, int64_t j, const A *coef, int64_t cs, int flags, double *acc_s, \
                     double *acc_q, int64_t wrap)                                                                                    \
    {                                                                                                                   \
        const T *x = p->x + j, *dy = p->dy ? p->dy + j : NULL, *r = p->r ? p->r + j : NULL;                               \
        const int64_t ahead = BN_SUB / BN_LANES; /* the same place of the next sub-block */                             \
        REPEAT(n, STRIP_BEGIN)                                                                                          \
        for (int64_t t = 0; t < p->t; t++) {                                                                            \
            REPEAT(n, STRIP_FETCH)                                                                                      \
            REPEAT(n, STRIP_ADD)                                                                                        \
            x += p->xs;                                                                                                 \
            if (dy) dy += p->dys;                                                                                       \
            if (r) r += p->rs;                                                                                          \
        }                                                                                                               \
        REPEAT(n, END)                                                                                                  \
    }
#define STRIP_BEGIN(i)                             \
    coefs c##i = coefs_of_columns(coef + j + i * W, cs); \
    vec s##i = {0}, q##i = {0};
#define STRIP_ADD(i) add(x + i * W, dy ? dy + i * W : NULL, r ? r + i * W : NULL, &c##i, flags, &s##i, &q##i);
#define STRIP_FETCH(i)                                                        \
    __builtin_prefetch(x + ahead * p->xs + i * W, 0, 2);                      \
    if (dy) __builtin_prefetch(dy + ahead * p->dys + i * W, 0, 2);
#define STRIP_FOLD(i)                               \
    fold_columns(acc_s, s##i, j + i * W, wrap); \
    fold_columns(acc_q, q##i, j + i * W, wrap);
STRIP(strip_wide, CHAINS, STRIP_FOLD)
STRIP(strip_one, 1, STRIP_FOLD)

/* Fewer than W columns at the end: a vector on padded copies, of which the first `width` columns count. */
static inline void strip_end(add_terms *add, const struct strip *p, int64_t j, int64_t width, const A *coef, int64_t cs,
                             int flags, double *acc_s, double *acc_q, int64_t wrap)
{
    T x[W], dy[W], r[W];
    vec s = {0}, q = {0};
    coefs c = coefs_of_columns(coef + j, cs);
    memset(x, 0, sizeof x), memset(dy, 0, sizeof dy), memset(r, 0, sizeof r);
    for (int64_t t = 0; t < p->t; t++) {
        for (int64_t i = 0; i < width; i++) {
            x[i] = p->x[j + t * p->xs + i];
            if (p->dy) dy[i] = p->dy[j + t * p->dys + i];
            if (p->r) r[i] = p->r[j + t * p->rs + i];
        }
        add(x, dy, p->r ? r : NULL, &c, flags, &s, &q);
    }
    A sums[2][W];
    store_a(sums[0], s), store_a(sums[1], q);
    for (int64_t i = 0; i < width && i < W; i++) {
        acc_s[(j + i) % wrap] += (double)sums[0][i];
        acc_q[(j + i) % wrap] += (double)sums[1][i];
    }
}

/* The strip's columns j .. end - 1. Column k's accumulator is acc[k % wrap]; wrap is a multiple of 8. */
INLINE void strip(add_terms *add, const struct strip *p, int64_t j, int64_t end, const A *coef, int64_t cs, int flags,
                  double *acc_s, double *acc_q, int64_t wrap)
{
    if (p->t == 0) return;
    for (; j + CHAINS * W <= end; j += CHAINS * W) strip_wide(add, p, j, coef, cs, flags, acc_s, acc_q, wrap);
    for (; j + W <= end; j += W) strip_one(add, p, j, coef, cs, flags, acc_s, acc_q, wrap);
    if (j < end) strip_end(add, p, j, end - j, coef, cs, flags, acc_s, acc_q, wrap);
}

/* Can the matrix be read as rows of 16 * C columns? */
INLINE int is_flat(const bn_span *a)
{
    int64_t w = a->width;
    return w <= BN_FLAT && a->xs == w && (!a->dy || a->dys == w) && (!a->r || a->rs == w);
}

/* All 16 lanes of one sub-block of n rows, read flat. The first n % 16 lanes have a row more. */
INLINE void flat_sub_block(add_terms *add, struct strip p, int64_t n, int64_t w, const A *coef, int64_t cs, int flags,
                           double *acc_s, double *acc_q)
{
    const int64_t more = n % BN_LANES * w;
    p.t = n / BN_LANES + 1;
    if (more) strip(add, &p, 0, more, coef, cs, flags, acc_s, acc_q, 8 * w);
    p.t = n / BN_LANES;
    strip(add, &p, more, BN_LANES * w, coef, cs, flags, acc_s, acc_q, 8 * w);
}

/* acc_s, acc_q: eight float64 accumulators for each column, [8][width]. */
INLINE void columns(add_terms *add, const bn_span *a, const A *coef, int64_t cs, int flat, int flags, double *acc_s,
                    double *acc_q)
{
    const int64_t w = a->width;
    memset(acc_s, 0, 8 * w * sizeof *acc_s);
    memset(acc_q, 0, 8 * w * sizeof *acc_q);
    struct strip p = {a->x, a->dy, a->r, BN_LANES * a->xs, BN_LANES * a->dys, BN_LANES * a->rs, 0};
    for (int64_t row = 0; row < a->rows; row += BN_SUB) {
        int64_t n = a->rows - row < BN_SUB ? a->rows - row : BN_SUB;
        if (flat) {
            flat_sub_block(add, p, n, w, coef, cs, flags, acc_s, acc_q);
        } else {
            struct strip q = p;
            for (int lane = 0; lane < BN_LANES && lane < n; lane++) {
                q.t = n / BN_LANES + (lane < n % BN_LANES);
                strip(add, &q, 0, w, coef, cs, flags, acc_s + lane % 8 * w, acc_q + lane % 8 * w, INT64_MAX);
                q.x += a->xs;
                if (q.dy) q.dy += a->dys;
                if (q.r) q.r += a->rs;
            }
        }
        p.x += BN_SUB * a->xs;
        if (p.dy) p.dy += BN_SUB * a->dys;
        if (p.r) p.r += BN_SUB * a->rs;
    }
}

INLINE double column_total(const double *acc, int64_t w, int64_t c)
{
    acc += c;
    return tree(acc[0], acc[w], acc[2 * w], acc[3 * w], acc[4 * w], acc[5 * w], acc[6 * w], acc[7 * w]);
}

/* The scratch of a channels-last kernel, cut up (bn_columns_scratch). */
struct columns_scratch {
    double *acc_s, *acc_q;
    A *coef;
    int64_t cs;
    T *column;
};

INLINE struct columns_scratch columns_scratch(void *memory, int64_t width)
{
    struct columns_scratch z;
    z.acc_s = memory;
    z.acc_q = z.acc_s + 8 * width;
    z.coef = (A *)(z.acc_q + 8 * width);
    z.cs = (width <= BN_FLAT ? BN_LANES * width : width) + BN_PAD;
    z.column = (T *)(z.coef + BN_NCOEF * z.cs);
    return z;
}

#endif
