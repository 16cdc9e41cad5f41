#include "driver/view.h"

#include <string.h>

int bn_collapse(bn_shape *shape, int ndim, const int64_t *sizes, int axis, int itemsize, bn_operand *operands,
                const int64_t *const *strides)
{
    int nd = 0;
    shape->itemsize = itemsize;
    shape->channels = sizes[axis];
    shape->count = 1;
    for (int k = 0; k < BN_NOPERAND; k++)
        if (strides[k]) operands[k].cstride = strides[k][axis];
    for (int d = 0; d < ndim; d++) {
        if (d == axis || sizes[d] == 1) continue;
        shape->count *= sizes[d];
        int joins = nd > 0;
        for (int k = 0; k < BN_NOPERAND && joins; k++)
            joins = !strides[k] || operands[k].stride[nd - 1] == strides[k][d] * sizes[d];
        if (!joins) {
            if (nd == BN_MAXDIM) return 0;
            shape->size[nd++] = 1;
        }
        shape->size[nd - 1] *= sizes[d];
        for (int k = 0; k < BN_NOPERAND; k++)
            if (strides[k]) operands[k].stride[nd - 1] = strides[k][d];
    }
    if (nd == 0) { /* one element for each channel */
        shape->size[nd++] = 1;
        for (int k = 0; k < BN_NOPERAND; k++) operands[k].stride[0] = itemsize;
    }
    shape->nd = nd;
    return 1;
}

int bn_layout(const bn_shape *shape, const bn_operand *operands, const int64_t *const *strides)
{
    int rows = 1, channels = 1;
    for (int k = 0; k < BN_NOPERAND; k++) {
        if (!strides[k]) continue;
        if (operands[k].cstride % shape->itemsize) return BN_NONE; /* a field of a structured array */
        for (int d = 0; d < shape->nd; d++)
            if (operands[k].stride[d] % shape->itemsize) return BN_NONE;
        rows &= operands[k].stride[shape->nd - 1] == shape->itemsize;
        channels &= operands[k].cstride == shape->itemsize && shape->channels > 1;
    }
    if (channels && shape->count == 1) return BN_CHANNELS_LAST;
    return rows ? BN_CHANNELS_FIRST : channels ? BN_CHANNELS_LAST : BN_NONE;
}

char *bn_at(const bn_shape *shape, const bn_operand *operand, int64_t c, int64_t i)
{
    char *p = operand->data;
    if (!p) return p;
    p += c * operand->cstride;
    for (int d = shape->nd - 1; d > 0; d--) {
        p += i % shape->size[d] * operand->stride[d];
        i /= shape->size[d];
    }
    return p + i * operand->stride[0];
}

int64_t bn_run_length(const bn_shape *shape, int64_t i, int64_t most)
{
    int64_t row = shape->size[shape->nd - 1], left = row - i % row;
    return left < most ? left : most;
}

void bn_gather(const bn_shape *shape, const bn_operand *operand, int64_t c, int64_t i, int64_t n, char *buffer)
{
    for (int64_t end = i + n, take; i < end; i += take, buffer += take * shape->itemsize) {
        take = bn_run_length(shape, i, end - i);
        memcpy(buffer, bn_at(shape, operand, c, i), take * shape->itemsize);
    }
}

#define AHEAD \
    2048 /* bytes of rows to come that are fetched meanwhile: strips apart are too short for a processor's own guess */
#define NARROW 128 /* bytes of a strip: such rows are one stream in any order */

/* Copies `times` rows of `bytes`, piece .. 2 * piece of them, a constant number at a time: the pieces may overlap. */
#define COPY_ROWS(piece)                                             \
    for (; times > 0; times--, to += to_step, from += from_step) {   \
        memcpy(to, from, piece);                                     \
        memcpy(to + bytes - (piece), from + bytes - (piece), piece); \
    }

/* Calls of memcpy for so few bytes would cost more than the bytes. */
static void copy_rows(char *to, int64_t to_step, const char *from, int64_t from_step, int64_t times, int64_t bytes)
{
    if (bytes <= 2) COPY_ROWS(2)
    else if (bytes <= 8) COPY_ROWS(4)
    else if (bytes <= 16) COPY_ROWS(8)
    else if (bytes <= 32) COPY_ROWS(16)
    else if (bytes <= 64) COPY_ROWS(32)
    else if (bytes <= 128) COPY_ROWS(64)
    else
        for (; times > 0; times--, to += to_step, from += from_step) memcpy(to, from, bytes);
}

void bn_join(const bn_shape *shape, const bn_operand *operand, int64_t c, int64_t channels, int64_t i, int64_t n,
             char *buffer, int64_t step)
{
    const int64_t item = shape->itemsize, row = shape->size[shape->nd - 1], end = i + n;
    const int64_t rows_together = shape->nd > 1 ? shape->size[shape->nd - 2] : 1; /* at one distance */
    const int64_t row_step = shape->nd > 1 ? operand->stride[shape->nd - 2] : 0;
    while (i < end) {
        const int64_t take = bn_run_length(shape, i, end - i), whole = take == row;
        const int64_t most = rows_together - i / row % rows_together, left = (end - i) / row;
        const int64_t rows = !whole ? 1 : left < most ? left : most;
        const char *from = bn_at(shape, operand, c, i);
        const int64_t strip = channels * take * item, ahead = (AHEAD / strip + 1) * row_step;
        if (strip <= NARROW) /* the longer loop is the inner one */
            for (int64_t k = 0; k < channels; k++)
                copy_rows(buffer + k * step, take * item, from + k * operand->cstride, row_step, rows, take * item);
        else
            for (int64_t q = 0; q < rows; q++, from += row_step) {
                for (int64_t k = 0; k < strip; k += 64) __builtin_prefetch(from + ahead + k);
                copy_rows(buffer + q * take * item, step, from, operand->cstride, channels, take * item);
            }
        buffer += rows * take * item;
        i += rows * take;
    }
}
