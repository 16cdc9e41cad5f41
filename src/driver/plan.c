#include "driver/plan.h"

#include <string.h>

#include "driver/plan_parts.h"
#include "platform/cache.h"

#define GRAIN (1 << 14)              /* elements for each thread that repay a parallel region */
#define GROUPS_IN_CACHE 4            /* groups of all threads, and what else the cache holds, beside one of them */
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

bn_machine bn_this_machine(void)
{
    const int64_t stream = bn_cache_half();
    return (bn_machine){.stream_bytes = stream,
                        .group_bytes = stream / GROUPS_IN_CACHE,
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
                    .gapless = shape->nd == (layout == BN_CHANNELS_LAST ? 1 : 2),
                    .channels = shape->channels,
                    .count = shape->count,
                    .row = shape->size[shape->nd - 1],
                    .out_step = operands[BN_OPERAND_OUT].stride[0]};
    for (int k = 0; k < BN_NOPERAND; k++) {
        if (!strides[k]) continue;
        p.reads += k == BN_OPERAND_X || k == BN_OPERAND_DY;
        p.adjacent &= operands[k].cstride == p.row * p.itemsize;
        p.gapless &= operands[k].stride[0] == p.channels * (layout == BN_CHANNELS_LAST ? 1 : p.row) * p.itemsize;
    }
    if (layout == BN_CHANNELS_FIRST) p.gapless &= p.adjacent;
    return p;
}

/* ---- channels last ---------------------------------------------------------------------------------------------- */

/* Rows of so many bytes that are taken at a time. */
static int64_t chunk_of(const bn_plan *plan, int64_t row)
{
    return max(LEAST_CHUNK, (plan->stream ? STREAM_CHUNK_BYTES : CHUNK_BYTES) / row);
}

/* Bytes that streamed rows are fetched ahead: whole rows. */
static int64_t rows_ahead(const bn_plan *plan, int64_t row)
{
    return plan->stream ? row * ceil_div(ROWS_AHEAD, row) : 0;
}

/* The least width that is whole periods and whole vectors. */
static int64_t flat_step(int64_t period)
{
    int64_t common = 1;
    while (common < BN_LANES && period % (2 * common) == 0) common *= 2;
    return period * BN_LANES / common;
}

int bn_flat_is_possible(const bn_problem *p, int64_t period) { return p->gapless && flat_step(period) <= MOST_FLAT; }

void bn_plan_flat(bn_plan *plan, const bn_problem *p, int64_t period)
{
    const int64_t step = flat_step(period), positions = p->channels * p->count, periods = positions / period;
    plan->period = period;
    plan->flat = step * ceil_div(min(FLAT_WIDTH, positions), step);
    plan->tile_width = plan->flat + period + BN_PAD; /* rows may begin anywhere in a period */
    plan->chunk = max(chunk_of(plan, period * p->itemsize),
                      min(FLAT_CHUNK * plan->flat / period, ceil_div(periods, plan->threads)));
    plan->prefetch = rows_ahead(plan, plan->flat * p->itemsize);
}

/* Flat rows where stores are streamed, because they begin with a cache line; in caches only where channels are few and
 * the table of coefficients soon filled. */
static enum bn_elementwise elementwise_cl(const bn_problem *p, const bn_machine *m, const bn_plan *plan)
{
    const int pays = p->channels < FLAT_WIDTH && flat_step(p->channels) <= SHORT_FLAT;
    if (m->elementwise == BN_ROWS || !bn_flat_is_possible(p, p->channels)) return BN_ROWS;
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
    plan->chunk = chunk_of(plan, row);
    plan->prefetch = rows_ahead(plan, row);
    if (plan->elementwise == BN_FLAT_ROWS) bn_plan_flat(plan, p, p->channels);
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
    plan.group = 1;
    plan.stream = streams(p, m);
    plan.backwards = reduces(p) && writes(p);
    if (p->channels * p->count == 0) return plan;
    if (p->layout == BN_CHANNELS_LAST) plan_cl(&plan, p, m);
    else bn_plan_cf(&plan, p, m);
    if (reduces(p) && writes(p)) {
        const int whole = plan.reduction == BN_GROUPS || plan.reduction == BN_COLUMNS;
        const int64_t kept = whole ? plan.group : p->channels;
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
    static const char *const names[BN_NREDUCTION] = {"", "groups", "slabs", "panels", "columns"};
    return names[reduction];
}

const char *bn_elementwise_name(int elementwise)
{
    static const char *const names[BN_NELEMENTWISE] = {"", "runs", "tiled rows", "rows", "flat rows"};
    return names[elementwise];
}
