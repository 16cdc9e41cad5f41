/* Two sums per column of a matrix (rows: elements, columns: channels), in the order of summation of kernels.h: the
 * frame of the channels-last reductions.
 *
 * The sums of a sub-block's 16 lanes, [16][width], stay in L1 while its rows stream by, four rows of a lane at a
 * time: few enough streams for the processor, enough rows to pay for loading and storing the sums; the next four are
 * fetched meanwhile. Narrow matrices without gaps (C = 1, 3, 64) are read as rows of 16 * C columns: such a row is
 * all lanes of all channels at once, and vectors are full whatever C is.
 */
#ifndef BN_REDUCE_CL_H
#define BN_REDUCE_CL_H

#include "sums.h"

#define ROWS_AT_ONCE 4

/* `rows` rows of one lane, BN_LANES rows of the matrix apart, and where their sums go. */
struct strip {
    row first;
    const bn_span *a;
    int64_t rows;
    const A *coef;
    int64_t cs;
    A *sum_s, *sum_q;
};

/* n rows of the matrix further. */
INLINE void move_rows(row *p, const bn_span *a, int64_t n, int flags)
{
    if (flags & HAS_X) p->x += n * a->xs;
    if (flags & HAS_DY) p->dy += n * a->dys;
    if (flags & HAS_Y) p->y += n * a->ys;
}

/* Columns j .. j + n * W - 1; sums and coefficients in registers, as variables (see reduce_cf.h). */
#define STRIP(NAME, n)                                            \
    INLINE void NAME(const struct strip *z, int64_t j, variant v) \
    {                                                             \
        row p = z->first;                                         \
        move_columns(&p, j, v.flags);                             \
        REPEAT(n, STRIP_BEGIN)                                    \
        for (int64_t t = 0; t < z->rows; t++) {                   \
            REPEAT(n, STRIP_FETCH)                                \
            REPEAT(n, STRIP_ADD)                                  \
            move_rows(&p, z->a, BN_LANES, v.flags);               \
        }                                                         \
        REPEAT(n, STRIP_END)                                      \
    }
#define STRIP_BEGIN(i)                                               \
    const coefs c##i = coefs_of_columns(z->coef + j + i * W, z->cs); \
    vec s##i = load_a(z->sum_s + j + i * W), q##i = load_a(z->sum_q + j + i * W);
