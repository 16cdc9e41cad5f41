/* Arrays as drivers see them: channels, and the other axes as one sequence in logical order. No Python here. */
#ifndef BN_VIEW_H
#define BN_VIEW_H

#include <stdint.h>

#define BN_MAXDIM 8

enum { BN_NONE, BN_CHANNELS_FIRST, BN_CHANNELS_LAST };

/* The arrays of a call; which of them there are follows from its passes. */
enum {
    BN_OPERAND_X,
    BN_OPERAND_DY,
    BN_OPERAND_RESIDUAL,
    BN_OPERAND_Y,
    BN_OPERAND_OUT, /* y or dx, by the pass */
    BN_OPERAND_DRESIDUAL,
    BN_NOPERAND
};

typedef struct bn_shape {
    int nd;                  /* axes of the sequence after collapsing, at least 1 */
    int64_t size[BN_MAXDIM]; /* their lengths; the last one is a "row" */
    int64_t channels, count; /* count: elements of the sequence */
    int itemsize;
} bn_shape;

typedef struct bn_operand {
    char *data;                         /* NULL: not there */
    int64_t cstride, stride[BN_MAXDIM]; /* bytes */
} bn_operand;

/* Collapses the axes other than `axis` that are adjacent in every operand: those whose strides are not NULL.
 * 0 when too many axes are left. */
int bn_collapse(bn_shape *shape, int ndim, const int64_t *sizes, int axis, int itemsize, bn_operand *operands,
                const int64_t *const *strides);

/* The layout that the operands with strides share: rows without gaps, or channels without gaps; BN_NONE if neither. */
int bn_layout(const bn_shape *shape, const bn_operand *operands, const int64_t *const *strides);

/* Element i of the sequence, channel c. NULL where the operand is not there. */
char *bn_at(const bn_shape *shape, const bn_operand *operand, int64_t c, int64_t i);

/* How many elements from i on lie at equal distance (the rest of the last axis), at most `most`. */
int64_t bn_run_length(const bn_shape *shape, int64_t i, int64_t most);

/* Copies elements i .. i+n-1 of channel c, in rows without gaps, to a buffer. */
void bn_gather(const bn_shape *shape, const bn_operand *operand, int64_t c, int64_t i, int64_t n, char *buffer);

/* The same for each of `channels` channels from c on, to places `step` bytes apart; reads in the order of memory. */
void bn_join(const bn_shape *shape, const bn_operand *operand, int64_t c, int64_t channels, int64_t i, int64_t n,
             char *buffer, int64_t step);

#endif
