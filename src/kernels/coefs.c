/* Coefficients from float64 per-channel values, and the table of this (storage type, level).
 *
 * Square root and division are exact to half a unit in the last place on every processor, so coefficients are the
 * same on every level.
 */
#include <float.h>

#include "vec.h"

#define MOST (sizeof(A) == 4 ? (double)FLT_MAX : DBL_MAX)

/* One NaN for all, whose lower half is zero: bfloat16's store relies on that (vec_half.h). */
static inline A narrow(double v) { return v != v ? (A)NAN : (A)v; }

/* A finite number stays finite: a tiny eps must not turn 0 * scale into NaN. */
static inline A within(double v)
{
    const double near = fabs(v) > MOST ? copysign(MOST, v) : v;
    return narrow(fabs(v) == INFINITY ? v : near);
}

/* Without branches, so that square roots and divisions are taken several at a time. */
static void coefs_forward(void *coef, int64_t cs, int64_t n, const double *restrict mean, const double *restrict var, double eps,
                         const double *restrict weight, const double *restrict bias)
{
    A *restrict hi = (A *)coef + BN_MEAN_HI * cs, *restrict lo = (A *)coef + BN_MEAN_LO * cs;
    A *restrict scale = (A *)coef + BN_SCALE * cs, *restrict shift = (A *)coef + BN_BIAS * cs;
    A *restrict inverse = (A *)coef + BN_INVSTD * cs;
    for (int64_t c = 0; c < n; c++) {
        const double invstd = 1.0 / sqrt(var[c] + eps);
        const A mean_hi = narrow(mean[c]);
        const double rest = mean[c] - (double)mean_hi;
        hi[c] = mean_hi;
        lo[c] = (A)(fabs((double)mean_hi) <= MOST ? rest : 0.0);
        scale[c] = within(weight[c] * invstd);
        shift[c] = narrow(bias[c]);
        inverse[c] = within(invstd);
    }
}

static void coefs_backward(void *coef, int64_t cs, int64_t n, const double *sum_dy, const double *sum_dy_xhat, double count)
{
    A *dy = (A *)coef + BN_MEAN_DY * cs, *dy_xhat = (A *)coef + BN_MEAN_DY_XHAT * cs;
    for (int64_t c = 0; c < n; c++) dy[c] = narrow(sum_dy[c] / count), dy_xhat[c] = narrow(sum_dy_xhat[c] / count);
}

static void coefs_tile(void *tile, int64_t ts, const void *coef, int64_t cs, int rows, int64_t c, int64_t channels,
                      int64_t repeat, int64_t times)
{
    const int64_t n = channels * repeat;
    for (int k = 0; k < rows; k++) {
        const A *from = (const A *)coef + k * cs + c;
        A *to = (A *)tile + k * ts;
        if (repeat == 1) memcpy(to, from, channels * sizeof(A));
        else
            for (int64_t i = 0; i < channels; i++)
                for (int64_t j = 0; j < repeat; j++) to[i * repeat + j] = from[i];
        for (int64_t done = n; done < n * times; done *= 2) /* each copy doubles what there is */
            memcpy(to + done, to, (done < n * times - done ? done : n * times - done) * sizeof(A));
    }
}

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
    .coefs_forward = coefs_forward,
    .coefs_backward = coefs_backward,
    .coefs_tile = coefs_tile,
    .stream_copy = BN_NAME(stream_copy),
    .stream_triad = BN_NAME(stream_triad),
};
