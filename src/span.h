/* The loop nest of the element-wise kernels: any term over the rows of a span, native vectors throughout.
 *
 * With one coefficient per column (BN_TILE) several rows are done together, a cache line of each in turn, so that
 * coefficients are loaded once for all of them: loading them for every row costs more than the data does. The last
 * vector of a row overlaps the one before: it is computed first and stored last, so a row may be written in place.
 * Streaming rows (never in place) start with one plain vector and go on at the next aligned address.
 */
#ifndef BN_SPAN_H
#define BN_SPAN_H

#include "vec.h"

#define ROWS 8                        /* rows done together */
#define LINE ((int)(64 / sizeof(T))) /* columns of a cache line */

/* What a span has; constants after inlining, like BN_RELU, BN_TILE and BN_FROZEN. */
enum { HAS_X = 64, HAS_DY = 128, HAS_R = 256, HAS_OUT2 = 512 };

struct row {
    const T *x, *dy, *r;
    T *out, *out2;
};

INLINE struct row row_at(const bn_span *a, int64_t i, int64_t j, int flags)
{
    struct row p = {NULL, NULL, NULL, (T *)a->out + i * a->outs + j, NULL};
    if (flags & HAS_X) p.x = (const T *)a->x + i * a->xs + j;
    if (flags & HAS_DY) p.dy = (const T *)a->dy + i * a->dys + j;
    if (flags & HAS_R) p.r = (const T *)a->r + i * a->rs + j;
    if (flags & HAS_OUT2) p.out2 = (T *)a->out2 + i * a->out2s + j;
    return p;
}

INLINE void next_row(struct row *p, const bn_span *a, int flags)
{
    p->out += a->outs;
    if (flags & HAS_X) p->x += a->xs;
    if (flags & HAS_DY) p->dy += a->dys;
    if (flags & HAS_R) p->r += a->rs;
    if (flags & HAS_OUT2) p->out2 += a->out2s;
}

/* The results of the W columns from j on; `second` is read only where HAS_OUT2. */
typedef void term(const struct row *p, int64_t j, const coefs *c, int flags, vec *first, vec *second);

INLINE void put(term *f, const struct row *p, int64_t j, const coefs *c, int flags)
{
    vec first, second;
    f(p, j, c, flags, &first, &second);
    store(p->out + j, first);
    if (flags & HAS_OUT2) store(p->out2 + j, second);
}

INLINE void put_streaming(term *f, const struct row *p, int64_t j, const coefs *c, int flags)
{
    vec first, second;
    f(p, j, c, flags, &first, &second);
    stream(p->out + j, first);
    if (flags & HAS_OUT2) store(p->out2 + j, second);
}

INLINE void fetch(const struct row *p, int64_t j, int64_t ahead, int flags)
{
    if (!ahead) return;
    if (flags & HAS_X) __builtin_prefetch((const char *)(p->x + j) + ahead, 0, 2);
    if (flags & HAS_DY) __builtin_prefetch((const char *)(p->dy + j) + ahead, 0, 2);
}

/* Rows shorter than a vector go through a padded copy. */
static inline void short_row(term *f, const struct row *p, int64_t width, const coefs *c, int flags)
{
    T x[W], dy[W], r[W], out[W], out2[W];
    memset(x, 0, sizeof x), memset(dy, 0, sizeof dy), memset(r, 0, sizeof r);
    if (flags & HAS_X) memcpy(x, p->x, width * sizeof(T));
    if (flags & HAS_DY) memcpy(dy, p->dy, width * sizeof(T));
    if (flags & HAS_R) memcpy(r, p->r, width * sizeof(T));
    struct row b = {x, dy, r, out, out2};
    put(f, &b, 0, c, flags);
    memcpy(p->out, out, width * sizeof(T));
    if (flags & HAS_OUT2) memcpy(p->out2, out2, width * sizeof(T));
}

/* Columns before the first one that lies at the start of a cache line. */
INLINE int64_t head_of(const T *out) { return (int64_t)(-(uintptr_t)out % 64 / sizeof(T)); }

