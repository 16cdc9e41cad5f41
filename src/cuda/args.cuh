/* What a launch is told: one struct by value, every field eight bytes wide.
 *
 * bnkern/backends/_cuda_args.py packs it; the order of the fields is the order there.
 */
#ifndef BN_ARGS_CUH
#define BN_ARGS_CUH

enum { BN_THREADS = 256, BN_WARPS = BN_THREADS / 32, BN_UNROLL = 4 };

/* Phases, each of which needs the one before to be complete: a launch of several has barriers in between. */
enum { BN_FIRST = 1, BN_MERGE = 2, BN_SECOND = 4 };

enum { BN_RELU = 1, BN_FROZEN = 2, BN_CAST = 4 };

/* One number for each channel; absent: type BN_ABSENT. */
enum { BN_ABSENT, BN_FLOAT32, BN_FLOAT64, BN_FLOAT16, BN_BFLOAT16 };

struct Vector {
    const void *data;
    long long stride; /* in elements, of any sign */
    long long type;
};

struct Args {
    const void *x, *dy, *r; /* r: the residual in forward, y in backward */
    void *out, *out2;       /* y or dx; the residual's gradient */
    Vector mean, var, weight, bias, sum_dy, sum_dy_xhat;
    double *result[2]; /* mean and var, or sum dy and sum dy * xhat: written by BN_MERGE */
    double *partial;   /* three, or two, for each part of a channel */
    unsigned *barrier;
    double eps, count; /* count: divisor of the sums in the mean terms of dx */
    long long flags, phases;

    /* Geometry: bnkern/backends/_cuda_plan.py says what each is. */
    long long size, channels, inner, offset;
    long long row_slots, rows, part, parts, units, steps;
    long long columns, lines, partials;
    unsigned long long magic; /* 2^64 / row_slots, rounded up */
    long long keep;           /* slots of each operand that a thread keeps on chip between the sweeps */
};

#endif
