#include "c_api/request.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "driver/passes.h"
#include "driver/plan.h"
#include "formulas.h"

_Static_assert((int)BNKERN_IDENTITY == (int)BN_IDENTITY && (int)BNKERN_RELU == (int)BN_RELU &&
                   (int)BNKERN_RELU6 == (int)BN_RELU6 && (int)BNKERN_LEAKY_RELU == (int)BN_LEAKY_RELU &&
                   BN_NACTIVATION == 4,
               "bnkern.h numbers the activations as formulas.h does");
_Static_assert(offsetof(bnkern_call, sum_dy_xhat) - offsetof(bnkern_call, x) == (BN_NARG - 1) * sizeof(void *),
               "bnkern_call names its arrays in the order of BN_ARG_");

static const int MOST_THREADS = 512;

// clang-format off
static const char *const names[BN_NARG] = {
    "x", "dy", "residual", "y", "dx", "dresidual", "weight", "bias", "running_mean", "running_var", "mean", "var",
    "dweight", "dbias", "sum_dy", "sum_dy_xhat",
};

/* What each operation does with each array: r reads, R reads and requires, w writes, W writes and requires, u updates,
 * U updates and requires, X reads where a pass does. This is the table of bnkern.h. */
static const char uses[BN_NOPERATION][BN_NARG + 1] = {
    [BN_TRAIN]          = "R-rW--rruuww----",
    [BN_INFERENCE]      = "R-rW--rrRR------",
    [BN_STATISTICS]     = "R---------WW----",
    [BN_BACKWARD]       = "XR-rwwrr--RRww--",
    [BN_REDUCE_PART]    = "RR-r--rr--RR--WW",
    [BN_APPLY_PART]     = "XR-rWwrr--RR--RR",
    [BN_UPDATE_RUNNING] = "--------UURR----",
};
// clang-format on

static const char *called(const bn_request *r)
{
    static const char *const words[] = {"train", "inference", "stats", "backward", "reduce", "apply", "update_running"};
    return words[r->operation];
}

static inline int updates(const bn_request *r) { return (r->written >> BN_ARG_RUNNING_MEAN) & 1; }

/* ---- the call itself -------------------------------------------------------------------------------------------- */

/* A copy of the caller's struct, whose size says which header the caller knows. */
static int take(const bnkern_call *call, bn_request *r, const bn_words *words)
{
    if (!call) return bn_refuse(words, BNKERN_BAD_CALL, "call: expected a bnkern_call, got NULL");
    if (call->size < sizeof(bnkern_call))
        return bn_refuse(words, BNKERN_BAD_CALL, "size: expected sizeof(bnkern_call), at least %zu, got %" PRIu64,
                         sizeof(bnkern_call), call->size);
    if (call->size > (1 << 16))
        return bn_refuse(words, BNKERN_BAD_CALL, "size: expected sizeof(bnkern_call), got %" PRIu64, call->size);
    for (uint64_t k = sizeof(bnkern_call); k < call->size; k++)
        if (((const char *)call)[k])
            return bn_refuse(words, BNKERN_BAD_CALL,
                             "call: sets fields that this library, of an older header, has not");
    r->call = *call;
    return BNKERN_OK;
}

/* Which arrays take part, and whether all are there that must be. */
static int take_arrays(bn_request *r, const bn_words *words)
{
    const bnkern_tensor *const *given = &r->call.x;
    const char *use = uses[r->operation];
    for (int k = 0; k < BN_NARG; k++) {
        if (use[k] == '-') continue;
        if (!given[k] && strchr("RWU", use[k]))
            return bn_refuse(words, BNKERN_MISSING, "%s: expected an array, as %s needs it, got NULL", names[k],
                             called(r));
        if (!given[k]) continue;
        r->given |= 1u << k;
        if (strchr("wWuU", use[k])) r->written |= 1u << k;
    }
    if (bn_has(r, BN_ARG_RUNNING_MEAN) != bn_has(r, BN_ARG_RUNNING_VAR))
        return bn_refuse(words, BNKERN_MISSING,
                         "%s: expected an array (running_mean and running_var go together), got NULL",
                         bn_has(r, BN_ARG_RUNNING_MEAN) ? "running_var" : "running_mean");
    return BNKERN_OK;
}