/* One row of one channel, or with coefficients of its own in every column. */
INLINE void one_row(term *f, const bn_span *a, int64_t i, int streams, coefs c, int flags)
{
    const int64_t width = a->width, ahead = a->prefetch;
    const A *coef = a->coef;
    const struct row p = row_at(a, i, 0, flags);
#define COEFS_AT(j) \
    if (flags & BN_TILE) c = coefs_of_columns(coef + (j), a->cs)
    vec first, second;
    COEFS_AT(width - W);
    f(&p, width - W, &c, flags, &first, &second);
    int64_t j = 0;
    if (streams) {
        COEFS_AT(0);
        put(f, &p, 0, &c, flags);
        if (W < LINE && head_of(p.out) > W) put(f, &p, W, &c, flags);
        for (j = head_of(p.out); j + LINE <= width; j += LINE) {
            fetch(&p, j, ahead, flags);
            for (int k = 0; k < LINE; k += W) {
                COEFS_AT(j + k);
                put_streaming(f, &p, j + k, &c, flags);
            }
        }
    }
    for (; j + W <= width; j += W) {
        COEFS_AT(j);
        put(f, &p, j, &c, flags);
    }
    store(p.out + width - W, first);
    if (flags & HAS_OUT2) store(p.out2 + width - W, second);
#undef COEFS_AT
}

/* ROWS rows from row i on, with coefficients of its own in every column; all rows are equally aligned if `streams`. */
INLINE void some_rows(term *f, const bn_span *a, int64_t i, int streams, int flags)
{
    const int64_t width = a->width, ahead = a->prefetch, cs = a->cs;
    const A *coef = a->coef;
    vec first[ROWS], second[ROWS];
    coefs c = coefs_of_columns(coef + width - W, cs);
    struct row p = row_at(a, i, width - W, flags);
    for (int t = 0; t < ROWS; t++, next_row(&p, a, flags)) f(&p, 0, &c, flags, first + t, second + t);
    int64_t j = 0;
    if (streams) {
        for (int64_t head = head_of((T *)a->out + i * a->outs); j < head; j += W) {
            c = coefs_of_columns(coef + j, cs);
            p = row_at(a, i, j, flags);
            for (int t = 0; t < ROWS; t++, next_row(&p, a, flags)) put(f, &p, 0, &c, flags);
        }
        for (j = head_of((T *)a->out + i * a->outs); j + LINE <= width; j += LINE) {
            coefs k0 = coefs_of_columns(coef + j, cs), k1 = coefs_of_columns(coef + j + W % LINE, cs);
            p = row_at(a, i, j, flags);
            for (int t = 0; t < ROWS; t++, next_row(&p, a, flags)) {
                fetch(&p, 0, ahead, flags);
                put_streaming(f, &p, 0, &k0, flags);
                if (LINE > W) put_streaming(f, &p, W, &k1, flags);
                for (int k = 2 * W; k < LINE; k += W) {
                    c = coefs_of_columns(coef + j + k, cs);
                    put_streaming(f, &p, k, &c, flags);
                }
            }
        }
    }
    for (; j + W <= width; j += W) {
        c = coefs_of_columns(coef + j, cs);
        p = row_at(a, i, j, flags);
        for (int t = 0; t < ROWS; t++, next_row(&p, a, flags)) put(f, &p, 0, &c, flags);
    }
    p = row_at(a, i, width - W, flags);
    for (int t = 0; t < ROWS; t++, next_row(&p, a, flags)) {
        store(p.out, first[t]);
        if (flags & HAS_OUT2) store(p.out2, second[t]);
    }
}

/* `flags` is a constant after inlining; a copy of the span lets the compiler see that stores do not change it. */
INLINE void run_span(term *f, const bn_span *span, int flags)
{
    const bn_span b = *span, *a = &b;
    const int streams = a->flags & BN_STREAM && a->width >= 4 * LINE;
    coefs c = {0};
    if (!(flags & BN_TILE)) c = coefs_of_channel(a->coef, a->cs);
    int64_t i = 0;
    if (a->width < W) {
        if (flags & BN_TILE) c = coefs_of_columns(a->coef, a->cs);
        for (; i < a->rows; i++) {
            struct row p = row_at(a, i, 0, flags);
            short_row(f, &p, a->width, &c, flags);
        }
        return;
    }
    if (flags & BN_TILE && !(streams && a->outs * sizeof(T) % 64))
        for (; i + ROWS <= a->rows; i += ROWS) some_rows(f, a, i, streams, flags);
    for (; i < a->rows; i++) one_row(f, a, i, streams, c, flags);
}

#endif
