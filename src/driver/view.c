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
