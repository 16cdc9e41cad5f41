/* The loop nest of the element-wise passes: their results over the rows of a span, native vectors throughout.
 *
 * A row is `channels` runs of `width` elements, one coefficient each, or (BN_TILE, elementwise_tile.h) `width` columns
 * with a coefficient each.
 * Plain stores: the last vector of a run overlaps the one before; it is computed first and stored last, so that a row
 * may be written in place. Streaming stores (never in place) write whole cache lines only, also those in which one
 * channel ends and the next begins; what is left at the ends of a row is stored to the element, because a plain store
 * that touches a line just streamed reads it back from memory.
 */
#ifndef BN_ELEMENTWISE_H
#define BN_ELEMENTWISE_H

#include "elements.h"

#define LINE ((int)(64 / sizeof(T))) /* columns of a cache line */

/* The results of the W columns from j on; `second` is used only where HAS_DRESIDUAL. Each pass defines its own. */
INLINE void results(const row *p, int64_t j, const coefs *c, variant v, vec *first, vec *second);

INLINE row row_at(const bn_span *a, int64_t i, int64_t j, int flags)
{
    row p = {NULL, NULL, NULL, NULL, (T *)a->out + i * a->outs + j, NULL};
    if (flags & HAS_X) p.x = (const T *)a->x + i * a->xs + j;
    if (flags & HAS_DY) p.dy = (const T *)a->dy + i * a->dys + j;
    if (flags & HAS_RESIDUAL) p.residual = (const T *)a->residual + i * a->residuals + j;
    if (flags & HAS_Y) p.y = (const T *)a->y + i * a->ys + j;
    if (flags & HAS_DRESIDUAL) p.dresidual = (T *)a->dresidual + i * a->dresiduals + j;
    return p;
}

INLINE void next_row(row *p, const bn_span *a, int flags)
{
    p->out += a->outs;
    if (flags & HAS_X) p->x += a->xs;
    if (flags & HAS_DY) p->dy += a->dys;
    if (flags & HAS_RESIDUAL) p->residual += a->residuals;
    if (flags & HAS_Y) p->y += a->ys;
    if (flags & HAS_DRESIDUAL) p->dresidual += a->dresiduals;
}

/* ---- W columns --------------------------------------------------------------------------------------------------- */

INLINE void write_vec(const row *p, int64_t j, const coefs *c, variant v)
{
    vec first, second;
    results(p, j, c, v, &first, &second);
    store(p->out + j, first);
    if (v.flags & HAS_DRESIDUAL) store(p->dresidual + j, second);
}

/* May both outputs be streamed, in the cache lines of one? */
INLINE int aligned_alike(const row *p) { return ((uintptr_t)p->dresidual ^ (uintptr_t)p->out) % 64 == 0; }

INLINE void stream_results(const row *p, int64_t j, const coefs *c, variant v)
{
    vec first, second;
    results(p, j, c, v, &first, &second);
    stream(p->out + j, first);
    if (!(v.flags & HAS_DRESIDUAL)) return;
    if (aligned_alike(p)) stream(p->dresidual + j, second);
    else store(p->dresidual + j, second);
}

/* The results of 2 W columns of one channel, as pairs. */
INLINE void pair_results(const row *p, int64_t j, const coefs *c, variant v, vec first[2], vec second[2])
{
    variant one = v, two = v;
    one.pair = FIRST_OF_PAIR, two.pair = SECOND_OF_PAIR;
    results(p, j, c, one, first, second);
    results(p, j, c, two, first + 1, second + 1);
}

INLINE void write_pair(const row *p, int64_t j, const coefs *c, variant v)
{
    vec first[2], second[2];
    pair_results(p, j, c, v, first, second);
    store_pair(p->out + j, first[0], first[1]);
    if (v.flags & HAS_DRESIDUAL) store_pair(p->dresidual + j, second[0], second[1]);
}