/* The numbers of a call that need no array to be judged. */
static int check_numbers(bn_request *r, const bn_words *words)
{
    const bnkern_call *c = &r->call;
    const int active = r->operation != BN_STATISTICS && r->operation != BN_UPDATE_RUNNING;
    if (c->flags & ~(uint32_t)BNKERN_FROZEN)
        return bn_refuse(words, BNKERN_BAD_VALUE, "flags: expected 0 or BNKERN_FROZEN, got %" PRIu32, c->flags);
    if (c->threads < 0 || c->threads > MOST_THREADS)
        return bn_refuse(words, BNKERN_BAD_VALUE, "threads: expected 1 to %d, or 0, got %" PRId32, MOST_THREADS,
                         c->threads);
    if (active && !(isfinite(c->eps) && c->eps >= 0))
        return bn_refuse(words, BNKERN_BAD_VALUE, "eps: expected a finite number >= 0, got %g", c->eps);
    if (r->operation == BN_TRAIN && c->eps == 0)
        return bn_refuse(words, BNKERN_BAD_VALUE, "eps: expected a number > 0 in training, where a variance may be 0");
    if (active && (c->activation < 0 || c->activation >= BN_NACTIVATION))
        return bn_refuse(words, BNKERN_BAD_VALUE, "activation: expected one of enum bnkern_activation, got %" PRId32,
                         c->activation);
    r->activation = active ? c->activation : BN_IDENTITY;
    if (r->activation == BN_LEAKY_RELU) {
        if (c->slope == 0) r->activation = BN_RELU; /* to the bit: 0 * -inf is no number, and 0 * -1 is -0 */
        else if (!(c->slope >= FLT_MIN && c->slope <= FLT_MAX))
            return bn_refuse(words, BNKERN_BAD_VALUE, "slope: expected 0, or a number from %.3g to %.3g, got %g",
                             (double)FLT_MIN, (double)FLT_MAX, c->slope);
    }
    if (updates(r)) {
        if (!isfinite(c->momentum))
            return bn_refuse(words, BNKERN_BAD_VALUE, "momentum: expected a finite number, got %g", c->momentum);
        if (!(isfinite(c->correction) && c->correction >= 0))
            return bn_refuse(words, BNKERN_BAD_VALUE, "correction: expected a finite number >= 0, got %g",
                             c->correction);
    }
    return BNKERN_OK;
}

/* Passes, and what follows from which gradients are wanted. */
static int settle_passes(bn_request *r, const bn_words *words)
{
    switch (r->operation) {
    case BN_TRAIN: r->passes = BN_STATS | BN_NORMALISE; break;
    case BN_INFERENCE: r->passes = BN_NORMALISE; break;
    case BN_STATISTICS: r->passes = BN_STATS; break;
    case BN_REDUCE_PART: r->passes = BN_REDUCE; break;
    case BN_APPLY_PART: r->passes = BN_INPUT_GRAD; break;
    case BN_BACKWARD: {
        const int sums = bn_has(r, BN_ARG_DWEIGHT) || bn_has(r, BN_ARG_DBIAS);
        if (!sums && !bn_has(r, BN_ARG_DX) && !bn_has(r, BN_ARG_DRESIDUAL))
            return bn_refuse(words, BNKERN_MISSING,
                             "dx: expected an array for dx, dresidual, dweight or dbias: there is nothing to compute");
        r->passes = bn_backward_passes(bn_has(r, BN_ARG_DX), bn_has(r, BN_ARG_DRESIDUAL), sums,
                                       (r->call.flags & BNKERN_FROZEN) != 0, r->activation != BN_IDENTITY, &r->frozen);
        break;
    }
    default: return BNKERN_OK;
    }
    if (!bn_has(r, BN_ARG_DY)) return BNKERN_OK;
    if (r->activation == BN_IDENTITY) r->given &= ~(1u << BN_ARG_Y); /* no pass looks at it */
    if (bn_has(r, BN_ARG_DRESIDUAL) && r->activation != BN_IDENTITY && !bn_has(r, BN_ARG_Y))
        return bn_refuse(words, BNKERN_MISSING, "y: expected the forward's y, whose sign dresidual needs, got NULL");
    if (!bn_has(r, BN_ARG_X) && bn_reads_x(r->passes, r->frozen, r->activation, bn_has(r, BN_ARG_Y)))
        return bn_refuse(words, BNKERN_MISSING, "x: expected an array, as %s needs it here, got NULL", called(r));
    return BNKERN_OK;
}

