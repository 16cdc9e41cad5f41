/* Coefficients from float64 per-channel values, and the table of this (storage type, level).
 *
 * Square root and division are exact to half a unit in the last place on every processor, so coefficients are the
 * same on every level.
 */
#include <float.h>

#include "vec.h"

/* A finite number stays finite: a tiny eps must not turn 0 * scale into NaN. */
static A within(double v)
{
    const double most = sizeof(A) == 4 ? FLT_MAX : DBL_MAX;
    return (A)(isfinite(v) && fabs(v) > most ? copysign(most, v) : v);
}

static void coef_forward(void *coef, int64_t cs, int64_t c, double mean, double var, double eps, double weight, double bias)
{
    A *k = (A *)coef + c;
    double invstd = 1.0 / sqrt(var + eps);
    A hi = (A)mean;
    k[BN_MEAN_HI * cs] = hi;
    k[BN_MEAN_LO * cs] = isfinite(hi) ? (A)(mean - (double)hi) : (A)0;
    k[BN_SCALE * cs] = within(weight * invstd);
    k[BN_BIAS * cs] = (A)bias;
    k[BN_INVSTD * cs] = within(invstd);
}

static void coef_backward(void *coef, int64_t cs, int64_t c, double mean_dy, double mean_dy_xhat)
{
    A *k = (A *)coef + c;
    k[BN_DY * cs] = (A)mean_dy;
    k[BN_DY_XHAT * cs] = (A)mean_dy_xhat;
}

static void coef_tile(void *tile, int64_t ts, const void *coef, int64_t cs, int rows, int64_t c, int64_t channels,
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

void BN_NAME(stats_begin)(bn_sums *, const void *, int64_t);
void BN_NAME(stats_add)(bn_sums *, const bn_run_of *);
int BN_NAME(stats_end)(bn_sums *, int64_t, double *, double *);
void BN_NAME(stats_again)(const void *, int64_t, double *, double *);
void BN_NAME(stats_cl)(const bn_span *, double *, double *, void *);
void BN_NAME(reduce_add)(bn_sums *, const bn_run_of *);
void BN_NAME(reduce_end)(bn_sums *, int64_t, double *, double *);
void BN_NAME(reduce_cl)(const bn_span *, double *, double *, void *);
void BN_NAME(apply)(const bn_span *);
void BN_NAME(input_grad)(const bn_span *);
void BN_NAME(copy)(const bn_span *);
void BN_NAME(triad)(const bn_span *);

const bn_kernels BN_NAME(kernels) = {
    .itemsize = sizeof(T),
    .arithsize = sizeof(A),
    .stats_begin = BN_NAME(stats_begin),
    .stats_add = BN_NAME(stats_add),
    .stats_end = BN_NAME(stats_end),
    .stats_again = BN_NAME(stats_again),
    .stats_cl = BN_NAME(stats_cl),
    .reduce_add = BN_NAME(reduce_add),
    .reduce_end = BN_NAME(reduce_end),
    .reduce_cl = BN_NAME(reduce_cl),
    .apply = BN_NAME(apply),
    .input_grad = BN_NAME(input_grad),
    .coef_forward = coef_forward,
    .coef_backward = coef_backward,
    .coef_tile = coef_tile,
    .copy = BN_NAME(copy),
    .triad = BN_NAME(triad),
};
