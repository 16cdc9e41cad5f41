#include "driver/plan.h"

#include <string.h>

#include "driver/plan_parts.h"
#include "platform/cache.h"

#define GRAIN (1 << 14)       /* elements for each thread that repay a parallel region */
#define GROUPS_IN_CACHE 4     /* groups of all threads, and what else the cache holds, beside one of them */
#define GAPPED_PANEL 128      /* channels where rows may have to be copied: a thread's copies stay in L2 */
#define LEAST_PANEL 64        /* channels */
#define PANEL_STEP 16         /* panels begin on a vector of every level */
#define CHUNK_BYTES (1 << 17) /* of one operand, in a unit of rows */
#define LEAST_CHUNK 8         /* rows that a kernel takes together */
#define FLAT_WIDTH 256        /* positions of a flat row, at least */
#define MOST_FLAT (1 << 14)   /* at most: its coefficients would leave L2 */
#define FLAT_CHUNK 32         /* flat rows of one unit, so that enough are taken together */
#define FLAT_PREFETCH 8       /* flat rows ahead */

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
    plan->chunk = max(LEAST_CHUNK, CHUNK_BYTES / (period * p->itemsize));
    plan->chunk = max(plan->chunk, min(FLAT_CHUNK * plan->flat / period, ceil_div(periods, plan->threads)));
    plan->prefetch = plan->stream ? FLAT_PREFETCH * plan->flat * p->itemsize : 0;
}

static enum bn_elementwise elementwise_cl(const bn_problem *p, const bn_machine *m)
{
    return m->elementwise != BN_ROWS && bn_flat_is_possible(p, p->channels) ? BN_FLAT_ROWS : BN_ROWS;
}

/* Whole rows, in the order of memory, unless that leaves threads idle. */
static int64_t panel(const bn_problem *p, const bn_plan *plan)
{
    const int64_t widest = p->axes == 1 ? BN_GROUP : GAPPED_PANEL;
    int64_t panels = min(ceil_div(2 * plan->threads, plan->blocks), ceil_div(p->channels, LEAST_PANEL));
    panels = max(panels, ceil_div(p->channels, widest));
    return panels > 1 ? ceil_div(ceil_div(p->channels, panels), PANEL_STEP) * PANEL_STEP : p->channels;
}

static void plan_cl(bn_plan *plan, const bn_problem *p, const bn_machine *m)
{
    plan->group = panel(p, plan);
    if (reduces(p)) plan->reduction = BN_PANELS;
    if (!writes(p)) return;
    plan->elementwise = elementwise_cl(p, m);
    plan->chunk = max(LEAST_CHUNK, CHUNK_BYTES / (p->channels * p->itemsize));
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
        const int64_t kept = plan.reduction == BN_GROUPS ? plan.group : p->channels;
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
    static const char *const names[BN_NREDUCTION] = {"", "groups", "slabs", "panels"};
    return names[reduction];
}

const char *bn_elementwise_name(int elementwise)
{
    static const char *const names[BN_NELEMENTWISE] = {"", "runs", "tiled rows", "rows", "flat rows"};
    return names[elementwise];
}