int bn_takes_part(const bn_request *r, int arg)
{
    if (!bn_has(r, arg)) return 0;
    if (arg == BN_ARG_X && !(r->passes & (BN_STATS | BN_NORMALISE)))
        return bn_reads_x(r->passes, r->frozen, r->activation, bn_has(r, BN_ARG_Y));
    if (arg == BN_ARG_DX || arg == BN_ARG_DRESIDUAL)
        return (r->passes & BN_INPUT_GRAD) && (arg == BN_ARG_DX || r->activation != BN_IDENTITY);
    return 1;
}

/* ---- its arrays ------------------------------------------------------------------------------------------------- */

static int same_shape(const bn_tensor *a, const bn_tensor *b)
{
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, a->ndim * sizeof(*a->shape)) == 0;
}

/* Shape and dtype of the arrays like x; channels, count. */
static int check_like_x(bn_request *r, const bn_words *words)
{
    const bn_tensor *first = bn_first(r);
    const int axis = r->call.axis;
    if (r->operation == BN_UPDATE_RUNNING) return BNKERN_OK; /* there is none */
    if (first->ndim < 2)
        return bn_refuse(words, BNKERN_BAD_SHAPE, "%s: expected at least 2 axes (batch and channels), got %d",
                         first->name, first->ndim);
    if (axis < -first->ndim || axis >= first->ndim)
        return bn_refuse(words, BNKERN_BAD_VALUE, "axis: expected %d to %d, an axis of %s, got %d", -first->ndim,
                         first->ndim - 1, first->name, axis);
    r->axis = axis < 0 ? axis + first->ndim : axis;
    r->channels = first->shape[r->axis];
    r->size = first->size;
    r->count = r->size ? r->size / r->channels : 0;
    for (int k = 0; k < BN_NLIKE; k++) {
        if (!bn_has(r, k)) continue;
        if (r->arg[k].type != first->type)
            return bn_refuse(words, BNKERN_BAD_DTYPE, "%s: expected %s, as %s has, got %s", names[k],
                             bn_type_name(first->type), first->name, bn_type_name(r->arg[k].type));
        if (!same_shape(&r->arg[k], first))
            return bn_refuse(words, BNKERN_BAD_SHAPE, "%s: expected the shape of %s, got another one", names[k],
                             first->name);
    }
    return BNKERN_OK;
}

static int check_vectors(bn_request *r, const bn_words *words)
{
    const int alone = r->operation == BN_UPDATE_RUNNING;
    const int also = alone ? -1 : bn_first(r)->type;
    if (alone) r->channels = r->arg[BN_ARG_MEAN].ndim ? r->arg[BN_ARG_MEAN].shape[0] : 0;
    for (int k = BN_NLIKE; k < BN_NARG; k++) {
        const bn_tensor *v = &r->arg[k];
        if (!bn_has(r, k)) continue;
        if (v->ndim != 1)
            return bn_refuse(words, BNKERN_BAD_SHAPE, "%s: expected one axis, of the channels, got %d", names[k],
                             v->ndim);
        if (v->shape[0] != r->channels)
            return bn_refuse(words, BNKERN_BAD_SHAPE,
                             "%s: expected %" PRId64 " numbers, one for each channel, got %" PRId64, names[k],
                             r->channels, v->shape[0]);
        if (!alone && v->type != BN_F32 && v->type != BN_F64 && v->type != also)
            return bn_refuse(words, BNKERN_BAD_DTYPE, "%s: expected float32, float64 or x's dtype, got %s", names[k],
                             bn_type_name(v->type));
    }
    return BNKERN_OK;
}

