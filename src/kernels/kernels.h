/* The seam between drivers and kernels.
 *
 * A kernel works on memory it is handed: it never allocates, never threads, never fails. A driver cuts an array
 * into the pieces below, owns all scratch, and merges. One table of function pointers (bn_kernels) exists for each
 * (storage type, ISA level); which one is used is decided once, at import (levels.c).
 *
 * Order of summation, the same in every kernel, layout and level. Number the elements of a channel 0 .. m-1 in
 * logical (C) order. They are cut into blocks of BN_BLOCK; a block into sub-blocks of BN_SUB; element i of a
 * sub-block belongs to lane i % BN_LANES, and each lane is summed in the arithmetic type in order of i. After each
 * sub-block lane j is added, in float64, to accumulator j % 8, lanes 0..7 first. At the end of the block the eight
 * accumulators are added as ((0+4)+(2+6)) + ((1+5)+(3+7)). Blocks are merged in order, in float64 (merge.c).
 * Results therefore depend on the values and their logical order alone: not on layout, strides, alignment, vector
 * width or threads.
 */
#ifndef BN_H
#define BN_H

#include <stdint.h>

#include "../formulas.h" /* the rows of a table of coefficients (each `cs` elements of A long), the activations */

#define BN_LANES 16
#define BN_SUB 256    /* at most 16 float32 additions in a row before float64 takes over */
#define BN_BLOCK 2048 /* elements of one partial (mean, M2); fits L1 in every type */
#define BN_GROUP 2048 /* channels a channels-last kernel takes at a time */
#define BN_PAD 16     /* coefficient rows may be read this many elements past their end */

/* How a pass is done: bits of `flags`. */
enum {
    BN_TILE = 1,   /* one coefficient per column; otherwise one for the whole span */
    BN_STREAM = 2, /* non-temporal stores: the output is too large to be read from cache */
    BN_FROZEN = 4, /* input_grad without the mean terms */
};

/* `rows` rows of `channels` runs (1 but in second passes) of `width` adjacent elements. Strides go from row to row and
 * count elements; unused pointers are NULL.
 */
typedef struct bn_span {
    const void *x, *dy, *residual, *y; /* residual: of normalise; y: of the backward passes, for z's sign */
    void *out, *dresidual;             /* y or dx; the residual's gradient */
    int64_t xs, dys, residuals, ys, outs, dresiduals;
    int64_t rows, channels, width;
    const void *coef;
    int64_t cs;
    int64_t prefetch; /* bytes ahead of the inputs to fetch into L2; reductions: not 0 where they come from memory */
    int flags, activation;
    double parameter; /* of the activation */
} bn_span;

/* The sums of a block under way, between two of its runs. */
typedef struct bn_sums {
    double a[8], b[8];                           /* the accumulators: of d and d^2, or of dy and dy * xhat */
    double lanes_a[BN_LANES], lanes_b[BN_LANES]; /* of the sub-block; 16 numbers of the arithmetic type each */
    double shift;
} __attribute__((aligned(64))) bn_sums;

/* Adjacent elements of each of `channels` channels, at .. at+n-1 of their blocks. A run begins with lane 0 or reaches
 * beyond the last lane (rows that are read in place are no shorter than the lanes), and at least BN_LANES elements
 * before its end can be read.
 */
typedef struct bn_run {
    const void *x, *dy, *y; /* dy and y may be NULL */
    int64_t xc, dyc, yc;    /* elements from channel to channel */
    int64_t channels, at, n;
    const void *coef;
    int64_t cs;
    int flags, activation;
    double parameter;
} bn_run;

/* What a reduction found for the blocks of `channels` channels, two numbers each: a[block * next_block + channel *
 * next_channel], and b. */
typedef struct bn_parts {
    const double *a, *b;
    int64_t next_block, next_channel;
    int64_t blocks, channels;
    int64_t count; /* elements of a channel */
} bn_parts;

typedef struct bn_kernels {
    int itemsize, arithsize; /* bytes of the storage and the arithmetic type */
    /* A block of a channel, run by run: begin from its first min(n, 8) elements, add (to z[0 .. channels-1]), end ->
     * mean and M2 = sum (x - mean)^2 of n elements. 0 where digits were lost: then `again` on the n elements side by
     * side. */
    void (*moments_begin)(bn_sums *z, const void *first, int64_t n);
    void (*moments_add)(bn_sums *z, const bn_run *a);
    int (*moments_end)(bn_sums *z, int64_t n, double *mean, double *m2);
    void (*moments_two_pass)(const void *x, int64_t n, double *mean, double *m2);
    /* rows <= BN_BLOCK, width <= BN_GROUP channels; results for each channel; bn_columns_scratch() bytes of scratch */
    void (*moments_cl)(const bn_span *a, double *mean, double *m2, void *scratch);
    /* the same shapes; sum g and sum g * (d * invstd), of which merge_sums makes g * xhat (formulas.h) */
    void (*reduce_add)(bn_sums *z, const bn_run *a); /* z zero at first */
    void (*reduce_end)(bn_sums *z, int64_t n, double *sum_dy, double *sum_dy_xhat);
    void (*reduce_cl)(const bn_span *a, double *sum_dy, double *sum_dy_xhat, void *scratch);
    void (*normalise)(const bn_span *a);
    void (*input_grad)(const bn_span *a);
    /* blocks to channels: mean and variance, or both sums */
    void (*merge_moments)(const bn_parts *parts, double *mean, double *var);
    void (*merge_sums)(const bn_parts *parts, const void *coef, int64_t cs, double *sum_dy, double *sum_dy_xhat);
    /* coefficient rows of n channels from float64 values; coefs_backward reads some of coefs_forward's */
    void (*coefs_forward)(void *coef, int64_t cs, int64_t n, const double *mean, const double *var, double eps,
                          const double *weight, const double *bias);
    void (*coefs_backward)(void *coef, int64_t cs, int64_t n, const double *sum_dy, const double *sum_dy_xhat,
                           double count);
    /* the first `rows` coefficients of a table whose columns are: `times` copies of (each of `channels` channels from c
     * on, `repeat` times) */
    void (*coefs_tile)(void *tile, int64_t ts, const void *coef, int64_t cs, int rows, int64_t c, int64_t channels,
                       int64_t repeat, int64_t times);
    /* the limits: `width` elements, out = x and out = x + dy */
    void (*stream_copy)(const bn_span *a);
    void (*stream_triad)(const bn_span *a);
} bn_kernels;

/* Scratch of the channels-last kernels for `width` channels and `rows` elements of a block: accumulators, lane
 * sums, coefficients of a flat row, one gathered column. Up to BN_FLAT channels a gapless matrix is read flat
 * (reduce_cl.h).
 */
#define BN_FLAT 64

static inline int64_t bn_columns_scratch(int64_t width, int64_t rows)
{
    int64_t flat = BN_LANES * (width < BN_FLAT ? width : BN_FLAT); /* the last group may be narrower than the others */
    int64_t columns = (width > flat ? width : flat) + BN_PAD;
    return (2 * 8 * width + 2 * BN_LANES * width + BN_NCOEF * columns + rows) * (int64_t)sizeof(double);
}

/* levels.c: the ISA levels of this build, in order of preference, the best one last. */
int bn_level_count(void);
const char *bn_level_name(int level);
int bn_level_supported(int level);  /* can this processor run it? */
int bn_level_by_request(int level); /* is it taken where it is asked for alone? */
const bn_kernels *bn_table(const char *dtype, int level);

#endif
