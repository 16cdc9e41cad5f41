/* The loop nest of the element-wise kernels: any term over the rows of a span, native vectors throughout.
 *
 * A row is `channels` runs of `width` elements, one coefficient each, or (BN_TILE) `width` columns with a coefficient each.
 * In tiles several rows are done together, a cache line of each in turn, so that coefficients are loaded once for all
 * of them: loading them for every row costs more than the data does.
 * Plain stores: the last vector of a run overlaps the one before; it is computed first and stored last, so that a row may
 * be written in place. Streaming stores (never in place) write whole cache lines only, also those in which one channel
 * ends and the next begins; what is left at the ends of a row is stored to the element, because a plain store that
 * touches a line just streamed reads it back from memory.
 */
#ifndef BN_SPAN_H
#define BN_SPAN_H

#include "vec.h"

#define ROWS 8                        /* rows done together */
#define STRIP_WIDTH 1024             /* columns whose coefficients stay in L1 */
#define LINE ((int)(64 / sizeof(T))) /* columns of a cache line */

/* What a span has; constants after inlining, like BN_TILE and BN_FROZEN. */
enum { WITH_RELU = 32, HAS_X = 64, HAS_DY = 128, HAS_RESIDUAL = 256, HAS_Y = 512, HAS_DRESIDUAL = 1024 };

struct row {
    const T *x, *dy, *residual, *y;
    T *out, *dresidual;
};

INLINE struct row row_at(const bn_span *a, int64_t i, int64_t j, int flags)
{
    struct row p = {NULL, NULL, NULL, NULL, (T *)a->out + i * a->outs + j, NULL};
    if (flags & HAS_X) p.x = (const T *)a->x + i * a->xs + j;
    if (flags & HAS_DY) p.dy = (const T *)a->dy + i * a->dys + j;
    if (flags & HAS_RESIDUAL) p.residual = (const T *)a->residual + i * a->residuals + j;
    if (flags & HAS_Y) p.y = (const T *)a->y + i * a->ys + j;
    if (flags & HAS_DRESIDUAL) p.dresidual = (T *)a->dresidual + i * a->dresiduals + j;
    return p;
}

INLINE void next_row(struct row *p, const bn_span *a, int flags)
{
    p->out += a->outs;
    if (flags & HAS_X) p->x += a->xs;
    if (flags & HAS_DY) p->dy += a->dys;
    if (flags & HAS_RESIDUAL) p->residual += a->residuals;
    if (flags & HAS_Y) p->y += a->ys;
    if (flags & HAS_DRESIDUAL) p->dresidual += a->dresiduals;
}

/* The results of the W columns from j on; `second` is read only where HAS_DRESIDUAL. */
typedef void term(const struct row *p, int64_t j, const coefs *c, int flags, vec *first, vec *second);

INLINE void put(term *f, const struct row *p, int64_t j, const coefs *c, int flags)
{
    vec first, second;
    f(p, j, c, flags, &first, &second);
    store(p->out + j, first);
    if (flags & HAS_DRESIDUAL) store(p->dresidual + j, second);
}

INLINE void put_streaming(term *f, const struct row *p, int64_t j, const coefs *c, int flags)
{
    vec first, second;
    f(p, j, c, flags, &first, &second);
    stream(p->out + j, first);
    if (flags & HAS_DRESIDUAL) store(p->dresidual + j, second);
}

INLINE void fetch(const struct row *p, int64_t j, int64_t ahead, int flags)
{
    if (!ahead) return;
    if (flags & HAS_X) __builtin_prefetch((const char *)(p->x + j) + ahead, 0, 2);
    if (flags & HAS_DY) __builtin_prefetch((const char *)(p->dy + j) + ahead, 0, 2);
}

/* Lanes lo .. hi-1 of the results for columns j .. j+W-1. */
INLINE void put_lanes(term *f, const struct row *p, int64_t j, int lo, int hi, const coefs *c, int flags)
{
    vec first, second;
    f(p, j, c, flags, &first, &second);
    store_lanes(p->out + j, first, lo, hi);
    if (flags & HAS_DRESIDUAL) store_lanes(p->dresidual + j, second, lo, hi);
}

