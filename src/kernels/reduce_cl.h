/* Two sums per column of a matrix (rows: elements, columns: channels), in the order of summation of kernels.h: the
 * frame of the channels-last reductions.
 *
 * In caches all rows of a lane (up to 16, one every 16 rows of the matrix) are read with their sums in registers,
 * and the sums go straight to the lane's float64 accumulators. From memory that would be too many streams: there the
 * lanes are read four rows at a time, their sums meanwhile in L1, and the next four are fetched. Narrow matrices
 * without gaps (C = 3, 64) are read as rows of 16 * C columns: such a row is all lanes of all channels at once, and
 * vectors are full whatever C is.
 */
#ifndef BN_REDUCE_CL_H
#define BN_REDUCE_CL_H

#include "sums.h"

#define ROWS_FROM_CACHE (BN_SUB / BN_LANES) /* of a lane, at once */
#define ROWS_FROM_MEMORY 4
#define NEARBY_BYTES (1 << 14) /* a sub-block of so few is one stream however it is read */

/* Columns whose rows go to the same lane sums and accumulators: those of one lane, or a part of a flat row. */
struct strip {
    row first;                 /* at the first column */
    int64_t width;             /* columns */
    int64_t rows;              /* BN_LANES rows of the matrix apart */
    int64_t ahead;             /* rows of the matrix that are fetched ahead; 0: none */
    int first_rows, last_rows; /* of the sub-block: sums begin with zero, end in the accumulators */
    const A *coef;
    A *sum_s, *sum_q;
    double *acc_s, *acc_q;
};

/* n rows of the matrix further. */
INLINE void move_rows(row *p, const bn_span *a, int64_t n, int flags)
{
    if (flags & HAS_X) p->x += n * a->xs;
    if (flags & HAS_DY) p->dy += n * a->dys;
    if (flags & HAS_Y) p->y += n * a->ys;
}

INLINE void fetch_rows(const row *p, int64_t j, const bn_span *a, int64_t ahead, int flags)
{
    __builtin_prefetch(p->x + ahead * a->xs + j, 0, 2);
    if (flags & HAS_DY) __builtin_prefetch(p->dy + ahead * a->dys + j, 0, 2);
    if (flags & HAS_Y) __builtin_prefetch(p->y + ahead * a->ys + j, 0, 2);
}

/* W accumulators and as many sums. */
INLINE void fold_columns(double *acc, vec v)
{
    const vec_lo part[2] = PARTS(v);
    widen_add(acc, part[0]);
    if (HALVES > 1) widen_add(acc + WD, part[1]);
}

INLINE vec sums_so_far(const struct strip *z, const A *sum) { return z->first_rows ? (vec){0} : load_a(sum); }

INLINE void leave_sums(const struct strip *z, A *sum, double *acc, vec v)
{
    if (z->last_rows) fold_columns(acc, v);
    else store_a(sum, v);
}

/* Columns j .. j + n * W - 1; sums and coefficients in registers, as variables (see reduce_cf.h). */
#define STRIP(NAME, n)                                                                          \
    INLINE void NAME(const struct strip *z, int64_t j, const bn_span *a, int64_t cs, variant v) \
    {                                                                                           \
        row p = z->first;                                                                       \
        move_columns(&p, j, v.flags);                                                           \
        REPEAT(n, STRIP_BEGIN)                                                                  \
        for (int64_t t = z->rows; t > 0; t--) {                                                 \
            if (z->ahead) {                                                                     \
                REPEAT(n, STRIP_FETCH)                                                          \
            }                                                                                   \
            REPEAT(n, STRIP_ADD)                                                                \
            move_rows(&p, a, BN_LANES, v.flags);                                                \
        }                                                                                       \
        REPEAT(n, STRIP_END)                                                                    \
    }
#define STRIP_BEGIN(i)                                            \
    const coefs c##i = coefs_of_columns(z->coef + j + i * W, cs); \
    vec s##i = sums_so_far(z, z->sum_s + j + i * W), q##i = sums_so_far(z, z->sum_q + j + i * W);
