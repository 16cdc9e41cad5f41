/* How a call is run: everything that speed asks for and results do not depend on. Pure: no arrays, no globals.
 *
 * A problem (shape, what its strides allow, passes, threads) and a machine give a plan: a strategy for the reduction and
 * one for the elementwise pass, each with a name, and the sizes of their pieces. The driver carries it out and decides
 * nothing.
 */
#ifndef BN_PLAN_H
#define BN_PLAN_H

#include <stdint.h>

#include "driver/view.h"

/* The passes of a call: one reduction, one elementwise pass, or the two that belong together. */
enum {
    BN_STATS = 1,      /* reduction: mean and M2 */
    BN_REDUCE = 2,     /* reduction: sum dy, sum dy * xhat */
    BN_NORMALISE = 4,  /* elementwise: y */
    BN_INPUT_GRAD = 8, /* elementwise: dx */
    BN_REDUCTIONS = BN_STATS | BN_REDUCE,
    BN_ELEMENTWISE = BN_NORMALISE | BN_INPUT_GRAD,
};

enum bn_reduction {
    BN_NO_REDUCTION,
    BN_GROUPS,  /* channels first: one thread does all of a group of channels, both passes, before its next group */
    BN_SLABS,   /* channels first: some blocks of many channels, read as they lie, are shared out, merged afterwards */
    BN_PANELS,  /* channels last: blocks of a panel of channels are shared out, and merged afterwards */
    BN_COLUMNS, /* channels last: one thread does all of a panel of channels, both passes, before its next panel */
    BN_NREDUCTION
};

enum bn_elementwise {
    BN_NO_ELEMENTWISE,
    BN_RUNS,       /* channels first: runs of adjacent elements with one coefficient each */
    BN_TILED_ROWS, /* channels first: short rows of several channels together, one coefficient for each column */
    BN_ROWS,       /* channels last: one coefficient for each column, row by row */
    BN_FLAT_ROWS,  /* gapless: memory cut into rows of its own length, wherever coefficients begin to repeat */
    BN_NELEMENTWISE
};

#define BN_ANY (-1) /* in place of a forced strategy: none is */

/* What a plan depends on besides the problem. Tests force what they want to see. */
typedef struct bn_machine {
    int64_t stream_bytes; /* outputs from here on are written past the caches */
    int64_t group_bytes;  /* of one operand: what stays in one thread's share of the last cache between two passes */
    int64_t grain;        /* elements for each thread that repay a parallel region */
    int reduction;        /* forced where the layout allows it; BN_ANY */
    int elementwise;
} bn_machine;

typedef struct bn_problem {
    int layout, passes, itemsize;
    int threads;  /* wanted */
    int reads;    /* arrays of x's size that each pass reads */
    int axes;     /* of the sequence, after collapsing */
    int in_place; /* the output is one of the inputs */
    int adjacent; /* channels first: rows of neighbouring channels follow one another, in every operand */
    int gapless;  /* memory is one row, in every operand (channels first: with at least two rows of all channels) */
    int64_t channels, count, row; /* row: length of the last axis of the sequence */
    int64_t out_step;             /* bytes from row to row of the output */
} bn_problem;

typedef struct bn_plan {
    enum bn_reduction reduction;
    enum bn_elementwise elementwise;
    int threads;
    int stream;      /* non-temporal stores */
    int backwards;   /* the elementwise pass ends where the reduction began: what was read last is still in cache */
    int from_memory; /* panels, columns: what the reduction reads is in no cache */
    int from_cache;  /* what the elementwise pass reads again is still in cache */
    int64_t blocks;  /* of BN_BLOCK elements, in a channel */
    int64_t group;   /* channels taken together: a group, a tile, a panel */
    int64_t in_turn; /* groups, slabs: channels whose rows are read one after the other, in the order of memory */
    int64_t joined;  /* groups, slabs: elements of short rows that are copied side by side; 0: read in place */
    int64_t slab_channels, slab_blocks; /* slabs: of one unit */
    int64_t piece;                      /* runs: elements of one unit of work */
    int64_t row_pieces;                 /* runs: units of a long row */
    int64_t run_group;                  /* runs: whole channels of one unit */
    int64_t row_parts;                  /* tiled rows: units that share the rows of a tile */
    int64_t chunk;                      /* rows: elements of the sequence taken at a time; flat rows: periods */
    int64_t flat;                       /* flat rows: positions of a row */
    int64_t period;                     /* flat rows: positions after which coefficients repeat */
    int64_t tile_width;                 /* columns of a coefficient tile */
    int64_t prefetch;                   /* bytes ahead that the elementwise pass asks for; of groups: the next one */
} bn_plan;

/* The facts of this machine. */
bn_machine bn_this_machine(void);

/* The problem that arrays pose; operands with strides take part. */
bn_problem bn_problem_of(const bn_shape *shape, int layout, const bn_operand *operands, const int64_t *const *strides,
                         int passes, int threads);

bn_plan bn_plan_of(const bn_problem *problem, const bn_machine *machine);

/* Bytes that the plan moves between memory and the caches, and the least possible: each array once. */
int64_t bn_bytes_moved(const bn_problem *problem, const bn_plan *plan);
int64_t bn_bytes_least(const bn_problem *problem);

const char *bn_reduction_name(int reduction);
const char *bn_elementwise_name(int elementwise);

#endif