/* Rows shorter than a vector go through a padded copy. */
static inline void short_row(term *f, const struct row *p, int64_t width, const coefs *c, int flags)
{
    T x[W], dy[W], residual[W], y[W], out[W], dresidual[W];
    memset(x, 0, sizeof x), memset(dy, 0, sizeof dy), memset(residual, 0, sizeof residual), memset(y, 0, sizeof y);
    if (flags & HAS_X) memcpy(x, p->x, width * sizeof(T));
    if (flags & HAS_DY) memcpy(dy, p->dy, width * sizeof(T));
    if (flags & HAS_RESIDUAL) memcpy(residual, p->residual, width * sizeof(T));
    if (flags & HAS_Y) memcpy(y, p->y, width * sizeof(T));
    struct row b = {x, dy, residual, y, out, dresidual};
    put(f, &b, 0, c, flags);
    memcpy(p->out, out, width * sizeof(T));
    if (flags & HAS_DRESIDUAL) memcpy(p->dresidual, dresidual, width * sizeof(T));
}

/* Columns before the first one that lies at the start of a cache line. */
INLINE int64_t head_of(const T *out) { return (int64_t)(-(uintptr_t)out % 64 / sizeof(T)); }

/* The coefficients of columns j .. in a tile; those of a channel are the same everywhere. */
#define AT_COLUMN(j) \
    if (flags & BN_TILE) c = coefs_of_columns(coef + (j), cs)

/* One run of at least W columns with plain stores. */
INLINE void plain_run(term *f, const struct row *p, int64_t width, const A *coef, int64_t cs, int flags)
{
    vec first, second;
    coefs c = flags & BN_TILE ? coefs_of_columns(coef + width - W, cs) : coefs_of_channel(coef, cs);
    f(p, width - W, &c, flags, &first, &second);
    for (int64_t j = 0; j + W <= width; j += W) {
        AT_COLUMN(j);
        put(f, p, j, &c, flags);
    }
    store(p->out + width - W, first);
    if (flags & HAS_DRESIDUAL) store(p->dresidual + width - W, second);
}

/* Columns from .. to-1, fewer than a cache line, at the beginning or the end of a row of `width`, stored to the element. */
INLINE void ragged(term *f, const struct row *p, int64_t from, int64_t to, int64_t width, const A *coef, int64_t cs, int flags)
{
    coefs c = coefs_of_channel(coef, cs);
    for (int64_t j = from; j < to; j += W) {
        int64_t at = j + W <= width ? j : width - W;
        AT_COLUMN(at);
        put_lanes(f, p, at, (int)(j - at), (int)(to - at < W ? to - at : W), &c, flags);
    }
}

/* The line in which channel `coef` ends after n columns and the next channel begins. */
INLINE void border_line(term *f, const struct row *p, int64_t j, int64_t n, const A *coef, int64_t cs, int flags)
{
    const coefs c0 = coefs_of_channel(coef, cs), c1 = coefs_of_channel(coef + 1, cs);
    for (int k = 0; k < LINE; k += W) {
        vec a, a2, b, b2;
        f(p, j + k, &c0, flags, &a, &a2);
        f(p, j + k, &c1, flags, &b, &b2);
        stream(p->out + j + k, first_lanes(a, b, n - k));
        if (flags & HAS_DRESIDUAL) store(p->dresidual + j + k, first_lanes(a2, b2, n - k));
    }
}

/* A row of channels with streaming stores. */
INLINE void stream_channels(term *f, const bn_span *a, int64_t i, int flags)
{
    const struct row p = row_at(a, i, 0, flags);
    const int64_t cs = a->cs, width = a->width, total = a->channels * width;
    const A *coef = a->coef;
    int64_t j = head_of(p.out), end = width;
    ragged(f, &p, 0, j, width, coef, cs, flags);
    for (;; end += width, coef++) {
        const coefs c = coefs_of_channel(coef, cs);
        for (; j + LINE <= end; j += LINE)
            for (int k = 0; k < LINE; k += W) put_streaming(f, &p, j + k, &c, flags);
        if (end == total) break;
        if (j < end) {
            border_line(f, &p, j, end - j, coef, cs, flags);
            j += LINE;
        }
    }
    ragged(f, &p, j, total, total, coef, cs, flags);
}

/* The lines of a tile's row that begin in columns from .. to-1, with streaming stores. */
INLINE void stream_tile(term *f, const bn_span *a, int64_t i, int64_t from, int64_t to, int flags)
{
    const struct row p = row_at(a, i, 0, flags);
    const int64_t cs = a->cs, width = a->width, ahead = a->prefetch;
    const A *coef = a->coef;
    coefs c;
    const int64_t head = head_of(p.out), end = head + (width - head) / LINE * LINE;
    if (from == 0) ragged(f, &p, 0, head, width, coef, cs, flags);
    for (int64_t j = from < head ? head : from + (LINE - (from - head) % LINE) % LINE; j < to && j < end; j += LINE) {
        fetch(&p, j, ahead, flags);
        for (int k = 0; k < LINE; k += W) {
            AT_COLUMN(j + k);
            put_streaming(f, &p, j + k, &c, flags);
        }
    }
    if (to == width) ragged(f, &p, end, width, width, coef, cs, flags);
}