/* What may be judged once the shape is known. */
static int check_counts(bn_request *r, const bn_words *words)
{
    const bnkern_call *c = &r->call;
    const int64_t count = r->operation == BN_UPDATE_RUNNING ? c->count : r->count;
    if (r->operation == BN_TRAIN && count == 1)
        return bn_refuse(words, BNKERN_BAD_SHAPE,
                         "x: expected more than one value per channel in training, where a single one has variance 0");
    if (r->operation == BN_APPLY_PART && c->count < r->count)
        return bn_refuse(words, BNKERN_BAD_VALUE,
                         "count: expected at least %" PRId64 ", the values per channel of this part, got %" PRId64,
                         r->count, c->count);
    if (count < 0) return bn_refuse(words, BNKERN_BAD_VALUE, "count: expected a number >= 0, got %" PRId64, count);
    if (updates(r) && count && c->correction >= (double)count)
        return bn_refuse(words, BNKERN_BAD_VALUE, "correction: expected a number below the count, %" PRId64 ", got %g",
                         count, c->correction);
    return BNKERN_OK;
}

/* May `written` lie exactly where `other` does? */
static int in_place(const bn_request *r, int written, int other)
{
    if (written == BN_ARG_Y) return other == BN_ARG_X || other == BN_ARG_RESIDUAL;
    if (written == BN_ARG_DX) {
        if (other == BN_ARG_DY && r->activation == BN_IDENTITY && bn_has(r, BN_ARG_DRESIDUAL))
            return 0; /* dy is to be copied to dresidual */
        return other == BN_ARG_DY || other == BN_ARG_X || other == BN_ARG_Y;
    }
    return written == BN_ARG_DRESIDUAL && other == BN_ARG_DY && r->activation == BN_IDENTITY;
}

/* Written memory: a place for each element, apart from all else. */
static int check_memory(bn_request *r, const bn_words *words)
{
    for (int k = 0; k < BN_NARG; k++) {
        if (!((r->written >> k) & 1)) continue;
        if (bn_tensor_folded(&r->arg[k]))
            return bn_refuse(words, BNKERN_BAD_STRIDES, "%s: expected one place in memory per element (a broadcast?)",
                             names[k]);
        for (int other = 0; other < BN_NARG; other++) {
            if (other == k || !bn_has(r, other)) continue;
            if (in_place(r, k, other) && bn_tensor_same(&r->arg[k], &r->arg[other])) continue;
            if (bn_tensor_shares(&r->arg[k], &r->arg[other]))
                return bn_refuse(words, BNKERN_OVERLAP, "%s: expected %s, got an overlap with %s", names[k],
                                 in_place(r, k, other) ? "memory apart, or exactly the same" : "memory of its own",
                                 names[other]);
        }
    }
    return BNKERN_OK;
}

/* Each array by itself. */
static int take_tensors(bn_request *r, const bn_words *words)
{
    const bnkern_tensor *const *given = &r->call.x;
    for (int k = 0; k < BN_NARG; k++) {
        r->arg[k].name = names[k];
        r->arg[k].data = NULL;
        if (bn_has(r, k)) {
            const int status = bn_tensor_of(given[k], &r->arg[k], words);
            if (status != BNKERN_OK) return status;
        }
    }
    return BNKERN_OK;
}

int bn_request_of(bn_operation operation, const bnkern_call *call, bn_request *r, const bn_words *words)
{
    static int (*const steps[])(bn_request *, const bn_words *) = {
        take_arrays,  check_numbers, settle_passes, take_tensors,
        check_like_x, check_vectors, check_counts,  check_memory,
    };
    int status = take(call, r, words);
    r->operation = operation;
    r->passes = r->frozen = r->axis = 0;
    r->channels = r->count = r->size = 0;
    r->given = r->written = 0;
    r->copies = NULL;
    for (size_t k = 0; k < sizeof(steps) / sizeof(*steps) && status == BNKERN_OK; k++) status = steps[k](r, words);
    return status;
}