/* A cache line of one channel. */
INLINE void stream_line(const row *p, int64_t j, const coefs *c, variant v)
{
    for (int k = 0; PAIRS && k < LINE; k += 2 * W) {
        vec first[2], second[2];
        pair_results(p, j + k, c, v, first, second);
        stream_pair(p->out + j + k, first[0], first[1]);
        if (v.flags & HAS_DRESIDUAL) store_pair(p->dresidual + j + k, second[0], second[1]);
    }
    for (int k = 0; !PAIRS && k < LINE; k += W) stream_results(p, j + k, c, v);
}

INLINE void fetch(const row *p, int64_t j, int64_t ahead, int flags)
{
    if (!ahead) return;
    if (flags & HAS_X) __builtin_prefetch((const char *)(p->x + j) + ahead, 0, 2);
    if (flags & HAS_DY) __builtin_prefetch((const char *)(p->dy + j) + ahead, 0, 2);
    if (flags & HAS_RESIDUAL) __builtin_prefetch((const char *)(p->residual + j) + ahead, 0, 2);
    if (flags & HAS_Y) __builtin_prefetch((const char *)(p->y + j) + ahead, 0, 2);
}

/* The coefficients from column j of a tile on; those of a channel, c, are the same everywhere. */
INLINE coefs coefs_at(const A *coef, int64_t cs, int64_t j, coefs c, int flags)
{
    return flags & BN_TILE ? coefs_of_columns(coef + j, cs) : c;
}

/* ---- plain stores ------------------------------------------------------------------------------------------------ */

/* One run of at least W columns. */
INLINE void plain_run(const row *p, int64_t width, const A *coef, int64_t cs, variant v)
{
    vec first, second;
    coefs c = v.flags & BN_TILE ? coefs_of_columns(coef + width - W, cs) : coefs_of_channel(coef, cs);
    results(p, width - W, &c, v, &first, &second);
    int64_t j = 0;
    for (; PAIRS && !(v.flags & BN_TILE) && j + 2 * W <= width; j += 2 * W) write_pair(p, j, &c, v);
    for (; j + W <= width; j += W) {
        c = coefs_at(coef, cs, j, c, v.flags);
        write_vec(p, j, &c, v);
    }
    store(p->out + width - W, first);
    if (v.flags & HAS_DRESIDUAL) store(p->dresidual + width - W, second);
}

/* A run of fewer columns goes through a padded copy. */
RARE void short_run(row p, int64_t width, const A *coef, int64_t cs, variant v)
{
    T x[W] = {0}, dy[W] = {0}, residual[W] = {0}, y[W] = {0}, out[W], dresidual[W];
    const row padded = {x, dy, residual, y, out, dresidual};
    v.pair = NO_PAIR;
    const coefs c = v.flags & BN_TILE ? coefs_of_columns(coef, cs) : coefs_of_channel(coef, cs);
    const size_t bytes = width * sizeof(T);
    if (v.flags & HAS_X) memcpy(x, p.x, bytes);
    if (v.flags & HAS_DY) memcpy(dy, p.dy, bytes);
    if (v.flags & HAS_RESIDUAL) memcpy(residual, p.residual, bytes);
    if (v.flags & HAS_Y) memcpy(y, p.y, bytes);
    write_vec(&padded, 0, &c, v);
    memcpy(p.out, out, bytes);
    if (v.flags & HAS_DRESIDUAL) memcpy(p.dresidual, dresidual, bytes);
}

/* Row i of channels. */
INLINE void plain_row(const bn_span *a, int64_t i, variant v)
{
    const A *coef = a->coef;
    for (int64_t k = 0; k < a->channels; k++, coef++) {
        const row p = row_at(a, i, k * a->width, v.flags);
        if (a->width >= W) plain_run(&p, a->width, coef, a->cs, v);
        else short_run(p, a->width, coef, a->cs, v);
    }
}

/* ---- streaming stores -------------------------------------------------------------------------------------------- */

/* Columns before the first one that lies at the start of a cache line. */
INLINE int64_t head_of(const T *out) { return (int64_t)(-(uintptr_t)out % 64 / sizeof(T)); }

/* Columns from .. to-1, fewer than a cache line, at the beginning or the end of a row of `width`, stored to the
 * element. */
