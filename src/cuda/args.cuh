/* What a launch is told: one struct by value, every field eight bytes wide.
 *
 * The host packs it in the order of its fields: `Arrays` and `_ARGS` in launch.py, `Geometry` in plan.py.
 */
#ifndef BN_ARGS_CUH
#define BN_ARGS_CUH

#include "dtypes.h"

enum { BN_THREADS = 256, BN_WARPS = BN_THREADS / 32, BN_UNROLL = 4 };

/* Phases, each of which needs the one before to be complete: a launch of several has barriers in between. */
enum { BN_PHASE_REDUCTION = 1, BN_PHASE_MERGE = 2, BN_PHASE_ELEMENTWISE = 4 };

/* One number for each channel. */
struct Vector {
    const void *data; /* null: not given */
    long long stride; /* in elements, of any sign */
    long long type;   /* BN_F32 ... */
};

struct Args {
    const void *x, *dy, *residual, *y; /* residual: of forward; y: for the sign behind the activation, of backward */
    void *out, *dresidual;             /* y or dx; the residual's gradient */
    Vector mean, var, weight, bias, sum_dy, sum_dy_xhat;
    double *result[2]; /* mean and var, or sum dy and sum dy * xhat: written by BN_PHASE_MERGE */
    double *partial;   /* of each segment of a channel three numbers (forward) or two (backward) */
    unsigned *barrier;
    double eps, count;    /* count: divisor of the sums in the mean terms of dx */
    double parameter;     /* of the activation */
    long long activation; /* BN_IDENTITY, BN_RELU ... (formulas.h) */
    long long frozen;     /* dx without the mean terms */
    long long phases;

    /* Geometry: plan.py says what each is. */
    long long size, channels, inner, offset;
    long long row_slots, rows, segment, segments, units, steps;
    long long columns, lines, partials;
    unsigned long long magic; /* 2^64 / row_slots, rounded up */
    long long keep;           /* slots of each operand that a thread keeps on chip between the sweeps */
};

#endif
