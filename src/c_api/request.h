/* A compiled caller's call, checked: which passes run, on which arrays. No Python, no driver. */
#ifndef BN_REQUEST_H
#define BN_REQUEST_H

#include "c_api/tensor.h"

typedef enum bn_operation {
    BN_TRAIN,
    BN_INFERENCE,
    BN_STATISTICS,
    BN_BACKWARD,
    BN_REDUCE_PART,
    BN_APPLY_PART,
    BN_UPDATE_RUNNING,
    BN_NOPERATION
} bn_operation;

/* The arrays of a call, in the order of bnkern_call: first those like x. */
enum {
    BN_ARG_X,
    BN_ARG_DY,
    BN_ARG_RESIDUAL,
    BN_ARG_Y,
    BN_ARG_DX,
    BN_ARG_DRESIDUAL,
    BN_NLIKE,
    BN_ARG_WEIGHT = BN_NLIKE,
    BN_ARG_BIAS,
    BN_ARG_RUNNING_MEAN,
    BN_ARG_RUNNING_VAR,
    BN_ARG_MEAN,
    BN_ARG_VAR,
    BN_ARG_DWEIGHT,
    BN_ARG_DBIAS,
    BN_ARG_SUM_DY,
    BN_ARG_SUM_DY_XHAT,
    BN_NARG
};

typedef struct bn_request {
    bnkern_call call;
    bn_operation operation;
    int passes, frozen;            /* as the driver takes them */
    int axis, activation;          /* not negative; a slope of 0 is RELU */
    int64_t channels, count, size; /* count: values for each channel of this part */
    uint32_t given, written;       /* bits by BN_ARG_: is there and read or written; is written */
    bn_tensor arg[BN_NARG];
    void *copies; /* memory of arrays that no kernel could walk as they lay */
} bn_request;

/* Fills the request; a status. Nothing is written but words. */
int bn_request_of(bn_operation operation, const bnkern_call *call, bn_request *request, const bn_words *words);

static inline int bn_has(const bn_request *r, int arg) { return (r->given >> arg) & 1; }

/* The array that has x's shape and dtype in this call: x, or dy where x is not given. */
static inline const bn_tensor *bn_first(const bn_request *r)
{
    return &r->arg[bn_has(r, BN_ARG_X) ? BN_ARG_X : BN_ARG_DY];
}

/* Does a pass read or write this array like x? One that none does has a shape to check, or is copied. */
int bn_takes_part(const bn_request *r, int arg);

/* dx is not wanted where dresidual is, but the pass writes it: a place for it, in dresidual's memory order. */
int bn_request_spare_dx(bn_request *r);

/* Puts all arrays like x into C order, in memory of the request's own. 0: no memory. */
int bn_request_conform(bn_request *r, bn_tensor *originals);

/* After that: brings what was written to where the caller wants it. */
void bn_request_deliver(const bn_request *r, const bn_tensor *originals);

void bn_request_free(bn_request *r);

#endif
