/* Tables of coefficients, from float64 values for each channel. */
#include "../simd/storage.h"

#include "kernels.h"

#define CHANNEL INLINE
#include "../formulas.h"

/* The rows as pointers of their own, and no branches: square roots and divisions are taken several at a time. */
void BN_NAME(coefs_forward)(void *coef, int64_t cs, int64_t n, const double *restrict mean, const double *restrict var,
                            double eps, const double *restrict weight, const double *restrict bias)
{
    A *restrict hi = (A *)coef + BN_MEAN_HI * cs, *restrict scale = (A *)coef + BN_SCALE * cs;
    A *restrict shift = (A *)coef + BN_SHIFT * cs, *restrict invstd = (A *)coef + BN_INVSTD * cs;
    A *restrict offset = (A *)coef + BN_OFFSET * cs;
    for (int64_t c = 0; c < n; c++)
        forward_coefs(mean[c], var[c], eps, weight[c], bias[c], hi + c, scale + c, shift + c, invstd + c, offset + c);
}

void BN_NAME(coefs_backward)(void *coef, int64_t cs, int64_t n, const double *restrict sum_dy,
                             const double *restrict sum_dy_xhat, double count)
{
    const A *restrict invstd = (const A *)coef + BN_INVSTD * cs, *restrict offset = (const A *)coef + BN_OFFSET * cs;
    A *restrict mean_dy = (A *)coef + BN_MEAN_DY * cs, *restrict slope = (A *)coef + BN_SLOPE * cs;
    for (int64_t c = 0; c < n; c++)
        backward_coefs(sum_dy[c], sum_dy_xhat[c], count, invstd + c, offset + c, mean_dy + c, slope + c);
}

void BN_NAME(coefs_tile)(void *tile, int64_t ts, const void *coef, int64_t cs, int rows, int64_t c, int64_t channels,
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
