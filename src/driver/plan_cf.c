/* Plans for channels first.
 *
 * Two things decide. A channel's rows lie as far apart as all channels' rows are long: where a group's strip is short,
 * memory is read in pieces that no processor fetches ahead, up to ten times slower. Then slabs are read as they lie in
 * memory, and the elementwise pass reads once more. And where results are streamed, writing is the bottleneck: a group
 * fetches the next one while it is written.
 */
#include "driver/plan_parts.h"

#define SUMMED_GROUP 256        /* channels of a group without an elementwise pass: their sums stay in L2 */
#define GROUPED_COUNT (1 << 24) /* elements; beyond, the results of a channel's blocks are no scratch of a thread */
#define LONG_ROW 512            /* elements from which on a row is worth a call of its own */
#define SHORT_ROW 16            /* elements below which rows are taken several channels at a time */
#define FEW_ROWS 4              /* rows below which a tile of coefficients is not worth filling */
#define TILE_WIDTH 2048         /* columns of a tile of short rows */
#define TILE_PARTS 4            /* units for each thread, where there are few tiles */
#define TILE_PART_ELEMENTS (1 << 18) /* of one unit, at most */
#define TILE_PREFETCH 8              /* rows ahead */
#define LEAST_PIECE (1 << 12)        /* elements of a unit of runs */
#define MOST_PIECE (1 << 16)
#define PIECES 8                /* for each thread, so that one that is late holds up little */
#define TRIES 16                /* sizes of groups that are looked at */
#define FETCHED_GROUP (5 << 19) /* bytes, of all that the elementwise pass reads */
#define FETCHED_STRIP (1 << 15) /* bytes: less is not fetched at full speed */
#define LEAST_STRIP (1 << 14)   /* bytes: less is not read at full speed */
#define SLAB_CHANNELS 256       /* their sums stay in L2 */
#define LEAST_SLAB_CHANNELS 8
#define FEW_SLABS 4         /* for each thread: with fewer the channels are cut, too */
#define SLABS 16            /* for each thread, where there are many blocks */
#define MOST_SLAB (1 << 22) /* elements: after each a thread looks whether it is to stop */
#define JOINED_ROW 32       /* elements below which rows are put side by side before they are summed */
#define JOINED BN_SUB       /* elements of short rows that are put side by side: a run of them begins with lane 0 */
#define JOINED_CHANNELS 8   /* at a time: the copies stay in L1 */
#define FLAT_ROW 1024       /* elements below which a row is better part of a flat row */
#define FLAT_PERIOD 4096    /* positions of all channels' rows: their coefficients stay in L2 */

static int64_t strip(const bn_problem *p, int64_t channels) { return channels * p->row * p->itemsize; }

/* ---- the reduction ----------------------------------------------------------------------------------------------- */

/* Channels that the other threads could do while the slowest is still at its groups. */
static int64_t idle(const bn_problem *p, const bn_plan *plan, int64_t group)
{
    return ceil_div(ceil_div(p->channels, group), plan->threads) * group * plan->threads - p->channels;
}

/* The size, or where that leaves threads idle for long one a little smaller. */
static int64_t even_group(const bn_problem *p, const bn_plan *plan, int64_t most)
{
    int64_t best = most;
    for (int64_t group = most; group > most / 2 && group > most - TRIES; group--) {
        if (idle(p, plan, group) < idle(p, plan, best)) best = group;
        if (20 * idle(p, plan, best) <= p->channels) break;
    }
    return best;
}

/* As many groups for every thread, each small enough to be found in cache by the elementwise pass. Where that pass
 * streams it fetches the next group: both, and what is on its way, must have room in its share of the last cache. */
static int64_t group_of(const bn_problem *p, const bn_machine *m, const bn_plan *plan)
{
    const int both = reduces(p) && writes(p);
    const int64_t fetched = FETCHED_GROUP / p->reads / bytes_of(p, 1), long_strip = FETCHED_STRIP / p->reads;
    int64_t group = both ? m->group_bytes / bytes_of(p, 1) : SUMMED_GROUP, groups;
    if (both && plan->stream) group = min(group, max(fetched, ceil_div(long_strip, strip(p, 1))));
    group = max(1, min(p->channels, group));
    if (plan->elementwise == BN_TILED_ROWS) group = min(group, max(1, TILE_WIDTH / p->row));
    groups = ceil_div(ceil_div(p->channels, group), plan->threads) * plan->threads;
    return even_group(p, plan, ceil_div(p->channels, groups));
}

