/* Arrays as drivers see them: channels, and the other axes as one sequence in logical order. No Python here. */
#ifndef BN_VIEW_H
#define BN_VIEW_H

#include <stdint.h>
#include <string.h>

#include "dtypes.h"
#include "kernels/half.h"

#define BN_MAXDIM 8
#define BN_MAXOPERAND 5

enum { BN_NONE, BN_CHANNELS_FIRST, BN_CHANNELS_LAST };

typedef struct bn_shape {
    int nd;                  /* axes of the sequence after collapsing, at least 1 */
    int64_t size[BN_MAXDIM]; /* their lengths; the last one is a "row" */
    int64_t channels, count; /* count: elements of the sequence */
    int itemsize;
} bn_shape;

typedef struct bn_operand {
    char *data; /* NULL: not given */
    int64_t cstride, stride[BN_MAXDIM]; /* bytes */
} bn_operand;

/* A vector of one number for each channel, as the user gave it. */
typedef struct bn_vector {
    char *data;     /* NULL: not given; in any alignment */
    int64_t stride; /* bytes */
    int type;
} bn_vector;

/* Collapse the axes other than `axis` that are adjacent in every operand. 0 when too many are left. */
int bn_collapse(bn_shape *shape, int ndim, const int64_t *sizes, int axis, int itemsize, bn_operand *const *operands,
                const int64_t *const *strides, int count);

/* The layout all operands share: rows without gaps, or channels without gaps; BN_NONE if neither. */
int bn_layout(const bn_shape *shape, bn_operand *const *operands, int count);

/* Element i of the sequence, channel c. */
char *bn_at(const bn_shape *shape, const bn_operand *operand, int64_t c, int64_t i);

/* Copies elements i .. i+n-1 of channel c, in rows without gaps, to a buffer. */
void bn_gather(const bn_shape *shape, const bn_operand *operand, int64_t c, int64_t i, int64_t n, char *buffer);

/* Steps of element i's run: elements from i on that lie at equal distance (the rest of the last axis), at most `most`. */
int64_t bn_run_length(const bn_shape *shape, int64_t i, int64_t most);

/* Entry c as a float64; `missing` where there is no vector. */
static inline double bn_get(const bn_vector *v, int64_t c, double missing)
{
    if (!v->data) return missing;
    const char *p = v->data + c * v->stride;
    double d;
    float f;
    uint16_t h;
    switch (v->type) {
    case BN_F64: return memcpy(&d, p, sizeof d), d;
    case BN_F32: return memcpy(&f, p, sizeof f), (double)f;
    case BN_F16: return memcpy(&h, p, sizeof h), (double)bn_from_f16(h);
    default: return memcpy(&h, p, sizeof h), (double)bn_from_bf16(h);
    }
}

/* Sets entry c, rounded once. */
static inline void bn_put(const bn_vector *v, int64_t c, double value)
{
    char *p = v->data + c * v->stride;
    float f = (float)value;
    uint16_t h = v->type == BN_F16 ? bn_to_f16(bn_to_odd(value)) : bn_to_bf16(bn_to_odd(value));
    switch (v->type) {
    case BN_F64: memcpy(p, &value, sizeof value); break;
    case BN_F32: memcpy(p, &f, sizeof f); break;
    default: memcpy(p, &h, sizeof h);
    }
}

/* Bytes of the second-level cache of one core, kept within what is believable. */
int64_t bn_cache_bytes(void);

/* Outputs from this size on are written past the caches: half of the last level,
 * kept within what is believable.
 */
int64_t bn_stream_bytes(void);

/* Rounding to nearest and subnormals as they are, whatever mode the calling thread is in; the mode to go back to. */
unsigned bn_fenv_begin(void);
void bn_fenv_end(unsigned mode);

/* Makes non-temporal stores visible to other threads. */
void bn_store_fence(void);

/* A flag that threads may raise and read at any time. */
void bn_raise(int *flag);
int bn_raised(const int *flag);

/* Seconds on a monotonic clock. */
double bn_now(void);

/* 1 in a child process that was forked after this module was loaded. */
int bn_forked(void);
void bn_watch_fork(void);

#endif