/* ROWS rows of a tile; with streaming stores all are aligned alike. */
INLINE void rows_of_tile(term *f, const bn_span *a, int64_t i, int streams, int flags)
{
    const int64_t width = a->width, ahead = a->prefetch, cs = a->cs;
    const A *coef = a->coef;
    vec first[ROWS], second[ROWS];
    coefs c;
    struct row p;
#define EACH_ROW(j)                \
    p = row_at(a, i, (j), flags);  \
    for (int t = 0; t < ROWS; t++, next_row(&p, a, flags))
    if (streams) {
        int64_t j = head_of((T *)a->out + i * a->outs), end = j + (width - j) / LINE * LINE;
        EACH_ROW(0)
        {
            ragged(f, &p, 0, j, width, coef, cs, flags);
            ragged(f, &p, end, width, width, coef, cs, flags);
        }
        for (; j < end; j += LINE) {
            coefs k0 = coefs_of_columns(coef + j, cs), k1 = coefs_of_columns(coef + j + W % LINE, cs);
            EACH_ROW(j)
            {
                fetch(&p, 0, ahead, flags);
                put_streaming(f, &p, 0, &k0, flags);
                if (LINE > W) put_streaming(f, &p, W, &k1, flags);
                for (int k = 2 * W; k < LINE; k += W) {
                    c = coefs_of_columns(coef + j + k, cs);
                    put_streaming(f, &p, k, &c, flags);
                }
            }
        }
        return;
    }
    c = coefs_of_columns(coef + width - W, cs);
    EACH_ROW(width - W) f(&p, 0, &c, flags, first + t, second + t);
    for (int64_t j = 0; j + W <= width; j += W) {
        c = coefs_of_columns(coef + j, cs);
        EACH_ROW(j) put(f, &p, 0, &c, flags);
    }
    EACH_ROW(width - W)
    {
        store(p.out, first[t]);
        if (flags & HAS_DRESIDUAL) store(p.dresidual, second[t]);
    }
#undef EACH_ROW
}

/* Rows of a tile or of channels with plain stores, or too short for anything better. */
INLINE void plain_row(term *f, const bn_span *a, int64_t i, int flags)
{
    const A *coef = a->coef;
    for (int64_t k = 0; k < a->channels; k++, coef++) {
        struct row p = row_at(a, i, k * a->width, flags);
        if (a->width >= W) {
            plain_run(f, &p, a->width, coef, a->cs, flags);
        } else {
            coefs c = flags & BN_TILE ? coefs_of_columns(coef, a->cs) : coefs_of_channel(coef, a->cs);
            short_row(f, &p, a->width, &c, flags);
        }
    }
}

/* Are ROWS rows better done together than one after the other, in the order of memory? Streamed, all must be aligned alike,
 * and not fall on the same places of the caches. */
INLINE int together(const bn_span *a, int streams)
{
    const int64_t step = a->outs * (int64_t)sizeof(T);
    return a->width >= W && !(streams && (step % 64 || a->width > 2 * STRIP_WIDTH || (a->width >= 256 && step % 2048 == 0)));
}

/* `flags` is a constant after inlining; a copy of the span lets the compiler see that stores do not change it. */
INLINE void run_span(term *f, const bn_span *span, int flags)
{
    const bn_span b = *span, *a = &b;
    const int streams = a->flags & BN_STREAM && a->width >= LINE && a->channels * a->width >= 4 * LINE;
    int64_t i = 0;
    if (flags & BN_TILE && together(a, streams))
        for (; i + ROWS <= a->rows; i += ROWS) rows_of_tile(f, a, i, streams, flags);
    if (flags & BN_TILE && streams) {
        for (int64_t j = 0; j < a->width; j += STRIP_WIDTH)
            for (int64_t k = i; k < a->rows; k++)
                stream_tile(f, a, k, j, j + STRIP_WIDTH < a->width ? j + STRIP_WIDTH : a->width, flags);
        return;
    }
    for (; i < a->rows; i++) {
        if (streams) stream_channels(f, a, i, flags);
        else plain_row(f, a, i, flags);
    }
}

#endif