#define STRIP_ADD(i)                        \
    {                                       \
        vec a, b;                           \
        terms(&p, (i)*W, &c##i, v, &a, &b); \
        s##i += a;                          \
        q##i += b;                          \
    }
#define STRIP_FETCH(i) fetch_rows(&p, (i)*W, z->a, v.flags);
#define STRIP_END(i)                     \
    store_a(z->sum_s + j + i * W, s##i); \
    store_a(z->sum_q + j + i * W, q##i);

INLINE void fetch_rows(const row *p, int64_t j, const bn_span *a, int flags)
{
    __builtin_prefetch(p->x + ROWS_AT_ONCE * BN_LANES * a->xs + j, 0, 2);
    if (flags & HAS_DY) __builtin_prefetch(p->dy + ROWS_AT_ONCE * BN_LANES * a->dys + j, 0, 2);
}

STRIP(strip_wide, CHAINS)
STRIP(strip_one, 1)

/* The last W columns, of which those before `from` have been added: their terms are masked out. */
INLINE void strip_last(const struct strip *z, int64_t from, int64_t to, variant v)
{
    const int64_t j = to - W;
    const ivec done = first_lanes(from - j);
    row p = z->first;
    move_columns(&p, j, v.flags);
    REPEAT(1, STRIP_BEGIN)
    for (int64_t t = 0; t < z->rows; t++) {
        vec a, b;
        fetch_rows(&p, 0, z->a, v.flags);
        terms(&p, 0, &c0, v, &a, &b);
        s0 += (vec)((ivec)a & ~done);
        q0 += (vec)((ivec)b & ~done);
        move_rows(&p, z->a, BN_LANES, v.flags);
    }
    REPEAT(1, STRIP_END)
}

/* A matrix of fewer than W columns: a vector of padded copies. */
RARE void strip_narrow(struct strip z, int64_t j, int64_t width, variant v)
{
    T x[W] = {0}, dy[W] = {0}, y[W] = {0};
    A sums[2][W] = {0};
    const size_t bytes = width * sizeof(A), item = width * sizeof(T);
    const row padded = {.x = x, .dy = dy, .y = y};
    v.pair = NO_PAIR;
    row p = z.first;
    move_columns(&p, j, v.flags);
    memcpy(sums[0], z.sum_s + j, bytes), memcpy(sums[1], z.sum_q + j, bytes);
    vec s = load_a(sums[0]), q = load_a(sums[1]);
    const coefs c = coefs_of_columns(z.coef + j, z.cs);
    for (int64_t t = 0; t < z.rows; t++) {
        vec a, b;
        memcpy(x, p.x, item);
        if (v.flags & HAS_DY) memcpy(dy, p.dy, item);
        if (v.flags & HAS_Y) memcpy(y, p.y, item);
        terms(&padded, 0, &c, v, &a, &b);
        s += a;
        q += b;
        move_rows(&p, z.a, BN_LANES, v.flags);
    }
    store_a(sums[0], s), store_a(sums[1], q);
    memcpy(z.sum_s + j, sums[0], bytes), memcpy(z.sum_q + j, sums[1], bytes);
}

/* The strip's columns from .. to - 1, added to the lane sums. */
INLINE void strip(const struct strip *z, int64_t from, int64_t to, variant v)
{
    int64_t j = from;
    if (z->rows <= 0) return;
    for (; j + CHAINS * W <= to; j += CHAINS * W) strip_wide(z, j, v);
    for (; j + W <= to; j += W) strip_one(z, j, v);
    if (j < to && to >= W) strip_last(z, j, to, v);
    else if (j < to) strip_narrow(*z, j, to - j, v);
}

/* Can the matrix be read as rows of 16 * C columns? */
INLINE int is_flat(const bn_span *a, int flags)
{
    const int64_t w = a->width;
    return w <= BN_FLAT && a->xs == w && (!(flags & HAS_DY) || a->dys == w) && (!(flags & HAS_Y) || a->ys == w);
}

INLINE int64_t at_most_at_once(int64_t rows) { return rows < ROWS_AT_ONCE ? rows : ROWS_AT_ONCE; }

/* The lane sums of a sub-block of n rows from z->first on. The first n % 16 lanes have a row more than the others. */
INLINE void sub_block_sums(struct strip z, int64_t n, int flat, variant v)
{
    const row first = z.first;
    const int64_t w = z.a->width, full = n / BN_LANES, more = n % BN_LANES;
    A *const sum_s = z.sum_s, *const sum_q = z.sum_q;
    memset(sum_s, 0, BN_LANES * w * sizeof(A));
    memset(sum_q, 0, BN_LANES * w * sizeof(A));
    for (int64_t from = 0; from < full + (more > 0); from += ROWS_AT_ONCE) {
        z.first = first;
        move_rows(&z.first, z.a, from * BN_LANES, v.flags);
        if (flat) {
            z.rows = at_most_at_once(full + 1 - from);
            strip(&z, 0, more * w, v);
            z.rows = at_most_at_once(full - from);
            strip(&z, more * w, BN_LANES * w, v);
            continue;
        }
        for (int lane = 0; lane < BN_LANES; lane++) {
            z.rows = at_most_at_once(full + (lane < more) - from);
            z.sum_s = sum_s + lane * w, z.sum_q = sum_q + lane * w;
            strip(&z, 0, w, v);
            move_rows(&z.first, z.a, 1, v.flags);
        }
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

/* The accumulators of all columns, left in z. */
INLINE void add_columns(const bn_span *a, const A *coef, int64_t cs, int flat, variant v,
                        const struct columns_scratch *z)
{
    const int64_t w = a->width;
    struct strip s = {{0}, a, 0, coef, cs, z->sum_s, z->sum_q};
    s.first.x = a->x, s.first.dy = a->dy, s.first.y = a->y;
    memset(z->acc_s, 0, 8 * w * sizeof(double));
    memset(z->acc_q, 0, 8 * w * sizeof(double));
    for (int64_t done = 0; done < a->rows; done += BN_SUB) {
        sub_block_sums(s, a->rows - done < BN_SUB ? a->rows - done : BN_SUB, flat, v);
        widen_all(z->acc_s, z->sum_s, 8 * w), widen_all(z->acc_s, z->sum_s + 8 * w, 8 * w);
        widen_all(z->acc_q, z->sum_q, 8 * w), widen_all(z->acc_q, z->sum_q + 8 * w, 8 * w);
        move_rows(&s.first, a, BN_SUB, v.flags);
    }
}

INLINE double column_total(const double *acc, int64_t w, int64_t c)
{
    acc += c;
    return tree(acc[0], acc[w], acc[2 * w], acc[3 * w], acc[4 * w], acc[5 * w], acc[6 * w], acc[7 * w]);
}

/* What a driver promises of a matrix (kernels.h). */
INLINE void check_matrix(const bn_span *a)
{
    assert(a->x && a->rows > 0 && a->rows <= BN_BLOCK && a->width > 0 && a->width <= BN_GROUP);
    (void)a;
}

#endif
