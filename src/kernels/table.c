/* The table of this (storage type, level). */
#include "../simd/storage.h"

#include "kernels.h"

void BN_NAME(moments_begin)(bn_sums *, const void *, int64_t);
void BN_NAME(moments_add)(bn_sums *, const bn_run *);
int BN_NAME(moments_end)(bn_sums *, int64_t, double *, double *);
void BN_NAME(moments_two_pass)(const void *, int64_t, double *, double *);
void BN_NAME(moments_cl)(const bn_span *, double *, double *, void *);
void BN_NAME(reduce_add)(bn_sums *, const bn_run *);
void BN_NAME(reduce_end)(bn_sums *, int64_t, double *, double *);
void BN_NAME(reduce_cl)(const bn_span *, double *, double *, void *);
void BN_NAME(normalise)(const bn_span *);
void BN_NAME(input_grad)(const bn_span *);
void BN_NAME(merge_moments)(const bn_parts *, double *, double *);
void BN_NAME(merge_sums)(const bn_parts *, const void *, int64_t, double *, double *);
void BN_NAME(coefs_forward)(void *, int64_t, int64_t, const double *, const double *, double, const double *,
                            const double *);
void BN_NAME(coefs_backward)(void *, int64_t, int64_t, const double *, const double *, double);
void BN_NAME(coefs_tile)(void *, int64_t, const void *, int64_t, int, int64_t, int64_t, int64_t, int64_t);
void BN_NAME(stream_copy)(const bn_span *);
void BN_NAME(stream_triad)(const bn_span *);

const bn_kernels BN_NAME(kernels) = {
    .itemsize = sizeof(T),
    .arithsize = sizeof(A),
    .moments_begin = BN_NAME(moments_begin),
    .moments_add = BN_NAME(moments_add),
    .moments_end = BN_NAME(moments_end),
    .moments_two_pass = BN_NAME(moments_two_pass),
    .moments_cl = BN_NAME(moments_cl),
    .reduce_add = BN_NAME(reduce_add),
    .reduce_end = BN_NAME(reduce_end),
    .reduce_cl = BN_NAME(reduce_cl),
    .normalise = BN_NAME(normalise),
    .input_grad = BN_NAME(input_grad),
    .merge_moments = BN_NAME(merge_moments),
    .merge_sums = BN_NAME(merge_sums),
    .coefs_forward = BN_NAME(coefs_forward),
    .coefs_backward = BN_NAME(coefs_backward),
    .coefs_tile = BN_NAME(coefs_tile),
    .stream_copy = BN_NAME(stream_copy),
    .stream_triad = BN_NAME(stream_triad),
};
