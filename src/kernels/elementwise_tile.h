/* Tiles: rows of `width` columns with a coefficient each. Part of elementwise.h.
 *
 * Rows are done one after the other, wide ones in strips of columns whose coefficients stay in L1: from there they cost
 * nothing beside the data. More rows at a time are more streams than a processor follows, and rows of a power of two
 * meet in the same places of L1. Only short rows in caches are done several at a time, a vector of each in turn, so
 * that coefficients are loaded once for all of them.
 */
#ifndef BN_ELEMENTWISE_TILE_H
#define BN_ELEMENTWISE_TILE_H

#define STRIP_WIDTH 1024 /* columns whose coefficients stay in L1 */
#define ROWS 4           /* short rows done together */
/* Where a vector is less than a cache line, the other rows may push the line out before its second half is done. */
#define SHORT_ROW_BYTES (VECTOR_BYTES == 64 ? 2048 : 512)

/* ---- plain stores ------------------------------------------------------------------------------------------------ */

/* Rows i .. i + ROWS - 1, of W columns at least. */
INLINE void plain_rows_of_tile(const bn_span *a, int64_t i, variant v)
{
    const int64_t width = a->width, cs = a->cs;
    const A *coef = a->coef;
    vec first[ROWS], second[ROWS];
    coefs c = coefs_of_columns(coef + width - W, cs);
    row p = row_at(a, i, width - W, v.flags);
    for (int t = 0; t < ROWS; t++, next_row(&p, a, v.flags)) results(&p, 0, &c, v, first + t, second + t);
    for (int64_t j = 0; j + W <= width; j += W) {
        c = coefs_of_columns(coef + j, cs);
        p = row_at(a, i, j, v.flags);
        for (int t = 0; t < ROWS; t++, next_row(&p, a, v.flags)) write_vec(&p, 0, &c, v);
    }
    p = row_at(a, i, width - W, v.flags);
    for (int t = 0; t < ROWS; t++, next_row(&p, a, v.flags)) {
        store(p.out, first[t]);
        if (v.flags & HAS_DRESIDUAL) store(p.dresidual, second[t]);
    }
}

INLINE void plain_tile(const bn_span *a, variant v)
{
    const int together = a->width >= W && a->outs * (int64_t)sizeof(T) <= SHORT_ROW_BYTES;
    const A *coef = a->coef;
    int64_t done = 0;
    for (; together && done + ROWS <= a->rows; done += ROWS) plain_rows_of_tile(a, done, v);
    for (int64_t j = 0, to; j < a->width; j = to) {
        to = j + STRIP_WIDTH + W <= a->width ? j + STRIP_WIDTH : a->width; /* no strip is narrower than a vector */
        for (int64_t i = done; i < a->rows; i++) {
            const row p = row_at(a, i, j, v.flags);
            if (to - j >= W) plain_run(&p, to - j, coef + j, a->cs, v);
            else short_run(p, to - j, coef + j, a->cs, v);
        }
    }
}

/* ---- streaming stores -------------------------------------------------------------------------------------------- */

/* The lines of row i that begin in columns from .. to-1. */
INLINE void stream_strip(const bn_span *a, int64_t i, int64_t from, int64_t to, variant v)
{
    const row p = row_at(a, i, 0, v.flags);
    const int64_t cs = a->cs, width = a->width;
    const A *coef = a->coef;
    const int64_t head = head_of(p.out), end = head + (width - head) / LINE * LINE;
    if (from == 0 && head > 0) ragged(p, 0, head, width, coef, cs, v);
    for (int64_t j = from < head ? head : from + (LINE - (from - head) % LINE) % LINE; j < to && j < end; j += LINE) {
        fetch(&p, j, a->prefetch, v.flags);
        for (int k = 0; k < LINE; k += W) {
            const coefs c = coefs_of_columns(coef + j + k, cs);
            stream_results(&p, j + k, &c, v);
        }
    }
    if (to == width && end < width) ragged(p, end, width, width, coef, cs, v);
}

INLINE void stream_tile(const bn_span *a, variant v)
{
    for (int64_t j = 0, to; j < a->width; j = to) {
        to = j + STRIP_WIDTH < a->width ? j + STRIP_WIDTH : a->width;
        for (int64_t i = 0; i < a->rows; i++) stream_strip(a, i, j, to, v);
    }
}

#endif
