#include "driver/plan.h"

#include <string.h>

#include "kernels/kernels.h"
#include "platform/cache.h"

#define GRAIN (1 << 14)         /* elements for each thread that repay a parallel region */
#define WINDOW_BYTES (8 << 20)  /* of one operand */
#define GROUPS_IN_CACHE 4       /* groups of all threads, and what else the cache holds, beside one of them */
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
#define PIECES 8                     /* for each thread, so that one that is late holds up little */
#define GAPPED_PANEL 128             /* channels where rows may have to be copied: a thread's copies stay in L2 */
#define LEAST_PANEL 64               /* channels */
#define PANEL_STEP 16                /* panels begin on a vector of every level */
#define CHUNK_BYTES (1 << 17)        /* of one operand, in a unit of rows */
#define STREAM_CHUNK_BYTES (1 << 20) /* backwards chunk by chunk: the fewer, the longer memory is read in order */
#define LEAST_CHUNK 8                /* rows of one unit, at least */
#define FLAT_WIDTH 256               /* positions of a flat row, at least */
#define SHORT_FLAT 512               /* positions of a row whose coefficients are soon repeated */
#define MOST_FLAT (1 << 14)          /* at most: its coefficients would leave L2 */
#define FLAT_CHUNK 32                /* flat rows of one unit, at least */
#define COLUMNS_PANEL 256    /* channels of a panel that one thread does alone: its coefficients and sums stay in L1 */
#define LEAST_COLUMNS 512    /* bytes of a row in each thread, where its columns are its own */
#define CACHE_LINE 64        /* a row of a panel that shares one with its neighbour is better not streamed */
#define UNEVEN_BLOCKS 8      /* for each thread: with more, one more or less makes no difference */
#define FEW_ELEMENTS 512     /* of a channel: both passes over a panel find it in L2 */
#define ROWS_AHEAD (1 << 12) /* bytes that whole rows ahead amount to, at least */

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bn_machine bn_this_machine(void)
{
    const int64_t stream = bn_cache_half();
    return (bn_machine){.stream_bytes = stream,
                        .group_bytes = stream / GROUPS_IN_CACHE,
                        .window_bytes = WINDOW_BYTES,
                        .grain = GRAIN,
                        .reduction = BN_ANY,
                        .elementwise = BN_ANY};
}

/* ---- the problem ------------------------------------------------------------------------------------------------ */

static int out_is_an_input(const bn_operand *operands)
{
    const char *out = operands[BN_OPERAND_OUT].data;
    for (int k = 0; out && k < BN_OPERAND_OUT; k++)
        if (operands[k].data == out) return 1;
    return 0;
}

bn_problem bn_problem_of(const bn_shape *shape, int layout, const bn_operand *operands, const int64_t *const *strides,
                         int passes, int threads)
{
    bn_problem p = {.layout = layout,
                    .passes = passes,
                    .itemsize = shape->itemsize,
                    .threads = threads,
                    .axes = shape->nd,
                    .in_place = out_is_an_input(operands),
                    .adjacent = 1,
                    .gapless = shape->nd == 1,
                    .channels = shape->channels,
                    .count = shape->count,
                    .row = shape->size[shape->nd - 1],
                    .out_step = operands[BN_OPERAND_OUT].stride[0]};
    for (int k = 0; k < BN_NOPERAND; k++) {
        if (!strides[k]) continue;
        p.reads += k == BN_OPERAND_X || k == BN_OPERAND_DY;
        p.adjacent &= operands[k].cstride == p.row * p.itemsize;
        p.gapless &= operands[k].stride[0] == p.channels * p.itemsize;
    }
    return p;
}

static int reduces(const bn_problem *p) { return (p->passes & BN_REDUCTIONS) != 0; }
static int writes(const bn_problem *p) { return (p->passes & BN_ELEMENTWISE) != 0; }
static int64_t bytes_of(const bn_problem *p, int64_t channels) { return channels * p->count * p->itemsize; }

/* ---- channels first --------------------------------------------------------------------------------------------- */

/* Rows too short for a vector each, and enough of them to repay a tile of coefficients. */
static enum bn_elementwise elementwise_cf(const bn_problem *p, const bn_machine *m)
{
    const int possible = p->adjacent && p->row <= TILE_WIDTH;
    if (m->elementwise == BN_RUNS) return BN_RUNS;
    if (m->elementwise == BN_TILED_ROWS && possible) return BN_TILED_ROWS;
    return possible && p->row < SHORT_ROW && p->count / p->row >= FEW_ROWS ? BN_TILED_ROWS : BN_RUNS;
}

