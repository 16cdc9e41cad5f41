/* What the parts of the plan share: plan.c (problem, machine, channels last) and plan_cf.c (channels first). */
#ifndef BN_PLAN_PARTS_H
#define BN_PLAN_PARTS_H

#include "driver/plan.h"
#include "kernels/kernels.h"

static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static inline int reduces(const bn_problem *p) { return (p->passes & BN_REDUCTIONS) != 0; }
static inline int writes(const bn_problem *p) { return (p->passes & BN_ELEMENTWISE) != 0; }
static inline int64_t bytes_of(const bn_problem *p, int64_t channels) { return channels * p->count * p->itemsize; }

/* Can gapless memory be cut into flat rows, where coefficients repeat after `period` positions? */
int bn_flat_is_possible(const bn_problem *p, int64_t period);

/* The sizes of flat rows and of their units. */
void bn_plan_flat(bn_plan *plan, const bn_problem *p, int64_t period);

void bn_plan_cf(bn_plan *plan, const bn_problem *p, const bn_machine *m);

#endif
