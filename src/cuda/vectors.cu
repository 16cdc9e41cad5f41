/* Arithmetic on one number for each channel: the running update, and casts. In float64, rounded once; any strides.
 *
 * Args as in a pass: mean is what is written, var is `value`, eps is momentum, count is scale.
 */
#include "formulas.cuh"
#include "storage.cuh"

DEVICE void put(const Vector &v, long long c, double value)
{
    const long long i = c * v.stride;
    void *to = (void *)v.data;
    switch (v.type) {
    case BN_F32: ((float *)to)[i] = (float)value; break;
    case BN_F64: ((double *)to)[i] = value; break;
    case BN_F16: ((unsigned short *)to)[i] = float16::store(double_to_odd(value)); break;
    case BN_BF16: ((unsigned short *)to)[i] = bfloat16::store(double_to_odd(value)); break;
    }
}

/* running = (1 - momentum) * running + momentum * (value * scale) */
extern "C" __global__ void __launch_bounds__(BN_THREADS) bn_ema_update(const Args a)
{
    const long long c = (long long)blockIdx.x * BN_THREADS + threadIdx.x;
    if (c < a.channels) put(a.mean, c, ema(element(a.mean, c, 0), element(a.var, c, 0), a.eps, a.count));
}

extern "C" __global__ void __launch_bounds__(BN_THREADS) bn_cast(const Args a)
{
    const long long c = (long long)blockIdx.x * BN_THREADS + threadIdx.x;
    if (c < a.channels) put(a.mean, c, element(a.var, c, 0));
}