/* Groups where they can be shared out evenly; else blocks, which are many. */
static enum bn_reduction reduction_cf(const bn_problem *p, const bn_machine *m, const bn_plan *plan)
{
    const int possible = p->row >= BN_LANES; /* a run ends with its row, and a kernel reads so far back from its end */
    const int64_t in_each_thread = ceil_div(ceil_div(p->channels, plan->group), plan->threads) * plan->group;
    const int even = 10 * in_each_thread * plan->threads <= 11 * p->channels; /* the slowest has a tenth more at most */
    if (m->reduction == BN_BLOCKS) return BN_BLOCKS;
    if (m->reduction == BN_GROUPS && possible) return BN_GROUPS;
    return possible && even && p->count <= GROUPED_COUNT ? BN_GROUPS : BN_BLOCKS;
}

/* As many groups for every thread, each small enough to be found in cache by the elementwise pass. */
static int64_t group_cf(const bn_problem *p, const bn_machine *m, const bn_plan *plan)
{
    const int64_t most = reduces(p) && writes(p) ? m->group_bytes / bytes_of(p, 1) : SUMMED_GROUP;
    int64_t group = max(1, min(p->channels, most)), groups;
    if (plan->elementwise == BN_TILED_ROWS) group = min(group, max(1, TILE_WIDTH / p->row));
    groups = ceil_div(ceil_div(p->channels, group), plan->threads) * plan->threads;
    return ceil_div(p->channels, groups);
}

static void cut_runs(bn_plan *plan, const bn_problem *p, int64_t channels)
{
    const int64_t share = channels * p->count / (PIECES * plan->threads) / BN_LANES * BN_LANES;
    plan->piece = max(LEAST_PIECE, min(MOST_PIECE, share));
    plan->run_group = min(channels, max(1, plan->piece / p->row));
    plan->row_pieces = plan->piece > p->row ? 1 : ceil_div(p->row, plan->piece);
}

static void cut_tiles(bn_plan *plan, const bn_problem *p, int64_t channels)
{
    const int64_t tiles = ceil_div(channels, plan->group), rows = p->count / p->row;
    const int64_t enough = ceil_div(TILE_PARTS * plan->threads, tiles);
    const int64_t wanted = max(enough, p->count * plan->group / TILE_PART_ELEMENTS);
    plan->row_parts = max(1, min(rows, wanted));
    plan->prefetch = TILE_PREFETCH * p->out_step;
}

static void plan_cf(bn_plan *plan, const bn_problem *p, const bn_machine *m)
{
    if (writes(p)) plan->elementwise = elementwise_cf(p, m);
    plan->group = group_cf(p, m, plan);
    plan->in_turn = p->row >= LONG_ROW ? 1 : plan->group;
    plan->tile_width = TILE_WIDTH + BN_PAD;
    if (reduces(p)) plan->reduction = reduction_cf(p, m, plan);
    if (plan->reduction == BN_BLOCKS && writes(p))
        plan->window = min(p->channels, max(plan->group, m->window_bytes / bytes_of(p, 1) / plan->group * plan->group));
    if (plan->reduction == BN_GROUPS) return; /* a group's elementwise pass is not cut */
    if (plan->elementwise == BN_RUNS) cut_runs(plan, p, plan->window);
    if (plan->elementwise == BN_TILED_ROWS) cut_tiles(plan, p, plan->window);
}

/* ---- channels last ---------------------------------------------------------------------------------------------- */

/* The least width that is whole rows of channels and whole vectors. */
static int64_t flat_step(int64_t channels)
{
    int64_t common = 1;
    while (common < BN_LANES && channels % (2 * common) == 0) common *= 2;
    return channels * BN_LANES / common;
}

/* Flat rows where stores are streamed, because they begin with a cache line; in caches only where channels are few and
 * the table of coefficients soon filled. */
static enum bn_elementwise elementwise_cl(const bn_problem *p, const bn_machine *m, const bn_plan *plan)
{
    const int64_t step = flat_step(p->channels);
    const int possible = p->gapless && step <= MOST_FLAT, pays = p->channels < FLAT_WIDTH && step <= SHORT_FLAT;
    if (m->elementwise == BN_ROWS || !possible) return BN_ROWS;
    return m->elementwise == BN_FLAT_ROWS || plan->stream || pays ? BN_FLAT_ROWS : BN_ROWS;
}

/* Columns of one panel where each thread does its own columns alone; 0 where the threads' shares would be uneven or
 * too narrow. */
static int64_t panel_of_columns(const bn_problem *p, const bn_plan *plan)
{
    const int64_t share = ceil_div(ceil_div(p->channels, plan->threads), PANEL_STEP) * PANEL_STEP;
    const int64_t panel = ceil_div(ceil_div(share, ceil_div(share, COLUMNS_PANEL)), PANEL_STEP) * PANEL_STEP;
    const int64_t in_each_thread = ceil_div(ceil_div(p->channels, panel), plan->threads) * panel;
    const int even = 10 * in_each_thread * plan->threads <= 11 * p->channels;
    return even && share * p->itemsize >= LEAST_COLUMNS ? panel : 0;
}

/* Columns where a panel stays in the caches of its thread, which then waits for no other. With more rows the elementwise
 * pass gains more from rows in the order of memory. */