RARE void ragged(row p, int64_t from, int64_t to, int64_t width, const A *coef, int64_t cs, variant v)
{
    coefs c = coefs_of_channel(coef, cs);
    v.pair = NO_PAIR;
    for (int64_t j = from; j < to; j += W) {
        const int64_t at = j + W <= width ? j : width - W;
        const int lo = (int)(j - at), hi = (int)(to - at < W ? to - at : W);
        vec first, second;
        c = coefs_at(coef, cs, at, c, v.flags);
        results(&p, at, &c, v, &first, &second);
        store_lanes(p.out + at, first, lo, hi);
        if (v.flags & HAS_DRESIDUAL) store_lanes(p.dresidual + at, second, lo, hi);
    }
}

/* The line in which channel `coef` ends after n columns and the next channel begins. */
INLINE void border_line(const row *p, int64_t j, int64_t n, const A *coef, int64_t cs, variant v)
{
    const coefs c0 = coefs_of_channel(coef, cs), c1 = coefs_of_channel(coef + 1, cs);
    for (int k = 0; k < LINE; k += W) {
        const ivec ends = first_lanes(n - k);
        vec a, a2, b, b2;
        results(p, j + k, &c0, v, &a, &a2);
        results(p, j + k, &c1, v, &b, &b2);
        stream(p->out + j + k, choose_lanes(ends, a, b));
        if (v.flags & HAS_DRESIDUAL) store(p->dresidual + j + k, choose_lanes(ends, a2, b2));
    }
}

/* Row i of channels. */
INLINE void stream_channels(const bn_span *a, int64_t i, variant v)
{
    const row p = row_at(a, i, 0, v.flags);
    const int64_t cs = a->cs, width = a->width, total = a->channels * width;
    const A *coef = a->coef;
    int64_t j = head_of(p.out), end = width;
    if (j > 0) ragged(p, 0, j, width, coef, cs, v);
    for (;; end += width, coef++) {
        const coefs c = coefs_of_channel(coef, cs);
        for (; j + LINE <= end; j += LINE) {
            fetch(&p, j, a->prefetch, v.flags);
            stream_line(&p, j, &c, v);
        }
        if (end == total) break;
        if (j < end) {
            border_line(&p, j, end - j, coef, cs, v);
            j += LINE;
        }
    }
    if (j < total) ragged(p, j, total, total, coef, cs, v);
}

/* ---- spans ------------------------------------------------------------------------------------------------------- */

#include "elementwise_tile.h"

/* `v` is a constant after inlining, unless it is the variant for all the others; a copy of the span lets the compiler
 * see that stores do not change it. */
INLINE void run_span(const bn_span *span, variant v)
{
    const bn_span b = *span, *a = &b;
    const int streams = a->flags & BN_STREAM && a->width >= LINE && a->channels * a->width >= 4 * LINE;
    assert(a->out && a->coef && a->rows >= 0 && a->channels > 0 && a->width > 0);
    assert((uintptr_t)a->out % sizeof(T) == 0 && !(v.flags & BN_TILE && a->channels != 1));
    assert(!streams || (a->out != a->x && a->out != a->dy && a->out != a->residual && a->out != a->y));
    if (v.flags & BN_TILE) {
        if (streams) stream_tile(a, v);
        else plain_tile(a, v);
        return;
    }
    for (int64_t i = 0; i < a->rows; i++) {
        if (streams) stream_channels(a, i, v);
        else plain_row(a, i, v);
    }
}

/* The variant that a span asks for, but for HAS_X. */
INLINE variant variant_of(const bn_span *a)
{
    variant v = {a->flags & (BN_TILE | BN_FROZEN), a->activation, (A)a->parameter, NO_PAIR};
    if (a->dy) v.flags |= HAS_DY;
    if (a->residual) v.flags |= HAS_RESIDUAL;
    if (a->y && v.activation != BN_IDENTITY) v.flags |= HAS_Y;
    if (a->dresidual) v.flags |= HAS_DRESIDUAL;
    return v;
}

/* Runs the span as a variant of its own, if it is this one. */
#define COMMON(flags, activation)               \
    if (is_variant(v, flags, activation)) {     \
        run_span(a, common(flags, activation)); \
        return;                                 \
    }

#endif