#define STRIP_FETCH(i) fetch_rows(&p, (i) * W, a, z->ahead, v.flags);
#define STRIP_ADD(i)                                 \
    {                                                \
        vec term, other;                             \
        terms(&p, (i) * W, &c##i, v, &term, &other); \
        s##i += term;                                \
        q##i += other;                               \
    }
#define STRIP_END(i)                                                 \
    leave_sums(z, z->sum_s + j + i * W, z->acc_s + j + i * W, s##i); \
    leave_sums(z, z->sum_q + j + i * W, z->acc_q + j + i * W, q##i);

STRIP(strip_wide, CHAINS)
STRIP(strip_one, 1)

/* The last W columns, of which those before `from` have been done: their terms and accumulators are masked out. */
INLINE void strip_last(const struct strip *z, int64_t from, const bn_span *a, int64_t cs, variant v)
{
    const int64_t j = z->width - W;
    const ivec done = first_lanes(from - j);
    row p = z->first;
    move_columns(&p, j, v.flags);
    const coefs c = coefs_of_columns(z->coef + j, cs);
    vec s = load_a(z->sum_s + j), q = load_a(z->sum_q + j);
    if (z->first_rows) s = (vec)((ivec)s & done), q = (vec)((ivec)q & done);
    for (int64_t t = z->rows; t > 0; t--) {
        vec term, other;
        if (z->ahead) fetch_rows(&p, 0, a, z->ahead, v.flags);
        terms(&p, 0, &c, v, &term, &other);
        s += (vec)((ivec)term & ~done);
        q += (vec)((ivec)other & ~done);
        move_rows(&p, a, BN_LANES, v.flags);
    }
    if (z->last_rows) s = (vec)((ivec)s & ~done), q = (vec)((ivec)q & ~done);
    leave_sums(z, z->sum_s + j, z->acc_s + j, s);
    leave_sums(z, z->sum_q + j, z->acc_q + j, q);
}

/* A strip of fewer than W columns: a vector of padded copies. */
RARE void strip_narrow(struct strip z, const bn_span *a, int64_t cs, variant v)
{
    T x[W] = {0}, dy[W] = {0}, y[W] = {0};
    A sum_s[W] = {0}, sum_q[W] = {0};
    double acc_s[W] = {0}, acc_q[W] = {0};
    const size_t item = z.width * sizeof(T), bytes = z.width * sizeof(A), wide = z.width * sizeof(double);
    const row padded = {.x = x, .dy = dy, .y = y};
    v.pair = NO_PAIR;
    const coefs c = coefs_of_columns(z.coef, cs);
    memcpy(sum_s, z.sum_s, bytes), memcpy(sum_q, z.sum_q, bytes);
    memcpy(acc_s, z.acc_s, wide), memcpy(acc_q, z.acc_q, wide);
    vec s = sums_so_far(&z, sum_s), q = sums_so_far(&z, sum_q);
    for (int64_t t = z.rows; t > 0; t--) {
        vec term, other;
        memcpy(x, z.first.x, item);
        if (v.flags & HAS_DY) memcpy(dy, z.first.dy, item);
        if (v.flags & HAS_Y) memcpy(y, z.first.y, item);
        terms(&padded, 0, &c, v, &term, &other);
        s += term;
        q += other;
        move_rows(&z.first, a, BN_LANES, v.flags);
    }
    leave_sums(&z, sum_s, acc_s, s);
    leave_sums(&z, sum_q, acc_q, q);
    memcpy(z.sum_s, sum_s, bytes), memcpy(z.sum_q, sum_q, bytes);
    memcpy(z.acc_s, acc_s, wide), memcpy(z.acc_q, acc_q, wide);
}

INLINE void add_strip(const struct strip *z, const bn_span *a, int64_t cs, variant v)
{
    int64_t j = 0;
    if (z->rows <= 0 && !(z->last_rows && !z->first_rows)) return;
    for (; j + CHAINS * W <= z->width; j += CHAINS * W) strip_wide(z, j, a, cs, v);
    for (; j + W <= z->width; j += W) strip_one(z, j, a, cs, v);
    if (j < z->width && z->width >= W) strip_last(z, j, a, cs, v);
    else if (j < z->width) strip_narrow(*z, a, cs, v);
}

/* Can the matrix be read as rows of 16 * C columns? */
INLINE int is_flat(const bn_span *a, int flags)
{
    const int64_t w = a->width;
    return w <= BN_FLAT && a->xs == w && (!(flags & HAS_DY) || a->dys == w) && (!(flags & HAS_Y) || a->ys == w);
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

/* Rows from .. from + most - 1 of lanes `lane` .. `to` - 1 of a sub-block of n rows, which begins with `first`. The
 * first n % 16 lanes have a row more than the others. */
INLINE struct strip strip_of(const bn_span *a, row first, int64_t n, int64_t from, int64_t most, int64_t lane,
                             int64_t to, const A *coef, const struct columns_scratch *z, variant v)
{
    const int64_t w = a->width, rows = n / BN_LANES + (lane < n % BN_LANES);
    const int flat = to - lane > 1;
    struct strip s = {.first = first, .width = (to - lane) * w, .coef = flat ? coef + lane * w : coef};
    s.rows = rows - from < most ? rows - from : most;
    s.ahead = a->prefetch ? most * BN_LANES : 0;
    s.first_rows = from == 0;
    s.last_rows = (from + most) * BN_LANES >= n; /* of all lanes, so that they are folded in order */
    s.sum_s = z->sum_s + lane * w, s.sum_q = z->sum_q + lane * w;
    s.acc_s = z->acc_s + lane % 8 * w, s.acc_q = z->acc_q + lane % 8 * w;
    move_rows(&s.first, a, from * BN_LANES + lane, v.flags);
    return s;
}

/* The accumulators of all columns, left in z. Strips are single lanes, or (flat) as many lanes as have the same
 * number of rows and accumulators of their own. */
INLINE void add_columns(const bn_span *a, const A *coef, int64_t cs, int flat, variant v,
                        const struct columns_scratch *z)
{
    const int near = BN_SUB * a->xs * (int64_t)sizeof(T) <= NEARBY_BYTES;
    const int64_t at_once = a->prefetch && !near ? ROWS_FROM_MEMORY : ROWS_FROM_CACHE;
    row first = {.x = a->x, .dy = a->dy, .y = a->y};
    memset(z->acc_s, 0, 2 * 8 * a->width * sizeof(double));
    for (int64_t done = 0; done < a->rows; done += BN_SUB) {
        const int64_t left = a->rows - done, n = left < BN_SUB ? left : BN_SUB, more = n % BN_LANES;
        for (int64_t from = 0; from * BN_LANES < n; from += at_once)
            for (int64_t lane = 0, to; lane < BN_LANES; lane = to) {
                to = !flat ? lane + 1 : lane < more && more < 8 ? more : lane < 8 ? 8 : lane < more ? more : BN_LANES;
                const struct strip s = strip_of(a, first, n, from, at_once, lane, to, coef, z, v);
                add_strip(&s, a, cs, v);
            }
        move_rows(&first, a, BN_SUB, v.flags);
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