static enum bn_reduction reduction_cl(const bn_problem *p, const bn_machine *m, const bn_plan *plan)
{
    if (m->reduction == BN_PANELS || m->reduction == BN_COLUMNS) return m->reduction;
    const int whole_lines = !plan->stream || (p->axes == 1 && p->out_step % CACHE_LINE == 0);
    return p->count <= FEW_ELEMENTS && whole_lines && panel_of_columns(p, plan) ? BN_COLUMNS : BN_PANELS;
}

/* Whole rows, in the order of memory, unless that leaves threads idle or, in caches, gives some a block more. */
static int64_t panel(const bn_problem *p, const bn_plan *plan)
{
    const int64_t widest = p->axes == 1 ? BN_GROUP : GAPPED_PANEL;
    const int64_t columns = panel_of_columns(p, plan);
    if (columns && !plan->from_memory && p->axes == 1 && plan->blocks < UNEVEN_BLOCKS * plan->threads) return columns;
    int64_t panels = min(ceil_div(2 * plan->threads, plan->blocks), ceil_div(p->channels, LEAST_PANEL));
    panels = max(panels, ceil_div(p->channels, widest));
    return panels > 1 ? ceil_div(ceil_div(p->channels, panels), PANEL_STEP) * PANEL_STEP : p->channels;
}

static void plan_cl(bn_plan *plan, const bn_problem *p, const bn_machine *m)
{
    int64_t row = p->channels * p->itemsize;
    plan->from_memory = reduces(p) && p->reads * bytes_of(p, p->channels) > m->stream_bytes;
    plan->group = panel(p, plan);
    if (reduces(p)) plan->reduction = reduction_cl(p, m, plan);
    if (plan->reduction == BN_COLUMNS) {
        plan->group = panel_of_columns(p, plan);
        if (!plan->group) plan->group = min(p->channels, COLUMNS_PANEL);
        row = plan->group * p->itemsize;
    }
    if (!writes(p)) return;
    plan->elementwise = plan->reduction == BN_COLUMNS ? BN_ROWS : elementwise_cl(p, m, plan);
    plan->chunk = max(LEAST_CHUNK, (plan->stream ? STREAM_CHUNK_BYTES : CHUNK_BYTES) / row);
    if (plan->elementwise == BN_FLAT_ROWS) {
        const int64_t step = flat_step(p->channels);
        plan->flat = step * ceil_div(min(FLAT_WIDTH, p->channels * p->count), step);
        plan->tile_width = plan->flat + p->channels + BN_PAD; /* rows may begin at any channel */
        plan->chunk = max(plan->chunk, min(FLAT_CHUNK * plan->flat / p->channels, ceil_div(p->count, plan->threads)));
        row = plan->flat * p->itemsize;
    }
    if (plan->stream) plan->prefetch = row * ceil_div(ROWS_AHEAD, row);
}

/* ---- the plan --------------------------------------------------------------------------------------------------- */

static int streams(const bn_problem *p, const bn_machine *m)
{
    const int64_t from = p->layout == BN_CHANNELS_FIRST ? m->stream_bytes : m->stream_bytes / 2;
    return writes(p) && !p->in_place && bytes_of(p, p->channels) >= from;
}

bn_plan bn_plan_of(const bn_problem *p, const bn_machine *m)
{
    bn_plan plan;
    memset(&plan, 0, sizeof plan);
    plan.threads = (int)max(1, min(p->threads, p->channels * p->count / max(1, m->grain)));
    plan.blocks = ceil_div(p->count, BN_BLOCK);
    plan.window = p->channels;
    plan.group = 1;
    plan.stream = streams(p, m);
    plan.backwards = reduces(p) && writes(p);
    if (p->channels * p->count == 0) return plan;
    if (p->layout == BN_CHANNELS_LAST) plan_cl(&plan, p, m);
    else plan_cf(&plan, p, m);
    if (reduces(p) && writes(p)) {
        const int64_t kept = plan.reduction == BN_GROUPS || plan.reduction == BN_COLUMNS ? plan.group : plan.window;
        plan.from_cache = p->reads * bytes_of(p, kept) <= m->stream_bytes;
    }
    return plan;
}

int64_t bn_bytes_moved(const bn_problem *p, const bn_plan *plan)
{
    const int again = reduces(p) && writes(p) && !plan->from_cache;
    return bytes_of(p, p->channels) * (p->reads * (1 + again) + writes(p));
}

int64_t bn_bytes_least(const bn_problem *p) { return bytes_of(p, p->channels) * (p->reads + writes(p)); }

const char *bn_reduction_name(int reduction)
{
    static const char *const names[BN_NREDUCTION] = {"", "groups", "blocks", "panels", "columns"};
    return names[reduction];
}

const char *bn_elementwise_name(int elementwise)
{
    static const char *const names[BN_NELEMENTWISE] = {"", "runs", "tiled rows", "rows", "flat rows"};
    return names[elementwise];
}
