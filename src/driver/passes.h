/* Which passes a backward call needs, and which arrays they read: the one rule for it, of Python's and C's callers. */
#ifndef BN_PASSES_H
#define BN_PASSES_H

#include "driver/plan.h"

/* `frozen`: whether the statistics were given; *fixed: whether dx goes without mean terms, which are dx's alone.
 * Behind an activation dresidual is an array of its own; without one it is dy, and no pass computes it. */
static inline int bn_backward_passes(int dx, int dresidual, int sums, int frozen, int active, int *fixed)
{
    *fixed = frozen || !dx;
    return (dx || (dresidual && active) ? BN_INPUT_GRAD : 0) | (sums || !*fixed ? BN_REDUCE : 0);
}

/* Does a pass of this backward call read x? Statistics that stay fixed and a known z leave it out. */
static inline int bn_reads_x(int passes, int fixed, int activation, int has_y)
{
    return (passes & BN_REDUCE) || !fixed || (activation && !has_y);
}

#endif
