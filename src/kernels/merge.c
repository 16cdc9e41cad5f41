/* The results of a channel's blocks to those of the channel, in the order of the blocks, in float64 (kernels.h).
 *
 * Many channels at a time, which the compiler takes as vectors: for the narrowest data there are as many channels as
 * elements. Reads 16 bytes for each block and channel, writes 16 for each channel.
 */
#include "../simd/storage.h"

#include "kernels.h"

#define CHANNEL INLINE
#include "../formulas.h"

#define STRIP 64 /* channels whose sums lie on the stack */

INLINE int64_t block_length(const bn_parts *p, int64_t k)
{
    const int64_t left = p->count - k * BN_BLOCK;
    return left < BN_BLOCK ? left : BN_BLOCK;
}

/* n <= STRIP channels, `step` numbers apart. Chan's formula about the first block's mean, so that a constant stays
 * exact. */
INLINE void moments_of_strip(const bn_parts *p, const double *restrict a, const double *restrict b, int64_t step,
                             int64_t n, double *restrict mean, double *restrict var)
{
    const double count = (double)p->count;
    double shift[STRIP] = {0}, sum[STRIP] = {0}, m2[STRIP] = {0};
    for (int64_t k = 0; k < p->blocks; k++) {
        const double m = (double)block_length(p, k), *restrict of_block = a + k * p->next_block;
        for (int64_t c = 0; c < n; c++) shift[c] += m * (of_block[c * step] - a[c * step]);
        for (int64_t c = 0; c < n; c++) sum[c] += m * of_block[c * step];
    }
    for (int64_t c = 0; c < n; c++) shift[c] /= count;
    for (int64_t k = 0; k < p->blocks; k++) {
        const double m = (double)block_length(p, k), *restrict of_block = a + k * p->next_block;
        const double *restrict m2_of_block = b + k * p->next_block;
        for (int64_t c = 0; c < n; c++) {
            const double d = (of_block[c * step] - a[c * step]) - shift[c];
            m2[c] += m2_of_block[c * step] + m * (d * d);
        }
    }
    for (int64_t c = 0; c < n; c++) {
        const double whole = a[c * step] + shift[c], plain = sum[c] / count; /* Inf and NaN as a plain sum has them */
        mean[c] = fabs(whole) <= 0x1.fffffffffffffp1023 ? whole : plain;
        var[c] = m2[c] / count;
    }
}

void BN_NAME(merge_moments)(const bn_parts *p, double *mean, double *var)
{
    for (int64_t c = 0; c < p->channels; c += STRIP) {
        const int64_t n = p->channels - c < STRIP ? p->channels - c : STRIP;
        const double *a = p->a + c * p->next_channel, *b = p->b + c * p->next_channel;
        if (p->next_channel == 1) moments_of_strip(p, a, b, 1, n, mean + c, var + c);
        else moments_of_strip(p, a, b, p->next_channel, n, mean + c, var + c);
    }
}

INLINE void sums_of_strip(const bn_parts *p, const double *restrict a, int64_t step, int64_t n, double *restrict sum)
{
    for (int64_t c = 0; c < n; c++) sum[c] = 0;
    for (int64_t k = 0; k < p->blocks; k++)
        for (int64_t c = 0; c < n; c++) sum[c] += a[k * p->next_block + c * step];
}

/* Kernels sum g * (d * invstd); the offset makes sum g * xhat of it (formulas.h). */
void BN_NAME(merge_sums)(const bn_parts *p, const void *coef, int64_t cs, double *sum_dy, double *sum_dy_xhat)
{
    const A *offset = (const A *)coef + BN_OFFSET * cs;
    for (int64_t c = 0; c < p->channels; c += STRIP) {
        const int64_t n = p->channels - c < STRIP ? p->channels - c : STRIP;
        const double *a = p->a + c * p->next_channel, *b = p->b + c * p->next_channel;
        double *restrict sum_a = sum_dy + c, *restrict sum_b = sum_dy_xhat + c;
        const A *restrict offsets = offset + c;
        if (p->next_channel == 1) sums_of_strip(p, a, 1, n, sum_a), sums_of_strip(p, b, 1, n, sum_b);
        else sums_of_strip(p, a, p->next_channel, n, sum_a), sums_of_strip(p, b, p->next_channel, n, sum_b);
        for (int64_t i = 0; i < n; i++) sum_b[i] = less_offset(sum_b[i], offsets + i, sum_a[i]);
    }
}