/* Groups where they can be shared out evenly and are read at full speed; else slabs. */
static enum bn_reduction reduction_of(const bn_problem *p, const bn_machine *m, const bn_plan *plan)
{
    const int even = 10 * idle(p, plan, plan->group) <= p->channels; /* the slowest has a tenth more at most */
    const int64_t least = min(LEAST_STRIP, strip(p, p->channels));
    if (m->reduction == BN_GROUPS || m->reduction == BN_SLABS) return m->reduction;
    if (even && p->count <= GROUPED_COUNT && strip(p, plan->group) >= least) return BN_GROUPS;
    return BN_SLABS;
}

/* Rows of all channels of a slab are read in the order of memory; enough slabs for every thread. */
static void cut_slabs(bn_plan *plan, const bn_problem *p)
{
    const int64_t most = ceil_div(p->channels, LEAST_SLAB_CHANNELS),
                  enough = ceil_div(FEW_SLABS * plan->threads, plan->blocks);
    const int64_t parts = max(ceil_div(p->channels, SLAB_CHANNELS), min(most, enough));
    plan->slab_channels = ceil_div(p->channels, parts);
    const int64_t longest = MOST_SLAB / (plan->slab_channels * BN_BLOCK);
    plan->slab_blocks = max(1, min(longest, plan->blocks * parts / (SLABS * plan->threads)));
}

/* How rows follow one another in a reduction that takes several channels at a time. */
static void order_rows(bn_plan *plan, const bn_problem *p)
{
    const int64_t channels = plan->reduction == BN_GROUPS ? plan->group : plan->slab_channels;
    const int joins = p->row < JOINED_ROW;
    plan->joined = joins ? JOINED : 0;
    plan->in_turn = p->row >= LONG_ROW ? 1 : joins ? min(channels, JOINED_CHANNELS) : channels;
}

/* ---- the elementwise pass ---------------------------------------------------------------------------------------- */

/* Rows too short for a vector each, and enough of them to repay a tile of coefficients. */
static enum bn_elementwise elementwise_of(const bn_problem *p, const bn_machine *m)
{
    const int possible = p->adjacent && p->row <= TILE_WIDTH;
    if (m->elementwise == BN_RUNS) return BN_RUNS;
    if (m->elementwise == BN_TILED_ROWS && possible) return BN_TILED_ROWS;
    return possible && p->row < SHORT_ROW && p->count / p->row >= FEW_ROWS ? BN_TILED_ROWS : BN_RUNS;
}

/* Rows of few channels, one after the other without gaps. */
static int is_flat(const bn_problem *p, const bn_machine *m, const bn_plan *plan)
{
    const int64_t period = p->channels * p->row;
    if (plan->reduction == BN_GROUPS || !bn_flat_is_possible(p, period)) return 0;
    if (m->elementwise != BN_ANY) return m->elementwise == BN_FLAT_ROWS;
    return (p->row < SHORT_ROW || (p->row < FLAT_ROW && period <= FLAT_PERIOD)) && p->count / p->row >= FEW_ROWS;
}

static void cut_runs(bn_plan *plan, const bn_problem *p)
{
    const int64_t share = p->channels * p->count / (PIECES * plan->threads) / BN_LANES * BN_LANES;
    plan->piece = max(LEAST_PIECE, min(MOST_PIECE, share));
    plan->run_group = min(p->channels, max(1, plan->piece / p->row));
    plan->row_pieces = plan->piece > p->row ? 1 : ceil_div(p->row, plan->piece);
}

static void cut_tiles(bn_plan *plan, const bn_problem *p)
{
    const int64_t tiles = ceil_div(p->channels, plan->group), rows = p->count / p->row;
    const int64_t enough = ceil_div(TILE_PARTS * plan->threads, tiles);
    const int64_t wanted = max(enough, p->count * plan->group / TILE_PART_ELEMENTS);
    plan->row_parts = max(1, min(rows, wanted));
    plan->prefetch = TILE_PREFETCH * p->out_step;
}

void bn_plan_cf(bn_plan *plan, const bn_problem *p, const bn_machine *m)
{
    if (writes(p)) plan->elementwise = elementwise_of(p, m);
    plan->group = group_of(p, m, plan);
    plan->tile_width = TILE_WIDTH + BN_PAD;
    if (reduces(p)) plan->reduction = reduction_of(p, m, plan);
    if (plan->reduction == BN_SLABS) cut_slabs(plan, p);
    if (reduces(p)) order_rows(plan, p);
    if (!writes(p)) return;
    if (plan->reduction == BN_GROUPS) { /* a group's elementwise pass is not cut */
        plan->prefetch = plan->stream && p->adjacent ? strip(p, plan->group) : 0;
        return;
    }
    if (is_flat(p, m, plan)) {
        plan->elementwise = BN_FLAT_ROWS;
        bn_plan_flat(plan, p, p->channels * p->row);
    }
    if (plan->elementwise == BN_RUNS) cut_runs(plan, p);
    if (plan->elementwise == BN_TILED_ROWS) cut_tiles(plan, p);
}
